"""Environment files of older services: what of them is taken over, what is obsolete, and where they conflict.

Here belong the names that are settings no more. What a setting means stays with the settings; nothing is set or changed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from dotenv.parser import parse_stream
from pydantic import AliasChoices

from quantum_core.settings import Settings, SettingsError, check_values, market_state_stream, uncommented

# Settings of the services that this product replaces -> what to do instead; they are ignored, here and by every command.
OBSOLETE: Mapping[str, str] = {
    "METRICS_PORT": "one exporter serves both: EXPORTER_ALLOCATION_PORT and EXPORTER_GOVERNOR_PORT",
    "LOOP_INTERVAL_SEC": "the cycle is PUBLISH_INTERVAL_SEC, that of the market state MARKETSTATE_PUBLISH_INTERVAL",
    "GOV_ENABLE_AUTO_DISARM": "write it as GOV_AUTO_DISARM",
}
Level = Literal["ok", "warn", "fail"]
SIZE_MAX = 1 << 20  # bytes of a file of settings
VALUE_SHOWN = 60
ALIKE = 0.85  # of a name to a setting's; DAGSTER_HOME is none, GOV_MAX_EXECS_PER_HOUR one


def names_of_settings() -> dict[str, str]:
    """Map every variable that is read, older spellings included, to its field."""
    names: dict[str, str] = {}
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        spelled = [str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else [field.upper()]
        names |= {one: field for one in spelled if one.isupper()}
        if "Secret" in str(info.annotation):
            names[f"{field.upper()}_FILE"] = field
    return names


def examine_files(paths: Sequence[Path]) -> Iterator[tuple[str, Level, str, str]]:
    """Say of each variable of old environment files what becomes of it, then where they conflict.

    Parameters
    ----------
    paths
        Files of lines ``NAME=value``, also with ``export``, quotes and comments.

    Yields
    ------
    tuple of str
        What, level (ok, warn, fail), seen and remedy, as in :class:`quantum_ops.doctor.diagnosis.Finding`; no secret is shown.

    Raises
    ------
    SettingsError
        A file cannot be read.
    """
    known = names_of_settings()
    given: dict[str, dict[str, list[str]]] = {}  # field -> value -> where
    for path in paths:
        for line, name, value in _lines(path):
            where, field = f"{path.name} line {line}", known.get(name)
            level, seen, remedy = _verdict(name, value, field, known)
            yield where, level, seen, remedy
            if field is not None and not (field == "stream_name" and market_state_stream(value) != value):
                key = f"{field}_file" if name.endswith("_FILE") else field
                given.setdefault(key, {}).setdefault(value, []).append(f"{name} of {where}")
    for field, values in given.items():
        if len(values) > 1:
            places = "; ".join(f"{wheres[0]}" for wheres in values.values())
            yield (
                field.upper(),
                "fail",
                f"{len(values)} different values: {places}",
                "choose one: all processes share the settings",
            )
    single = {field: next(iter(values)) for field, values in given.items() if field in Settings.model_fields}
    if wrong := check_values(single):
        yield (
            "values",
            "fail",
            "; ".join(line.strip() for line in wrong.splitlines()[1:]),
            "correct them before they are taken over",
        )


def _verdict(name: str, value: str, field: str | None, known: Mapping[str, str]) -> tuple[Level, str, str]:
    if not name:
        return "warn", "is no NAME=value", "correct or drop it"
    if field == "stream_name" and market_state_stream(value) != value:
        return "ok", f"{name}={_shown(value)} names another of our streams, which has this name already", ""
    if field is not None:
        hidden = "Secret" in str(Settings.model_fields[field].annotation)
        return "ok", f"{name}={'(hidden)' if hidden else _shown(value)} is taken over", ""
    if name in OBSOLETE:
        return "warn", f"{name} is obsolete and ignored", OBSOLETE[name]
    if near := get_close_matches(name, known, 1, ALIKE):
        return "warn", f"{name} is unknown and ignored", f"did you mean {near[0]}?"
    return "ok", f"{_shown(name)} is none of our settings and ignored", ""


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    try:
        with path.open("rb") as stream:
            text = stream.read(SIZE_MAX + 1).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "no text"
        msg = f"{path} cannot be read ({cause}): give a file of lines NAME=value"
        raise SettingsError(msg) from None
    if len(text) > SIZE_MAX:
        msg = f"{path} is longer than {SIZE_MAX >> 20} MB: give a file of lines NAME=value"
        raise SettingsError(msg)
    for binding in parse_stream(io.StringIO(text.replace("\r\n", "\n"))):
        start = binding.original.line + len(binding.original.string) - len(binding.original.string.lstrip("\n"))
        if binding.error or binding.key is not None:
            yield start, "" if binding.error else str(binding.key), uncommented(binding.value or "")


def _shown(value: str) -> str:
    return value if len(value) <= VALUE_SHOWN else value[:VALUE_SHOWN] + "..."
