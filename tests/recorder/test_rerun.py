"""What was recorded gives, computed again, exactly what was published."""

import shutil
from datetime import timedelta

import numpy as np
import orjson
import polars as pl
import pytest

from quantum_assets.replay.rerun import NotRecordedError, rerun
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.settings import load_settings
from resources.instance.home import open_instance, prepare_home
from resources.recorder.archive import Archive, write_parquet
from resources.store.redis_store import RedisStore
from tests.conftest import START, Clock
from tests.recorder.recording import STEP_SEC, Desk, archived, lived
from tests.world import run_cycle

CYCLES = 8
PROPOSALS = ("risk_proposal", "harvest_proposal")
BEGAN, ENDED = START, START + timedelta(seconds=CYCLES * STEP_SEC + 1)


@pytest.fixture(scope="module")
def some_cycles(tmp_path_factory, valkey_url):
    """Cycles of a desk on record, made once."""
    return lived(tmp_path_factory.mktemp("lived"), valkey_url, CYCLES, efficiency_mode="enforce")  # another's: test_rerun_command


@pytest.fixture
def archive(some_cycles, tmp_path):
    """The archive of those cycles, to do with as one likes."""
    return Archive(shutil.copytree(some_cycles / "recorder", tmp_path / "recorder"))


def test_every_row_comes_out_as_it_was_published(archive):
    outcome = rerun(archive, BEGAN, ENDED)
    assert outcome.differences == []
    assert outcome.rows > 180
    assert outcome.steps == CYCLES * len(PUBLISHED_TABLES)
    assert outcome.skipped == {}


def test_records_of_a_version_with_fewer_fields_are_computed_again(archive):
    """A field added since is empty in what was published before."""
    for asset in ("market_state", "risk_proposal"):
        (path,) = archive.files(asset, BEGAN.date())
        write_parquet(pl.read_parquet(path).drop("tail_move"), path)
    outcome = rerun(archive, BEGAN, ENDED)
    assert outcome.differences == []
    assert outcome.rows > 180


CHANGED = {  # a number of each asset
    "market_state": "p_trend",
    "position": "age_sec",
    "risk_proposal": "sigma",
    "harvest_proposal": "sigma",
    "allocation_target": "multiplier",
    "position_size": "risk_usd",
    "capital_efficiency": "efficiency_ewma",
    "risk_guard": "equity_age_sec",
    "governor_permit": "eff_factor",
}


@pytest.mark.parametrize("asset", CHANGED)
def test_a_row_that_was_changed_afterwards_is_found(archive, asset):
    """Without this, a comparison that compares nothing would pass."""
    (path,) = archive.files(asset, BEGAN.date())
    rows = pl.read_parquet(path)
    name, symbol = CHANGED[asset], ACCOUNT if PUBLISHED_TABLES[asset].of_account else "ETHUSDT"
    row = int(rows.with_row_index().filter(pl.col("symbol") == symbol)["index"][-1])
    rows[row, name] = rows[row, name] * (1 + 1e-15) + 5e-324
    if rows[row, name] == pl.read_parquet(path)[row, name]:
        rows[row, name] = float(np.nextafter(rows[row, name], np.inf))
    write_parquet(rows, path)
    outcome = rerun(archive, BEGAN, ENDED)
    assert any((one.asset, one.symbol, one.name) == (asset, symbol, name) for one in outcome.differences)


@pytest.mark.parametrize(("asset", "name"), [("governor_permit", "permits_hour"), ("position", "side"), ("trade_intent", "due")])
def test_a_count_a_word_and_a_flag_that_were_changed_are_found(archive, asset, name):
    (path,) = archive.files(asset, BEGAN.date())
    rows = pl.read_parquet(path)
    other = {pl.Int64: pl.lit(7, pl.Int64), pl.Boolean: pl.col(name).not_()}.get(rows.schema[name], pl.lit("other"))
    write_parquet(rows.with_columns(other.alias(name)), path)
    outcome = rerun(archive, BEGAN, ENDED)
    assert {(one.asset, one.name) for one in outcome.differences} >= {(asset, name)}


def test_a_cause_that_was_changed_is_found(archive):
    (path,) = archive.files("risk_proposal", BEGAN.date())
    write_parquet(pl.read_parquet(path).with_columns(cause=pl.lit("max age")), path)
    outcome = rerun(archive, BEGAN, ENDED)
    assert {(one.asset, one.name, one.recorded) for one in outcome.differences} >= {("risk_proposal", "cause", "max age")}


def test_steps_that_an_older_version_recorded_without_their_inputs_are_counted_and_the_others_compared(archive):
    (path,) = archive.files("records", BEGAN.date())
    records = pl.read_parquet(path)
    facts = [orjson.loads(one) for one in records["facts"]]
    older = [{name: one for name, one in mine.items() if name not in ("mode", "guards", "decided")} for mine in facts]
    write_parquet(records.with_columns(facts=pl.Series([orjson.dumps(one).decode() for one in older])), path)
    for table in ("efficiency_state", "attribution", "grants", "last_decisions"):
        shutil.rmtree(archive.root / table)
    outcome = rerun(archive, BEGAN, ENDED)
    assert outcome.differences == []
    why = "recorded by a version that did not keep its inputs"
    assert outcome.skipped == {f"{asset}: {why}": CYCLES for asset in ("capital_efficiency", "risk_guard", "governor_permit")}
    assert outcome.steps == CYCLES * (len(PUBLISHED_TABLES) - 3)


@pytest.mark.parametrize("rows_max", [0, 20])
def test_how_many_steps_are_computed_together_changes_nothing(archive, monkeypatch, rows_max):
    whole = rerun(archive, BEGAN, ENDED)
    monkeypatch.setattr("quantum_assets.replay.rerun.ROWS_MAX", rows_max)
    parts = rerun(archive, BEGAN, ENDED)
    assert parts.differences == []
    assert (parts.rows, parts.steps) == (whole.rows, whole.steps)


def test_other_parameters_give_other_rows_and_the_reason_is_named(archive):
    other = load_settings(profile="crypto-1m").own_profile
    outcome = rerun(archive, BEGAN, ENDED, profile=other)
    assert {one.asset for one in outcome.differences} >= {"market_state", "risk_proposal"}
    assert all("crypto-1m" in one.reason for one in outcome.differences)


def test_a_part_of_the_time_begins_where_the_rest_left_off(archive):
    whole = rerun(archive, BEGAN, ENDED)
    middle = BEGAN + (ENDED - BEGAN) / 2
    parts = [rerun(archive, BEGAN, middle), rerun(archive, middle, ENDED)]
    assert [one.differences for one in parts] == [[], []]
    assert sum(one.rows for one in parts) == whole.rows


def times_of_steps(archive, asset=None):
    """Give when each step was taken, or each of one asset."""
    records = archive.read("records").sort("seq").collect()
    return sorted({*(records if asset is None else records.filter(asset=asset))["at"]})


def compared_from(archive, start, cycles):
    """Compute some cycles from a moment on; give what came of it."""
    return rerun(archive, start, start + timedelta(seconds=cycles * STEP_SEC + 1))


def test_every_start_gives_what_was_published(archive):
    """Unchanged rows, positions that were let go and intents that are not due any more have no row of their own."""
    for start in times_of_steps(archive):
        outcome = compared_from(archive, start, 1)
        assert (outcome.differences, outcome.skipped) == ([], {}), start
        assert outcome.rows > 0


def test_a_start_between_two_steps_of_a_cycle_leaves_out_what_came_before_it(archive):
    """A time is cut anywhere, also in the middle of a cycle."""
    (path,) = archive.files("records", BEGAN.date())
    apart = [timedelta(milliseconds=10) * number for number in range(CYCLES * len(PUBLISHED_TABLES))]
    records = pl.read_parquet(path).sort("seq")
    write_parquet(records.with_columns(at=pl.col("at") + pl.Series(apart)), path)
    moments = pl.read_parquet(path)["at"].to_list()
    whole = rerun(archive, BEGAN, ENDED)
    middle = len(PUBLISHED_TABLES) * 5 + 4
    halves = [rerun(archive, BEGAN, moments[middle]), rerun(archive, moments[middle], ENDED)]
    assert [one.differing for one in (whole, *halves)] == [0, 0, 0]
    assert sum(one.steps for one in halves) == whole.steps


def test_records_that_two_processes_have_numbered_in_another_order_are_met_once_and_in_order(archive):
    """A step of which the moment is before, and the number behind, that of another one."""
    (path,) = archive.files("records", BEGAN.date())
    records = pl.read_parquet(path).sort("seq")
    late = records["seq"][len(PUBLISHED_TABLES) * 4]  # numbered as the first of a cycle, taken before the one before it
    moment = pl.when(seq=late).then(pl.col("at") - timedelta(seconds=STEP_SEC, milliseconds=1)).otherwise("at")
    write_parquet(records.with_columns(at=moment), path)
    middle = records["at"][len(PUBLISHED_TABLES) * 3]
    parts = [rerun(archive, BEGAN, middle), rerun(archive, middle, ENDED)]
    assert sum(one.steps for one in parts) == CYCLES * len(PUBLISHED_TABLES)


def test_what_rests_on_lost_records_is_counted_and_never_called_a_difference(archive):
    (path,) = archive.files("records", BEGAN.date())
    records = pl.read_parquet(path).sort("seq")
    lost = records["seq"][2 * len(PUBLISHED_TABLES) : 5 * len(PUBLISHED_TABLES)]
    for table in archive.tables():
        for file in archive.files(table, BEGAN.date()):
            if "seq" in (rows := pl.read_parquet(file)).columns:
                write_parquet(rows.filter(~pl.col("seq").is_in(lost.implode())), file)
    outcome = rerun(archive, BEGAN, ENDED)
    assert outcome.differences == []
    assert outcome.steps == (CYCLES - 3) * len(PUBLISHED_TABLES)


def test_a_time_of_which_nothing_is_recorded_is_named(archive):
    with pytest.raises(NotRecordedError, match="nothing was recorded"):
        rerun(archive, ENDED + timedelta(days=2), ENDED + timedelta(days=3))


@pytest.mark.slow
@pytest.mark.parametrize("pause_sec", [-120, 150])
def test_a_clock_that_steps_back_and_an_outage_come_out_as_they_were(tmp_path, valkey_url, pause_sec):
    """What is dated in the future is not read, and what has expired counts for no stop, in Redis as computed again."""
    clock = Clock()
    clock.advance(600)
    settings = load_settings(redis_url=valkey_url, quantum_home=tmp_path / "home")
    store = RedisStore(settings, clock)
    store.client.flushdb()
    desk = Desk(store, clock)
    prepare_home(settings)
    with open_instance(settings) as instance:
        for _ in range(2):
            desk.advance()
            run_cycle(store, instance)
        clock.advance(pause_sec)
        if pause_sec > 0:  # the server's own clock has not moved
            store.client.delete(*(store.keys.of(key, one) for key in PROPOSALS for one in settings.symbols))
        desk.write()
        run_cycle(store, instance, assets=["position", "risk_proposal", "harvest_proposal"])
    outcome = rerun(archived(store, tmp_path), START, START + timedelta(hours=1))
    store.client.close()
    assert outcome.differences == []
    assert outcome.rows > 30
