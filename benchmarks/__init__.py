"""Timings, side by side in one run: never asserted, always reported as ratios beside the absolute number."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in production; must be set before numpy is imported
