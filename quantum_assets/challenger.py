"""Assets of the group ``challenger``: what CHALLENGER would propose of the same markets and positions. Nothing acts on them.

They are computed for all symbols of a run at once and have no partitions: a second materialization per symbol and asset would
cost more than the computation. Their rows have keys of their own (``resources/store/shadow.py``), which the governor never reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg
import polars as pl

from quantum_assets.harvest_proposal import harvest_frame
from quantum_assets.market_state import market_state_frame
from quantum_assets.position_size import sized_frame
from quantum_assets.risk_proposal import risk_frame
from quantum_assets.shared.partitions import OWNERS
from quantum_assets.shared.rows import shared_by_legs
from quantum_core.comparison import facts_of
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import Table
from quantum_core.contracts.tables import (
    ALLOCATION_TARGET,
    HARVEST_PROPOSAL,
    MARKET_STATE,
    POSITION,
    POSITION_SIZE,
    RISK_PROPOSAL,
)
from quantum_core.profiles.profile import Profile
from quantum_core.settings import Settings
from quantum_core.universe import CHALLENGER_ASSETS
from resources.calc_only import require_calc_only
from resources.inputs.candle_series import grid_theta_of
from resources.inputs.candles import CandleReader, CandlesOfRun
from resources.instance.range_tags import symbols_of
from resources.io_manager import cycle_id_of, fresh_frame
from resources.store.profiles import take_profile
from resources.store.redis_store import RedisStore
from resources.store.shadow import add_comparisons, note_challenger, read_shadow, write_shadow

GROUP = "challenger"
TABLES = (MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL, POSITION_SIZE)
COMPARED = (MARKET_STATE, RISK_PROPOSAL, HARVEST_PROPOSAL)
NAMES = dict(zip((table.asset for table in TABLES), CHALLENGER_ASSETS, strict=True))
FAILURES_SHOWN = 5


@dataclass
class _Known:
    """What a process remembers between cycles: market states by symbol, with the candles they are of, and the stops proposed."""

    fingerprint: str = ""
    states: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    stops: dict[str, tuple[str, float, float]] | None = None


_KNOWN: WeakKeyDictionary[RedisStore, _Known] = WeakKeyDictionary()


def challenger_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the challenger's assets; none where no challenger is set."""
    profile = settings.challenger_profile
    if profile is None:
        return []

    outs = {
        NAMES[table.asset]: dg.AssetOut(
            io_manager_key="notes_io",
            group_name=GROUP,
            kinds={"numpy", "redis"},
            owners=OWNERS,
            description=f"What the challenger **{profile.name}** would have as {table.asset}. A shadow: nothing acts on it.",
        )
        for table in TABLES
    }

    @dg.multi_asset(
        name=GROUP, outs=outs, deps=["market_state", "position", "risk_proposal", "harvest_proposal", "allocation_target"]
    )
    def challenger(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> Iterator[dg.Output[dict[str, Any]]]:
        """Compute what the challenger would propose, for every symbol of the run."""
        require_calc_only()
        symbols = list(symbols_of(context.run.tags, store.settings.symbols))
        take_profile(store, context.run.tags)
        candles = CandlesOfRun(store, context.run.run_id)
        for asset, notes in challenge(store, symbols, profile, cycle_id_of(context.run), candles).items():
            yield dg.Output(notes, output_name=NAMES[asset])

    return [challenger]


def challenge(
    store: RedisStore, symbols: Sequence[str], profile: Profile, cycle_id: str, candles: CandleReader
) -> dict[str, dict[str, Any]]:
    """Compute, write and compare what a challenger proposes.

    What fails is the challenger's own: it is named in the metadata, and leaves the champion alone.

    Returns
    -------
    dict
        Metadata by asset.
    """
    memo = _KNOWN.setdefault(store, _Known())
    if memo.fingerprint != profile.fingerprint:
        note_challenger(store, profile)
        _KNOWN[store] = memo = _Known(profile.fingerprint)
    champion = {table.asset: fresh_frame(store, table, symbols) for table in (*COMPARED, POSITION, ALLOCATION_TARGET)}
    renewed, market = _market_states(candles, memo, champion[MARKET_STATE.asset], symbols, profile)
    position = _with_own_stops(store, memo, champion[POSITION.asset], profile)
    risk = risk_frame(market, position, profile)
    frames = {
        MARKET_STATE.asset: market,
        RISK_PROPOSAL.asset: risk,
        HARVEST_PROPOSAL.asset: harvest_frame(market, position, risk, profile),
        POSITION_SIZE.asset: sized_frame(store, market, champion[ALLOCATION_TARGET.asset], profile),
    }
    _keep_stops(memo, risk, position)
    notes = {table.asset: _write(store, table, frames[table.asset], profile, cycle_id) for table in TABLES}
    facts = _compare(champion, frames, renewed)
    if facts:
        note_challenger(store, profile)
    add_comparisons(store, profile, facts)
    differs = {name: sum(one.get(name, 0) for one in facts.values()) for name in ("n", "regime", "held", "action")}
    notes[MARKET_STATE.asset] |= {"compared": differs["n"], "other_regime": differs["regime"]}
    notes[HARVEST_PROPOSAL.asset] |= {"compared": differs["held"], "other_action": differs["action"]}
    return notes


def _market_states(
    reader: CandleReader, known: _Known, champion: pl.DataFrame, symbols: Sequence[str], profile: Profile
) -> tuple[set[str], pl.DataFrame]:
    """Give the market states, computed anew where the champion's rest on other candles than those that are remembered."""
    digests = dict(champion.filter(pl.col("state") == State.PRESENT).select("symbol", "candles_digest").iter_rows())
    stale = [symbol for symbol in symbols if symbol in digests and known.states.get(symbol, ("",))[0] != digests[symbol]]
    if stale:
        settings = reader.store.settings
        grid = grid_theta_of(settings, profile)
        computed = shared_by_legs(
            stale, lambda some: market_state_frame(reader.read(some), grid, settings.ticks, profile=profile)
        )
        for row in computed.iter_rows(named=True):
            known.states[row["symbol"]] = digests[row["symbol"]], row
    missing = {"state": str(State.FAILED), "why": "market_state_missing: the champion has none"}
    rows = [known.states[symbol][1] if symbol in digests else {"symbol": symbol, **missing} for symbol in symbols]
    return set(stale), MARKET_STATE.frame(rows)


def _with_own_stops(store: RedisStore, known: _Known, position: pl.DataFrame, profile: Profile) -> pl.DataFrame:
    """Replace the stops in force, which the champion has proposed, by those of the challenger for the very same position."""
    if known.stops is None:  # a process that has just started
        kept = read_shadow(store, RISK_PROPOSAL, profile, position["symbol"].to_list())
        tracked = {row["symbol"]: row["tracked_since_epoch"] for row in position.iter_rows(named=True)}
        known.stops = {
            symbol: (row["position_side"], tracked[symbol], row["proposed_sl"])
            for symbol, row in kept.items()
            if tracked[symbol] is not None and row["published_at_utc"].timestamp() >= tracked[symbol]
        }
    stops = known.stops
    own = [
        stops[symbol][2] if symbol in stops and stops[symbol][:2] == (side, since) else None
        for symbol, side, since in position.select("symbol", "side", "tracked_since_epoch").iter_rows()
    ]
    return position.with_columns(current_sl=pl.Series(own, dtype=pl.Float64))


def _keep_stops(known: _Known, risk: pl.DataFrame, position: pl.DataFrame) -> None:
    held = {row[0]: row[1:] for row in position.select("symbol", "side", "tracked_since_epoch").iter_rows()}
    proposed = risk.filter(pl.col("state") == State.PRESENT)
    known.stops = {
        symbol: (*held[symbol], stop)
        for symbol, stop in (proposed.select("symbol", "proposed_sl").iter_rows() if len(proposed) else ())
    }


def _write(store: RedisStore, table: Table, frame: pl.DataFrame, profile: Profile, cycle_id: str) -> dict[str, Any]:
    rows = frame.filter(pl.col("state") == State.PRESENT).to_dicts()
    failed = dict(frame.filter(pl.col("state") == State.FAILED).select("symbol", "why").iter_rows())
    failed |= write_shadow(store, table, rows, profile, cycle_id)
    made_with = f"{profile.name} {profile.fingerprint}"
    told = {"profile": made_with, "computed": len(rows), "failed": len(failed), "cycle_id": cycle_id}
    named = "; ".join(f"{symbol}: {why}" for symbol, why in list(failed.items())[:FAILURES_SHOWN])
    return told | ({"failing": named} if failed else {})


def _compare(
    champion: Mapping[str, pl.DataFrame], challenger: Mapping[str, pl.DataFrame], renewed: set[str]
) -> dict[str, dict[str, int]]:
    """Compare the symbols whose market state is new: once a minute, whatever the cadence of cycles."""
    if not renewed:
        return {}

    def rows(frames: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, dict[str, Any]]]:
        is_new = pl.col("symbol").is_in(list(renewed)) & (pl.col("state") == State.PRESENT)
        return {table.asset: {row["symbol"]: row for row in frames[table.asset].filter(is_new).to_dicts()} for table in COMPARED}

    champion_rows, challenger_rows = rows(champion), rows(challenger)
    return {
        symbol: facts
        for symbol in sorted(renewed)
        if (
            facts := facts_of(
                {asset: of_asset.get(symbol) for asset, of_asset in champion_rows.items()},
                {asset: of_asset.get(symbol) for asset, of_asset in challenger_rows.items()},
            )
        )
    }
