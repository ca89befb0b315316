"""The market: volatility, trend and regime from closes, and the grid they stand on."""
