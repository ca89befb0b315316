"""kill -9 of every part while the loop runs: it comes back by itself, and nothing is torn, doubled, forgotten, stuck or orphaned.

A short ``python -m benchmarks.chaos``: the same kills and the same checks on a few symbols. Times are measured there, not here.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from benchmarks.chaos import PARTS, Stack, Trial, doubled, stuck, unsupervised, wait_until
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import GOVERNOR_STATE, HARVEST_PROPOSAL, POSITION, RISK_PROPOSAL
from sensors.overdue import UNFINISHED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
HIT_IN_A_CYCLE = ("worker", "worker child", "valkey")  # what a cycle runs on


def test_every_part_may_be_killed_and_the_loop_resumes(tmp_path: Path) -> None:
    """What operators had before stayed dead for 17 hours."""
    trial = Trial(tmp_path, symbols=6, seed=1, wait_sec=2)
    with trial.running() as stack:
        for part in PARTS:
            trial.kill(stack, part, "in a cycle" if part in HIT_IN_A_CYCLE else "any time")
        trial.conclude(stack)
        assert trial.violations == []
        assert trial.event_cycles > 0
        with loop_stopped(stack):
            faults_are_found(stack, trial)
    trial.close()


@contextmanager
def loop_stopped(stack: Stack) -> Iterator[None]:
    """Keep the daemon from asking for the cycle that would repair what a test breaks."""
    (daemon,) = stack.running("daemon")
    daemon.suspend()
    wait_until("the last run to end", lambda: not stack.instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED))))
    yield
    daemon.resume()


def kinds(found: list[str]) -> list[str]:
    return sorted(what.split(":")[0] for what in found)


def faults_are_found(stack: Stack, trial: Trial) -> None:
    """A check that cannot fail proves nothing."""
    client, judge, names = stack.store.client, trial.judge, iter(stack.settings.symbols)

    def key_of_next(table: Table) -> str:
        return stack.store.keys.of(table.key, next(names))

    assert judge.hashes(stack, complete=True) == []
    client.hdel(key_of_next(RISK_PROPOSAL), "trail_gap_pct")  # said twice: the set of fields, and the contract
    client.hset(key_of_next(HARVEST_PROPOSAL), "R_net", "9.5")
    client.hset(key_of_next(HARVEST_PROPOSAL), "cycle_id", "c1")
    client.persist(key_of_next(POSITION))
    client.delete(key_of_next(GOVERNOR_STATE))
    forget_extremes(client, key_of_next(POSITION))
    assert kinds(judge.hashes(stack, complete=True)) == ["lifetime", "loosened", "missing", *["torn"] * 4]

    entries, cycles = trial.listener.entries, stack.publishers()
    last = next(one for one in reversed(entries) if one.stream != "plan")
    assert kinds(doubled([*entries, last], cycles)) == ["doubled"]
    assert kinds(doubled([*entries, replace(last, time=last.time + 60)], cycles)) == ["outside any cycle"]
    trial.market.plans["never"] = time.time() - 3600
    assert kinds(trial.undecided()) == ["undecided"]
    stack.instance.create_run_for_job(dg.job(name="other")(lambda: None), status=dg.DagsterRunStatus.STARTED)
    assert kinds(stuck(stack, older_than_sec=-1)) == ["stuck"]
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"QUANTUM_HOME": str(stack.home)}
    ) as orphan:
        wait_until("the orphan", lambda: psutil.Process(orphan.pid).environ().get("QUANTUM_HOME"))
        assert kinds(unsupervised(stack)) == ["orphan"]
        orphan.kill()


def forget_extremes(client: Any, key: str) -> None:
    """Set peak and trough to the mark of half and twice, as if tracking had begun anew; every mark of the contract in order."""
    row = {name.decode(): value.decode() for name, value in client.hgetall(key).items()}
    forgotten = {"peak_price": float(row["peak_price"]) / 2, "trough_price": float(row["trough_price"]) * 2}
    row |= {name: repr(price) for name, price in forgotten.items()}
    client.hset(key, mapping={**row, "digest": POSITION.digest(row)})
