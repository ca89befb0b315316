"""Everything in Redis is written by somebody: nothing of it is executed, rendered, or allowed to stop the loop."""

import ast
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from quantum_assets.checks.evidence import PACKAGES
from quantum_core.contracts.reading import ENTRY_BYTES_MAX, VALUE_BYTES_MAX, printable
from quantum_core.logs import OneLine
from quantum_ops.cli import cli
from quantum_ops.desk import banner, webserver
from quantum_ops.desk import pages as desk_pages
from quantum_ops.desk.history import History
from quantum_ops.desk.overview import DeskReader
from resources.instance.launcher import celery_arguments
from resources.store.failures import record_failures
from resources.store.redis_store import RedisStore
from tests.world import (
    hash_of,
    run_cycle,
    write_plan,
    write_world,
)

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
VICTIM, OTHERS = "ETHUSDT", {"BTCUSDT", "SOLUSDT"}
EXECUTING = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "![x](http://127.0.0.1:9/leak) [click](javascript:window.pwned=1)",
    "\x1b[2J\x1b]0;owned\x07\x1b[31mred",
    "two\nlines\r\nINFO quantum forged line",
    "nul\x00byte",
    "\u202egnp.exe\u2066",
    "x" * 100_000,
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in (*PACKAGES, "quantum_feed"):
        for path in (ROOT / package).rglob("*.py"):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())
    yield "definitions.py", ast.parse((ROOT / "definitions.py").read_text())


def unsafe(tree: ast.Module) -> Iterator[str]:
    """Name what would execute what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in EXECUTING or called in ("os.system", "os.popen") or (called.startswith("yaml.") and "safe" not in called):
            yield called
        shell = [word.value for word in node.keywords if word.arg == "shell"]
        if any(not (isinstance(one, ast.Constant) and one.value is False) for one in shell):
            yield f"{called}(shell=...)"


def test_nothing_of_the_product_executes_what_it_reads() -> None:
    """No eval, no pickle, no YAML with tags, no shell; and the workers take JSON only."""
    found = {name: list(unsafe(tree)) for name, tree in modules()}
    assert len(found) > 80
    assert {name: what for name, what in found.items() if what} == {}
    assert "pickle" not in json.dumps(celery_arguments(webserver.load_settings()), default=str)
    for text in ("eval('1')", "import pickle", "yaml.load(x)", "subprocess.run('x', shell=True)", "from marshal import loads"):
        assert list(unsafe(ast.parse(text))), text


@pytest.fixture
def world(store: RedisStore) -> RedisStore:
    """Three symbols with everything they need."""
    write_world(store)
    return store


def in_position(store: RedisStore, size: int) -> str:
    store.client.hset(store.keys.of("raw_position", VICTIM), "note", b"x" * size)
    return f"larger than {VALUE_BYTES_MAX} bytes"


def many_fields(store: RedisStore, size: int) -> str:
    store.client.hset(store.keys.of("raw_position", VICTIM), mapping={f"f{number}": "x" * 80 for number in range(size)})
    return f"larger than {VALUE_BYTES_MAX} bytes"


def in_candle(store: RedisStore, size: int) -> str:
    opened = int(store.clock().timestamp() * 1000)
    store.client.zadd(store.keys.of("candles_history", VICTIM), {b'{"close":"' + b"1" * size + b'"}': opened})
    return "larger than 2000000 bytes"


def in_execution(store: RedisStore, size: int) -> str:
    store.client.delete(store.keys.of("raw_position", VICTIM))
    store.client.xadd(store.keys.of("stream_execution"), {"symbol": VICTIM, "entry_price": 1, "payload": b"[" * size})
    return f"payload is larger than {ENTRY_BYTES_MAX} bytes"


def nested_deep(store: RedisStore, size: int) -> str:
    store.client.delete(store.keys.of("raw_position", VICTIM))
    store.client.xadd(store.keys.of("stream_execution"), {"symbol": VICTIM, "entry_price": 1, "payload": b"[" * size})
    return "payload: "


def pages_of(store: RedisStore) -> Iterator[str]:
    """Write the banner and the pages of the desk, as a browser gets them."""
    reader = DeskReader(store)
    standing, rows = reader.standing(), reader.rows()
    yield banner.document(banner.parts(standing), "", "n")
    yield desk_pages.overview(standing, rows, "", "n")
    for symbol in SYMBOLS:
        yield desk_pages.symbol_page(reader.symbol(symbol), History(note="a note"), standing, "", "n")


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("spoil", "size"),
    [
        (in_position, VALUE_BYTES_MAX + 1),
        (nested_deep, 60_000),
        pytest.param(in_position, 100_000_000, marks=SLOW),
        pytest.param(many_fields, 100_000, marks=SLOW),
        pytest.param(in_candle, 50_000_000, marks=SLOW),
        pytest.param(in_execution, 10_000_000, marks=SLOW),
    ],
)
def test_what_is_too_large_or_too_deep_fails_its_own_symbol_by_name(
    world: RedisStore, spoil: Callable[[RedisStore, int], str], size: int
) -> None:
    """One bad writer must not take the desk down."""
    why = spoil(world, size)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_cycle(world, instance)
    told = "".join(
        str(event.event_specific_data.metadata.get("failures", ""))  # type: ignore[union-attr]
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.HANDLED_OUTPUT
    )
    assert why in told
    assert VICTIM in told
    for symbol in OTHERS:
        assert hash_of(world, "harvest_proposal", symbol)
        assert symbol not in told


def test_a_plan_of_ten_megabytes_is_refused_and_the_next_one_decided(world: RedisStore) -> None:
    """The stream is open to planners; a plan nobody can read is a block like any other."""
    write_plan(world, "p" * 10_000_000, VICTIM)
    write_plan(world, "good", "BTCUSDT", action="X" * 10_000_000)
    write_plan(world, "better", "BTCUSDT")
    with dg.DagsterInstance.ephemeral() as instance:
        run_cycle(world, instance)
    events = {fields[b"plan_id"]: fields[b"reason"] for _, fields in world.client.xrange(world.keys.of("stream_governor_events"))}
    assert events[b"good"] == b"invalid_plan:action"
    assert b"invalid_plan:plan_id" in events.values()
    assert not events[b"better"].startswith(b"invalid")
    assert max(map(len, events)) < 200


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_only_text_on_every_way_out(world: RedisStore, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Terminal, JSON, log, status banner and pages of the desk: nothing that moves a cursor, forges a line or runs in a browser."""
    monkeypatch.setenv("REDIS_URL", world.settings.url)
    monkeypatch.setenv("QUANTUM_HOME", str(world.settings.quantum_home))
    client, of = world.client, world.keys.of
    event = {
        "event": "BLOCK",
        "granted": "0",
        "plan_id": text,
        "symbol": VICTIM,
        "action": text,
        "reason": text,
        "cycle_id": text,
    }
    client.xadd(of("stream_governor_events"), {**event, "timestamp_epoch": "1769083200", "theta": text, "closing": "1"})
    client.xadd(of("stream_governor_events"), {**event, "plan_id": "known", "sources": text, "timestamp_epoch": "1769083200"})
    client.set(of("guard_active", "DRAWDOWN"), json.dumps({"reason": text, "expires_at": text}))
    client.set(of("disarmed"), json.dumps({"cause": text, "at": text}))
    alert = {"level": text, "since": 0, "title": text, "kind": text, "severity": text, "symbols": [text]}
    client.set(of("alerts_active"), json.dumps([alert]))
    record_failures(world, "position", SYMBOLS, {VICTIM: text}, text)
    client.set(of("banner"), text)
    client.hset(of("market_state", VICTIM), mapping={"sigma": text, "source": text})
    client.hset(of("capital_efficiency", VICTIM), mapping={"efficiency_score": text, "capital_pressure": text})
    client.hset(of("proofs"), text, json.dumps({"passed": False, "severity": text, "observed": text}))
    for command in (
        ["permits"],
        ["explain", "known"],
        ["status"],
        ["alerts", "list"],
        ["watch", "--once"],
        ["watch", "--once", "--json"],
    ):
        done = CliRunner().invoke(cli, command)
        assert done.exception is None or isinstance(done.exception, SystemExit), command
        assert CONTROL.findall(done.output) == [], command
        assert "\nINFO quantum forged" not in done.output
    for page in pages_of(world):
        assert page.count("<script") == 1  # ours
        assert "<img" not in page
        assert CONTROL.findall(page.replace("\n", "")) == []
        assert len(page) < 200_000
    record = logging.LogRecord("quantum", logging.INFO, "", 0, "published %s", (text,), None)
    line = OneLine("%(levelname)s %(message)s").format(record)
    assert "\n" not in line
    assert CONTROL.findall(line) == []


def test_what_is_printable_stays_as_it_is() -> None:
    """Names in any alphabet are names."""
    assert printable("BTCUSDT 币安USDT é ×") == "BTCUSDT 币安USDT é ×"


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE[:3])
def test_no_script_of_a_reason_runs_in_the_report(world: RedisStore, tmp_path: Path, text: str) -> None:
    """The page is filed and opened by people who never saw the key."""
    from playwright.sync_api import sync_playwright

    from quantum_assets.checks.evidence import Evidence
    from quantum_assets.checks.pack import run
    from quantum_ops.report import render
    from tests.browser.test_ui import ARGUMENTS, CHROMIUM

    world.client.hset(world.keys.of("raw_position", VICTIM), mapping={"side": text, "source": text})
    world.client.set(world.keys.of("guard_active", "DRAWDOWN"), json.dumps({"reason": text}))
    with dg.DagsterInstance.ephemeral() as instance:
        run_cycle(world, instance)
        write_plan(world, text, text, action=text)
        verdicts = run(lambda: Evidence(world, instance), look_again_sec=0)
    report = tmp_path / "evidence.html"
    report.write_text(render(verdicts, store=world))
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        asked: list[Any] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_timeout(500)
        assert page.evaluate("window.pwned") is None
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        browser.close()
