"""How long recorded rows stood: until nobody evaluated them any more, until they ended, and since when a result is missing.

Redis lets a row go when its lifetime is over, and nobody records that. It follows from the records of the steps: each names whom
it has evaluated. Here belong these rules, over rows that are read already; reading is :mod:`resources.recorder.reading`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl

from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import PUBLISHED, TRACKED_TTL_SEC
from quantum_core.settings import Settings
from resources.instance.range_tags import EVENT_TAG, covered

INTENT_DUE = "intent_due"  # table: whether the intent of a symbol was due, when that changes
DUE, ENDED = "due", "nothing due"  # field of an intent, and the cause of the row that ends one
CODE = re.compile(r"[^0-9:]*")  # of a reason: what stands before its first number or colon
WRITING_SEC = 10.0  # a flush takes at most so long, but for a slow disk
SILENT_SEC, SILENT_INTERVALS = 60.0, 6  # so long nothing is recorded, and so many cycles, before that is worth a word
USED_SETTINGS = frozenset(
    {
        "symbols",
        "publish_interval_sec",
        "marketstate_publish_interval",
        "proposal_max_age_sec",
        "candle_interval_sec",
        "recorder_flush_sec",
    }
)

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Rules:
    """What was in force: lifetimes, the cycle, and the symbols in their order.

    Attributes
    ----------
    given
        Recorded settings by name, where they are recorded; the defaults count otherwise.
    """

    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Rules:
        """Read the rows of the table ``settings``."""
        return cls({row["symbol"]: json.loads(row["value"]) for row in rows if row["symbol"] in USED_SETTINGS})

    def _number(self, name: str) -> float:
        return float(self.given.get(name, Settings.model_fields[name].default))

    def lifetime(self, table: Table) -> timedelta:
        """Give how long a row stands when nobody evaluates it; of what is kept for weeks, how long readers act on it."""
        seconds: float = table.lifetime_sec(self._number)
        return timedelta(seconds=seconds if seconds < TRACKED_TTL_SEC else self._number("proposal_max_age_sec"))

    @property
    def candle(self) -> timedelta:
        """How long a candle lasts."""
        return timedelta(seconds=self._number("candle_interval_sec"))

    @property
    def longest(self) -> timedelta:
        """The longest lifetime of all assets."""
        return max(map(self.lifetime, PUBLISHED))

    @property
    def silent(self) -> timedelta:
        """How long nothing may be recorded while the product runs."""
        return timedelta(seconds=max(SILENT_SEC, SILENT_INTERVALS * self._number("publish_interval_sec")))

    @property
    def unwritten(self) -> timedelta:
        """How long the newest records may wait to be written: of that time the archive says nothing yet."""
        return timedelta(seconds=self._number("recorder_flush_sec") + WRITING_SEC)

    def covers(self, ranges: str, names: Collection[str]) -> bool:
        """Say whether a step has evaluated a symbol; of one with a range that nobody can read any more, it is taken to."""
        symbols = [str(one) for one in self.given.get("symbols", ())]
        try:
            return not {*covered(symbols, {EVENT_TAG: ranges}, symbols)}.isdisjoint(names)
        except ValueError:
            return True


def evaluated(steps: pl.DataFrame, table: Table, names: Collection[str], rules: Rules) -> list[datetime]:
    """Give when an asset was evaluated for a symbol, oldest first.

    Parameters
    ----------
    steps
        ``at``, ``asset`` and ``symbols`` (ranges) of each.
    table
        Of the asset.
    names
        Under which the table has the symbol.
    rules
        In force.
    """
    own = steps.filter(pl.col("asset") == table.asset)
    if not table.of_account:
        own = own.filter(pl.col("symbols").is_in([one for one in set(own["symbols"]) if rules.covers(one, names)]))
    return own["at"].sort().to_list()


def ended_spans(times: Sequence[datetime], lifetime: timedelta, end: datetime) -> list[Span]:
    """Give from when to when a lifetime was over, of what was evaluated at some times; the last one until ``end``, exclusive."""
    last = [(times[-1] + lifetime, end)] if times and times[-1] + lifetime < end else []
    return [(before + lifetime, after) for before, after in pairwise(times) if after - before > lifetime] + last


def expired_text(over: Mapping[str, Any], since: str) -> str:
    """Say that a lifetime was over."""
    return f"no evaluation is recorded since {since} (lifetime of {over['lifetime_sec']:.0f} s over)"


def silent_spans(times: Iterable[datetime], silent: timedelta) -> list[Span]:
    """Give from when to when nothing was recorded, of steps at some times, oldest first."""
    return [(before, after) for before, after in pairwise(times) if after - before > silent]


def code_of(why: str | None) -> str:
    """Give the code of a reason, without what changes every second: ``candles_stale`` of ``candles_stale: 750 s > 420 s``."""
    match = CODE.match(why or "")
    return match.group().strip() if match else ""


def without_repeats(rows: pl.DataFrame) -> pl.DataFrame:
    """Leave out the rows of ``without_result`` that say of a symbol and asset what the one before has said, but for numbers."""
    codes = pl.col("why").fill_null("").str.extract(f"^({CODE.pattern})").str.strip_chars()
    said = pl.concat_str("state", codes, separator="\x1f")
    return rows.filter(said.ne_missing(said.shift().over("symbol", "asset")))


def with_endings(intents: pl.DataFrame, due: pl.DataFrame) -> pl.DataFrame:
    """Give the rows of intents, and one for each time an intent ended, or was due again.

    Parameters
    ----------
    intents
        Rows of ``trade_intent``, of any symbols.
    due
        Rows of ``intent_due``.

    Returns
    -------
    polars.DataFrame
        Sorted by time. What stands beside ``due`` in the row of an end is of the intent: it is what Redis keeps of it.
    """
    if not intents.width or not due.width:
        return intents
    columns = [name for name in intents.columns if name not in ("at", "seq", "cycle_id", DUE, "cause")]
    kept = intents.sort("at").select("at", *columns)
    changes = due.sort("at").select("at", "seq", "cycle_id", "symbol", DUE, pl.lit(ENDED).alias("cause"))
    endings = changes.join_asof(kept, on="at", by="symbol", check_sortedness=False).filter(pl.col("intent_id").is_not_null())
    both = pl.concat([intents.sort("at", maintain_order=True), endings], how="diagonal_relaxed").sort("at", maintain_order=True)
    repeated = (pl.col("cause") == ENDED) & pl.col(DUE).eq_missing(pl.col(DUE).shift().over("symbol"))
    return both.filter(~repeated.fill_null(value=False)).with_columns(
        pl.when((pl.col("cause") == ENDED) & pl.col(DUE)).then(pl.lit("due again")).otherwise("cause").alias("cause")
    )
