"""Which profile is in force: PROFILE, or what `quantum profile use` has put in its place since; one cycle never mixes two.

Each use is one entry of a stream that is kept: the whole profile, its fingerprint, who, when and why. In force is the newest
entry that can be used; one that cannot (edited by hand, written by a newer version) changes nothing and is reported, and so does
a record that has lost what was in force. The tick that requests a cycle writes the choice into the tags of its runs, so that
all shards compute with the same, whatever is used since.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from quantum_core.kernels.theta import ThetaError
from quantum_core.profiles.files import load_once
from quantum_core.profiles.in_force import DoesNotFitError, in_force
from quantum_core.profiles.profile import LOCKED, Profile, ProfileError, from_body
from quantum_core.settings import Settings
from resources.inputs.foreign import parse_entry_id
from resources.store.redis_store import RedisStore, flat, texts
from resources.store.transport.scripts import Script
from resources.store.transport.unavailable import RedisUnavailableError

KEY, STARTED = "profiles", "profile_started"
KEPT = 1000  # uses; each is some hundred bytes
LOOKED_AT = 50  # newest uses among which one that can be used must be
SAME_LOOK_SEC = 1.0  # steps of a run on request ask one after the other
PROFILE_TAG, PROFILE_NAME_TAG, PROFILE_ENTRY_TAG = "quantum/profile", "quantum/profile_name", "quantum/profile_use"
LAST_GOOD = "profile.json"  # in the instance folder: what is to stay in force should the stream vanish
USE_PROFILE = Script(__file__, "use_profile")
STARTED_AT = time.time()  # of this process; where it requests the cycles, uses that wait for a start wait for a later one

log = logging.getLogger("quantum.profile")


class AnotherProfileError(ProfileError):
    """The processes of a deployment have different settings, so that no run can compute with what another was asked for."""

    def __init__(self, name: str, wanted: str, mine: Profile) -> None:
        super().__init__(
            f"profile_differs: the run wants {name} {wanted}, and with its settings this process has {mine.name} "
            f"{mine.fingerprint}. Give all processes the same PROFILE and settings, and start them anew."
        )


class OvertakenUseError(ProfileError):
    """Another profile was put in force since this one was compared with what was."""

    def __init__(self) -> None:
        super().__init__("another profile was put in force at the same moment; nothing was changed by this one: compare again")


class NotRecordedError(ProfileError):
    """A profile could not be recorded, so that nothing has changed."""


@dataclass(frozen=True)
class Use:
    """One use of a profile on record.

    Attributes
    ----------
    entry
        Id of its stream entry.
    at
        When, epoch s.
    name, fingerprint, by, reason
        What was put in force, by whom and why.
    at_start
        Whether it is to take effect when the daemon is started anew.
    text
        The whole profile.
    digest
        Of name, fingerprint and text, as they were stored. The fingerprint alone would not do: a version of the product with more
        parameters gives the same text another one.
    """

    entry: str
    at: float
    name: str
    fingerprint: str
    by: str
    reason: str
    at_start: bool
    text: str
    digest: str = ""

    def profile(self) -> Profile:
        """Read the profile out of the record.

        Raises
        ------
        ProfileError
            It was edited since, or this version does not know all of its parameters.
        """
        try:
            profile = from_body(json.loads(self.text))
        except ThetaError as error:
            msg = f"profile {self.name}: {error}; this version of the product may be older than the one that stored it"
            raise ProfileError(msg) from None
        except (ValueError, RecursionError) as error:
            msg = f"profile {self.name}: {error}"
            raise ProfileError(msg) from None
        if self.digest != digest_of(self.name, self.fingerprint, self.text) or profile.name != self.name:
            seen = f"its parameters are {profile.fingerprint}, stored was {self.fingerprint}, and its digest is not theirs"
            msg = f"profile {self.name} was edited since it was stored: {seen}"
            raise ProfileError(msg)
        return profile


@dataclass(frozen=True)
class InForce:
    """What is in force now.

    Attributes
    ----------
    profile
        With what the environment sets; its fingerprint is that of the rows.
    use
        Who put it in force; ``None`` for PROFILE's own.
    trouble
        Why a newer one is not in force, or the record of uses cannot be read; empty when neither.
    waiting
        A use that waits for a restart.
    """

    profile: Profile
    use: Use | None = None
    trouble: str = ""
    waiting: Use | None = None

    def tags(self) -> dict[str, str]:
        """Give the tags of a run that is to compute with it."""
        return {
            PROFILE_TAG: self.profile.fingerprint,
            PROFILE_NAME_TAG: self.profile.name,
            **({PROFILE_ENTRY_TAG: self.use.entry} if self.use is not None else {}),
        }


@dataclass
class _Known:
    """What a process remembers of one store."""

    last: InForce | None = None
    looked_at: float = 0.0
    by_entry: dict[str, Profile] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[RedisStore, _Known] = WeakKeyDictionary()


def use(store: RedisStore, profile: Profile, *, by: str, reason: str, at_start: bool = False, compared: str | None = None) -> Use:
    """Put a profile in force: record it, whole, with who and why.

    Parameters
    ----------
    compared
        Id of the newest entry when the profile was compared with what is in force, empty where there was none; ``None``: whatever
        it is now.

    Raises
    ------
    ValueError
        Name or reason is blank, or the profile contradicts the settings.
    NotRecordedError
        The key of the record holds something else.
    OvertakenUseError
        Another use was recorded since it was compared.
    RedisUnavailableError
        The server is away, or refuses this user.
    """
    if not by.strip() or not reason.strip():
        msg = "name and reason must not be blank"
        raise ValueError(msg)
    in_force(profile, store.settings)
    now = store.clock().timestamp()
    fields = {
        "name": profile.name,
        "fingerprint": profile.fingerprint,
        "profile": profile.text(),
        "digest": digest_of(profile.name, profile.fingerprint, profile.text()),
        "by": by.strip(),
        "reason": reason.strip(),
        "at": repr(now),
        "at_start": str(int(at_start)),
    }
    newest = newest_entry(store) if compared is None else compared
    remembered = _remembered(store)
    above = remembered.use.entry if remembered is not None and remembered.use is not None else ""
    (reply,) = store.run("recording the profile", [USE_PROFILE([store.keys.of(KEY)], newest, above, KEPT, *flat(fields))])
    if reply is None:
        raise OvertakenUseError
    if isinstance(reply, Exception):
        msg = f"{store.keys.of(KEY)} is no record of profiles, so that nothing was changed: {reply}; rename or delete the key"
        raise NotRecordedError(msg)
    return _use(reply.decode(), fields)


def history(store: RedisStore, count: int = KEPT) -> list[Use]:
    """List the newest uses, newest first.

    Raises
    ------
    ProfileError
        The record cannot be read.
    """
    (reply,) = store.run("reading profiles", [_newest(store, count)])
    return _uses(store, reply)


def newest_entry(store: RedisStore) -> str:
    """Give the id of the newest use on record; empty where there is none, or the record cannot be read."""
    try:
        return next((one.entry for one in history(store, 1)), "")
    except ProfileError:  # said when it is written
        return ""


def _newest(store: RedisStore, count: int) -> tuple[Any, ...]:
    return ("XREVRANGE", store.keys.of(KEY), "+", "-", "COUNT", count)


def _uses(store: RedisStore, reply: Any) -> list[Use]:
    if isinstance(reply, Exception):
        msg = f"{store.keys.of(KEY)} cannot be read as the record of profiles: {reply}"
        raise ProfileError(msg)
    return [_use(entry.decode(), texts(fields)) for entry, fields in reply]


def profile_now(store: RedisStore, *, requesting: bool = False) -> InForce:
    """Find out what is in force.

    Parameters
    ----------
    store
        Where the record is.
    requesting
        Whether this process requests the cycles: then its start is the one that uses wait for, and it keeps what is in force for
        the time when the record is gone.

    Returns
    -------
    InForce
        Where the record is broken or gone, what was last in force stays so, and ``trouble`` says why.

    Raises
    ------
    ProfileError
        The record cannot be read, and nobody remembers what it said.
    """
    memo = _KNOWN.setdefault(store, _Known())
    settings = store.settings
    try:
        uses, started = _record(store, requesting=requesting)
    except ProfileError as error:
        last = memo.last or _remembered(store)
        if last is None:
            raise
        return InForce(last.profile, last.use, f"profile_unreadable: {error}")
    last = memo.last if memo.last is not None and memo.last.use is not None else _remembered(store)
    newest, trouble, waiting = None, "", None
    for recorded in uses:
        if (recorded.at_start or settings.profile_changes == "restart") and recorded.at > started:
            waiting = waiting or recorded
            continue
        try:
            newest = InForce(in_force(_parsed(memo, recorded), settings), recorded, trouble, waiting)
        except (ProfileError, DoesNotFitError) as error:
            trouble = trouble or f"profile_unusable: entry {recorded.entry} by {recorded.by}: {error}"
            continue
        break
    if last is not None and last.use is not None and (newest is None or _later(last.use, newest.use)):
        if all(recorded.entry != last.use.entry for recorded in uses):
            trouble = f"profile_lost: {store.keys.of(KEY)} no longer has entry {last.use.entry}, which is in force"
        return InForce(last.profile, last.use, trouble, None if waiting == last.use else waiting)
    return _keep(store, memo, newest or InForce(settings.own_profile, None, trouble, waiting), remember=requesting)


def as_put_in_force(now: InForce, settings: Settings) -> Profile:
    """Give what is in force as it was put in force: without what the environment sets."""
    return now.use.profile() if now.use is not None else load_once(settings.profile or LOCKED.name, settings.symbols)


def bring_up_to_date(store: RedisStore) -> tuple[str, str]:
    """Let ``store.profile`` be what is in force now, for what shows or judges outside of a run.

    Returns
    -------
    tuple of str
        Name and fingerprint of what is in force; and what is wrong with it, empty when nothing is.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    try:
        now = profile_now(store)
    except ProfileError as error:
        return "unknown", f"profile_unreadable: {error}"
    store.profile = now.profile
    return f"{now.profile.name} {now.profile.fingerprint}", now.trouble


def _record(store: RedisStore, *, requesting: bool) -> tuple[list[Use], float]:
    """Read the newest uses, and since when the process runs that requests the cycles."""
    key = store.keys.of(STARTED)
    reply, said = store.run("reading profiles", [_newest(store, LOOKED_AT), ("GET", key)])
    try:
        started = float(said)
    except (TypeError, ValueError):  # nobody has requested a cycle yet, or another program wrote there
        started = 0.0
    if requesting and started < STARTED_AT:
        started = STARTED_AT
        with suppress(RedisUnavailableError):  # users of Redis made before may not; a use that waits then waits for any process
            store.run("leaving when this process started", [("SET", key, repr(started))])
    return _uses(store, reply), started or STARTED_AT


def take_profile(store: RedisStore, tags: Mapping[str, str]) -> Profile:
    """Let this process compute with the profile of a run: that of its tags, or without them what is in force now.

    Returns
    -------
    Profile
        What ``store.profile`` is from now on.

    Raises
    ------
    ProfileError
        This process cannot compute with the profile of the tags: it is older, or has other settings.
    """
    known, wanted = _KNOWN.setdefault(store, _Known()), tags.get(PROFILE_TAG)
    if wanted is None:
        recent = known.last is not None and time.monotonic() - known.looked_at <= SAME_LOOK_SEC
        store.profile = known.last.profile if known.last is not None and recent else profile_now(store).profile
    elif store.profile.fingerprint != wanted:
        store.profile = _of_run(store, known, wanted, tags)
    return store.profile


def _of_run(store: RedisStore, known: _Known, wanted: str, tags: Mapping[str, str]) -> Profile:
    settings, entry = store.settings, tags.get(PROFILE_ENTRY_TAG, "")
    if known.last is not None and known.last.profile.fingerprint == wanted:
        return known.last.profile
    if settings.own_profile.fingerprint == wanted:
        return settings.own_profile
    kept = _remembered(store)
    if kept is not None and kept.profile.fingerprint == wanted:  # the record may have lost it since
        known.last = kept
        return kept.profile
    recorded = next((one for one in history(store) if one.entry == entry), None) if entry else None
    try:
        mine = settings.own_profile if recorded is None else in_force(_parsed(known, recorded), settings)
    except DoesNotFitError as error:
        msg = f"profile_differs: the run wants {tags.get(PROFILE_NAME_TAG, '')} {wanted}: {error}"
        raise ProfileError(msg) from None
    if mine.fingerprint != wanted:
        raise AnotherProfileError(tags.get(PROFILE_NAME_TAG, ""), wanted, mine)
    return _keep(store, known, InForce(mine, recorded), remember=True).profile


def _parsed(known: _Known, one: Use) -> Profile:
    key = f"{one.entry} {one.fingerprint} {hash(one.text)}"
    if key not in known.by_entry:
        known.by_entry = {key: one.profile()}
    return known.by_entry[key]


def _keep(store: RedisStore, memo: _Known, current: InForce, *, remember: bool) -> InForce:
    previous = memo.last
    memo.last, memo.looked_at, store.profile = current, time.monotonic(), current.profile
    if remember and current.use is not None and (previous is None or previous.use != current.use or not _file(store).exists()):
        _remember(store, current.use)
    return current


def _later(one: Use, another: Use | None) -> bool:
    """Whether a use is of a later entry than another one."""
    return another is None or parse_entry_id(one.entry) > parse_entry_id(another.entry)


def _file(store: RedisStore) -> Path:
    return store.settings.quantum_home / LAST_GOOD


def _remember(store: RedisStore, one: Use) -> None:
    path = _file(store)
    temporary = path.with_suffix(f".{os.getpid()}.new")  # workers of one host write it, too
    try:
        temporary.write_bytes(orjson.dumps(one.__dict__))
        temporary.replace(path)
    except OSError as error:  # a folder that cannot be written is no reason to stop
        log.warning("%s cannot be written, so a profile in force will not outlive both Redis and this process: %s", path, error)


def _remembered(store: RedisStore) -> InForce | None:
    try:
        one = Use(**json.loads(_file(store).read_bytes()))
        parse_entry_id(one.entry)
        return InForce(in_force(one.profile(), store.settings), one)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _use(entry: str, fields: Mapping[str, Any]) -> Use:
    try:
        at = float(fields.get("at", ""))
    except ValueError:
        at = int(entry.partition("-")[0]) / 1000
    return Use(
        entry=entry,
        at=at,
        name=fields.get("name", "?"),
        fingerprint=fields.get("fingerprint", ""),
        by=fields.get("by", "?"),
        reason=fields.get("reason", ""),
        at_start=fields.get("at_start") == "1",
        text=fields.get("profile", ""),
        digest=fields.get("digest", ""),
    )


def digest_of(name: str, fingerprint: str, text: str) -> str:
    """Fingerprint what is stored of a profile."""
    return hashlib.blake2s(orjson.dumps([name, fingerprint, text]), digest_size=8).hexdigest()
