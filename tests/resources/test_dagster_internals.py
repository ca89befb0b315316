"""The private corner of Dagster we stand on; these tests fail when an upgrade moves it."""

from importlib.metadata import version

import dagster as dg

from resources.dagster_internals import DEFER_ASSET_EVENTS_TAG, materialization_events, take_over_asset_events

SYMBOLS = ["A", "B", "C"]


class OnlyB(dg.IOManager):
    """Publishes one symbol of those asked for."""

    def handle_output(self, context: dg.OutputContext, obj: object):  # noqa: ARG002
        take_over_asset_events(context)
        yield from materialization_events(context, [dg.AssetMaterialization(context.asset_key, partition="B")])

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


def test_the_version_is_the_one_this_was_checked_on() -> None:
    """Whoever upgrades reads resources/dagster_internals.py again."""
    assert version("dagster") == "1.13.27"
