"""What Dagster's pages show of each symbol follows what a step found: failed partitions, the check ``fresh``, inputs.

A run of many symbols succeeds although some of them fail, so that Dagster alone would show every partition as materialized
and every age as that of the newest symbol. Here the difference between what was found and what is shown is recorded, and
nothing else: what is shown is kept in Redis, one hash per asset, and written after the events, so that a crash between them
repeats an event and loses none. When a value is stale is decided in ``quantum_core.freshness``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import polars as pl

from quantum_assets.checks.common import FRESH, freshness_finding
from quantum_assets.checks.pack import PROOFS
from quantum_assets.checks.proof import RENEWED_AFTER_SEC, Verdict
from quantum_assets.checks.proofs.inputs import INPUTS, USABLE, Input, InputReading, code_of
from quantum_assets.checks.proofs.risk_guard import guard_vital
from quantum_assets.checks.results import evaluation_of
from quantum_core.contracts.schema import ACCOUNT, Table
from quantum_core.contracts.tables import CAPITAL_EFFICIENCY
from quantum_core.freshness import Limits, Vital, evaluate
from resources.inputs.foreign import number_or_none
from resources.instance.dagster_internals import fail_partitions, observe, record_checks, settle_partitions, storage_id
from resources.shown import FRESH_FIELD, SINCE, USABLE_FIELD, Shown, decoded
from resources.store.redis_store import RedisStore, flat, pairs
from resources.store.vital_signs import CLOCK, VitalSignsReader, sign_of

FRESH_PROOFS = {proof.asset: proof for proof in PROOFS if proof.name == FRESH}
RANKS = {"": 0, "WARN": 1, "ERROR": 2}  # severity to how bad it is
RENEWED_AT_ONCE = 20  # inputs observed again in one cycle although nothing has changed
SYMBOLS_TAG, SYMBOLS_TAGGED = "quantum/symbols", 20
CYCLE_RUN_TAG = "quantum/cycle_run"


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

    def step(self, context: dg.OutputContext, table: Table, cycle_id: str, failing: Collection[str]) -> ShownStep:
        """Read what is shown of the asset a step has computed; ``failing`` are all symbols recorded as such, of any shard."""
        (reply,) = self.store.run("reading what is shown", [("HGETALL", self.store.keys.of("shown", table.asset))])
        fields = {} if isinstance(reply, Exception) else pairs(reply)
        if isinstance(reply, Exception):  # not a hash of ours: nobody else writes here
            self.store.run("replacing what is shown", [("DEL", self.store.keys.of("shown", table.asset))])
        shown = {name.decode(errors="replace"): text for name, text in fields.items()}
        return ShownStep(self, context, table, cycle_id, failing, shown)

    def vitals_of(self, run_id: str, symbols: Sequence[str], *, may_have_changed: bool) -> Sequence[Vital]:
        """Read and judge the clocks of a few symbols, once per run where they have not changed since."""
        key = run_id, tuple(symbols)
        if self._signs is None or self._signs[0] != key or may_have_changed:
            few = self.store.settings.model_copy(update={"symbols": tuple(symbols)})
            signs = VitalSignsReader(RedisStore(few, self.store.clock, self.store.client)).read(with_failures=False)
            self._signs = key, evaluate(signs, Limits.of(self.store.settings), self.store.clock().timestamp()).vitals
        return self._signs[1]


class ShownStep:
    """What one step changes of what is shown; see :class:`ShownStates`."""

    def __init__(
        self,
        states: ShownStates,
        context: dg.OutputContext,
        table: Table,
        cycle_id: str,
        failing: Collection[str],
        fields: Mapping[str, bytes],
    ) -> None:
        self.states, self.store, self.context, self.table, self.cycle_id = states, states.store, context, table, cycle_id
        self.failing, self.fields = frozenset(failing), fields
        self.now = self.store.clock().timestamp()
        self.storage = storage_id(context.step_context.instance)
        self.due = Due()

    def judge(self, evaluated: Sequence[str], failures: Mapping[str, str]) -> Due:
        """Decide what is to be recorded once the step's own materializations are stored."""
        self.due = decide(
            decoded(self.fields),
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
        shown = decoded(self.fields)
        news = {symbol: Shown(self.now, code_of(why), failed=True, storage=self.storage) for symbol, why in due.failed.items()}
        news |= {symbol: shown[symbol]._replace(failed=False) for symbol in due.recovered}
        changed = {symbol: json.dumps(entry) for symbol, entry in news.items()} | self._fresh()
        self._remember(self.table.asset, changed, due.forgotten)
        for source in INPUTS:
            if source.read_by == self.table.asset:
                self._record_input(source, frame)

    def _remember(self, asset: str, changed: Mapping[str, str], gone: Sequence[str] = ()) -> None:
        key = self.store.keys.of("shown", asset)
        commands: list[tuple[Any, ...]] = [("HSET", key, *flat(changed))] if changed else []
        commands += [("HDEL", key, *gone)] if gone else []
        if commands:
            self.store.run("remembering what is shown", commands)

    def _fresh(self) -> dict[str, str]:
        """Record the check ``fresh`` of the asset when its state has changed."""
        asset, settings = self.table.asset, self.store.settings
        if asset not in FRESH_PROOFS or (asset == CAPITAL_EFFICIENCY.asset and not Limits.of(settings).efficiency_due):
            return {}
        before = self.fields.get(FRESH_FIELD, state_of(None))
        subjects = [ACCOUNT] if self.table.of_account else settings.symbols
        suspects = {*self.failing, *_symbols_of(before)} & set(subjects)
        vitals: Sequence[Vital] = ()
        if suspects and self.table.of_account:
            (clock,) = self.store.run("reading a clock", [("HGET", self.store.keys.of(self.table.key), CLOCK)])
            vitals = [guard_vital(sign_of(clock), settings, self.now)]
        elif suspects:
            written = not suspects <= self.failing  # who fails has not been written since a step before this one read it
            run_id = self.context.step_context.run_id
            vitals = self.states.vitals_of(run_id, sorted(suspects), may_have_changed=written)
        verdict = Verdict(FRESH_PROOFS[asset], freshness_finding(asset, vitals, judged=len(subjects)))
        return self._changed_check(verdict, FRESH_FIELD, self.fields)

    def _changed_check(self, verdict: Verdict, name: str, fields: Mapping[str, bytes]) -> dict[str, str]:
        """Record a check when it is not as shown: at once where it is worse, else a while after it last was not."""
        before, state = fields.get(name, state_of(None)), state_of(verdict)
        since = number_or_none(fields.get(name + SINCE)) or 0.0
        worse = _rank(state) > _rank(before)
        waits = 0 <= self.now - since < self.store.settings.max_publish_age_sec and not worse
        if state == before or waits:
            return {}
        record_checks(self.context, [evaluation_of(verdict, self.store.settings)])
        return {name: state.decode(), name + SINCE: repr(since if worse else self.now)}

    def _record_input(self, external: Input, frame: pl.DataFrame) -> None:
        """Observe the symbols of an input whose state has changed, and record its check when that has."""
        (reply,) = self.store.run("reading what is shown", [("HGETALL", self.store.keys.of("shown", external.asset))])
        fields = {} if isinstance(reply, Exception) else {name.decode(): text for name, text in pairs(reply).items()}
        shown, readings = decoded(fields), external.readings(frame, self.now)
        news = decide_input(
            shown, readings, now=self.now, storage=self.storage, spacing_sec=self.store.settings.max_publish_age_sec
        )
        if news:
            asset = dg.AssetKey(self.store.settings.asset_path(external.asset))
            observe(self.context, [_observation(asset, symbol, readings[symbol], self.now) for symbol in news])
        changed = {symbol: json.dumps(entry) for symbol, entry in news.items()}
        verdict = Verdict(external.proof, external.finding({**shown, **news}, self.store.settings.symbols))
        changed |= self._changed_check(verdict, USABLE_FIELD, fields)
        self._remember(external.asset, changed)


def decide_input(
    shown: Mapping[str, Shown], readings: Mapping[str, InputReading], *, now: float, storage: str, spacing_sec: float
) -> dict[str, Shown]:
    """Decide of which symbols an input is observed: where its state has changed, and where it is shown unchanged for too long.

    Parameters
    ----------
    shown
        What is shown.
    readings
        What was read.
    now
        Epoch s.
    storage
        Identity of the instance's storage.
    spacing_sec
        A change waits so long after another one of the same symbol, in either direction: an input that flaps is observed once
        in this time at most, and what it settles on is shown at the end of it.

    Returns
    -------
    dict
        What is shown then, of the symbols that are observed.
    """
    news: dict[str, Shown] = {}
    old: list[tuple[float, str]] = []
    for symbol, reading in readings.items():
        entry = shown.get(symbol)
        why = reading.words if reading.failed else ""
        if entry is None or entry.storage != storage:
            news[symbol] = Shown(now, reading.code, reading.failed, storage, why=why)
        elif (entry.code, entry.failed) != (reading.code, reading.failed):
            if not 0 <= now - entry.changed < spacing_sec:
                news[symbol] = Shown(now, reading.code, reading.failed, storage, changed=now, why=why)
        elif not 0 <= now - entry.at < RENEWED_AFTER_SEC:
            old.append((entry.at, symbol))
    for _, symbol in sorted(old)[:RENEWED_AT_ONCE]:
        news[symbol] = shown[symbol]._replace(at=now)
    return news


def _observation(asset: dg.AssetKey, symbol: str, reading: InputReading, now: float) -> dg.AssetObservation:
    partition = None if symbol == ACCOUNT else symbol
    return dg.AssetObservation(asset, description=reading.words, partition=partition, metadata=reading.metadata(now))


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


def _rank(state: bytes) -> int:
    try:
        return RANKS[json.loads(state)[0]]
    except (ValueError, TypeError, LookupError):
        return 0
