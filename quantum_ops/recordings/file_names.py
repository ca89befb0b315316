"""What the name of a file of candles says: symbol and interval, as exchanges and programs write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantum_core.settings import as_listed
from quantum_ops.recordings.file_rows import OhlcvFileError, short

SUFFIXES = (".csv", ".txt", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".feather", ".arrow", ".ipc", ".gz", ".zip")
BESIDE = re.compile(r"(?i)(^|/)(__MACOSX/|\.(?!\.?/)|(readme|licen[cs]e|notice|terms)[^/]*$)")  # in archives, beside the candles
_HOUSES = (
    "binance|binanceus|bitfinex|bitflyer|bitget|bitmex|bitstamp|bybit|bitvavo|cexio|bingx|coinbase|coinex|deribit|ftx|gate|gateio|gemini|hitbtc"
    "|htx|huobi|hyperliquid|kraken|kucoin|mexc|okcoin|okex|okx|phemex|poloniex|upbit"
)
_QUOTES = (
    "FDUSD|USDT|USDC|BUSD|TUSD|USDP|USD1|USDE|DAI|USD|EUR|GBP|TRY|BRL|JPY|KRW|AUD|CHF|PLN|ARS|ZAR|MXN|IDR|BTC|XBT|ETH|BNB|PERP"
)
_DELIVERY = r"\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_REST = (
    r"(?:[-_ ,.:]+(?:\d+(?:s|m|min|h|d|w|mo)?|min|minute(?:ly)?|hour(?:ly)?|day|daily|spot|swap|perp|p|futures|linear|inverse"
    r"|um|cm|ohlcv?t?|klines?|candles?|candlesticks?|data|history|to|(?-i:[0-9a-f]{5})|\(\d+\)))*"
)
_STEM = re.compile(
    rf"(?:(?:{_HOUSES})[-_ .:]+)?(?P<base>[^\W_]{{1,30}}?)[-_]?(?P<quote>{_QUOTES})(?P<kind>_(?:PERP|{_DELIVERY}))?"
    rf"(?:[-_:](?:(?P=quote)|(?P=base)))?(?P<rest>{_REST})",  # freqtrade: what a contract is settled in
    re.IGNORECASE,
)
_REST_ONLY = re.compile(_REST, re.IGNORECASE)
_INTERVAL = re.compile(r"(\d+)(s|m|min|h|H|d|D|w|W|mo|M)")  # a capital M is a month
_UNIT_SEC = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_WORD_SEC = {"minute": 60, "minutely": 60, "hour": 3600, "hourly": 3600, "day": 86_400, "daily": 86_400}
_KINDS = ("p", "perp", "swap", "spot", "futures", "linear", "inverse", "um", "cm")  # of contracts, before the interval
_BARE_MINUTES = (1, 3, 5, 15, 30, 60, 120, 240, 360, 720, 1440, 10080)  # Kraken, Bybit and TradingView write no unit


@dataclass(frozen=True)
class NamedFile:
    """What the name of a file says."""

    path: Path
    symbol: str | None
    interval_sec: int | None


def named_file(path: Path, known: Iterable[str] = ()) -> NamedFile:
    """Read symbol and interval out of the name of a file.

    Parameters
    ----------
    path
        Names as the houses give them: ``BTCUSDT-1m-2025-08.zip``, ``BTC_USDT_USDT-5m-futures.feather``, ``XBTUSD_1.csv``,
        ``Binance_BTCUSDT_2025_minute.csv``. Where the symbol has lower-case letters only, it is taken in upper case.
    known
        Symbols of the settings; where the name has one of them in another case, or none of the usual quotes, theirs counts.
    """
    stem = path.name
    while (suffix := Path(stem).suffix.lower()) in SUFFIXES:
        stem = stem[: -len(suffix)]
    by_fold = {one.casefold(): one for one in (*known,)[::-1]}
    match = _STEM.fullmatch(stem)
    if match is not None and not re.fullmatch(_HOUSES, match["base"], re.IGNORECASE):
        named = f"{match['base']}{match['quote']}{match['kind'] or ''}"
        symbol = named if named in known else by_fold.get(named.casefold(), as_listed(named))
        return NamedFile(path, symbol, _interval(match["rest"]))
    for fold in sorted(by_fold, key=len, reverse=True):
        if stem.casefold().startswith(fold) and _REST_ONLY.fullmatch(stem[len(fold) :]):
            return NamedFile(path, by_fold[fold], _interval(stem[len(fold) :]))
    return NamedFile(path, None, None)


def _interval(rest: str) -> int | None:
    tokens = [token for token in re.split(r"[-_ ,.:]+", rest) if token and token.lower() not in _KINDS]
    if tokens and tokens[0].isdecimal() and int(tokens[0]) in _BARE_MINUTES:
        return int(tokens[0]) * 60
    for token in tokens:
        if match := _INTERVAL.fullmatch(token):
            return int(match[1]) * (_UNIT_SEC["mo"] if match[2] == "M" else _UNIT_SEC[match[2].lower()])
        if token.lower() in _WORD_SEC:
            return _WORD_SEC[token.lower()]
    return None


def files_in(folder: Path) -> list[Path]:
    """Give the files of a folder that may hold candles, by name; not those of folders inside.

    Raises
    ------
    OhlcvFileError
        The folder cannot be read or holds none.
    """
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if (path.is_file() or (path.is_symlink() and not path.exists()))  # one that leads nowhere is for the reader to name
            and path.suffix.lower() in SUFFIXES
            and path.name[0] != "."
        )
    except OSError as error:
        message = f"{folder} cannot be read ({short(error.strerror)}): give a folder with files of candles"
        raise OhlcvFileError(message) from error
    if not files:
        message = f"{folder} has no files of candles ({', '.join(SUFFIXES)})"
        raise OhlcvFileError(message)
    return files
