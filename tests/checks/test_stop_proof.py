"""The proof that stops tighten: it must not pass having judged nothing where something was due."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from quantum_assets.checks.proofs.risk_proposal import tightens
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import POSITION, RISK_PROPOSAL
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings, load_settings

T0 = 1_769_083_200.0
KEPT = {
    "held": True,
    "side": "LONG",
    "current_sl": 99.0,
    "entry_price": 100.0,
    "tracked_since_epoch": T0,
    "opened_at_epoch": T0,
    "last_update_epoch": int(T0) + 20,
}


@dataclass
class Look:
    """What the proof reads: one kept position, and the proposal published for it at T0 + 10."""

    kept: dict[str, Any]
    proposed: dict[str, Any]
    settings: Settings = field(default_factory=load_settings)

    def rows(self, table: Table) -> dict[str, dict[str, Any]]:
        assert table in (POSITION, RISK_PROPOSAL)
        return {"BTCUSDT": self.kept if table is POSITION else self.proposed}

    def profile_of(self, row: dict[str, Any], symbol: str) -> Profile:
        assert (row, symbol) == (self.kept, "BTCUSDT")
        return self.settings.own_profile


def judged(**changes: Any) -> Any:
    proposed = {
        "position_side": "LONG",
        "proposed_sl": 99.0,
        "position_entry_price": 100.0,
        "published_at_utc": datetime.fromtimestamp(T0 + 10, UTC),
    }
    kept = KEPT | {name: value for name, value in changes.items() if name in KEPT}
    look: Any = Look(kept, proposed | {name: value for name, value in changes.items() if name not in KEPT})
    return tightens(look)


@pytest.mark.parametrize("entry", [100.0, 100.00001, 105.0])
def test_another_entry_is_the_same_position(entry: float) -> None:
    """An add began a new position, and `0 of 0` passed."""
    finding = judged(entry_price=entry, proposed_sl=98.0)
    assert (finding.judged, finding.failing) == (1, {"BTCUSDT": "LONG stop 98.0 is looser than 99.0"})


def test_a_stop_that_was_proposed_and_is_not_kept_is_lost() -> None:
    """There is nothing to compare with, and there ought to be."""
    finding = judged(current_sl=None)
    assert (finding.judged, list(finding.failing)) == (1, ["BTCUSDT"])


@pytest.mark.parametrize("changes", [{"last_update_epoch": int(T0) + 10}, {"tracked_since_epoch": T0 + 11}])
def test_a_first_proposal_is_named_as_not_judged(changes: dict[str, Any]) -> None:
    """Of this very cycle, or of the position before."""
    finding = judged(current_sl=None, **changes)
    assert (finding.judged, finding.failing) == (0, {})
    assert finding.observed == "nothing to judge, 1 without a stop in force"


def test_a_tighter_stop_passes() -> None:
    """What ought to be."""
    finding = judged(proposed_sl=99.5)
    assert (finding.observed, finding.failing) == ("1 of 1", {})
