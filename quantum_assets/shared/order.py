"""Which of a run's steps goes first where several could: Dagster's priority of steps, as tags of their ops.

Proposals are what is waited for when a candle closes, so that nothing which they do not rest on is computed before them. The
governor decides last, on all that its run has found. What rests on what is said by the assets themselves.
"""

from __future__ import annotations

PRIORITY_TAG = "dagster/priority"
PROPOSALS_FIRST = {PRIORITY_TAG: "1"}
DECISIONS_LAST = {PRIORITY_TAG: "-1"}
