"""The code location, assembled: assets, sensors and resources. Nothing is computed or connected here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from quantum_assets import custom
from quantum_assets.allocation_target import allocation_target
from quantum_assets.capital_efficiency import capital_efficiency
from quantum_assets.challenger import challenger_assets
from quantum_assets.checks.asset_checks import calc_only_process, input_checks, proof_pack, sound_checks
from quantum_assets.governor_permit import governor_permit
from quantum_assets.harvest_proposal import harvest_proposal
from quantum_assets.market_state import market_state
from quantum_assets.position import position
from quantum_assets.position_size import position_size
from quantum_assets.recorded.evidence import evidence
from quantum_assets.recorded.history import history_asset
from quantum_assets.risk_guard import risk_guard
from quantum_assets.risk_proposal import risk_proposal
from quantum_assets.shared.catalog import catalogued
from quantum_assets.shared.external import EXTERNAL_ASSETS
from quantum_assets.shared.partitions import partitioned_by_symbol, symbol_partitions, under_prefix
from quantum_assets.shared.shown_states import ShownStates
from quantum_assets.symbol_chart import symbol_chart
from quantum_assets.trade_intent import trade_intent
from quantum_core.settings import Settings, load_settings
from resources.configured import IntentIO, RedisIO, redis_resource, settings_in_force
from resources.instance.dagster_internals import dismiss_welcome, forget_future_ticks
from resources.io_manager import NotesIOManager
from resources.store.redis_store import RedisStore
from sensors.cycle import cycle_sensor, loop_jobs
from sensors.evidence import evidence_job, evidence_sensor
from sensors.history import compaction_job, history_sensor
from sensors.plans import plans_job, plans_sensor
from sensors.proofs import proofs_job, proofs_sensor
from sensors.retention import retention_job, retention_sensor

ASSETS = (
    position,
    market_state,
    risk_proposal,
    harvest_proposal,
    capital_efficiency,
    allocation_target,
    position_size,
    risk_guard,
    trade_intent,
    governor_permit,
    symbol_chart,
)
EFFICIENCY_WRITES: dict[str, Literal["nothing", "stream", "hash"]] = {
    "external": "nothing",
    "shadow": "stream",
    "enforce": "hash",
}


def build_defs(settings: Settings | None = None, **resources: Any) -> dg.Definitions:
    """Assemble the code location from the environment's settings.

    Parameters
    ----------
    settings
        Settings to use; read from the environment when not given.
    **resources
        Resources that replace the default ones, by name (``store``, ``governor``, ``redis_io`` ...).

    Raises
    ------
    SettingsError
        The environment holds wrong settings.
    """
    return assemble(RedisStore(settings or load_settings()), **resources)


def assemble(store: RedisStore, executor: dg.ExecutorDefinition = dg.in_process_executor, **resources: Any) -> dg.Definitions:
    """Assemble the code location around an open store.

    Parameters
    ----------
    store
        Where everything is read and published.
    executor
        A process per step costs seconds; a cycle is one process's work.
    **resources
        See :func:`build_defs`.
    """
    settings, governor, shown = store.settings, store.as_governor(), ShownStates(store)
    loop = loop_jobs(settings)
    assets, checks = under_prefix(
        catalogued(
            [
                *partitioned_by_symbol(ASSETS, EXTERNAL_ASSETS, settings.symbols),
                *challenger_assets(settings),
                history_asset(settings, store.clock().date()),
                evidence,
            ],
            settings.keys,
            settings.own_profile,
        ),
        [calc_only_process, proof_pack, input_checks, *sound_checks(symbol_partitions(settings.symbols))],
        settings,
    )
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[*loop, plans_job(settings), proofs_job(settings), compaction_job(settings), evidence_job(settings), retention_job],
        sensors=[
            *(cycle_sensor(store, loop), plans_sensor(store), proofs_sensor(store)),
            *(history_sensor(store), evidence_sensor(store), retention_sensor),
        ],
        executor=executor,
        resources={
            "settings": settings_in_force(settings),
            "store": redis_resource(store),
            "governor": redis_resource(governor),
            "redis_io": RedisIO(connection=store, shown=shown),
            "governor_io": RedisIO(connection=governor, shown=ShownStates(governor)),
            "efficiency_io": RedisIO(connection=store, shown=shown, writes=EFFICIENCY_WRITES[settings.efficiency_mode]),
            "notes_io": NotesIOManager(),
            "intent_io": IntentIO(connection=store, shown=shown),
            **resources,
        },
    )


def with_custom(built: dg.Definitions) -> dg.Definitions:
    """Add what ``dg scaffold`` made in quantum_assets/custom; while that is empty, nothing of dg is imported (0.2 s)."""
    made = [path for path in Path(custom.__file__).parent.iterdir() if path.name not in ("__init__.py", "__pycache__")]
    return dg.Definitions.merge(built, dg.load_from_defs_folder(path_within_project=Path(__file__))) if made else built


dismiss_welcome()
forget_future_ticks(time.time())
defs = with_custom(build_defs())
