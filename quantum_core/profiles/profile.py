"""What a profile is: parameters of every kernel, per symbol where it says so, and a fingerprint of them.

Here belong the sections, what a single symbol may have for itself, and the canonical text of a profile. Files and their mistakes
are ``files.py``; which settings of the environment win over a profile is ``in_force.py``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar, cast

from quantum_core.contracts.legs import underlying
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.kernels.capital.allocation import AllocationTheta
from quantum_core.kernels.capital.efficiency import EfficiencyTheta
from quantum_core.kernels.governor.limits import GovernorLimits
from quantum_core.kernels.governor.permit_hint import PermitHintTheta
from quantum_core.kernels.governor.risk_guard import RiskGuardTheta
from quantum_core.kernels.market.market_state import MarketStateTheta
from quantum_core.kernels.position.tracking import TrackingTheta
from quantum_core.kernels.proposals.harvest import HarvestTheta
from quantum_core.kernels.proposals.sizing import SizingTheta
from quantum_core.kernels.proposals.stops import StopsTheta
from quantum_core.kernels.theta import Theta, ThetaError

SECTIONS: Mapping[str, Theta] = MappingProxyType(  # with the values of locked-v1
    {
        "market_state": MarketStateTheta(),
        "stops": StopsTheta(),
        "harvest": HarvestTheta(),
        "tracking": TrackingTheta(),
        "efficiency": EfficiencyTheta(),
        "allocation": AllocationTheta(),
        "permit_hint": PermitHintTheta(),
        "governor": GovernorLimits(),
        "risk_guard": RiskGuardTheta(),
        "sizing": SizingTheta(),
    }
)
OF_ACCOUNT = frozenset({"risk_guard", "governor.auto_disarm", "governor.bursts_to_disarm", "governor.errors_to_disarm"})
FINGERPRINT_BYTES = 6

T = TypeVar("T", bound=Theta)


class ProfileError(ValueError):
    """A profile cannot be used; the text says why, and what to do."""


@dataclass(frozen=True)
class Profile:
    """Parameters of all kernels.

    Attributes
    ----------
    name, version, note
        As its file says.
    candle_interval_sec
        Length of the candles it is meant for, s; ``None`` where it says nothing.
    evidence
        What it was calibrated on and what was measured: hashes of the data, dates, figures. No parameter: another evidence leaves
        the fingerprint as it is. Empty where there is none.
    sections
        Parameters by kernel, of all symbols that have none of their own.
    symbols
        Parameters of single symbols, by symbol and kernel: complete, so that a symbol's entry needs no other.
    """

    name: str
    version: str = "1"
    note: str = ""
    candle_interval_sec: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Theta] = field(default_factory=lambda: SECTIONS)
    symbols: Mapping[str, Mapping[str, Theta]] = field(default_factory=dict)

    def theta(self, section: type[T], symbol: str = ACCOUNT) -> T:
        """Give the parameters of one kernel, named by their type, for a symbol (both legs have those of their symbol)."""
        name = NAME_OF[section]
        found: Any = self.symbols.get(underlying(symbol), {}).get(name, self.sections[name])
        return cast("T", found)

    def by_row(self, section: type[T], symbols: Sequence[str]) -> T:
        """Give the parameters of one kernel for many symbols: a scalar where all agree, else a column."""
        own = self.symbols and any(NAME_OF[section] in self.symbols.get(underlying(one), {}) for one in symbols)
        return section.by_row([self.theta(section, one) for one in symbols]) if own else self.theta(section)

    def parameters(self, symbol: str = ACCOUNT) -> dict[str, dict[str, Any]]:
        """Give all parameters of a symbol by section, nested as ``theta_override`` of `quantum calc` is; without those unset."""
        of_symbol = self.symbols.get(underlying(symbol), {})
        return {name: _nested(of_symbol.get(name, theta)) for name, theta in self.sections.items()}

    def fingerprint_of(self, symbol: str) -> str:
        """Give 12 hex digits over all parameters of a symbol: equal exactly where those are."""
        return self._fingerprints.get(underlying(symbol), self._fingerprints[ACCOUNT])

    def stamp_of(self, symbol: str) -> tuple[str, str]:
        """Give what every publication says of its parameters: their fingerprint, and the name of the profile."""
        return self.fingerprint_of(symbol), self.name

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {symbol: _fingerprint(self._fingerprinted(symbol)) for symbol in (ACCOUNT, *self.symbols)}

    def _fingerprinted(self, symbol: str) -> dict[str, Any]:  # a parameter added later changes none that leaves it alone
        of_symbol = self.symbols.get(symbol, {})
        return {name: _nested(of_symbol.get(name, theta), added=False) for name, theta in self.sections.items()}

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits over all parameters, those of single symbols included; without any, it is that of every symbol."""
        own = {one: print_ for one, print_ in sorted(self._fingerprints.items()) if print_ != self._fingerprints[ACCOUNT]}
        return _fingerprint({ACCOUNT: self._fingerprints[ACCOUNT], **own}) if own else self._fingerprints[ACCOUNT]

    @property
    def candles_required(self) -> int:
        """Closes that the most demanding symbol needs for a market state."""
        return max(self.theta(MarketStateTheta, one).candles_required for one in (ACCOUNT, *self.symbols))

    def body(self) -> dict[str, Any]:
        """Give the profile as JSON has it: what differs from locked-v1, and what differs from that for single symbols."""
        own = {symbol: _changes(sections, self.sections) for symbol, sections in sorted(self.symbols.items())}
        return {
            "name": self.name,
            "version": self.version,
            "note": self.note,
            "candle_interval_sec": self.candle_interval_sec,
            **({"evidence": dict(self.evidence)} if self.evidence else {}),
            **_changes(self.sections, SECTIONS),
            "symbols": {symbol: changes for symbol, changes in own.items() if changes},
        }

    def text(self) -> str:
        """Write :meth:`body` canonically."""
        return _canonical(self.body())

    def changed(self, changes: Mapping[str, Mapping[str, Any]]) -> Profile:
        """Give the profile with some parameters changed by section, those of single symbols included.

        Raises
        ------
        ThetaError
            One of them is unknown, out of range, or does not fit another.
        """

        def merged(sections: Mapping[str, Theta]) -> dict[str, Theta]:
            return {name: theta.override(changes[name]) if name in changes else theta for name, theta in sections.items()}

        own = {symbol: merged(sections) for symbol, sections in self.symbols.items()}
        return dataclasses.replace(self, sections=merged(self.sections), symbols=own)


NAME_OF: Mapping[type[Theta], str] = MappingProxyType({type(theta): name for name, theta in SECTIONS.items()})
LOCKED = Profile("locked-v1", note="The published specification; meant for hourly candles of volatile coins.")


def from_body(body: Mapping[str, Any]) -> Profile:
    """Build a profile out of what :meth:`Profile.body` gives, or a file says.

    Raises
    ------
    ProfileError
        It is no mapping, has no name, or its evidence is no table.
    ThetaError
        A parameter is unknown, of the wrong type, out of range, or does not fit another; ``path`` names it.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("name"), str) or not body["name"]:
        msg = "a profile needs a name"
        raise ProfileError(msg)
    if not isinstance(body.get("evidence", {}), Mapping):
        msg = f"the evidence of a profile is a table, not {body['evidence']!r}"
        raise ProfileError(msg)
    remaining = dict(body)
    heads = {name: remaining.pop(name, default) for name, default in HEADS.items()}
    by_symbol = remaining.pop("symbols", {})
    sections = _sections(remaining, SECTIONS, "")
    of_symbols = by_symbol.items() if isinstance(by_symbol, Mapping) else ()
    symbols = {symbol: _sections(changes, sections, f"symbols.{symbol}.") for symbol, changes in of_symbols}
    own_only = {
        symbol: {name: theta for name, theta in mine.items() if theta is not sections[name]} for symbol, mine in symbols.items()
    }
    return Profile(**heads, sections=sections, symbols={symbol: mine for symbol, mine in own_only.items() if mine})


HEADS: Mapping[str, Any] = MappingProxyType(
    {"name": "", "version": "1", "note": "", "candle_interval_sec": None, "evidence": MappingProxyType({})}
)


def leaves(theta: Theta, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """List every parameter of a set by its dotted path."""
    by_path: dict[str, dataclasses.Field[Any]] = {}
    for item in dataclasses.fields(theta):
        value = getattr(theta, item.name)
        if isinstance(value, Theta):
            by_path |= leaves(value, f"{prefix}{item.name}.")
        else:
            by_path[f"{prefix}{item.name}"] = item
    return by_path


def flat_parameters(profile: Profile, symbol: str = ACCOUNT) -> dict[str, Any]:
    """Give all parameters of a symbol by dotted path (``stops.k_sl.chop``)."""
    return dict(flattened(profile.parameters(symbol)))


def flattened(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give what is in nested tables by dotted path."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nested_parameters(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give what stands under dotted paths as nested tables."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *outer, last = path.split(".")
        inner = nested
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return nested


def _sections(given: Mapping[str, Any], base: Mapping[str, Theta], prefix: str) -> dict[str, Theta]:
    if not isinstance(given, Mapping):
        raise ThetaError(prefix.rstrip("."), given, "a table of sections")
    if unknown := next((name for name in given if name not in base), ""):
        raise ThetaError(path=f"{prefix}{unknown}", seen=given[unknown], accepted=f"one of the sections {', '.join(base)}")
    merged = {}
    for name, theta in base.items():
        try:
            merged[name] = theta.override(given[name]) if given.get(name) else theta
        except ThetaError as error:
            error.args = (error.args[0].replace("theta ", f"theta {prefix}{name}.", 1),)
            error.path = f"{prefix}{name}.{error.path}"
            raise
    return merged


def _nested(theta: Theta, *, added: bool = True) -> dict[str, Any]:
    """Give the parameters that are set, with or without those a later version added that are at their default."""
    nested: dict[str, Any] = {}
    for item in dataclasses.fields(theta):
        value = getattr(theta, item.name)
        if isinstance(value, Theta):
            nested[item.name] = _nested(value, added=added)
        elif value is not None and (added or not item.metadata.get("added") or value != item.default):
            nested[item.name] = list(value) if isinstance(value, tuple) else value
    return nested


def _changes(sections: Mapping[str, Theta], base: Mapping[str, Theta]) -> dict[str, Any]:
    def differences(of: Mapping[str, Any], than: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name, value in of.items():
            if isinstance(value, Mapping):
                changed |= {name: inner} if (inner := differences(value, than[name])) else {}
            elif name not in than or than[name] != value:
                changed[name] = value
        return changed

    changes = {name: differences(_nested(theta), _nested(base[name])) for name, theta in sections.items()}
    return {name: change for name, change in changes.items() if change}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _fingerprint(value: Any) -> str:
    return hashlib.blake2s(_canonical(value).encode(), digest_size=FINGERPRINT_BYTES).hexdigest()
