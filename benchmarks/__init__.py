"""Timings, side by side in one run: never asserted, always reported as ratios beside the absolute number."""
