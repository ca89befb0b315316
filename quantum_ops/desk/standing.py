"""What the status banner says: whether positions may be opened, which alerts are active, what the data is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from quantum_core.display import clock_text, duration_text, epoch_or_none, moment_text, number_of, stamp_text
from quantum_core.freshness import EPOCH_MAX
from quantum_ops.desk.rows import Row, shown_text
from resources.governor.guards import GuardReading
from resources.governor.switches import Switches, scope_option, scope_text

ALERTS_MAX = 200
NAMES_TOLD = 3  # symbols named in a sentence
FEED_SILENT_SEC = 120  # a replay or an example renews its data every few seconds, a market state every minute
LIVE, INVENTED = "candles", "synthetic"  # sources: an exchange's candles, numbers of our own
WATCHER_SILENT = "the watcher has not been heard of for 30 s: nothing is alerted"
ALERTS_UNREADABLE = "the list of active alerts cannot be read"


@dataclass(frozen=True)
class Alert:
    """One active alert, as the watcher left it.

    Attributes
    ----------
    title
        What is wrong, in one line.
    severity
        ``page``, ``warn`` or ``info``; an alert that does not say is ``page``.
    kind
        Identity of the alert, or of its kind.
    since
        Epoch s; ``None`` when unknown.
    symbols
        Those concerned.
    well_since
        Since when nothing of it is wrong any more, epoch s, though the watcher has not closed it yet; else ``None``.
    """

    title: str
    severity: str = "page"
    kind: str = ""
    since: float | None = None
    symbols: tuple[str, ...] = ()
    well_since: float | None = None


@dataclass(frozen=True)
class Openings:
    """Whether positions may be opened, as far as switches and guards decide it.

    Attributes
    ----------
    blocked
        Why not, in words, the first reason first; empty when armed.
    details
        What stands, since when, by whom, and how it ends; one line each.
    """

    blocked: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What the status banner says.

    Attributes
    ----------
    at
        When it was read, epoch s.
    openings
        See :class:`Openings`.
    fresh, symbols
        Symbols of which nothing is too old and nothing fails, of how many.
    unfresh
        The other ones.
    old_prices
        Symbols whose price nobody has renewed for a minute: computed from anew, and not current.
    alerts
        Active alerts, in the watcher's order.
    notice
        What the data is, when any of it is not live: by what a feed says of it, and by the labels of the data itself.
    profile
        Name and fingerprint of the profile in force; empty when nobody has looked.
    profile_trouble
        Why a newer one is not in force; empty when none is meant to be.
    """

    at: float
    openings: Openings
    fresh: int
    symbols: int
    unfresh: tuple[str, ...] = ()
    old_prices: int = 0
    alerts: tuple[Alert, ...] = ()
    notice: str = ""
    profile: str = ""
    profile_trouble: str = ""


def data_notice(notice: str, rows: Sequence[Row], now: float) -> str:
    """Say what the data is when it is not live, also when the feed that says so of itself is gone.

    Parameters
    ----------
    notice
        What a feed says of its data; it stops saying so when it stops.
    rows
        What is shown, with the labels it carries.
    now
        Epoch s.
    """
    labelled = {row.symbol: row.source for row in rows if row.source not in (None, LIVE)}
    fed = [row.fed_at for row in rows if row.fed_at is not None]
    silent = bool(fed) and (not notice or now - max(fed) > FEED_SILENT_SEC)
    if not labelled or (notice and not silent):
        return notice
    sources = sorted({str(source) for source in labelled.values()})
    headline, _, explanation = notice.partition(". ")
    headline = headline or f"{'SYNTHETIC' if sources == [INVENTED] else 'EXAMPLE'} DATA, not live"
    if silent:
        headline += f"; its feed has been silent for {duration_text(now - max(fed))}, since {clock_text(max(fed))}"
    explanation = explanation or f"What is shown of {_first_names(sorted(labelled))} is labelled {' or '.join(sources)}."
    return f"{headline}. {explanation}"


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return f"{', '.join(names[:NAMES_TOLD])}{more}"


def openings(switches: Switches, guards: GuardReading, killed: Mapping[str, str]) -> Openings:
    """Say whether positions may be opened; what is not known blocks.

    Parameters
    ----------
    switches, guards
        As they were read.
    killed
        Who set the kill switch, why and when (by, reason, at); empty without a record of it.
    """
    blocked, details = [], []
    if switches.killed:
        blocked.append(f"kill switch: {killed['reason']} (set by {killed['by']})" if killed else "kill switch")
        set_by = (
            f"set {killed['at']} by {killed['by']}: {killed['reason']}"
            if killed
            else "set, without a record of who and why (by hand?)"
        )
        details.append(f"Kill switch: {set_by}. A named person ends it: quantum arm.")
    if switches.disarmed:
        cause = switches.disarm.get("cause", "")
        blocked.append(": ".join(filter(None, ("governor disarmed", cause))))
        details.append(
            f"Governor: disarmed since {stamp_text(switches.disarm.get('at', 'an unknown time'))}: {cause or 'cause unknown'}. "
            "A named person ends it: quantum arm."
        )
    details += [
        f"Governor: {scope_text(scope)} disarmed since {stamp_text(record.get('at', 'an unknown time'))}: "
        f"{record.get('cause', 'cause unknown')} ({number_of(record.get('plans', '?'), 'plan')}). Others may open. "
        f"A named person ends it: quantum arm {scope_option(scope)}."
        for scope, record in sorted(switches.scopes.items())
    ]
    for guard in guards.live:
        fields = guards.said.get(guard, {})
        reason = fields.get("reason", "its condition holds").removeprefix(guard).strip(" :")
        if reason[:1] in ("{", "["):
            reason = f"its reason is no text: {reason}"
        blocked.append(f"risk guard {guard}: {reason}")
        until = _until(fields["expires_at"]) if "expires_at" in fields else "with its condition"
        if fields.get("pending") == "True":
            until = (
                f"with a newer reading within its limit, and is confirmed by one that is not, {fields.get('confirm_sec')} s later"
            )
        details.append(f"Risk guard {guard}: {reason}. It ends {until}.")
    for trouble in filter(None, (switches.trouble, guards.trouble)):
        blocked.append(f"unknown: {trouble}")
        details.append(f"Unknown, and unknown blocks: {trouble}.")
    return Openings(tuple(shown_text(one) for one in blocked), tuple(shown_text(one) for one in details))


def _until(stamp: str) -> str:
    """Say when a guard ends; what is no time of now is not repeated as one."""
    try:
        epoch = datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError):
        return f"at a time that cannot be read ({stamp})"
    return f"at {moment_text(epoch)}" if 0 <= epoch < EPOCH_MAX else f"at a time that cannot be right ({stamp})"


def active_alerts(stored: object) -> list[Alert]:
    """Read the list of active alerts; that there is none to be read is an alert."""
    if not isinstance(stored, bytes):
        return [Alert(WATCHER_SILENT)]
    try:
        return [_alert(entry) for entry in orjson.loads(stored)[:ALERTS_MAX]]
    except (ValueError, TypeError, KeyError, AttributeError):
        return [Alert(ALERTS_UNREADABLE)]


def _alert(entry: Mapping[str, Any]) -> Alert:
    severity = entry.get("severity")
    return Alert(
        title=shown_text(entry["title"]),
        severity=severity if severity in ("page", "warn", "info") else "page",
        kind=shown_text(entry.get("kind") or entry.get("alert") or ""),
        since=epoch_or_none(entry.get("since")),
        symbols=tuple(shown_text(symbol) for symbol in entry.get("symbols") or ()),
        well_since=epoch_or_none(entry.get("well_since")),
    )
