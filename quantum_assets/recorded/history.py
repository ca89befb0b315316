"""Asset ``history``: the days the flight recorder has written, each compacted, hashed and chained once it is over.

Its partitions are days, not symbols, and no cycle computes it: its sensor asks for one day after the other.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

from quantum_assets.shared.partitions import OWNERS
from quantum_core.settings import Settings
from resources.recorder import storage
from resources.recorder.archive import MANIFESTS, Archive, compactable, sha256_of
from resources.recorder.reading import archive_of, remove_old_days
from resources.store.redis_store import RedisStore

HISTORY = "history"

log = logging.getLogger("quantum.history")


def history_asset(settings: Settings, today: date) -> dg.AssetsDefinition:
    """Build the asset; its first partition is the first day on record, or today where nothing is recorded yet."""
    archive = archive_of(settings)
    first = first_day(archive, today)

    @dg.asset(
        name=HISTORY,
        group_name=HISTORY,
        kinds={"polars", "parquet"},
        owners=OWNERS,
        partitions_def=dg.DailyPartitionsDefinition(start_date=str(first), timezone="UTC"),
        description=(
            "What the flight recorder has written, by UTC day: one sorted Parquet file per table, and a manifest with the hash "
            "of each and of the manifest before it. Look into it with `quantum history`, `quantum at` and `quantum export`. A "
            "day is compacted when it is over; then what is older than RECORDER_DAYS, or does not fit into RECORDER_MAX_GB, is "
            "removed. No cycle waits for it."
        ),
    )
    def history(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> None:
        """Compact the days of the run, then remove what is too old.

        Raises
        ------
        dagster.Failure
            Nothing is recorded of a day, it is not over, or an earlier one is to be compacted first.
        """
        recorded = archive_of(store.settings)
        for day in sorted(map(date.fromisoformat, context.partition_keys)):
            if trouble := why_not(recorded, day):
                raise dg.Failure(description=trouble)
            manifest = recorded.compact(day)
            context.add_asset_metadata(metadata_of(manifest, sha256_of(recorded.manifest_path(day))), partition_key=str(day))
            for damaged in manifest["set_aside"]:
                context.log.error(f"{damaged['file']} {damaged['what']}: set aside, the day is compacted without it")
            for lost in manifest.get("lost", ()):
                context.log.error(f"{lost['file']} {lost['what']}: the day is compacted without what is missing")
        if removed := remove_old_days(recorded, store.settings):  # the recorder does it, too, every hour, where no Dagster runs
            context.log.info(f"files of {', '.join(map(str, removed))} removed; their manifests stay")

    return history.with_attributes(backfill_policy=dg.BackfillPolicy.single_run())


def first_day(archive: Archive, today: date) -> date:
    """Give the first day on record; today where there is none, or where an object store does not answer: cycles need none."""
    try:
        return min([*archive.days(), *archive.manifest_days()], default=today)
    except storage.TROUBLES as error:
        log.warning("%s cannot be read, its earlier days are no partitions until the next load: %s", archive.root, error)
        return today


def why_not(archive: Archive, day: date) -> str:
    """Say why a day cannot be compacted now; empty when it can, or has been."""
    if archive.is_compacted(day):
        return ""
    now = archive.position().day
    if not now:
        return f"There is no archive in {archive.root} on this host. Start the recorder here: `quantum recorder`."
    if str(day) >= now:
        return f"{day} is not over: the recorder still writes to {now}. Its run is requested when it is."
    if day not in archive.days():
        return f"Nothing is recorded of {day}."
    due = compactable(archive)
    if day not in due:
        return f"{day} is too late for the chain of manifests: later days have theirs. Move its files out of {archive.root}."
    return f"Compact {due[0]} first: each manifest names the one before it." if due[0] < day else ""


def metadata_of(manifest: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Lay out the manifest of a day for the pages."""
    tables: Mapping[str, Mapping[str, Any]] = manifest["tables"]
    previous = manifest["previous"]
    return {
        "rows": sum(int(table["rows"]) for table in tables.values()),
        "bytes": sum(int(table["bytes"]) for table in tables.values()),
        "gaps": len(manifest["gaps"]),
        "set_aside": len(manifest["set_aside"]),
        "sha256": sha256,
        "manifest": f"{MANIFESTS}/{manifest['date']}.json",
        "previous": f"{previous['date']} {previous['sha256']}" if previous else "none: the first day",
        "tables": _table(["table", "rows", "bytes", "sha256"], [{"table": name, **table} for name, table in tables.items()]),
    }


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    records = [dg.TableRecord({name: row[name] for name in names}) for row in rows]
    numbers = ("rows", "bytes")
    schema = dg.TableSchema(columns=[dg.TableColumn(name, "int" if name in numbers else "string") for name in names])
    return dg.MetadataValue.table(records, schema=schema)
