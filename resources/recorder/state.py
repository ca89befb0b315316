"""What the recorder says of itself in Redis, for those who show it or alert: needs neither its files nor Polars."""

from __future__ import annotations

from typing import NamedTuple

from quantum_core.contracts.tables import RECORDER_STREAM_MAXLEN
from resources.inputs.foreign import number_or_none
from resources.store.redis_store import RedisStore, texts

SILENT_SEC = 60.0  # it reports every 2 s; a flush of 32 MB to a slow disk takes some
WAITING_SHARE = 0.25  # of the stream's cap: with a cycle a minute an hour is left until records are lost


class RecorderState(NamedTuple):
    """How the recorder is.

    Attributes
    ----------
    at
        When it last reported, epoch s; ``None`` where none ever ran.
    folder, owner
        Where it writes, and its host.
    trouble
        Why it writes nothing; empty when it does.
    seq
        Number of the last record that is written.
    waiting
        Records in Redis that are not written.
    gaps
        Rows of the table ``gaps`` since it first ran.
    day, day_bytes, free_bytes
        UTC date that is written, what it takes so far, and the room that is left; ``None`` in an object store.
    archive_bytes, max_bytes
        What all recorded days take (counted once an hour, and what was written since), and RECORDER_MAX_GB.
    damaged
        What is missing in the archive or does not belong there, as the recorder has found it: a matter of the archive, which the
        proof ``archive_intact`` alerts on; the recorder goes on beside it.
    """

    at: float | None
    folder: str = ""
    owner: str = ""
    trouble: str = ""
    seq: int = 0
    waiting: int = 0
    gaps: int = 0
    day: str = ""
    day_bytes: float = 0.0
    free_bytes: float | None = 0.0
    archive_bytes: float = 0.0
    max_bytes: float = 0.0
    damaged: str = ""


def read_state(store: RedisStore) -> RecorderState:
    """Read it; what cannot be read is the recorder's trouble.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    of = store.keys.of
    reply, waiting = store.run("looking at the recorder", [("HGETALL", of("recorder_state")), ("XLEN", of("stream_recorder"))])
    read = {"recorder_state": reply, "stream_recorder": waiting}
    broken = [f"{of(name)}: {one}" for name, one in read.items() if isinstance(one, Exception)]
    said = {} if isinstance(reply, Exception) else texts(reply)
    number = {name: number_or_none(text) or 0.0 for name, text in said.items()}.get
    return RecorderState(
        at=number("at", store.clock().timestamp() if broken else None),
        folder=said.get("folder", ""),
        owner=said.get("owner", ""),
        trouble="; ".join(filter(None, (said.get("trouble", ""), *broken)))[:1000],
        seq=int(number("seq", 0.0)),
        waiting=0 if isinstance(waiting, Exception) else int(waiting),
        gaps=int(number("gaps", 0.0)),
        day=said.get("day", ""),
        day_bytes=number("bytes", 0.0),
        free_bytes=None if said.get("free_bytes") == "" else number("free_bytes", 0.0),
        archive_bytes=number("archive_bytes", 0.0),
        max_bytes=number("max_bytes", 0.0),
        damaged=said.get("damaged", ""),
    )


def what_is_wrong(state: RecorderState, now: float, *, listening_since: float = 0.0) -> str:
    """Say in an operator's words what is wrong with a recorder that has run before; nothing where none ever has.

    Parameters
    ----------
    state
        As it was read.
    now
        Epoch s.
    listening_since
        When whoever asks began to listen, epoch s: a recorder that was started with it has SILENT_SEC to report.
    """
    if state.at is None:
        return ""
    silent, full = now - state.at, state.waiting / RECORDER_STREAM_MAXLEN
    room = f"{state.waiting} of at most {RECORDER_STREAM_MAXLEN} records wait in Redis"
    if now - max(state.at, listening_since) > SILENT_SEC:
        return f"The recorder has not reported for {silent:.0f} s; {room}"
    if state.trouble:
        return f"The recorder writes nothing: {state.trouble}; {room}"
    return f"The recorder does not keep up: {room}" if full > WAITING_SHARE else ""
