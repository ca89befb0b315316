"""An instance folder made by 0.1, whose dagster.yaml names modules that have moved since."""

from pathlib import Path

import dagster as dg

from quantum_core.settings import load_settings
from resources.instance.event_log import BatchedSqliteEventLogStorage
from resources.instance.home import open_instance
from resources.instance.instance_storage import PooledSqliteRunStorage, PooledSqliteScheduleStorage
from resources.instance.launcher import WarmRunLauncher
from tests.world import run_cycle, write_world

AS_OF_0_1 = """
run_coordinator:
  module: dagster._core.run_coordinator.default_run_coordinator
  class: DefaultRunCoordinator
event_log_storage:
  module: resources.event_log
  class: BatchedSqliteEventLogStorage
run_storage:
  module: resources.instance_storage
  class: PooledSqliteRunStorage
schedule_storage:
  module: resources.instance_storage
  class: PooledSqliteScheduleStorage
telemetry:
  enabled: false
run_launcher:
  module: resources.launcher
  class: WarmRunLauncher
"""


def test_a_folder_of_0_1_is_opened_as_it_is_and_keeps_its_history(make_store, tmp_path: Path) -> None:
    """Its operator changes nothing: the file stays, the classes are those of today, and what was recorded is there."""
    home = tmp_path / "old"
    home.mkdir()
    (home / "dagster.yaml").write_text(AS_OF_0_1)
    store = make_store(quantum_home=home, symbols="BTCUSDT,ETHUSDT")
    write_world(store)
    with open_instance(store.settings) as instance:
        run_cycle(store, instance)
    with open_instance(load_settings(quantum_home=home)) as again:
        assert (home / "dagster.yaml").read_text() == AS_OF_0_1
        assert isinstance(again.run_launcher, WarmRunLauncher)
        assert isinstance(again.event_log_storage, BatchedSqliteEventLogStorage)
        assert isinstance(again.run_storage, PooledSqliteRunStorage)
        assert isinstance(again.schedule_storage, PooledSqliteScheduleStorage)
        found = again.get_latest_materialization_event(dg.AssetKey("risk_proposal"))
        assert found is not None
        assert found.asset_materialization.partition in store.settings.symbols
