"""Environment files of older services: what of them is taken over, what is obsolete, and where they conflict.

Here belong the names that are settings no more. What a setting means stays with the settings; nothing is set or changed.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from dotenv.parser import parse_stream
from pydantic import AliasChoices

from quantum_core.settings import MARKET_STATE_STREAM, Settings, SettingsError, check_values, market_state_stream, uncommented

# Settings of the services that this product replaces -> what to do instead; they are ignored, here and by every command.
OBSOLETE: Mapping[str, str] = {
    "METRICS_PORT": "one exporter serves both: EXPORTER_ALLOCATION_PORT and EXPORTER_GOVERNOR_PORT",
    "LOOP_INTERVAL_SEC": "the cycle is PUBLISH_INTERVAL_SEC, that of the market state MARKETSTATE_PUBLISH_INTERVAL",
    "GOV_ENABLE_AUTO_DISARM": "write it as GOV_AUTO_DISARM",
}
Level = Literal["ok", "warn", "fail"]
SIZE_MAX = 1 << 20  # bytes of a file of settings
VALUE_SHOWN = 60
# A variable in a line of a compose file, a unit, a Dockerfile or a shell of Windows: - NAME=value, NAME: value, Environment=...
_SHAPE = re.compile(r"""\s*(?:-e?\s+|set\s+|ENV\s+|Environment=)?(["']?)([A-Za-z_]\w*)(?:\1\s*:\s+|=)(.*)""", re.ASCII)
_CONTINUED = re.compile(r"(?:[^\n]*\\\n)+[^\n]*")  # a line that goes on, as systemd and shells have it
_NAME = re.compile(r"[A-Z][A-Z0-9_]*|[a-z][a-z0-9_]*", re.ASCII)  # what is no such name may be a part of a secret
_REFERENCE = re.compile(r"\$\{\w+[^}]*\}|\$[A-Za-z_]\w*", re.ASCII)
_CREDENTIAL = re.compile(r"\S*://\S*@\S*")
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
        Files of lines ``NAME=value``, also with ``export``, quotes, comments and continued lines, as shells and systemd have
        them; of compose files, units and Dockerfiles the lines that hold a variable.

    Yields
    ------
    tuple of str
        What, level (ok, warn, fail), seen and remedy, as in :class:`quantum_ops.doctor.diagnosis.Finding`; no secret is shown.

    Raises
    ------
    SettingsError
        A file cannot be read.
    """
    fields = names_of_settings()
    fields |= {name.lower(): field for name, field in fields.items() if not name.endswith("_FILE")}  # the environment has no case
    values_by_field: dict[str, dict[str, list[str]]] = {}  # field -> value -> where
    for path in paths:
        lines = list(_lines(path))
        if not lines:
            yield path.name, "warn", "has no variable", "give a file of lines NAME=value"
        for line, name, value in lines:
            where, field = f"{path.name} line {line}", fields.get(name)
            level, verdict, remedy = _verdict(name, value, field, fields)
            yield where, level, verdict, remedy
            if field is not None and level != "fail" and not (field == "stream_name" and market_state_stream(value) != value):
                key = f"{field}_file" if name.endswith("_FILE") else field
                values_by_field.setdefault(key, {}).setdefault(value, []).append(f"{name} of {where}")
    for field, values in values_by_field.items():
        if len(values) > 1:
            places = "; ".join(f"{wheres[0]}" for wheres in values.values())
            yield (
                field.upper(),
                "fail",
                f"{len(values)} different values: {places}",
                "choose one: all processes share the settings",
            )
    single = {field: next(iter(values)) for field, values in values_by_field.items() if field in Settings.model_fields}
    if wrong := check_values(single):
        yield (
            "values",
            "fail",
            _CREDENTIAL.sub("(hidden)", "; ".join(line.strip() for line in wrong.splitlines()[1:])),
            "correct them before they are taken over",
        )


def _verdict(name: str, value: str, field: str | None, fields: Mapping[str, str]) -> tuple[Level, str, str]:
    if not name:
        return "warn", "is no NAME=value", "correct or drop it"
    hidden = field is not None and "Secret" in str(Settings.model_fields[field].annotation)
    if field is not None and (_REFERENCE.fullmatch(value) or (not hidden and _REFERENCE.search(value)) or "${" in value):
        return "fail", f"{name} refers to another variable, which nobody puts in its place", "write the value itself"
    if field == "stream_name" and market_state_stream(value) != value:
        return "ok", f"{name}={_value_text(value)} names another of our streams, which has this name already", ""
    if field == "stream_name" and value != MARKET_STATE_STREAM:
        return (
            "warn",
            f"{name}={_value_text(value)} is taken over: the market state's stream",
            "drop it if another program's stream is meant",
        )
    if field is not None:
        return "ok", f"{name}={'(hidden)' if hidden else _value_text(value)} is taken over", ""
    if name.upper() in OBSOLETE:
        return "warn", f"{name} is obsolete and ignored", OBSOLETE[name.upper()]
    if near := get_close_matches(name, fields, 1, ALIKE):
        return "warn", f"{name} is unknown and ignored", f"did you mean {near[0]}?"
    named = _value_text(name) if _NAME.fullmatch(name) else "a name of mixed letters or signs"
    return "ok", f"{named} is none of our settings and ignored", ""


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    text = "\n".join(map(_as_assignment, _text_of(path).split("\n")))
    for binding in parse_stream(io.StringIO(text)):
        start = binding.original.line + len(binding.original.string) - len(binding.original.string.lstrip("\n"))
        if binding.error or binding.key is not None:
            given = not binding.error and binding.value is not None
            yield start, str(binding.key) if given else "", uncommented(binding.value or "")


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(SIZE_MAX + 1)
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror}): give a file of lines NAME=value"
        raise SettingsError(msg) from None
    if len(content) > SIZE_MAX:
        msg = f"{path} is longer than {SIZE_MAX >> 20} MB: give a file of lines NAME=value"
        raise SettingsError(msg)
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = content.decode("utf-16" if wide else "utf-8-sig", "replace")
    if "\0" in text:
        msg = f"{path} cannot be read (no text): give a file of lines NAME=value"
        raise SettingsError(msg)
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTINUED.sub(lambda found: re.sub(r"\\\n[ \t]*", "", found[0]) + "\n" * found[0].count("\n"), lines)


def _as_assignment(line: str) -> str:
    """Write a line that holds a variable as ``NAME=value``, whichever file it is of."""
    if line.lstrip().startswith(";"):  # a comment of systemd
        return ""
    if (found := _SHAPE.fullmatch(line)) is None:
        return line
    quote, name, value = found.groups()
    whole = value.removesuffix(quote) if quote else value
    return f"{name}={whole}" if not quote or quote not in whole else "?"  # several in one line


def _value_text(value: str) -> str:
    if _CREDENTIAL.search(value):
        return "(hidden)"
    return value if len(value) <= VALUE_SHOWN else value[:VALUE_SHOWN] + "..."
