"""A recorded day through the functions of the live assets and through the backtest: the same bits at every candle."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
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


@dataclass
class Followed:
    """A position that both sides follow, and what the backtest computed of it."""

    history: CandleHistory
    states: States
    entries: Entries
    log: list[Asked]

    @property
    def symbol(self) -> str:
        return self.history.symbol

    @property
    def side(self) -> str:
        return "LONG" if self.entries.is_long[0] else "SHORT"


def follow(
    history: CandleHistory, states: States, profile: Profile, side: str, first: int, held: int, cushion: float
) -> Followed:
    """Let the backtest follow a position; a cushion is profit at the entry, so that partials and locks are asked for."""
    entries = Entries(
        candle=np.array([first]),
        is_long=np.array([side == "LONG"]),
        mark=history.open[[first]],
        paid=history.open[[first]] * (1 - cushion if side == "LONG" else 1 + cushion),
        opened_at_ms=history.open_time_ms[[first]],
        qty=np.array([0.3]),
    )
    given = policy_of(history, states, profile, entries)
    watched = Watched(
        history, states, entries,
        stops_theta=given.stops_theta, harvest_theta=given.harvest_theta, tracking_theta=given.tracking_theta,
    )  # fmt: skip
    execute(history, entries, watched, Costs(), hold_max=held)
    return Followed(history, states, entries, watched.log)


def live(positions: Sequence[Followed], profile: Profile, settings: Settings) -> list[dict[str, dict[str, Any]]]:
    """Compute with the functions of the live assets what the positions had at each moment of their logs, by symbol."""
    symbols = [one.symbol for one in positions]
    published: dict[str, dict[str, Any]] = {}
    kept: dict[str, dict[str, Any]] = {}
    moments = []
    for number, asked in enumerate(zip(*(one.log for one in positions), strict=True)):
        at = asked[0].now
        assert {one.now for one in asked} == {at}
        now = datetime.fromtimestamp(at, UTC)
        candles, raws = {}, []
        for one, mine in zip(positions, asked, strict=True):
            history, entries = one.history, one.entries
            part = np.flatnonzero(history.open_time_ms + 60_000 <= round(at * 1000))[-WINDOW:]
            mark = float(history.close[part[-1]]) if number else float(entries.mark[0])
            columns = [getattr(history, name)[part] for name in ("open_time_ms", "high", "low", "close")]
            candles[one.symbol] = Candles(*columns, "candles", "k", 0, at, history.volume[part])
            qty, paid = float(entries.qty[0]) * mine.share, float(entries.paid[0])
            raw = RawPosition(
                one.symbol, one.side, paid, mark, profit_of(one.side, paid, mark, qty), qty=qty, ts_epoch=at,
                opened_at_epoch=float(entries.opened_at_ms[0]) / 1000,
                current_sl=None if np.isnan(mine.placed) else mine.placed,
            )  # fmt: skip
            raws.append(Reading.present(one.symbol, raw))
        readings = [Reading.present(symbol, candles[symbol]) for symbol in symbols]
        market = market_state_frame(readings, grid_theta_of(settings, profile), profile=profile)
        stored = {one: Reading.present(one, kept[one]) if one in kept else Reading.absent(one, "missing") for one in symbols}
        inputs = Inputs(at, raws, stored, {}, {}, published, {})
        moved = move_on(inputs, judge_snapshots(inputs, settings), candles, settings, profile)
        frame, _ = tracked_frame(symbols, moved)
        assert frame["state"].to_list() == ["present"] * len(symbols), frame["why"].to_list()
        risk = risk_frame(market, frame, profile)
        harvested = harvest_frame(market, frame, risk, profile)
        kept = {
            row["symbol"]: {name: row[name] for name in POSITION.by_name if name in row} for row in frame.iter_rows(named=True)
        }
        proposed = present(risk)
        sides = {one.symbol: one.side for one in positions}
        published |= {one: {**row, "position_side": sides[one], "published_at_utc": now} for one, row in proposed.items()}
        computed = {"market": present(market), "tracked": present(frame), "risk": proposed, "harvest": present(harvested)}
        moments.append({one: {name: rows.get(one, {}) for name, rows in computed.items()} for one in symbols})
    return moments


def present(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["symbol"]: row for row in frame.iter_rows(named=True) if row["state"] == "present"}


@dataclass
class Compared:
    """How many moments and values were compared, what differs, and what was proposed."""

    rows: int
    values: int
    differences: list[tuple[str, int, str]]
    actions: set[str]
    stops: set[str]


def compared(positions: Sequence[Followed], profile: Profile, settings: Settings) -> Compared:
    """Compute the live side, and compare every value of every position at every moment."""
    found = Compared(0, 0, [], set(), set())
    moments = live(positions, profile, settings)
    for one in positions:
        for number, (asked, moment) in enumerate(zip(one.log, moments, strict=True)):
            row, candle = moment[one.symbol], int(one.entries.candle[0]) - 1 + number
            pairs = {
                **{column: (getattr(one.states, column)[candle], row["market"].get(column)) for column in STATE_COLUMNS},
                **{column: (asked.tracked[column], row["tracked"][column]) for column in KEPT},
                **{column: (asked.proposed.get(column), {**row["risk"], **row["harvest"]}.get(column)) for column in PRICES},
            }
            wrong = [name for name, (ours, theirs) in pairs.items() if bits(ours) != bits(theirs)]
            wrong += ["action"] if asked.proposed.get("harvest_action") != row["harvest"].get("harvest_action") else []
            found.differences += [(one.symbol, candle, name) for name in wrong]
            found.rows, found.values = found.rows + 1, found.values + len(pairs) + 1
            found.actions.add(str(asked.proposed.get("harvest_action")))
            found.stops.add(bits(asked.proposed.get("proposed_sl")))
    return found


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
    found = compared([follow(history, states, profile, side, FIRST, HELD, 0.015)], profile, settings)
    assert (found.rows, found.differences) == (HELD, [])
    assert len(found.actions) > 1 or "FULL_CLOSE_PROPOSED" in found.actions
    assert len(found.stops) > 1


DAY = 1440  # candles of a day
PARTS = 4  # positions of a day, one after the other: each begins with a first stop
SEGMENTS = (  # candles, drift in sigmas, weight of the return before, sigma: trend, chop and reversion, calm and wild
    (FIRST, 0.0, 0.0, 0.0006), (180, 0.35, 0.1, 0.0006), (180, 0.0, -0.4, 0.0004), (150, -0.4, 0.1, 0.0009), (120, 0.0, 0.0, 0.004),
    (200, 0.0, -0.5, 0.0003), (180, 0.3, 0.2, 0.0012), (150, 0.0, 0.0, 0.0025), (140, -0.3, 0.0, 0.0005), (140, 0.0, -0.3, 0.0008),
)  # fmt: skip


def generated_day(symbol: str, seed: int = 20) -> CandleHistory:
    """Give the candles before a day, and those of a day in which trend, reversion and volatility change."""
    rng = np.random.default_rng(seed)
    drift, weight, sigma = (np.repeat([one[at] for one in SEGMENTS], [one[0] for one in SEGMENTS]) for at in (1, 2, 3))
    noise = rng.standard_normal(len(sigma))
    steps = np.zeros(len(sigma))
    for row in range(1, len(steps)):
        steps[row] = sigma[row] * (drift[row] + noise[row]) + weight[row] * steps[row - 1]
    close = np.round(60_000 * np.exp(np.cumsum(steps)), 1)
    opened = np.concatenate([[60_000.0], close[:-1]])
    above, below = (np.abs(rng.standard_normal(len(sigma))) * sigma / 2 for _ in range(2))
    return history_of(
        symbol,
        pl.DataFrame(
            {
                "open_time_ms": 1_750_000_020_000 + 60_000 * np.arange(len(sigma)),
                "open": opened,
                "high": np.round(np.maximum(opened, close) * (1 + above), 1),
                "low": np.round(np.minimum(opened, close) * (1 - below), 1),
                "close": close,
                "volume": np.round(rng.lognormal(3, 1, len(sigma)), 3),
            }
        ),
    )


def compared_day(histories: Sequence[CandleHistory], profile: Profile) -> list[Compared]:
    """Follow a long and a short through each part of a day, every other pair with profit from the start."""
    settings = load_settings(symbols=",".join(one.symbol for one in histories))
    states = [states_of(one, profile.theta(MarketStateTheta, one.symbol), required=profile.candles_required) for one in histories]
    pairs = list(zip(histories, states, ("LONG", "SHORT"), strict=True))
    held = DAY // PARTS
    return [
        compared(
            [follow(*pair, profile, side, FIRST + part * held, held, 0.015 * (part % 2)) for *pair, side in pairs],
            profile,
            settings,
        )
        for part in range(PARTS)
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["locked-v1", "crypto-1m"])
def test_a_whole_day_is_the_same_live_and_in_the_backtest(name: str) -> None:
    """Trends, chop and bursts of volatility, long and short: 2,880 moments of each profile, no bit differs."""
    profile = LOCKED if name == "locked-v1" else load(name)
    histories = [generated_day(symbol) for symbol in ("BTCUSDT", "ETHUSDT")]
    found = compared_day(histories, profile)
    assert sum(one.rows for one in found) == 2 * DAY
    assert sum(one.values for one in found) >= 20 * 2 * DAY
    assert [difference for one in found for difference in one.differences] == []
    assert len(set().union(*(one.actions for one in found))) > 1
    assert len(set().union(*(one.stops for one in found))) > 100
