"""What goes wrong with the host itself is named as that: a clock that was set, an event log that another program locks."""

import logging
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon import daemon as daemons
from dagster._daemon import sensor as sensor_daemon

from quantum_core.freshness import Evaluation
from quantum_ops.alerts.host_signs import HostSigns
from quantum_ops.alerts.incidents import Ledger, Policy
from quantum_ops.alerts.trading.decided import Decided
from resources.instance.dagster_internals import (
    InstigatorState,
    InstigatorType,
    SensorInstigatorData,
    forget_future_ticks,
    ticks_ahead,
)
from resources.instance.sensor_daemon import ignore_future_ticks, wake_by_the_bell
from sensors.cycle import Seen, _market_state_due
from sensors.overdue import UNTAKEN_SEC, end_untaken, overdue

NOW = datetime(2026, 1, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("step", "words"), [(-3600, "set back by 3600 s"), (7200, "set forward by 7200 s"), (-6, "set back by 6 s")]
)
def test_a_clock_that_was_set_is_named_once(tmp_path, step: float, words: str) -> None:
    signs, told, ledger = HostSigns(tmp_path), [], Ledger(Policy(), 1000.0)
    for second in range(0, 200, 5):
        wall = 1000.0 + second + (step if second >= 50 else 0)
        signs.look(wall, float(second))
        told += ledger.observe(Evaluation((), ()), wall, Decided(troubles=signs.troubles(wall)))
    of_the_clock = [message for message in told if message.alert == "clock"]
    assert [message.event for message in of_the_clock] == ["raised", "cleared"]
    assert words in of_the_clock[0].title


def test_a_clock_that_runs_evenly_or_is_slewed_is_not_named(tmp_path) -> None:
    signs = HostSigns(tmp_path)
    for second in range(0, 2000, 5):
        signs.look(1000.0 + second * 1.0005, float(second))
        assert signs.troubles(1000.0 + second) == {}


def test_a_locked_event_log_is_one_alert_and_explains_the_silence(tmp_path) -> None:
    """Daemon and loop are silent because of it; nobody should restart them."""
    path = tmp_path / "history" / "event_log.db"
    path.parent.mkdir()
    signs, told, ledger = HostSigns(tmp_path), [], Ledger(Policy(), 1000.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE t (x)")
        for second in range(0, 200, 5):
            if second == 50:
                other.execute("BEGIN EXCLUSIVE")
            if second == 90:
                other.execute("ROLLBACK")
            wall = 1000.0 + second
            signs.look(wall, float(second))
            told += ledger.observe(Evaluation((), ()), wall, Decided(troubles=signs.troubles(wall)))
    assert [(message.event, message.alert) for message in told] == [("raised", "event_log"), ("cleared", "event_log")]
    assert told[0].text.startswith(f"Event log {path} is locked by another program since")
    assert f"Look: fuser -v {path}" in told[0].text


def state_of(sensor: dg.SensorDefinition, last_tick: float, instance: dg.DagsterInstance) -> InstigatorState:
    """Store what the daemon leaves behind a tick."""
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file=__file__))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "r"), sensor.name)
    data = SensorInstigatorData(last_tick_timestamp=last_tick, last_tick_start_timestamp=last_tick)
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
    instance.add_instigator_state(state)
    return state


def put_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test end what the product changes for the life of its process."""
    for module, name in (
        (sensor_daemon, "get_elapsed"),
        (sensor_daemon, "is_under_min_interval"),
        (daemons, "execute_sensor_iteration_loop"),
        (daemons, "time"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))


def test_a_last_tick_in_the_future_keeps_no_sensor_from_its_next_one(instance, monkeypatch, caplog) -> None:
    """The clock was set back by an hour, and no sensor was asked for an hour."""
    put_back_afterwards(monkeypatch)

    @dg.sensor(name="s", job_name="j", minimum_interval_seconds=3)
    def sensor() -> None:
        """Do nothing."""

    now = sensor_daemon.get_current_timestamp()
    ahead, just_now = state_of(sensor, now + 3600, instance), SensorInstigatorData(last_tick_timestamp=now)
    remote = type("Remote", (), {"min_interval_seconds": 3})()
    assert sensor_daemon.is_under_min_interval(ahead, remote)
    assert 3590 < ticks_ahead(instance, now)["s"] <= 3600
    ignore_future_ticks()
    with caplog.at_level(logging.WARNING):
        assert not any(sensor_daemon.is_under_min_interval(ahead, remote) for _ in range(3))
    assert caplog.text.count("the clock was set back") == 1
    assert sensor_daemon.is_under_min_interval(ahead.with_data(just_now), remote)


def as_code_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the process in which `dagster dev` loads the code location, as far as it can tell."""
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    monkeypatch.setattr("sys.argv", ["dagster", "api", "grpc", "--socket", "s"])


def test_plain_dagster_goes_on_when_its_code_location_is_loaded(instance, monkeypatch, caplog) -> None:
    """Its own daemon waits for the old time; a restart kept the ticks, and nothing there could reset them."""

    @dg.sensor(name="ahead", job_name="j", minimum_interval_seconds=3)
    def ahead() -> None:
        """Do nothing."""

    @dg.sensor(name="usual", job_name="j", minimum_interval_seconds=3)
    def usual() -> None:
        """Do nothing."""

    now = sensor_daemon.get_current_timestamp()
    state, other = state_of(ahead, now + 3600, instance), state_of(usual, now - 1, instance)
    data = SensorInstigatorData(now + 3600, cursor="c", last_run_key="k", min_interval=3, last_tick_start_timestamp=now + 3600)
    instance.update_instigator_state(state.with_data(data))
    as_code_server(monkeypatch)
    forget_future_ticks(now)
    kept = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
    assert not sensor_daemon.is_under_min_interval(kept, type("Remote", (), {"min_interval_seconds": 3})())
    assert (kept.status, kept.instigator_data.cursor, kept.instigator_data.last_run_key) == (state.status, "c", "k")
    assert instance.get_instigator_state(other.instigator_origin_id, other.selector_id) == other
    assert ticks_ahead(instance, now) == {}
    assert caplog.text.count("the last tick of ahead lay ahead") == 1


@pytest.mark.parametrize("process", ["a run", "not dagster dev", "a home of its own"])
def test_no_other_process_resets_ticks(process, instance, monkeypatch) -> None:
    """Our own daemon does it itself, and a run loads the same modules ten times a minute."""

    @dg.sensor(name="s", job_name="j")
    def sensor() -> None:
        """Do nothing."""

    now = sensor_daemon.get_current_timestamp()
    state_of(sensor, now + 3600, instance)
    as_code_server(monkeypatch)
    if process == "a run":
        monkeypatch.setattr("sys.argv", ["dagster", "api", "execute_run", "{}"])
    else:
        monkeypatch.delenv("DAGSTER_IS_DEV_CLI" if process == "not dagster dev" else "DAGSTER_HOME")
    forget_future_ticks(now)
    assert ticks_ahead(instance, now)


def test_a_storage_that_is_away_keeps_no_code_location_from_loading(tmp_path, monkeypatch, caplog) -> None:
    as_code_server(monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "away"))
    forget_future_ticks(0.0)
    assert "could not be reset" in caplog.text


def test_a_step_back_in_the_middle_of_a_round_is_not_slept(monkeypatch) -> None:
    """The daemon pauses for five seconds less what the round took by the clock: it slept for an hour."""
    put_back_afterwards(monkeypatch)
    wake_by_the_bell(None)
    times = iter((7200.0, 3600.0))
    monkeypatch.setattr(sensor_daemon, "get_current_timestamp", lambda: next(times))
    monkeypatch.setattr(sensor_daemon, "execute_sensor_iteration", lambda *_, **__: iter(()))
    event, waited = threading.Event(), []
    monkeypatch.setattr(event, "wait", waited.append)
    for _ in zip(range(3), daemons.execute_sensor_iteration_loop(None, logging.getLogger(), event), strict=False):
        pass
    assert waited == [sensor_daemon.MIN_INTERVAL_LOOP_TIME]


def test_what_is_dated_ahead_of_the_clock_is_due_and_overdue() -> None:
    """An evaluation, or a run, of a time that has not come yet would wait for it."""
    now = NOW.timestamp()
    assert _market_state_due(Seen(now + 3600, now, now), now, 58, now)
    assert not _market_state_due(Seen(now + 2, now, now), now, 58, 0)
    assert "clock was set back" in overdue(NOW + timedelta(hours=1), NOW, started=True)
    assert overdue(NOW + timedelta(seconds=5), NOW, started=True) is None


def test_a_run_that_nobody_ever_began_does_not_stay_so(instance) -> None:
    """Its launch failed because the event log was locked, or the broker lost it: it stayed in STARTING for ever."""
    runs = [dg.DagsterRun("any", status=status) for status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)]
    running = dg.DagsterRun("any", status=dg.DagsterRunStatus.STARTED)
    for run in (*runs, running):
        instance.add_run(run)
    later = datetime.now(UTC) + timedelta(seconds=UNTAKEN_SEC)
    end_untaken(instance, later - timedelta(seconds=60), logging.getLogger())
    assert instance.get_run_by_id(runs[0].run_id).status is dg.DagsterRunStatus.NOT_STARTED
    end_untaken(instance, later + timedelta(seconds=5), logging.getLogger())
    assert {instance.get_run_by_id(run.run_id).status for run in runs} == {dg.DagsterRunStatus.FAILURE}
    assert instance.get_run_by_id(running.run_id).status is dg.DagsterRunStatus.STARTED
