"""Every proof can fail: the real thing is tampered with, and exactly the right proof goes red, by name and with the symbol."""

import json
import math
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from definitions import defs
from quantum_assets.checks import asset_checks, reference
from quantum_assets.checks.common import KERNELS_OF
from quantum_assets.checks.evidence import PACKAGES, SOURCE_ROOT, Evidence
from quantum_assets.checks.pack import PROOFS, run
from quantum_assets.checks.proof import SOUND
from quantum_assets.checks.proofs import capital, market_state
from quantum_assets.shared.shown_states import FRESH_PROOFS
from quantum_core.contracts.codecs import EPOCH
from quantum_core.contracts.schema import ACCOUNT, Table
from quantum_core.contracts.tables import (
    ALLOCATION_TARGET,
    CAPITAL_EFFICIENCY,
    GOVERNOR_STATE,
    HARVEST_PROPOSAL,
    LAST_INTENT,
    MARKET_STATE,
    PENDING_INTENT,
    PERMIT,
    POSITION,
    POSITION_SIZE,
    PUBLISHED,
    RISK_GUARD,
    RISK_PROPOSAL,
)
from quantum_core.kernels.governor.risk_guard import CONFIRMED
from quantum_core.profiles.files import load
from quantum_core.settings import load_settings
from quantum_ops.cli.audit.prove import catalogue
from resources.governor.limits import limits_of
from resources.governor.switches import arm, kill, release
from resources.instance.home import open_instance
from resources.recorder.archive import sha256_of, write_parquet
from resources.recorder.reading import archive_of
from resources.recorder.tape import tape_of
from resources.store.lease import other_holder
from resources.store.profiles import KEY as USES
from resources.store.profiles import use
from resources.store.redis_store import RedisStore
from sensors.proofs import PROOFS_JOB_NAME
from tests.recorded import days_of_rows
from tests.recorder.recording import archived, somebody_records
from tests.world import (
    QUIET,
    job_of,
    random_closes,
    run_cycle,
    with_evidence,
    write_candles,
    write_equity,
    write_market,
    write_plan,
    write_position,
)

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
VICTIM = "ETHUSDT"
INTENDED, IDLE = "BTCUSDT", "SOLUSDT"  # one that is to be closed, one that trends and is not
PLAN = "p-close"
RECORDED = date(2026, 1, 22)
RECORDED_FILE = "market_state/date=2026-01-23/day.parquet"
FRESH_SEC = 8.0  # a worker that has been silent for longer is suspected


@dataclass
class Proven:
    """A live world in which every proof holds, until a test lays hands on it."""

    store: RedisStore
    instance: dg.DagsterInstance
    monkeypatch: pytest.MonkeyPatch
    folder: Path
    source_root: Path = SOURCE_ROOT
    closes: dict[str, list[float]] = field(default_factory=dict)
    whole: dict[str, bool] = field(default_factory=dict)  # the check `sound` of all symbols as the last pack recorded it

    def verdicts(self, titles: str = "") -> dict[str, Any]:
        """Judge the pack, or the proofs whose title starts so."""
        look = lambda: Evidence(self.store, self.instance, self.source_root)  # noqa: E731 - what the pack calls
        proofs = [proof for proof in PROOFS if proof.title.startswith(titles)]
        return {one.proof.title: one for one in run(look, proofs, look_again_sec=0)}

    def red(self) -> dict[str, Mapping[str, str]]:
        """Name the proofs that fail, with what fails them."""
        found = self.verdicts()
        return {
            title: one.finding.failing if one.evaluated else {"": one.finding.observed}
            for title, one in found.items()
            if not one.passed
        }

    def key(self, table: Table, symbol: str = VICTIM) -> str:
        return self.store.keys.of(table.key, symbol)

    def texts(self, table: Table, symbol: str = VICTIM) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.store.client.hgetall(self.key(table, symbol)).items()}

    def row(self, table: Table, symbol: str = VICTIM) -> dict[str, Any]:
        return table.decode(self.store.client.hgetall(self.key(table, symbol)))

    def forge(self, table: Table, symbol: str = VICTIM, **changes: str) -> None:
        """Edit a hash so that its fingerprint still fits: a tampering that knows what it does."""
        texts = {**self.texts(table, symbol), **changes}
        self.store.client.hset(self.key(table, symbol), mapping={**texts, "digest": table.digest(texts)})

    def forge_row(self, table: Table, symbol: str = VICTIM, **changes: Any) -> None:
        """The same, from values."""
        self.forge(table, symbol, **table.encode({**self.row(table, symbol), **changes}))

    def intent(self) -> str:
        """Name the last intent of the symbol that has one."""
        return str(self.row(LAST_INTENT, INTENDED)["intent_id"])

    def forge_intent(self, intent_id: str = "", **changes: str) -> None:
        """Write the pending intent once more, changed, under its own id or another."""
        of = self.store.keys.of
        own, key = of(PENDING_INTENT.key, self.intent()), of(PENDING_INTENT.key, intent_id or self.intent())
        texts = {name.decode(): value.decode() for name, value in self.store.client.hgetall(own).items()} | changes
        self.store.client.hset(key, mapping={**texts, "digest": PENDING_INTENT.digest(texts)})
        self.store.client.expire(key, 200)

    def plans_of_intents(self) -> dict[bytes, dict[bytes, bytes]]:
        """Give the plans that carry the id of a pending intent, by stream entry."""
        entries = self.store.client.xrange(self.store.keys.of("stream_plans"))
        exists, of = self.store.client.exists, self.store.keys.of
        return {name: one for name, one in entries if exists(of(PENDING_INTENT.key, one[b"plan_id"].decode()))}

    def age(self, table: Table, seconds: float, symbol: str = VICTIM) -> None:
        """Set the clock of a hash back, as if its symbol had stopped."""
        then = self.store.clock().timestamp() - seconds
        self.store.client.hset(self.key(table, symbol), "last_update_epoch", EPOCH.encode(then))

    def stretch(self, table: Table, name: str, symbol: str = VICTIM) -> None:
        """Write the same number in another format."""
        self.forge(table, symbol, **{name: self.texts(table, symbol)[name] + "0"})

    def draw_down(self, equity: float = 9_100.0) -> None:
        """Let the account lose so much that a guard comes to life, and a second reading, as if it were later, confirm it."""
        kept, confirm_sec = self.store.keys.of("guard_readings"), self.store.settings.guard_confirm_sec
        write_equity(self.store, equity=equity, age_sec=confirm_sec)
        run_cycle(self.store, self.instance)
        for guard in CONFIRMED:
            if reading := self.store.client.hget(kept, guard):
                first, first_at, *rest = reading.decode().split()
                moved = " ".join([first, str(float(first_at) - confirm_sec), *rest])
                self.store.client.hset(kept, guard, moved)
        write_equity(self.store, equity=equity)
        run_cycle(self.store, self.instance)

    def copy_source(self, module: str, line: str) -> None:
        """Put a line into a module of a copy of the product."""
        self.source_root = self.folder / "source"
        for package in PACKAGES:
            shutil.copytree(
                SOURCE_ROOT / package, self.source_root / package, ignore=shutil.ignore_patterns("__pycache__", "sample")
            )
        shutil.copy(SOURCE_ROOT / "definitions.py", self.source_root)
        path = self.source_root / module
        path.write_text(f"{path.read_text()}\n{line}\n")

    def append(self, stream: str, **changes: str) -> None:
        """Append the newest entry of the victim once more, changed or not."""
        entries = self.store.client.xrevrange(self.store.keys.of(stream))
        fields = next(fields for _, fields in entries if fields[b"symbol"] == VICTIM.encode())
        self.store.client.xadd(self.store.keys.of(stream), {**{k.decode(): v.decode() for k, v in fields.items()}, **changes})

    def decide(self, plan_id: str, *, permit: bool, **changes: str) -> None:
        """Forge a decision with its record, after the genuine one."""
        stream, client = self.store.keys.of("stream_governor_events"), self.store.client
        genuine = next(fields for _, fields in client.xrange(stream) if fields[b"plan_id"] == PLAN.encode())
        event = {k.decode(): v.decode() for k, v in genuine.items()}
        client.xadd(stream, {**event, "plan_id": plan_id, "event": "PERMIT" if permit else "BLOCK", **changes})
        key = self.store.keys.of("permit" if permit else "block", plan_id)
        record = {k.decode(): v.decode() for k, v in client.hgetall(self.store.keys.of("permit", PLAN)).items()}
        record |= {
            "plan_id": plan_id,
            "symbol": VICTIM,
            "computed_notional": changes.get("notional", record["computed_notional"]),
        }
        client.hset(key, mapping={**record, "digest": PERMIT.digest(record)})
        client.expire(key, 50)


@pytest.fixture(scope="module")
def instance(_new_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """One instance for all tampering, with the product's own storage."""
    home = shutil.copytree(_new_home, tmp_path_factory.mktemp("tampering") / "home")
    with open_instance(load_settings(quantum_home=home)) as opened:
        yield opened


@dataclass
class Snapshot:
    """The healthy world as it stands in Redis, for as long as it is fresh."""

    taken: float = -math.inf
    keys: Mapping[bytes, tuple[bytes, int]] = field(default_factory=dict)
    closes: Mapping[str, list[float]] = field(default_factory=dict)

    def take(self, store: RedisStore, closes: Mapping[str, list[float]]) -> None:
        """Remember every key with its value and the time it expires."""
        client = store.client
        self.taken, self.closes = time.monotonic(), closes
        self.keys = {name: (client.dump(name), max(client.pexpiretime(name), 0)) for name in client.scan_iter()}

    def restore(self, store: RedisStore) -> bool:
        """Put everything back, unless it is too old to be fresh."""
        if time.monotonic() - self.taken > FRESH_SEC:
            return False
        store.client.flushdb()
        for name, (value, expires) in self.keys.items():
            store.client.restore(name, expires, value, absttl=bool(expires))
        return True


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """One for all tampering: a world is built every few seconds, not for every test."""
    return Snapshot()


@pytest.fixture
def proven(
    valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance, snapshot: Snapshot
) -> Iterator[Proven]:
    """Three symbols on the real clock after two cycles, with a plan that was permitted and one that was not."""
    profile = with_evidence(tmp_path)
    settings = load_settings(redis_url=valkey_url, quantum_home=tmp_path / "home", symbols=",".join(SYMBOLS), profile=profile)
    store = RedisStore(settings)
    if not snapshot.restore(store):
        snapshot.take(store, build(store, instance))
    yield Proven(store, instance, monkeypatch, tmp_path, closes=dict(snapshot.closes))
    instance.wipe_assets([dg.AssetKey("harvest_proposal")])
    store.client.close()


def build(store: RedisStore, instance: dg.DagsterInstance) -> dict[str, list[float]]:
    """Build the healthy world; give the closes of its symbols."""
    store.client.flushdb()
    closes = {symbol: write_market(store, symbol, 400 if symbol == IDLE else 300) for symbol in SYMBOLS}
    for symbol in SYMBOLS:
        side, mark = ("SHORT" if symbol == "SOLUSDT" else "LONG"), closes[symbol][-1]
        write_position(store, symbol, side=side, entry=mark * (1.01 if side == "SHORT" else 0.99), mark=mark)
    write_equity(store)
    now = store.clock().timestamp()
    for part in ("worker", "daemon", "watch"):
        store.client.set(store.keys.of("heartbeat", part), now)
    remembered = {"at": now, "exit_code": 0, "last_line": "Single cycle complete"}
    store.client.set(store.keys.of("single_cycle"), json.dumps(remembered))
    run_cycle(store, instance)
    write_plan(store, PLAN, VICTIM, "CLOSE", qty=0.01)
    write_plan(store, "p-bad", VICTIM, "CLOSE", qty="nan")
    run_cycle(store, instance)
    return closes


@dataclass(frozen=True)
class Tampering:
    """What is done, which proof must go red, which others rightly do, and the name that must be given."""

    title: str
    do: Callable[[Proven], None]
    also: frozenset[str] = frozenset()
    named: str = VICTIM


def loosen(world: Proven) -> None:
    """Publish a proposal that is right in itself, but whose stop is looser than the one in force."""
    row = world.row(RISK_PROPOSAL)
    inputs = {"position_current_sl": None, "position_peak_price": row["position_current_price"] * 0.95}
    inputs["position_current_price"] = row["position_current_price"] * 0.95
    world.forge_row(RISK_PROPOSAL, **inputs, **reference.stops({**row, **inputs}))


def lose_the_trend(world: Proven) -> None:
    row = world.row(RISK_PROPOSAL)
    inputs = {"p_trend": row["p_trend"] - 0.05, "p_mr": row["p_mr"] + 0.05}
    world.forge_row(RISK_PROPOSAL, **inputs, **reference.stops({**row, **inputs}))


def cross_the_stop(world: Proven) -> None:
    mark = world.closes[VICTIM][-1]
    write_position(world.store, VICTIM, entry=mark * 0.99, mark=mark * 0.97)
    run_cycle(world.store, world.instance)


def spoil_efficiency(world: Proven) -> None:
    world.store.client.hset(world.store.keys.of("capital_efficiency", VICTIM), "efficiency_score", "nan")
    run_cycle(world.store, world.instance)


def renew_for_no_reason(world: Proven) -> None:
    for _ in range(2):
        world.instance.report_runless_asset_event(
            dg.AssetMaterialization("harvest_proposal", partition=VICTIM, metadata={"published_because": "max age"})
        )


def enforced(tamper: Callable[[Proven], None]) -> Callable[[Proven], None]:
    """Let the product write capital efficiency itself, then tamper."""

    def do(world: Proven) -> None:
        settings = world.store.settings.model_copy(update={"efficiency_mode": "enforce"})
        world.store = RedisStore(settings, world.store.clock, world.store.client)
        run_cycle(world.store, world.instance)
        tamper(world)

    return do


def break_once(world: Proven) -> None:
    world.store.client.delete(world.store.keys.of("single_cycle"))
    home = world.store.settings.quantum_home
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text("no: such\nsetting: at all\n")


def says_the_same(asset: str, fact: str, count: int = 499) -> Callable[[Proven], object]:
    """Let a day of evaluations say one thing."""

    def tamper(world: Proven) -> object:
        hour = int(world.store.clock().timestamp() // 3600) - 1
        counts = json.dumps({asset: {"n": 500, fact: count}})
        return world.store.client.hset(world.store.keys.of("informative", VICTIM), mapping={str(hour): counts})

    return tamper


def exceed_the_limits(world: Proven) -> None:
    for number in range(3):
        world.decide(f"forged-{number}", permit=True)


def exceed_the_limits_of_openings(world: Proven) -> None:
    for number in range(3):
        world.decide(f"forged-{number}", permit=True, closing="0", counted_as="opening", theta=loose(world))


def count_an_opening_as_a_close(world: Proven) -> None:
    for number in range(3):
        world.decide(f"forged-{number}", permit=True, closing="0", theta=loose(world))


def loose(world: Proven) -> str:
    """Give limits under which a forged decision follows from its own record."""
    amounts = dict.fromkeys(("max_notional_per_day_usd", "max_close_notional_per_day_usd"), 1e6)
    return json.dumps({**asdict(limits_of(world.store, VICTIM)), "max_data_age_sec": 604_800.0, **amounts})


def wrong_k(world: Proven) -> None:
    row = world.row(HARVEST_PROPOSAL)
    world.forge_row(HARVEST_PROPOSAL, kill_score=0.4, harvest_action=reference.partial_action(row["R_net"]))


def another_time(world: Proven) -> tuple[str, str]:
    """Give the id an intent for the same proposals would have, had they been renewed meanwhile, and that time."""
    last = world.row(LAST_INTENT, INTENDED)
    renewed = last["proposal_time"] + timedelta(microseconds=1)
    return reference.intent_id(INTENDED, {**last, "proposal_time": renewed}), renewed.isoformat()


def intend_twice(world: Proven) -> None:
    intent_id, renewed = another_time(world)
    world.forge_intent(intent_id, proposal_time=renewed)


def intend_for_no_reason(world: Proven) -> None:
    intent_id, renewed = another_time(world)
    world.forge_intent(intent_id, proposal_time=renewed, replaces=world.intent(), cause="confidence changed")
    world.forge(LAST_INTENT, INTENDED, intent_id=intent_id, proposal_time=renewed)


def in_plan_mode(world: Proven) -> None:
    """Let a cycle make another intent, and a plan of it."""
    settings = world.store.settings.model_copy(update={"intent_mode": "plan"})
    world.store = RedisStore(settings, world.store.clock, world.store.client)
    mark = world.closes[INTENDED][-1]
    write_position(world.store, INTENDED, entry=mark * 0.972, mark=mark)
    run_cycle(world.store, world.instance)
    assert len(world.plans_of_intents()) == 1


def lose_the_plan(world: Proven) -> None:
    in_plan_mode(world)
    world.store.client.xdel(world.store.keys.of("stream_plans"), *world.plans_of_intents())


def ask_for_more(world: Proven) -> None:
    in_plan_mode(world)
    stream = world.store.keys.of("stream_plans")
    (fields,) = world.plans_of_intents().values()
    world.store.client.xdel(stream, *world.plans_of_intents())
    world.store.client.xadd(stream, {**fields, b"reduceOnly": "false"})


def kernel_with(world: Proven, module: Any, name: str, change: Callable[[Any, tuple[Any, ...]], Any]) -> None:
    """Put a kernel into a proof that is not the one it says it is."""
    true = getattr(module, name)
    world.monkeypatch.setattr(module, name, lambda *arguments: change(true, arguments))


def swapped(true: Any, arguments: tuple[Any, ...]) -> Any:
    state = true(*arguments)
    return replace(state, p_trend=state.p_mr, p_mr=state.p_trend)


def noisy(true: Any, arguments: tuple[Any, ...], calls: list[float] = [0.0]) -> Any:  # noqa: B006 - it is to remember
    calls[0] += 1e-12
    return replace(true(*arguments), sigma=true(*arguments).sigma + calls[0])


def another_close(world: Proven) -> None:
    write_candles(world.store, VICTIM, random_closes(5))


NO_STATE = frozenset({"market_state/contract", "risk_proposal/market_state_present", "harvest_proposal/market_state_present"})


def unreadable_state(world: Proven) -> None:
    world.store.client.hset(world.key(MARKET_STATE), "sigma", "abc")


def floored(world: Proven) -> None:
    world.forge(MARKET_STATE, sigma="0.00000000")
    world.append("stream_market_state", sigma="0.00000000", cycle_id="forged")


def heart_stops(part: str) -> Callable[[Proven], None]:
    return lambda world: world.store.client.delete(world.store.keys.of("heartbeat", part))


def cut_a_host_off(world: Proven) -> None:
    settings = world.store.settings.model_copy(update={"shards": 2})
    world.store = RedisStore(settings, world.store.clock, world.store.client)
    world.store.client.set(world.store.keys.of("heartbeat", "quantum-0"), world.store.clock().timestamp())


def start_a_second_stack(world: Proven) -> None:
    elsewhere = world.store.settings.model_copy(update={"quantum_home": world.store.settings.quantum_home / "elsewhere"})
    for store in (world.store, RedisStore(elsewhere, world.store.clock, world.store.client)):
        other_holder(store, "storage")


def replay_them(world: Proven) -> None:
    write_candles(world.store, VICTIM, world.closes[VICTIM], source="replay")
    run_cycle(world.store, world.instance)


def skipped_cycle(world: Proven) -> None:
    key, now = world.store.keys.of("cycles", world.store.settings.symbols[0]), world.store.clock().timestamp()
    world.store.client.delete(key)
    world.store.client.rpush(key, now - 1, now - 11, now - 60)


def recorded(damage: Callable[[Path, Path], object]) -> Callable[[Proven], None]:
    """Let three days have been recorded, which is no fault, then damage a file of the second, or change it with the third."""

    def tamper(world: Proven) -> None:
        archive = archive_of(world.store.settings)
        days_of_rows(archive, RECORDED, 3)
        assert world.verdicts("history/")["history/archive_intact"].finding.judged == 3
        assert world.red() == {}
        second, third = (archive.folder("market_state", RECORDED + timedelta(days=n)) / "day.parquet" for n in (1, 2))
        damage(second, third)

    return tamper


def computed_otherwise(world: Proven) -> None:
    """Record some cycles and compact their day, which is no fault; then change one number, and its hash with it."""
    somebody_records(world.store)
    tape_of(world.store)._ask_at = 0.0  # it was asked before, and there was nobody
    for _ in range(3):
        run_cycle(world.store, world.instance)
    archive = archived(world.store, world.store.settings.recorder_folder.parent)
    (day,) = archive.days()
    archive.compact(day)
    assert world.verdicts("history/")["history/recomputed"].finding.judged > len(SYMBOLS)
    assert world.red() == {}
    path, manifest = archive.folder("position", day) / "day.parquet", archive.manifest_path(day)
    before, rows = sha256_of(path), pl.read_parquet(path)
    write_parquet(rows.with_columns(mark_price=pl.col("mark_price") * (1 + 1e-12)), path)
    manifest.write_text(manifest.read_text().replace(before, sha256_of(path)))


def change_a_byte(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second)
    other.write_bytes(first)


def forget_the_change(world: Proven) -> None:
    """Let another profile be in force for an hour, of which no row knows anything."""
    minutes = load("crypto-1m")
    minutes = replace(minutes, evidence={"interval_sec": 60, "fingerprint": minutes.fingerprint})
    recorded, stream = use(world.store, minutes, by="ada", reason="minutes"), world.store.keys.of(USES)
    ((_, fields),) = world.store.client.xrange(stream)
    world.store.client.xadd(stream, {**fields, b"at": repr(recorded.at - 3600)})


GUARD_KEY = "quantum:risk:guard_active:DRAWDOWN"


def lose_the_peak(world: Proven) -> None:
    world.store.client.hdel(world.store.keys.of("equity"), "peak")
    run_cycle(world.store, world.instance)


def announce_again(world: Proven) -> None:
    world.draw_down()
    stream = world.store.keys.of("stream_risk_events")
    ((_, fields),) = world.store.client.xrevrange(stream, count=1)
    world.store.client.xadd(stream, fields)


def set_it_silently(world: Proven) -> None:
    said = {"guard_type": "DRAWDOWN", "activated_at": world.store.clock().isoformat()}
    world.store.client.set(GUARD_KEY, json.dumps(said), ex=3600)


def let_it_stand_for_ever(world: Proven) -> None:
    world.draw_down()
    world.store.client.persist(GUARD_KEY)


def remove_it(world: Proven) -> None:
    world.draw_down()
    write_equity(world.store)
    world.store.client.delete(GUARD_KEY)
    run_cycle(world.store, world.instance)


def request_it_at_once(world: Proven) -> None:
    """Ask to flatten while the guard waits for a second reading."""
    write_equity(world.store, equity=8_000.0)
    run_cycle(world.store, world.instance)
    request = {"event": "EMERGENCY_FLATTEN_REQUESTED", "reason": "drawdown_breach"}
    world.store.client.xadd(world.store.keys.of("stream_risk_events"), request)


def request_it_after_one_reading(world: Proven) -> None:
    """Forge the record: the second reading is the first one."""
    world.draw_down(8_000.0)
    stream = world.store.keys.of("stream_risk_events")
    name, fields = world.store.client.xrevrange(stream, count=1)[0]
    world.store.client.xdel(stream, name)
    world.store.client.xadd(stream, {**fields, b"first_reading": fields[b"reading"]})


def another_equity(world: Proven) -> None:
    key = world.store.keys.of("equity")
    world.store.client.hset(key, "equity", "9999.0")


def hide_the_loss(world: Proven) -> None:
    """Tell the numbers as they are, and no guard."""
    world.draw_down()
    world.forge_row(RISK_GUARD, ACCOUNT, triggered=[], guards=[], status="ok", reason="")


def deny_that_it_lives(world: Proven) -> None:
    world.draw_down()
    world.forge_row(RISK_GUARD, ACCOUNT, guards=[], status="ok")


TAMPERINGS = (
    Tampering("market_state/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/market/theil_sen.py", "import socket"), named="quantum_core.kernels.market.theil_sen"),
    Tampering("market_state/contract", lambda w: w.stretch(MARKET_STATE, "dp")),
    Tampering("market_state/contract", unreadable_state, NO_STATE),
    Tampering("market_state/probabilities", lambda w: w.forge(MARKET_STATE, p_mr=f"{w.row(MARKET_STATE)['p_mr'] + 0.1:.6f}")),
    Tampering("market_state/sigma_floor", floored),
    Tampering("market_state/recomputed", lambda w: w.forge(MARKET_STATE, vr="2.000000")),
    Tampering("market_state/recomputed", another_close),
    Tampering("market_state/recomputed", lambda w: w.forge_row(MARKET_STATE, gap_count=1)),
    Tampering("market_state/recomputed", lambda w: w.forge_row(MARKET_STATE, market_inactive=True)),
    Tampering("market_state/tick_fits", lambda w: w.forge_row(MARKET_STATE, tick_pct=0.024)),
    Tampering("market_state/enough_candles", lambda w: w.store.client.zremrangebyrank(w.store.keys.of("candles_history", VICTIM), 0, 100)),
    Tampering("market_state/live_source", lambda w: w.forge(MARKET_STATE, source="synthetic")),
    Tampering("market_state/lifetime", lambda w: w.store.client.persist(w.key(MARKET_STATE))),
    Tampering("market_state/fresh", lambda w: w.age(MARKET_STATE, 200)),
    Tampering("market_state/stream_entry", lambda w: w.append("stream_market_state")),
    Tampering("market_state/theta_override", lambda w: kernel_with(w, market_state, "kernel", lambda true, given: true(*given[:2])), named="vol.ewma_lambda"),
    Tampering("market_state/deterministic", lambda w: kernel_with(w, market_state, "kernel", noisy), named="all"),
    Tampering("market_state/regimes", lambda w: kernel_with(w, market_state, "kernel", swapped), named="TREND"),
    Tampering("market_state/live_source", replay_them),
    Tampering("position/readable", lambda w: w.store.client.hset(w.store.keys.of("raw_position", VICTIM), "side", "banana")),
    Tampering("position/contract", lambda w: w.stretch(POSITION, "age_sec")),
    Tampering("position/lifetime", lambda w: w.store.client.persist(w.key(POSITION))),
    Tampering("position/fresh", lambda w: w.age(POSITION, 100)),
    Tampering("position/no_collared_price", lambda w: w.forge(POSITION, collared="1", collared_price="1.0")),
    Tampering("risk_proposal/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/proposals/stops.py", "import os"), named="quantum_core.kernels.proposals.stops"),
    Tampering("risk_proposal/market_state_present", unreadable_state, NO_STATE),
    Tampering("risk_proposal/contract", lambda w: w.stretch(RISK_PROPOSAL, "proposed_tp")),
    Tampering("risk_proposal/lifetime", lambda w: w.store.client.persist(w.key(RISK_PROPOSAL))),
    Tampering("risk_proposal/fresh", lambda w: w.age(RISK_PROPOSAL, 100)),
    Tampering("risk_proposal/recomputed", lambda w: w.forge_row(RISK_PROPOSAL, proposed_tp=w.row(RISK_PROPOSAL)["proposed_tp"] * 1.01)),
    Tampering("risk_proposal/tightens", loosen),
    Tampering("risk_proposal/right_side", cross_the_stop),
    Tampering("risk_proposal/distances", lambda w: w.forge_row(RISK_PROPOSAL, stop_dist_pct=0.001)),
    Tampering("risk_proposal/p_trend_truthful", lose_the_trend),
    Tampering("risk_proposal/no_synthetic_position", lambda w: w.forge(RISK_PROPOSAL, position_source="synthetic")),
    Tampering("risk_proposal/cadence", skipped_cycle, named="shard 0, 2 cycles ago"),
    Tampering("risk_proposal/one_cycle", break_once, named="quantum once"),
    Tampering("harvest_proposal/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/proposals/harvest.py", "import redis"), named="quantum_core.kernels.proposals.harvest"),
    Tampering("harvest_proposal/market_state_present", unreadable_state, NO_STATE),
    Tampering("harvest_proposal/contract", lambda w: w.stretch(HARVEST_PROPOSAL, "cost_est")),
    Tampering("harvest_proposal/lifetime", lambda w: w.store.client.persist(w.key(HARVEST_PROPOSAL))),
    Tampering("harvest_proposal/fresh", lambda w: w.age(HARVEST_PROPOSAL, 100)),
    Tampering("harvest_proposal/risk_proposal_or_flag", lambda w: w.forge(HARVEST_PROPOSAL, fallback_stop="1")),
    Tampering("harvest_proposal/action_consistent", lambda w: w.forge(HARVEST_PROPOSAL, harvest_action="PARTIAL_75")),
    Tampering("harvest_proposal/kill_score_range", wrong_k),
    Tampering("harvest_proposal/recomputed", lambda w: w.forge_row(HARVEST_PROPOSAL, risk_unit=w.row(HARVEST_PROPOSAL)["risk_unit"] * 2)),
    Tampering("harvest_proposal/rate_limited", renew_for_no_reason),
    Tampering("capital_efficiency/readable", spoil_efficiency),
    Tampering("capital_efficiency/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/capital/efficiency.py", "import os"), named="quantum_core.kernels.capital.efficiency"),
    Tampering("capital_efficiency/contract", enforced(lambda w: w.stretch(CAPITAL_EFFICIENCY, "dd_proxy"))),
    Tampering("capital_efficiency/lifetime", enforced(lambda w: w.store.client.persist(w.key(CAPITAL_EFFICIENCY)))),
    Tampering("capital_efficiency/fresh", enforced(lambda w: w.age(CAPITAL_EFFICIENCY, 100))),
    Tampering("capital_efficiency/recomputed", enforced(lambda w: w.forge_row(CAPITAL_EFFICIENCY, reallocation_weight=0.3))),
    Tampering("capital_efficiency/recomputed", enforced(lambda w: w.forge_row(CAPITAL_EFFICIENCY, confidence=0.9))),
    Tampering("allocation_target/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/capital/allocation.py", "import requests"), named="quantum_core.kernels.capital.allocation"),
    Tampering("allocation_target/contract", lambda w: w.stretch(ALLOCATION_TARGET, "base_target")),
    Tampering("allocation_target/lifetime", lambda w: w.store.client.persist(w.key(ALLOCATION_TARGET))),
    Tampering("allocation_target/fresh", lambda w: w.age(ALLOCATION_TARGET, 100)),
    Tampering("allocation_target/reason_cases", lambda w: kernel_with(w, capital, "allocation", lambda true, given: replace(true(*given), multiplier=true(*given).multiplier * 2)), named="ok"),
    Tampering("allocation_target/live_target_untouched", lambda w: w.store.client.hset(w.store.keys.of("base_target", VICTIM), "digest", "x")),
    Tampering("allocation_target/multiplier_bounds", lambda w: w.forge(ALLOCATION_TARGET, multiplier="9.0000")),
    Tampering("allocation_target/recomputed", lambda w: w.forge(ALLOCATION_TARGET, multiplier="1.2000", proposed_target="1200.00")),
    Tampering("allocation_target/one_entry_per_evaluation", lambda w: w.append("stream_allocation_target")),
    Tampering("allocation_target/shadow_only", lambda w: w.append("stream_allocation_target", cycle_id="forged", mode="enforce")),
    Tampering("risk_guard/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/governor/risk_guard.py", "import redis"), named="quantum_core.kernels.governor.risk_guard"),
    Tampering("risk_guard/contract", lambda w: w.stretch(RISK_GUARD, "equity", ACCOUNT), named=ACCOUNT),
    Tampering("risk_guard/contract", lambda w: w.store.client.delete(w.key(RISK_GUARD)), named=ACCOUNT),
    Tampering("risk_guard/lifetime", lambda w: w.store.client.persist(w.key(RISK_GUARD)), named=ACCOUNT),
    Tampering("risk_guard/fresh", lambda w: w.age(RISK_GUARD, 100, ACCOUNT), named=ACCOUNT),
    Tampering("risk_guard/readable", lose_the_peak, named="peak"),
    Tampering("risk_guard/recomputed", hide_the_loss, named=ACCOUNT),
    Tampering("risk_guard/recomputed", deny_that_it_lives, named=ACCOUNT),
    Tampering("risk_guard/recomputed", lambda w: w.forge(RISK_GUARD, ACCOUNT, drawdown="0.01"), named=ACCOUNT),
    Tampering("risk_guard/recomputed", another_equity, named=ACCOUNT),
    Tampering("risk_guard/guard_lifetime", let_it_stand_for_ever, named="DRAWDOWN"),
    Tampering("risk_guard/announced_once", announce_again, named="DRAWDOWN"),
    Tampering("risk_guard/announced_once", set_it_silently, named="DRAWDOWN"),
    Tampering("risk_guard/standing", remove_it, named="DRAWDOWN"),
    Tampering("risk_guard/flatten_confirmed", request_it_at_once, named="EMERGENCY_FLATTEN"),
    Tampering("risk_guard/flatten_confirmed", request_it_after_one_reading, named="EMERGENCY_FLATTEN"),
    Tampering("trade_intent/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/proposals/intent.py", "import random"), named="quantum_core.kernels.proposals.intent"),
    Tampering("trade_intent/contract", lambda w: w.stretch(LAST_INTENT, "take_profit")),
    Tampering("trade_intent/lifetime", lambda w: w.store.client.persist(w.key(LAST_INTENT))),
    Tampering("trade_intent/fresh", lambda w: w.age(LAST_INTENT, 100)),
    Tampering("trade_intent/pending_contract", lambda w: w.store.client.hset(w.store.keys.of(PENDING_INTENT.key, w.intent()), "stop_loss", "1.0"), named=INTENDED),
    Tampering("trade_intent/pending_lifetime", lambda w: w.store.client.persist(w.store.keys.of(PENDING_INTENT.key, w.intent())), named=INTENDED),
    Tampering("trade_intent/pending_lifetime", lambda w: w.forge_intent(expires_at="2099-01-01T00:00:00+00:00"), named=INTENDED),
    Tampering("trade_intent/due_intended", lambda w: w.forge(LAST_INTENT, INTENDED, due="0"), named=INTENDED),
    Tampering("trade_intent/due_intended", lambda w: w.forge(LAST_INTENT, INTENDED, harvest_action="PARTIAL_75"), named=INTENDED),
    Tampering("trade_intent/due_intended", lambda w: w.store.client.delete(w.store.keys.of(PENDING_INTENT.key, w.intent())), named=INTENDED),
    Tampering("trade_intent/due_intended", lambda w: w.forge(LAST_INTENT, IDLE, due="1"), named=IDLE),
    Tampering("trade_intent/one_per_change", intend_twice, named=INTENDED),
    Tampering("trade_intent/one_per_change", intend_for_no_reason, named=INTENDED),
    Tampering("trade_intent/recomputed", lambda w: w.forge_intent(confidence="0.999"), named=INTENDED),
    Tampering("trade_intent/recomputed", lambda w: w.forge_intent(stop_loss="1.0"), named=INTENDED),
    Tampering("trade_intent/plans_as_intended", lambda w: write_plan(w.store, w.intent(), INTENDED), named=INTENDED),
    Tampering("trade_intent/plans_as_intended", lose_the_plan, named=INTENDED),
    Tampering("trade_intent/plans_as_intended", ask_for_more, named=INTENDED),
    Tampering("governor_permit/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/governor/gates.py", "import time"), named="quantum_core.kernels.governor.gates"),
    Tampering("governor_permit/contract", lambda w: w.stretch(GOVERNOR_STATE, "downsize_factor")),
    Tampering("governor_permit/lifetime", lambda w: w.store.client.persist(w.key(GOVERNOR_STATE))),
    Tampering("governor_permit/fresh", lambda w: w.age(GOVERNOR_STATE, 100)),
    Tampering("governor_permit/every_plan_decided", lambda w: w.store.client.set("unrelated", 1) and w.store.client.hset(w.store.keys.of("permit", "forged"), "granted", "true") and w.store.client.expire(w.store.keys.of("permit", "forged"), 50), named="forged"),
    Tampering("governor_permit/every_plan_decided", lambda w: w.store.client.delete(w.store.keys.of("permit", PLAN)), named=PLAN),
    Tampering("governor_permit/limits_hold", exceed_the_limits),
    Tampering("governor_permit/limits_hold", exceed_the_limits_of_openings),
    Tampering("governor_permit/limits_hold", count_an_opening_as_a_close),
    Tampering("governor_permit/limits_hold", lambda w: w.store.client.lpush("quantum:governor:exec:ETHUSDT:close", w.store.clock().timestamp())),
    Tampering("governor_permit/limits_hold", lambda w: w.decide("forged", permit=True, notional="9999", theta=loose(w))),
    Tampering("governor_permit/no_permit_from_bad_data", lambda w: w.decide("forged", permit=True, sources="replay"), named="forged"),
    Tampering("governor_permit/hints_recomputed", lambda w: w.forge(GOVERNOR_STATE, eff_factor="0.5000", downsize_factor="0.5000")),
    Tampering("governor_permit/no_permit_from_bad_data", lambda w: w.decide("forged", permit=True, closing="0", market_state_age_sec="300", theta=loose(w)), named="forged"),
    Tampering(
        "governor_permit/permit_as_decided",
        lambda w: w.store.client.hset(w.store.keys.of("permit", PLAN), "computed_qty", "1.0"),
        named=PLAN,
    ),
    Tampering("governor_permit/limits_hold", lambda w: w.store.client.lpush("quantum:governor:exec:ETHUSDT", w.store.clock().timestamp())),
    Tampering("governor_permit/permit_lifetime", lambda w: w.store.client.persist(w.store.keys.of("permit", PLAN)), named=PLAN),
    Tampering("governor_permit/hints_never_block", lambda w: w.decide("forged", permit=False, reason="low_conf", error="forged"), named="forged"),
    Tampering("governor_permit/decisions_recomputed", lambda w: w.decide("forged", permit=True, unreadable="1"), named="forged"),
    Tampering("governor_permit/decisions_recomputed", lambda w: w.decide("forged", permit=True, theta="{}x"), named="forged"),
    Tampering("governor_permit/decisions_recomputed", lambda w: w.decide("forged", permit=True, day_total="4999.9"), named="forged"),
    Tampering("governor_permit/no_trading_libraries", lambda w: w.monkeypatch.setitem(sys.modules, "ccxt", types.ModuleType("ccxt")), named="ccxt"),
    Tampering("governor_permit/no_trading_libraries", lambda w: w.copy_source("resources/inputs/foreign.py", "from binance import Client"), named="resources.inputs.foreign"),
    Tampering("governor_permit/no_trading_libraries", lambda w: w.copy_source("resources/inputs/foreign.py", "import quantum_feed.history"), named="resources.inputs.foreign"),
    *(Tampering("governor_permit/process_alive", heart_stops(part), named=part) for part in ("worker", "daemon", "cycle", "watch")),
    Tampering("governor_permit/queues_served", cut_a_host_off, named="quantum-1", also=frozenset({"risk_proposal/cadence"})),
    Tampering("governor_permit/single_stack", start_a_second_stack, named="second stack"),
    Tampering("position_size/calc_only_imports", lambda w: w.copy_source("quantum_core/kernels/proposals/sizing.py", "import os"), named="quantum_core.kernels.proposals.sizing"),
    Tampering("position_size/contract", lambda w: w.store.client.delete(w.key(POSITION_SIZE))),
    Tampering("position_size/fresh", lambda w: w.age(POSITION_SIZE, 100)),
    Tampering("position_size/lifetime", lambda w: w.store.client.persist(w.key(POSITION_SIZE))),
    Tampering("position_size/recomputed", lambda w: w.forge_row(POSITION_SIZE, size_usd=99.0)),
    Tampering("market_state/informative", says_the_same("market_state", "ts_at_0")),
    Tampering("risk_proposal/informative", says_the_same("risk_proposal", "stop_at_floor")),
    Tampering("harvest_proposal/informative", says_the_same("harvest_proposal", "action:PARTIAL_25")),
    Tampering("allocation_target/informative", says_the_same("allocation_target", "multiplier:1.2000")),
    Tampering("market_state/coverage", says_the_same("coverage", "beyond", 60)),
    Tampering("governor_permit/profile_evidence", lambda w: use(w.store, load("locked-v1"), by="ada", reason="unmeasured"), named="locked-v1"),
    Tampering("governor_permit/profile_in_force", lambda w: w.forge(POSITION, profile=load("crypto-1m").fingerprint)),
    Tampering("governor_permit/profile_in_force", forget_the_change),
    *(Tampering("history/archive_intact", recorded(damage), named=RECORDED_FILE) for damage in (change_a_byte, lambda path, _: path.unlink(), swap)),
    Tampering("history/recomputed", computed_otherwise, named=f"position {INTENDED}"),
    Tampering("governor_permit/imports_anywhere", lambda w: w.copy_source("sensors/plans.py", "import sys; sys.path.insert(0, '.')"), named="sensors.plans"),
)  # fmt: skip


def test_on_a_healthy_world_every_proof_holds(proven: Proven) -> None:
    """A pack that is red for no reason is soon looked at by nobody; other gates' permits are not ours to judge."""
    for gate in ("p26", "p33"):
        proven.store.client.set(f"quantum:permit:{gate}:{PLAN}", '{"granted": true}', ex=60)
    assert proven.red() == {}


def test_every_proof_holds_also_where_we_write_the_efficiency_ourselves(proven: Proven) -> None:
    """EFFICIENCY_MODE=enforce brings four proofs to bear that otherwise have nothing to judge."""
    enforced(lambda _: None)(proven)
    assert proven.red() == {}
    assert proven.verdicts("capital_efficiency/recomputed")["capital_efficiency/recomputed"].finding.judged == len(SYMBOLS)


@pytest.mark.slow
def test_a_live_guard_and_a_switch_are_no_fault_of_the_product(proven: Proven) -> None:
    """They are what it is for; a pack that is red on the day of a drawdown says nothing on that day."""
    proven.draw_down(8_000.0)
    assert proven.row(RISK_GUARD, ACCOUNT)["pending"] == []
    write_equity(proven.store)
    assert release(proven.store, "DRAWDOWN", name="ada", reason="the exchange told a wrong price")["reason"].startswith(
        "DRAWDOWN "
    )
    assert proven.red() == {}
    kill(proven.store, reason="drill", by="ada")
    arm(proven.store, name="ada", reason="over")
    assert proven.red() == {}


def test_what_is_left_of_a_closed_position_is_judged_by_no_state_of_now(proven: Proven) -> None:
    """Its last proposal stands for a while; the pack was red for a minute after each close of the example."""
    write_position(proven.store, VICTIM, side="FLAT")
    run_cycle(proven.store, proven.instance)
    proven.forge_row(RISK_PROPOSAL, p_trend=0.999)
    verdicts = proven.verdicts("risk_proposal/")
    assert verdicts["risk_proposal/p_trend_truthful"].passed
    assert verdicts["risk_proposal/p_trend_truthful"].finding.judged == len(SYMBOLS) - 1


def test_in_plan_mode_every_proof_holds_too(proven: Proven) -> None:
    """The intents made before the switch have no plan, those made since have one."""
    in_plan_mode(proven)
    assert proven.red() == {}


@pytest.mark.slow
@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda one: one.title)
def test_exactly_the_right_proof_goes_red(proven: Proven, tampering: Tampering) -> None:
    """A check that cannot fail is a bug, and one that fails for everything says nothing."""
    tampering.do(proven)
    red = proven.red()
    assert set(red) == {tampering.title} | tampering.also
    assert tampering.named in red[tampering.title]


def test_every_proof_has_a_tampering() -> None:
    """The list of proofs must not outgrow the list of ways to break them."""
    assert {proof.title for proof in PROOFS} == {tampering.title for tampering in TAMPERINGS}


def test_every_kernel_named_in_the_list_of_kernels_exists() -> None:
    """A module that was renamed would be proven with another asset, and its own proof would judge one module less."""
    kernels = SOURCE_ROOT / "quantum_core" / "kernels"
    for name in KERNELS_OF:
        path = kernels / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or path.is_dir(), name


def test_a_proof_that_cannot_be_evaluated_has_failed(proven: Proven) -> None:
    """Never as absent."""
    proven.store.client.set(proven.store.keys.of("stream_allocation_target") + "x", "1")
    proven.store.client.delete(proven.store.keys.of("stream_allocation_target"))
    proven.store.client.set(proven.store.keys.of("stream_allocation_target"), "not a stream")
    found = proven.verdicts("allocation_target/shadow_only")["allocation_target/shadow_only"]
    assert not found.passed
    assert not found.evaluated
    assert "not a stream" in found.finding.observed or "WRONGTYPE" in found.finding.observed


def stand_still(world: Proven) -> None:
    """Stop the clock: on a busy machine a test of several runs takes longer than what it looks at stays fresh."""
    now = world.store.clock()
    world.store.clock = lambda: now


def sounds(world: Proven) -> dict[tuple[str, str], bool]:
    """Run the pack as its sensor does; give what was recorded of single symbols."""
    world.monkeypatch.setattr(asset_checks, "LOOK_AGAIN_SEC", 0)
    result = job_of(world.store, PROOFS_JOB_NAME).execute_in_process(instance=world.instance, run_config=QUIET)
    found = [event.event_specific_data for event in result.all_events if event.event_type_value == "ASSET_CHECK_EVALUATION"]
    sound = [one for one in found if one.check_name == SOUND]
    whole = {one.asset_key.to_user_string(): one.passed for one in sound[-len(asset_checks.ASSETS) :] if one.partition is None}
    assert set(whole) == set(asset_checks.ASSETS)  # Dagster's list of checks shows the newest result of all
    world.whole = whole
    return {(one.asset_key.to_user_string(), one.partition): one.passed for one in sound if one.partition is not None}


@pytest.mark.slow
def test_a_symbol_is_recorded_when_what_it_fails_has_changed(proven: Proven) -> None:
    """Who opens one symbol sees its own state; an hour of unchanged checks of 566 symbols would bury the changes."""
    stand_still(proven)
    everything = {(asset, symbol): True for asset in asset_checks.ASSETS for symbol in SYMBOLS}
    assert sounds(proven) == everything
    assert sounds(proven) == {}
    proven.store.client.persist(proven.key(MARKET_STATE))
    assert sounds(proven) == {("market_state", VICTIM): False}
    assert sounds(proven) == {}
    assert proven.whole == {asset: asset != "market_state" for asset in asset_checks.ASSETS}
    proven.store.client.expire(proven.key(MARKET_STATE), 500)
    assert sounds(proven) == {("market_state", VICTIM): True}


@pytest.mark.slow
def test_more_changes_than_a_run_has_time_for_are_recorded_by_the_next_ones_and_news_first(proven: Proven) -> None:
    """At 2,000 symbols the first run would outlast its minute, be given up, and begin again, for ever."""
    for name, number in (("CHUNK", 10), ("RECORD_UNTIL_SEC", 0), ("RECORD_SEC_MIN", 0)):
        proven.monkeypatch.setattr(asset_checks, name, number)
    stand_still(proven)
    everything = {(asset, symbol) for asset in asset_checks.ASSETS for symbol in SYMBOLS}
    first, second = sounds(proven), sounds(proven)
    assert len(first) == len(second) == 10
    assert not set(first) & set(second)
    proven.store.client.persist(proven.key(MARKET_STATE))
    third = sounds(proven)
    assert next(iter(third)) == ("market_state", VICTIM)
    assert third["market_state", VICTIM] is False
    assert set(first) | set(second) | set(third) == everything


def test_no_asset_shows_a_freshness_policy_and_each_that_can_age_has_the_check() -> None:
    """A policy is satisfied by any symbol's materialization: it would show an asset as fresh while a symbol is dead."""
    assert set(FRESH_PROOFS) == {table.asset for table in PUBLISHED}
    assert all(spec.freshness_policy is None for spec in defs.resolve_all_asset_specs())


def test_the_list_of_proofs_is_the_one_in_docs() -> None:
    """A claim that is not listed is made to nobody."""
    assert (SOURCE_ROOT / "docs" / "proofs.md").read_text() == catalogue()
