"""``quantum status``: the verdict, the first cause of what is not fresh, and what is missing told apart from what is not due."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import dagster as dg
import pytest
from click.testing import CliRunner

from quantum_core.contracts.tables import HARVEST_PROPOSAL, MARKET_STATE, POSITION, RISK_GUARD
from quantum_core.settings import load_settings
from quantum_ops.cli.desk.status import read_report, status, verdict
from quantum_ops.desk.overview import DeskReader
from resources.governor.switches import disarm, kill
from resources.store.failures import record_failures
from resources.store.redis_store import RedisStore
from tests.governor.desk import Desk
from tests.world import real_closes, run_cycle, write_candles, write_efficiency, write_position, write_target, write_world

SYMBOL = "SOLUSDT"


@pytest.mark.slow
@pytest.mark.parametrize(("removed", "code"), [(False, 0), (True, 1)])
def test_nothing_intended_is_no_trouble_and_a_memory_that_is_gone_is(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch, *, removed: bool, code: int
) -> None:
    """Most positions ask for nothing most of the time."""
    store = RedisStore(load_settings(redis_url=valkey_url, symbols=SYMBOL), lambda: datetime.now(UTC))
    store.client.flushdb()
    closes = real_closes(SYMBOL, 400)  # a trend: nothing is proposed
    write_candles(store, SYMBOL, closes)
    write_position(store, SYMBOL, entry=closes[-1], mark=closes[-1])
    write_target(store, SYMBOL)
    write_efficiency(store, SYMBOL)
    with dg.instance_for_test() as instance:
        run_cycle(store, instance)
    if removed:
        store.client.delete(store.keys.of("trade_intent_last", SYMBOL))
    store.client.close()
    monkeypatch.setenv("REDIS_URL", valkey_url)
    done = CliRunner().invoke(status, ["--symbols", SYMBOL, "--json"])
    assert done.exit_code == code, done.output
    assert '"asset": "trade_intent"' in done.output
    assert ('"harvest_action": "NONE"' in done.output) or removed


def ready(store: RedisStore) -> Desk:
    desk = Desk(store)
    for symbol in store.settings.symbols:
        desk.ready(symbol)
    desk.guard()
    return desk


@pytest.fixture
def desk(make_store, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Three symbols whose state and proposals are fresh by the real clock, which is the only one a command has."""
    store = make_store(symbols="BTCUSDT,ETHUSDT,SOLUSDT")
    store.clock = lambda: datetime.now(UTC)
    monkeypatch.setenv("REDIS_URL", valkey_url)
    return ready(store)


def only_of_the_desk(report):
    """Leave out what a desk does not publish."""
    assets = {table.asset for table in (MARKET_STATE, POSITION, HARVEST_PROPOSAL, RISK_GUARD)}
    return [row for row in report.wrong if row["asset"] in assets]


def test_the_verdict_names_who_blocks_openings_and_why(desk: Desk) -> None:
    """The first line answers the first question."""
    assert verdict(read_report(desk.store)).startswith("armed | ")
    kill(desk.store, reason="exchange reports wrong prices", by="Ada")
    desk.store.client.set(desk.store.keys.of("alerts_active"), json.dumps([{"title": "kill switch set"}]))
    line = verdict(read_report(desk.store))
    assert line.startswith("blocked: kill switch: exchange reports wrong prices (set by Ada)")
    assert line.endswith(" | 1 alert")
    ending = {"title": "ETHUSDT: well since 12:00 UTC", "well_since": 1.0}
    desk.store.client.set(desk.store.keys.of("alerts_active"), json.dumps([ending]))
    assert verdict(read_report(desk.store)).endswith(" | no alerts")
    disarm(desk.store, "burst_limit_exceeded: plan p1")
    assert "governor disarmed: burst_limit_exceeded: plan p1" in verdict(read_report(desk.store))


def test_a_guard_and_an_unknown_guard_block_and_a_silent_watcher_is_no_good_news(desk: Desk) -> None:
    """Neither absence may read as "armed" or "no alerts"."""
    assert "alerts unknown" in verdict(read_report(desk.store))
    desk.guard(status="blocked", triggered=["EQUITY_STALE"])
    assert verdict(read_report(desk.store)).startswith("blocked: risk guard EQUITY_STALE")
    desk.store.client.delete(desk.store.keys.of(RISK_GUARD.key))
    assert verdict(read_report(desk.store)).startswith("blocked: unknown: risk_guard_missing")


def test_a_symbol_whose_state_fails_is_not_present_although_its_old_hash_lives(desk: Desk) -> None:
    """The hash is two minutes old and within its limit; nothing renews it."""
    assert not only_of_the_desk(read_report(desk.store))
    record_failures(desk.store, "market_state", ["BTCUSDT", "ETHUSDT"], {"ETHUSDT": "candles_missing: no key"}, "c1")
    report = read_report(desk.store)
    (row,) = only_of_the_desk(report)
    assert (row["asset"], row["symbol"], row["state"]) == ("market_state", "ETHUSDT", "failed")
    assert row["why"].startswith("no candles (no key); cannot be computed for ")
    shown = CliRunner().invoke(status, [])
    (line,) = [line for line in shown.output.splitlines() if "ETHUSDT" in line]
    assert "market state: no candles (no key)" in line
    assert shown.exit_code == 1
    record_failures(desk.store, "market_state", ["ETHUSDT"], {}, "c2")
    assert not only_of_the_desk(read_report(desk.store))


def test_the_why_of_a_symbol_is_the_first_cause_and_not_what_follows_from_it(desk: Desk) -> None:
    """A state that fails lets proposals fail: the cause is shown, one line per symbol."""
    record_failures(desk.store, "harvest_proposal", ["SOLUSDT"], {"SOLUSDT": "market_state_stale: 200 s > 180 s"}, "c1")
    record_failures(desk.store, "market_state", ["SOLUSDT"], {"SOLUSDT": "candles_stale: 500 s > 420 s"}, "c1")
    lines = [line for line in CliRunner().invoke(status, []).output.splitlines() if "SOLUSDT" in line]
    assert len(lines) == 1
    assert "market state: no new candles (8 min 20 s old, limit 7 min)" in lines[0]
    each = [line for line in CliRunner().invoke(status, ["--assets"]).output.splitlines() if "SOLUSDT" in line]
    assert len(each) > len(lines)


@pytest.mark.parametrize("efficiency", [True, False])
def test_status_and_desk_judge_alike(make_store, instance, monkeypatch: pytest.MonkeyPatch, *, efficiency: bool) -> None:
    """One said 0 of 4 fresh, the other 4 of 4, because nobody wrote an efficiency."""
    store = make_store(symbols="BTCUSDT,ETHUSDT,SOLUSDT")
    store.clock = lambda: datetime.now(UTC)
    write_world(store)
    if not efficiency:
        store.client.delete(*(store.keys.of("capital_efficiency", symbol) for symbol in store.settings.symbols))
    run_cycle(store, instance)
    standing = DeskReader(store).standing()
    report = read_report(store)
    assert f"{standing.fresh} of 3 symbols fresh" in verdict(report)
    assert report.fresh is (not standing.unfresh), report.wrong
    monkeypatch.setenv("REDIS_URL", store.settings.url)
    assert CliRunner().invoke(status, ["--symbols", "BTCUSDT,ETHUSDT,SOLUSDT"]).exit_code == (1 if standing.unfresh else 0)


def test_status_shows_the_age_of_the_price_the_last_stop_and_what_is_an_example(desk: Desk) -> None:
    """As the desk does."""
    now = desk.store.clock().timestamp()
    desk.put(POSITION, "BTCUSDT", position_ts_epoch=now - 400, position_source="example", current_sl=96.5)
    desk.put(POSITION, "ETHUSDT", position_ts_epoch=0)
    record_failures(desk.store, "risk_proposal", ["BTCUSDT"], {"BTCUSDT": "market_state_stale: 200 s > 180 s"}, "c1")
    lines = CliRunner().invoke(status, []).output
    (btc,), (eth,) = ([line for line in lines.splitlines() if line.startswith(f"│ {name}")] for name in ("BTC", "ETH"))
    assert "6 min 4" in btc
    assert "96.50 (last, published before " in btc
    assert "unknown" in eth
    assert "EXAMPLE DATA, not live; its feed has been silent for 6 min" in lines
    desk.store.client.set(desk.store.keys.of("banner"), "PLAYED DATA, not live. More.")
    assert "\n  PLAYED DATA, not live; its feed" in CliRunner().invoke(status, []).output


@pytest.mark.slow
def test_watch_renews_itself_until_ctrl_c(desk: Desk) -> None:
    """On a terminal, as a person leaves it open."""
    terminal, other_end = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": desk.store.settings.url, "TERM": "xterm", "COLUMNS": "160"}
    command = [sys.executable, "-m", "quantum_ops.cli", "status", "--watch"]
    process = subprocess.Popen(command, env=environment, stdin=other_end, stdout=other_end, stderr=other_end)
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while text not in seen and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 65536)
        assert text in seen, seen

    try:
        wait_for(b"armed | ")
        kill(desk.store, reason="wrong prices", by="Ada")
        wait_for(b"blocked: kill switch: wrong prices (set by Ada)")
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:  # a terminal nobody reads fills up, and holds it
            if select.select([terminal], [], [], 0.1)[0]:
                os.read(terminal, 65536)
        assert process.poll() == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(other_end)
