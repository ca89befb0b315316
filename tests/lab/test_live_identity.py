"""A recorded day through the functions of the live assets and through the backtest: the same bits at every candle."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantum_assets.harvest_proposal import harvest_frame
from quantum_assets.market_state import market_state_frame
from quantum_assets.risk_proposal import risk_frame
from quantum_assets.shared.tracked_positions import Inputs, judge_snapshots, move_on, tracked_frame
from quantum_core.contracts.reading import Reading
from quantum_core.contracts.tables import POSITION
from quantum_core.kernels.market.market_state import STATE_COLUMNS, MarketStateTheta
from quantum_core.profiles.files import load
from quantum_core.profiles.profile import LOCKED, Profile
from quantum_core.settings import Settings, load_settings
from quantum_lab.backtest import policy_of
from quantum_lab.candles import CandleHistory, history_of
from quantum_lab.execution import ACTIONS, Costs, Entries, Held, Orders, execute
from quantum_lab.policies import ProfilePolicy
from quantum_lab.states import States, states_of
from quantum_ops.recordings.ohlcv_files import read_ohlcv
from resources.inputs.candle_series import Candles, grid_theta_of
from resources.inputs.position_snapshots import RawPosition, profit_of

SAMPLE = Path(__file__).resolve().parents[2] / "quantum_assets" / "sample"
WINDOW = 300  # candles live reads
FIRST = 260  # the first states are there
HELD = 430  # to the end of the sample
PRICES = ("proposed_sl", "proposed_tp", "stop_dist_pct", "new_sl_proposed", "R_net", "kill_score")
KEPT = ("current_price", "peak_price", "trough_price", "current_sl", "collared_price", "last_close")


@dataclass
class Asked:
    """What the backtest computed of one position at one moment."""

    now: float
    share: float
    placed: float
    tracked: dict[str, float]
    proposed: dict[str, Any]


class Watched(ProfilePolicy):
    """The policy of a profile; keeps what it computed and never gives an order, so that no exit ends the comparison."""

    def decide(self, held: Held) -> Orders:
        placed = float(self.placed[0])
        orders = super().decide(held)
        made = self.propose(held)
        proposed = {}
        if made is not None:
            values = {name: getattr(made.stops, name, None) for name in PRICES[:3]} | {
                name: getattr(made.harvest, name) for name in ("new_sl_proposed", "R_net", "kill_score", "harvest_action")
            }
            proposed = {name: value[0] for name, value in values.items()}
            assert ACTIONS[orders.action[0]] == proposed["harvest_action"]
        tracked = {name: float(getattr(self.tracked, name)[0]) for name in KEPT}
        self.log = [*getattr(self, "log", []), Asked(held.now_ms[0] / 1000, float(held.share[0]), placed, tracked, proposed)]
        return Orders(np.full(1, np.nan), np.full(1, np.nan), orders.action * (orders.action < 4))


def recorded(symbol: str, profile: Profile) -> tuple[CandleHistory, States]:
    frame = read_ohlcv(SAMPLE / f"{symbol}_1m.csv").frame
    history = history_of(symbol, frame)
    return history, states_of(history, profile.theta(MarketStateTheta, symbol), required=profile.candles_required)


def live(
    history: CandleHistory, entries: Entries, log: list[Asked], profile: Profile, settings: Settings
) -> list[dict[str, Any]]:
    """Compute with the functions of the live assets what the position had at each moment of the log."""
    symbol, side = history.symbol, "LONG" if entries.is_long[0] else "SHORT"
    published: dict[str, dict[str, Any]] = {}
    kept: dict[str, Any] | None = None
    rows = []
    for asked in log:
        now = datetime.fromtimestamp(asked.now, UTC)
        closed = history.open_time_ms + 60_000 <= round(asked.now * 1000)
        part = np.flatnonzero(closed)[-WINDOW:]
        mark = float(entries.mark[0]) if asked is log[0] else float(history.close[part[-1]])
        columns = [getattr(history, name)[part] for name in ("open_time_ms", "high", "low", "close")]
        candles = Candles(*columns, "candles", "k", 0, asked.now, history.volume[part])
        market = market_state_frame([Reading.present(symbol, candles)], grid_theta_of(settings, profile), profile=profile)
        qty = float(entries.qty[0]) * asked.share
        raw = RawPosition(
            symbol, side, float(entries.paid[0]), mark, profit_of(side, float(entries.paid[0]), mark, qty), qty=qty,
            ts_epoch=asked.now, opened_at_epoch=float(entries.opened_at_ms[0]) / 1000,
            current_sl=None if np.isnan(asked.placed) else asked.placed,
        )  # fmt: skip
        stored = Reading.absent(symbol, "missing") if kept is None else Reading.present(symbol, kept)
        inputs = Inputs(asked.now, [Reading.present(symbol, raw)], {symbol: stored}, {}, {}, published, {})
        moved = move_on(inputs, judge_snapshots(inputs, settings), {symbol: candles}, settings, profile)
        frame, _ = tracked_frame([symbol], moved)
        assert frame["state"][0] == "present", frame["why"][0]
        risk = risk_frame(market, frame, profile)
        harvested = harvest_frame(market, frame, risk, profile)
        kept = {name: frame[name][0] for name in POSITION.by_name if name in frame.columns}
        if risk["state"][0] == "present":
            published = {symbol: {**risk.row(0, named=True), "position_side": side, "published_at_utc": now}}
        rows.append(
            {
                "market": {name: market[name][0] if market["state"][0] == "present" else None for name in STATE_COLUMNS},
                "tracked": {name: frame[name][0] for name in KEPT},
                "risk": risk.row(0, named=True) if risk["state"][0] == "present" else {},
                "harvest": harvested.row(0, named=True) if harvested["state"][0] == "present" else {},
            }
        )
    return rows


def bits(value: float | None) -> str:
    return "none" if value is None or np.isnan(value) else float(value).hex()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("symbol", "side"), [("BTCUSDT", "LONG"), ("SOLUSDT", "SHORT")])
@pytest.mark.parametrize("name", ["locked-v1", "crypto-1m"])
def test_live_and_backtest_compute_the_same_at_every_candle(symbol: str, side: str, name: str) -> None:
    """State, tracking, stop, target, action: what a backtest says of a profile is true of the product only if they are one."""
    settings = load_settings(symbols=symbol)
    profile = LOCKED if name == "locked-v1" else load(name)
    history, states = recorded(symbol, profile)
    entries = Entries(
        candle=np.array([FIRST]),
        is_long=np.array([side == "LONG"]),
        mark=history.open[[FIRST]],
        paid=history.open[[FIRST]] * (0.985 if side == "LONG" else 1.015),  # in profit, so that partials and locks are asked for
        opened_at_ms=history.open_time_ms[[FIRST]],
        qty=np.array([0.3]),
    )
    given = policy_of(history, states, profile, entries)
    watched = Watched(
        history, states, entries,
        stops_theta=given.stops_theta, harvest_theta=given.harvest_theta, tracking_theta=given.tracking_theta,
    )  # fmt: skip
    execute(history, entries, watched, Costs(), hold_max=HELD)
    rows = live(history, entries, watched.log, profile, settings)
    assert len(rows) == HELD
    for number, (asked, row) in enumerate(zip(watched.log, rows, strict=True)):
        candle = FIRST - 1 + number
        for column in STATE_COLUMNS:
            assert bits(getattr(states, column)[candle]) == bits(row["market"][column]), (candle, column)
        for column in KEPT:
            assert bits(asked.tracked[column]) == bits(row["tracked"][column]), (candle, column)
        for column in PRICES:
            assert bits(asked.proposed[column]) == bits({**row["risk"], **row["harvest"]}[column]), (candle, column)
        assert asked.proposed["harvest_action"] == row["harvest"]["harvest_action"]
    actions = {asked.proposed["harvest_action"] for asked in watched.log}
    assert len(actions) > 1 or "FULL_CLOSE_PROPOSED" in actions
    assert len({bits(asked.proposed["proposed_sl"]) for asked in watched.log}) > 1
