"""What others write, as the last cycle read it: one reading per symbol, and the check ``usable`` of each input.

The cycle reads the inputs anyway: what it found is in the frames of the assets that read them, and is judged here. Nothing is
read a second time, so that page and cycle never disagree. When an observation is recorded is decided in
``quantum_assets/shared/shown_states.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Proof
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.kernels.governor.limits import HOUR_SEC
from quantum_core.kernels.governor.risk_guard import CONSECUTIVE_LOSSES, DAILY_PNL, EQUITY, EQUITY_STALE, PEAK
from quantum_core.settings import Settings
from resources.governor.decisions import INVALID
from resources.governor.queue import waiting_plans
from resources.inputs.foreign import number_or_none
from resources.shown import Shown, decoded
from resources.store.redis_store import UnreadableKeyError, pairs

USABLE = "usable"
USABLE_CLAIM = "The last cycle could use what was written for every symbol."
SILENT_AFTER_INTERVALS = 6  # without a cycle for so long nothing is known of the inputs
ACCOUNT_INPUTS = (EQUITY, PEAK, DAILY_PNL, CONSECUTIVE_LOSSES)

Readings = Mapping[str, "InputReading"]


class NothingReadError(RuntimeError):
    """No cycle has read the inputs recently."""


@dataclass(frozen=True)
class InputReading:
    """One input of one symbol as a step found it.

    Attributes
    ----------
    code
        State, or the code of what is wrong, and the source: what changes it is worth an observation.
    words
        The same for people.
    failed
        Whether it cannot be used.
    epoch
        When it was written, epoch s, where it says so.
    details
        Count, source, key.
    """

    code: str
    words: str
    failed: bool = False
    epoch: float | None = None
    details: Mapping[str, float | str] = field(default_factory=dict)

    def metadata(self, now: float) -> dict[str, float | str]:
        """Lay it out for an observation at a time, epoch s."""
        age = {} if self.epoch is None else {"age_sec": round(now - self.epoch, 1)}
        return {"state": "failed" if self.failed else self.code.partition(" ")[0], "reason": self.words, **age, **self.details}


class Input(NamedTuple):
    """One input.

    Attributes
    ----------
    asset
        The external asset.
    read_by
        The asset whose step reads it first.
    readings
        Takes that step's frame and the time, epoch s; gives what the frame says of the input, by symbol, or of the whole under
        ``ACCOUNT``.
    whole
        Whether it has no symbols.
    is_read
        Whether any asset reads it under these settings.
    """

    asset: str
    read_by: str
    readings: Callable[[pl.DataFrame, float], Readings]
    whole: bool = False
    is_read: Callable[[Settings], bool] = lambda _: True

    @property
    def proof(self) -> Proof:
        """The claim of its check, judged by what the last cycle found."""
        return Proof(self.asset, USABLE, self.asset, "ERROR", USABLE_CLAIM, lambda evidence: last_finding(evidence, self))

    def finding(self, shown: Mapping[str, Shown], symbols: Sequence[str]) -> Finding:
        """Find what cannot be used, as it is shown."""
        subjects = {ACCOUNT} if self.whole else {*symbols, ACCOUNT}
        failing = {name: one.why or one.code for name, one in shown.items() if one.failed and name in subjects}
        judged = 1 if self.whole else len(symbols)
        return Finding(f"{judged - len(failing)} of {judged} usable", "all", judged if shown else 0, failing)


def last_finding(evidence: Evidence, source: Input) -> Finding:
    """Judge an input by what the last cycle has shown of it.

    Raises
    ------
    NothingReadError
        No cycle has ended recently: nothing is known.
    RedisUnavailableError
        The server is away.
    """
    store, settings = evidence.store, evidence.settings
    if not source.is_read(settings):
        return Finding(f"no asset reads it (EFFICIENCY_MODE={settings.efficiency_mode})", "read by an asset", 0)
    if source is PLANS:  # where they are no stream the governor's step fails, and shows nothing of its inputs
        try:
            waiting_plans(store)
        except UnreadableKeyError as error:
            return Finding("unreadable", "a stream", 1, {ACCOUNT: str(error)})
    beat, reply = store.run(
        "looking for the last cycle",
        [("GET", store.keys.of("heartbeat", "cycle")), ("HGETALL", store.keys.of("shown", source.asset))],
    )
    ended = number_or_none(beat) if isinstance(beat, bytes) else None
    silent_sec = math.inf if ended is None else evidence.now - ended
    if silent_sec > SILENT_AFTER_INTERVALS * settings.publish_interval_sec:
        raise NothingReadError("no cycle has ended yet" if ended is None else f"no cycle has ended for {silent_sec:.0f} s")
    return source.finding(shown_of(reply), evidence.symbols)


def shown_of(reply: Any) -> dict[str, Shown]:
    """Decode what is shown of an input; what is no hash shows nothing."""
    fields = {} if isinstance(reply, Exception) else pairs(reply)
    return decoded({name.decode(errors="replace"): text for name, text in fields.items()})


def by_state(codes: tuple[str, ...], epoch: str, **details: str) -> Callable[[pl.DataFrame, float], Readings]:
    """Read an input whose state is that of the step's own row.

    Parameters
    ----------
    codes
        How the codes of the input's own faults begin, among those of the step; what fails for another reason is left out.
    epoch
        Column of the time it was written, epoch s.
    **details
        What else is shown of it: name in the metadata to column.
    """

    def readings(frame: pl.DataFrame, _: float) -> Readings:
        by_symbol = {}
        for row in frame.iter_rows(named=True):
            why = row["why"] or ""
            if row["state"] == State.PRESENT:
                shown = {name: row[column] for name, column in details.items() if row.get(column) is not None}
                by_symbol[row["symbol"]] = present(row.get(epoch), shown)
            elif row["state"] == State.ABSENT:
                by_symbol[row["symbol"]] = InputReading("absent", why)
            elif why.startswith(codes):
                by_symbol[row["symbol"]] = InputReading(f"failed {code_of(why)}", why, failed=True)
        return by_symbol

    return readings


def present(epoch: float | None, details: Mapping[str, Any], state: str = "present") -> InputReading:
    """Build the reading of an input that can be used."""
    source = str(details.get("source", ""))
    return InputReading(
        f"{state} {source}".strip(), f"{state}{f' from {source}' if source else ''}", epoch=epoch, details=details
    )


def of_attribution(frame: pl.DataFrame, _: float) -> Readings:
    """Read the attribution out of a computed efficiency."""
    readings = {}
    for row in frame.iter_rows(named=True):
        status = row.get("attribution_status")
        if status in ("ok", "stale"):
            source = {"source": row["attribution_source"]} if row["attribution_source"] else {}
            state = "present" if status == "ok" else "stale"
            readings[row["symbol"]] = present(row["attribution_epoch"], source, state)
        elif status == "missing":
            readings[row["symbol"]] = InputReading("absent", "attribution_missing")
        elif status == "error":
            readings[row["symbol"]] = InputReading("failed attribution_unreadable", "attribution_unreadable", failed=True)
    return readings


def of_executions(frame: pl.DataFrame, _: float) -> Readings:
    """Read the streams of executions, which are of all symbols, out of a computed efficiency."""
    row = next((row for row in frame.iter_rows(named=True) if row.get("executions_why") is not None), None)
    if row is None:
        return {}
    if why := row["executions_why"]:
        return {ACCOUNT: InputReading("failed executions_unreadable", f"executions_unreadable: {why}", failed=True)}
    if row["executions_epoch"] is None:
        return {ACCOUNT: InputReading("absent", "executions_missing")}
    return {ACCOUNT: present(row["executions_epoch"], {"count": row["executions_count"]})}


def of_equity(frame: pl.DataFrame, _: float) -> Readings:
    """Read the account out of the risk guard's row."""
    readings = {}
    for row in frame.iter_rows(named=True):
        epoch, source = row["equity_ts_epoch"], row["equity_source"]
        details = {"source": source} if source else {}
        if unusable := [name for name in ACCOUNT_INPUTS if name in row["errors"]]:
            code = f"equity_unusable: {', '.join(unusable)}"
            readings[ACCOUNT] = InputReading(
                f"failed {code}", f"{code}: {row['reason']}", failed=True, epoch=epoch, details=details
            )
        elif EQUITY_STALE in row["triggered"]:
            words = f"equity_stale: {row['reason']}"
            readings[ACCOUNT] = InputReading("failed equity_stale", words, failed=True, epoch=epoch, details=details)
        else:
            readings[ACCOUNT] = present(epoch, details)
    return readings


def of_plans(frame: pl.DataFrame, now: float) -> Readings:
    """Read the plans of each symbol out of the governor's rows: the last one, as long as it is no older than an hour.

    A symbol that never had a plan is left out. A plan that names no symbol is in the governor's events only.
    """
    readings = {}
    for row in frame.iter_rows(named=True):
        epoch, reason = row.get("last_decision_epoch"), row.get("last_reason") or ""
        if epoch is None:
            continue
        details = {"count": row["plans_evaluated"], "plan_id": row["last_plan_id"], "decision": row["last_decision"]}
        if now - epoch > HOUR_SEC:
            readings[row["symbol"]] = InputReading("absent", "no plan within the hour", epoch=epoch)
        elif reason.startswith(INVALID):
            readings[row["symbol"]] = InputReading(f"failed {reason}", reason, failed=True, epoch=epoch, details=details)
        else:
            readings[row["symbol"]] = InputReading("present", "present", epoch=epoch, details=details)
    return readings


def computes_efficiency(settings: Settings) -> bool:
    """Return whether the efficiency is computed here, hence its inputs are read."""
    return settings.efficiency_mode != "external"


def code_of(why: str) -> str:
    """Give the machine-readable part of a reason."""
    return why.partition(":")[0].partition(" (")[0]


CANDLES = Input(
    "candles",
    "market_state",
    by_state(("candles_", "too_few_candles", "price_"), "ts_timestamp", count="buffer_size", source="source", key="candle_key"),
)
RAW_POSITIONS = Input("raw_positions", "position", by_state(("position_",), "position_ts_epoch", source="position_source"))
BASE_TARGETS = Input(
    "base_targets",
    "allocation_target",
    by_state(("base_target_",), "base_target_epoch", source="base_target_source", target_usd="base_target"),
)
ATTRIBUTION = Input("attribution", "capital_efficiency", of_attribution, is_read=computes_efficiency)
EXECUTIONS = Input("executions", "capital_efficiency", of_executions, whole=True, is_read=computes_efficiency)
EQUITY_INPUT = Input("equity", "risk_guard", of_equity, whole=True)
PLANS = Input("plans", "governor_permit", of_plans)
INPUTS = (CANDLES, RAW_POSITIONS, BASE_TARGETS, ATTRIBUTION, EXECUTIONS, EQUITY_INPUT, PLANS)
