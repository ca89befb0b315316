"""Profiles as TOML files: where they are found, and every mistake in one of them by file and line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantum_core.contracts.legs import underlying
from quantum_core.kernels.theta import Theta, ThetaError, accepted_value
from quantum_core.profiles.profile import HEADS, LOCKED, OF_ACCOUNT, SECTIONS, Profile, flattened, from_body, leaves

FOLDER = Path(__file__).parent
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_HEADER = re.compile(r"\s*\[\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")
RESERVED = ("in-force", ".", "..")  # names that stand for something else
TEXT_MAX = 2000  # characters of a note
EVIDENCE_MAX = 20_000  # characters of the evidence as JSON: it is recorded with every use
_AT_LINE = re.compile(r"\(at line (\d+)")
_SYMBOL = "symbols."


class ProfileFileError(ValueError):
    """A file holds no profile that can be used; the text names every mistake with its line.

    Attributes
    ----------
    mistakes
        Line and text of each, in the order of the file; line 0 of a file that cannot be read.
    """

    def __init__(self, source: str, mistakes: Sequence[tuple[int, str]]) -> None:
        self.mistakes = tuple(mistakes)
        listed = "\n".join(f"  {source}:{line}: {text}" if line else f"  {text}" for line, text in self.mistakes)
        super().__init__(f"The profile cannot be used ({len(self.mistakes)}):\n{listed}")


@dataclass(frozen=True)
class Mistake:
    """One mistake of a file: the dotted path it is under (empty for the whole file), and what is wrong."""

    path: str
    text: str


def shipped() -> list[str]:
    """Name the profiles that come with the product, locked-v1 first."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda name: (name != "locked-v1", name))


def meant_for(interval_sec: float) -> list[str]:
    """Name the shipped profiles for candles of that length, locked-v1 first."""
    return [name for name in shipped() if load(name).candle_interval_sec in (None, interval_sec)]


def load(name_or_path: str, symbols: Sequence[str] | None = None) -> Profile:
    """Read a profile: one that is shipped, by its name, or a file.

    Parameters
    ----------
    name_or_path
        Name of a shipped profile, or the path of a file.
    symbols
        SYMBOLS of the deployment: an entry for another one is a mistake. ``None`` where there is no deployment.

    Raises
    ------
    ProfileFileError
        It cannot be found or used.
    """
    if name_or_path == LOCKED.name:
        return LOCKED
    if not name_or_path:
        msg = f"no profile is named: shipped are {', '.join(shipped())}"
        raise ProfileFileError(name_or_path, [(0, msg)])
    shipped_path = FOLDER / f"{name_or_path}.toml"
    path = shipped_path if _NAME.fullmatch(name_or_path) and shipped_path.is_file() else Path(name_or_path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        near = get_close_matches(name_or_path, shipped(), 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        why = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        msg = f"profile {name_or_path}: {why}, and none of the shipped profiles {', '.join(shipped())}{meant}"
        raise ProfileFileError(name_or_path, [(0, msg)]) from None
    if path is shipped_path:
        return parse(text, path.name, symbols)
    profile = parse(text, str(path), symbols)
    if profile.name in shipped() and profile.fingerprint != load(profile.name).fingerprint:
        msg = f"{profile.name} is a shipped profile with other parameters: give yours a name of its own"
        raise ProfileFileError(str(path), [(line_of(text, "name"), msg)])
    return profile


@lru_cache
def load_once(name_or_path: str, symbols: tuple[str, ...]) -> Profile:
    """Read a profile as :func:`load` does, once in the life of a process: what is edited meanwhile counts from the next start.

    Raises
    ------
    ProfileFileError
        It cannot be found or used; that is not remembered.
    """
    return load(name_or_path, symbols)


def parse(text: str, source: str, symbols: Sequence[str] | None = None) -> Profile:
    """Read a profile out of the text of a file.

    Raises
    ------
    ProfileFileError
        All mistakes, each as ``source:line: what is wrong``.
    """
    try:
        body = tomllib.loads(text)
    except RecursionError:
        raise ProfileFileError(source, [(1, "nested too deeply")]) from None
    except ValueError as error:  # of the syntax, or a number of thousands of digits
        line_match = _AT_LINE.search(str(error))
        line = int(line_match.group(1)) if line_match else len(text.splitlines()) or 1  # a file that ends too early
        raise ProfileFileError(source, [(line, str(error))]) from None
    mistakes = list(_mistakes(body, symbols))
    if not mistakes:
        try:
            return from_body(body)
        except ThetaError as error:  # of parameters that do not fit each other
            mistakes = [Mistake(error.path, str(error))]
    raise ProfileFileError(source, sorted((line_of(text, one.path), one.text) for one in mistakes))


def _mistakes(body: Mapping[str, Any], symbols: Sequence[str] | None) -> Iterator[Mistake]:
    yield from _mistakes_of_heads(body)
    sections = {name: value for name, value in body.items() if name not in HEADS and name != "symbols"}
    yield from _mistakes_of_sections(sections, "")
    own = body.get("symbols", {})
    if not isinstance(own, Mapping):
        yield Mistake("symbols", f"symbols is {own!r}: accepted are tables like [symbols.BTCUSDT.stops]")
        return
    known = None if symbols is None else sorted({underlying(one) for one in symbols})
    for symbol, of_symbol in own.items():
        path = f"{_SYMBOL}{symbol}"
        if known is not None and symbol not in known:
            yield Mistake(path, f"{symbol} is not one of SYMBOLS{_nearest(symbol, known)}")
        if not isinstance(of_symbol, Mapping):
            yield Mistake(path, f"{path} is {of_symbol!r}: accepted are tables like [{path}.stops]")
            continue
        yield from _mistakes_of_sections(of_symbol, f"{path}.")


def _mistakes_of_heads(body: Mapping[str, Any]) -> Iterator[Mistake]:
    name, interval = body.get("name"), body.get("candle_interval_sec")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
        yield Mistake("name", f"name is {name!r}: accepted are letters, digits, _ . and -")
    for head in ("version", "note"):
        if not isinstance(body.get(head, ""), str):
            yield Mistake(head, f'{head} is {body[head]!r}: accepted is a text, like {head} = "1"')
        elif len(body.get(head, "")) > TEXT_MAX:
            yield Mistake(head, f"{head} has {len(body[head])} characters: accepted are {TEXT_MAX}")
    if interval is not None and (not isinstance(interval, int) or isinstance(interval, bool) or interval < 1):
        yield Mistake("candle_interval_sec", f"candle_interval_sec is {interval!r}: accepted are whole seconds, like 60")
    yield from _mistakes_of_evidence(body.get("evidence", {}))


def _mistakes_of_evidence(evidence: object) -> Iterator[Mistake]:
    if not isinstance(evidence, Mapping):
        yield Mistake("evidence", f"evidence is {evidence!r}: accepted is a table [evidence]")
        return
    try:
        size = len(json.dumps(evidence, allow_nan=False))
    except (TypeError, ValueError) as error:
        yield Mistake("evidence", f"evidence: {error}: accepted are texts, finite numbers, lists and tables of such")
        return
    if size > EVIDENCE_MAX:
        yield Mistake("evidence", f"evidence has {size} characters as JSON: accepted are {EVIDENCE_MAX}")


def _mistakes_of_sections(sections: Mapping[str, Any], prefix: str) -> Iterator[Mistake]:
    for name, given in sections.items():
        path = f"{prefix}{name}"
        theta = SECTIONS.get(name)
        if theta is None:
            yield Mistake(path, f"there is no section {name}{_nearest(name, [*SECTIONS, *HEADS])}")
        elif not isinstance(given, Mapping):
            yield Mistake(path, f"{path} is {given!r}: accepted is a table [{path}]")
        elif prefix and name in OF_ACCOUNT:
            yield Mistake(path, f"{name} is of the account as a whole, not of a symbol")
        else:
            yield from _mistakes_of_theta(theta, given, name, prefix)


def _mistakes_of_theta(theta: Theta, given: Mapping[str, Any], section: str, prefix: str) -> Iterator[Mistake]:
    parameters = leaves(theta)
    mistaken = False
    for leaf, value in flattened(given):
        path = f"{prefix}{section}.{leaf}"
        if prefix and f"{section}.{leaf}" in OF_ACCOUNT:
            yield Mistake(path, f"{section}.{leaf} is of the account as a whole, not of a symbol")
        elif leaf not in parameters:
            inner = any(one.startswith(f"{leaf}.") for one in parameters)
            message = f"{path} is {value!r}: accepted is a table" if inner else f"there is no parameter {section}.{leaf}"
            yield Mistake(path, message if inner else f"{message}{_nearest(leaf, list(parameters))}")
            mistaken = True
        else:
            try:
                accepted_value(parameters[leaf], value)
            except ThetaError as error:
                text = str(error).replace(f"theta {parameters[leaf].name}", path, 1)
                yield Mistake(path, text)
                mistaken = True
    if not mistaken:
        try:
            theta.override(given)
        except ThetaError as error:
            text = str(error).replace("theta ", f"{prefix}{section}.", 1)
            yield Mistake(f"{prefix}{section}.{error.path}", text)


def _nearest(name: str, known: Sequence[str]) -> str:
    by_last = {one.rpartition(".")[2]: one for one in known}
    near = get_close_matches(name, known, 1, 0.5) or [
        by_last[one] for one in get_close_matches(name.rpartition(".")[2], list(by_last), 1, 0.5)
    ]
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}" if len(known) <= 20 else ""


def line_of(text: str, path: str) -> int:
    """Find the line a dotted path is written in; that of its table, or 1, where the key itself has no line of its own."""
    best, best_depth, table = 1, 0, ""
    wanted = path.split("[")[0]
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _plain(header.group(1))
            here = table
        elif key := _KEY.match(line):
            here = f"{table}.{_plain(key.group(1))}" if table else _plain(key.group(1))
        else:
            continue
        depth = len(here.split(".")) if wanted.startswith(f"{here}.") else 0
        if wanted == here or here.startswith(f"{wanted}."):
            return number
        if depth > best_depth:
            best, best_depth = number, depth
    return best


def _plain(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))
