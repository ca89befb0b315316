"""Asset ``evidence``: what the numbers of the profile in force were worth in the last recorded days, as a report with a hash.

No cycle computes it: its sensor asks for it once a week. ``quantum_ops.processes.evidence`` measures it, in a process that gives
way to everything else. Here belongs what is measured, and what of it Dagster's pages show.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg

from quantum_assets.recorded.history import HISTORY
from quantum_assets.shared.partitions import OWNERS
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from quantum_lab import CACHE
from resources.recorder.archive import Archive
from resources.recorder.reading import archive_of
from resources.store.profiles import profile_now
from resources.store.redis_store import RedisStore

EVIDENCE = "evidence"  # also the folder of reports in QUANTUM_HOME
DAYS, DAYS_MIN = 7, 2  # compacted days that are judged; the first one on record may have begun at any hour
SYMBOLS_MAX = 10  # of SYMBOLS, in their order: each takes some seconds per profile
HORIZON_CANDLES = 60
WITHIN_SEC = 1800  # of a worker that has nothing else to do meanwhile
ERROR_CHARS = 2000
SPANS = {"one step": "one_step", "horizon": "horizon"}


@dg.asset(
    name=EVIDENCE,
    group_name=HISTORY,
    deps=[HISTORY],
    kinds={"python", "json"},
    owners=OWNERS,
    description=(
        f"What sigma and regimes of the profile in force were worth on the last {DAYS} compacted days of the flight recorder, of "
        f"the {SYMBOLS_MAX} first of SYMBOLS: coverage, forecasts beside EWMA, regimes beside chance. The report is that of "
        "`quantum evidence`, as JSON and as a page under QUANTUM_HOME/evidence. Once a week; no cycle waits for it."
    ),
)
def evidence(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> dg.MaterializeResult[None]:
    """Measure the last recorded days.

    Raises
    ------
    dagster.Failure
        Too little is recorded, or the process that measures has failed or taken too long.
    """
    settings = store.settings
    archive = archive_of(settings)
    days = judged_days(archive)
    if not days:
        raise dg.Failure(description=f"Fewer than {DAYS_MIN} recorded days have been compacted in {archive.root}.")
    profile = profile_now(store).profile
    request = request_of(settings, profile, days)
    report = Path(request["report"])
    report.parent.mkdir(parents=True, exist_ok=True)
    context.log.info(f"{profile.name} on {', '.join(request['symbols'])}, {days[0]} to {days[-1]}")
    measured(request)
    paths = [report.with_name(f"{report.name}{suffix}") for suffix in (".json", ".html")]
    document = json.loads(paths[0].read_text(encoding="utf-8"))
    return dg.MaterializeResult(metadata=metadata_of(document, days, paths))


def request_of(settings: Settings, profile: Profile, days: Sequence[date]) -> dict[str, Any]:
    """Say what the process is to measure, and where: see :mod:`quantum_ops.processes.evidence`."""
    return {
        "archive": str(settings.recorder_address),
        "days": [str(days[0]), str(days[-1])],
        "symbols": list(dict.fromkeys(map(settings.candles_of, settings.markets)))[:SYMBOLS_MAX],
        "profile": profile.body(),
        "interval_sec": settings.candle_interval_sec,
        "horizon_sec": HORIZON_CANDLES * settings.candle_interval_sec,
        "cache": str(settings.quantum_home / CACHE),
        "report": str(settings.quantum_home / EVIDENCE / f"{days[-1]}-{profile.fingerprint}"),
    }


def judged_days(archive: Archive) -> list[date]:
    """Give the newest compacted days, oldest first; none where there are too few for a whole one."""
    days = [day for day in archive.manifest_days() if day in archive.days()][-DAYS:]
    return days if len(days) >= DAYS_MIN else []


def measured(request: Mapping[str, Any]) -> None:
    """Let a process of its own measure, which ends with this one.

    Raises
    ------
    dagster.Failure
        It failed, with its last words, or did not end within WITHIN_SEC.
    """
    command = [sys.executable, "-m", "quantum_ops.processes.evidence"]
    tethered = [sys.executable, "-m", "quantum_ops.processes.tether", str(os.getpid()), *command]
    try:
        done = subprocess.run(
            tethered, cwd="/", input=json.dumps(request), capture_output=True, text=True, timeout=WITHIN_SEC, check=False
        )
    except subprocess.TimeoutExpired:
        raise dg.Failure(description=f"Not measured within {WITHIN_SEC} s; nothing was written.") from None
    if done.returncode:
        raise dg.Failure(description=f"Not measured, exit code {done.returncode}: {done.stderr.strip()[-ERROR_CHARS:]}")


def metadata_of(document: Mapping[str, Any], days: Sequence[date], paths: Sequence[Path]) -> dict[str, Any]:
    """Lay out a report for the pages: where it is, its hash, and its key figures, the median of all symbols and each one's."""
    content = document["content"]
    profile = content["profiles"][0]
    by_symbol = [figures_of(result) for result in content["results"]]
    names = [name for name in (by_symbol[0] if by_symbol else {}) if name != "symbol"]
    known = {name: [row[name] for row in by_symbol if row[name] is not None] for name in names}
    schema = dg.TableSchema([dg.TableColumn("symbol"), *(dg.TableColumn(name, "float") for name in names)])
    return {
        "profile": f"{profile['name']} {profile['fingerprint']}",
        "days": f"{days[0]} to {days[-1]}",
        "symbols": len(by_symbol),
        "sha256": document["sha256"],
        **{path.suffix.removeprefix("."): dg.MetadataValue.path(path) for path in paths},
        **{name: float(median(values)) for name, values in known.items() if values},
        "by_symbol": dg.MetadataValue.table([dg.TableRecord(row) for row in by_symbol], schema=schema),
        "summary": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in content["summary"][profile["name"]])),
    }


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Give the key figures of one symbol; ``None`` of what could not be judged.

    Returns
    -------
    dict
        Shares of moves beyond the band, wanted are 5 and 1 %; QLIKE of sigma minus that of EWMA, one step (below 0 is better:
        the loss has no scale of its own); Brier skill of the regime (above 0 is better than the base rate).
    """
    shares = {f"{SPANS[one['span']]}_{one['nominal'] * 100:.0f}pct": one["share"] for one in result["coverage"]}
    models = result["forecasts"]["one step"]["models"]
    qlike = {name: models[name]["qlike"] for name in ("sigma", "ewma") if name in models}
    difference = qlike["sigma"] - qlike["ewma"] if len(qlike) == 2 else None
    return {
        "symbol": result["sample"],
        **shares,
        "qlike_minus_ewma": difference,
        "regime_brier_skill": result["regime"]["brier"]["skill"],
    }
