"""What the watcher sees of the profile in force: one that cannot be used, and one that waits for a restart."""

from __future__ import annotations

from quantum_core.alert_catalogue import KINDS
from quantum_core.profiles.profile import ProfileError
from quantum_ops.alerts.words import Level, Trouble
from resources.store.profiles import InForce, profile_now
from resources.store.redis_store import RedisStore

UNUSABLE, WAITING = "profile_unusable", "profile_waiting"
ALERTS = frozenset({UNUSABLE, WAITING})


def profile_troubles(store: RedisStore, now: float) -> dict[str, Trouble]:
    """Name what is wrong with the profile in force, by alert.

    Parameters
    ----------
    store
        Where the record of uses is; its profile is brought up to date.
    now
        Epoch s.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    try:
        in_force = profile_now(store)
    except ProfileError as error:
        return {UNUSABLE: _trouble(UNUSABLE, "failure", f"No profile is known to be in force: {error}", now, "")}
    store.profile = in_force.profile
    troubles = {}
    if in_force.trouble:
        _, _, why = in_force.trouble.partition(": ")
        title = f"Profile not in force: {why}; {_stays(in_force)}"
        troubles[UNUSABLE] = _trouble(UNUSABLE, "failure", title, now, in_force.trouble)
    if (use := in_force.waiting) is not None:
        title = (
            f"Profile {use.name} waits for a restart of the daemon, put on record by {use.by}: {use.reason}; {_stays(in_force)}"
        )
        troubles[WAITING] = _trouble(WAITING, "warning", title, use.at, use.entry)
    return troubles


def _stays(in_force: InForce) -> str:
    return f"{in_force.profile.name} {in_force.profile.fingerprint} stays in force"


def _trouble(alert: str, level: Level, what: str, since: float, code: str) -> Trouble:
    kind = KINDS[alert]
    return Trouble(alert, level, what, since, "", "", kind.look, alert, code=code)
