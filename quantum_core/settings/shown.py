"""Settings as people read them: the name of the variable, its value as typed; of a secret only whether it is set."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from quantum_core.profiles.in_force import WINS_OVER, set_by_environment
from quantum_core.profiles.profile import flat_parameters
from quantum_core.settings import Settings


def in_force(settings: Settings) -> dict[str, str]:
    """Give every variable with its value; of one that stands for a parameter and is not set, that of the profile."""
    return {variable(name, field): value_of(settings, name) for name, field in Settings.model_fields.items()}


def value_of(settings: Settings, name: str) -> str:
    """Write the value of a field, or of the parameters of the profile it stands for and does not set."""
    value = getattr(settings, name)
    if name not in WINS_OVER or _wins(settings, name):
        return shown(value)
    parameters = flat_parameters(settings.own_profile)
    values = [parameters.get(path) for path in WINS_OVER[name]]
    return " / ".join(dict.fromkeys(shown(value if one == value else one) for one in values))


def source_of(settings: Settings, name: str) -> str:
    """Say where the value of a field comes from; empty for a default."""
    if name not in WINS_OVER:
        return "" if getattr(settings, name) == Settings.model_fields[name].default else "set"
    return "environment" if _wins(settings, name) else f"profile {settings.own_profile.name}"


def _wins(settings: Settings, name: str) -> bool:
    return WINS_OVER[name][0] in set_by_environment(settings)


def variable(name: str, field: FieldInfo) -> str:
    """Name the environment variable of a field."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper()


def shown(value: Any) -> str:
    """Write a value as it is typed, empty for one that is not set; a secret only whether it is there."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(shown(one) for one in value)
    if isinstance(value, SecretStr):
        return "(hidden)" if value.get_secret_value() else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
