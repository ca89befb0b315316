"""The formulas: arrays in, arrays out, one row per symbol.

Here belong the calc kernels and what they share: parameters (``theta``), columns (``columns``) and deterministic
price paths (``synthetic``). Nothing here knows Dagster, Redis, the clock, the environment or a log; a caller passes
the time it wants the answer for.
"""
