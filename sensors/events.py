"""What starts a cycle between two turns of the cadence: a new closed candle, or a position of another side, entry or size.

Here is decided for which symbols, see :func:`decide_event`. What is new is read in :mod:`resources.inputs.news`; that somebody is
woken to ask is the bell's. What was asked for is remembered by this process: after a restart, something that no cycle can publish
is asked for once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from resources.inputs.news import Inputs, read_answered, read_inputs
from resources.store.redis_store import RedisStore

EVENT_GAP_SEC = 2.0  # between two event cycles of one shard
GAP_SLACK_SEC = 0.1  # a tick that comes so much too soon is not made to come again
BURST_SYMBOLS, BURST_SHARE = 8, 1 / 32  # so many changed symbols, and such a part of their shard, are a burst: more will follow
BURST_WAIT_SEC = 0.5  # for which a burst is let grow once its cycle could start
OVERRUN_SEC = 0.1  # by which an event cycle may run into the turn of the cadence
HELD_SEC_MAX = 2.5  # before that turn; on a machine on which event cycles take longer, they would else never have their time
BURST_HELD_SEC_MAX = 1.0  # where many symbols would wait, on a slow machine for a cycle that takes long as well
OF_CANDLE = ("market_state", "position", "risk_proposal", "harvest_proposal", "position_size", "trade_intent", "governor_permit")
OF_POSITION = ("position", "risk_proposal", "harvest_proposal", "trade_intent", "governor_permit")  # what depends on a position


@dataclass(frozen=True)
class Event:
    """Start a cycle for these symbols.

    Attributes
    ----------
    candles, positions
        Symbols with a new candle, and with another position, in the order of their shard.
    """

    candles: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()

    @property
    def symbols(self) -> frozenset[str]:
        """All of them."""
        return frozenset((*self.candles, *self.positions))

    @property
    def assets(self) -> tuple[str, ...]:
        """What is computed: what depends on candles or positions, never what is counted or smoothed by cycle."""
        return OF_CANDLE if self.candles else OF_POSITION


@dataclass(frozen=True)
class Wait:
    """Something has changed, and its cycle must wait.

    Attributes
    ----------
    event
        What has changed.
    run_id
        Of the run it waits for; ``None``: a little time must pass.
    for_turn
        Whether the next turn of the cadence answers it.
    grows
        Whether its cycle could start, and more is expected to change.
    """

    event: Event
    run_id: str | None = None
    for_turn: bool = False
    grows: bool = False


def decide_event(
    symbols: Sequence[str],
    inputs: Mapping[str, Inputs],
    *,
    answered: Mapping[str, Inputs],
    asked: Mapping[str, Inputs],
    unfinished: str | None,
    since_last_sec: float,
    before: int = 0,
    waited_sec: float = 0.0,
    until_turn_sec: float = math.inf,
    takes_sec: float = 0.0,
) -> Event | Wait | None:
    """Decide for which symbols of one shard a cycle starts between two turns of the cadence; ``None`` for none.

    Parameters
    ----------
    symbols
        Of the shard.
    inputs
        What there is, by symbol.
    answered
        What was published from, of those whose inputs differ from what was asked for; others need none.
    asked
        What a cycle was last asked for, whether it could publish anything or not.
    unfinished
        Id of a run of this shard that has not finished.
    since_last_sec
        Seconds since the last event cycle of this shard; negative when the clock was set back.
    before
        How many symbols were found to have changed when this was last asked.
    waited_sec
        For how long a burst has been let grow; negative when the clock was set back.
    until_turn_sec
        Seconds until the next turn of the cadence.
    takes_sec
        What an event cycle of this shard takes, from its request to its end.
    """
    nothing = Inputs()
    candles, positions = [], []
    for symbol in symbols:
        current, last_answered, last_asked = inputs.get(symbol, nothing), answered.get(symbol), asked.get(symbol, nothing)
        if last_answered is None:
            continue
        if current.candle is not None and all(
            other.candle is None or current.candle > other.candle for other in (last_answered, last_asked)
        ):
            candles.append(symbol)
        if (
            current.position is not None
            and last_answered.position is not None
            and current.position not in (last_answered.position, last_asked.position)
        ):
            positions.append(symbol)
    event = Event(tuple(candles), tuple(positions))
    if not event.symbols:
        return None
    if unfinished is not None:
        return Wait(event, unfinished)
    held_sec_max = BURST_HELD_SEC_MAX if is_burst(event, symbols) else HELD_SEC_MAX
    if until_turn_sec < min(takes_sec - OVERRUN_SEC, held_sec_max):
        return Wait(event, for_turn=True)
    if 0 <= since_last_sec < EVENT_GAP_SEC - GAP_SLACK_SEC:
        return Wait(event)
    if grows(event, symbols, before) and 0 <= waited_sec < BURST_WAIT_SEC:
        return Wait(event, grows=True)
    return event


def is_burst(event: Event, symbols: Sequence[str]) -> bool:
    """Return whether so many symbols of a shard have changed that more are likely to follow."""
    return len(event.symbols) >= max(BURST_SYMBOLS, len(symbols) * BURST_SHARE)


def grows(event: Event, symbols: Sequence[str], before: int) -> bool:
    """Return whether an event is a burst that has just begun or grown: started at once, its cycle would keep the rest waiting."""
    return before < len(event.symbols) < len(symbols) and is_burst(event, symbols)


@dataclass
class Asked:
    """What cycles were asked for by this process.

    Attributes
    ----------
    inputs
        By symbol, as they were then: the newest candle, and the position that no cycle has answered yet.
    settled
        By symbol, what was last found to be answered: saves looking again as long as nothing has changed.
    events
        When the last event cycle of each shard was requested, epoch s, by its first symbol.
    waiting
        How many symbols of a shard wait to be asked for, and since when they are let grow, likewise.
    open
        Shards of which no cycle of the cadence was requested since.
    """

    inputs: dict[str, Inputs] = field(default_factory=dict)
    settled: dict[str, Inputs] = field(default_factory=dict)
    events: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, tuple[int, float | None]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def is_settled(self, symbol: str, inputs: Inputs) -> bool:
        """Return whether inputs are known to be answered; a candle that was asked for needs no other answer."""
        last, found = self.inputs.get(symbol, Inputs()), self.settled.get(symbol)
        return found is not None and inputs.position == found.position and inputs.candle in (found.candle, last.candle)

    def compare(self, symbol: str, inputs: Inputs, answered: Inputs) -> None:
        """Note what was found: a position that was asked for and is tracked now may be asked for again when it comes back."""
        last = self.inputs.get(symbol, Inputs())
        if inputs.position == answered.position and inputs.candle in (answered.candle, last.candle):
            self.settled[symbol] = inputs
        else:
            self.settled.pop(symbol, None)
        if last.position is not None and last.position == answered.position:
            self.inputs[symbol] = last._replace(position=None)

    def of_waiting(self, shard: str, decision: Event | Wait | None, now: float) -> None:
        """Note what waits."""
        if not isinstance(decision, Wait):
            self.waiting.pop(shard, None)
            return
        _, since = self.waiting.get(shard, (0, None))
        self.waiting[shard] = len(decision.event.symbols), now if decision.grows and since is None else since

    def of_event(self, shard: Sequence[str], event: Event, inputs: Mapping[str, Inputs], now: float) -> None:
        """Note that an event cycle was requested."""
        self.events[shard[0]] = now
        self.waiting.pop(shard[0], None)
        self.open.add(shard[0])
        for symbol in event.symbols:
            last = self.inputs.get(symbol, Inputs())
            candle = inputs[symbol].candle if symbol in event.candles else last.candle
            position = inputs[symbol].position if symbol in event.positions else last.position
            self.inputs[symbol] = Inputs(candle, position)

    def of_cadence(self, shard: Sequence[str], candles: Mapping[str, float | None]) -> None:
        """Note that a cycle of the cadence was requested, with the newest candle of each of its symbols."""
        self.open.discard(shard[0])
        self.waiting.pop(shard[0], None)
        for symbol, candle in candles.items():
            if candle is not None:
                self.inputs[symbol] = self.inputs.get(symbol, Inputs())._replace(candle=int(candle))


_ASKED: WeakKeyDictionary[RedisStore, Asked] = WeakKeyDictionary()


def asked_by(store: RedisStore) -> Asked:
    """Give what this process has asked for on a server."""
    return _ASKED.setdefault(store, Asked())


def look_for_events(store: RedisStore, symbols: Sequence[str], asked: Asked) -> tuple[dict[str, Inputs], dict[str, Inputs]]:
    """Read what there is, and what was answered of the symbols of which that is not known.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    inputs = read_inputs(store, symbols)
    changed = [symbol for symbol in symbols if not asked.is_settled(symbol, inputs[symbol])]
    answered = read_answered(store, changed) if changed else {}
    for symbol, known in answered.items():
        asked.compare(symbol, inputs[symbol], known)
    return inputs, answered
