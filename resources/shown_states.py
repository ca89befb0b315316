"""What Dagster's pages show of each symbol follows what a step found: failed partitions, the check ``fresh``, inputs.

A run of many symbols succeeds although some of them fail, so that Dagster alone would show every partition as materialized
and every age as that of the newest symbol. Here the difference between what was found and what is shown is recorded, and
nothing else: what is shown is kept in Redis, one hash per asset, and written after the events, so that a crash between them
repeats an event and loses none. When a value is stale is decided in ``quantum_assets.freshness``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dagster as dg
import polars as pl

from quantum_assets.checks.common import FRESH, fresh, freshness_finding
from quantum_assets.checks.inputs import INPUTS, USABLE, Input, code_of, usable
from quantum_assets.checks.proof import RENEWED_AFTER_SEC, Verdict
from quantum_assets.checks.results import evaluation_of
from quantum_assets.contracts.schema import Table
from quantum_assets.freshness import ASSETS, Limits, Vital, evaluate
from resources.dagster_internals import fail_partitions, observe, record_checks, settle_partitions, storage_id
from resources.failures import read_failures
from resources.redis_store import RedisStore, flat, pairs
from resources.vital_signs import VitalSignsReader

FRESH_FIELD, USABLE_FIELD = "_fresh", "_usable"  # what the checks of the asset show, beside its symbols
RENEWED_AT_ONCE = 20  # inputs observed again in one cycle although nothing has changed
SYMBOLS_TAG, SYMBOLS_TAGGED = "quantum/symbols", 20
CYCLE_RUN_TAG = "quantum/cycle_run"


class Shown(NamedTuple):
    """What is shown of one symbol: since when (epoch s), why, whether as failed, and in which instance's storage."""

    at: float
    code: str
    failed: bool
    storage: str


@dataclass(frozen=True)
class Due:
    """What is to be recorded of the symbols of one step.

    Attributes
    ----------
    failed
        Symbol to reason: to be shown as failed, or with another reason.
    recovered
        Shown as failed, and no longer so.
    forgotten
        Recovered long enough ago.
    """

    failed: Mapping[str, str] = field(default_factory=dict)
    recovered: Sequence[str] = ()
    forgotten: Sequence[str] = ()


def decide(
    shown: Mapping[str, Shown],
    evaluated: Collection[str],
    failures: Mapping[str, str],
    *,
    now: float,
    storage: str,
    spacing_sec: float,
) -> Due:
    """Decide what to record of the symbols of one step.

    Parameters
    ----------
    shown
        What is shown.
    evaluated, failures
        Symbols of the step, and those that failed with the reason.
    now
        Epoch s.
    storage
        Identity of the instance's storage: what another one shows says nothing of this one.
    spacing_sec
        A symbol that flaps is shown as failed once in this time at most, and as recovered as often.
    """
    failed = {
        symbol: why for symbol, why in failures.items() if _differs(shown.get(symbol), code_of(why), now, storage, spacing_sec)
    }
    over = [(symbol, shown[symbol]) for symbol in evaluated if symbol in shown and symbol not in failures]
    recovered = tuple(symbol for symbol, entry in over if entry.failed)
    forgotten = tuple(symbol for symbol, entry in over if not entry.failed and not 0 <= now - entry.at < spacing_sec)
    return Due(failed, recovered, forgotten)


def _differs(entry: Shown | None, code: str, now: float, storage: str, spacing_sec: float) -> bool:
    if entry is None or entry.storage != storage:
        return True
    same = entry.failed and entry.code == code
    return not 0 <= now - entry.at < (RENEWED_AFTER_SEC if same else spacing_sec)


class ShownStates:
    """Keeps what is shown of the assets of one code location in step with what their steps find.

    Parameters
    ----------
    store
        Where it is kept.
    """

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self._signs: tuple[tuple[str, tuple[str, ...]], Sequence[Vital]] | None = None

    def step(self, context: dg.OutputContext, table: Table, cycle_id: str) -> ShownStep:
        """Read what is shown of the asset a step has computed."""
        (reply,) = self.store.run("reading what is shown", [("HGETALL", self.store.keys.of("shown", table.asset))])
        fields = {} if isinstance(reply, Exception) else pairs(reply)
        if isinstance(reply, Exception):  # not a hash of ours: nobody else writes here
            self.store.run("replacing what is shown", [("DEL", self.store.keys.of("shown", table.asset))])
        return ShownStep(self, context, table, cycle_id, {name.decode(errors="replace"): text for name, text in fields.items()})

    def vitals_of(self, run_id: str, symbols: Sequence[str], *, may_have_changed: bool) -> Sequence[Vital]:
        """Read and judge the clocks of a few symbols, once per run where they have not changed since."""
        key = run_id, tuple(symbols)
        if self._signs is None or self._signs[0] != key or may_have_changed:
            few = self.store.settings.model_copy(update={"symbols": tuple(symbols)})
            signs = VitalSignsReader(RedisStore(few, self.store.clock, self.store.client)).read()
            self._signs = key, evaluate(signs, Limits.of(self.store.settings), self.store.clock().timestamp()).vitals
        return self._signs[1]


class ShownStep:
    """What one step changes of what is shown; see :class:`ShownStates`."""

    def __init__(
        self, states: ShownStates, context: dg.OutputContext, table: Table, cycle_id: str, fields: Mapping[str, bytes]
    ) -> None:
        self.states, self.store, self.context, self.table, self.cycle_id = states, states.store, context, table, cycle_id
        self.fields = fields
        self.now = self.store.clock().timestamp()
        self.storage = storage_id(context.step_context.instance)
        self.due = Due()
        self.failures: Mapping[str, str] = {}

    def judge(self, evaluated: Sequence[str], failures: Mapping[str, str]) -> Due:
        """Decide what is to be recorded once the step's own materializations are stored."""
        self.failures = failures
        self.due = decide(
            _decoded(self.fields),
            evaluated,
            failures,
            now=self.now,
            storage=self.storage,
            spacing_sec=self.store.settings.max_publish_age_sec,
        )
        return self.due

    def record(self, frame: pl.DataFrame, materialized: Collection[str], *, run_fails: bool) -> None:
        """Record it.

        Parameters
        ----------
        frame
            What the step computed.
        materialized
            Symbols of which it has recorded a materialization.
        run_fails
            Whether the run itself will fail: Dagster then marks its partitions as failed.
        """
        due, account = self.due, self.table.of_account
        if due.failed and not run_fails:
            named = list(due.failed)[:SYMBOLS_TAGGED]
            tags = {"quantum/cycle_id": self.cycle_id, CYCLE_RUN_TAG: self.context.step_context.run_id}
            failures = {None if account else symbol: why for symbol, why in due.failed.items()}
            fail_partitions(self.context, failures, {**tags, SYMBOLS_TAG: ",".join(named)})
        if settled := [None if account else symbol for symbol in due.recovered if symbol not in materialized]:
            settle_partitions(self.context, settled)
        shown = _decoded(self.fields)
        news = {symbol: Shown(self.now, code_of(why), failed=True, storage=self.storage) for symbol, why in due.failed.items()}
        news |= {symbol: shown[symbol]._replace(failed=False) for symbol in due.recovered}
        changed = {symbol: json.dumps(entry) for symbol, entry in news.items()} | self._fresh()
        self._remember(self.table.asset, changed, due.forgotten)
        for one in INPUTS:
            if one.read_by == self.table.asset:
                self._record_input(one, frame)

    def _remember(self, asset: str, changed: Mapping[str, str], gone: Sequence[str] = ()) -> None:
        key = self.store.keys.of("shown", asset)
        commands: list[tuple[Any, ...]] = [("HSET", key, *flat(changed))] if changed else []
        commands += [("HDEL", key, *gone)] if gone else []
        if commands:
            self.store.run("remembering what is shown", commands)

    def _fresh(self) -> dict[str, str]:
        """Record the check ``fresh`` of the asset when its state has changed."""
        asset = self.table.asset
        if asset not in ASSETS_WITH_CHECK:
            return {}
        before = self.fields.get(FRESH_FIELD, state_of(None))
        failing = read_failures(self.store, [asset])[asset]
        suspects = {*failing, *_symbols_of(before)} & set(self.store.settings.symbols)
        written = not suspects <= set(failing)  # who fails has not been written since a step before this one read it
        run_id = self.context.step_context.run_id
        vitals = self.states.vitals_of(run_id, sorted(suspects), may_have_changed=written) if suspects else ()
        verdict = Verdict(fresh(asset), freshness_finding(asset, vitals, judged=len(self.store.settings.symbols)))
        if (state := state_of(verdict)) == before:
            return {}
        record_checks(self.context, [evaluation_of(verdict)])
        return {FRESH_FIELD: state.decode()}

    def _record_input(self, one: Input, frame: pl.DataFrame) -> None:
        """Observe the symbols of an input whose state has changed, and record its check when that has."""
        (reply,) = self.store.run("reading what is shown", [("HGETALL", self.store.keys.of("shown", one.asset))])
        fields = {} if isinstance(reply, Exception) else {name.decode(): text for name, text in pairs(reply).items()}
        shown = _decoded(fields)
        news: dict[str, Shown] = {}
        old: list[tuple[float, str]] = []
        readings = one.readings(frame)
        for symbol, reading in readings.items():
            entry = shown.get(symbol)
            if entry is None or (entry.code, entry.failed, entry.storage) != (reading.code, reading.failed, self.storage):
                news[symbol] = Shown(self.now, reading.code, failed=reading.failed, storage=self.storage)
            elif not 0 <= self.now - entry.at < RENEWED_AFTER_SEC:
                old.append((entry.at, symbol))
        for _, symbol in sorted(old)[:RENEWED_AT_ONCE]:
            news[symbol] = shown[symbol]._replace(at=self.now)
        if news:
            observations = [
                dg.AssetObservation(
                    one.asset,
                    description=readings[symbol].words,
                    partition=symbol,
                    metadata=readings[symbol].metadata(self.now),
                )
                for symbol in news
            ]
            observe(self.context, observations)
        failing = {symbol for symbol, entry in {**shown, **news}.items() if entry.failed}
        before = fields.get(USABLE_FIELD, state_of(None))
        changed = {symbol: json.dumps(entry) for symbol, entry in news.items()}
        if failing or before != state_of(None):
            verdict = usable(self.store, one)
            if (state := state_of(verdict)) != before:
                record_checks(self.context, [evaluation_of(verdict)])
                changed[USABLE_FIELD] = state.decode()
        self._remember(one.asset, changed)


def state_of(verdict: Verdict | None) -> bytes:
    """Give what is shown of a check, to be compared: how bad it is, and of which symbols; none is one that holds."""
    if verdict is None or verdict.passed:
        return b'["", []]'
    return json.dumps([verdict.severity, sorted(verdict.finding.failing)]).encode()


def remember_checks(store: RedisStore, verdicts: Sequence[Verdict]) -> None:
    """Remember what the pack has recorded of the checks that the cycle records too, so that the cycle corrects what is old."""
    shown = [(verdict, FRESH_FIELD) for verdict in verdicts if verdict.proof.name == FRESH]
    shown += [(verdict, USABLE_FIELD) for verdict in verdicts if verdict.proof.name == USABLE]
    store.run(
        "remembering what is shown",
        [("HSET", store.keys.of("shown", one.proof.asset), name, state_of(one)) for one, name in shown],
    )


def _symbols_of(state: bytes) -> list[str]:
    try:
        return [str(symbol) for symbol in json.loads(state)[1]]
    except (ValueError, TypeError, LookupError):
        return []


def _decoded(fields: Mapping[str, bytes]) -> dict[str, Shown]:
    """Decode the entries of symbols; one that is none of ours is left out, and replaced."""
    shown = {}
    for name, text in fields.items():
        if name.startswith("_"):
            continue
        try:
            at, code, failed, storage = json.loads(text)
            shown[name] = Shown(float(at), str(code), failed=failed is True, storage=str(storage))
        except (ValueError, TypeError):
            continue
    return shown


ASSETS_WITH_CHECK = frozenset(ASSETS) - {"capital_efficiency"}  # that one is another producer's, or has its own proofs
