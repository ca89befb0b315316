"""A moving example world: recorded candles played as if they were now, with example positions, targets, equity and plans.

``python -m quantum_ops.recordings.example_feed``. Here belongs everything that pretends to be the other programs, each write
labelled and with a lifetime. Keys that carry somebody else's data are named and left alone. Nothing of the product reads from
this module.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import orjson
import polars as pl

from quantum_core.contracts.legs import underlying, with_legs
from quantum_core.contracts.schema import stamps
from quantum_core.contracts.tables import CAPITAL_EFFICIENCY, PLAN_STREAM_MAXLEN, RISK_PROPOSAL
from quantum_core.logs import DATED, log_to_stderr
from quantum_core.settings import SettingsError, load_settings
from quantum_ops.recordings.file_names import files_in, named_file
from quantum_ops.recordings.file_rows import OhlcvFileError
from quantum_ops.recordings.ohlcv_files import read_ohlcv
from resources.store.redis_store import RedisStore
from resources.store.transport.scripts import Script
from resources.store.transport.unavailable import RedisUnavailableError

SAMPLE_DIR = Path(__file__).resolve().parents[2] / "quantum_assets" / "sample"
HISTORY_CANDLES_MAX = 1500  # candles kept per symbol
EXAMPLE_TTL_SEC = 3600  # what an example leaves behind is gone within the hour
BANNER_TTL_SEC = 120
PLAN_EVERY_SEC = 250  # with the script below no symbol asks for a fourth permit within the hour
# What the plans of one symbol ask for, over and over. Two closes and an opening are permitted; an opening is refused for its size
# (daily limit), one for its kill score, and one for a symbol nobody computes. An order in which no hourly limit hides the reason.
SCRIPT = ("close", "open", "oversized", "close", "risky", "unknown")
PHASES = (0, 1, 4)  # where the first, second and third symbol begin: a close, an opening and a refusal within ten minutes
OVERSIZED = 100.0  # times the size of the position, about 23,000 USD where a day allows 5,000
CRITICAL_KILL_SCORE = 0.95
UNKNOWN_SYMBOL = "NOSUCHUSDT"
PLAN_PREFIX = "example-"
PLANS_LOOKED_AT = 20  # newest entries searched for a real planner's
RETRY_SEC = 1.0
OPENED_BEFORE_SEC = 2 * 3600  # age of an example position when it is first seen
EQUITY_USD, PEAK_USD = 25_000.0, 25_400.0  # a healthy account, 1.6 % below its peak; the prices played do not move it
LOCKED_PARAMETERS = (
    "Expect FULL_CLOSE for most positions and the regime chop throughout: the locked parameters do not fit one-minute candles."
)
SYMBOLS_NAMED = 5
FLAT_SEC = 15.0  # more than a cycle, so that one sees it
SAME_RECORDING = 0.2  # an entry further from the recorded prices belongs to another recording

REPLACE_CANDLES = Script(__file__, "replace_candles")
REPLACE_EXAMPLE = Script(__file__, "replace_example")

log = logging.getLogger("quantum.example_feed")


@dataclass(frozen=True)
class ExamplePosition:
    """Side, size, entry relative to the last close of the first window, and efficiency of one example."""

    side: str
    qty: float
    entry_ratio: float
    target_usd: float
    performance: float
    score: float
    pressure: str


# With stops near their minimum of 0.5 %, 1 R is about 0.5 % of the entry: about +2.5 R, +4.5 R and -1 R at the start. Positions
# are worth about 230 USD and plans a quarter of that: what is permitted in a day fits the daily limit of 5,000 USD per symbol.
EXAMPLES: Mapping[str, ExamplePosition] = {
    "BTCUSDT": ExamplePosition("LONG", 0.002, 0.9865, 400.0, 0.82, 0.74, "INCREASE"),
    "ETHUSDT": ExamplePosition("SHORT", 0.064, 1.0245, 300.0, 0.61, 0.55, "HOLD"),
    "SOLUSDT": ExamplePosition("LONG", 1.4, 1.004, 250.0, 0.31, 0.28, "DECREASE"),
}
OTHER_EXAMPLE = ExamplePosition("LONG", 1.0, 0.995, 500.0, 0.55, 0.52, "HOLD")


def replace_candles(
    store: RedisStore, symbol: str, candles: pl.DataFrame, *, shift_ms: int, ttl_sec: int, overwrite: bool = False
) -> tuple[Any, ...]:
    """Build the command that replaces the replayed history of one symbol, in one step and with its lifetime.

    Parameters
    ----------
    candles
        Columns open_time_ms, open, high, low, close, volume, oldest first; the newest HISTORY_CANDLES_MAX are written.
    shift_ms
        Added to every time.
    overwrite
        Replace candles of another writer too; otherwise the reply is an error that starts with ``FOREIGN``.
    """
    interval_ms = store.settings.candle_interval_sec * 1000
    arguments: list[int | bytes] = []
    for opened, open_, high, low, close, volume in candles.tail(HISTORY_CANDLES_MAX).iter_rows():
        open_time = opened + shift_ms
        candle = {
            "open_time": open_time,
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
            "close_time": open_time + interval_ms - 1,
            "is_closed": True,
            "source": "replay",
        }
        arguments += (open_time, orjson.dumps(candle))
    key = store.keys.of("candles_history", symbol)
    return REPLACE_CANDLES([key], ttl_sec, int(overwrite), *arguments)


def shift_to(moment: datetime, candles: pl.DataFrame, interval_sec: int) -> int:
    """Give the shift in ms after which the last candle ends at ``moment``."""
    return int(moment.timestamp() * 1000) - interval_sec * 1000 - int(candles["open_time_ms"][-1])


@dataclass
class ExampleWorld:
    """The example world and how far it has been played.

    Attributes
    ----------
    store
        Where it is written, and whose clock is now.
    candles
        Recorded candles per symbol, as :func:`quantum_ops.recordings.ohlcv_files.read_ohlcv` gives them.
    first
        Candles written at once at the start.
    examples
        Whether positions, equity, targets, attribution, efficiency and plans are kept too.
    shown
        Candles played so far; 0 before the first step.
    """

    store: RedisStore
    candles: Mapping[str, pl.DataFrame]
    first: int = 400
    examples: bool = True
    shown: int = 0
    _last_plan_epoch: float = field(default=0.0, repr=False)
    _plans: int = field(default=0, repr=False)
    _held: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)  # entry, and when it was opened
    _flat_until: dict[str, float] = field(default_factory=dict, repr=False)  # of those whose stop was crossed

    def step(self) -> list[str]:
        """Play one more candle of every symbol (the first time: the first ones), all ending now, and renew all examples.

        Returns
        -------
        list of str
            What was left alone, each entry naming the key and the reason.

        Raises
        ------
        RedisUnavailableError
            The server is away; the next step plays the same candle.
        """
        now = self.store.clock()
        length = min(frame.height for frame in self.candles.values())
        upcoming = min(self.first, length) if self.shown == 0 or self.shown >= length else self.shown + 1
        windows = {symbol: frame.head(upcoming) for symbol, frame in self.candles.items()}
        commands = [
            replace_candles(
                self.store,
                symbol,
                window,
                shift_ms=shift_to(now, window, self.store.settings.candle_interval_sec),
                ttl_sec=EXAMPLE_TTL_SEC,
            )
            for symbol, window in windows.items()
        ]
        commands.append(("SET", self.store.keys.of("banner"), self.banner(), "EX", BANNER_TTL_SEC))
        if self.examples:
            self._take_over(now.timestamp())
            self._reopen_stopped({one: float(window["close"][-1]) for one, window in windows.items()}, now.timestamp())
            commands += [
                command
                for symbol, window in windows.items()
                for command in self._examples_of(symbol, float(window["close"][-1]), now)
            ]
            account = {"equity": EQUITY_USD, "peak": PEAK_USD, "last_update_ts": int(now.timestamp())}
            commands.append(self._replace("equity", "", account))
        replies = self.store.run("playing the example", commands)
        refused = [str(reply).removeprefix("FOREIGN ") for reply in replies if isinstance(reply, Exception)]
        self.shown = upcoming
        if self.examples and now.timestamp() - self._last_plan_epoch >= PLAN_EVERY_SEC:
            refused += self._plan(windows, now)
        return refused

    def banner(self) -> str:
        """Say in one line what data this is: one short sentence, then the detail."""
        text = f"EXAMPLE DATA, not live. Recorded candles of {', '.join(self.candles)} played as if they were now"
        if self.examples:
            text += "; positions, equity, targets, efficiency and plans are synthetic"
        return f"{text}. {LOCKED_PARAMETERS}"

    def first_entry(self, symbol: str) -> float:
        """Give the entry of a symbol's first example position."""
        frame = self.candles[symbol]
        anchor = float(frame["close"][min(self.first, frame.height) - 1])
        return round(anchor * EXAMPLES.get(symbol, OTHER_EXAMPLE).entry_ratio, 8)

    def _take_over(self, now: float) -> None:
        """Go on with the positions a former feed left, so that their entry and age survive a restart."""
        unknown = [symbol for symbol in self.candles if symbol not in self._held]
        for reading in self.store.read_raw("raw_position", unknown) if unknown else ():
            kept, first = reading.value or {}, self.first_entry(reading.symbol)
            entry, opened = (_number(kept.get(name, b"")) for name in (b"entry_price", b"created_at"))
            ours = kept.get(b"source") == b"example" and 0 < opened <= now and abs(entry / first - 1) < SAME_RECORDING
            self._held[reading.symbol] = (entry, opened) if ours else (first, float(int(now) - OPENED_BEFORE_SEC))

    def _reopen_stopped(self, closes: Mapping[str, float], now: float) -> None:
        """Do what an executor would: leave a position whose stop was crossed, and enter a new one a little later.

        In between it is reported as flat: a position that only changes its entry is the same one, and keeps its stop.
        """
        names = with_legs(list(self.candles), self.store.settings.hedge_symbols)
        for reading in self.store.read(RISK_PROPOSAL, names):
            row, symbol = reading.value, underlying(reading.symbol)
            if row is not None and row["sl_breached"] and row["position_entry_price"] == self._held[symbol][0]:
                self._flat_until.setdefault(symbol, now + FLAT_SEC)
        for symbol in [one for one, until in self._flat_until.items() if until <= now]:
            del self._flat_until[symbol]
            self._held[symbol] = (closes[symbol], float(int(now)))

    def _examples_of(self, symbol: str, close: float, now: datetime) -> list[tuple[Any, ...]]:
        example, epoch = EXAMPLES.get(symbol, OTHER_EXAMPLE), int(now.timestamp())
        entry, opened = self._held[symbol]
        direction = 1 if example.side == "LONG" else -1
        position = {
            "symbol": symbol,
            "side": example.side,
            **self._leg_fields(symbol, example),
            "position_amt": direction * example.qty,
            "quantity": example.qty,
            "entry_price": entry,
            "mark_price": close,
            "unrealized_pnl": (close - entry) * direction * example.qty,
            "leverage": 3,
            "created_at": opened,
            "ts_epoch": epoch,
        }
        if symbol in self._flat_until:
            position = {
                "symbol": symbol,
                "side": "FLAT",
                **self._leg_fields(symbol, example),
                "position_amt": 0,
                "quantity": 0,
                "unrealized_pnl": 0,
                "ts_epoch": epoch,
            }
        target = {"target_usd": example.target_usd, "confidence": 0.85, "timestamp": epoch, "mode": "shadow"}
        attribution = {"performance_factor": example.performance, "confidence": 0.8, "ts": epoch}
        values: dict[str, Mapping[str, Any]] = {
            "raw_position": position,
            "base_target": target,
            "attribution": attribution,
            "capital_efficiency": _efficiency(symbol, example, now),
        }
        return [self._replace(name, symbol, fields) for name, fields in values.items()]

    def _leg_fields(self, symbol: str, example: ExamplePosition) -> dict[str, str]:
        return {"positionSide": example.side} if symbol in self.store.settings.hedge_symbols else {}

    def _replace(self, name: str, symbol: str, fields: Mapping[str, Any]) -> tuple[Any, ...]:
        flat = [str(part) for pair in {**fields, "source": "example"}.items() for part in pair]
        ttl_sec = CAPITAL_EFFICIENCY.ttl_sec if name == "capital_efficiency" else EXAMPLE_TTL_SEC
        return REPLACE_EXAMPLE([self.store.keys.of(name, symbol)], ttl_sec, *flat)

    def _plan(self, windows: Mapping[str, pl.DataFrame], now: datetime) -> list[str]:
        """Append the next plan of the script, unless a real planner uses the stream."""
        stream = self.store.keys.of("stream_plans")
        (newest,) = self.store.run("looking at plans", [("XREVRANGE", stream, "+", "-", "COUNT", PLANS_LOOKED_AT)])
        if isinstance(newest, Exception):
            return [f"{stream} cannot be read: {newest}"]
        if not all(_plan_id(fields).startswith(PLAN_PREFIX) for _, fields in newest):
            return [f"{stream} carries plans of another writer"]
        turn, position = divmod(self._plans, len(windows))
        symbol = list(windows)[position]
        kind = SCRIPT[(turn + PHASES[position % len(PHASES)]) % len(SCRIPT)]
        example, closing = EXAMPLES.get(symbol, OTHER_EXAMPLE), kind == "close"
        plan = {
            "plan_id": f"{PLAN_PREFIX}{symbol}-{int(now.timestamp() * 1000)}",
            "symbol": UNKNOWN_SYMBOL if kind == "unknown" else symbol,
            "action": "PARTIAL_25" if closing else f"OPEN_{example.side}",
            "decision": "EXECUTE",
            **self._leg_fields(symbol, example),
            "side": ("SELL" if example.side == "LONG" else "BUY") if closing else ("BUY" if example.side == "LONG" else "SELL"),
            "qty": example.qty * OVERSIZED if kind == "oversized" else example.qty / 4,
            "price": float(windows[symbol]["close"][-1]),
            "reduceOnly": "true" if closing else "false",
            "confidence": 0.8,
            "timestamp": int(now.timestamp()),
            "source": "example",
            **({"kill_score": CRITICAL_KILL_SCORE} if kind == "risky" else {}),
        }
        flat = [str(part) for pair in plan.items() for part in pair]
        self.store.run("adding a plan", [("XADD", stream, "MAXLEN", "~", PLAN_STREAM_MAXLEN, "*", *flat)])
        self._plans += 1
        self._last_plan_epoch = now.timestamp()
        return []


def _number(text: bytes) -> float:
    """Read a number a former feed left; 0 when it is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _efficiency(symbol: str, example: ExamplePosition, now: datetime) -> dict[str, str]:
    score = example.score
    row = {
        "efficiency_score": score,
        "efficiency_raw": score,
        "efficiency_ewma": score,
        "capital_pressure": example.pressure,
        "reallocation_weight": 2 * (score - 0.5) * 0.8,
        "confidence": 0.8,
        "inputs_ok": True,
        "stale_flags": "",
        "p30_perf": example.performance,
        "p30_conf": 0.8,
        "p29_target_usd": example.target_usd,
        "volatility_ewma": 4.0,
        "dd_proxy": 0.5,
        "hold_time_penalty": 0.0,
        "ts": int(now.timestamp()),
        "mode": "shadow",
        "version": "p31_v1",
    }
    encoded = CAPITAL_EFFICIENCY.encode(row)
    return {**encoded, **stamps(CAPITAL_EFFICIENCY, symbol, encoded, "example", now, ("", ""))}


def _plan_id(fields: Any) -> str:
    mapping = fields if isinstance(fields, Mapping) else dict(zip(fields[::2], fields[1::2], strict=True))
    return bytes(mapping.get(b"plan_id", b"")).decode(errors="replace")


def load_candles(folder: Path, symbols: Sequence[str], interval_sec: int = 60) -> dict[str, pl.DataFrame]:
    """Read the files of every symbol that has some, all months of one symbol as one history.

    Parameters
    ----------
    folder
        Files named like ``BTCUSDT_1m.csv`` or ``BTCUSDT-1m-2025-01.zip``, see
        :func:`quantum_ops.recordings.file_names.named_file`.
    interval_sec
        Of the candles; files whose name has another are left out.

    Raises
    ------
    OhlcvFileError
        A file cannot be read, has too many malformed rows, or no symbol has one.
    """
    named = [named_file(path, symbols) for path in files_in(folder)]
    frames: dict[str, pl.DataFrame] = {}
    for symbol in symbols:
        paths = [one.path for one in named if one.symbol == symbol and one.interval_sec in (None, interval_sec)]
        if not paths:
            continue
        candles = read_ohlcv(*paths)
        if malformed := next(filter(None, (one.too_malformed for one in candles.files)), ""):
            raise OhlcvFileError(malformed)
        if candles.frame.height:
            frames[symbol] = candles.frame
    if not frames:
        shown = ", ".join(symbols[:SYMBOLS_NAMED]) + (
            f" and {len(symbols) - SYMBOLS_NAMED} more" if len(symbols) > SYMBOLS_NAMED else ""
        )
        message = f"{folder} has no candles for {shown}: put files like {symbols[0]}_1m.csv there"
        raise OhlcvFileError(message)
    return frames


def play(step: Callable[[], list[str]], stop: threading.Event, every_sec: float) -> None:
    """Step until the event is set; wait for a server that is away, and log once what is left alone."""
    warned: set[str] = set()
    away = False
    while not stop.is_set():
        try:
            refused = set(step())
        except RedisUnavailableError as error:
            if not away:
                log.warning("%s Trying again every %.0f s.", error, RETRY_SEC)
            away = True
            stop.wait(RETRY_SEC)
            continue
        if away:
            log.info("Redis answers again.")
            away = False
        for text in sorted(refused - warned):
            log.warning("Left alone: %s", text)
        warned = refused
        stop.wait(every_sec)


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of files like BTCUSDT_1m.csv or BTCUSDT-1m-2025-01.zip; default: the bundled ones.",
)
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
@click.option("--first", type=click.IntRange(min=1), default=400, show_default=True, help="Candles played at once.")
@click.option(
    "--every", "every_sec", type=click.FloatRange(min=0.05), default=3.0, show_default=True, help="Seconds per further candle."
)
@click.option(
    "--examples/--no-examples", default=None, help="Keep example positions, targets and plans too; default: only without --dir."
)
def main(folder: Path | None, symbols: str | None, first: int, every_sec: float, *, examples: bool | None) -> None:
    """Play the example world until SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = load_settings(**({"symbols": symbols} if symbols is not None else {}))
        candles = load_candles(folder or SAMPLE_DIR, settings.markets, settings.candle_interval_sec)
    except (SettingsError, OhlcvFileError) as error:
        raise click.UsageError(str(error)) from error
    log_to_stderr(settings.log_level, DATED)
    invent = folder is None if examples is None else examples
    world = ExampleWorld(RedisStore(settings), candles, first=first, examples=invent)
    log.info("Playing %s from %s, a candle every %g s", ", ".join(candles), folder or SAMPLE_DIR, every_sec)
    play(world.step, stop, every_sec)


if __name__ == "__main__":
    main()
