"""Seeded cycles under faults: everything that must hold does, and of each that is broken on purpose the invariant says so."""

import json
import os
import subprocess
import sys
from itertools import count

import polars as pl
import pytest

import quantum_assets.replay.together
import quantum_assets.shared.tracked_positions
import resources.governor.judge
import resources.inputs.candles
from quantum_assets.simulation import cycle, invariants
from quantum_assets.simulation.cycle import Run
from quantum_assets.simulation.memory import Memory
from quantum_assets.simulation.report import Report, simulate
from quantum_assets.simulation.world import CANDLE_FAULTS, PLAN_FAULTS, POSITION_FAULTS, World
from quantum_core.kernels.governor import gates
from quantum_core.kernels.position import tracking
from quantum_core.settings import Settings, load_settings
from tests.commands import run_command

SEEDS, CYCLES, BLOCK = 200, 50, 10  # of the long run: seeds in blocks, so that two workers share them
SOUGHT, SOUGHT_CYCLES = 30, 30  # seeds and cycles among which a broken invariant is found


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Three symbols, and no server."""
    return load_settings(redis_url="redis://localhost:1/0", symbols="BTCUSDT,ETHUSDT,SOLUSDT")


def assert_held(report: Report) -> None:
    assert not report.violations, "\n".join(map(str, report.violations))


def test_three_seeds_hold(settings):
    report = simulate(range(3), 12, settings)
    assert_held(report)
    assert report.cycles == 36
    assert all(report.published[asset] for asset in ("market_state", "position", "risk_proposal", "harvest_proposal"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_many_seeds_hold(settings, first):
    """Ten thousand cycles in all."""
    report = simulate(range(first, first + BLOCK), CYCLES, settings)
    assert_held(report)
    assert report.decided[""], f"seed={first} cycle={CYCLES}: nothing was permitted in {BLOCK} seeds"


@pytest.mark.slow
def test_every_kind_of_fault_happens(settings):
    """A world in which nothing goes wrong proves nothing."""
    faults = sum((_faults_of(seed, settings) for seed in range(40)), start=World(0, settings).faults)
    kinds = {f"{what} {kind}" for what, some in _KINDS.items() for kind in some}
    assert kinds | {"clock forward", "clock back", "cycle late", "kill switch", "equity late"} <= {*(+faults)}


_KINDS = {"candle": CANDLE_FAULTS, "position": POSITION_FAULTS, "plan": PLAN_FAULTS}


def _faults_of(seed, settings):
    world = World(seed, settings)
    for _ in range(100):
        world.advance()
    return world.faults


def test_a_cycle_can_end_at_every_write(settings, monkeypatch):
    """What was written before stands, and the next cycle goes on from there."""
    for writes in count(0, 4):
        run = Run(1, settings)
        _interrupt(monkeypatch, run, writes)
        first = run.cycle()
        if first.whole:
            break
        _interrupt(monkeypatch, run, None)
        second = run.cycle()
        assert second.whole
        watch = invariants.Watch()
        assert [*invariants.check(run, first, watch), *invariants.check(run, second, watch)] == []
    assert writes > 20


def _interrupt(monkeypatch, run, writes):
    def interruption():
        run._writes_left = writes
        return cycle.DEATH

    monkeypatch.setattr(run, "_interruption", interruption)


def test_the_memory_refuses_what_it_does_not_know(settings):
    """A reader that asks something new, or a write that goes past the simulation, is no silent nothing."""
    memory = World(0, settings).memory
    with pytest.raises(NotImplementedError, match="SET"):
        memory.run("writing", [("SET", "a", "b")])


# What is broken on purpose.


def found(name: str, settings: Settings, first: int) -> str:
    """Give the first violation of an invariant, from some seed on."""
    for seed in range(first, first + SOUGHT):
        for violation in simulate([seed], SOUGHT_CYCLES, settings).violations:
            if violation.name == name:
                return str(violation)
    return ""


def loosen(monkeypatch):
    monkeypatch.setattr(tracking, "_stop_in_force", lambda _previous, given, _proposed, *_: given)


def take_old_candles(monkeypatch):
    monkeypatch.setattr(resources.inputs.candles, "STALE_INTERVALS", 10**6)


def take_old_snapshots(monkeypatch):
    monkeypatch.setattr(quantum_assets.shared.tracked_positions, "_unfit", lambda *_: "")


def move_stops(monkeypatch):
    real = quantum_assets.replay.together.risk_frame
    monkeypatch.setattr(
        quantum_assets.replay.together, "risk_frame", lambda *given: real(*given).with_columns(pl.col("proposed_sl") * 0.999)
    )


def count_nothing(monkeypatch):
    monkeypatch.setattr(Run, "counted", staticmethod(lambda *_: 0))


def forget_plans(monkeypatch):
    monkeypatch.setattr(cycle, "SEEN_TTL_SEC", 0)


def open_on_old_data(monkeypatch):
    monkeypatch.setattr(gates, "_too_old", lambda age, _: age != age + 0 * age)


def ignore_guards(monkeypatch):
    real = resources.governor.judge.read_guards
    monkeypatch.setattr(
        resources.governor.judge, "read_guards", lambda store, now: type(real(store, now))((), "", {}, real(store, now).account)
    )


def read_other_numbers(monkeypatch):
    real = cycle.as_read

    def other(table, rows):
        frame = real(table, rows)
        return frame.with_columns(pl.col("sigma") * 1.001) if "sigma" in frame.columns else frame

    monkeypatch.setattr(cycle, "as_read", other)


BROKEN = {
    "loosen": (loosen, "stops_never_loosen"),
    "old candles": (take_old_candles, "nothing_from_bad_input"),
    "old snapshots": (take_old_snapshots, "nothing_from_bad_input"),
    "other stops": (move_stops, "proofs_hold"),
    "uncounted": (count_nothing, "limits_never_exceeded"),
    "decided again": (forget_plans, "plans_decided_once"),
    "old data": (open_on_old_data, "openings_on_good_data"),
    "guards": (ignore_guards, "openings_on_good_data"),
    "other numbers": (read_other_numbers, "kept_contracts"),
}


FIRST = {"old candles": 28}  # seed to begin with, where most have no such fault


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", BROKEN)
def test_an_invariant_finds_what_is_broken_on_purpose(settings, monkeypatch, what):
    """An invariant that nothing breaks holds of anything."""
    break_it, name = BROKEN[what]
    break_it(monkeypatch)
    assert found(name, settings, FIRST.get(what, 0)).startswith("seed=")


def test_every_invariant_is_broken_by_something():
    assert {name for _, name in BROKEN.values()} == {*invariants.INVARIANTS}


def test_what_the_product_raises_is_named_with_its_seed(settings, monkeypatch):
    def fails(*_):
        message = "no such thing"
        raise RuntimeError(message)

    monkeypatch.setattr(Memory, "read", fails)
    assert str(simulate([4], 5, settings).violations[0]).startswith("seed=4 cycle=1: raised: RuntimeError")


# The same everywhere, and from a shell.


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_seed_gives_the_same_run_in_every_environment():
    """Nothing may depend on the order of sets, the zone, the language or the number of threads."""
    environments = [
        {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C", "POLARS_MAX_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "POLARS_MAX_THREADS": "2"},
        {"PYTHONHASHSEED": "77", "TZ": "America/New_York", "LC_ALL": "de_DE.UTF-8", "POLARS_MAX_THREADS": "4"},
    ]
    command = [sys.executable, "-m", "quantum_ops.cli", "simulate", "--seeds", "3", "--cycles", "15", "--json"]
    runs = [
        json.loads(
            subprocess.run(
                command, env={"PATH": os.environ["PATH"], **one}, capture_output=True, text=True, check=True, timeout=300
            ).stdout
        )
        for one in environments
    ]
    assert runs[0]["digests"].keys() == {"0", "1", "2"}
    assert runs[0] == runs[1] == runs[2]


def test_another_seed_gives_another_run(settings):
    report = simulate([7, 8], 3, settings)
    assert report.digests[7] != report.digests[8]
    assert simulate([7], 3, settings).digests[7] == report.digests[7]


def test_the_command_says_in_80_columns_what_came_of_it():
    done = run_command("simulate", "--seed", "5", "--cycles", "3", environment={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 seed, 3 cycles, 0 violations\nfaults: ")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_violation_is_the_exit_code(monkeypatch):
    monkeypatch.setitem(invariants.INVARIANTS, "always_broken", lambda *_: iter(["by the test"]))
    done = run_command("simulate", "--seed", "3", "--cycles", "2", environment={})
    assert done.returncode == 1
    assert "seed=3 cycle=1: always_broken: by the test" in done.stdout
