"""Recorded candles: read from files, and played."""
