"""Candles from an exchange, in a process and an environment of their own.

Here, and nowhere else, an exchange library is imported. Nothing of the code location imports this package (the proof
``governor_permit/no_trading_libraries`` finds whoever does), and only public endpoints are asked: no key is read or accepted.
"""
