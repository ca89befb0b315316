"""Asset ``symbol_chart``: a picture on demand, as a real Dagster run."""

import base64

import dagster as dg
import pytest

from definitions import assemble
from quantum_assets.symbol_chart import portraits
from resources.instance.range_tags import range_tags
from resources.store.redis_store import RedisStore
from tests.world import QUIET, real_closes, run_cycle, write_candles, write_position

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.fixture
def world(store: RedisStore) -> RedisStore:
    """Three symbols with a position, two of them with candles."""
    for symbol in SYMBOLS:
        closes = real_closes(symbol, 380)
        if symbol != "SOLUSDT":
            write_candles(store, symbol, closes)
        write_position(store, symbol, entry=closes[-1] * 0.99, mark=closes[-1])
    return store


Told = dict[str, dict[str, dg.MetadataValue]]


def draw(instance: dg.DagsterInstance, store: RedisStore, *symbols: str) -> tuple[dg.ExecuteInProcessResult, Told]:
    """Materialize the asset for some symbols; also give what each partition's metadata says."""
    job = assemble(store).resolve_implicit_global_asset_job_def()
    chosen = {"partition_key": symbols[0]} if len(symbols) == 1 else {"tags": range_tags(symbols)}
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey("symbol_chart")],
        run_config=QUIET,
        raise_on_error=False,
        **chosen,
    )
    events = [event.materialization for event in result.all_events if event.is_step_materialization]
    return result, {event.partition: dict(event.metadata) for event in events}


def test_one_symbol_gets_a_picture_and_its_numbers(world, instance) -> None:
    """What a person opens when a symbol looks odd."""
    run_cycle(world, instance)
    result, told = draw(instance, world, "BTCUSDT")
    assert result.success
    assert set(told) == {"BTCUSDT"}
    picture = told["BTCUSDT"]["chart"]
    assert isinstance(picture, dg.MarkdownMetadataValue)
    assert picture.md_str.startswith("![BTCUSDT](data:image/png;base64,")
    assert base64.b64decode(picture.md_str.partition("base64,")[2][:-1])[:4] == b"\x89PNG"
    published = world.client.hget("quantum:risk:proposal:BTCUSDT", "proposed_sl")
    assert told["BTCUSDT"]["proposed_sl"].value == float(published)
    assert told["BTCUSDT"]["side"].value == "LONG"


def test_a_symbol_without_candles_fails_by_name(world, instance) -> None:
    """An empty picture would look like a quiet market."""
    result, told = draw(instance, world, "SOLUSDT")
    assert not result.success
    assert told == {}
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "SOLUSDT: candles_missing. Fix the candles" in failure.step_failure_data.user_failure_data.description


def test_among_many_symbols_the_one_without_candles_is_named_and_the_others_are_drawn(world, instance) -> None:
    """One bad symbol never stops the others, and is never silently skipped."""
    result, told = draw(instance, world, *SYMBOLS)
    assert result.success
    assert {symbol for symbol, metadata in told.items() if "chart" in metadata} == {"BTCUSDT", "ETHUSDT"}
    assert told["BTCUSDT"]["chart"] != told["ETHUSDT"]["chart"]
    assert told["SOLUSDT"]["no_chart"].value == "candles_missing"
    assert told["SOLUSDT"]["market_state"].value == "absent: market_state_missing"


def test_a_flat_symbol_is_drawn_without_levels(store) -> None:
    """Its regime is worth a look before a position is opened."""
    write_candles(store, "BTCUSDT", real_closes("BTCUSDT"))
    (portrait,) = portraits(store, ["BTCUSDT"])
    figure = portrait.figure()
    assert "no position · candles · 22 Jan 2026 11:59 UTC" in [text.get_text() for text in figure.texts]
    assert not [text for text in figure.axes[0].texts if "stop" in text.get_text()]


def test_a_symbol_at_the_end_of_its_position_shows_its_entry_until_there_is_a_proposal(store, instance) -> None:
    """A tracked position without a proposal is a state of its own, not a flat one."""
    write_candles(store, "BTCUSDT", real_closes("BTCUSDT")[:100])
    write_position(store, "BTCUSDT")
    run_cycle(store, instance)
    (portrait,) = portraits(store, ["BTCUSDT"])
    said = [text.get_text().split()[0] for text in portrait.figure().axes[0].texts]
    assert said == ["current", "entry"]
    assert portrait.numbers()["risk_proposal"] == "absent: risk_proposal_missing"


def test_drawing_publishes_nothing(world, instance) -> None:
    """A picture somebody asks for must not renew the lifetime of a number."""
    before = {key: world.client.dump(key) for key in world.client.keys("*")}
    draw(instance, world, "BTCUSDT")
    assert {key: world.client.dump(key) for key in world.client.keys("*")} == before
