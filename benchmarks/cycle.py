"""A whole cycle, from sensor tick to last materialization: stock Dagster beside this product, and the product's growth.

Each configuration runs alone, one after the other, on the same kind of data: prices move every 5 s, so that every symbol's
proposals are due in every cycle, and a candle closes every minute. Figures are of the cycles after the first ones, from
Dagster's own records; CPU and memory are of all processes of the configuration and its Redis server, idle time included.
About 27 minutes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from benchmarks.live import Configuration, Live, Sample, running
from benchmarks.report import main, say, spread
from resources.io_manager import ONCE_TAG
from sensors.cycle import CYCLE_JOB_NAME, NOT_DUE

INTERVAL_SEC, LATE_SEC = 10.0, 11.0  # cycles are asked for every 10 s; a gap 10 % longer is late
ALWAYS_DUE = ("position", "risk_proposal", "capital_efficiency", "allocation_target")  # for every symbol in every cycle
START_SEC = 120


class Case(NamedTuple):
    """One configuration with one number of symbols."""

    configuration: Configuration
    symbols: int
    cycles: int
    cycles_if_short: int
    limit_sec_per_cycle: float
    left_out: int = 2  # first cycles: imports, empty caches


CASES = (
    Case("stock", 3, 6, 1, 120),
    Case("stock in-process", 3, 6, 2, 60),
    Case("product", 3, 31, 4, 20),
    Case("stock in-process", 566, 2, 1, 240),
    Case("product", 566, 31, 3, 30),
    Case("product", 50, 5, 2, 30),
    Case("product", 200, 5, 2, 30),
)


def measure(*, short: bool) -> dict[str, Any]:
    """Measure all cases."""
    results = [measure_case(case, case.cycles_if_short if short else case.cycles) for case in CASES]
    return {"configurations": results, "growth": growth(results)}


def measure_case(case: Case, cycles: int) -> dict[str, Any]:
    """Run one configuration and read the figures of its cycles."""
    left_out = case.left_out if case.configuration == "product" else 1
    with running(case.configuration, case.symbols) as live:
        first = live.look(left_out, START_SEC + left_out * case.limit_sec_per_cycle)
        last = live.look(first.cycles + cycles, cycles * case.limit_sec_per_cycle)
        measured = figures(live, first, last, case.symbols)
    say(f"{live.name}: {measured}")
    return {"configuration": case.configuration, "symbols": case.symbols, **measured}


def figures(live: Live, first: Sample, last: Sample, symbols: int) -> dict[str, Any]:
    """Read the figures of exactly those cycles that finished between two looks."""
    job = dg.RunsFilter(job_name=CYCLE_JOB_NAME)
    records = live.instance.get_run_records(job, ascending=True)
    by_hand = [record for record in records if ONCE_TAG in record.dagster_run.tags]
    successes = [record for record in records if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS]
    done = [record for record in successes[first.cycles : last.cycles] if record not in by_hand]
    failed = [record for record in records if record.dagster_run.status is dg.DagsterRunStatus.FAILURE]
    if not done:
        return {"cycles": 0, "failed_runs": len(failed)}
    ticks = live.ticks()
    begun = {run_id: tick.timestamp for tick in ticks for run_id in tick.run_ids}
    cycles = [Cycle.read(live.instance, record, begun[record.dagster_run.run_id], symbols, by_hand) for record in done]
    gaps = np.diff([cycle.tick for cycle in cycles])
    return {
        "cycles": len(cycles),
        "failed_runs": len(failed),
        "latency_sec": spread(cycle.latency_sec for cycle in cycles),
        "run_end_sec": spread(cycle.run_end_sec for cycle in cycles),
        "gap_sec": spread(gaps),
        "late_gaps": int(np.sum(gaps > LATE_SEC)),
        "ticks_without_run": len(idle_ticks(ticks, cycles[0].tick, cycles[-1].tick)),
        "skipped_symbols": sum(cycle.skipped for cycle in cycles),
        "materializations_per_cycle": float(np.mean([cycle.materializations for cycle in cycles])),
        "events_per_cycle": float(np.mean([cycle.events for cycle in cycles])),
        "kb_per_cycle": round((last.stored_bytes - first.stored_bytes) / len(cycles) / 1e3, 1),
        "cpu_sec_per_cycle": round((last.cpu_sec - first.cpu_sec) / len(cycles), 3),
        "peak_pss_mb": round(last.peak_pss_mb),
    }


class Cycle(NamedTuple):
    """What Dagster recorded of one cycle; times count from the start of the tick that requested it."""

    tick: float
    latency_sec: float
    run_end_sec: float
    materializations: int
    events: int
    skipped: int

    @classmethod
    def read(
        cls, instance: dg.DagsterInstance, record: dg.RunRecord, tick: float, symbols: int, by_hand: Sequence[dg.RunRecord]
    ) -> "Cycle":
        """Read all events of a run.

        A symbol that `quantum once` published since the tick before has nothing new to publish: it is not skipped.
        """
        logs = instance.all_logs(record.dagster_run.run_id)
        events = [(entry.timestamp, entry.dagster_event) for entry in logs if entry.dagster_event is not None]
        made = [(when, event) for when, event in events if event.is_step_materialization]
        until = record.end_time or 0
        other = [one.dagster_run.run_id for one in by_hand if tick - INTERVAL_SEC <= (one.end_time or 0) <= until]
        elsewhere = [entry.dagster_event for run_id in other for entry in instance.all_logs(run_id)]
        pairs = {
            (event.asset_key.to_user_string(), event.partition)
            for event in (*(event for _, event in made), *elsewhere)
            if event is not None and event.is_step_materialization and event.asset_key is not None
        }
        complete = set.intersection(*({symbol for asset, symbol in pairs if asset == due} for due in ALWAYS_DUE))
        return cls(
            tick=tick,
            latency_sec=max(when for when, _ in made) - tick,
            run_end_sec=(record.end_time or 0) - tick,
            materializations=len(made),
            events=len(logs),
            skipped=symbols - len(complete),
        )


def idle_ticks(ticks: Sequence[InstigatorTick], first: float, last: float) -> list[InstigatorTick]:
    """List the ticks of a span that requested nothing although a cycle was due."""
    quiet = [tick for tick in ticks if first < tick.timestamp < last and tick.status is not TickStatus.SUCCESS]
    return [tick for tick in quiet if not (tick.tick_data.skip_reason or "").startswith(NOT_DUE)]


def growth(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the product's cost at 2000 symbols with that at 566."""
    cost = {one["symbols"]: one for one in results if one["configuration"] == "product" and one["cycles"]}
    if not {566, 2000} <= cost.keys():
        return {}
    latency = cost[2000]["latency_sec"]["p50"] / cost[566]["latency_sec"]["p50"]
    cpu = cost[2000]["cpu_sec_per_cycle"] / cost[566]["cpu_sec_per_cycle"]
    factor = 2000 / 566
    return {
        "symbols_factor": round(factor, 2),
        "latency_factor": round(latency, 2),
        "cpu_factor": round(cpu, 2),
        "no_worse_than_linear": max(latency, cpu) <= factor,
    }


if __name__ == "__main__":
    main("cycle", __doc__, measure)
