"""The exchange, through ccxt's public REST endpoints: its clock, its symbols, its candles. The only importer of ccxt."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import ccxt
import ccxt.async_support as ccxt_async

TIMEOUT_MS = 10_000  # of one request
SECRETS = ("apiKey", "secret", "password", "uid", "privateKey", "walletAddress", "token", "login", "twofa")

RateLimited = (ccxt.DDoSProtection, ccxt.RateLimitExceeded)  # the exchange says: slower
Unanswered = ccxt.BaseError  # whatever may go wrong with one request, the above included


FUTURE_IS_PERPETUAL = ("binance", "binanceusdm")  # to others `future` is a contract that ends
PAGE = 500  # candles per request; Binance counts 5 of 2,400 a minute for up to 1,000, 2 for up to 500, 1 for up to 100
NO_CLOCK_SEC = 2.0  # so far our own clock may be ahead of an exchange that never gives its time


class UnknownExchangeError(ValueError):
    """ccxt has no exchange of that name, or that exchange has no candles of the length wanted."""


class Exchange:
    """Public data of one exchange.

    Parameters
    ----------
    name
        ccxt's id.
    market
        Kind of market: ``future`` (perpetuals in USDT), ``swap`` or ``spot``, as the exchange calls it in ccxt.
    url
        Scheme and host of a proxy, or of a test; the exchange's own when empty.

    Raises
    ------
    UnknownExchangeError
        See there.
    """

    def __init__(self, name: str, market: str, url: str = "") -> None:
        if name not in ccxt.exchanges:
            near = difflib.get_close_matches(name, ccxt.exchanges)
            msg = f"no such exchange: {name}. {f'Did you mean {near}?' if near else 'The names are those of ccxt.'}"
            raise UnknownExchangeError(msg)
        self.name, self.market = name, market
        options: dict[str, Any] = {"defaultType": market}
        if market == "future" and name in FUTURE_IS_PERPETUAL:
            options["fetchMarkets"] = {"types": ["linear"]}
        elif market == "future":
            options["defaultType"] = "swap"
        self.client: Any = getattr(ccxt_async, name)({"enableRateLimit": True, "timeout": TIMEOUT_MS, "options": options})
        for secret in SECRETS:  # public endpoints only: what could sign an order is not there
            setattr(self.client, secret, None)
        self.client.has["fetchCurrencies"] = False  # it needs a key
        if url:
            self.client.urls["api"] = _moved(self.client.urls["api"], url)
        self.markets: Mapping[str, str] = {}
        self.page = PAGE
        self._ahead_sec = NO_CLOCK_SEC  # our clock, of an exchange without a time of its own: by the Date of its last answer

    def lacks(self, timeframe: str) -> list[str]:
        """Say what this exchange lacks of what a feed uses, and what is done instead.

        Raises
        ------
        UnknownExchangeError
            It has no candles of that length, so that it cannot be fed from.
        """
        has, lengths = self.client.has, self.client.timeframes or {}
        if not has.get("fetchOHLCV") or timeframe not in lengths:
            msg = f"{self.name} has no candles of {timeframe}: {', '.join(lengths) or 'it has none at all'}"
            raise UnknownExchangeError(msg)
        lacking = []
        if not has.get("fetchTime"):
            lacking.append("a clock of its own: closed is what the Date of its answers says")
        if has["fetchOHLCV"] == "emulated":
            lacking.append("candles: they are made of its trades, by the library")
        return lacking

    async def load(self, symbols: Sequence[str]) -> dict[str, list[str]]:
        """Learn the exchange's markets; give those wanted symbols that it does not have, each with similar ones."""
        with _understood():
            await self.client.load_markets(reload=True)
            ids = names_of(self.client.markets.values(), spot=self.market == "spot")
        self._read_clock()
        self.markets = {symbol: ids[symbol] for symbol in symbols if symbol in ids}
        self.page = self._page()
        return {symbol: difflib.get_close_matches(symbol, ids, n=3) for symbol in symbols if symbol not in ids}

    async def time_ms(self) -> int:
        """Ask for the exchange's own time; without one, give the Date of its last answer."""
        if not self.client.has.get("fetchTime"):
            return int((time.time() - self._ahead_sec) * 1000)
        with _understood():
            return int(await self.client.fetch_time())

    async def candles(self, symbol: str, timeframe: str, since_ms: int, count: int) -> list[list[Any]]:
        """Ask for candles from a time on, oldest first."""
        with _understood():
            rows = list(await self.client.fetch_ohlcv(self.markets[symbol], timeframe, since_ms, count))
        self._read_clock()
        return rows

    def _page(self) -> int:
        """Give how many candles the exchange gives at once, as far as the library knows."""
        for market in self.markets.values():
            with _understood():
                limit = self.client.feature_value(market, "fetchOHLCV", "limit", PAGE)
            return max(1, min(PAGE, int(limit or PAGE)))
        return PAGE

    def _read_clock(self) -> None:
        headers = self.client.last_response_headers or {}
        text = next((value for name, value in headers.items() if name.lower() == "date"), "")
        try:
            self._ahead_sec = time.time() - parsedate_to_datetime(str(text)).timestamp()  # of whole seconds: never too early
        except (TypeError, ValueError):
            return

    def retry_after_sec(self) -> float | None:
        """Give what the exchange last asked to wait."""
        headers = self.client.last_response_headers or {}
        text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
        return float(text) if str(text).isdigit() else None

    async def close(self) -> None:
        """Close its connections."""
        await self.client.close()


def names_of(markets: Iterable[Mapping[str, Any]], *, spot: bool) -> dict[str, str]:
    """Give the markets that trade by the names they are asked for: the exchange's own (``BTC-USDT-SWAP``), or ``BTCUSDT``.

    Of contracts only those settled in the quote currency count, and only perpetuals go by the short name.
    """
    own: dict[str, str] = {}
    short: dict[str, str] = {}
    for market in markets:
        if market.get("active") is False or not (market.get("spot") if spot else market.get("linear")):
            continue
        own[str(market["id"])] = str(market["symbol"])
        if spot or market.get("swap"):
            short.setdefault(f"{market['base']}{market['quote']}", str(market["symbol"]))
    return short | own


@contextmanager
def _understood() -> Iterator[None]:
    """Make an answer in which the library stumbles (a row that is null) one that could not be understood."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        msg = f"{type(error).__name__}: {error}"
        raise ccxt.BadResponse(msg) from error


def _moved(urls: Any, to: str) -> Any:
    if isinstance(urls, dict):
        return {name: _moved(one, to) for name, one in urls.items()}
    scheme, host, *_ = urlsplit(to)
    return urlunsplit((scheme, host, *urlsplit(str(urls))[2:])) if isinstance(urls, str) else urls
