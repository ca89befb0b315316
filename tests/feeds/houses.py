"""Answers of exchanges in the shapes their documentation gives, and a program of the feed's environment that reads them.

``python -m tests.feeds.houses URL`` asks each for candles through the feed's own :class:`quantum_feed.exchange.Exchange`, and prints what
came of it as JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

MINUTE_MS = 60_000
Prices = tuple[str, str, str, str, str]  # open, high, low, close, volume
FIRST_MS, COUNT = 1_764_000_000_000, 200


@dataclass(frozen=True)
class House:
    """One exchange.

    Attributes
    ----------
    name, market
        As the feed is told.
    own
        What it calls the market.
    base, quote
        Unified currencies.
    row, answer
        Shapes of one candle and of the whole answer.
    newest_first
        Order of its candles.
    """

    name: str
    market: str
    own: str
    base: str
    quote: str
    row: Callable[[int, Prices], Any]
    answer: Callable[[list[Any]], Any]
    newest_first: bool = True

    @property
    def short(self) -> str:
        return f"{self.base}{self.quote}"


def seconds(at: int) -> int:
    return at // 1000


HOUSES = (
    House(
        "bybit", "future", "BTCUSDT", "BTC", "USDT",
        lambda at, p: [str(at), *p, "1"],
        lambda rows: {"retCode": 0, "retMsg": "OK", "result": {"symbol": "BTCUSDT", "category": "linear", "list": rows}},
    ),
    House(
        "okx", "future", "BTC-USDT-SWAP", "BTC", "USDT",
        lambda at, p: [str(at), *p[:4], "300", p[4], "1", "1"],
        lambda rows: {"code": "0", "msg": "", "data": rows},
    ),
    House(
        "kraken", "spot", "XXBTZUSD", "BTC", "USD",
        lambda at, p: [seconds(at), *p[:4], p[3], p[4], 5],
        lambda rows: {"error": [], "result": {"XXBTZUSD": rows, "last": 1}},
        newest_first=False,
    ),
    House(
        "krakenfutures", "future", "PF_XBTUSD", "BTC", "USD",
        lambda at, p: {"time": at, "open": p[0], "high": p[1], "low": p[2], "close": p[3], "volume": p[4]},
        lambda rows: {"candles": rows, "more_candles": False},
        newest_first=False,
    ),
    House(
        "coinbase", "spot", "BTC-USD", "BTC", "USD",
        lambda at, p: {"start": str(seconds(at)), "low": p[2], "high": p[1], "open": p[0], "close": p[3], "volume": p[4]},
        lambda rows: {"candles": rows},
    ),
    House(
        "coinbaseexchange", "spot", "BTC-USD", "BTC", "USD",
        lambda at, p: [seconds(at), *map(float, (p[2], p[1], p[0], p[3], p[4]))],
        lambda rows: rows,
    ),
    House(
        "kucoin", "spot", "BTC-USDT", "BTC", "USDT",
        lambda at, p: [str(seconds(at)), p[0], p[3], p[1], p[2], p[4], "1"],
        lambda rows: {"code": "200000", "data": rows},
    ),
    House(
        "kucoinfutures", "future", "XBTUSDTM", "BTC", "USDT",
        lambda at, p: [at, *map(float, p)],
        lambda rows: {"code": "200000", "data": rows},
        newest_first=False,
    ),
    House(
        "htx", "spot", "btcusdt", "BTC", "USDT",
        lambda at, p: {"id": seconds(at), "open": float(p[0]), "close": float(p[3]), "low": float(p[2]), "high": float(p[1]),
                       "amount": float(p[4]), "vol": 1.0, "count": 1},
        lambda rows: {"status": "ok", "ch": "market.btcusdt.kline.1min", "ts": 1, "data": rows},
    ),
    House(
        "bitget", "future", "BTCUSDT", "BTC", "USDT",
        lambda at, p: [str(at), *p, "1"],
        lambda rows: {"code": "00000", "msg": "success", "requestTime": 1, "data": rows},
        newest_first=False,
    ),
)  # fmt: skip


def prices(at: int) -> Prices:
    """Give open, high, low, close and volume of a time: five different numbers, so that another order shows."""
    base = 100 + at // MINUTE_MS % 97 / 10
    return tuple(f"{number:.2f}" for number in (base, base + 2, base - 1, base + 1, 3))  # type: ignore[return-value]


def answered(house: House, *, dated: bool = True) -> ThreadingHTTPServer:
    """Make a server that gives all candles this house has to whoever asks for any."""
    times = [FIRST_MS + number * MINUTE_MS for number in range(COUNT)]
    rows = [house.row(at, prices(at)) for at in (reversed(times) if house.newest_first else times)]
    text = json.dumps(house.answer(rows)).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (self.send_response if dated else self.send_response_only)(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def served(house: House) -> Iterator[str]:
    """Run it."""
    server = answered(house)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def asked(house: House, url: str) -> dict[str, Any]:
    """Ask one house through the feed's own code."""
    from quantum_feed.exchange import Exchange, names_of
    from quantum_feed.ohlcv import judge

    exchange = Exchange(house.name, house.market, url)
    client, spot = exchange.client, house.market == "spot"
    symbol = f"{house.base}/{house.quote}" + ("" if spot else f":{house.quote}")
    market = client.safe_market_structure(
        {
            "id": house.own, "symbol": symbol, "base": house.base, "quote": house.quote, "baseId": house.base, "quoteId": house.quote,
            "settle": None if spot else house.quote, "type": "spot" if spot else "swap", "spot": spot, "swap": not spot,
            "contract": not spot, "linear": None if spot else True, "inverse": None if spot else False, "active": True,
            "info": {}, "precision": {"amount": 0.001, "price": 0.01},
        }
    )  # fmt: skip
    client.set_markets([market])
    try:
        lacking = exchange.lacks("1m")
        exchange.markets = {house.short: names_of(client.markets.values(), spot=spot)[house.short]}
        page = exchange._page()
        rows = await exchange.candles(house.short, "1m", FIRST_MS, 50)
        now_ms = await exchange.time_ms() if not client.has.get("fetchTime") else 0
    finally:
        await exchange.close()
    judged = judge(rows, exchange_ms=FIRST_MS + 10**9, interval_ms=MINUTE_MS)
    candles = {str(at): candle for at, candle in judged.candles.items()}
    return {"lacks": lacking, "page": page, "rejected": judged.rejected, "candles": candles, "now_ms": now_ms}


def main() -> None:
    """Ask all of them; each has a server of its own."""
    import asyncio

    found = {}
    for house in HOUSES:
        with served(house) as url:
            found[house.name] = asyncio.run(asked(house, url))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
