"""``quantum once``: exactly one cycle, as a real Dagster run in this process."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any

import click

from quantum_core.exit_codes import EXIT_FAILED, EXIT_INFRASTRUCTURE
from quantum_core.logs import DATED, log_to_stderr
from quantum_core.settings import load_settings
from quantum_ops.cli import given

COUNTS = ("evaluated", "published", "unchanged", "nothing_due", "failed")

log = logging.getLogger("quantum")


@click.command()
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
@click.option("--position-source", help="auto, redis_hash, redis_stream or synthetic; default: POSITION_SOURCE.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def once(symbols: str | None, position_source: str | None, *, as_json: bool) -> None:
    """Evaluate every asset for every symbol once, record the run, and exit.

    \b
    quantum once
    quantum once --symbols BTCUSDT,ETHUSDT --json
    quantum once --position-source synthetic

    Exit codes: 0 every symbol was evaluated; 1 some symbol or step failed (each is named); 2 wrong settings; 3 Redis away.
    """
    warnings.filterwarnings("ignore", module="dagster")
    settings = load_settings(**given(symbols=symbols, position_source=position_source))
    log_to_stderr(settings.log_level, DATED)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from quantum_ops.doctor.server_needs import require_server
    from resources.store.redis_store import RedisStore

    store = RedisStore(settings)
    store.run("starting one cycle", [("PING",)])
    require_server(store)
    outcome = run_cycle(store)
    if as_json:
        click.echo(json.dumps(outcome, indent=2))
    for asset, symbols_failed in outcome["failures"].items():
        for symbol, why in symbols_failed.items():
            log.error("%s %s: %s", asset, symbol, why)
    for step, error in outcome["errors"].items():
        log.error("%s: %s", step, error)
    if outcome["redis_away"]:
        log.error("Single cycle aborted: Redis at %s went away", settings.redis_address)
        sys.exit(EXIT_INFRASTRUCTURE)
    if not outcome["success"]:
        log.error("Single cycle failed")
        sys.exit(EXIT_FAILED)
    log.info("Single cycle complete")


def run_cycle(store: Any) -> dict[str, Any]:
    """Run the cycle job in this process against the product's instance.

    Returns
    -------
    dict
        ``run_id``, ``success``, per asset the counts, ``failures`` (asset to symbol to reason), ``errors`` (step to text) and
        ``redis_away``.
    """
    import dagster as dg

    from definitions import assemble
    from resources.instance.home import open_instance
    from resources.io_manager import ONCE_TAG
    from resources.store.profiles import profile_now
    from resources.store.transport.unavailable import RedisUnavailableError
    from sensors.cycle import CYCLE_JOB_NAME, cycle_tags

    settings, tags = store.settings, profile_now(store).tags()  # all steps compute with one profile
    with open_instance(settings) as instance:
        job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
        result = job.execute_in_process(
            instance=instance,
            tags={**cycle_tags(settings.symbols, f"once{int(store.clock().timestamp())}"), ONCE_TAG: "true", **tags},
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
            raise_on_error=False,
        )
    assets: dict[str, dict[str, int]] = {}
    failures: dict[str, dict[str, str]] = {}
    errors: dict[str, str] = {}
    redis_away = False
    for event in result.all_events:
        step = str(event.step_key)
        if event.event_type == dg.DagsterEventType.HANDLED_OUTPUT:
            metadata: Any = event.event_specific_data.metadata  # type: ignore[union-attr]
            if not set(COUNTS) <= metadata.keys():  # of an asset that publishes nothing: the challenger
                continue
            assets[step] = {name: int(metadata[name].value) for name in COUNTS}
            if "failures" in metadata:
                failures[step] = {record.data["symbol"]: record.data["reason"] for record in metadata["failures"].records}
        elif event.is_step_failure:
            causes = _causes(event.step_failure_data.error)
            away = [cause for cause in causes if cause.cls_name == RedisUnavailableError.__name__]
            redis_away = redis_away or bool(away)
            errors[step] = (away or causes)[-1].message.strip()
    return {
        "run_id": result.run_id,
        "success": result.success and not failures,
        "assets": assets,
        "failures": failures,
        "errors": errors,
        "redis_away": redis_away,
    }


def _causes(error: Any) -> list[Any]:
    """List an error and what caused it, outermost first."""
    return [] if error is None else [error, *_causes(error.cause)]
