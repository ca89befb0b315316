"""Every environment variable of the product, typed and validated (docs/spec.md#11-settings). Nothing else reads them.

Which there are is in ``declared``, what is accepted in ``checked``, what follows from them in ``derived``; ``sources`` reads
secrets from files, and ``shown`` writes settings as people read them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from quantum_core.settings.addresses import REDIS_SCHEMES, SENTINEL_FORM, Sentinels, sentinels_of
from quantum_core.settings.checked import OBJECT_STORES, Checked, as_listed, market_state_stream
from quantum_core.settings.declared import LOCKED, MARKET_STATE_STREAM
from quantum_core.settings.derived import EMBEDDED_PORT
from quantum_core.settings.sources import WRONG, SecretFiles, SettingsError, uncommented

if TYPE_CHECKING:
    from quantum_core.profiles.profile import Profile

__all__ = [
    "EMBEDDED_PORT",
    "LOCKED",
    "MARKET_STATE_STREAM",
    "OBJECT_STORES",
    "REDIS_SCHEMES",
    "SENTINEL_FORM",
    "Sentinels",
    "Settings",
    "SettingsError",
    "as_listed",
    "check_values",
    "load_settings",
    "market_state_stream",
    "sentinels_of",
    "uncommented",
]


class Settings(Checked):
    """All settings, with their defaults.

    Notes
    -----
    Values may carry a trailing `` # comment``: environment files did, and one crashed a service.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read explicit values first, then secrets in files, then the environment; no other files."""
        return init_settings, SecretFiles(settings_cls), env_settings

    @model_validator(mode="after")
    def _check_profiles(self) -> Self:
        if self.profile not in ("", LOCKED) or self.challenger:  # the default is known as right
            _ = self.own_profile, self.challenger_profile  # raise for one that cannot be used: nothing is to start with it
        return self

    @cached_property
    def own_profile(self) -> Profile:
        """Parameters of all kernels as PROFILE and these settings have them; `quantum profile use` may put others in force.

        Raises
        ------
        ValueError
            The profile cannot be found or used, or contradicts other settings.
        """
        return self._profile_of("profile", self.profile or LOCKED)

    @cached_property
    def challenger_profile(self) -> Profile | None:
        """The profile of CHALLENGER; ``None`` where there is none.

        Raises
        ------
        ValueError
            It cannot be found or used, or contradicts other settings.
        """
        return self._profile_of("challenger", self.challenger) if self.challenger else None

    def _profile_of(self, setting: str, name: str) -> Profile:
        from quantum_core.profiles.files import ProfileFileError, load_once
        from quantum_core.profiles.in_force import in_force

        try:
            return in_force(load_once(name, self.symbols), self)
        except ProfileFileError as error:
            msg = f"{setting.upper()}={name}: {error}"
            raise ValueError(msg) from None


def load_settings(**overrides: Any) -> Settings:
    """Read and validate all settings.

    Parameters
    ----------
    **overrides
        Field names and values that win over the environment.

    Raises
    ------
    SettingsError
        One message for all wrong variables.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, os.environ)) from None


def check_values(values: Mapping[str, str]) -> str:
    """Say what is wrong with values by field, whatever the environment has; nothing when all are accepted."""
    try:
        _Given(**values)  # type: ignore[arg-type]  # texts, as an environment has them
    except ValidationError as error:
        return _explain(error, {name.upper(): value for name, value in values.items()})
    return ""


class _Given(Settings):
    """Settings of what is given, and nothing else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read explicit values only."""
        return (init_settings,)


def _explain(error: ValidationError, environ: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]).upper() if problem["loc"] else ""
        field = Settings.model_fields.get(name.lower())
        secret = field is not None and "Secret" in str(field.annotation)
        seen = environ.get(name, problem["input"]) if name else ""
        value = "(hidden)" if secret else repr(seen)
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"  {name}={value}: {message}" if name else f"  {message}")
    return WRONG.format(len(lines)) + "\n".join(lines)
