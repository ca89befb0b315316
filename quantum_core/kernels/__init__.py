"""The formulas: arrays in, arrays out, one row per symbol.

Here belong the calc kernels and what they share: parameters (``theta``), columns (``columns``) and deterministic
price paths (``synthetic``). Nothing here knows Dagster, Redis, the clock, the environment or a log; a caller passes
the time it wants the answer for.
"""

# A price or size that is read beyond is a fault: the cheapest and the dearest coin, 1e12 times cheaper and dearer, are inside.
NUMBER_MIN, NUMBER_MAX = 1e-24, 1e24
# What is computed from them stays within, and quotients and products of a few such numbers stay finite.
TINY, HUGE = 1e-30, 1e30
CLOCK_SKEW_SEC = 5  # clocks of two hosts may differ by this much; a time further ahead is a fault, not fresh
