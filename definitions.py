"""The code location, assembled: assets, sensors and resources. Nothing is computed or connected here."""

from __future__ import annotations

import time
from typing import Any, Literal

import dagster as dg

from quantum_assets.allocation_target import allocation_target
from quantum_assets.capital_efficiency import capital_efficiency
from quantum_assets.catalog import catalogued
from quantum_assets.checks.asset_checks import calc_only_process, input_checks, proof_pack, sound_checks
from quantum_assets.external import EXTERNAL_ASSETS
from quantum_assets.governor_permit import governor_permit
from quantum_assets.harvest_proposal import harvest_proposal
from quantum_assets.market_state import market_state
from quantum_assets.partitions import partitioned_by_symbol, symbol_partitions
from quantum_assets.position import position
from quantum_assets.risk_guard import risk_guard
from quantum_assets.risk_proposal import risk_proposal
from quantum_assets.shown_states import ShownStates
from quantum_assets.symbol_chart import symbol_chart
from quantum_assets.trade_intent import trade_intent
from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.settings import Settings, load_settings
from resources.instance.dagster_internals import dismiss_welcome, forget_future_ticks
from resources.io_manager import IntentIOManager, RedisIOManager
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB, cycle_sensor
from sensors.plans import PLANS_JOB, plans_sensor
from sensors.proofs import PROOFS_JOB, proofs_sensor
from sensors.retention import retention_job, retention_sensor

ASSETS = (
    position,
    market_state,
    risk_proposal,
    harvest_proposal,
    capital_efficiency,
    allocation_target,
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
    return dg.Definitions(
        assets=catalogued(partitioned_by_symbol(ASSETS, EXTERNAL_ASSETS, settings.symbols), settings.keys),
        asset_checks=[calc_only_process, proof_pack, input_checks, *sound_checks(symbol_partitions(settings.symbols))],
        jobs=[CYCLE_JOB, PLANS_JOB, PROOFS_JOB, retention_job],
        sensors=[cycle_sensor(store), plans_sensor(store), proofs_sensor(store), retention_sensor],
        executor=executor,
        resources={
            "store": store,
            "governor": governor,
            "redis_io": RedisIOManager(store, PUBLISHED_TABLES, shown),
            "governor_io": RedisIOManager(governor, PUBLISHED_TABLES, ShownStates(governor)),
            "efficiency_io": RedisIOManager(store, PUBLISHED_TABLES, shown, writes=EFFICIENCY_WRITES[settings.efficiency_mode]),
            "intent_io": IntentIOManager(store, PUBLISHED_TABLES, shown),
            **resources,
        },
    )


dismiss_welcome()
forget_future_ticks(time.time())
defs = build_defs()
