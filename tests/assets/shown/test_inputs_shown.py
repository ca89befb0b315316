"""What the root of the graph shows: observations of what others write, on change only, and the check `usable` of each input."""

from collections.abc import Mapping
from itertools import pairwise

import dagster as dg
import pytest

from definitions import assemble
from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.pack import judge
from quantum_assets.checks.proof import RENEWED_AFTER_SEC
from quantum_assets.checks.proofs.inputs import CANDLES, INPUTS, USABLE, InputReading
from quantum_assets.checks.results import severity_of
from quantum_assets.shared.external import EXTERNAL_ASSETS
from quantum_assets.shared.shown_states import decide_input
from quantum_core.contracts.schema import ACCOUNT
from resources.shown import Shown, decoded
from resources.store.redis_store import RedisStore
from tests.world import QUIET, run_cycle, write_equity, write_plan, write_world

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
WELL, ILL = (
    InputReading("present candles", "present from candles"),
    InputReading("failed candles_stale", "candles_stale: 430 s", failed=True),
)


@pytest.fixture
def world(store: RedisStore) -> RedisStore:
    write_world(store)
    return store


def observed(instance: dg.DagsterInstance, asset: str) -> list[tuple[str | None, Mapping[str, object]]]:
    """Give the observations of an input, oldest first."""
    found = instance.fetch_observations(dg.AssetKey(asset), limit=1000).records
    return [
        (one.asset_observation.partition, {name: value.value for name, value in one.asset_observation.metadata.items()})
        for one in reversed(found)
    ]


def usable(instance: dg.DagsterInstance, asset: str) -> list[bool]:
    """Give the results of the check of an input, oldest first."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), USABLE)
    found = instance.event_log_storage.get_asset_check_execution_history(key, limit=50)
    return [one.evaluation.passed for one in reversed(found) if one.evaluation]


def cycle(store: RedisStore, instance: dg.DagsterInstance, after_sec: float = 10) -> None:
    store.clock.advance(after_sec)
    assert run_cycle(store, instance).success


def test_every_input_of_the_graph_is_shown() -> None:
    """Who looks at the root of the graph must not take silence of one of them for health."""
    assert {one.asset for one in INPUTS} == {spec.key.to_user_string() for spec in EXTERNAL_ASSETS}
    assert all(one.proof.name == USABLE for one in INPUTS)


@pytest.mark.slow
def test_a_stale_equity_is_one_observation_of_the_whole_and_its_check_fails(world, instance) -> None:
    """It blocks every opening; the graph shows where that comes from."""
    run_cycle(world, instance)
    ((partition, first),) = observed(instance, "equity")
    assert (partition, first["state"], first["age_sec"]) == (None, "present", 0)
    assert usable(instance, "equity") == []
    cycle(world, instance, 301)
    cycle(world, instance)
    ((_, stale),) = observed(instance, "equity")[1:]
    assert stale["state"] == "failed"
    assert stale["reason"].startswith("equity_stale: EQUITY_STALE age=301s > 300s")
    assert stale["age_sec"] == 301
    assert usable(instance, "equity") == [False]
    world.clock.advance(60)
    write_equity(world, source="books")
    run_cycle(world, instance)
    ((_, well),) = observed(instance, "equity")[2:]
    assert (well["state"], well["source"]) == ("present", "books")
    assert usable(instance, "equity") == [False, True]


@pytest.mark.parametrize(("name", "value"), [("equity", "many"), ("peak", "-1")])
def test_an_account_with_a_number_that_cannot_be_used_is_unusable_by_name(world, instance, name, value) -> None:
    world.client.hset(world.keys.of("equity"), name, value)
    run_cycle(world, instance)
    ((_, found),) = observed(instance, "equity")
    assert found["reason"].startswith(f"equity_unusable: {name}: {name} cannot be used")
    assert usable(instance, "equity") == [False]


@pytest.mark.slow
def test_a_plan_that_cannot_be_read_is_shown_at_its_symbol_until_a_better_one_or_for_an_hour(world, instance) -> None:
    """Its planner is at fault, and nobody else shows which symbol."""
    cycle(world, instance)
    assert observed(instance, "plans") == []  # no symbol has had a plan
    write_plan(world, "p1", "BTCUSDT")
    write_plan(world, "p2", "ETHUSDT", qty="many")
    cycle(world, instance)
    found = dict(observed(instance, "plans"))
    assert (found["BTCUSDT"]["state"], found["BTCUSDT"]["plan_id"], found["BTCUSDT"]["count"]) == ("present", "p1", 1)
    assert (found["ETHUSDT"]["state"], found["ETHUSDT"]["reason"]) == ("failed", "invalid_plan:qty")
    assert usable(instance, "plans") == [False]
    cycle(world, instance)
    assert len(observed(instance, "plans")) == 2
    write_plan(world, "p3", "ETHUSDT")
    cycle(world, instance, 60)
    assert [symbol for symbol, _ in observed(instance, "plans")[2:]] == ["ETHUSDT"]
    assert usable(instance, "plans") == [False, True]
    cycle(world, instance, 3601)
    assert {one["reason"] for _, one in observed(instance, "plans")[3:]} == {"no plan within the hour"}


@pytest.fixture
def computing(make_store) -> RedisStore:
    """A world whose efficiency is computed here."""
    store = make_store(efficiency_mode="enforce")
    write_world(store)
    return store


def write_attribution(store: RedisStore, symbol: str, **changes: object) -> None:
    fields = {"performance_factor": 0.7, "confidence": 0.8, "ts": int(store.clock().timestamp()), "source": "p30", **changes}
    store.client.hset(store.keys.of("attribution", symbol), mapping={name: str(value) for name, value in fields.items()})


@pytest.mark.slow
def test_attribution_is_observed_per_symbol_and_executions_as_a_whole(computing, instance) -> None:
    write_attribution(computing, "BTCUSDT")
    write_attribution(computing, "ETHUSDT", performance_factor="many")
    run_cycle(computing, instance)
    found = dict(observed(instance, "attribution"))
    assert {symbol: one["state"] for symbol, one in found.items()} == dict(
        zip(SYMBOLS, ("present", "failed", "absent"), strict=True)
    )
    assert (found["BTCUSDT"]["age_sec"], found["BTCUSDT"]["source"]) == (0, "p30")
    assert usable(instance, "attribution") == [False]
    assert observed(instance, "executions") == [(None, {"state": "absent", "reason": "executions_missing"})]
    moment = int(computing.clock().timestamp() * 1000)
    for number in range(2):
        computing.client.xadd(computing.keys.of("stream_execution"), {"symbol": "BTCUSDT", "pnl": "3"}, id=f"{moment}-{number}")
    cycle(computing, instance)
    cycle(computing, instance)
    assert observed(instance, "executions")[1:] == [
        (None, {"state": "present", "reason": "present", "age_sec": 10.0, "count": 2})
    ]
    assert len(observed(instance, "attribution")) == 3


def test_a_base_target_is_observed_with_its_age_and_source(world, instance) -> None:
    """The oldest of the three inputs had neither."""
    key = world.keys.of("base_target", "BTCUSDT")
    world.client.hset(key, mapping={"timestamp": int(world.clock().timestamp()) - 7, "source": "p29"})
    world.client.hset(world.keys.of("base_target", "ETHUSDT"), "target_usd", "many")
    run_cycle(world, instance)
    found = dict(observed(instance, "base_targets"))
    expected = {"state": "present", "reason": "present from p29", "age_sec": 7.0, "source": "p29", "target_usd": 1000.0}
    assert found["BTCUSDT"] == expected
    assert found["ETHUSDT"] == {"state": "failed", "reason": "base_target_unreadable"}
    assert usable(instance, "base_targets") == [False]


def test_executions_that_are_no_stream_are_unusable(computing, instance) -> None:
    """No symbol's efficiency can be computed; the reason stands at the stream, once."""
    computing.client.set(computing.keys.of("stream_execution"), "junk")
    run_cycle(computing, instance)
    ((partition, found),) = observed(instance, "executions")
    assert partition is None
    assert found["reason"].startswith("executions_unreadable: quantum:stream:execution")
    assert usable(instance, "executions") == [False]


def test_what_nobody_reads_is_neither_observed_nor_judged(world, instance) -> None:
    """With EFFICIENCY_MODE=external the efficiency is another producer's, and so are its inputs."""
    run_cycle(world, instance)
    for one in INPUTS:
        if one.asset in ("attribution", "executions"):
            assert observed(instance, one.asset) == []
            finding = one.proof.judge(Evidence(world, instance))
            assert (finding.judged, finding.observed) == (0, "no asset reads it (EFFICIENCY_MODE=external)")


@pytest.mark.slow
def test_a_cycle_that_changes_nothing_observes_nothing_and_reads_nothing_of_a_symbol_for_it(computing, instance) -> None:
    """566 symbols every ten seconds: only what is shown is read, one hash per input."""
    write_plan(computing, "p1", "BTCUSDT")
    for symbol in SYMBOLS:
        write_attribution(computing, symbol)
    cycle(computing, instance)
    cycle(computing, instance)
    before = {one.asset: len(observed(instance, one.asset)) for one in INPUTS}
    computing.clock.advance(10)
    with computing.client.monitor() as monitor:
        run_cycle(computing, instance)
        computing.client.echo("the end")
        commands = list(iter(lambda: monitor.next_command()["command"], "ECHO the end"))
    assert {one.asset: len(observed(instance, one.asset)) for one in INPUTS} == before
    about = [text for text in commands if "quantum:shown:" in text]
    assert sorted(text for text in about if text.split(":")[-1] in before) == sorted(
        f"HGETALL quantum:shown:{one}" for one in before
    )
    assert all(text.startswith("HGETALL") for text in about)


@pytest.mark.slow
def test_the_pack_says_of_the_inputs_what_the_cycles_have_shown_and_why_it_cannot(world, instance) -> None:
    world.client.delete(world.keys.of("candles_history", "BTCUSDT"))
    never = judge(CANDLES.proof, Evidence(world, instance))
    assert not never.evaluated
    assert severity_of(never) == "WARN"
    assert "no cycle has ended yet" in never.finding.observed
    run_cycle(world, instance)
    job = assemble(world).resolve_job_def("proofs")
    keys = {dg.AssetCheckKey(dg.AssetKey(one.asset), USABLE) for one in INPUTS}
    chosen = job.get_subset(asset_selection=set(), asset_check_selection=keys)
    assert chosen.execute_in_process(instance=instance, run_config=QUIET).success
    assert {one.asset: usable(instance, one.asset)[-1] for one in INPUTS} == {one.asset: one is not CANDLES for one in INPUTS}
    world.clock.advance(61)
    assert "no cycle has ended for 61 s" in judge(CANDLES.proof, Evidence(world, instance)).finding.observed


def test_a_plan_stream_that_is_no_stream_is_unusable(world, instance) -> None:
    run_cycle(world, instance)
    world.client.delete(world.keys.of("stream_plans"))
    world.client.set(world.keys.of("stream_plans"), "junk")
    verdict = judge(next(one for one in INPUTS if one.asset == "plans").proof, Evidence(world, instance))
    assert verdict.severity == "ERROR"
    assert "quantum:stream:apply.plan" in verdict.finding.failing[ACCOUNT]


@pytest.mark.parametrize(("period_cycles", "most"), [(1, 60), (2, 60), (3, 60)])
def test_an_input_that_flaps_is_observed_once_a_minute_at_most(period_cycles, most) -> None:
    """An hour of cycles, usable and unusable in turns; what it settles on is shown."""
    shown: dict[str, Shown] = {}
    times: list[float] = []
    for number in range(360):
        reading = ILL if number // period_cycles % 2 else WELL
        news = decide_input(shown, {"S": reading}, now=10.0 * number, storage="here", spacing_sec=60)
        shown |= news
        times += [10.0 * number] * len(news)
    changes = times[1:]  # the first is what was first seen
    assert 39 <= len(changes) <= most
    assert min(late - early for early, late in pairwise(changes)) >= 60
    for number in range(360, 367):
        shown |= decide_input(shown, {"S": WELL}, now=10.0 * number, storage="here", spacing_sec=60)
    assert shown["S"].code == WELL.code


@pytest.mark.parametrize(
    ("before", "reading", "recorded"),
    [
        (None, ILL, True),
        (Shown(990, WELL.code, failed=False, storage="here"), ILL, True),  # first seen 10 s ago: a fault is shown at once
        (Shown(990, WELL.code, failed=False, storage="here"), WELL, False),
        (Shown(990, ILL.code, failed=True, storage="here", changed=990), WELL, False),
        (Shown(940, ILL.code, failed=True, storage="here", changed=940), WELL, True),
        (Shown(990, ILL.code, failed=True, storage="there", changed=990), ILL, True),
        (Shown(1000 - RENEWED_AFTER_SEC, WELL.code, failed=False, storage="here"), WELL, True),
        (Shown(2000, ILL.code, failed=True, storage="here", changed=2000), WELL, True),  # the clock was set back
    ],
)
def test_an_input_is_observed_when_it_differs_from_what_is_shown(before, reading, recorded) -> None:
    news = decide_input({"S": before} if before else {}, {"S": reading}, now=1000, storage="here", spacing_sec=60)
    assert bool(news) is recorded


def test_entries_of_before_and_junk_are_read() -> None:
    """An upgrade shows what was shown, and replaces what is none of ours."""
    fields = {"A": b'[990, "present", false, "here"]', "B": b"junk", "C": b'[1, "x", false, "here", 2]', "_usable": b'["", []]'}
    assert decoded(fields) == {"A": Shown(990, "present", failed=False, storage="here")}
