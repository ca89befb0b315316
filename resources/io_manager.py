"""The Redis IO manager: a frame in, one hash per symbol out; hashes back as a frame. One row is one symbol, or the account.

Frames carry ``symbol``, ``state`` and ``why`` beside the table's fields. Rows in state ``present`` are published under the
rate limit; only a symbol really published becomes a materialization, with its own metadata. What failed is named in the
step's output metadata and in the log, and leaves the other symbols and its own old hash alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

import dagster as dg
import polars as pl

from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import Table
from quantum_core.display import price_text
from quantum_core.failure import Failure
from quantum_core.profiles.profile import Profile
from resources.calc_only import require_calc_only
from resources.instance.dagster_internals import materialize, name_of, take_over_asset_events
from resources.instance.event_log import Made
from resources.instance.range_tags import RANGE_TAGS, covered, symbols_of
from resources.recorder.lifetimes import INTENT_DUE
from resources.recorder.tape import Tape, tape_of
from resources.store.counts import count_publications
from resources.store.failures import read_failures, record_failures
from resources.store.intents import GONE, record_intents
from resources.store.lease import require_newest
from resources.store.profiles import take_profile
from resources.store.publication import Publication, publish
from resources.store.published import OfRun, Shared
from resources.store.redis_store import RedisStore

CYCLE_ID_TAG = "quantum/cycle_id"
ONCE_TAG = "quantum/once"  # one cycle on request, in its own process: nothing waits for it, and it is no evidence that cycles run
CYCLE_TAG = "quantum/cycle"  # marks runs of the cycle: data trouble of some symbols must not skip the steps of the others
WORDS = (  # fields shown with a materialization, beside the numbers that are plotted
    "harvest_action",
    "binding",
    "intent_id",
    "regime",
    "status",
    "reason",
    "source",
    "last_plan_id",
    "last_decision",
    "last_reason",
    "last_evidence",
)
FAILURES_SHOWN = 50  # rows of the table of failing symbols; the count is always exact

TO_FIX = {  # beginning of a reason code to the input that is wrong
    "candles": "the candles",
    "too_few_candles": "the candles",
    "price_": "the candles",
    "market_state": "the candles, from which the market state is computed",
    "position": "the snapshot of the position, which the execution side writes",
    "risk_proposal": "the candles or the position, from which the risk proposal is computed",
}

log = logging.getLogger("quantum.publish")


class RecordedStep(Protocol):
    """What one step changes of what Dagster's pages show of its symbols."""

    due: Any  # with ``failed`` and ``recovered``, as they are to be shown

    def judge(self, evaluated: Sequence[str], failures: Mapping[str, str]) -> object:
        """Decide what to record, before anything is materialized."""

    def record(self, frame: pl.DataFrame, materialized: Collection[str], *, run_fails: bool) -> None:
        """Record it."""


class ShowsSymbols(Protocol):
    """Keeps what Dagster's pages show of single symbols in step with what a step found."""

    def step(self, context: dg.OutputContext, table: Table, cycle_id: str, failing: Collection[str]) -> RecordedStep:
        """Begin with one step."""


class RedisIOManager(dg.IOManager):
    """Publishes and reads the frames of one code location.

    Parameters
    ----------
    store
        Where the tables live.
    tables
        The contract of each asset, by asset name.
    shown
        Receives the symbols of every step that did not run under other settings.
    writes
        ``hash``: publish in full. ``stream``: append to the stream only (a shadow). ``nothing``: someone else writes the hash,
        the asset only records what was read.
    """

    def __init__(
        self,
        store: RedisStore,
        tables: Mapping[str, Table],
        shown: ShowsSymbols,
        writes: Literal["hash", "stream", "nothing"] = "hash",
    ) -> None:
        self.store = store
        self.tables = tables
        self.writes = writes
        self._shown = shown

    def load_input(self, context: dg.InputContext) -> pl.DataFrame:
        """Read the upstream asset for the symbols of this run; a value too old to act on is a failure by name."""
        table = self.tables[name_of(context.asset_key)]
        run, tags = self.store.published.of_run(context.step_context.run_id), context.step_context.dagster_run.tags
        frame = self._read_once(run, table, list(covered(context.asset_partition_keys, tags, self.store.settings.symbols)))
        return _marked(frame, run.without.get(table.asset, {}))

    def handle_output(  # type: ignore[override]
        self, context: dg.OutputContext, obj: pl.DataFrame
    ) -> Iterator[Any]:
        """Publish what is due and yield one materialization per published symbol.

        Raises
        ------
        dagster.Failure
            A run outside the cycle could publish none of its symbols although something was due.
        OvertakenError
            A newer cycle was requested for these symbols.
        RedisUnavailableError
            The server is away.
        """
        require_calc_only()
        take_over_asset_events(context)
        table = self.tables[name_of(context.asset_key)]
        run = context.step_context.dagster_run
        tags, cycle_id, profile = run.tags, cycle_id_of(run), take_profile(self.store, run.tags)
        if of_the_loop(run):
            require_newest(self.store, symbols_of(tags, self.store.settings.symbols), cycle_id)
        rows = {row["symbol"]: row for row in obj.filter(pl.col("state") == State.PRESENT).iter_rows(named=True)}
        shared = self.store.published.of_run(run.run_id)
        shared.frames.pop(table.asset, None)
        now = self.store.clock()
        outcomes = self._write(table, list(rows.values()), cycle_id, now)
        if (tape := tape_of(self.store)) is not None:
            self._take(tape, obj, outcomes)
            tape.record(table, obj, outcomes, slot=_slot(table, tags, obj), cycle_id=cycle_id, run_id=run.run_id, now=now)
        failures = {
            **dict(obj.filter(pl.col("state") == State.FAILED).select("symbol", "why").iter_rows()),
            **{outcome.symbol: outcome.error for outcome in outcomes if outcome.error},
        }
        count_publications(self.store, table.asset, outcomes, rows, len(failures))
        shown: RecordedStep | None = None
        if ONCE_TAG not in tags:  # under other settings, perhaps: what the deployment shows is not changed by it
            failing = record_failures(self.store, table.asset, obj["symbol"].to_list(), failures, cycle_id)
            shown = self._shown.step(context, table, cycle_id, failing)
            shown.judge(obj["symbol"].to_list(), failures)
        shared.without[table.asset] = _unpublished(obj)
        on_request = CYCLE_TAG not in tags  # whoever asks for one symbol sees its materialization, also when it has not changed
        recovered = frozenset(shown.due.recovered if shown is not None else ())  # shown as failed until they are materialized
        recorded = [
            outcome
            for outcome in outcomes
            if outcome.published or ((on_request or outcome.symbol in recovered) and not outcome.error)
        ]
        _log_recorded(context, table, recorded, rows, on_request=on_request)
        made = [
            Made(None if table.of_account else outcome.symbol, _metadata(table, rows[outcome.symbol], outcome, cycle_id, profile))
            for outcome in recorded
        ]
        yield from materialize(context, made, shown=on_request)
        run_fails = on_request and bool(failures) and not recorded
        if shown is not None:
            shown.record(obj, {outcome.symbol for outcome in recorded}, run_fails=run_fails)
        context.add_output_metadata(_counts(obj, outcomes, failures, cycle_id))
        if failures:
            news = on_request or shown is None or shown.due.failed  # an hour of the same lines would fill the event log
            _report_failures(context.log.warning if news else log.info, table, failures, len(obj), run_fails=run_fails)

    def _read_once(self, run: OfRun, table: Table, symbols: Sequence[str]) -> pl.DataFrame:
        """Read what was published, once for all steps of a run that need it: they act on the same values, at one price."""
        frame = run.frame(table.asset, symbols)
        if frame is None:
            began, fresh = time.monotonic(), fresh_frame(self.store, table, symbols)
            computed_here = table.asset in run.without  # then this run knows by itself what failed
            failures = {} if computed_here else read_failures(self.store, [table.asset])[table.asset]
            frame = _marked(fresh, _without_value(fresh, failures))
            run.frames[table.asset] = Shared(began, symbols, frame)
        return frame

    def _take(self, tape: Tape, frame: pl.DataFrame, outcomes: Sequence[Publication]) -> None:
        """Note what the step has changed in Redis beside its publications: nothing."""

    def _write(self, table: Table, rows: Sequence[Mapping[str, Any]], cycle_id: str, now: datetime) -> list[Publication]:
        if self.writes == "nothing":
            return [Publication(str(row["symbol"]), published=True, cause="read") for row in rows]
        return publish(self.store, table, rows, cycle_id=cycle_id, stream_only=self.writes == "stream", now=now)


class IntentIOManager(RedisIOManager):
    """Records the rows of ``trade_intent``: a new intent is a publication, everything else only renews what was last intended."""

    def _write(self, table: Table, rows: Sequence[Mapping[str, Any]], cycle_id: str, now: datetime) -> list[Publication]:  # noqa: ARG002 - two tables, not one
        return record_intents(self.store, rows, cycle_id=cycle_id, now=now)

    def _take(self, tape: Tape, frame: pl.DataFrame, outcomes: Sequence[Publication]) -> None:
        """Note which intents are actionable: that one has ended is no publication, and would be recorded nowhere."""
        written = [one.symbol for one in outcomes if not one.error]
        renewed = (pl.col("state") == State.PRESENT) & pl.col("symbol").is_in(written)
        let_go = (pl.col("state") == State.ABSENT) & pl.col("why").is_in(GONE)
        found = frame.filter(renewed | let_go).select("symbol", renewed & pl.col("due"))
        tape.take(INTENT_DUE, {symbol: {"due": bool(due)} for symbol, due in found.iter_rows()})


class NotesIOManager(dg.IOManager):
    """Records one materialization per output with the metadata it is given: the rows were written by the asset itself."""

    def load_input(self, context: dg.InputContext) -> None:
        """Refuse: nothing is kept here.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(context.asset_key.to_user_string())

    def handle_output(  # type: ignore[override]
        self, context: dg.OutputContext, obj: Mapping[str, float | str]
    ) -> Iterator[Any]:
        """Record what the asset says of itself."""
        take_over_asset_events(context)
        yield from materialize(context, [Made(None, obj)], shown=CYCLE_TAG not in context.step_context.dagster_run.tags)


def remedy_of(failures: Mapping[str, str]) -> str:
    """Name the input to fix: that of the first asset that failed, not of what follows from it."""
    first = next(iter(failures.values()))
    inputs = next((words for code, words in TO_FIX.items() if first.startswith(code)), "the named input")
    return f"Fix {inputs}, then materialize again."


def of_the_loop(run: dg.DagsterRun) -> bool:
    """Whether a run is a scheduled cycle, not one on request."""
    return CYCLE_ID_TAG in run.tags and ONCE_TAG not in run.tags


def cycle_id_of(run: dg.DagsterRun) -> str:
    """Give the id all publications of a run carry: the cycle's, or the run's own when somebody asked for it."""
    return run.tags.get(CYCLE_ID_TAG, run.run_id)


def _slot(table: Table, tags: Mapping[str, str], frame: pl.DataFrame) -> str:
    """Name whose record a step continues: its shard's, whoever computes it; one that only decides plans remembers nothing."""
    shard = tags.get(RANGE_TAGS[0], next(iter(frame["symbol"]), ""))
    return f"{shard}:{table.asset}" if table.asset == "governor_permit" and CYCLE_TAG not in tags else shard


def fresh_frame(store: RedisStore, table: Table, symbols: Sequence[str]) -> pl.DataFrame:
    """Read one table as a frame, one row per symbol in the order asked for.

    Returns
    -------
    polars.DataFrame
        ``symbol``, ``state``, ``why`` and the table's fields; a hash older than its limit is ``failed`` and keeps its fields.
    """
    return table.frame(store.read_fresh(table, symbols))


def _unpublished(frame: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """Name what a step could not publish: later steps of its run must not act on an older hash instead."""
    rows = frame.filter(pl.col("state") != State.PRESENT).select("symbol", "state", "why").iter_rows()
    return {symbol: (state, why) for symbol, state, why in rows}


def _without_value(frame: pl.DataFrame, failures: Mapping[str, Failure]) -> dict[str, tuple[str, str]]:
    """Name the symbols whose last evaluation failed, with its reason: what stands in Redis is of before.

    A market state is evaluated once a minute. Between two evaluations an asset that needs it would go on with the older hash for
    as long as that is young, and afterwards fail for want of it: red, green, red, each time with another reason.
    """
    if not failures:
        return {}
    evaluated = dict(frame.filter(pl.col("state") == State.PRESENT).select("symbol", "last_update_epoch").iter_rows())
    return {
        symbol: (State.FAILED.value, failure.why)
        for symbol, failure in failures.items()
        if failure.at >= evaluated.get(symbol, -math.inf)
    }


def _marked(frame: pl.DataFrame, without: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """Replace state and reason of the symbols that have no value to act on."""
    if not without:
        return frame
    marks = pl.DataFrame(
        [(symbol, state, why) for symbol, (state, why) in without.items()],
        schema={"symbol": pl.String, "state": pl.String, "why": pl.String},
        orient="row",
    )
    return frame.update(marks, on="symbol", how="left")


def _log_recorded(
    context: dg.OutputContext,
    table: Table,
    recorded: Sequence[Publication],
    rows: Mapping[str, Mapping[str, Any]],
    *,
    on_request: bool,
) -> None:
    """Log what is recorded, one line per symbol."""
    write = context.log.info if on_request else log.info  # the cycle's own lines would fill the event log
    for outcome in recorded if on_request or log.isEnabledFor(logging.INFO) else ():
        write("%s %s", "Published" if outcome.published else "Unchanged", table.headline_of(rows[outcome.symbol]))


def _counts(frame: pl.DataFrame, outcomes: Sequence[Publication], failures: Mapping[str, str], cycle_id: str) -> dict[str, Any]:
    """Count what became of the symbols, as the metadata of the step's output."""
    return {
        "evaluated": len(frame),
        "published": sum(outcome.published for outcome in outcomes),
        "unchanged": sum(not outcome.published and not outcome.error for outcome in outcomes),
        "nothing_due": frame.filter(pl.col("state") == State.ABSENT)["symbol"].n_unique(),
        "failed": len(failures),
        "cycle_id": cycle_id,
        **({"failures": _failure_table(failures)} if failures else {}),
    }


def _report_failures(
    warn: Callable[..., None], table: Table, failures: Mapping[str, str], evaluated: int, *, run_fails: bool
) -> None:
    """Log the symbols that failed.

    Raises
    ------
    dagster.Failure
        The run fails with them.
    """
    named = "; ".join(f"{symbol}: {reason}" for symbol, reason in list(failures.items())[:FAILURES_SHOWN])
    warn("%s: %d of %d symbols failed: %s", table.asset, len(failures), evaluated, named)
    if run_fails:
        raise dg.Failure(
            description=f"{table.asset} published nothing. {named}. {remedy_of(failures)}",
            metadata={"failures": _failure_table(failures)},
        )


def _metadata(table: Table, row: Mapping[str, Any], outcome: Publication, cycle_id: str, profile: Profile) -> dict[str, Any]:
    numbers = {item.name: float(row[item.name]) for item in table.fields if item.plot and row.get(item.name) is not None}
    words = {name: str(row[name]) for name in WORDS if row.get(name)}
    codes = {name: ",".join(row[name]) for name in ("reason_codes", "guards", "errors") if row.get(name)}
    amounts = {
        item.name: f"{price_text(float(row[item.name]))} {item.unit}"
        for item in table.fields
        if item.show and row.get(item.name) is not None
    }
    if not table.of_account:
        words["symbol"] = str(row["symbol"])
    if table.asset == "risk_proposal":  # stop_dist_pct is what the model asks for; the stop itself never loosens
        away = 1 - row["proposed_sl"] / row["position_current_price"]
        numbers["stop_distance_from_mark"] = away if row["position_side"] == "LONG" else -away
    fingerprint, name = profile.stamp_of(str(row["symbol"]))
    made = {"published_because": outcome.cause, "cycle_id": cycle_id, "profile": f"{name} {fingerprint}"}
    return {**numbers, **amounts, **words, **codes, **made}


def _failure_table(failures: Mapping[str, str]) -> dg.TableMetadataValue:
    records = [dg.TableRecord({"symbol": symbol, "reason": reason}) for symbol, reason in list(failures.items())[:FAILURES_SHOWN]]
    columns = [dg.TableColumn("symbol"), dg.TableColumn("reason")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=columns))
