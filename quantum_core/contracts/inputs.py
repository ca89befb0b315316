"""What other programs write and we read: every field, by the names we accept. Read as text, trusted with nothing.

The readers are in ``resources``; a test writes each example below, by each of its names, and leaves out each required field.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantum_core.contracts.labels import NOT_LIVE_WORDS


@dataclass(frozen=True, slots=True)
class InputField:
    """One field of an input.

    Attributes
    ----------
    names
        Accepted names, first hit wins.
    example
        A value that is accepted.
    meaning
        What it is, with its unit.
    required
        Whether the input is refused without it.
    """

    names: tuple[str, ...]
    example: str
    meaning: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """One kind of key that others write.

    Attributes
    ----------
    keys
        Names of its key templates.
    kind
        Redis type, and how it holds the fields.
    doc
        What it is, how old it may be, and what becomes of one that cannot be used.
    fields
        Its fields; none when the value is the key's own.
    """

    keys: tuple[str, ...]
    kind: str
    doc: str
    fields: tuple[InputField, ...] = ()


CLOCK = InputField(("ts", "timestamp", "ts_utc"), "1769083200", "writer's clock: epoch s or ISO 8601", required=True)
CONFIDENCE = InputField(("confidence",), "0.9", "0 to 1; clipped", required=True)
NOT_LIVE = f"one with a word of `{'`, `'.join(sorted(NOT_LIVE_WORDS))}`, or longer than 32 characters, is not live"
SOURCE = InputField(("source",), "live", "writer's label; shown")

CANDLE = Input(
    ("candles_zset", "candles_quantum", "candles_klines", "candles_history", "candles_json"),
    "sorted set by opening time, list with the newest last, or (the last key) a string with a JSON array",
    "Closed candles, the first of the keys that exists. A member is a JSON object, an array of an exchange, or a bare price "
    "(docs/spec.md#5-sources has the layouts). Without 257 closed candles on the grid of CANDLE_INTERVAL_SEC, with more than 1 % "
    "malformed members, or with a newest one older than 2 x CANDLE_INTERVAL_SEC + 300 s (without times: not changed for as long) "
    "there is no market state.",
    (
        InputField(
            ("open_time", "openTime", "start", "t", "time", "timestamp", "ts"),
            "1769083140000",
            "opening time, epoch s, ms, us or ns; else the score",
        ),
        InputField(("close", "c"), "43250.1", "close, quote units", required=True),
        InputField(("high", "h"), "43260", "high, quote units; else the close"),
        InputField(("low", "l"), "43240", "low, quote units; else the close"),
        InputField(
            ("close_time", "closeTime", "end", "stop", "T"), "1769083199999", "closing time, within two intervals of the opening"
        ),
        InputField(
            ("is_closed", "x", "closed", "confirm", "isFinal", "final", "complete"),
            "true",
            "a candle that says false, 0 or no is left out; another flag, or another answer, is malformed",
        ),
        InputField(("volume", "v"), "12.5", "base units; none for long: the market is inactive"),
        InputField(
            ("source",), "exchange", "empty, candles, live, exchange or binance are live; any other label is not: no permits"
        ),
    ),
)

POSITION = Input(
    ("raw_position",),
    "hash",
    "One position. Without side (or a signed amount) and both prices, or with fields that contradict each other, it is "
    "unreadable: no proposals, and no permit for an opening; it never passes for flat.",
    (
        InputField(("symbol",), "BTCUSDT", "the symbol of the key; another one is an error"),
        InputField(("side",), "LONG", "LONG, SHORT or FLAT; may be empty or BOTH beside a signed amount"),
        InputField(
            ("positionSide", "position_side", "posSide"),
            "LONG",
            "of HEDGE_SYMBOLS only: the leg the row is of, LONG or SHORT; BOTH is a one-way account's",
        ),
        InputField(("position_amt", "quantity", "qty"), "0.02", "size, base units; signed in the first name only; 0 is flat"),
        InputField(("entry_price",), "43000", "average entry, quote units", required=True),
        InputField(("mark_price", "current_price"), "43250", "mark, quote units", required=True),
        InputField(("unrealized_pnl",), "5", "quote units; else computed"),
        InputField(("leverage",), "3", "as the venue has it"),
        InputField(
            ("ts_epoch", "timestamp", "ts", "ts_utc"), "1769083195", "time of the snapshot: epoch s, ms or us, or ISO 8601"
        ),
        InputField(("created_at", "opened_at", "opened_at_epoch"), "1769080000", "when it was opened; else tracked by us"),
        InputField(("age_sec",), "3200", "s since then"),
        InputField(("peak_price",), "43500", "highest since entry; else tracked by us; 0 is none"),
        InputField(("trough_price",), "42900", "lowest since entry; else tracked by us; 0 is none"),
        InputField(("current_sl",), "42500", "stop in force; 0 is none"),
        InputField(("current_tp",), "45000", "target in force; 0 is none"),
        InputField(("source", "position_source"), "live", f"{NOT_LIVE}: no permits"),
    ),
)

FILL = Input(
    ("stream_execution", "stream_execution_result"),
    "stream; fields, or a JSON object in the field payload",
    "Executions. Profits go into the capital efficiency (EFFICIENCY_MODE shadow or enforce); a position of a symbol without a "
    "hash is read from the newest 100, by the names above. Entries without symbol or profit are passed over, and so is a second "
    "report of the same trade; one without an id (or with 0, -1, none, null) is never a second one.",
    (
        InputField(("symbol",), "BTCUSDT", "the symbol", required=True),
        InputField(("pnl_usd", "realized_pnl", "pnl"), "12.5", "realized profit, USD, negative for a loss", required=True),
        InputField(
            ("trade_id", "tradeId", "exec_id", "execId", "execution_id", "fill_id", "fillId"),
            "7234f2",
            "the trade, of this symbol",
        ),
        InputField(
            (
                *(
                    "trade_time",
                    "tradeTime",
                    "exec_time",
                    "execTime",
                    "execution_time",
                    "transact_time",
                    "transactTime",
                    "fill_time",
                ),
                *("filled_at", "executed_at", "timestamp", "ts", "ts_utc", "ts_epoch", "time"),
            ),
            "1769083195",
            "when it was traded, epoch s, ms or us, or ISO 8601; else that of its entry, and never later",
        ),
    ),
)

ATTRIBUTION = Input(
    ("attribution",),
    "hash",
    "Performance of the symbol. Older than 300 s: used and flagged. Missing or unusable: replaced by the last good one (at "
    "first 0.5), flagged.",
    (InputField(("performance_factor",), "0.72", "0 or more; clipped at 1", required=True), CONFIDENCE, CLOCK, SOURCE),
)

TARGET = Input(
    ("base_target",),
    "hash",
    "Allocation target of P2.9, which we propose to scale and never write. Older than 300 s: used and flagged, and no cap for "
    "permits.",
    (
        InputField(("target_usd",), "800", "USD, 0 or more", required=True),
        CONFIDENCE,
        CLOCK,
        InputField(("mode",), "enforce", "enforce: a cap on openings (gate 10); anything else is advice"),
        SOURCE,
    ),
)

EQUITY = Input(
    ("equity",),
    "hash",
    "The account. Older than 300 s, in the future, or unusable: openings are blocked.",
    (
        InputField(("equity",), "10000", "USD", required=True),
        InputField(
            ("peak",),
            "10500",
            "highest equity, USD; below the equity by more than 10 %: unusable, and so is one that rose by more than 10 % "
            "and that no two readings of the equity bear out",
            required=True,
        ),
        InputField(
            ("net_transfers",), "0", "deposits minus withdrawals since the peak was set, USD: no profit and no loss; else 0"
        ),
        InputField(("last_update_ts",), "1769083195", "epoch s or ISO 8601", required=True),
        InputField(("source",), "live", f"{NOT_LIVE}: no permits for openings"),
    ),
)

DAILY_PNL = Input(
    ("daily_pnl",),
    "hash; the key ends in the UTC date",
    "Profit of the day. No hash: no trade yet, unless DAILY_PNL_REQUIRED. A hash without its field, or under a name that is "
    "neither today's nor that of a day past (YYYY-MM-DD): openings are blocked.",
    (InputField(("pnl",), "-120.5", "USD, negative for a loss", required=True),),
)

LOSSES = Input(
    ("consecutive_losses",),
    "string",
    "Losing trades in a row, a number. No key: none. Anything but a number: openings are blocked.",
)

PLAN = Input(
    ("stream_plans",),
    "stream",
    "Plans for the governor, each decided once. One that lacks a required field, or has a malformed one, gets a block "
    "`invalid_plan:<field>`. Its age is that of its entry id; older than 12 h is `invalid_plan:timestamp`.",
    (
        InputField(("plan_id",), "p-20260122-0001", "letters, digits, _ . : -, at most 128", required=True),
        InputField(("symbol",), "BTCUSDT", "2 to 40 letters, digits, _ -", required=True),
        InputField(
            ("action",), "PARTIAL_25", "closing: FULL_CLOSE_PROPOSED, PARTIAL_75/50/25, CLOSE; others open risk", required=True
        ),
        InputField(("decision",), "EXECUTE", "others are acknowledged and counted, never permitted", required=True),
        InputField(
            ("positionSide", "position_side", "posSide"),
            "LONG",
            "of HEDGE_SYMBOLS only: the leg, where the symbol does not name it",
        ),
        InputField(("reduceOnly",), "true", "true or 1: closing, whatever the action"),
        InputField(("qty", "close_qty"), "0.01", "size, base units"),
        InputField(("price",), "43250", "quote units; with it limits count notional, without it size"),
        InputField(("kill_score",), "0.3", "0 or more; from GOV_KILL_SCORE_CRITICAL on openings are blocked"),
        InputField(("confidence",), "0.8", "not used"),
        InputField(("source",), "planner", f"{NOT_LIVE}: no permit"),
    ),
)

INPUTS = (CANDLE, POSITION, FILL, ATTRIBUTION, TARGET, EQUITY, DAILY_PNL, LOSSES, PLAN)
