"""``quantum feed``: closed candles of an exchange into the history keys, for ever or once."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import click

from quantum_core.exit_codes import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_USAGE
from quantum_core.feed_options import HELP, with_options
from quantum_core.logs import log_to_stderr
from quantum_core.settings import Settings, SettingsError, load_settings
from quantum_feed.exchange import Exchange, RateLimited, Unanswered, UnknownExchangeError
from quantum_feed.history import MARGIN, ForeignCandlesError, known_candles, store_candles
from quantum_feed.ohlcv import Candle, corrections, judge, pages, stretches, wanted
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError

OVERLAP = 3  # newest candles asked for again in each round: exchanges correct them
AFTER_CLOSE_SEC = 2.0  # so long an exchange is given to make its candle
IN_FLIGHT = 4  # requests at a time
PATIENCE = 3  # so often a missing candle is asked for; then the exchange has none, and it is named
SKEW_WARN_SEC = 2.0
BACKOFF_SEC, BACKOFF_MAX_SEC = 2.0, 120.0
NAMED_MAX = 5  # symbols named in one line
LISTED_AGAIN_SEC = 120.0  # symbols the exchange did not have are looked for again: it may have been under maintenance
LISTING_SEC = 600.0  # and all are looked up: what was delisted or paused would look like a market without trades
RETRY_SEC = 5.0  # after a round that failed as a whole
UNITS = {60: "1m", 180: "3m", 300: "5m", 900: "15m", 1800: "30m", 3600: "1h", 14400: "4h", 86400: "1d"}

Answer = TypeVar("Answer")
log = logging.getLogger("quantum.feed")


@dataclass
class Round:
    """What one round did."""

    written: int = 0
    corrected: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    skew_sec: float = 0.0
    took_sec: float = 0.0

    def told(self) -> dict[str, object]:
        """Give it as plain data."""
        return {
            **vars(self),
            "rejected": dict(self.rejected),
            "skew_sec": round(self.skew_sec, 2),
            "took_sec": round(self.took_sec, 2),
        }


class Pace:
    """When the exchange may be asked again, after it has said: slower.

    Parameters
    ----------
    exchange
        Which said so.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.slower_until, self.slowdowns = 0.0, 0

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask as soon as that is allowed; a refusal slows down whatever is asked next."""
        while (wait := self.slower_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        try:
            return await question()
        except RateLimited:
            self._slow_down()
            raise

    def _slow_down(self) -> None:
        asked = self.exchange.retry_after_sec()
        self.slowdowns += time.monotonic() >= self.slower_until  # once per pause, not per answer
        pause = asked if asked is not None else min(BACKOFF_SEC * 2 ** min(self.slowdowns, 6), BACKOFF_MAX_SEC)
        pause *= 1 + random.random() / 4  # noqa: S311 - so that several feeds do not come back at once
        self.slower_until = max(self.slower_until, time.monotonic() + pause)
        log.warning("the exchange asks for fewer requests: none for %.0f s", pause)


class Feed:
    """Keeps the history of some symbols whole.

    Parameters
    ----------
    pace
        When candles may be asked for, and of which exchange.
    store
        Where they go.
    symbols
        Those the exchange has.
    take_over
        Replace another writer's candles instead of leaving them alone.
    """

    def __init__(self, pace: Pace, store: RedisStore, symbols: Sequence[str], *, take_over: bool = False) -> None:
        self.pace, self.store, self.symbols, self.take_over = pace, store, symbols, take_over
        self.exchange = exchange = pace.exchange
        settings = store.settings
        self.interval_ms = settings.candle_interval_sec * 1000
        self.timeframe = UNITS[settings.candle_interval_sec]
        self.label = f"{exchange.name}:{exchange.market}:{self.timeframe}"
        self.count = settings.marketstate_window_size + MARGIN
        self.gate = asyncio.Semaphore(IN_FLIGHT)
        self.known: dict[str, dict[int, Candle]] = {}
        self.asked: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.overlapped: dict[str, int] = {}  # symbol to the newest candle at which the ones before it were asked for again

    async def round(self) -> Round:
        """Bring every symbol up to the exchange's last closed candle.

        Raises
        ------
        RedisUnavailableError
            The server is away; the next round catches up.
        ccxt.BaseError
            The exchange does not give its time.
        """
        began, done = time.monotonic(), Round()
        if not self.known:
            self.known = known_candles(self.store, self.symbols, self.label)
        done.skew_sec, exchange_ms = await self.pace.ask(self._skew)
        if abs(done.skew_sec) > SKEW_WARN_SEC:
            log.warning("our clock is %+.1f s from the exchange's; candles are closed when its own says so", done.skew_sec)
        tasks = [asyncio.create_task(self._bring_up(symbol, exchange_ms, done)) for symbol in self.symbols]
        try:
            await asyncio.gather(*tasks)
        finally:  # without Redis the others are of no use
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not done.failed:
            self.pace.slowdowns = 0
        done.took_sec = time.monotonic() - began
        return done

    async def _skew(self) -> tuple[float, int]:
        before = time.time()
        exchange_ms = await self.exchange.time_ms()
        return (before + time.time()) / 2 - exchange_ms / 1000, exchange_ms

    async def _bring_up(self, symbol: str, exchange_ms: int, done: Round) -> None:
        candles = self.known[symbol]
        times = wanted(exchange_ms=exchange_ms, interval_ms=self.interval_ms, count=self.count)
        newer = self.overlapped.get(symbol) != times[-1]  # with each new candle what the exchange had not may be there now
        missing = [open_ms for open_ms in times if open_ms not in candles and (newer or self.asked[symbol][open_ms] < PATIENCE)]
        again = [open_ms for open_ms in times[-OVERLAP:] if open_ms in candles and newer]
        new: dict[int, Candle] = {}
        try:
            while requests := pages([*missing, *again], interval_ms=self.interval_ms, page=self.exchange.page):
                for first, count in requests:
                    judged = judge(await self._ask(symbol, first, count), exchange_ms=exchange_ms, interval_ms=self.interval_ms)
                    done.rejected.update(judged.rejected)
                    new |= {open_ms: candle for open_ms, candle in judged.candles.items() if times[0] <= open_ms <= times[-1]}
                # ccxt cuts an answer to the candles asked for: doubled rows push others out, which are asked for again
                missing, before, again = [open_ms for open_ms in missing if open_ms not in new], len(missing), []
                if len(missing) == before:
                    break
        except Unanswered as error:  # what was answered before is kept
            done.failed[symbol] = f"{type(error).__name__}: {str(error)[:200]}"
        else:
            self.asked[symbol].update(missing)
            self.overlapped[symbol] = times[-1]
        for old in [open_ms for open_ms in self.asked[symbol] if open_ms < times[0]]:
            del self.asked[symbol][old]
        self._write(symbol, new, times[0], done)
        self._name_what_is_absent(symbol, times, done)

    async def _ask(self, symbol: str, first: int, count: int) -> list[list[object]]:
        async with self.gate:  # what waits in the library's own throttle would be sent although the exchange asks for a pause
            return await self.pace.ask(lambda: self.exchange.candles(symbol, self.timeframe, first, count))

    def _write(self, symbol: str, new: Mapping[int, Candle], since_ms: int, done: Round) -> None:
        candles = self.known[symbol]
        changed = {open_ms: candle for open_ms, candle in new.items() if candles.get(open_ms) != candle}
        if not changed:
            return
        try:
            there = store_candles(self.store, symbol, changed, label=self.label, since_ms=since_ms, take_over=self.take_over)
        except ForeignCandlesError as error:
            done.failed[symbol] = f"{error}; --take-over replaces them"
            return
        for at in (corrected := corrections(candles, changed)):
            log.warning("%s: the exchange has corrected the candle of %s: %s, was %s", symbol, at, changed[at], candles[at])
        done.written, done.corrected = done.written + len(changed), done.corrected + len(corrected)
        candles |= changed
        for at in [open_ms for open_ms in candles if open_ms < since_ms]:
            del candles[at]
        if there < len(candles):
            log.warning(
                "%s: %d of %d candles have gone from Redis; they are asked for again", symbol, len(candles) - there, len(candles)
            )
            self.known |= known_candles(self.store, [symbol], self.label)
            self.asked.pop(symbol, None)

    def _name_what_is_absent(self, symbol: str, times: range, done: Round) -> None:
        gone = [one for one in times if one not in self.known[symbol]]
        absent = [one for one in gone if self.asked[symbol].get(one, 0) >= PATIENCE]
        done.missing += len(gone) - len(absent)
        if absent:
            done.absent[symbol] = len(absent)
        news = [one for one in absent if self.asked[symbol][one] == PATIENCE]
        if news:
            self.asked[symbol].update(news)  # warned of once
            named = stretches(news, interval_ms=self.interval_ms)
            more = f" and {len(named) - NAMED_MAX} more gaps" if len(named) > NAMED_MAX else ""
            text = ", ".join(map(_stretch_text, named[:NAMED_MAX]))
            log.warning("%s: the exchange has no candle of %s%s; a gap stays a gap", symbol, text, more)

    def name_what_is_empty(self) -> list[str]:
        """Say of which symbols there is nothing at all; a gap as wide as the history is no history."""
        empty = [symbol for symbol, candles in self.known.items() if not candles]
        for symbol in empty:
            log.error("%s: the exchange has not a single candle", symbol)
        return empty


class Listing:
    """Which of the wanted symbols the exchange has; those it does not have are looked for again.

    Parameters
    ----------
    pace
        When it may be asked, and which exchange: its ``markets`` are kept up to date.
    wanted
        Symbols.
    """

    def __init__(self, pace: Pace, wanted: Sequence[str]) -> None:
        self.pace, self.exchange, self.wanted = pace, pace.exchange, wanted
        self.unknown: Mapping[str, Sequence[str]] = dict.fromkeys(wanted, ())
        self._looked_at = -LISTED_AGAIN_SEC

    async def look(self, *, patient: bool) -> bool:
        """Read the list of markets when it is due; return whether there is any, if patient not before there is one."""
        while True:
            wait = self._looked_at + (LISTED_AGAIN_SEC if self.unknown else LISTING_SEC) - time.monotonic()
            if wait > 0 and self.exchange.markets:
                break
            await asyncio.sleep(wait)
            before = set(self.exchange.markets)
            if before:
                self._looked_at = time.monotonic()  # candles of the others do not wait for a list that cannot be read
            self.unknown = await self.pace.ask(lambda: self.exchange.load(self.wanted))
            self._looked_at = time.monotonic()
            for symbol in sorted(before & self.unknown.keys()):
                log.error("%s: the exchange has taken this market off its list, or paused it; its candles end", symbol)
            for symbol, near in self.unknown.items():
                similar = f"; similar: {', '.join(near)}" if near else ""
                log.error("%s: the exchange has no such active market%s", symbol, similar)
            if not patient:
                break
        return bool(self.exchange.markets)


async def run(settings: Settings, names: tuple[str, str, str], *, once: bool, as_json: bool, take_over: bool) -> int:
    """Feed until a signal stops it, or once; give the exit code."""
    exchange = Exchange(*names)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    working = asyncio.create_task(_work(exchange, settings, once=once, as_json=as_json, take_over=take_over))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (working, stopping):
        task.cancel()
    try:
        return await working
    except asyncio.CancelledError:
        return 0
    finally:
        await exchange.close()


async def _work(exchange: Exchange, settings: Settings, *, once: bool, as_json: bool, take_over: bool) -> int:
    store = RedisStore(settings)
    lacking = exchange.lacks(UNITS[settings.candle_interval_sec])
    if lacking:
        log.warning("%s lacks %s", exchange.name, "; ".join(lacking))
    pace = Pace(exchange)
    listing = Listing(pace, settings.markets)
    feed: Feed | None = None
    rounds = 0
    while True:
        try:
            if not await listing.look(patient=not once):
                return EXIT_FAILED
            if feed is None or set(feed.symbols) != set(exchange.markets):
                feed = Feed(pace, store, list(exchange.markets), take_over=take_over)
            done = await feed.round()
        except RedisUnavailableError as error:
            log.error("%s", error)  # noqa: TRY400 - the text says it all
            if once:
                return EXIT_INFRASTRUCTURE
            feed = None  # what it has written last is read anew
            await asyncio.sleep(RETRY_SEC)
            continue
        except Unanswered as error:
            log.error("the exchange does not answer: %s: %s", type(error).__name__, str(error)[:200])  # noqa: TRY400
            rounds += 1
            if once and rounds > PATIENCE:
                return EXIT_FAILED
            await asyncio.sleep(RETRY_SEC)
            continue
        _tell(done, feed, as_json=as_json)
        rounds += 1
        if once and (rounds > PATIENCE or not (done.missing or done.failed)):
            return EXIT_FAILED if done.failed or done.missing or listing.unknown or feed.name_what_is_empty() else 0
        await asyncio.sleep(RETRY_SEC if done.failed or done.missing else _until_next_close(settings, done.skew_sec))


def _stretch_text(stretch: tuple[int, int, int]) -> str:
    first, last, count = stretch
    start, end = (datetime.fromtimestamp(one / 1000, UTC).strftime("%Y-%m-%d %H:%M") for one in (first, last))
    return f"{start} UTC" if count == 1 else f"{start} to {end} UTC ({count})"


def _until_next_close(settings: Settings, skew_sec: float) -> float:
    interval = settings.candle_interval_sec
    exchange_now = time.time() - skew_sec
    return interval - exchange_now % interval + AFTER_CLOSE_SEC


def _tell(done: Round, feed: Feed, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"symbols": len(feed.symbols), **done.told()}))
    failed = (
        f", {len(done.failed)} failed: {'; '.join(f'{one}: {why}' for one, why in list(done.failed.items())[:5])}"
        if done.failed
        else ""
    )
    rejected = f", rejected {dict(done.rejected)}" if done.rejected else ""
    counts = f"{done.written} candles written, {done.corrected} corrected, {done.missing} missing"
    log.info("%d symbols: %s in %.1f s%s%s", len(feed.symbols), counts, done.took_sec, rejected, failed)


@click.command(help=HELP)
@with_options
def feed(name: str, market: str, symbols: str | None, url: str, *, once: bool, take_over: bool, as_json: bool) -> None:
    """Feed as asked; see :data:`quantum_core.feed_options.HELP`."""
    try:
        settings = load_settings(**({"symbols": symbols} if symbols else {}))
        if settings.candle_interval_sec not in UNITS:
            known = ", ".join(map(str, UNITS))
            click.echo(f"CANDLE_INTERVAL_SEC={settings.candle_interval_sec}: accepted here: {known}", err=True)
            sys.exit(EXIT_USAGE)
        log_to_stderr(settings.log_level)
        sys.exit(asyncio.run(run(settings, (name, market, url), once=once, as_json=as_json, take_over=take_over)))
    except (SettingsError, UnknownExchangeError) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    feed(prog_name="quantum feed")
