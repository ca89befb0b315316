"""The private corner of Dagster we stand on; these tests fail when an upgrade moves it."""

import json
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from quantum_core.settings import load_settings
from resources.instance import dagster_internals
from resources.instance.dagster_internals import DEFER_ASSET_EVENTS_TAG, materialize, storage_id, take_over_asset_events
from resources.instance.event_log import Made
from resources.instance.home import open_instance

SYMBOLS = ["A", "B", "C"]


class OnlyB(dg.IOManager):
    """Publishes one symbol of those asked for."""

    def handle_output(self, context: dg.OutputContext, obj: object):  # noqa: ARG002
        take_over_asset_events(context)
        yield from materialize(context, [Made("B", {})], shown=True)

    def load_input(self, context: dg.InputContext) -> None:
        """Read nothing."""


def only_b(tags: dict[str, str]) -> tuple[set[str], list[str]]:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(SYMBOLS))
    def asset() -> int:
        return 1

    definitions = dg.Definitions(
        assets=[asset.with_attributes(backfill_policy=dg.BackfillPolicy.single_run())], resources={"io_manager": OnlyB()}
    )
    with dg.instance_for_test() as instance:
        job = definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=instance, tags={"dagster/asset_partition_range_start": "A", "dagster/asset_partition_range_end": "C", **tags}
        )
        planned = [event.partition for event in result.all_events if event.is_asset_materialization_planned]
        return set(instance.get_materialized_partitions(dg.AssetKey("asset"))), planned


def test_only_the_published_symbol_counts_as_materialized_in_a_deferred_run() -> None:
    """The lineage must not claim numbers nobody published."""
    assert only_b({DEFER_ASSET_EVENTS_TAG: "true"})[0] == {"B"}


def test_the_same_holds_in_a_run_started_without_the_tag() -> None:
    """From the user interface."""
    assert only_b({})[0] == {"B"}


def test_two_that_name_a_storage_at_once_agree_on_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster looks, and writes a name of its own where there is none; the launcher and the worker each had another queue then."""
    monkeypatch.setattr(dagster_internals, "_storage_ids", {})
    with dg.instance_for_test() as instance:
        storage = instance.run_storage
        look = type(storage).fetchone
        looked: list[Any] = []

        def seen_too_early(self: Any, query: Any) -> Any:
            looked.append(look(self, query))
            if len(looked) > 1:
                return looked[-1]
            another = storage.get_run_storage_id()  # the other process, between our look and our name
            assert another
            return None

        monkeypatch.setattr(type(storage), "fetchone", seen_too_early)
        mine = storage_id(instance)
        monkeypatch.undo()
        assert mine == storage.get_run_storage_id()


NUMBERS = {"sigma": 0.1, "none": float("nan"), "huge": 1e300}
SAID = [
    Made("A", {**NUMBERS, "why": 'first "é" \u2028'}),
    Made("B", {"sigma": 0.0}),
    Made("C", {}),
    Made("A", {"why": ""}),
    Made(None, {"why": "of the account"}),
]


class Says(dg.IOManager):
    """Records what it was told to."""

    def __init__(self, *, shown: bool) -> None:
        self.shown = shown

    def handle_output(self, context: dg.OutputContext, obj: object):  # noqa: ARG002
        take_over_asset_events(context)
        yield from materialize(context, SAID, shown=self.shown)

    def load_input(self, context: dg.InputContext) -> None:
        """Read nothing."""


def stored(home: Path, *, shown: bool) -> tuple[list[Any], list[Any]]:
    """Run with the product's own storage; give its rows without what differs from run to run."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(SYMBOLS))
    def asset() -> int:
        return 1

    job = dg.Definitions(
        assets=[asset.with_attributes(backfill_policy=dg.BackfillPolicy.single_run())],
        resources={"io_manager": Says(shown=shown)},
    ).resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": "A", "dagster/asset_partition_range_end": "C"}
    with open_instance(load_settings(quantum_home=home)) as instance:
        run_id = job.execute_in_process(instance=instance, tags=tags).run_id
    columns = 'replace(event, ?, ""), dagster_event_type, step_key, asset_key, "partition", length(timestamp)'
    with closing(sqlite3.connect(home / "history" / "event_log.db")) as conn:
        events = conn.execute(f"select {columns} from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION'", [run_id])  # noqa: S608
        asset_keys = conn.execute(
            "select asset_key, replace(last_materialization, ?, ''), asset_details from asset_keys", [run_id]
        )
        return [(timeless(text), *row) for text, *row in events], [(key, timeless(text), *row) for key, text, *row in asset_keys]


def timeless(text: str) -> str:
    """Take the moment and the process out, and leave everything else in its order."""
    content = json.loads(text)
    event = content.get("event_log_entry", content)
    content.pop("storage_id", None)
    assert event.pop("timestamp") > 0
    assert event["dagster_event"].pop("pid") > 0
    return json.dumps(content)


@pytest.mark.parametrize("known_format", [True, False])
def test_a_batch_is_stored_as_dagster_stores_its_own_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, known_format: bool
) -> None:
    """The loop's materializations take a shorter way; no reader may see which, nor lose any when Dagster changes its format."""
    if known_format:
        monkeypatch.setattr("resources.instance.event_log._with", None)  # the longer way would fail
    else:
        monkeypatch.setattr("resources.instance.event_log._serialized", lambda _, made: ["{}" for _ in made])
    long_way, short_way = stored(tmp_path / "long", shown=True), stored(tmp_path / "short", shown=False)
    assert len(long_way[0]) == len(SAID)
    assert short_way == long_way


def test_the_version_is_the_one_this_was_checked_on() -> None:
    """Whoever upgrades reads resources/instance/dagster_internals.py again."""
    assert version("dagster") == "1.13.27"
