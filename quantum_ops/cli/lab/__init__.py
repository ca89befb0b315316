"""Commands of the lab: what profiles are worth on recorded candles."""
