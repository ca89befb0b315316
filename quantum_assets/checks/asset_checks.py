"""The pack as Dagster asset checks: one check per proof over the universe, and one per asset and symbol.

``proof_pack`` judges all symbols in one step and names those that fail. ``sound`` says for one symbol which proofs of an asset it
fails; the pack records it when that has changed, and of the asset as a whole each time. Anybody may ask for it for one symbol at
any time. ``calc_only_process`` runs in every cycle and stops what comes after it; beside it, whatever publishes or permits asks
``resources/calc_only.py`` itself.
"""

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import dagster as dg

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.pack import LOOK_AGAIN_SEC, PROOFS, by_symbol, judge, run, store_verdicts
from quantum_assets.checks.proof import RENEWED_AFTER_SEC, SOUND, Proof, Verdict
from quantum_assets.checks.proofs.inputs import INPUTS, USABLE
from quantum_assets.checks.results import result_of, sound_of_asset, sound_of_symbol
from quantum_assets.shared.order import PROPOSALS_FIRST
from quantum_assets.shared.shown_states import remember_checks
from resources.calc_only import loaded_trading_libraries
from resources.instance.dagster_internals import name_of
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError

HURRIED_LOOK_AGAIN_SEC = 0.5
CHUNK = 100  # checks of one symbol recorded before what was recorded is remembered
RECORD_UNTIL_SEC, RECORD_SEC_MIN = 30.0, 5.0  # since the pack began; at least; a run of it is given up after a minute
ASSETS = tuple(dict.fromkeys(proof.asset for proof in PROOFS if proof.per_symbol))


@dg.asset_check(
    asset="position",
    blocking=True,
    op_tags=PROPOSALS_FIRST,
    description="This process has loaded no exchange, broker or order library; else the cycle proposes and permits nothing.",
)
def calc_only_process() -> dg.AssetCheckResult:
    """Look at the modules this very process has loaded."""
    loaded = loaded_trading_libraries()
    metadata = {"loaded": ", ".join(loaded) or "none", "threshold": "none of the exchange, broker and order libraries"}
    return dg.AssetCheckResult(passed=not loaded, metadata=metadata)


@dg.multi_asset_check(
    name="proof_pack",
    specs=[dg.AssetCheckSpec(proof.name, asset=proof.asset, description=f"{proof.claim} ({proof.severity})") for proof in PROOFS],
    can_subset=True,
)
def proof_pack(context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[RedisStore]) -> Iterator[Any]:
    """Judge the selected proofs over all symbols."""
    selected = {(name_of(key.asset_key), key.name) for key in context.selected_asset_check_keys}
    proofs = [proof for proof in PROOFS if (proof.asset, proof.name) in selected]
    began = time.monotonic()
    hurried = context.op_execution_context.has_partition_key  # somebody materializes one symbol, and waits
    pause_sec = HURRIED_LOOK_AGAIN_SEC if hurried else LOOK_AGAIN_SEC
    verdicts = run(lambda: Evidence(store, context.instance, hurried=hurried), proofs, look_again_sec=pause_sec)
    yield from (result_of(verdict, store.settings) for verdict in verdicts)
    try:
        if len(proofs) == len(PROOFS):  # a part of the pack, perhaps under settings of the caller's own, is not recorded
            store_verdicts(store, verdicts, seconds=time.monotonic() - began)
            remember_checks(store, verdicts)
            until = max(began + RECORD_UNTIL_SEC, time.monotonic() + RECORD_SEC_MIN)
            yield from _changed_symbols(store, verdicts, until)
    except RedisUnavailableError as error:  # the verdicts say so themselves; Dagster still gets them
        context.log.warning(str(error))
    if len(proofs) == len(PROOFS):  # after the symbols: Dagster's list of checks shows the newest result, of a symbol or of all
        for asset in ASSETS:
            judged = [one for one in verdicts if one.proof.asset == asset and one.proof.per_symbol]
            yield sound_of_asset(asset, judged, store.settings)
    failed = [verdict.proof.title for verdict in verdicts if not verdict.passed]
    context.log.info(
        f"{len(verdicts) - len(failed)} of {len(verdicts)} proofs hold{'; not: ' if failed else ''}{', '.join(failed)}"
    )


@dg.multi_asset_check(
    name="inputs",
    specs=[dg.AssetCheckSpec(USABLE, asset=one.asset, description=f"{one.proof.claim} ({one.proof.severity})") for one in INPUTS],
    can_subset=True,
)
def input_checks(context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[RedisStore]) -> Iterator[dg.AssetCheckResult]:
    """Say of the selected inputs which symbols the last cycle could not use; each cycle records it when that has changed."""
    selected = {name_of(key.asset_key) for key in context.selected_asset_check_keys}
    evidence = Evidence(store, context.instance)
    verdicts = [judge(one.proof, evidence) for one in INPUTS if one.asset in selected]
    yield from (result_of(verdict, store.settings) for verdict in verdicts)
    with suppress(RedisUnavailableError):
        remember_checks(store, verdicts)


def _changed_symbols(store: RedisStore, verdicts: Sequence[Verdict], until: float) -> Iterator[dg.AssetCheckEvaluation]:
    """Record what each symbol fails, where that has changed since it was last recorded; changes first, the oldest before newer.

    Each costs Dagster some 4 ms: thousands at once, at the first start or when a host is lost, would outlast what a run of the
    pack is given. What is not recorded ``until`` then (monotonic s) follows in the next runs; the verdicts are in Redis.
    """
    failing_by_asset = by_symbol(verdicts, store.settings.symbols)
    (reply,) = store.run("reading what was recorded", [("HGETALL", store.keys.of("proofs_by_symbol"))])
    if isinstance(reply, Exception):
        return
    last = {name.decode(): _recorded(text.decode()) for name, text in zip(reply[::2], reply[1::2], strict=True)}
    now = store.clock().timestamp()
    due: list[tuple[bool, float, str, str]] = []
    for asset in failing_by_asset:
        for symbol, failing in failing_by_asset[asset].items():
            when, state = last.get(f"{asset}/{symbol}", (0.0, None))
            same = state == sorted(failing) or (state is None and not failing)
            if not same or now - when >= RENEWED_AFTER_SEC:
                due.append((same, when, asset, symbol))
    due.sort()
    for chunk in range(0, len(due), CHUNK):
        if chunk and time.monotonic() > until:
            return
        fields: list[str] = []
        for _, _, asset, symbol in due[chunk : chunk + CHUNK]:
            failing = failing_by_asset[asset][symbol]
            yield sound_of_symbol(asset, symbol, failing, store.settings)
            fields += [f"{asset}/{symbol}", json.dumps([now, sorted(failing)])]
        store.run("remembering what was recorded", [("HSET", store.keys.of("proofs_by_symbol"), *fields)])


def _recorded(text: str) -> tuple[float, list[str] | None]:
    """Read when a symbol was last recorded, and with what; junk is read as never."""
    try:
        when, failing = json.loads(text)
        return float(when), list(failing)
    except (ValueError, TypeError):
        return 0.0, None


def sound_checks(partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetChecksDefinition]:
    """Build the checks of one symbol: one per asset."""
    return [_sound_check(asset, [p for p in PROOFS if p.asset == asset and p.per_symbol], partitions) for asset in ASSETS]


def _sound_check(asset: str, proofs: Sequence[Proof], partitions: dg.PartitionsDefinition[str]) -> dg.AssetChecksDefinition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # checks of a partition are a preview; the version is pinned
        spec = dg.AssetCheckSpec(
            SOUND,
            asset=asset,
            partitions_def=partitions,
            description=f"One symbol keeps {', '.join(proof.name for proof in proofs)}.",
        )

    @dg.multi_asset_check(name=f"{asset}_{SOUND}", specs=[spec])
    def check(context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[RedisStore]) -> Iterator[Any]:
        of_symbols = context.has_partition_key or context.has_partition_key_range
        symbols = context.partition_keys if of_symbols else store.settings.symbols  # "Execute all" names no partition
        verdicts = run(lambda: Evidence(store, context.instance, hurried=True), proofs)
        failing = by_symbol(verdicts, store.settings.symbols)[asset]
        for symbol in symbols:
            yield sound_of_symbol(asset, symbol, failing[symbol], store.settings)
        if not of_symbols:  # last: Dagster's list of checks shows the newest result
            yield sound_of_asset(asset, verdicts, store.settings)
        yield dg.Output(None, output_name=next(iter(context.op_execution_context.op_def.output_dict)))

    return check
