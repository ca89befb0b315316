"""The exchange, through ccxt's public REST endpoints: its clock, its symbols, its candles. The only importer of ccxt."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import ccxt
import ccxt.async_support as ccxt_async

TIMEOUT_MS = 10_000  # of one request
SECRETS = ("apiKey", "secret", "password", "uid", "privateKey", "walletAddress", "token", "login", "twofa")

RateLimited = (ccxt.DDoSProtection, ccxt.RateLimitExceeded)  # the exchange says: slower
Unanswered = ccxt.BaseError  # whatever may go wrong with one request, the above included


class UnknownExchangeError(ValueError):
    """ccxt has no exchange of that name."""


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
        options = (
            {"defaultType": market, "fetchMarkets": {"types": ["linear"]}} if market == "future" else {"defaultType": market}
        )
        self.client: Any = getattr(ccxt_async, name)({"enableRateLimit": True, "timeout": TIMEOUT_MS, "options": options})
        for secret in SECRETS:  # public endpoints only: what could sign an order is not there
            setattr(self.client, secret, None)
        self.client.has["fetchCurrencies"] = False  # it needs a key
        if url:
            self.client.urls["api"] = _moved(self.client.urls["api"], url)
        self.markets: Mapping[str, str] = {}

    async def load(self, symbols: Sequence[str]) -> dict[str, list[str]]:
        """Learn the exchange's markets; give those wanted symbols that it does not have, each with similar ones."""
        with _understood():
            await self.client.load_markets(reload=True)
            ids = {
                str(market["id"]): str(market["symbol"])
                for market in self.client.markets.values()
                if market.get("active") is not False and (market.get("spot") if self.market == "spot" else market.get("linear"))
            }
        self.markets = {symbol: ids[symbol] for symbol in symbols if symbol in ids}
        return {symbol: difflib.get_close_matches(symbol, ids, n=3) for symbol in symbols if symbol not in ids}

    async def time_ms(self) -> int:
        """Ask for the exchange's own time."""
        with _understood():
            return int(await self.client.fetch_time())

    async def candles(self, symbol: str, timeframe: str, since_ms: int, count: int) -> list[list[Any]]:
        """Ask for candles from a time on, oldest first."""
        with _understood():
            return list(await self.client.fetch_ohlcv(self.markets[symbol], timeframe, since_ms, count))

    def retry_after_sec(self) -> float | None:
        """Give what the exchange last asked to wait."""
        headers = self.client.last_response_headers or {}
        text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
        return float(text) if str(text).isdigit() else None

    async def close(self) -> None:
        """Close its connections."""
        await self.client.close()


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
