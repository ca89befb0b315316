"""Resources as Dagster shows them: what is open already, under the settings in force. Secrets show only whether they are set."""

from typing import Any, Literal

import dagster as dg
from pydantic import Field, create_model

from quantum_core.contracts.tables import PUBLISHED_TABLES
from quantum_core.settings import Settings
from quantum_core.settings.shown import in_force, variable
from resources.io_manager import IntentIOManager, RedisIOManager, ShowsSymbols
from resources.store.redis_store import RedisStore

_FIELDS: dict[str, Any] = {
    variable(name, field): (str, Field(description=field.description)) for name, field in Settings.model_fields.items()
}
SettingsInForce = create_model(
    "SettingsInForce",
    __base__=dg.ConfigurableResource,
    __doc__="Every setting in force, from the environment of this process. Changed there, and by a restart. Nothing asks for it: "
    "to build 90 fields anew for each run would cost a twentieth of a cycle.",
    **_FIELDS,
)


def settings_in_force(settings: Settings) -> Any:
    """Give the settings as a resource that is only shown."""
    return SettingsInForce(**in_force(settings))


class RedisResource(dg.ConfigurableResource[RedisStore]):
    """Redis, as everything here uses it."""

    connection: dg.ResourceDependency[RedisStore]
    server: str = Field(description="its address, without the password")

    def create_resource(self, context: dg.InitResourceContext) -> RedisStore:  # noqa: ARG002 - Dagster's API
        """Give the store that is open."""
        return self.connection


def redis_resource(store: RedisStore) -> RedisResource:
    """Give an open store as a resource."""
    return RedisResource(connection=store, server=store.settings.redis_address)


class RedisIO(dg.ConfigurableIOManagerFactory[RedisIOManager]):
    """Publishes what an asset computed: one hash per symbol, at most once per MAX_PUBLISH_AGE_SEC unless it is news."""

    connection: dg.ResourceDependency[RedisStore]
    shown: dg.ResourceDependency[ShowsSymbols]
    writes: Literal["hash", "stream", "nothing"] = Field(
        default="hash", description="`stream`: only appended there (a shadow). `nothing`: another program writes the hash."
    )

    def create_io_manager(self, context: dg.InitResourceContext) -> RedisIOManager:  # noqa: ARG002 - Dagster's API
        """Give one for a run."""
        return RedisIOManager(self.connection, PUBLISHED_TABLES, self.shown, self.writes)


class IntentIO(dg.ConfigurableIOManagerFactory[IntentIOManager]):
    """Records trade intents: a new one is a publication, everything else renews what was last intended."""

    connection: dg.ResourceDependency[RedisStore]
    shown: dg.ResourceDependency[ShowsSymbols]

    def create_io_manager(self, context: dg.InitResourceContext) -> IntentIOManager:  # noqa: ARG002 - Dagster's API
        """Give one for a run."""
        return IntentIOManager(self.connection, PUBLISHED_TABLES, self.shown)
