"""An exchange of the tests' own: speaks the public REST format of Binance's futures, and misbehaves when told to."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

MINUTE_MS = 60_000


def market(symbol: str, status: str = "TRADING") -> dict[str, Any]:
    """Describe one perpetual as `exchangeInfo` does."""
    base = symbol.removesuffix("USDT")
    limits = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
        {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
    ]
    return {
        "symbol": symbol, "pair": symbol, "contractType": "PERPETUAL", "deliveryDate": 4133404800000, "onboardDate": 1569398400000,
        "status": status, "baseAsset": base, "quoteAsset": "USDT", "marginAsset": "USDT", "pricePrecision": 2, "quantityPrecision": 3,
        "baseAssetPrecision": 8, "quotePrecision": 8, "underlyingType": "COIN", "filters": limits,
        "orderTypes": ["LIMIT", "MARKET"], "timeInForce": ["GTC"], "isSpotTradingAllowed": True, "permissions": ["SPOT"],
    }  # fmt: skip


class FakeExchange(ThreadingHTTPServer):
    """Serves candles that are a function of symbol and time, as of a clock that may be off.

    Attributes
    ----------
    skew_ms
        Added to its clock.
    symbols
        Its markets, and their status.
    missing
        Opening times it does not have.
    alter
        Called with symbol and rows before they are sent.
    trouble
        Called before each answer; what it gives is sent instead: a status, or ``"reset"``.
    asked
        Requests so far, by path.
    """

    daemon_threads = True

    def __init__(self, *symbols: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.skew_ms = 0
        self.symbols = dict.fromkeys(symbols, "TRADING")
        self.missing: set[int] = set()
        self.alter: Callable[[str, list[list[Any]]], list[list[Any]]] = lambda _, rows: rows
        self.trouble: Callable[[str], Any] = lambda _: None
        self.headers: dict[str, str] = {}
        self.asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def now_ms(self) -> int:
        return int(time.time() * 1000) + self.skew_ms

    def rows(self, symbol: str, since: int, limit: int) -> list[list[Any]]:
        """Give klines from a time on, the last of them still open."""
        first = -(-since // MINUTE_MS) * MINUTE_MS
        times = [one for one in range(first, self.now_ms(), MINUTE_MS)[:limit] if one not in self.missing]
        return [[one, *prices(symbol, one), one + MINUTE_MS - 1, "1", 1, "1", "1", "0"] for one in times]


def prices(symbol: str, opened: int) -> list[str]:
    """Give open, high, low, close and volume of a time, as text."""
    base = 100 + len(symbol) + (opened // MINUTE_MS % 97) / 10
    return [f"{number:.2f}" for number in (base, base + 1, base - 1, base + 0.5, 3)]


class _Handler(BaseHTTPRequestHandler):
    server: FakeExchange

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        server, query = self.server, {name: values[0] for name, values in parse_qs(parts.query).items()}
        server.asked[parts.path] += 1
        trouble = server.trouble(self.path)
        if trouble == "reset":
            self.connection.close()
            return
        if trouble:
            self._answer({"code": -1003, "msg": "told to"}, trouble)
        elif parts.path.endswith("/exchangeInfo"):
            markets = [market(*one) for one in server.symbols.items()]
            if not parts.path.startswith("/fapi"):  # the spot's description of the same names
                markets = [{name: one for name, one in each.items() if name != "contractType"} for each in markets]
            self._answer({"serverTime": server.now_ms(), "symbols": markets})
        elif parts.path.endswith("/time"):
            self._answer({"serverTime": server.now_ms()})
        elif parts.path.endswith("/klines"):
            since, limit = int(query.get("startTime", 0)), int(query.get("limit", 500))
            self._answer(server.alter(query["symbol"], server.rows(query["symbol"], since, limit)))
        else:
            self._answer([], 404)

    def _answer(self, body: Any, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@contextmanager
def exchange(*symbols: str) -> Iterator[FakeExchange]:
    """Run one."""
    server = FakeExchange(*symbols)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
