"""What others write, as the last cycle read it: one reading per symbol, and the check ``usable`` of each input.

The cycle reads the inputs anyway: what it found is in the frames of the assets that read them and in the recorded failures, and
is judged here. Nothing is read a second time, so that page and cycle never disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Proof, Verdict
from quantum_assets.contracts.reading import State
from resources.failures import read_failures
from resources.foreign import number_or_none
from resources.redis_store import RedisStore

USABLE = "usable"


@dataclass(frozen=True)
class InputReading:
    """One input of one symbol as a step found it.

    Attributes
    ----------
    code
        State, or the code of what is wrong, and the source: what changes it is worth an observation.
    words
        The same for people.
    failed
        Whether it cannot be used.
    epoch
        When it was written, epoch s, where it says so.
    details
        Count, source, key.
    """

    code: str
    words: str
    failed: bool = False
    epoch: float | None = None
    details: Mapping[str, float | str] = field(default_factory=dict)

    def metadata(self, now: float) -> dict[str, float | str]:
        """Lay it out for an observation at a time, epoch s."""
        age = {} if self.epoch is None else {"age_sec": round(now - self.epoch, 1)}
        return {"state": "failed" if self.failed else self.code.partition(" ")[0], "reason": self.words, **age, **self.details}


class Input(NamedTuple):
    """One input.

    Attributes
    ----------
    asset
        The external asset.
    read_by
        The asset whose step reads it first.
    codes
        How the codes of its own faults begin, among those of the step.
    epoch, details
        Columns of the step's frame: when it was written, and what else is shown of it (name in the metadata to column).
    """

    asset: str
    read_by: str
    codes: tuple[str, ...]
    epoch: str
    details: Mapping[str, str]

    def readings(self, frame: pl.DataFrame) -> dict[str, InputReading]:
        """Give what the step's frame says of the input of each symbol; what fails for another reason is left out."""
        found = {}
        for row in frame.iter_rows(named=True):
            state, why = row["state"], row["why"] or ""
            if state == State.PRESENT:
                details = {name: row[column] for name, column in self.details.items() if row.get(column) is not None}
                source = str(details.get("source", ""))
                epoch = row.get(self.epoch)
                found[row["symbol"]] = InputReading(
                    f"present {source}".strip(), f"present{f' from {source}' if source else ''}", epoch=epoch, details=details
                )
            elif state == State.ABSENT:
                found[row["symbol"]] = InputReading("absent", why)
            elif why.startswith(self.codes):
                found[row["symbol"]] = InputReading(f"failed {code_of(why)}", why, failed=True)
        return found

    @property
    def proof(self) -> Proof:
        """The claim of its check."""
        return Proof(self.asset, USABLE, self.asset, "ERROR", USABLE_CLAIM, "", _never)


USABLE_CLAIM = "The last cycle could use what was written for every symbol."
INPUTS = (
    Input(
        "candles",
        "market_state",
        ("candles_", "too_few_candles", "price_"),
        "ts_timestamp",
        {"count": "buffer_size", "source": "source", "key": "candle_key"},
    ),
    Input("raw_positions", "position", ("position_",), "position_ts_epoch", {"source": "position_source"}),
    Input("base_targets", "allocation_target", ("base_target_",), "", {"target_usd": "base_target"}),
)
SILENT_AFTER_INTERVALS = 6  # without a cycle for so long nothing is known of the inputs


def code_of(why: str) -> str:
    """Give the machine-readable part of a reason."""
    return why.partition(":")[0].partition(" (")[0]


def usable(store: RedisStore, one: Input) -> Verdict:
    """Judge an input by what the last cycle could not use; without a cycle nothing is known.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    (beat,) = store.run("looking for the last cycle", [("GET", store.keys.of("heartbeat", "cycle"))])
    failures = read_failures(store, [one.read_by])[one.read_by]
    now, symbols = store.clock().timestamp(), store.settings.symbols
    failing = {
        symbol: failure.why for symbol, failure in failures.items() if symbol in symbols and failure.why.startswith(one.codes)
    }
    ended = number_or_none(beat) if isinstance(beat, bytes) else None
    newest = max([ended or 0.0, *(failure.at for failure in failures.values())])
    silent_sec = now - newest
    if silent_sec > SILENT_AFTER_INTERVALS * store.settings.publish_interval_sec:
        told = f"no cycle has ended for {silent_sec:.0f} s" if newest else "no cycle has ended yet"
        return Verdict(one.proof, Finding(told, "a cycle", 0), evaluated=False)
    return Verdict(one.proof, Finding(f"{len(symbols) - len(failing)} of {len(symbols)} usable", "all", len(symbols), failing))


def _never(_: Evidence) -> Finding:
    msg = "an input is judged by what the last cycle found"
    raise NotImplementedError(msg)
