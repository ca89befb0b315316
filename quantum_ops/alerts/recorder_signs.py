"""What the watcher sees of the recorder: one that is silent, writes nothing, or does not keep up, before records are lost."""

from __future__ import annotations

from quantum_core.alert_catalogue import KINDS
from quantum_ops.alerts.words import Trouble
from resources.recorder.state import read_state, what_is_wrong
from resources.store.redis_store import RedisStore

RECORDER = "recorder"
ALERTS = frozenset({RECORDER})


def recorder_troubles(store: RedisStore, now: float, listening_since: float = 0.0) -> dict[str, Trouble]:
    """Name what is wrong with the recorder, by alert; nothing where RECORDER is off, or none has ever run on this Redis.

    Parameters
    ----------
    store
        Where it reports.
    now
        Epoch s.
    listening_since
        See :func:`resources.recorder.state.what_is_wrong`.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    state = read_state(store) if store.settings.recorder else None
    if state is None or state.at is None or not (what := what_is_wrong(state, now, listening_since=listening_since)):
        return {}
    title = f"{what[0].upper()}{what[1:]}"
    return {RECORDER: Trouble(RECORDER, "warning", title, min(state.at, now), "", "", KINDS[RECORDER].look, RECORDER)}
