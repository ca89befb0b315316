"""Asset ``evidence``: the last recorded days are measured in a process of their own, and the report is in the catalog."""

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from definitions import assemble
from quantum_assets.recorded.evidence import DAYS, figures_of, judged_days, request_of
from quantum_core.profiles.profile import LOCKED
from resources.recorder.archive import Position
from resources.recorder.reading import archive_of
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME, EVENT_JOB_NAME
from sensors.history import EVIDENCE_JOB_NAME
from tests.world import QUIET, random_closes

FIRST = date(2026, 1, 19)
KEY = dg.AssetKey("evidence")
TIME = pl.Datetime("us", "UTC")


def record(store: RedisStore, days: int, symbols: tuple[str, ...] = ("BTCUSDT",), minutes: int = 1440) -> None:
    """Record candles of some days, and compact all but the last."""
    archive = archive_of(store.settings)
    for number in range(days + 1):
        day = FIRST + timedelta(days=number)
        began = datetime(day.year, day.month, day.day, tzinfo=UTC)
        frames = [_candles(symbol, began, minutes) for symbol in symbols]
        archive.write({"candles": pl.concat(frames)}, Position(flush=number + 1, day=str(day)))
    for number in range(days):
        archive.compact(FIRST + timedelta(days=number))


def _candles(symbol: str, began: datetime, minutes: int) -> pl.DataFrame:
    close = random_closes(began.day, minutes)
    opened = np.arange(minutes, dtype=np.int64) * 60_000 + int(began.timestamp() * 1000)
    at = [began + timedelta(minutes=minute + 1) for minute in range(minutes)]
    columns = {"seq": range(minutes), "at": at, "symbol": symbol, "open_time_ms": opened, "source": "candles", "key": "k"}
    prices = {"high": close, "low": close, "close": close, "volume": [1.0] * minutes}
    return pl.DataFrame({**columns, **prices}, schema_overrides={"at": TIME, "seq": pl.Int64})


def measure(store: RedisStore, instance: dg.DagsterInstance, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    job = assemble(store).resolve_job_def(EVIDENCE_JOB_NAME)
    return job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=raise_on_error)


def refusal(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return str(failure.user_failure_data.description)


@pytest.mark.slow
def test_the_report_of_the_last_days_is_in_the_catalog(make_store, instance) -> None:
    """The whole way: two recorded days, the process that measures, the files, and what the page shows."""
    store = make_store(symbols="BTCUSDT,ETHUSDT,SOLUSDT", gov_max_exec_per_hour=7)
    record(store, 2, ("BTCUSDT", "ETHUSDT"), minutes=1000)
    measure(store, instance)
    shown = instance.get_latest_materialization_event(KEY).asset_materialization.metadata
    metadata = {name: one.value for name, one in shown.items()}
    document = json.loads(Path(metadata["json"]).read_text())
    content = json.dumps(document["content"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert metadata["sha256"] == document["sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert document["sha256"] in Path(metadata["html"]).read_text()
    assert (metadata["symbols"], metadata["days"]) == (2, "2026-01-19 to 2026-01-20")
    assert metadata["profile"].startswith("locked-v1 ")
    assert metadata["profile"] != f"locked-v1 {LOCKED.fingerprint}"  # as it is in force, with the settings of this desk
    assert 0.02 < metadata["one_step_5pct"] < 0.1  # a random walk, and a sigma estimated from it
    assert metadata["regime_brier_skill"] < 0.1
    rows = [row.data for row in metadata["by_symbol"].records]
    assert [row["symbol"] for row in rows] == ["BTCUSDT", "ETHUSDT"]
    assert rows[0]["qlike_minus_ewma"] == pytest.approx(figures_of(document["content"]["results"][0])["qlike_minus_ewma"])
    assert [path.suffix for path in sorted(Path(metadata["json"]).parent.iterdir())] == [".html", ".json"]


@pytest.mark.slow
def test_what_cannot_be_measured_fails_with_the_words_of_the_process(store, instance) -> None:
    """A red run without a reason costs an hour; no report stands for it."""
    record(store, 2, ("XRPUSDT",), minutes=5)
    assert "no candles of BTCUSDT, ETHUSDT, SOLUSDT from 2026-01-19 to 2026-01-20" in refusal(
        measure(store, instance, raise_on_error=False)
    )
    assert list((store.settings.quantum_home / "evidence").iterdir()) == []


def test_before_there_is_a_whole_day_nothing_is_measured(store, instance) -> None:
    """The recorder may have begun an hour before midnight."""
    assert "Fewer than 2 recorded days" in refusal(measure(store, instance, raise_on_error=False))
    record(store, 1, minutes=3)
    assert judged_days(archive_of(store.settings)) == []


def test_the_newest_compacted_days_are_judged(store) -> None:
    record(store, DAYS + 2, minutes=3)
    days = judged_days(archive_of(store.settings))
    assert days == [FIRST + timedelta(days=number) for number in range(2, DAYS + 2)]


def test_an_archive_in_an_object_store_is_asked_for_by_its_address(make_store) -> None:
    """As a folder, s3://bucket would be one beside the process that measures, and empty."""
    settings = make_store(recorder_url="s3://bucket/desk").settings
    assert request_of(settings, LOCKED, [FIRST])["archive"] == "s3://bucket/desk"
    local = make_store().settings
    assert request_of(local, LOCKED, [FIRST])["archive"] == str(local.quantum_home / "recorder")


def test_it_depends_on_the_days_on_record_and_no_cycle_contains_it(store) -> None:
    """Nothing of the cycle may wait for a report."""
    definitions = assemble(store)
    assert definitions.resolve_asset_graph().get(KEY).parent_keys == {dg.AssetKey("history")}
    for job in (CYCLE_JOB_NAME, EVENT_JOB_NAME):
        assert KEY not in definitions.resolve_job_def(job).asset_layer.executable_asset_keys


def test_what_could_not_be_judged_is_no_figure() -> None:
    """Too few candles give no loss and no skill; a zero would be one."""
    result = {
        "sample": "BTCUSDT",
        "coverage": [{"span": "one step", "nominal": 0.05, "share": None}, {"span": "horizon", "nominal": 0.01, "share": 0.02}],
        "forecasts": {"one step": {"models": {"sigma": {"qlike": -12.0}}}},
        "regime": {"brier": {"skill": None}},
    }
    assert figures_of(result) == {
        "symbol": "BTCUSDT",
        "one_step_5pct": None,
        "horizon_1pct": 0.02,
        "qlike_minus_ewma": None,
        "regime_brier_skill": None,
    }
