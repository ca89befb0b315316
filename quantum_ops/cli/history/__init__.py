"""Commands on recorded candles and on cases: replay, regime, kernels."""
