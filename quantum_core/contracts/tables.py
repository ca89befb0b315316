"""Every key and every table of the wire contract, docs/spec.md#1-wire-contracts. Nothing else in the product spells key names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quantum_core.contracts.codecs import (
    AMOUNT,
    CODES,
    COUNT,
    ENTRY_IDS,
    EPOCH,
    FLAG,
    FLOAT,
    INTEGER,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SIZE,
    TEXT,
    TIME,
    choice,
    fixed,
    optional,
    within,
)
from quantum_core.contracts.labels import is_live
from quantum_core.contracts.legs import SEPARATOR, leg_of, underlying
from quantum_core.contracts.schema import Change, Field, Stream, Table

STATE_TTL_SEC = 600  # ten market-state intervals: a dead publisher's values vanish, they do not linger
PROPOSAL_TTL_SEC = 100  # ten publishing intervals
HASH_TTL_SEC = 600
TRACKED_TTL_SEC = 30 * 86400  # peaks and stops of a position must outlive any outage worth surviving
PERMIT_TTL_SEC = 60
BLOCK_TTL_SEC = 3600
SEEN_TTL_SEC = 86400  # a plan_id is decided once within a day
DISARM_TTL_SEC = 48 * 3600  # marker of the day; what keeps the governor disarmed has no lifetime, only a person ends it
INTENT_TTL_SEC = 300  # an intent nobody acted on for so long is out of date

PROPOSAL_STREAM_MAXLEN = 10_000
ALLOCATION_STREAM_MAXLEN = 1_000
EVENTS_STREAM_MAXLEN = 10_000  # of the governor's and of risk events
RECORDER_STREAM_MAXLEN = 2_000  # what waits while no recorder runs: hours of cycles, and a bound to the memory of Redis
PLAN_STREAM_MAXLEN = 10_000  # the stream is shared with real planners: cap it no tighter than they do

KILL = "quantum:kill"
_HOLE = re.compile(r"\{(symbol|plan_id|intent_id|guard|date)\}")
_UNTAGGED = ("{guard}", "{date}")  # neither is anybody's slot
ONE_SLOT = frozenset(
    {
        *("disarmed", "disarm", "disarmed_scopes"),  # with the kill switch, by resources/governor/switches.py
        *("governor_errors", "governor_faults", "stream_governor_events"),  # likewise
        *("guard_active", "guard_readings", "stream_risk_events"),  # by guards.py and switches.py beside it
        *("lease", "lease_rival", "newest_cycles"),  # by resources/store/lease.py
        *("stream_recorder", "recorder_writers", "recorder_seq"),  # by resources/recorder/records.py
        *("recorder_lease", "recorder_state"),  # beside them, by quantum_ops/processes/recorder.py
    }
)

OF_UNDERLYING = frozenset(  # what both legs of a hedged symbol share: one key, under the symbol's own name
    {
        *("market_state", "capital_efficiency", "efficiency_state", "allocation_target"),
        *("stream_market_state", "stream_capital_efficiency", "stream_allocation_target"),
        *("attribution", "base_target"),
        *("candles_zset", "candles_quantum", "candles_klines", "candles_history", "candles_json", "candle_memory"),
    }
)

NO_SYMBOL = "-"  # stands for the symbol of a plan that names none


@dataclass(frozen=True)
class Keys:
    """All key names, from one set of templates.

    Attributes
    ----------
    cluster
        Wrap the symbol in braces, so that the keys of one symbol share a Redis Cluster slot; streams become per symbol. Keys that
        are no symbol's but written together (:data:`ONE_SLOT`) end in ``:{quantum:kill}`` and share the slot of ``quantum:kill``,
        which keeps its name: a person types it in an emergency.
    marketstate_prefix, risk_prefix, harvest_prefix, marketstate_stream
        The names operators may rename (MARKETSTATE_PREFIX, RISKPROPOSAL_PREFIX, HARVEST_PREFIX, STREAM_NAME).
    """

    cluster: bool = False
    marketstate_prefix: str = "quantum:marketstate"
    risk_prefix: str = "quantum:risk:proposal"
    harvest_prefix: str = "quantum:harvest:proposal"
    marketstate_stream: str = "quantum:stream:marketstate"

    def templates(self) -> dict[str, str]:
        """Map each name used by tables and readers to its template; ``{symbol}`` is filled in by :meth:`of`."""
        return {
            # published by us
            "market_state": f"{self.marketstate_prefix}:{{symbol}}",
            "risk_proposal": f"{self.risk_prefix}:{{symbol}}",
            "harvest_proposal": f"{self.harvest_prefix}:{{symbol}}",
            "capital_efficiency": "quantum:capital:efficiency:{symbol}",
            "position_size": "quantum:sizing:proposal:{symbol}",
            "allocation_target": "quantum:allocation:target:proposed:{symbol}",
            "trade_intent_pending": "quantum:trade_intent:pending:{intent_id}",
            "governor_state": "quantum:governor:state:{symbol}",
            "risk_guard": "quantum:risk:guard:state",
            "guards_found": "quantum:risk:guard:found",
            "guard_active": "quantum:risk:guard_active:{guard}",
            "guard_readings": "quantum:risk:guard:readings",
            "permit": "quantum:permit:{plan_id}",
            "block": "quantum:governor:block:{plan_id}",
            # kept by us between cycles
            "position": "quantum:position:tracked:{symbol}",
            "position_memory": "quantum:position:memory:{symbol}",
            "candle_memory": "quantum:candle:memory:{symbol}",
            "efficiency_state": "quantum:efficiency:state:{symbol}",
            "efficiency_fills": "quantum:efficiency:fills:{symbol}",
            "trade_intent_last": "quantum:trade_intent:last:{symbol}",
            "permits_granted": "quantum:governor:exec:{symbol}",
            "permitted_today": "quantum:governor:daily:{symbol}",  # and :<UTC date>:usd or :qty
            "closes_granted": "quantum:governor:exec:{symbol}:close",
            "closed_today": "quantum:governor:daily:{symbol}:close",  # and :<UTC date>:usd or :qty
            "seen_plan": "quantum:governor:seen:{plan_id}",
            # switches: what stops all openings until a person or a day ends it
            "kill": KILL,
            "disarmed": "quantum:governor:disarmed",
            "disarm": "quantum:governor:disarm:{date}",
            "disarmed_scopes": "quantum:governor:disarm:scopes",
            "governor_errors": "quantum:governor:errors:{date}",
            "governor_faults": "quantum:governor:errors:{date}:faults",
            # streams
            "stream_market_state": self.marketstate_stream,
            "stream_risk_proposal": "quantum:stream:risk.proposal",
            "stream_harvest_proposal": "quantum:stream:harvest.proposal",
            "stream_capital_efficiency": "quantum:stream:capital.efficiency",
            "stream_efficiency_decision": "quantum:stream:capital.efficiency.decision",
            "stream_allocation_target": "quantum:stream:allocation.target.proposed",
            "stream_governor_events": "quantum:stream:governor.events",
            "stream_risk_events": "quantum:stream:risk.events",
            "stream_plans": "quantum:stream:apply.plan",
            # written by others
            "raw_position": "quantum:state:positions:{symbol}",
            "attribution": "quantum:alpha:attribution:{symbol}",
            "base_target": "quantum:allocation:target:{symbol}",
            "stream_execution": "quantum:stream:execution",
            "stream_execution_result": "quantum:stream:execution.result",
            "equity": "quantum:equity:current",
            "daily_pnl": "quantum:risk:daily_pnl:{date}",
            "consecutive_losses": "quantum:risk:consecutive_losses",
            "candles_zset": "candles:{symbol}:1m",
            "candles_quantum": "quantum:candles:{symbol}",
            "candles_klines": "klines:{symbol}:1m",
            "candles_history": "quantum:history:ohlcv:{symbol}:1m",
            "candles_json": "quantum:candles:{symbol}:1m",
            # watching
            "heartbeat": "quantum:heartbeat:{symbol}",  # {symbol} is the part: worker, daemon, cycle, watch
            "cycles": "quantum:heartbeat:cycles:{symbol}",  # {symbol} is the first one of a shard
            "events_waiting": "quantum:bell:cycle",  # a run that kept a cycle waiting has ended
            "events_postponed": "quantum:bell:cycle:later",  # something has changed too soon after the last event cycle
            "runs_awaited": "quantum:bell:awaited",  # runs that keep a cycle waiting
            "lease": "quantum:lease",
            "lease_rival": "quantum:lease:rival",
            "newest_cycles": "quantum:lease:cycles",
            "proofs": "quantum:proofs",
            "proofs_by_symbol": "quantum:proofs:by_symbol",
            "single_cycle": "quantum:proofs:single_cycle",
            "failures": "quantum:failures:{symbol}",  # {symbol} is the asset
            "shown": "quantum:shown:{symbol}",  # {symbol} is the asset
            "alerts_active": "quantum:alerts:active",
            "stream_alerts": "quantum:stream:alerts",
            # parameters of all kernels, every one that was ever put in force
            "profiles": "quantum:profile:history",
            # the challenger's rows and counters; {symbol} is <profile>:<asset>:<symbol>
            "shadow": "quantum:shadow:{symbol}",
            "profile_started": "quantum:profile:started",
            # what evaluations gave, counted by hour
            "informative": "quantum:informative:{symbol}",
            # counts of the exporter
            "counts_published": "quantum:metrics:published",
            "counts_decided": "quantum:metrics:decided",
            "counts_ran": "quantum:metrics:ran",
            "counts_alerts": "quantum:metrics:alerts",
            # what went into and came out of each step, until the recorder has written it to files
            "stream_recorder": "quantum:stream:recorder",
            "recorder_writers": "quantum:recorder:writers",
            "recorder_seq": "quantum:recorder:seq",
            "recorder_lease": "quantum:recorder:lease",
            "recorder_state": "quantum:recorder:state",
            # the example feed says what it plays
            "banner": "quantum:banner",
        }

    def of(self, name: str, symbol: str = "", slot: str = "") -> str:
        """Give the key called ``name``, for one symbol (or for the plan, intent, guard or UTC date its template asks for).

        Parameters
        ----------
        name
            Name of the template.
        symbol
            What the key is of. A leg (``BTCUSDT.LONG``) shares the keys of OF_UNDERLYING with its symbol; its raw position is
            under ``<key of the symbol>:LONG``.
        slot
            Symbol whose slot the key of a plan or an intent must share in a cluster; it is part of the name there, and nowhere
            else.

        Raises
        ------
        KeyError
            No template has that name.
        """
        if SEPARATOR in symbol and (leg := leg_of(symbol)):
            if name in OF_UNDERLYING:
                symbol = underlying(symbol)
            elif name == "raw_position":
                return f"{self.of(name, underlying(symbol))}:{leg}"
        prefix, placeholder, suffix = self._template_parts[name]
        if self.cluster and name in ONE_SLOT and not (symbol and name.startswith("stream_")):
            return f"{prefix}{symbol if placeholder else ''}{suffix}:{{{KILL}}}"
        tagged = f"{{{symbol}}}" if self.cluster and placeholder not in _UNTAGGED else symbol
        if self.cluster and slot:
            tagged = f"{{{slot}}}:{symbol}"
        if self.cluster and symbol and name.startswith("stream_"):
            return f"{prefix}:{tagged}"
        return f"{prefix}{tagged}{suffix}" if placeholder else prefix

    @cached_property
    def _template_parts(self) -> dict[str, tuple[str, str, str]]:
        return {name: _split(template) for name, template in self.templates().items()}


def _split(template: str) -> tuple[str, str, str]:
    hole = _HOLE.search(template)
    return (template, "", "") if hole is None else (template[: hole.start()], hole.group(), template[hole.end() :])


CANDLE_KEYS = ("candles_zset", "candles_quantum", "candles_klines", "candles_history", "candles_json")  # first hit wins

_SOURCE = choice("candles", "replay", "synthetic", "example")
LIVENESS = ("candles", "replay", "example", "synthetic")  # most live first; a result is as live as its least live input
_SIDE = choice("LONG", "SHORT")


def least_live_of(sources: Iterable[str | None]) -> str:
    """Give the least live of some sources; of others than those in LIVENESS, those that are not live count as examples."""
    return max(map(_liveness_of, sources), key=LIVENESS.index, default=LIVENESS[0])


def _liveness_of(source: str | None) -> str:
    if source in LIVENESS:
        return str(source)
    return LIVENESS[0] if is_live(source or "") else "example"


_REGIME = (
    Field("p_trend", SHARE, "probability", "of the trend regime, as the market state has it", Change.ABSOLUTE, plot=True),
    Field("p_mr", SHARE, "probability", "of the mean-reverting regime", Change.ABSOLUTE),
    Field("p_chop", SHARE, "probability", "of the chop regime", Change.ABSOLUTE),
)
_POSITION = (
    Field("position_side", _SIDE, "", "side", Change.EXACT),
    Field("position_age_sec", NOT_NEGATIVE, "s", "time since the position was opened"),
    Field("position_current_price", POSITIVE, "quote", "last accepted mark", show=True),
    Field("position_entry_price", POSITIVE, "quote", "average entry"),
    Field("position_source", TEXT, "", "redis_hash, redis_stream, example or synthetic"),
    Field("position_peak_price", POSITIVE, "quote", "highest since entry"),
    Field("position_trough_price", POSITIVE, "quote", "lowest since entry"),
    Field("position_current_sl", optional(POSITIVE), "quote", "stop in force when this was computed"),
    Field("position_mark_price", optional(POSITIVE), "quote", "mark as given: a crossed stop is judged by it, too", before=None),
    Field("data_source", _SOURCE, "", "least live of all inputs"),
)

MARKET_STATE = Table(
    asset="market_state",
    key="market_state",
    ttl_sec=STATE_TTL_SEC,
    ttl_intervals_of="marketstate_publish_interval",
    headline="market state for {symbol}: sigma={sigma:.8f} ts={ts:.6f} regime={regime}",
    doc="Volatility, drift and regime of one symbol, from its last 257 to 300 closed candles.",
    fields=(
        Field("sigma", within(fixed(8), 0), "log return / candle", "robust volatility", plot=True),
        Field("mu", fixed(8), "log return / candle", "robust drift", plot=True),
        Field("ts", within(fixed(6), 0), "", "trend strength |mu|/sigma (not a time)", plot=True),
        Field("p_trend", within(fixed(6), 0, 1), "probability", "of the trend regime", Change.ABSOLUTE, plot=True),
        Field("p_mr", within(fixed(6), 0, 1), "probability", "of the mean-reverting regime", Change.ABSOLUTE, plot=True),
        Field("p_chop", within(fixed(6), 0, 1), "probability", "of the chop regime", Change.ABSOLUTE, plot=True),
        Field("dp", within(fixed(6), 0, 1), "share", "neighbouring returns with equal sign"),
        Field("vr", within(fixed(6), 0), "ratio", "variance ratio over vr_k candles"),
        Field("spike_proxy", within(fixed(6), 0), "ratio", "MAD sigma over EWMA sigma"),
        Field("ts_timestamp", EPOCH, "s", "time of the newest candle used"),
        Field("close", optional(POSITIVE), "quote", "newest close used", show=True, before=None),
        Field("buffer_size", COUNT, "candles", "candles used"),
        Field("source", choice("candles", "replay", "synthetic"), "", "where the candles come from", Change.EXACT),
        Field("candle_key", TEXT, "", "key the candles were read from"),
        Field("candles_digest", TEXT, "", "fingerprint of the closes used, the newest 257"),
        Field("gap_count", optional(COUNT), "holes", "among the closes used; empty when candles carry no times"),
        Field("gap_max_sec", optional(COUNT), "s", "longest of them"),
        Field("filled", COUNT, "candles", "closes used that were filled (CANDLE_FILL=flat)"),
        Field(
            "market_inactive", FLAG, "", "no volume or the same close for MARKET_INACTIVE_CANDLES: openings blocked", Change.EXACT
        ),
        Field("tick_pct", optional(NOT_NEGATIVE), "fraction", "smallest difference of two closes used; empty when all are one"),
        Field(
            "tail_move", optional(within(fixed(8), 0)), "log return", "move that vol.tail allows for; empty without", before=None
        ),
    ),
    stream=Stream(
        "stream_market_state",
        PROPOSAL_STREAM_MAXLEN,
        ("symbol", "ts", "sigma", "mu", "regime", ("timestamp", "ts_timestamp"), "cycle_id"),
    ),
)


def _looser_than_in_force(last: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Somebody has moved the stop in force by less than CHANGE_EPS_PCT, and yet beyond what stands proposed."""
    in_force, side = new["position_current_sl"], new["position_side"]
    if in_force is None or side != last["position_side"]:
        return ""
    passed = (in_force - last["proposed_sl"]) * (1 if side == "LONG" else -1) > 0
    return "looser than the stop in force" if passed else ""


RISK_PROPOSAL = Table(
    asset="risk_proposal",
    key="risk_proposal",
    outdated=_looser_than_in_force,
    ttl_sec=PROPOSAL_TTL_SEC,
    ttl_intervals_of="publish_interval_sec",
    headline="proposal for {symbol}: SL=${proposed_sl} TP=${proposed_tp} reasons={reason_codes}",
    doc="Proposed stop and target of one open position.",
    fields=(
        Field("proposed_sl", POSITIVE, "quote", "proposed stop loss", Change.RELATIVE, show=True),
        Field("proposed_tp", POSITIVE, "quote", "proposed take profit", Change.RELATIVE, show=True),
        Field(
            "stop_dist_pct",
            POSITIVE,
            "fraction",
            "the model's distance; the stop never loosens and may be nearer",
            plot=True,
        ),
        Field("tp_dist_pct", POSITIVE, "fraction", "the model's distance from the mark"),
        Field("trail_gap_pct", POSITIVE, "fraction", "trailing distance from the peak or trough"),
        Field("reason_codes", CODES, "", "why, in the order of docs/spec.md#3-stops-kernel-p1", Change.EXACT),
        Field("ts", NOT_NEGATIVE, "", "trend strength used"),
        Field("sigma", NOT_NEGATIVE, "log return / candle", "volatility used", plot=True),
        *_REGIME,
        *_POSITION,
        Field("sl_breached", FLAG, "", "the proposed stop has already been crossed", Change.EXACT),
        Field("tail_move", optional(NOT_NEGATIVE), "log return", "tail move used; empty without", before=None),
    ),
    stream=Stream("stream_risk_proposal", PROPOSAL_STREAM_MAXLEN, optional=True),
)

HARVEST_ACTIONS = ("NONE", "PARTIAL_25", "PARTIAL_50", "PARTIAL_75", "FULL_CLOSE_PROPOSED")

HARVEST_PROPOSAL = Table(
    asset="harvest_proposal",
    key="harvest_proposal",
    ttl_sec=PROPOSAL_TTL_SEC,
    ttl_intervals_of="publish_interval_sec",
    dated_by_publication=True,
    headline="harvest for {symbol}: action={harvest_action} R_net={R_net:.4f} K={kill_score:.4f} reasons={reason_codes}",
    doc="Proposed profit taking of one open position, and its kill score.",
    fields=(
        Field("harvest_action", choice(*HARVEST_ACTIONS), "", "proposed action", Change.EXACT),
        Field("new_sl_proposed", optional(POSITIVE), "quote", "profit-lock stop, empty when none", Change.RELATIVE),
        Field("R_net", FLOAT, "R", "profit net of costs in units of risk", plot=True),
        Field("risk_unit", POSITIVE, "quote", "one R: entry x stop distance"),
        Field("cost_est", SIZE, "quote", "estimated cost of leaving"),
        Field("kill_score", SHARE, "", "K in [.5, 1)", Change.ABSOLUTE, plot=True),
        Field("reason_codes", CODES, "", "why, in the order of docs/spec.md#4-harvest-kernel-p2", Change.EXACT),
        Field("k_regime_flip", NOT_NEGATIVE, "", "kill component"),
        Field("k_sigma_spike", NOT_NEGATIVE, "", "kill component"),
        Field("k_ts_drop", NOT_NEGATIVE, "", "kill component"),
        Field("k_age_penalty", NOT_NEGATIVE, "", "kill component"),
        Field("sigma", NOT_NEGATIVE, "log return / candle", "volatility used"),
        Field("ts", NOT_NEGATIVE, "", "trend strength used"),
        *_REGIME,
        *_POSITION,
        Field("position_unrealized_pnl", AMOUNT, "quote", "profit as the position carries it"),
        Field("position_qty", optional(FLOAT), "base", "size; profit is divided by it when present"),
        Field("stop_dist_pct", optional(POSITIVE), "fraction", "stop distance used; empty when the fallback was"),
        Field("fallback_stop", FLAG, "", "no risk proposal: FALLBACK_STOP_PCT was used", Change.EXACT),
    ),
    stream=Stream("stream_harvest_proposal", PROPOSAL_STREAM_MAXLEN, optional=True),
)

POSITION = Table(
    asset="position",
    key="position",
    presence="held",
    ttl_sec=TRACKED_TTL_SEC,
    doc="One open position with what no live writer supplies: peak, trough, age and stop in force, kept since entry.",
    kept_current=True,
    fields=(
        Field("side", choice("LONG", "SHORT"), "", "side", Change.EXACT),
        Field("entry_price", POSITIVE, "quote", "average entry", Change.RELATIVE, show=True),
        Field("current_price", POSITIVE, "quote", "last accepted mark", Change.RELATIVE, show=True),
        Field("peak_price", POSITIVE, "quote", "highest since entry", Change.RELATIVE, show=True),
        Field("trough_price", POSITIVE, "quote", "lowest since entry", Change.RELATIVE, show=True),
        Field("age_sec", NOT_NEGATIVE, "s", "time since it was opened"),
        Field("unrealized_pnl", AMOUNT, "quote", "as the writer gives it", show=True),
        Field("qty", optional(SIZE), "base", "absolute size, empty when unknown", Change.EXACT),
        Field("current_sl", optional(POSITIVE), "quote", "stop in force", Change.RELATIVE),
        Field("current_tp", optional(POSITIVE), "quote", "target in force", Change.RELATIVE),
        Field("opened_at_epoch", NOT_NEGATIVE, "s", "when it was opened, or first seen"),
        Field("position_source", TEXT, "", "redis_hash, redis_stream, example or synthetic", Change.EXACT),
        Field("position_ts_epoch", NOT_NEGATIVE, "s", "time of the snapshot"),
        Field("held", FLAG, "", "0 while no source shows the position: kept for its return, not acted on", Change.EXACT),
        Field("last_candle_ms", COUNT, "ms", "open time of the newest candle merged; 0 before the first"),
        Field("last_close", optional(POSITIVE), "quote", "close of that candle"),
        Field("collared", FLAG, "", "a price beyond PRICE_COLLAR_PCT waits for the next candle to confirm it", Change.EXACT),
        Field("collared_price", optional(POSITIVE), "quote", "the price held back"),
        Field("collared_candle_ms", COUNT, "ms", "newest candle when it was held back"),
        Field("mark_price", optional(POSITIVE), "quote", "mark as the writer gives it, also while it is held back", before=None),
        Field("contracts", optional(NOT_NEGATIVE), "contracts", "absolute size as the writer counts it", before=None),
        Field(
            "tracked_since_epoch", NOT_NEGATIVE, "s", "since when this has been kept without a flat or another side", before=0.0
        ),
        Field(
            "carried",
            TEXT,
            "",
            "texts of the snapshot's optional fields, JSON: what a change of side must not take over",
            before="",
        ),
        Field("leftover", TEXT, "", "those the side before has left, JSON: ignored until they change", before=""),
        Field("conflict_until_epoch", NOT_NEGATIVE, "s", "until when two positions seem to share the key; 0: no", before=0.0),
        Field(
            "inconsistent", FLAG, "", "numbers of the snapshot contradict each other, or the candles", Change.EXACT, before=False
        ),
        Field("trouble", TEXT, "", "why nothing is opened on this position, reason: detail, else empty", before=""),
    ),
)

POSITION_SIZE = Table(
    asset="position_size",
    key="position_size",
    ttl_sec=PROPOSAL_TTL_SEC,
    ttl_intervals_of="publish_interval_sec",
    headline="size for {symbol}: ${size_usd:.2f} by {binding}, leverage up to {leverage_max:.2f}",
    doc="How large a position of one symbol may be, also where none is open. A hint: no gate reads it.",
    fields=(
        Field("size_usd", NOT_NEGATIVE, "USD", "largest notional of the position", Change.RELATIVE, show=True),
        Field("size_qty", NOT_NEGATIVE, "base", "the same in units of the symbol"),
        Field("leverage_max", NOT_NEGATIVE, "ratio", "largest leverage", plot=True),
        Field("stop_dist_pct", NOT_NEGATIVE, "fraction", "stop distance the size was computed with", plot=True),
        Field("risk_usd", NOT_NEGATIVE, "USD", "what may be lost at the stop, before weights, multiplier and caps", show=True),
        Field("binding", choice("stop", "volatility", "equity_cap", "target"), "", "bound that decided", Change.EXACT),
        Field("reason_codes", CODES, "", "why, in the order of docs/spec.md#15-position-size", Change.EXACT),
        Field("equity_usd", POSITIVE, "USD", "equity of the account"),
        Field("price", POSITIVE, "quote", "newest close, in the position's prices", Change.RELATIVE),
        Field("sigma", within(fixed(8), 0), "log return / candle", "as the market state has it"),
        Field("ts", within(fixed(6), 0), "", "trend strength |mu|/sigma (not a time)"),
        *_REGIME,
        Field("multiplier", optional(NOT_NEGATIVE), "ratio", "of the efficiency, empty when none is trusted", Change.EXACT),
        Field("target_usd", optional(NOT_NEGATIVE), "USD", "P2.9 target in force, empty when none is", Change.EXACT),
        Field("candles_per_day", POSITIVE, "candles", "candles of a day"),
        Field("data_source", _SOURCE, "", "least live of all inputs"),
    ),
)

CAPITAL_EFFICIENCY = Table(
    asset="capital_efficiency",
    key="capital_efficiency",
    ttl_sec=HASH_TTL_SEC,
    doc="How well one symbol uses its capital. Written by us only with EFFICIENCY_MODE=enforce.",
    rate_limited=False,
    fields=(
        Field("efficiency_score", FLOAT, "[0, 1]", "score of this evaluation", plot=True),
        Field("efficiency_raw", FLOAT, "", "before clipping"),
        Field("efficiency_ewma", FLOAT, "[0, 1]", "smoothed score", plot=True),
        Field("capital_pressure", choice("INCREASE", "HOLD", "DECREASE"), "", "direction"),
        Field("reallocation_weight", FLOAT, "[-1, 1]", "strength", plot=True),
        Field("confidence", FLOAT, "[0, 1]", "of the inputs", plot=True),
        Field("inputs_ok", FLAG, "", "no input missing, stale or unreadable"),
        Field("stale_flags", TEXT, "", "P30/P29 _MISSING, _STALE, _ERROR"),
        Field("p30_perf", FLOAT, "[0, 1]", "performance factor used"),
        Field("p30_conf", FLOAT, "[0, 1]", "its confidence"),
        Field("p29_target_usd", FLOAT, "USD", "base target used"),
        Field("volatility_ewma", FLOAT, "USD", "smoothed |pnl|"),
        Field("dd_proxy", FLOAT, "USD", "smoothed losses"),
        Field("hold_time_penalty", FLOAT, "[0, 1]", "hours since the last execution, clipped"),
        Field("ts", EPOCH, "s", "time of the evaluation"),
        Field("mode", choice("shadow", "enforce"), "", "EFFICIENCY_MODE"),
        Field("version", TEXT, "", "p31_v1"),
    ),
    stream=Stream("stream_capital_efficiency", PROPOSAL_STREAM_MAXLEN, beside="stream_efficiency_decision"),
)

EFFICIENCY_STATE = Table(
    asset="capital_efficiency",
    key="efficiency_state",
    ttl_sec=TRACKED_TTL_SEC,
    doc="What capital_efficiency remembers between cycles: averages, last known good inputs, last event folded in.",
    rate_limited=False,
    fields=(
        Field("volatility_ewma", NOT_NEGATIVE, "USD", "smoothed |pnl|"),
        Field("dd_proxy", NOT_NEGATIVE, "USD", "smoothed losses"),
        Field("efficiency_ewma", SHARE, "[0, 1]", "smoothed score"),
        Field("last_perf", FLOAT, "[0, 1]", "last known good performance factor"),
        Field("last_target_usd", NOT_NEGATIVE, "USD", "last known good base target"),
        Field("last_exec_epoch", optional(NOT_NEGATIVE), "s", "last execution, empty before the first"),
        Field("last_event_id", ENTRY_IDS, "", "newest stream entries folded in, per stream"),
    ),
)

ALLOCATION_REASONS = ("ok", "missing_eff", "stale_eff", "low_conf", "redis_error")

ALLOCATION_TARGET = Table(
    asset="allocation_target",
    key="allocation_target",
    ttl_sec=HASH_TTL_SEC,
    doc="Proposed allocation of one symbol. Always shadow: the live target key is read-only for us.",
    rate_limited=False,
    fields=(
        Field("ts_epoch", EPOCH, "s", "time of the evaluation"),
        Field("base_target", fixed(2), "USD", "target as it stands", show=True),
        Field("proposed_target", fixed(2), "USD", "base x multiplier", show=True),
        Field("multiplier", fixed(4), "ratio", "clip(BASE + SCALE (score - .5))", plot=True),
        Field("eff_score", optional(fixed(4)), "[0, 1]", "efficiency score, empty when unknown"),
        Field("eff_confidence", optional(fixed(3)), "[0, 1]", "its confidence, empty when unknown"),
        Field("eff_stale", FLAG, "", "the efficiency hash was missing, stale or unreadable"),
        Field("reason", choice(*ALLOCATION_REASONS), "", "why this multiplier"),
        Field("mode", choice("shadow"), "", "always shadow"),
        Field("last_update_ts_epoch", EPOCH, "s", "time of the evaluation"),
    ),
    stream=Stream(
        "stream_allocation_target",
        ALLOCATION_STREAM_MAXLEN,
        (
            "ts_epoch",
            "symbol",
            ("base_target", "base_target_shortest"),
            ("proposed_target", "proposed_target_shortest"),
            "multiplier",
            "eff_score",
            "eff_confidence",
            "eff_stale",
            "reason",
            "mode",
            "cycle_id",
        ),
    ),
)

_INTENDED = (
    Field("action", choice("CLOSE"), "", "always CLOSE: an intent only ever reduces risk", Change.EXACT),
    Field("harvest_action", choice(*HARVEST_ACTIONS), "", "action of the harvest proposal", Change.EXACT),
    Field("position_side", _SIDE, "", "side", Change.EXACT),
    Field("sl_breached", FLAG, "", "the proposed stop has already been crossed", Change.EXACT),
    Field("reason_codes", CODES, "", "those of the harvest proposal, then sl_breached", Change.EXACT),
    Field("new_sl_proposed", optional(POSITIVE), "quote", "profit-lock stop, empty when none", Change.RELATIVE),
    Field("confidence", SHARE, "", "the kill score of the harvest proposal", Change.ABSOLUTE, plot=True),
    Field("stop_loss", POSITIVE, "quote", "new_sl_proposed, else the stop of the risk proposal", show=True),
    Field("take_profit", POSITIVE, "quote", "target of the risk proposal"),
    Field("proposal_time", TIME, "", "later publication of the two proposals"),
    Field("proposals_digest", TEXT, "", "digests of harvest and risk proposal, joined by |"),
    Field("source", _SOURCE, "", "least live of all inputs of both proposals"),
)

LAST_INTENT = Table(
    asset="trade_intent",
    key="trade_intent_last",
    presence="due",
    ttl_sec=TRACKED_TTL_SEC,
    headline="trade intent for {symbol}: id={intent_id} action={harvest_action} SL=${stop_loss} reasons={reason_codes}",
    doc="What was last intended for one symbol, kept so that an unchanged proposal makes no second intent. Its times of "
    "evaluation are renewed every cycle; the values are those of the intent (before the first: of the first evaluation).",
    fields=(
        Field("due", FLAG, "", "0 while the proposals ask for nothing: what they ask for next is a new intent", Change.EXACT),
        Field("intent_id", TEXT, "", "the intent, empty before the first"),
        *_INTENDED,
    ),
)

PENDING_INTENT = Table(
    asset="trade_intent",
    key="trade_intent_pending",
    ttl_sec=INTENT_TTL_SEC,
    doc="One intent to reduce a position, made when its proposals changed. In a cluster its symbol stands before the id.",
    fields=(
        *_INTENDED,
        Field("created_at", TIME, "", "when it was made"),
        Field("timestamp", EPOCH, "s", "the same, for readers of epochs"),
        Field("expires_at", TIME, "", "when it must no longer be acted on; the hash is gone then"),
        Field("cause", TEXT, "", "which change made it a new intent"),
        Field("replaces", TEXT, "", "intent of the symbol before it, empty for the first"),
        Field("mode", choice("shadow", "plan"), "", "INTENT_MODE: plan also made one entry of the stream of plans"),
    ),
)

_HINTS = (
    Field("eff_score", optional(within(fixed(4), 0, 1)), "[0, 1]", "efficiency score, empty when unknown", plot=True),
    Field("eff_confidence", optional(within(fixed(3), 0, 1)), "[0, 1]", "its confidence, empty when unknown"),
    Field("eff_stale", FLAG, "", "the efficiency hash was missing, stale or unreadable"),
    Field("eff_factor", fixed(4), "ratio", "size factor the hint suggests", Change.RELATIVE, plot=True),
    Field("eff_action", choice("NONE", "DOWNSIZE"), "", "what the hint suggests", Change.EXACT),
    Field("eff_reason", choice(*ALLOCATION_REASONS), "", "why", Change.EXACT),
    Field("downsize_factor", fixed(4), "ratio", "= eff_factor"),
    Field("extra_cooldown_sec", INTEGER, "s", "extra wait the hint suggests", plot=True),
)
HINT_FIELDS = tuple(item.name for item in _HINTS)

GOVERNOR_STATE = Table(
    asset="governor_permit",
    key="governor_state",
    ttl_sec=HASH_TTL_SEC,
    doc="The governor's row of one symbol: last decision and efficiency hints. Every symbol has one, plans or not.",
    kept_current=True,
    fields=(
        *_HINTS,
        Field("last_plan_id", TEXT, "", "last plan decided, empty before the first", Change.EXACT),
        Field("last_decision", choice("", "PERMIT", "BLOCK"), "", "its outcome"),
        Field("last_reason", TEXT, "", "its reason"),
        Field("last_decision_epoch", optional(FLOAT), "s", "when"),
        Field(
            "last_gate", TEXT, "", "number of the gate that failed, as docs/spec.md#7-trade-intents-and-the-governor counts them"
        ),
        Field("last_evidence", TEXT, "", "JSON: what that plan was judged by, and the limits' counts before and after"),
        Field("plans_evaluated", INTEGER, "plans", "decided in this evaluation", plot=True),
        Field("permits_hour", INTEGER, "permits", "openings granted within 3600 s", Change.EXACT, plot=True),
        Field("permits_5min", INTEGER, "permits", "openings granted within 300 s", Change.EXACT),
        Field("closes_hour", INTEGER, "permits", "closes granted within 3600 s", Change.EXACT, plot=True),
        Field("closes_5min", INTEGER, "permits", "closes granted within 300 s", Change.EXACT),
    ),
)

PERMIT = Table(
    asset="governor_permit",
    key="permit",
    ttl_sec=PERMIT_TTL_SEC,
    doc="Leave for one plan. Missing means no.",
    fields=(
        Field("granted", choice("true"), "", "a permit that exists is granted"),
        Field("plan_id", TEXT, "", "the plan"),
        Field("decision", choice("EXECUTE"), "", "decision of the plan"),
        Field("computed_qty", optional(FLOAT), "base", "size of the plan, empty when unknown"),
        Field("computed_notional", optional(FLOAT), "USD", "size x price, empty when unknown"),
        Field("created_at", TIME, "", "when it was granted"),
        Field("consumed", choice("false", "true"), "", "set by the executor that used it"),
        Field(
            "size_hint_usd",
            optional(FLOAT),
            "USD",
            "size proposed for the symbol, empty without a fresh one",
            before=None,
        ),
        *_HINTS,
    ),
)

BLOCK = Table(
    asset="governor_permit",
    key="block",
    ttl_sec=BLOCK_TTL_SEC,
    doc="Why one plan was refused.",
    fields=(
        Field("reason", TEXT, "", "first gate that failed"),
        Field("timestamp", EPOCH, "s", "when"),
    ),
)

GUARD_STATUSES = ("ok", "blocked", "error")

RISK_GUARD = Table(
    asset="risk_guard",
    key="risk_guard",
    ttl_sec=HASH_TTL_SEC,
    doc="What the risk guard last found of the account: live guards, what cannot be judged, and the numbers behind it.",
    kept_current=True,
    of_account=True,
    headline="risk guard: {status} guards={guards} errors={errors} {reason}",
    fields=(
        Field(
            "status", choice(*GUARD_STATUSES), "", "error: something cannot be judged; else blocked: a guard lives", Change.EXACT
        ),
        Field("guards", CODES, "", "live guards, in the order of docs/spec.md#8-risk-guard", Change.EXACT),
        Field("pending", CODES, "", "live guards that wait for a second reading of the account", Change.EXACT),
        Field("triggered", CODES, "", "guards whose condition holds now"),
        Field("errors", CODES, "", "inputs, guards or streams that cannot be used", Change.EXACT),
        Field("reason", TEXT, "", "the conditions that hold and the errors, in words"),
        Field("equity", optional(FLOAT), "USD", "worth of the account, empty when missing or unusable", plot=True),
        Field("peak", optional(FLOAT), "USD", "its highest worth, empty when missing or unusable", plot=True),
        Field("net_transfers", optional(FLOAT), "USD", "deposits minus withdrawals since the peak was set, empty when unusable"),
        Field("drawdown", optional(NOT_NEGATIVE), "fraction", "of peak + net_transfers, empty when unknown", plot=True),
        Field("daily_pnl", optional(FLOAT), "USD", "profit of this UTC day, 0 before the first, empty when unusable", plot=True),
        Field("daily_loss", optional(NOT_NEGATIVE), "fraction", "of the equity, empty when unknown", plot=True),
        Field(
            "consecutive_losses", optional(COUNT), "trades", "losses in a row, 0 before the first, empty when unusable", plot=True
        ),
        Field("equity_ts_epoch", optional(FLOAT), "s", "clock of the equity, empty when missing or unusable"),
        Field("equity_age_sec", optional(FLOAT), "s", "its age when this was evaluated"),
        Field("equity_source", TEXT, "", "the writer's own label, e.g. example"),
    ),
)

PUBLISHED = (  # one per asset that publishes, in the order of the lineage
    POSITION,
    MARKET_STATE,
    RISK_PROPOSAL,
    HARVEST_PROPOSAL,
    CAPITAL_EFFICIENCY,
    ALLOCATION_TARGET,
    POSITION_SIZE,
    RISK_GUARD,
    LAST_INTENT,
    GOVERNOR_STATE,
)
PUBLISHED_TABLES = {table.asset: table for table in PUBLISHED}
TABLES = (
    POSITION,
    MARKET_STATE,
    RISK_PROPOSAL,
    HARVEST_PROPOSAL,
    CAPITAL_EFFICIENCY,
    EFFICIENCY_STATE,
    ALLOCATION_TARGET,
    POSITION_SIZE,
    PENDING_INTENT,
    LAST_INTENT,
    GOVERNOR_STATE,
    PERMIT,
    BLOCK,
    RISK_GUARD,
)
