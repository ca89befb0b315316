"""What may be wrong with an installation, and what to do about it. Nothing is changed; trouble is a finding, not an error."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import redis
from packaging.requirements import Requirement

from quantum_core.contracts.reading import State
from quantum_core.contracts.roles import GOVERNOR, PROPOSALS, WRITERS
from quantum_core.contracts.tables import PUBLISHED
from quantum_core.display import number_of
from quantum_core.freshness import BELL, BELL_SILENT_SEC
from quantum_core.kernels.governor.risk_guard import EQUITY_STALE, RiskGuardTheta, assess
from quantum_core.profiles.in_force import warnings_of
from quantum_core.settings import MARKET_STATE_STREAM, SENTINEL_FORM, Settings, uncommented
from quantum_ops.doctor.env_files import ALIKE, OBSOLETE, names_of_settings
from quantum_ops.doctor.server_needs import (
    A_SENTINEL,
    BROKER_COMMANDS,
    COMMANDS,
    GOVERNOR_PROBE,
    OLDEST,
    PROBE,
    broker_of,
    lacking,
    name_and_age,
)
from resources.governor.account import read_account
from resources.inputs.candle_memory import without_unchanged
from resources.inputs.candle_series import grid_theta_of
from resources.inputs.candles import CandleReader
from resources.inputs.positions import PositionReader
from resources.recorder.state import read_state, what_is_wrong
from resources.store.lease import standing_by
from resources.store.profiles import bring_up_to_date
from resources.store.redis_store import RedisStore, epoch_of
from resources.store.transport.connection import sentinel_options
from resources.store.transport.unavailable import RedisUnavailableError
from resources.store.vital_signs import sign_of

Level = Literal["ok", "warn", "fail"]
DISTRIBUTION = "quantum-risk-pipeline"
SKEW_WARN_SEC, SKEW_MAX_SEC = 1.0, 5.0  # beyond the second, data of other hosts are refused as being in the future
DISK_MIN_GB = 2.0  # below, the event log of the coming hours has no room
UI_PORT = 3000
NAMED_MAX = 5
HASHES = ("counts_published", "counts_decided", "counts_ran", "counts_alerts", "newest_cycles", "guard_readings")
ENVIRONMENT_FILE = Path("/etc/quantum/quantum.env")
# A command for each kind of key that needs the right to write and changes nothing; a key of another kind answers WRONGTYPE.
HARMLESS = {
    "stream": lambda key: ("XDEL", key, "0-1"),
    "other": lambda key: ("HDEL", key, "no such field"),
}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    what
        What was looked at.
    level
        How it stands.
    seen
        What was seen; no secret.
    remedy
        What to do; empty when there is nothing.
    """

    what: str
    level: Level
    seen: str
    remedy: str = ""


def diagnose(settings: Settings) -> Iterator[Finding]:
    """Look at everything, the machine first, then Redis; without Redis the rest is left out."""
    for look in (_versions, _user, _modes, _disk, _ports, _names, _chosen):
        yield from look(settings)
    store = RedisStore(settings)
    try:
        (pong,) = store.run("being examined", [("PING",)])
    except RedisUnavailableError as error:
        yield Finding("redis", "fail", str(error), "start it, or correct REDIS_URL; then run this again")
        return
    if isinstance(pong, Exception):
        yield Finding("redis", "fail", str(pong), "correct user and password in REDIS_URL")
        return
    yield Finding("redis", "ok", f"{settings.redis_address} answers")
    for look_at in (
        _server,
        _sentinels,
        _commands,
        _clock,
        _broker,
        _rights,
        _stacks,
        _bell,
        _recorder,
        _profile,
        _published,
        _inputs,
    ):
        try:
            yield from look_at(store)
        except (RedisUnavailableError, redis.RedisError) as error:
            yield Finding(look_at.__name__.strip("_"), "fail", str(error), "see redis")
    yield from _storage(settings)


# --- the machine ----------------------------------------------------------------------------------------------------------------


def _versions(_: Settings) -> Iterator[Finding]:
    wrong = []
    for text in requires(DISTRIBUTION) or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(installed, prereleases=True):
            wrong.append(f"{needed.name} {installed}, needed {needed.specifier}")
    ours = f"Python {sys.version.split()[0]}, {DISTRIBUTION} {version(DISTRIBUTION)}"
    if wrong:
        yield Finding("versions", "fail", "; ".join(wrong), "install what requirements.lock has, with --require-hashes")
    else:
        yield Finding("versions", "ok", f"{ours}, all packages as pinned")


def _user(_: Settings) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("user", "warn", "running as root", "run it as an ordinary user, as deploy/systemd does")
    else:
        yield Finding("user", "ok", f"uid {os.geteuid()}")


def _modes(settings: Settings) -> Iterator[Finding]:
    for path in (settings.quantum_home, ENVIRONMENT_FILE):
        if not os.access(path, os.F_OK):  # nor where this user may not look
            continue
        if (mode := path.stat().st_mode & 0o777) & 0o007:
            yield Finding(
                "file modes", "fail", f"{path} is open to everybody ({mode:o})", f"chmod o-rwx {path}: it may hold secrets"
            )
        else:
            yield Finding("file modes", "ok", f"{path} {mode:o}")


def _disk(settings: Settings) -> Iterator[Finding]:
    home = settings.quantum_home
    there = next(path for path in (home, *home.parents) if os.access(path, os.F_OK))
    free_gb = shutil.disk_usage(there).free / 1e9
    log = home / "history" / "event_log.db"
    stored_gb = log.stat().st_size / 1e9 if log.exists() else 0.0
    space = f"{free_gb:.1f} GB free for QUANTUM_HOME, the event log has {stored_gb:.1f} GB"
    if free_gb < DISK_MIN_GB:
        yield Finding("disk", "fail", space, "make room, or lower RUN_RETENTION_HOURS")
    elif free_gb + stored_gb < settings.run_retention_max_gb:
        remedy = f"less than RUN_RETENTION_MAX_GB={settings.run_retention_max_gb:g} would take: lower it, or make room"
        yield Finding("disk", "warn", space, remedy)
    else:
        yield Finding("disk", "ok", space)


def _ports(settings: Settings) -> Iterator[Finding]:
    ours = {
        "user interface": UI_PORT,
        "WATCH_PORT": settings.watch_port,
        "EXPORTER_ALLOCATION_PORT": settings.exporter_allocation_port,
        "EXPORTER_GOVERNOR_PORT": settings.exporter_governor_port,
    }
    used = [f"{name} {port}" for name, port in ours.items() if port and _in_use(port)]
    yield Finding("ports", "ok", f"in use: {', '.join(used) or 'none'}, by this product if it runs")


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _names(settings: Settings) -> Iterator[Finding]:
    """Find settings whose name was misspelt, or is that of an older service: their defaults hold, without a word."""
    known = {name: None for field in Settings.model_fields for name in (field.upper(), f"{field.upper()}_FILE")}
    known |= dict.fromkeys(names_of_settings())
    for name in sorted(OBSOLETE.keys() & os.environ.keys()):
        yield Finding("names of settings", "warn", f"{name} is obsolete and ignored", OBSOLETE[name])
    stream = uncommented(os.environ.get("STREAM_NAME", ""))
    if stream and stream != settings.stream_name == MARKET_STATE_STREAM:
        yield Finding(
            "names of settings", "ok", f"STREAM_NAME names another of our streams; the market state keeps {MARKET_STATE_STREAM}"
        )
    near = {name: get_close_matches(name, known, 1, ALIKE) for name in sorted(os.environ.keys() - known.keys() - OBSOLETE.keys())}
    if meant := {name: found[0] for name, found in near.items() if found}:
        yield Finding("names of settings", "warn", f"unknown: {', '.join(meant)}", f"did you mean {', '.join(meant.values())}?")
    else:
        yield Finding("names of settings", "ok", "none that looks like one and is none")


def _chosen(settings: Settings) -> Iterator[Finding]:
    if settings.allow_synthetic:
        remedy = "unset it in production: replayed, example and synthetic data earn permits"
        yield Finding("settings", "warn", "ALLOW_SYNTHETIC=true", remedy)
    if not settings.alert_urls:
        remedy = "set it, then try it: quantum alerts test"
        empty = "ALERT_URLS is not set here; nor for the watcher? Then alerts reach only the stream and the status banner"
        yield Finding("settings", "warn", empty, remedy)
    yield Finding(
        "settings",
        "ok",
        f"{number_of(len(settings.symbols), 'symbol')}, {number_of(settings.shards, 'shard')}, "
        f"every {settings.publish_interval_sec} s",
    )


def _storage(settings: Settings) -> Iterator[Finding]:
    if not (settings.quantum_home / "dagster.yaml").exists():
        yield Finding("dagster storage", "ok", "none yet; the first start makes it")
        return
    import dagster as dg

    from resources.instance.dagster_internals import ticks_ahead

    try:
        with dg.DagsterInstance.from_config(str(settings.quantum_home)) as instance:
            instance.get_run_records(limit=1)
            ahead = ticks_ahead(instance, time.time())
            kind = type(instance.event_log_storage).__name__
    except Exception as error:  # noqa: BLE001 - whatever the storage raises is the finding
        remedy = "look at QUANTUM_HOME/dagster.yaml, DAGSTER_POSTGRES_URL and the database"
        yield Finding("dagster storage", "fail", type(error).__name__, remedy)
    else:
        yield Finding("dagster storage", "ok", f"{kind} answers")
        if ahead:
            ticks = f"last ticks lie ahead: {', '.join(f'{name} {sec:.0f} s' for name, sec in ahead.items())}"
            remedy = (
                "restart `quantum up` or the unit of the daemon, which reset them; plain `dagster dev` waits until then, unless "
                "it is restarted, or the code location reloaded on its page Deployment"
            )
            yield Finding("ticks", "warn", f"{ticks}; the clock was set back", remedy)


# --- Redis ----------------------------------------------------------------------------------------------------------------------


def _server(store: RedisStore) -> Iterator[Finding]:
    (reply,) = store.run("reading INFO", [("INFO",)])
    if isinstance(reply, Exception):
        yield Finding("redis server", "warn", str(reply), "allow INFO to this user, or look yourself: AOF on, noeviction")
        return
    info = dict(line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line)
    name, old = name_and_age(reply)
    yield Finding("redis server", "fail" if old else "ok", name, f"use Redis {OLDEST['Redis']} or Valkey" if old else "")
    if info.get("redis_mode") == "sentinel":
        yield Finding("role", "fail", A_SENTINEL, f"name it as one: {SENTINEL_FORM}")
    elif info.get("role") == "slave":
        remedy = "point REDIS_URL at the master, or name the sentinels (redis+sentinel://...)"
        yield Finding("role", "fail", "a read-only replica", remedy)
    replicas = int(info.get("connected_slaves", "0"))
    if replicas and "min_slaves_good_slaves" not in info:
        remedy = "min-replicas-to-write 1, min-replicas-max-lag 10: a failover loses less (docs/operations.md)"
        yield Finding("replication", "warn", f"{replicas} replicas, and none of them has to have what is written", remedy)
    if info.get("aof_enabled") == "1":
        yield Finding("persistence", "ok", "append-only file")
    else:
        remedy = (
            "CONFIG SET appendonly yes, then in its file (managed: its provider's setting): a restart forgets stops, guards, the "
            "kill switch and today's limits"
        )
        yield Finding("persistence", "warn", "no append-only file", remedy)
    policy = info.get("maxmemory_policy", "?")
    if policy != "noeviction":
        remedy = "maxmemory-policy noeviction: an evicted guard or kill switch is a permit nobody gave"
        yield Finding("eviction", "fail", policy, remedy)
    else:
        yield Finding("eviction", "ok", policy)


def _clock(store: RedisStore) -> Iterator[Finding]:
    (reply,) = store.run("reading the clock", [("TIME",)])
    if isinstance(reply, Exception):
        yield Finding("clock", "warn", str(reply), "allow TIME to this user")
        return
    skew = store.clock().timestamp() - epoch_of(reply)
    level: Level = "fail" if abs(skew) > SKEW_MAX_SEC else "warn" if abs(skew) > SKEW_WARN_SEC else "ok"
    remedy = "" if level == "ok" else "synchronise both hosts (chrony, systemd-timesyncd)"
    yield Finding("clock", level, f"{skew:+.2f} s against Redis", remedy)


def _broker(store: RedisStore) -> Iterator[Finding]:
    url, broker = store.settings.broker_url, broker_of(store.settings)
    if url == store.settings.url:
        yield Finding("broker", "ok", "the same Redis")
        return
    if broker is None:
        yield Finding(
            "broker", "warn", f"{url.partition(':')[0]}: not examined", "only Redis is tried here, and only Redis is tested"
        )
        return
    try:
        (reply,) = broker.run("being examined", [("PING",)])
    except RedisUnavailableError as error:
        yield Finding(
            "broker", "fail", str(error).replace("REDIS_URL", "CELERY_BROKER_URL"), "start it, or correct CELERY_BROKER_URL"
        )
        return
    if isinstance(reply, Exception):
        yield Finding("broker", "fail", str(reply), "correct user and password in CELERY_BROKER_URL")
    else:
        yield Finding("broker", "ok", f"{broker.settings.redis_address} answers")
        yield _commands_of("commands of the broker", broker, BROKER_COMMANDS, "quantum:celery:probe")


def _commands(store: RedisStore) -> Iterator[Finding]:
    yield _commands_of("commands", store, COMMANDS, store.keys.of(PROBE))
    if (governor := store.as_governor()) is not store:
        yield _commands_of("commands of the governor", governor, COMMANDS, store.keys.of(GOVERNOR_PROBE))


def _sentinels(store: RedisStore) -> Iterator[Finding]:
    at = store.settings.sentinels
    if at is None:
        return
    masters, silent = set(), []
    for host, port in at.hosts:
        try:
            with redis.Redis(host, port, **sentinel_options(store.settings, at)) as client:
                masters.add(str(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", at.service)))
        except redis.RedisError as error:
            silent.append(f"{host}:{port} ({type(error).__name__})")
    answering = f"{len(at.hosts) - len(silent)} of {len(at.hosts)} answer"
    if silent:
        majority = len(silent) * 2 < len(at.hosts)
        yield Finding(
            "sentinels",
            "warn" if majority else "fail",
            f"{answering}, not {_first_names(silent)}",
            "start them: a majority elects",
        )
    elif len(masters) > 1 or len(at.hosts) == 1:
        remedy = "list all of them; if they are listed, wait for the failover to end, then look again"
        yield Finding("sentinels", "warn", f"{answering}, and name {len(masters)} masters of {at.service}", remedy)
    else:
        yield Finding("sentinels", "ok", f"{answering}, and name one master of {at.service}")


def _commands_of(what: str, store: RedisStore, commands: dict[str, tuple[str, ...]], key: str) -> Finding:
    if lacks := lacking(store, commands, key):
        return Finding(what, "fail", "; ".join(lacks), "use a server, and a user, that has them: docs/security.md")
    return Finding(what, "ok", f"all {len(commands)} there are for this user")


def _rights(store: RedisStore) -> Iterator[Finding]:
    roles: tuple[tuple[str, RedisStore], ...] = ((PROPOSALS, store), (GOVERNOR, store.as_governor()))
    for role, user in roles:
        names = [name for name, writers in WRITERS.items() if role in writers]
        keys = [store.keys.of(name, store.settings.symbols[0]) for name in names]
        tried = user.client.pipeline(transaction=False)  # not through the store, for which a refusal is a server out of order
        for name, key in zip(names, keys, strict=True):
            tried.execute_command(*HARMLESS["stream" if name.startswith("stream_") else "other"](key))  # type: ignore[no-untyped-call]
        tried.execute_command("EVAL", "return 1", 0)  # type: ignore[no-untyped-call]
        replies = tried.execute(raise_on_error=False)
        tries = zip([*keys, "by a script"], replies, strict=True)
        denied = [key for key, reply in tries if isinstance(reply, redis.ResponseError) and "WRONGTYPE" not in str(reply)]
        if denied:
            remedy = "give this user its role: docs/security.md"
            yield Finding(f"rights of {role}", "fail", f"may not write {_first_names(denied)}", remedy)
        else:
            yield Finding(f"rights of {role}", "ok", f"may write its {len(keys)} kinds of keys")


def _stacks(store: RedisStore) -> Iterator[Finding]:
    hosts = standing_by(store)
    if hosts:
        remedy = "stop it, unless it is your stand-by"
        yield Finding("stacks", "warn", f"{hosts[0]} stands by while {hosts[1]} runs the loop", remedy)
    else:
        yield Finding("stacks", "ok", "no second one on this Redis")


def _bell(store: RedisStore) -> Iterator[Finding]:
    if not store.settings.events:
        yield Finding("bell", "ok", "EVENTS=off: plans and candles are answered on the daemon's grid of 5 s")
        return
    (reply,) = store.run("reading the bell's heartbeat", [("GET", store.keys.of("heartbeat", BELL))])
    heard = sign_of(reply).epoch or 0.0
    silent_sec = store.clock().timestamp() - heard
    if not heard:
        yield Finding("bell", "warn", "never heard of: plans and candles are answered every 5 s", "start it: quantum up")
    elif abs(silent_sec) > BELL_SILENT_SEC:
        remedy = "the daemon's log says why; the server must allow CLIENT TRACKING, which a proxy in front of it may not"
        yield Finding("bell", "warn", f"silent for {silent_sec:.0f} s: plans and candles are answered every 5 s", remedy)
    else:
        yield Finding("bell", "ok", f"heard of a write of its own {silent_sec:.0f} s ago")


def _recorder(store: RedisStore) -> Iterator[Finding]:
    settings = store.settings
    if not settings.recorder:
        yield Finding("recorder", "ok", "RECORDER is off: nothing is recorded")
        return
    state, now = read_state(store), store.clock().timestamp()
    if state.at is None:
        yield Finding(
            "recorder", "ok", "none has ever run here", "to keep what cycles do: quantum recorder; `quantum up` starts it"
        )
        return
    kept = f"{state.waiting} records wait, {state.gaps} gaps; {state.day or 'today'}: {state.day_bytes / 1e6:.1f} MB so far, "
    free = "" if state.free_bytes is None else f"{state.free_bytes / 1e9:.1f} GB free "
    summary = f"{kept}{free}for {state.folder}"
    if wrong := what_is_wrong(state, now):
        yield Finding("recorder", "warn", f"{wrong}; {summary}", "quantum recorder --status; docs/alerts.md, recorder")
    elif state.free_bytes is not None and state.free_bytes < DISK_MIN_GB * 1e9:
        yield Finding("recorder", "warn", summary, "make room, or lower RECORDER_DAYS or RECORDER_MAX_GB")
    else:
        yield Finding("recorder", "ok", summary)


def _profile(store: RedisStore) -> Iterator[Finding]:
    named, trouble = bring_up_to_date(store)
    warnings = warnings_of(store.profile, store.settings)
    if trouble:
        yield Finding("profile", "fail", f"{trouble}; in force: {named}", "quantum profile history, then quantum profile use")
    elif warnings:
        yield Finding("profile", "warn", "; ".join(warnings), "put one in force that fits: quantum profile use")
    else:
        yield Finding("profile", "ok", f"{named} is in force")


def _published(store: RedisStore) -> Iterator[Finding]:
    """Read everything we publish: what another program has overwritten cannot be read."""
    bad = [
        f"{reading.symbol}: {reading.reason}"
        for table in PUBLISHED
        for reading in store.read(table, table.subjects(store.settings.symbols))
        if reading.state is State.FAILED
    ]
    bad += [f"{key}: {reply}" for key, reply in _lengths(store) if isinstance(reply, Exception)]
    if bad:
        remedy = "another program writes there: find it, then delete or rename the key"
        yield Finding("our keys", "fail", f"{len(bad)} cannot be read: {_first_names(bad)}", remedy)
    else:
        yield Finding("our keys", "ok", "nothing of another writer")


def _lengths(store: RedisStore) -> Iterator[tuple[str, Any]]:
    """Ask every stream, and every hash that is no table, for its length: what is something else refuses."""
    streams = [name for name in WRITERS if name.startswith("stream_")]
    asked = [("XLEN", store.keys.of(name)) for name in streams] + [("HLEN", store.keys.of(name)) for name in HASHES]
    yield from zip((key for _, key in asked), store.run("looking at lengths", asked), strict=True)


def _inputs(store: RedisStore) -> Iterator[Finding]:
    symbols = store.settings.symbols
    if store.settings.marketstate_source == "candles":
        bad = _candle_troubles(symbols, store)
        yield _input("candles", bad, len(symbols), "start the program that writes them (docs/keys.md has the format)")
    bad = [f"{one.symbol}: {one.reason}" for one in PositionReader(store).read(symbols) if one.state is State.FAILED]
    yield _input("positions", bad, len(symbols), "correct its writer: docs/keys.md has what it must write")
    account = read_account(store)
    assessment = assess(account.account, store.profile.theta(RiskGuardTheta))
    bad = [account.seen[name] for name in assessment.unusable]
    if not bad and not assessment.equity_fresh:
        bad = [next((one.reason for one in assessment.triggered if one.guard == EQUITY_STALE), "not fresh")]
    yield _input("account", bad, len(account.seen), "start or correct its writer: no plan that opens anything is permitted")


def _candle_troubles(symbols: Sequence[str], store: RedisStore) -> list[str]:
    """Judge candles as the market state is: what gives no state, and why."""
    from quantum_assets.market_state import market_state_frame  # Dagster, which takes most of a second

    readings = without_unchanged(store, CandleReader(store).read(symbols), remember=False)
    frame = market_state_frame(readings, grid_theta_of(store.settings, store.profile), profile=store.profile)
    without = frame.filter(frame["state"] != State.PRESENT)
    return [f"{symbol}: {why}" for symbol, why in zip(without["symbol"], without["why"], strict=True)]


def _input(what: str, bad: Sequence[str], count: int, remedy: str) -> Finding:
    if not bad:
        return Finding(what, "ok", f"{count} readable")
    return Finding(what, "warn", f"{len(bad)} of {count}: {_first_names(bad)}", remedy)


def _first_names(names: Sequence[str]) -> str:
    further = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + further
