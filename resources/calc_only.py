"""What a calc-only process must never have loaded. Everything that publishes or permits asks here first."""

from __future__ import annotations

import sys

TRADING_LIBRARIES = frozenset(
    {
        "MetaTrader5", "alpaca", "alpaca_trade_api", "backtrader", "binance", "bitget", "bitmex", "bybit", "cbpro", "ccxt",
        "ccxtpro", "coinbase", "cryptofeed", "cryptoxlib", "dydx", "dydx3", "freqtrade", "ftx", "gate_api", "hummingbot",
        "hyperliquid", "ib_async", "ib_insync", "ibapi", "jesse", "krakenex", "kucoin", "lumibot", "nautilus_trader",
        "oandapyV20", "okx", "pybit", "python_bitvavo_api", "quickfix", "robin_stocks", "unicorn_binance_rest_api",
        "unicorn_binance_websocket_api", "vnpy", "web3", "zipline",
    }
)  # fmt: skip


class TradingLibraryLoadedError(RuntimeError):
    """What could place an order is loaded in this process; it publishes and permits nothing."""


def loaded_trading_libraries() -> list[str]:
    """Name those that this process has loaded."""
    return sorted(TRADING_LIBRARIES & {loaded.partition(".")[0] for loaded in list(sys.modules)})


def require_calc_only() -> None:
    """Refuse to go on in a process that could place an order.

    Raises
    ------
    TradingLibraryLoadedError
        It names what is loaded.
    """
    if loaded := loaded_trading_libraries():
        msg = f"{', '.join(loaded)} is loaded in this process: it publishes and permits nothing. Run exchange code elsewhere."
        raise TradingLibraryLoadedError(msg)
