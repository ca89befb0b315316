"""The metrics by name (docs/spec.md#12-metrics): one reading becomes Prometheus' families, for either port."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from quantum_core.freshness import WELL
from quantum_ops.exporter.metrics import BUCKETS_SEC, PARTS_OF_A_CYCLE, Look
from resources.instance.retention import FINISHED
from resources.recorder.state import RecorderState
from resources.store.vital_signs import CLOCKED

P29, P32 = "p29_shadow", "p32_eff"  # names operators know


def allocation_families(look: Look) -> Iterator[Metric]:
    """Give what only the first port shows: the shadow proposer of allocation targets."""
    if look.published is not None:
        yield _counter(f"{P29}_loops", "Evaluations of allocation targets.", {(): look.published.get("loops", 0.0)})
    yield _counter(f"{P29}_proposed", "Targets proposed, by reason.", _by_label(look.published, "proposed"), "reason")
    for name, fields in (("multiplier", "multiplier"), ("confidence", "eff_confidence"), ("score", "eff_score")):
        yield _gauge(f"{P29}_{name}", f"Last {name} of the proposed target.", _numbers(look.allocations, fields), "symbol")


def governor_families(look: Look) -> Iterator[Metric]:
    """Give what only the second port shows: the governor."""
    decided = look.decided
    yield _counter(f"{P32}_apply", "Efficiency hints given with permits.", _by_label(decided, "eff"), "action", "reason")
    yield _gauge(f"{P32}_factor", "Hinted size factor.", _numbers(look.permits, "eff_factor"), "symbol")
    yield _counter("quantum_govern_allow", "Permits granted.", _by_label(decided, "allow"), "symbol")
    yield _counter("quantum_govern_block", "Plans refused, by the first gate.", _by_label(decided, "block"), "symbol", "reason")
    if decided is not None:
        errors = sum(number for labels, number in _by_label(decided, "block").items() if labels[1:] == ("evaluation_error",))
        yield _counter("quantum_govern_errors", "Plans refused because an input could not be read.", {(): errors})
    for name, column in (("hour", "permits_hour"), ("5min", "permits_5min")):
        permits = _numbers(look.permits, column)
        closes = _numbers(look.permits, column.replace("permits", "closes"))
        of_both = {labels: number + closes.get(labels, 0.0) for labels, number in permits.items()}
        yield _gauge(f"quantum_govern_exec_count_{name}", "Permits of the symbol in the window, closes too.", of_both, "symbol")
        yield _gauge(f"quantum_govern_close_count_{name}", "Of these, closes, which have limits of their own.", closes, "symbol")


def common_families(look: Look) -> Iterator[Metric]:
    """Give what both ports show: ages, cycles, publications, runs, parts, proofs, switches."""
    yield _gauge("quantum_redis_up", "1 when Redis answered.", {(): float(look.redis_up)})
    yield _gauge("quantum_dagster_up", "1 when Dagster's storage answered.", {(): float(look.dagster_up)})
    yield _gauge("quantum_look_seconds", "Time the exporter needed to look.", {(): look.took_sec})
    if not look.redis_up:
        return
    ages = {(one.thing, one.symbol): one.age_sec for one in look.vitals if one.age_sec is not None}
    yield _gauge("quantum_asset_age_seconds", "Since the last evaluation, of what is due.", ages, "asset", "symbol")
    ill = {(one.thing, one.symbol, str(one.condition)): 1.0 for one in look.vitals if one.condition not in WELL}
    yield _gauge("quantum_asset_ill", "1 for what is stale, missing, unreadable or ahead.", ill, "asset", "symbol", "condition")
    yield _gauge("quantum_heartbeat_age_seconds", "Since a part was heard of.", {(k,): v for k, v in look.beats.items()}, "part")
    yield from _cycles(look)
    none_yet = {} if look.published is None else {(table.asset,): 0.0 for table in CLOCKED}  # so that a stop is seen
    for name, what in (("published", "publications"), ("unchanged", "suppressions"), ("failed", "failures")):
        yield _counter(f"quantum_{what}", f"Symbols {name}, per evaluation.", none_yet | _by_label(look.published, name), "asset")
    if look.ran is not None:
        no_run = {("cycle", status.value): 0.0 for status in FINISHED}  # so that a first one is an increase, too
        yield _counter("quantum_runs", "Runs that have ended.", no_run | _by_label(look.ran, "run"), "job_name", "status")
    proofs = {(one.title,): float(one.passed) for one in look.proofs}
    yield _gauge("quantum_proof_holds", "1 when the proof held last.", proofs, "proof")
    switches = {(name,): float(stands) for name, stands in look.switches.items()}
    yield _gauge("quantum_switch", "1 when it stands against openings.", switches, "switch")
    for name, what in (("delivered", "Alerts a recipient took."), ("given_up", "Alerts given up, which reached nobody there.")):
        yield _counter(f"quantum_alerts_{name}", what, _by_label(look.alerts, name), "recipient")
    scopes = {(): float(look.scopes_disarmed)}
    yield _gauge("quantum_scopes_disarmed", "Planners and symbols disarmed one by one.", scopes)
    if look.plans_waiting is not None:
        yield _gauge("quantum_plans_waiting", "Plans nobody has decided.", {(): float(look.plans_waiting)})
    if look.recorder is not None:
        yield from _recorder(look.recorder, look.at)


def _recorder(state: RecorderState, now: float) -> Iterator[Metric]:
    yield _gauge("quantum_recorder_age_seconds", "Since the recorder reported.", {(): now - (state.at or 0.0)})
    yield _gauge("quantum_recorder_waiting", "Records that are not written yet.", {(): float(state.waiting)})
    yield _counter("quantum_recorder_gaps", "Gaps: records that were lost before they were written.", {(): float(state.gaps)})
    yield _gauge("quantum_recorder_day_bytes", "Size of what is written of this UTC day.", {(): state.day_bytes})
    if state.free_bytes is not None:
        yield _gauge("quantum_recorder_free_bytes", "Room that is left for it.", {(): state.free_bytes})
    yield _gauge("quantum_recorder_archive_bytes", "Size of all recorded days.", {(): state.archive_bytes})
    yield _gauge("quantum_recorder_archive_max_bytes", "RECORDER_MAX_GB.", {(): state.max_bytes})
    yield _gauge("quantum_recorder_stuck", "1 when it writes nothing.", {(): float(bool(state.trouble))})


def _cycles(look: Look) -> Iterator[Metric]:
    ran = look.ran or {}
    family = HistogramMetricFamily("quantum_cycle_seconds", "Cycles: waiting, running, total.", labels=["part"])
    for part in PARTS_OF_A_CYCLE:
        total, buckets = 0.0, []
        for limit in (*BUCKETS_SEC, "+Inf"):
            total += ran.get(f"bucket:{part}:{limit}", 0.0)
            buckets.append((str(limit), total))
        family.add_metric([part], buckets=buckets, sum_value=ran.get(f"sum:{part}", 0.0))
    if look.ran is not None:
        yield family
    gaps = {(shard,): gap for shard, gap in look.cycle_gaps_sec.items()}
    yield _gauge("quantum_cycle_gap_seconds", "Between the ends of the last two cycles, or since the last one.", gaps, "shard")
    yield _gauge("quantum_cycle_interval_seconds", "PUBLISH_INTERVAL_SEC.", {(): float(look.interval_sec)})


def _numbers(rows: Mapping[str, Mapping[str, Any]], column: str) -> dict[tuple[str, ...], float]:
    found = {(symbol,): row.get(column) for symbol, row in rows.items()}
    return {labels: float(number) for labels, number in found.items() if number is not None}


def _by_label(counts: Mapping[str, float] | None, kind: str) -> dict[tuple[str, ...], float]:
    found: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for name, number in (counts or {}).items():
        first, *labels = name.split(":")
        if first == kind:
            found[tuple(labels)] += number
    return found


def _gauge(name: str, text: str, samples: Mapping[Any, float], *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), samples, len(labels))


def _counter(name: str, text: str, samples: Mapping[Any, float], *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), samples, len(labels))


def _filled(family: Any, samples: Mapping[Any, float], count: int) -> Metric:
    """Add samples, whose keys are tuples of label values; a count from Redis with other labels than ours is none of ours."""
    for labels, number in samples.items():
        if len(labels) == count:
            family.add_metric(labels, number)
    return family  # type: ignore[no-any-return]


FAMILIES = {"allocation": allocation_families, "governor": governor_families}


def families(look: Look, port: str) -> Iterable[Metric]:
    """Give everything one port shows: ``allocation`` or ``governor``, and what both do."""
    yield from common_families(look)
    if look.redis_up:
        yield from FAMILIES[port](look)


def text_of(look: Look, port: str) -> bytes:
    """Write what one port shows in Prometheus' text format.

    Byte for byte what prometheus-client's ``generate_latest`` writes, in a fifth of the time: with 566 symbols its checks of each
    sample's names, which are ours and the same in every scrape, would be a third of one.
    """
    lines = []
    for family in families(look, port):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n")
        for sample in family.samples:
            series = _series(sample.name, *sample.labels.items())
            lines.append(f"{series} {floatToGoString(sample.value)}\n")  # type: ignore[no-untyped-call]
    return "".join(lines).encode()


@lru_cache(65_536)  # the series of both ports at 2,000 symbols are 46,000
def _series(name: str, *labels: tuple[str, str]) -> str:
    shown = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels))
    return f"{name}{{{shown}}}" if shown else name


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
