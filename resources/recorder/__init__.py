"""The flight recorder: what goes into and comes out of every cycle, kept as Parquet files."""
