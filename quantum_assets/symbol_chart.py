"""Asset ``symbol_chart``: one symbol as a picture with its numbers, drawn when somebody asks. It publishes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg
import numpy as np

from quantum_assets.shared.charts import CANDLES_WANTED, Level, Times, as_markdown, symbol_figure
from quantum_assets.shared.partitions import DESK, OWNERS
from quantum_core.contracts.reading import Reading, State
from quantum_core.contracts.tables import MARKET_STATE, POSITION, RISK_PROPOSAL
from resources.inputs.candle_series import Candles
from resources.inputs.candles import CandleReader
from resources.io_manager import fresh_frame
from resources.store.redis_store import RedisStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {  # table -> fields worth a line beside the picture
    POSITION: ("side", "entry_price", "current_price", "current_sl", "unrealized_pnl"),
    RISK_PROPOSAL: ("proposed_sl", "proposed_tp", "stop_dist_pct", "reason_codes", "sl_breached", "cycle_id"),
    MARKET_STATE: ("sigma", "mu", "ts", "p_trend", "p_mr", "p_chop", "buffer_size", "source"),
}


@dataclass(frozen=True)
class Portrait:
    """What is known of one symbol.

    Attributes
    ----------
    symbol
        The symbol.
    candles
        Its candles, CANDLES_WANTED when there are so many; without any there is no picture.
    rows
        By asset the published row with ``state`` and ``why``, see :func:`resources.io_manager.fresh_frame`.
    """

    symbol: str
    candles: Reading[Candles]
    rows: Mapping[str, Mapping[str, Any]]

    def figure(self) -> "Figure | None":
        """Draw it; ``None`` without candles."""
        candles = self.candles.value
        if candles is None:
            return None
        position = self.rows[POSITION.asset]
        held = str(position["side"]) if position["state"] == State.PRESENT else "no position"
        until = f"{datetime.fromtimestamp(candles.newest_epoch_sec, UTC):%d %b %Y %H:%M} UTC" if candles.newest_epoch_sec else ""
        note = " · ".join(filter(None, (held, candles.source, until)))
        return symbol_figure(self.symbol, _times(candles), candles.close, self._levels(), note)

    def numbers(self) -> dict[str, float | str]:
        """Give the published values, and for an asset without any the reason."""
        values: dict[str, float | str] = {}
        for table, names in SHOWN.items():
            row = self.rows[table.asset]
            if row["state"] != State.PRESENT:
                values[table.asset] = f"{row['state']}: {row['why']}"
            else:
                values |= {name: _plain(row[name]) for name in names if row[name] is not None}
        return values

    def _levels(self) -> dict[Level, float]:
        position, proposal = self.rows[POSITION.asset], self.rows[RISK_PROPOSAL.asset]
        if proposal["state"] == State.PRESENT:
            return {
                "target": proposal["proposed_tp"],
                "current": proposal["position_current_price"],
                "entry": proposal["position_entry_price"],
                "stop": proposal["proposed_sl"],
            }
        if position["state"] == State.PRESENT:
            return {"current": position["current_price"], "entry": position["entry_price"]}
        return {}


def portraits(store: RedisStore, symbols: Sequence[str]) -> list[Portrait]:
    """Read what the pictures of some symbols show.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    candles = CandleReader(store).read(symbols, window=CANDLES_WANTED)
    rows = {table.asset: fresh_frame(store, table, symbols).rows(named=True) for table in SHOWN}
    return [
        Portrait(symbol, candles[index], {asset: found[index] for asset, found in rows.items()})
        for index, symbol in enumerate(symbols)
    ]


@dg.asset(
    deps=["candles", MARKET_STATE.asset, POSITION.asset, RISK_PROPOSAL.asset],
    group_name="charts",
    kinds={"matplotlib", "redis"},
    owners=OWNERS,
    description=(
        "One symbol as a picture: its last two hours with entry, stop, target and current price; below, the regime "
        "probabilities and sigma along them. Materialize it for a symbol and open `chart` in the metadata, to keep it. Always "
        "current, where `quantum up` serves this page, is the symbol's [page of the desk](/desk). Nothing is published, and the "
        "cycle does not wait for it."
    ),
)
def symbol_chart(context: dg.AssetExecutionContext, store: dg.ResourceParam[RedisStore]) -> None:
    """Draw every symbol of the run.

    Raises
    ------
    dagster.Failure
        No symbol of the run has candles.
    """
    without: dict[str, str] = {}
    for portrait in portraits(store, context.partition_keys):
        figure = portrait.figure()
        if figure is None:
            without[portrait.symbol] = portrait.candles.reason
            drawn: dict[str, Any] = {"no_chart": portrait.candles.reason}
        else:
            drawn = {"chart": dg.MetadataValue.md(as_markdown(figure, portrait.symbol))}
        page = {"page": dg.MetadataValue.url(f"{DESK}/{quote(portrait.symbol, safe='')}")}
        context.add_asset_metadata({**drawn, **page, **portrait.numbers()}, partition_key=portrait.symbol)
    if len(without) == len(context.partition_keys):
        named = "; ".join(f"{symbol}: {why}" for symbol, why in without.items())
        raise dg.Failure(description=f"There is nothing to draw. {named}. Fix the candles, then materialize again.")
    if without:
        context.log.warning(f"symbol_chart: {len(without)} symbols without candles: {without}")


def _times(candles: Candles) -> Times:
    """Give the open times, or, when not all candles have one, their numbers counted back from the newest."""
    if (candles.open_time_ms > 0).all():
        return candles.open_time_ms.astype("datetime64[ms]")
    return np.arange(1 - len(candles.close), 1)


def _plain(value: Any) -> float | str:
    if isinstance(value, list):
        return ",".join(value)
    return value if isinstance(value, float | str) else str(value)
