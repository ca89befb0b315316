"""Disk after three days of the loop at 3 symbols, with retention on. About 12 minutes.

One minute of the live product is recorded: its runs with all their events, and every sensor tick. The same is then stored again
and again, as fast as the storages take it, dated so that it fills three days; after every ten simulated minutes a retention
run is stored as well, and old runs are pruned, as its sensor would. In the end half as much is kept, to see the files shrink.
Beside it, each of our streams is given more entries than its cap.
"""

import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.events.log import EventLogEntry
from dagster._core.scheduler.instigation import TickData

from benchmarks.live import Live, World, running
from benchmarks.report import main, say
from quantum_assets.governor_permit import decide_plans
from quantum_core.contracts.tables import EVENTS_STREAM_MAXLEN, PUBLISHED_TABLES
from quantum_core.settings import load_settings
from resources.instance.retention import prune
from resources.store.publication import publish
from resources.store.redis_store import RedisStore
from sensors.proofs import PROOFS_JOB_NAME
from sensors.retention import EVERY_SEC, PROOFS_KEPT, RETENTION_JOB_NAME
from tests.servers import valkey
from tests.world import run_cycle, write_plan

SYMBOLS, DAYS, KEPT_HOURS, LIMIT_BYTES = 3, 3, 24, 1.5e9
CYCLES, CYCLES_IF_SHORT = 6, 3  # recorded; six are a minute, with one candle
TURNS_OF_A_STORE = 200
HOURS_IF_SHORT, KEPT_HOURS_IF_SHORT = 6, 2
POINT_EVERY_HOURS = 6
ENTRIES, ENTRIES_IF_SHORT = 12_000, 1_500  # per stream; the largest cap is 10,000
PLANS_AT_ONCE = 500
KEPT_LONGER = timedelta(hours=KEPT_HOURS) - PROOFS_KEPT  # other runs than those of the pack


class Played(NamedTuple):
    """One run and its events."""

    run: dg.DagsterRun
    created: float
    events: Sequence[EventLogEntry]


class Recording(NamedTuple):
    """What a live instance stored between the starts of two cycles, and one retention run."""

    seconds: float
    runs: Sequence[Played]
    ticks: Sequence[TickData]
    retention: Played
    retention_ticks: Sequence[TickData]


def measure(*, short: bool) -> dict[str, Any]:
    """Record, play, prune, and look at the files."""
    hours, kept = (HOURS_IF_SHORT, KEPT_HOURS_IF_SHORT) if short else (24 * DAYS, KEPT_HOURS)
    with tempfile.TemporaryDirectory() as folder:
        recording = record(CYCLES_IF_SHORT if short else CYCLES, Path(folder))
        with dg.DagsterInstance.from_config(folder) as instance:
            grown = play(instance, recording, Path(folder), hours, kept)
    return {
        "symbols": SYMBOLS,
        "simulated_hours": hours,
        "kept_hours": kept,
        "recorded_runs": len(recording.runs),
        "recorded_sec": round(recording.seconds, 1),
        **grown,
        "streams": streams(ENTRIES_IF_SHORT if short else ENTRIES),
    }


def record(cycles: int, copy: Path) -> Recording:
    """Run the product, keep what its instance stores in some cycles, and copy the instance to play it on."""
    with running("product", SYMBOLS) as live:
        live.look(cycles + 3, 180 + 20 * cycles)  # the first is left out, the last begins after what is recorded
        begun = [tick.timestamp for tick in live.ticks() if tick.run_ids]
        first, last = begun[1], begun[1 + cycles]
        runs = [one for one in _runs(live) if first <= one.created < last and one.run.job_name != RETENTION_JOB_NAME]
        retention = next(one for one in _runs(live) if one.run.job_name == RETENTION_JOB_NAME)
        ticks = [
            tick.tick_data for name in ("cycle", "plans", "proofs") for tick in live.ticks(name) if first <= tick.timestamp < last
        ]
        shutil.copy(live.home / "dagster.yaml", copy)
        for file in live.home.rglob("*.db"):
            target = copy / file.relative_to(live.home)
            target.parent.mkdir(exist_ok=True)
            with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as new:
                source.backup(new)
        say(f"recorded {len(runs)} runs and {len(ticks)} ticks of {last - first:.0f} s")
        return Recording(last - first, runs, ticks, retention, [live.ticks("retention")[0].tick_data])


def _runs(live: Live) -> list[Played]:
    records = live.instance.get_run_records(ascending=True)
    return [
        Played(one.dagster_run, one.create_timestamp.timestamp(), live.instance.all_logs(one.dagster_run.run_id))
        for one in records
        if one.dagster_run.is_finished
    ]


def play(instance: dg.DagsterInstance, recording: Recording, folder: Path, hours: int, kept_hours: int) -> dict[str, Any]:
    """Store the recording again and again, pruning as it goes, and watch the files."""
    end = time.time()
    begin = end - hours * 3600
    now, pruned, reported = begin, begin, begin
    peak, freed, events, points = 0, 0, 0, [{"hours": 0, **sizes(folder)}]
    while now < end:
        events += store(instance, recording.runs, recording.ticks, now - recording.runs[0].created)
        now += recording.seconds
        while now - pruned >= EVERY_SEC:
            pruned += EVERY_SEC
            store(instance, [recording.retention], recording.retention_ticks, pruned - recording.retention.created)
            freed += forget(instance, pruned - kept_hours * 3600)
        peak = max(peak, sizes(folder)["total"])
        if now - reported >= POINT_EVERY_HOURS * 3600 or now >= end:
            reported = now
            points.append({"hours": round((now - begin) / 3600), **sizes(folder)})
            total = points[-1]["total"] / 1e6
            say(f"after {points[-1]['hours']} of {hours} simulated hours: {total:.0f} MB, peak {peak / 1e6:.0f} MB")
    say("now keep half as long")
    while more := forget(instance, end - kept_hours * 1800):
        freed += more
    return {
        "events_stored": events,
        "bytes": points,
        "peak_bytes": peak,
        "limit_bytes": LIMIT_BYTES,
        "within_limit": peak <= LIMIT_BYTES,
        "given_back_bytes": freed,
        "in_the_end": {"kept_hours": kept_hours / 2, "bytes": sizes(folder)["total"]},
    }


def store(instance: dg.DagsterInstance, runs: Sequence[Played], ticks: Sequence[TickData], later_sec: float) -> int:
    """Store runs, events and ticks as if they had happened so many seconds later; give the number of events."""
    names = {played.run.run_id: str(uuid.uuid4()) for played in runs}
    for run, created, logs in runs:
        run_id = names[run.run_id]
        begun = run._replace(run_id=run_id, status=dg.DagsterRunStatus.STARTED)
        instance.run_storage.add_historical_run(begun, datetime.fromtimestamp(created + later_sec, UTC))
        events = [entry._replace(run_id=run_id, timestamp=entry.timestamp + later_sec) for entry in logs]
        instance.event_log_storage.store_event_batch(events)
        ended = next(entry for entry in reversed(events) if entry.dagster_event and entry.dagster_event.is_job_event)
        when = datetime.fromtimestamp(ended.timestamp, UTC)
        instance.run_storage.handle_run_event(run_id, ended.get_dagster_event(), when)  # dates the run, as old as its end
    for tick in ticks:
        run_ids = [names.get(run_id, run_id) for run_id in tick.run_ids]
        instance.create_tick(tick._replace(timestamp=tick.timestamp + later_sec, run_ids=run_ids))
    return sum(len(played.events) for played in runs)


def forget(instance: dg.DagsterInstance, older_than: float) -> int:
    """Prune as the retention job does, without its pauses for a loop that is not running; give the bytes given back."""
    moment = datetime.fromtimestamp(older_than, UTC)
    freed = prune(instance, older_than=moment + KEPT_LONGER, job_name=PROOFS_JOB_NAME, pause_sec=0).freed_bytes
    return freed + prune(instance, older_than=moment, pause_sec=0).freed_bytes


def sizes(folder: Path) -> dict[str, int]:
    """Measure the files of the instance: in total, and its databases with their write-ahead logs."""
    files = {file.name: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    databases = {name: sum(size for file, size in files.items() if file.startswith(f"{name}.db")) for name in DATABASES}
    return {"total": sum(files.values()), **databases}


DATABASES = ("event_log", "runs", "schedules")


def streams(entries: int) -> dict[str, dict[str, int]]:
    """Append entries to each of our streams with the product's own commands, and count what is left."""
    with valkey() as server:
        live = RedisStore(load_settings(redis_url=server.connection_url, efficiency_mode="enforce"))
        symbols = live.settings.symbols
        World(live).fill()
        with dg.instance_for_test() as instance:
            run_cycle(live, instance)
        caps = {"stream_governor_events": EVENTS_STREAM_MAXLEN}
        for table in PUBLISHED_TABLES.values():
            if table.stream is not None:
                caps[table.stream.key] = table.stream.maxlen
                rows = [{**(reading.value or {}), **STREAM_ONLY} for reading in live.read(table, symbols)]
                for turn in range(entries // len(rows)):
                    live = fresh(live, turn)
                    assert not any(one.error for one in publish(live, table, rows, cycle_id=f"c{turn}", stream_only=True))
        for first in range(0, entries, PLANS_AT_ONCE):
            for number in range(PLANS_AT_ONCE):
                write_plan(live, f"plan-{first + number}", symbols[0], qty=1)
            decide_plans(fresh(live, 0), cycle_id="benchmark")
        return {
            key: {"appended": entries, "cap": cap, "left": int(live.client.xlen(key))}
            for key, cap in ((live.keys.of(name), cap) for name, cap in caps.items())
        }


def fresh(store: RedisStore, turn: int) -> RedisStore:
    """Give a store that has not lost any time yet, now and then: one gives up on a server that cost it seconds within ten."""
    return RedisStore(store.settings, store.clock, store.client) if turn % TURNS_OF_A_STORE == 0 else store


STREAM_ONLY = {"regime": "chop", "base_target_shortest": "1000.0", "proposed_target_shortest": "1200.0"}  # not in the hashes


if __name__ == "__main__":
    main("disk", __doc__, measure)
