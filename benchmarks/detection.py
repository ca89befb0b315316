"""How soon each fault is alerted, and that it is said exactly once: a real stack stopped in parts, real sinks. About 25 minutes.

Workers, sensor daemon and Redis are stopped with SIGSTOP, so that the supervisor does not mend what is to be detected; one symbol
is stopped by a position nobody can read; candles are frozen by writing none. Each fault lasts until it is alerted, and is then
undone. An HTTP and an SMTP sink on loopback receive the alerts through Apprise. ``late`` is the time from the limit of the thing,
counted from its last sign of life, to the alert's arrival: at most 2 s are promised.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import psutil
from aiosmtpd.controller import Controller

from benchmarks.live import Live, World, running
from benchmarks.report import main, say, spread
from tests.servers import free_port

SYMBOLS, REPEATS, REPEATS_IF_SHORT = 3, 5, 1
STALE_MARGIN_SEC = 1  # instead of 300: five frozen feeds would take three quarters of an hour
SETTLED_SEC = 15.0  # after a clear nothing more may come
WITHIN_SEC = 240.0
PROMISED_SEC = 2.0


class Received(NamedTuple):
    """One message: by which sink, when, and its title."""

    sink: str
    when: float
    title: str


@dataclass
class Sinks:
    """What both sinks have received."""

    messages: list[Received] = field(default_factory=list)

    def of(self, event: str, since: float, sink: str) -> list[Received]:
        """List what a sink received since a time; ``raised`` or ``cleared``."""
        words = f"[quantum] {event}:"
        return [one for one in list(self.messages) if one.sink == sink and one.when >= since and words in one.title]

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Take one mail."""
        lines = envelope.content.decode(errors="replace").splitlines()
        title = next((line for line in lines if line.startswith("Subject:")), "")
        self.messages.append(Received("smtp", time.time(), title))
        return "250 OK"


@contextmanager
def sinks() -> Iterator[tuple[Sinks, str]]:
    """Run both sinks; give them with their Apprise addresses."""
    received = Sinks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.messages.append(Received("http", time.time(), body["title"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    mail = Controller(received, hostname="127.0.0.1", port=free_port())
    mail.start()
    addresses = (
        f"json://127.0.0.1:{web.server_address[1]}/",
        f"mailto://127.0.0.1:{mail.port}?from=quantum@example.org&to=desk@example.org&mode=insecure",
    )
    try:
        yield received, ",".join(addresses)
    finally:
        mail.stop()
        web.shutdown()


class Fault(NamedTuple):
    """What is done to the stack, how it is undone, and the limit of the thing that stops."""

    name: str
    limit_sec: Callable[[Live], float]
    last_sign: Callable[[Live], float]
    begin: Callable[[Live], None]
    end: Callable[[Live], None]


def processes(live: Live, words: str) -> list[psutil.Process]:
    """Find processes of the stack by their command line, children of a worker included."""
    return [
        one
        for one in live.family()
        if words in " ".join(one.cmdline()) and "quantum_ops.processes.tether" not in " ".join(one.cmdline())
    ]


def signalled(words: str, number: signal.Signals) -> Callable[[Live], None]:
    """Build what sends a signal to all processes of a part."""
    return lambda live: [one.send_signal(number) for one in processes(live, words)] and None


def heartbeat(part: str) -> Callable[[Live], float]:
    """Build what reads when a part was last heard of."""
    return lambda live: float(live.store.client.get(live.store.keys.of("heartbeat", part)) or 0)


def victim(live: Live) -> str:
    """Name the symbol that is stopped."""
    return live.world.symbols[1]


def stop_symbol(live: Live) -> None:
    """Put something nobody can read in the place of a position."""
    live.world.muted.add(victim(live))
    key = live.store.keys.of("raw_position", victim(live))
    live.store.client.delete(key)
    live.store.client.set(key, "not a hash")


def start_symbol(live: Live) -> None:
    """Take it away again."""
    live.store.client.delete(live.store.keys.of("raw_position", victim(live)))
    live.world.muted.clear()
    live.world.move()


def last_evaluation(live: Live) -> float:
    """Read when the victim's stop was last evaluated."""
    return float(live.store.client.hget(live.store.keys.of("risk_proposal", victim(live)), "last_update_epoch") or 0)


def newest_candle(live: Live) -> float:
    """Read when the newest candle of the victim closed."""
    (_, score), *_ = live.store.client.zrevrange(live.store.keys.of("candles_history", victim(live)), 0, 0, withscores=True)
    return float(score) / 1000 + 60


def freeze(live: Live) -> None:
    """Write no candle any more."""
    live.world.frozen = True


def thaw(live: Live) -> None:
    """Write candles again, at once."""
    live.world.frozen = False
    live.world.renew(int(time.time() * 1000))


FAULTS = (
    Fault(
        "dead worker",
        lambda live: live.store.settings.worker_max_silence_sec,
        heartbeat("worker"),
        signalled("quantum_ops.processes.warm_worker", signal.SIGSTOP),
        signalled("quantum_ops.processes.warm_worker", signal.SIGCONT),
    ),
    Fault(
        "dead daemon",
        lambda live: live.store.settings.daemon_max_silence_sec,
        heartbeat("daemon"),
        signalled("resources.instance.sensor_daemon", signal.SIGSTOP),
        signalled("resources.instance.sensor_daemon", signal.SIGCONT),
    ),
    Fault(
        "dead Redis",
        lambda live: live.store.settings.redis_max_silence_sec,
        lambda _: time.time(),
        lambda live: live.server.suspend(),
        lambda live: live.server.resume(),
    ),
    Fault("stopped symbol", lambda live: live.store.settings.proposal_max_age_sec, last_evaluation, stop_symbol, start_symbol),
    Fault(
        "frozen candles",
        lambda live: 2 * live.store.settings.candle_interval_sec + STALE_MARGIN_SEC,
        newest_candle,
        freeze,
        thaw,
    ),
)


def wait_for(what: str, check: Callable[[], Any]) -> Any:
    """Wait for a true answer.

    Raises
    ------
    TimeoutError
        None came.
    """
    deadline = time.monotonic() + WITHIN_SEC
    while not (answer := check()):
        if time.monotonic() > deadline:
            msg = f"waited {WITHIN_SEC:.0f} s for {what}"
            raise TimeoutError(msg)
        time.sleep(0.1)
    return answer


def measure(*, short: bool) -> dict[str, Any]:
    """Bring about every fault, again and again."""
    repeats = REPEATS_IF_SHORT if short else REPEATS
    World.calm = True
    with sinks() as (received, addresses):
        settings = {"alert_urls": addresses, "candle_stale_margin_sec": STALE_MARGIN_SEC, "watch_port": free_port()}
        with running("product", SYMBOLS, **settings) as live:
            live.look(2, 180)
            wait_for("the first proofs", lambda: live.store.client.hget(live.store.keys.of("proofs"), "_run"))
            time.sleep(SETTLED_SEC)
            before = list(received.messages)
            trials = [one_trial(live, received, fault) for fault in FAULTS for _ in range(repeats)]
    late = [trial["late_sec"] for trial in trials]
    return {
        "repeats": repeats,
        "alerts_before_any_fault": [one.title for one in before],
        "faults": {fault.name: summary([one for one in trials if one["fault"] == fault.name]) for fault in FAULTS},
        "latest_sec": max(late),
        "promised_sec": PROMISED_SEC,
        "within_promise": max(late) <= PROMISED_SEC,
        "trials": trials,
    }


def one_trial(live: Live, received: Sinks, fault: Fault) -> dict[str, Any]:
    """Bring one fault about, wait for its alert, undo it, wait for the clear, and count what came."""
    began = time.time()
    last = fault.last_sign(live)
    fault.begin(live)
    if fault.name != "dead Redis":
        last = fault.last_sign(live)  # it may have given one more sign meanwhile
    try:
        raised = wait_for(f"the alert of a {fault.name}", lambda: received.of("raised", began, "http"))[0]
    finally:
        undone = time.time()
        fault.end(live)
    cleared = wait_for(f"the end of a {fault.name}", lambda: received.of("cleared", began, "http"))[0]
    time.sleep(SETTLED_SEC)
    counts = {
        f"{event} {sink}": len(received.of(event, began, sink)) for event in ("raised", "cleared") for sink in ("http", "smtp")
    }
    trial = {
        "fault": fault.name,
        "to_alert_sec": round(raised.when - began, 1),
        "late_sec": round(raised.when - last - fault.limit_sec(live), 1),
        "to_clear_sec": round(cleared.when - undone, 1),
        "titles": [one.title for one in received.messages if one.when >= began and one.sink == "http"],
        **counts,
    }
    say(str(trial))
    return trial


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the trials of one fault."""
    counts = [name for name in trials[0] if name.startswith(("raised", "cleared"))]
    return {
        "trials": len(trials),
        **{name: spread((one[name] for one in trials), 1) for name in ("to_alert_sec", "late_sec", "to_clear_sec")},
        "exactly_one_raise_and_clear": all(one[name] == 1 for one in trials for name in counts),
    }


if __name__ == "__main__":
    main("detection", __doc__, measure)
