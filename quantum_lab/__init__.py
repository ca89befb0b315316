"""The lab: what the formulas would have done on history, and what that is worth.

Here belong candles of the past, the states and proposals computed from them by the very kernels that run live, and the statistics
of both. Files, commands and pictures are for those who call; nothing here knows Dagster, Redis or the clock.
"""

CACHE = "lab"  # folder of market states in QUANTUM_HOME
