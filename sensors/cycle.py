"""When the assets are computed: one run per cycle for all due assets and symbols, and none while the previous one still runs.

Between two turns of this cadence a cycle of its own answers what has changed, see :mod:`sensors.events`; it moves no turn.

Spacing: the daemon looks every 5 s, and the sensor answers every time: whether a cycle is due is decided here, from the time
of the last request. Left to the daemon, which counts from the last tick's start, a sensor of exactly 10 s slips to 15 whenever
a tick starts a few milliseconds late, and a daemon killed while it launched a run takes its unfinished tick for a new one.
"""

import json
import logging
import math
import secrets
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import sleep
from typing import Any, TypeGuard

import dagster as dg
import redis

from quantum_core.contracts.tables import MARKET_STATE
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.profiles.profile import ProfileError
from quantum_core.settings import Settings
from quantum_core.universe import ACCOUNT_ASSETS, CHALLENGER_ASSETS, shards
from resources.inputs.candles import CandleReader
from resources.inputs.news import Inputs
from resources.instance.bell import GRID_SEC
from resources.instance.dagster_internals import DEFER_ASSET_EVENTS_TAG, AssetJob, storage_id
from resources.instance.launcher import QUEUE_TAG, has_warm_workers, queue_of
from resources.instance.range_tags import RANGE_TAGS, event_tags, range_tags, symbols_of
from resources.io_manager import CYCLE_ID_TAG, CYCLE_TAG, ONCE_TAG
from resources.store.awaited import await_end, ring_later
from resources.store.lease import other_holder, standing_by_for
from resources.store.profiles import profile_now
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from sensors.events import HELD_SEC_MAX, OF_CANDLE, Event, Wait, asked_by, decide_event, look_for_events
from sensors.overdue import SLOWER, TICK_INTERVAL_SEC, failed_once, goes_first, longest_of_late, place_tags, still_running

CYCLE_JOB_NAME, EVENT_JOB_NAME = "cycle", "event_cycle"
TICK_SLACK_SEC = 2  # ticks come in steps of 5 s, a few milliseconds early or late
RING_SLACK_SEC = 0.3  # where the bell rings in between: a ring starts no cycle earlier than so
LATE_IN_STEP_SEC, FOLLOWED_SHARE = 0.1, 1 / 16  # how a turn follows the grid, see in_step
NOT_DUE = "not due"
Noted = Mapping[str, tuple[int, float]]  # first symbol of a shard to a digest of its newest candles, and when it was first seen
SLOW_FAMILY = ("market_state",)  # evaluated on a new candle or when its own interval has passed
FAST_FAMILY = (
    "position",
    "risk_proposal",
    "harvest_proposal",
    "capital_efficiency",
    "allocation_target",
    "position_size",
    "risk_guard",
    "trade_intent",
    "governor_permit",
)


def guard_of(settings: Settings) -> dg.AssetCheckKey:
    """Name the one check that is part of every cycle."""
    return dg.AssetCheckKey(dg.AssetKey(settings.asset_path("position")), "calc_only_process")


def cycle_job(settings: Settings) -> AssetJob:
    """Build the job of a cycle."""
    challengers = CHALLENGER_ASSETS if settings.challenger else ()
    assets = dg.AssetSelection.assets(*map(settings.asset_path, (*SLOW_FAMILY, *FAST_FAMILY, *challengers)))
    return dg.define_asset_job(
        CYCLE_JOB_NAME,
        selection=assets.without_checks() | dg.AssetSelection.checks(guard_of(settings)),
        description="One evaluation of every asset for every symbol.",
    )


def event_job(settings: Settings) -> AssetJob:
    """Build the job of an event cycle: the same assets, but for what is counted or smoothed by cycle.

    Another job than that of a cycle, so that whoever counts cycles, or waits for one, does not take this for one of all symbols.
    """
    assets = dg.AssetSelection.assets(*map(settings.asset_path, OF_CANDLE))
    return dg.define_asset_job(
        EVENT_JOB_NAME,
        selection=assets.without_checks() | dg.AssetSelection.checks(guard_of(settings)),
        description="One evaluation of the symbols whose candles or positions have changed; the tag quantum/event names them.",
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
    other_profile
        Whether that state was computed with other parameters than are in force now.
    """

    evaluated: float | None = None
    used_candle: float | None = None
    newest_candle: float | None = None
    other_profile: bool = False


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
    # Of a symbol that cannot be computed an older state stands for a while: what counts is the newest of the shard.
    changed = any(one.other_profile and one.evaluated == judged for one in seen)
    due = changed or any(_market_state_due(one, now_epoch, interval_sec, candles_since, judged) for one in seen)
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


def in_step(requested: float, now: float, interval_sec: float, *, waited: bool, last_off_sec: float = 0.0) -> tuple[float, float]:
    """Say when a shard requested now is to count as requested, where ticks come between those of the grid.

    Its turn stays where it is, whatever rings; of what a tick is early or late by, it follows a small part, because the daemon's
    clock and this one drift apart. Only when it began late twice, though nothing was in its way, the grid has moved (the daemon
    was started anew): then the turn moves with it, by less than one of its steps, to a tenth of a second before the tick.

    Parameters
    ----------
    requested
        When it counts as last requested, epoch s.
    now, interval_sec
        Time of the tick, and of a cycle.
    waited
        Whether another run kept it waiting.
    last_off_sec
        How late its last turn began, as this function gave it.

    Returns
    -------
    requested, off_sec
        When it counts as requested, and how late this turn begins, within a step of the grid; 0 where that says nothing.
    """
    if now < requested - RING_SLACK_SEC:  # the clock was set back
        return now, 0.0
    turn = requested + interval_sec * max((now - requested + RING_SLACK_SEC) // interval_sec, 1)
    if waited or interval_sec % GRID_SEC:
        return turn, 0.0
    off_sec = (now - turn + RING_SLACK_SEC) % GRID_SEC - RING_SLACK_SEC
    if off_sec <= RING_SLACK_SEC:
        return turn + off_sec * FOLLOWED_SHARE, 0.0
    if last_off_sec <= RING_SLACK_SEC:
        return turn, off_sec
    return turn + min(off_sec, last_off_sec) - LATE_IN_STEP_SEC, 0.0


def due_in_sec(requested: float, now: float, interval_sec: float, slack_sec: float = TICK_SLACK_SEC) -> float:
    """Give the seconds until the next cycle may be requested; a clock that was set back since is no reason to wait."""
    since = now - requested
    return interval_sec - slack_sec - since if since >= -RING_SLACK_SEC else 0.0  # a turn may lie a little ahead


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
        other_profile = bool(row) and row["profile"] != store.profile.fingerprint_of(state.symbol)
        found[state.symbol] = Seen(row.get("last_update_epoch"), row.get("ts_timestamp"), newest, other_profile)
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
    """Give the tags of a run of the cycle: its symbols, our own asset events, one id for everything it writes."""
    return {
        **range_tags(symbols),
        DEFER_ASSET_EVENTS_TAG: "true",
        CYCLE_TAG: "true",
        CYCLE_ID_TAG: cycle_id,
        **({QUEUE_TAG: queue} if queue is not None else {}),
    }


def cycles_of(settings: Settings, now_epoch: float) -> list[Cycle]:
    """Name the cycles that begin now, one per shard; no other deployment's cycle has the same id, whatever its clock says."""
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
    common_tags: Mapping[str, str],
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
    common_tags
        Of every run: where their queue is, and the profile they compute with.
    """
    requests, reasons = [], []
    for cycle in cycles:
        decision = decide_cycle(
            [seen[symbol] for symbol in cycle.symbols],
            now_epoch=now_epoch,
            market_state_interval_sec=settings.marketstate_publish_interval,
            unfinished=busy.get(cycle.symbols[0]),
            candles_since=noted[cycle.symbols[0]][1],
        )
        if isinstance(decision, Skip):
            reasons.append(decision.reason)
            continue
        assets = [
            asset
            for asset in (*decision.assets, *(CHALLENGER_ASSETS if settings.challenger else ()))
            if cycle.shard == 0 or asset not in ACCOUNT_ASSETS
        ]
        tags = {**cycle_tags(cycle.symbols, cycle.cycle_id, queue_of(cycle.shard, settings.shards)), **common_tags}
        requests.append(run_request(CYCLE_JOB_NAME, assets, tags, settings))
    return requests, reasons


def run_request(job_name: str, assets: Sequence[str], tags: Mapping[str, str], settings: Settings) -> dg.RunRequest:
    """Request a run; without a word about checks, all checks of the selected assets would run with it."""
    return dg.RunRequest(
        run_key=None,
        job_name=job_name,
        asset_selection=[dg.AssetKey(settings.asset_path(asset)) for asset in assets],
        asset_check_keys=[guard_of(settings)],
        tags=tags,
    )


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


def loop_jobs(settings: Settings) -> tuple[AssetJob, AssetJob]:
    """Build the jobs of the cadence and of events; the sensor and the code location must have the same ones."""
    return cycle_job(settings), event_job(settings)


def await_runs(store: RedisStore, instance: dg.DagsterInstance, run_ids: Sequence[str]) -> set[str]:
    """Have the bell rung when one of these runs ends, and name those that have ended meanwhile: they would ring no more.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    if not run_ids:
        return set()
    await_end(store, run_ids)
    return {run.run_id for run in instance.get_runs(dg.RunsFilter(run_ids=list(run_ids))) if run.is_finished}


def event_request(cycle: Cycle, event: Event, settings: Settings, common_tags: Mapping[str, str]) -> dg.RunRequest:
    """Request an event cycle; the account's assets and the challenger's are left to the cadence."""
    queue = queue_of(cycle.shard, settings.shards)
    tags = {**cycle_tags(cycle.symbols, cycle.cycle_id, queue), **event_tags(cycle.symbols, event.symbols), **common_tags}
    return run_request(EVENT_JOB_NAME, event.assets, tags, settings)


class Tick:
    """What one tick reads and decides, step by step; what it leaves to the next one is in ``counts``, its cursor.

    Parameters
    ----------
    store
        What is read, and whose settings and clock count.
    instance
        Whose runs are looked at.
    counts
        What the last tick left. ``shards`` is when each counts as last requested, ``waited`` which of them a run kept waiting,
        ``late_by`` how late their last turns began.
    """

    def __init__(self, store: RedisStore, instance: dg.DagsterInstance, counts: dict[str, Any]) -> None:
        self.store, self.settings, self.instance, self.counts = store, store.settings, instance, counts
        self.now, self.asked = store.clock().timestamp(), asked_by(store)
        self.warm = has_warm_workers(instance)
        self.rung = self.settings.events and self.warm  # ticks come between those of the grid, and events are answered
        self.came = self.now  # before it has waited for a turn
        self.cycles, interval_sec = cycles_of(self.settings, self.now), self.settings.publish_interval_sec
        self.requested = counts["shards"] = {
            one.symbols[0]: counts["shards"].get(one.symbols[0], first_requested(one.shard, self.now, interval_sec))
            for one in self.cycles
        }
        slack_sec = RING_SLACK_SEC if self.rung else TICK_SLACK_SEC
        self.late_by: dict[str, float] = counts.setdefault("late_by", {}) if self.rung else {}
        self.wait_sec = {shard: due_in_sec(at, self.now, interval_sec, slack_sec) for shard, at in self.requested.items()}
        self.busy: dict[str | None, dg.DagsterRun] = {}
        self.due: list[Cycle] = []
        self.events: list[tuple[Cycle, Event]] = []
        self.waits: list[Wait] = []
        self.inputs: Mapping[str, Inputs] = {}
        self._decided: dict[str, Event | Wait | None] = {}
        self._took: dict[str | None, float] | None = None

    def wait_for_turn(self) -> None:
        """Let the rest of a slack pass: a cycle that a ring starts before its turn makes the gap to the next one longer."""
        if not self.rung:
            return
        early_sec = min((left + RING_SLACK_SEC for left in self.wait_sec.values() if left <= 0), default=0.0)
        if early_sec > 0:
            sleep(min(early_sec, RING_SLACK_SEC))
            self.now = self.store.clock().timestamp()

    def look_at_runs(self, log: logging.Logger) -> None:
        """End the runs that will never finish, and find which shards are due; what was given up is replaced at once."""
        running, ended = still_running(self.instance, (CYCLE_JOB_NAME, EVENT_JOB_NAME), self.store, log)
        self.counts["ended"] += len(ended)
        self.busy = {run.tags.get(RANGE_TAGS[0]): run for run in running if ONCE_TAG not in run.tags}
        given_up = {run.tags.get(RANGE_TAGS[0]) for run in ended}
        if self.warm:
            given_up |= failed_once(self.instance, CYCLE_JOB_NAME, len(self.cycles)) - self.busy.keys()
        if self.asked.open:
            failed = failed_once(self.instance, EVENT_JOB_NAME, len(self.cycles))
            given_up |= failed & self.asked.open - self.busy.keys()
        self.due = [one for one in self.cycles if self.wait_sec[one.symbols[0]] <= 0 or one.symbols[0] in given_up]

    def look_for_events(self) -> None:
        """Find what has changed in the shards that are not due, and have the bell rung for what must wait."""
        if not self.rung:
            return
        quiet = [one for one in self.cycles if one not in self.due]
        self.inputs, answered = look_for_events(self.store, [symbol for one in quiet for symbol in one.symbols], self.asked)
        self._decide_events(quiet, answered)
        blocked = [run.run_id for one in self.due if (run := self.busy.get(one.symbols[0])) is not None]
        over = await_runs(self.store, self.instance, [*blocked, *(one.run_id for one in self.waits if one.run_id is not None)])
        if over:
            self.busy = {shard: run for shard, run in self.busy.items() if run.run_id not in over}
            self._decide_events(quiet, answered)
        if any(one.run_id is None and not one.for_turn for one in self.waits):
            ring_later(self.store)
        for shard, decision in self._decided.items():
            self.asked.of_waiting(shard, decision, self.now)

    def _decide_events(self, quiet: Sequence[Cycle], answered: Mapping[str, Inputs]) -> None:
        self.events, self.waits = [], []
        for one in quiet:
            shard = one.symbols[0]
            run, (before, since) = self.busy.get(shard), self.asked.waiting.get(shard, (0, None))
            decision = decide_event(
                one.symbols,
                self.inputs,
                answered=answered,
                asked=self.asked.inputs,
                unfinished=run.run_id if run is not None else None,
                since_last_sec=self.now - self.asked.events.get(shard, -math.inf),
                before=before,
                waited_sec=self.now - since if since is not None else 0.0,
                until_turn_sec=self.wait_sec[shard] + RING_SLACK_SEC,
                takes_sec=self.takes_sec(shard) if answered else 0.0,
            )
            if isinstance(decision, Event):
                self.events.append((one, decision))
            elif decision is not None:
                self.waits.append(decision)
            self._decided[shard] = decision

    def takes_sec(self, shard: str) -> float:
        """Say what an event cycle of a shard takes, where that counts: shortly before a turn."""
        if self.wait_sec[shard] + RING_SLACK_SEC >= HELD_SEC_MAX:
            return 0.0
        if self._took is None:
            self._took = longest_of_late(self.instance, EVENT_JOB_NAME, len(self.cycles))
        return self._took.get(shard, 0.0)

    def held_back(self) -> str:
        """Say why nothing is requested; empty when something may be."""
        if self.events:
            return ""
        reason = held_back(
            self.instance,
            self.due,
            self.busy_ids,
            min(self.wait_sec.values()),
            settings=self.settings,
            now=self.store.clock(),
        )
        changed = sum(len(one.event.symbols) for one in self.waits)
        return f"{reason}; {changed} changed symbols wait" if reason and changed else reason

    @property
    def busy_ids(self) -> dict[str | None, str]:
        """First symbol of a shard to the id of its run that has not finished."""
        return {shard: run.run_id for shard, run in self.busy.items()}

    def requests(self, seen: Mapping[str, Seen], common_tags: Mapping[str, str]) -> tuple[list[dg.RunRequest], list[str]]:
        """Request what is due and what has changed, and say why the rest of what is due is not requested."""
        dated = [one for one, event in self.events if event.candles]  # judged now, not first by the next cycle
        newest = {symbol: Seen(newest_candle=self.inputs[symbol].candle) for one in dated for symbol in one.symbols}
        noted = date_candles({**seen, **newest}, [*self.due, *dated], self.counts["candles"], self.now)
        self.counts["candles"] = noted
        requests, reasons = requests_for(
            self.due, seen, self.settings, now_epoch=self.now, busy=self.busy_ids, noted=noted, common_tags=common_tags
        )
        kept_waiting = [one.symbols[0] for one in self.due if one.symbols[0] in self.busy]
        # A cycle that waits for an event's is not late: it starts as soon as that ends.
        self.counts["late"] += sum(self.busy[shard].job_name == CYCLE_JOB_NAME for shard in kept_waiting)
        self.counts["waited"] = kept_waiting
        return [*requests, *(event_request(one, event, self.settings, common_tags) for one, event in self.events)], reasons

    def note(self, requests: Sequence[dg.RunRequest], seen: Mapping[str, Seen], waited: Collection[str]) -> None:
        """Note what is requested, once it is announced."""
        interval_sec = self.settings.publish_interval_sec
        for request in requests:
            shard = request.tags[RANGE_TAGS[0]]
            if request.job_name == EVENT_JOB_NAME:
                continue
            block = symbols_of(request.tags, self.settings.symbols)
            self.asked.of_cadence(block, {symbol: seen[symbol].newest_candle for symbol in block})
            before = self.requested[shard]
            if self.wait_sec[shard] <= 0 and self.rung:
                last_off_sec = self.late_by.get(shard, 0.0)
                step = in_step(before, self.came, interval_sec, waited=shard in waited, last_off_sec=last_off_sec)
                self.requested[shard], self.late_by[shard] = step
            elif self.wait_sec[shard] <= 0:
                self.requested[shard] = in_its_turn(before, self.now, interval_sec)
        for one, event in self.events:
            self.asked.of_event(one.symbols, event, self.inputs, self.now)


def cycle_sensor(store: RedisStore, jobs: Sequence[AssetJob]) -> dg.SensorDefinition:
    """Build the sensor that requests a cycle every PUBLISH_INTERVAL_SEC, and one for what has changed in between.

    Parameters
    ----------
    store
        What is read, and whose settings, clock and lease count.
    jobs
        See :func:`loop_jobs`.
    """
    settings = store.settings

    @dg.sensor(
        name="cycle",
        jobs=jobs,
        minimum_interval_seconds=TICK_INTERVAL_SEC,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {settings.publish_interval_sec} s: one run for all symbols, unless the previous one still runs; in "
        "between, with EVENTS, one for those with a new candle or another position. "
        f"With plain `dagster dev` at most every {settings.publish_interval_sec} s, when no other run is unfinished: {SLOWER}.",
    )
    def cycle(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        counts = {"late": 0, "failed_reads": 0, "ended": 0, "shards": {}, "candles": {}, **json.loads(context.cursor or "{}")}
        tick, own_storage, waited = Tick(store, context.instance, counts), storage_id(context.instance), counts.get("waited", ())
        try:
            if holder := other_holder(store, own_storage, renew=False):
                return dg.SensorResult(skip_reason=standing_by_for(holder, "runs the loop"), cursor=context.cursor)
            tick.wait_for_turn()
            tick.look_at_runs(context.log)
            alive = alive_parts(context.instance)
            store.run("leaving a heartbeat", [("SET", store.keys.of("heartbeat", part), tick.now) for part in alive])
            tick.look_for_events()
            if reason := tick.held_back():
                other_holder(store, own_storage)  # a tick that could not read leaves the lease to a standby
                return dg.SensorResult(skip_reason=reason, cursor=json.dumps(counts))
            in_force = profile_now(store, requesting=True)
            seen = look(store, [symbol for one in tick.due for symbol in one.symbols])
        except (RedisUnavailableError, ProfileError, redis.ResponseError) as error:
            counts["failed_reads"] += 1
            return dg.SensorResult(skip_reason=f"read failed: {error}", cursor=json.dumps(counts))
        if in_force.trouble:
            context.log.warning(in_force.trouble)
        requests, reasons = tick.requests(seen, {**place_tags(store), **in_force.tags()})
        try:
            holder = other_holder(
                store,
                own_storage,
                {
                    symbol: request.tags[CYCLE_ID_TAG]
                    for request in requests
                    for symbol in symbols_of(request.tags, settings.symbols)
                },
            )
        except (RedisUnavailableError, redis.ResponseError) as error:
            return dg.SensorResult(skip_reason=f"announcing the cycle failed: {error}", cursor=json.dumps(counts))
        if holder:
            return dg.SensorResult(skip_reason=f"standing by: {holder} has taken over", cursor=json.dumps(counts))
        tick.note(requests, seen, waited)
        if not requests:
            skip_reason = f"{'; '.join(reasons)} (late so far: {counts['late']})"
            return dg.SensorResult(skip_reason=skip_reason, cursor=json.dumps(counts))
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(counts))

    return cycle
