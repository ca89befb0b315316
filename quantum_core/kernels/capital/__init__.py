"""Capital: how well it works in each symbol, and the target scaled by that."""
