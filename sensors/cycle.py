"""When the assets are computed: one run per cycle for all due assets and symbols, and none while the previous one still runs.

Spacing: the daemon looks every 5 s, and the sensor answers every time: whether a cycle is due is decided here, from the time
of the last request. Left to the daemon, which counts from the last tick's start, a sensor of exactly 10 s slips to 15 whenever
a tick starts a few milliseconds late, and a daemon killed while it launched a run takes its unfinished tick for a new one.
"""

import json
import math
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeGuard

import dagster as dg
import redis

from quantum_core.contracts.schema import CLOCK_SKEW_SEC
from quantum_core.contracts.tables import MARKET_STATE
from quantum_core.settings import Settings
from quantum_core.universe import ACCOUNT_ASSETS, shards
from resources.inputs.candles import CandleReader
from resources.instance.dagster_internals import DEFER_ASSET_EVENTS_TAG, RANGE_TAGS, storage_id
from resources.instance.launcher import QUEUE_TAG, has_warm_workers, queue_of
from resources.instance.range_tags import range_tags, symbols_of
from resources.io_manager import CYCLE_ID_TAG, CYCLE_TAG, ONCE_TAG
from resources.store.lease import other_holder, standing_by_for
from resources.store.redis_store import RedisStore, RedisUnavailableError
from sensors.overdue import SLOWER, failed_once, goes_first, place_tags, still_running

CYCLE_JOB_NAME = "cycle"
TICK_INTERVAL_SEC = 3  # less than the daemon's own 5 s, so that no tick is missed
TICK_SLACK_SEC = 2  # ticks come in steps of 5 s, a few milliseconds early or late
NOT_DUE = "not due"
Noted = Mapping[str, tuple[int, float]]  # first symbol of a shard to a digest of its newest candles, and when it was first seen
SLOW_FAMILY = ("market_state",)  # evaluated on a new candle or when its own interval has passed
FAST_FAMILY = (
    "position",
    "risk_proposal",
    "harvest_proposal",
    "capital_efficiency",
    "allocation_target",
    "risk_guard",
    "trade_intent",
    "governor_permit",
)

GUARD = dg.AssetCheckKey(dg.AssetKey("position"), "calc_only_process")

CYCLE_JOB = dg.define_asset_job(
    CYCLE_JOB_NAME,
    selection=dg.AssetSelection.assets(*SLOW_FAMILY, *FAST_FAMILY).without_checks() | dg.AssetSelection.checks(GUARD),
    description="One evaluation of every asset for every symbol.",
)


@dataclass(frozen=True)
class Seen:
    """What a tick saw of one symbol, in epoch seconds; ``None`` where there is none.

    Attributes
    ----------
    evaluated
        Last evaluation of the market state.
    used_candle
        Newest candle that state knows.
    newest_candle
        Newest candle there is, as far as one can be read.
    """

    evaluated: float | None = None
    used_candle: float | None = None
    newest_candle: float | None = None


@dataclass(frozen=True)
class Request:
    """Start a cycle for these assets."""

    assets: tuple[str, ...]


@dataclass(frozen=True)
class Skip:
    """Start nothing, and why."""

    reason: str


@dataclass(frozen=True)
class Cycle:
    """One cycle of one shard."""

    shard: int
    symbols: Sequence[str]
    cycle_id: str


def decide_cycle(
    seen: Sequence[Seen],
    *,
    now_epoch: float,
    market_state_interval_sec: float,
    unfinished: str | None,
    candles_since: float = math.inf,
) -> Request | Skip:
    """Decide whether the symbols of one shard are due, and for which assets.

    Parameters
    ----------
    seen
        One entry per symbol; a failed read never gets here, the tick has skipped with its reason.
    now_epoch
        Time of the tick, epoch seconds.
    market_state_interval_sec
        MARKETSTATE_PUBLISH_INTERVAL.
    unfinished
        Id of a cycle of this shard that has not finished.
    candles_since
        Since when the newest candles of the shard are known, epoch seconds; as long as nobody has dated them, they are news.
    """
    if unfinished is not None:
        return Skip(f"late: the previous cycle (run {unfinished}) is still running")
    interval_sec = market_state_interval_sec - TICK_SLACK_SEC
    judged = max((one.evaluated for one in seen if one.evaluated is not None), default=None)
    due = any(_market_state_due(one, now_epoch, interval_sec, candles_since, judged) for one in seen)
    return Request((*SLOW_FAMILY, *FAST_FAMILY) if due else FAST_FAMILY)


def first_requested(shard: int, now: float, interval_sec: float) -> float:
    """Say when a shard is to count as last requested that never was: every other one half an interval ago.

    So they begin in turns, and what all of them need (Redis, the database, here and there a core) is asked for evenly.
    """
    return now - interval_sec / 2 if shard % 2 else now - interval_sec


def in_its_turn(requested: float, now: float, interval_sec: float) -> float:
    """Say when a shard requested now is to count as requested: a late one goes back to its turn, or all would end up in one."""
    behind_sec = (now - requested) % interval_sec
    return now - behind_sec if TICK_SLACK_SEC < behind_sec < interval_sec - TICK_SLACK_SEC else now


def due_in_sec(requested: float, now: float, interval_sec: float) -> float:
    """Give the seconds until the next cycle may be requested; a clock that was set back since is no reason to wait."""
    since = now - requested
    return interval_sec - TICK_SLACK_SEC - since if since >= 0 else 0.0


def _market_state_due(
    seen: Seen, now_epoch: float, interval_sec: float, candles_since: float, shard_judged: float | None = None
) -> bool:
    """Say whether this symbol asks for the market states of its shard.

    A symbol that cannot be computed has no evaluation of its own: what counts is the last one of its shard, and whether candles
    changed since. Otherwise one dead symbol has all the others computed in every cycle (measured: 20 of 566, latency 1.2 times).
    """
    if not _within(seen.evaluated, now_epoch, interval_sec) or seen.used_candle is None:
        return not _within(shard_judged, now_epoch, interval_sec) or shard_judged < candles_since
    # A state that a candle changes too little to be published goes on naming the one before: what counts is when it was judged.
    new_candle = seen.newest_candle is not None and seen.newest_candle > seen.used_candle
    return new_candle and seen.evaluated < candles_since


def _within(evaluated: float | None, now_epoch: float, interval_sec: float) -> TypeGuard[float]:
    """Say whether this evaluation is of the running interval; a clock set back must not end evaluations."""
    return evaluated is not None and -CLOCK_SKEW_SEC <= now_epoch - evaluated < interval_sec


def look(store: RedisStore, symbols: Sequence[str]) -> dict[str, Seen]:
    """Read what the decision needs, for all these symbols at once.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    found = {}
    for state, candles in zip(store.read(MARKET_STATE, symbols), CandleReader(store).read(symbols, window=1), strict=True):
        row = state.value or {}
        newest = int(candles.value.newest_epoch_sec) if candles.value is not None else None  # as the wire has it
        found[state.symbol] = Seen(row.get("last_update_epoch"), row.get("ts_timestamp"), newest)
    return found


def date_candles(seen: Mapping[str, Seen], cycles: Sequence[Cycle], noted: Noted, now_epoch: float) -> Noted:
    """Note since when the newest candles of each shard are known.

    Parameters
    ----------
    seen
        What the tick saw, by symbol.
    cycles
        One per shard that is looked at.
    noted
        What the last tick noted; shards that are not looked at keep it.
    now_epoch
        Time of the tick, epoch seconds.
    """
    dated = {}
    for one in cycles:
        digest = zlib.crc32(repr([seen[symbol].newest_candle for symbol in one.symbols]).encode())
        known, since = noted.get(one.symbols[0], (None, 0.0))
        dated[one.symbols[0]] = digest, since if known == digest else now_epoch
    return {**noted, **dated}


def cycle_tags(symbols: Sequence[str], cycle_id: str, queue: str | None = None) -> dict[str, str]:
    """Give the tags of a run of the loop: its symbols, our own asset events, one id for everything it writes."""
    return {
        **range_tags(symbols),
        DEFER_ASSET_EVENTS_TAG: "true",
        CYCLE_TAG: "true",
        CYCLE_ID_TAG: cycle_id,
        **({QUEUE_TAG: queue} if queue is not None else {}),
    }


def cycles_of(settings: Settings, now_epoch: float) -> list[Cycle]:
    """Name the cycles that begin now, one per shard; no other stack's cycle has the same id, whatever its clock says."""
    cycle_id = f"c{int(now_epoch)}-{secrets.token_hex(3)}"
    return [Cycle(shard, block, cycle_id) for shard, block in enumerate(shards(settings.symbols, settings.shards))]


def requests_for(
    cycles: Sequence[Cycle],
    seen: Mapping[str, Seen],
    settings: Settings,
    *,
    now_epoch: float,
    busy: Mapping[str | None, str],
    noted: Noted,
    place: Mapping[str, str],
) -> tuple[list[dg.RunRequest], list[str]]:
    """Request each cycle whose shard is not busy, and say why the others are not requested.

    Parameters
    ----------
    cycles
        Those that are due.
    seen
        What the tick saw, by symbol.
    settings
        Intervals and shards.
    now_epoch
        Time of the tick, epoch seconds.
    busy
        First symbol of a shard to the id of its run that has not finished.
    noted
        Newest candles, as this tick has dated them.
    place
        Tags that say where their queue is.
    """
    requests, reasons = [], []
    for one in cycles:
        decision = decide_cycle(
            [seen[symbol] for symbol in one.symbols],
            now_epoch=now_epoch,
            market_state_interval_sec=settings.marketstate_publish_interval,
            unfinished=busy.get(one.symbols[0]),
            candles_since=noted[one.symbols[0]][1],
        )
        if isinstance(decision, Skip):
            reasons.append(decision.reason)
            continue
        selection = [dg.AssetKey(asset) for asset in decision.assets if one.shard == 0 or asset not in ACCOUNT_ASSETS]
        tags = {**cycle_tags(one.symbols, one.cycle_id, queue_of(one.shard, settings.shards)), **place}
        # Without a word about checks, all checks of the selected assets would run in every cycle.
        requests.append(dg.RunRequest(run_key=None, asset_selection=selection, asset_check_keys=[GUARD], tags=tags))
    return requests, reasons


def alive_parts(instance: dg.DagsterInstance) -> tuple[str, ...]:
    """Name the parts a tick proves alive: without warm workers the code server, which ticks here, also executes the runs."""
    return ("daemon",) if has_warm_workers(instance) else ("daemon", "worker")


def held_back(
    instance: dg.DagsterInstance,
    due: Sequence[Cycle],
    busy: Mapping[str | None, str],
    wait_sec: float,
    *,
    settings: Settings,
    now: datetime,
) -> str:
    """Say why no cycle is requested by this tick; empty when those that are due may be.

    Parameters
    ----------
    instance
        Without warm workers a cycle waits for the previous one, and for any other run as long as proposals are not old.
    due
        Those whose interval has passed.
    busy
        First symbol of a shard to the id of its run that has not finished.
    wait_sec
        Seconds until the next one is due, negative since it is.
    settings
        Intervals and limits.
    now
        Time of the tick.
    """
    if not due:
        return f"{NOT_DUE} for {wait_sec:.0f} s"
    if has_warm_workers(instance):
        return ""
    if all(cycle.symbols[0] in busy for cycle in due):
        return f"the previous cycle still runs: {SLOWER}"
    if -wait_sec >= settings.proposal_warn_age_sec - settings.publish_interval_sec:
        return ""
    return goes_first(instance, CYCLE_JOB_NAME, now)


def cycle_sensor(store: RedisStore) -> dg.SensorDefinition:
    """Build the sensor that requests a cycle every PUBLISH_INTERVAL_SEC."""
    settings = store.settings

    @dg.sensor(
        name="cycle",
        job=CYCLE_JOB,
        minimum_interval_seconds=TICK_INTERVAL_SEC,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {settings.publish_interval_sec} s: one run for all symbols, unless the previous one still runs. "
        f"With plain `dagster dev` at most every {settings.publish_interval_sec} s, when no other run is unfinished: {SLOWER}.",
    )
    def cycle(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        counts = {"late": 0, "failed_reads": 0, "ended": 0, "shards": {}, "candles": {}, **json.loads(context.cursor or "{}")}
        now, interval_sec = store.clock().timestamp(), settings.publish_interval_sec
        cycles = cycles_of(settings, now)
        counts["shards"] = requested = {
            one.symbols[0]: counts["shards"].get(one.symbols[0], first_requested(one.shard, now, interval_sec)) for one in cycles
        }
        try:
            if other := other_holder(store, storage_id(context.instance), renew=False):
                return dg.SensorResult(skip_reason=standing_by_for(other, "runs the loop"), cursor=context.cursor)
            running, ended = still_running(context.instance, CYCLE_JOB_NAME, store, context.log)
            counts["ended"] += len(ended)
            busy = {run.tags.get(RANGE_TAGS[0]): run.run_id for run in running if ONCE_TAG not in run.tags}
            alive = alive_parts(context.instance)
            store.run("leaving a heartbeat", [("SET", store.keys.of("heartbeat", part), now) for part in alive])
            wait_sec = {shard: due_in_sec(at, now, interval_sec) for shard, at in requested.items()}
            given_up = {run.tags.get(RANGE_TAGS[0]) for run in ended}
            if has_warm_workers(context.instance):
                given_up |= failed_once(context.instance, CYCLE_JOB_NAME, len(cycles)) - busy.keys()
            # What was given up is replaced at once, and not asked for later than otherwise.
            due = [one for one in cycles if wait_sec[one.symbols[0]] <= 0 or one.symbols[0] in given_up]
            next_sec = min(wait_sec.values())
            if reason := held_back(context.instance, due, busy, next_sec, settings=settings, now=store.clock()):
                other_holder(store, storage_id(context.instance))  # a tick that could not look leaves the lease to a stand-by
                return dg.SensorResult(skip_reason=reason, cursor=json.dumps(counts))
            seen = look(store, [symbol for one in due for symbol in one.symbols])
        except (RedisUnavailableError, redis.ResponseError) as error:
            counts["failed_reads"] += 1
            return dg.SensorResult(skip_reason=f"read failed: {error}", cursor=json.dumps(counts))
        counts["candles"] = noted = date_candles(seen, due, counts["candles"], now)
        place = place_tags(store)
        requests, reasons = requests_for(due, seen, settings, now_epoch=now, busy=busy, noted=noted, place=place)
        counts["late"] += len(reasons)
        try:
            other = other_holder(
                store,
                storage_id(context.instance),
                {
                    symbol: request.tags[CYCLE_ID_TAG]
                    for request in requests
                    for symbol in symbols_of(request.tags, settings.symbols)
                },
            )
        except (RedisUnavailableError, redis.ResponseError) as error:
            return dg.SensorResult(skip_reason=f"announcing the cycle failed: {error}", cursor=json.dumps(counts))
        if other:
            return dg.SensorResult(skip_reason=f"standing by: {other} has taken over", cursor=json.dumps(counts))
        if not requests:
            told = f"{'; '.join(reasons)} (late so far: {counts['late']})"
            return dg.SensorResult(skip_reason=told, cursor=json.dumps(counts))
        begun = [shard for request in requests if wait_sec[shard := request.tags[RANGE_TAGS[0]]] <= 0]
        requested |= {shard: in_its_turn(requested[shard], now, interval_sec) for shard in begun}
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(counts))

    return cycle
