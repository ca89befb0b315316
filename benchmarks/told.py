"""How soon it is said: a dead symbol on Dagster's own pages, what happens to trading as an alert and in the banner.

About 15 minutes. A real stack of three symbols, asked through its own web server as a browser does, with an HTTP and an SMTP
sink for the alerts. Of one symbol all candles are deleted, and written again once every page shows it. Then a stop is crossed,
the kill switch set, the equity goes stale, the governor disarms itself and a close is refused; each is undone by whoever may.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.detection import SETTLED_SEC, Sinks, sinks, wait_for
from benchmarks.live import PROJECT, Live, World, running
from benchmarks.report import main, say, spread
from tests.servers import free_port
from tests.world import write_plan

SYMBOLS, REPEATS, REPEATS_IF_SHORT = 3, 3, 1
PROMISED_SEC, GREEN_SEC, LASTS_SEC = 12.0, 20.0, 90.0
CHECKS = "{assetChecksOrError{... on AssetChecks{checks{name executionForLatestMaterialization{status evaluation{success}}}}}}"
ASKED = 'query {{assetNodeOrError(assetKey:{{path:["{asset}"]}}){{... on AssetNode {fields}}}}}'


class Page:
    """The web server of a stack."""

    def __init__(self, live: Live) -> None:
        words = live.root.cmdline()
        self.url = f"http://127.0.0.1:{words[words.index('--port') + 1]}"

    def banner(self) -> str:
        """Read the banner, as every page does."""
        with urllib.request.urlopen(f"{self.url}/banner", timeout=10) as answer:  # noqa: S310 - our own address
            return str(answer.read().decode())

    def asset(self, asset: str, fields: str) -> Any:
        """Ask what the page of an asset asks."""
        body = json.dumps({"query": ASKED.format(asset=asset, fields=fields)}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return json.loads(answer.read())["data"]["assetNodeOrError"]

    def failed_partitions(self, asset: str) -> int:
        """Count them."""
        return int(self.asset(asset, "{partitionStats{numFailed}}")["partitionStats"]["numFailed"])

    def holds(self, asset: str, check: str) -> bool:
        """Tell whether the last evaluation of a check was a success."""
        checks = self.asset(asset, CHECKS)["assetChecksOrError"]["checks"]
        (last,) = [one["executionForLatestMaterialization"] for one in checks if one["name"] == check]
        return bool(last and last["evaluation"] and last["evaluation"]["success"])


class Event(NamedTuple):
    """Something an operator must know: what does it to the symbol of a row, what undoes it, and a word of the banner."""

    name: str
    begin: Callable[[Live, int], None]
    end: Callable[[Live, int], None]
    word: str
    lasts: bool = False  # nobody can undo it: it ends by itself, later
    once: bool = False  # it concerns no symbol, and whatever comes back within ten minutes is the same alert


def quantum(live: Live, *words: str) -> None:
    """Run a command beside the stack."""
    environment = {**live.root.environ()}
    subprocess.run(
        [sys.executable, "-m", "quantum_ops.cli", *words], env=environment, cwd=PROJECT, check=True, capture_output=True
    )


def lose(live: Live, row: int, loss_share: float) -> None:
    """Write one symbol's position, its mark moved against it by a share; others are left to the world."""
    row %= SYMBOLS
    world, symbol = live.world, live.world.symbols[row]
    world.muted.add(symbol)
    side = world.side(row)
    mark, entry = float(world.base[row] * (1 - loss_share if side == "LONG" else 1 + loss_share)), float(world.entry[row])
    fields = {"symbol": symbol, "side": side, "quantity": 1, "entry_price": entry, "mark_price": mark}
    live.store.client.hset(live.store.keys.of("raw_position", symbol), mapping={**fields, "ts_epoch": time.time()})


def account(live: Live, age_sec: int) -> None:
    """Let the account be so old, now and whenever it is renewed."""
    live.world.account_age_sec = age_sec
    live.world.renew(int(time.time() * 1000))


def plans(live: Live, action: str, row: int) -> None:
    """Ask for more plans of one symbol at once than five minutes allow."""
    symbol = live.world.symbols[row % SYMBOLS]
    for _ in range(live.store.settings.gov_max_exec_per_5min + 1):
        write_plan(live.store, f"{action}-{time.time_ns()}", symbol, action, qty=0.01, price=1.0)


def arm(live: Live, _: int) -> None:
    """Let a named person arm the governor."""
    quantum(live, "arm", "--name", "Ada", "--reason", "benchmark")


def unmute(live: Live, row: int) -> None:
    """Leave the position to the world again, whose mark has not moved."""
    live.world.muted.discard(live.world.symbols[row % SYMBOLS])
    live.world.move()


EVENTS = (
    Event("stop crossed", lambda live, row: lose(live, row, 0.03), unmute, "crossed"),
    Event("kill switch", lambda live, _: quantum(live, "kill", "--name", "Ada", "--reason", "benchmark"), arm, "kill switch"),
    Event("guard", lambda live, _: account(live, 400), lambda live, _: account(live, 0), "equity", once=True),
    Event("disarm", lambda live, row: plans(live, "OPEN", row), arm, "disarmed"),
    Event("close refused", lambda live, row: plans(live, "CLOSE", row), arm, "refused", lasts=True),
)


def measure(*, short: bool) -> dict[str, Any]:
    """Bring about all of it, again and again."""
    World.calm = True
    with sinks() as (received, addresses), running("product", SYMBOLS, alert_urls=addresses, watch_port=free_port()) as live:
        live.look(3, 180)
        page = Page(live)
        wait_for("the first proofs", lambda: live.store.client.hget(live.store.keys.of("proofs"), "_run"))
        wait_for("green checks", lambda: page.holds("market_state", "fresh") and page.holds("candles", "usable"))
        time.sleep(SETTLED_SEC)
        before = [one.title for one in received.messages]
        dead = dead_symbol(live, page, received)
        repeats = range(REPEATS_IF_SHORT if short else REPEATS)
        events = [
            happening(live, page, received, event, row) for event in EVENTS for row in repeats if row == 0 or not event.once
        ]
    latest = max(one[name] for one in events for name in ("alert_sec", "banner_sec"))
    return {
        "alerts_before": before,
        "dead_symbol": dead,
        "events": events,
        "alert_sec": spread((one["alert_sec"] for one in events), 1),
        "banner_sec": spread((one["banner_sec"] for one in events), 1),
        "reached": latest <= PROMISED_SEC and dead["green_sec"] <= GREEN_SEC,
    }


def dead_symbol(live: Live, page: Page, received: Sinks) -> dict[str, Any]:
    """Delete the candles of one symbol, time what shows it, write them again, and time until all is green."""
    symbol, began = live.world.symbols[0], time.time()
    live.world.kill([symbol])
    shown = {
        "partition failed": lambda: page.failed_partitions("market_state") == 1,
        "proposal's partition failed": lambda: page.failed_partitions("risk_proposal") == 1,
        "input not usable": lambda: not page.holds("candles", "usable"),
        "alert": lambda: bool(received.of("raised", began, "http")),
        "banner": lambda: symbol in page.banner(),
        "badge of market_state": lambda: not page.holds("market_state", "fresh"),
        "badge of risk_proposal": lambda: not page.holds("risk_proposal", "fresh"),
    }
    seconds = first_times(shown, began)
    time.sleep(max(0.0, LASTS_SEC - (time.time() - began)))  # what gets better is shown once a minute at most
    others = {asset: page.failed_partitions(asset) for asset in ("market_state", "risk_proposal")}
    undone = time.time()
    live.world.dead.clear()
    live.world.backfill(0, int(time.time() * 1000), float(live.world.base[0]))
    green = {
        "partitions": lambda: page.failed_partitions("market_state") == page.failed_partitions("risk_proposal") == 0,
        "input": lambda: page.holds("candles", "usable"),
        "badges": lambda: page.holds("market_state", "fresh") and page.holds("risk_proposal", "fresh"),
        "alert cleared": lambda: bool(received.of("cleared", began, "http")),
    }
    back = first_times(green, undone)
    time.sleep(SETTLED_SEC)
    pages = max(seconds_ for name, seconds_ in back.items() if name != "alert cleared")
    titles = [one.title for one in received.messages if one.when >= began and one.sink == "http"]
    told = {"shown_sec": seconds, "failed_partitions": others, "back_sec": back, "green_sec": pages, "titles": titles}
    say(str(told))
    return told


def first_times(questions: dict[str, Callable[[], bool]], began: float) -> dict[str, float]:
    """Time when each question is first answered with yes."""
    seconds: dict[str, float] = {}

    def all_answered() -> bool:
        for name, asked in questions.items():
            if name not in seconds and asked():
                seconds[name] = round(time.time() - began, 1)
        return len(seconds) == len(questions)

    wait_for(", ".join(questions), all_answered)
    return seconds


def happening(live: Live, page: Page, received: Sinks, event: Event, row: int) -> dict[str, Any]:
    """Bring one event about, time alert and banner, undo it, and count what came."""
    began = time.time()
    event.begin(live, row)
    shown = {
        "alert": lambda: bool(received.of("raised", began, "http")),
        "banner": lambda: event.word.lower() in page.banner().lower(),
    }
    try:
        seconds = first_times(shown, began)
    finally:
        event.end(live, row)
    if not event.lasts:
        wait_for("its end", lambda: received.of("cleared", began, "http"))
    time.sleep(SETTLED_SEC)
    figures = {
        "event": event.name,
        "alert_sec": seconds["alert"],
        "banner_sec": seconds["banner"],
        "titles": [one.title for one in received.messages if one.when >= began and one.sink == "http"],
        **{f"{what} {sink}": len(received.of(what, began, sink)) for what in ("raised", "cleared") for sink in ("http", "smtp")},
    }
    say(str(figures))
    return figures


if __name__ == "__main__":
    main("told", __doc__, measure)
