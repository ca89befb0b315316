"""What must hold after each cycle, each as a function of its own that names what does not.

Most of the proofs are those of the deployment, judged on the rows of one cycle. The others follow from what the world has
written, by rules of a few lines that share nothing with the readers they check.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from quantum_assets.checks.evidence import Entry, Evidence, Record
from quantum_assets.checks.proofs import capital, governor_permit, harvest_proposal, market_state, position_size, risk_proposal
from quantum_assets.simulation.cycle import Made, Run
from quantum_assets.simulation.world import CANDLE_SEC
from quantum_core.contracts.reading import Reading
from quantum_core.contracts.tables import MARKET_STATE, PERMIT_TTL_SEC, POSITION, PUBLISHED, RISK_PROPOSAL, SEEN_TTL_SEC
from quantum_core.kernels.governor.limits import BURST_SEC, HOUR_SEC
from quantum_core.kernels.governor.risk_guard import GUARDS
from resources.governor.limits import limits_of
from resources.governor.plan import OPENING
from resources.store.profiles import InForce

AHEAD_SEC = 60.0  # docs/spec.md#5-sources: clocks differ by no more
STALE_SEC = 2 * CANDLE_SEC + 300  # docs/spec.md#5-sources: two intervals and the margin
CLOSES, LOOKED_AT = 257, 380  # closes a state needs, and members that a window can be found in at most
EQUITY_SEC = 300.0  # docs/spec.md#8-risk-guard
IN_FORCE, PROPOSED = "in force", "proposed"  # stops
ROUNDING = 1e-9  # of a price: text and back

PROOFS = {  # by asset: judged where all rows are of one cycle
    "market_state": (market_state.probabilities, market_state.sigma_floor, market_state.recomputed, market_state.live_source),
    "risk_proposal": (
        *(risk_proposal.recomputed, risk_proposal.tightens, risk_proposal.distances, risk_proposal.p_trend_truthful),
    ),
    "harvest_proposal": (
        *(harvest_proposal.risk_proposal_or_flag, harvest_proposal.action_consistent, harvest_proposal.kill_score_range),
        harvest_proposal.recomputed,
    ),
    "allocation_target": (capital.multiplier_bounds, capital.recomputed),
    "position_size": (position_size.recomputed,),
    "governor_permit": (
        *(governor_permit.limits_hold, governor_permit.no_permit_from_bad_data, governor_permit.decisions_recomputed),
        governor_permit.hints_never_block,
    ),
}


class Violation(NamedTuple):
    """What did not hold: when, which invariant, and how."""

    seed: int
    cycle: int
    name: str
    detail: str

    def __str__(self) -> str:
        """Begin with what repeats it."""
        return f"seed={self.seed} cycle={self.cycle}: {self.name}: {self.detail}"


class Cycle(Evidence):
    """What the proofs are judged by: rows that were evaluated in one cycle, and all decisions.

    Parameters
    ----------
    run, made
        The run, and its last cycle.
    """

    def __init__(self, run: Run, made: Made) -> None:
        super().__init__(run.memory)
        self._run, self._made = run, made

    @cached_property
    def _readings(self) -> Mapping[str, dict[str, Reading[dict[str, Any]]]]:
        evaluated = self._made.evaluated
        return {
            table.asset: {
                one.symbol: one if one.symbol in evaluated[table.asset] else Reading.absent(one.symbol, "of another cycle")
                for one in self.store.read(table, table.subjects(self.symbols))
            }
            for table in PUBLISHED
        }

    @cached_property
    def in_force(self) -> InForce:
        """The profile of the run."""
        return InForce(self.store.profile)

    @cached_property
    def decisions(self) -> list[Entry]:
        """All decisions of the run."""
        return [Entry(float(event["timestamp_epoch"]), event, event["plan_id"]) for event in self._run.events]

    @cached_property
    def granted(self) -> Mapping[tuple[str, str], int]:
        """Permits within the hour as the run has counted them."""
        return self._run.granted(self._made.now)

    @cached_property
    def permits(self) -> Mapping[str, Record]:
        """Permits that live."""
        return {plan_id: Record({}, PERMIT_TTL_SEC * 1000) for plan_id in self._run.permits}


class Watch:
    """What the invariants remember of the cycles before.

    Attributes
    ----------
    stops
        Tightest stops of each position, in force and proposed, by symbol and side; those of a short one negative.
    unjudged, gone
        Positions that no candle has judged yet, and those that were not shown by the last cycles.
    permitted
        Openings and closes that were permitted: symbol, kind, when, amount and unit.
    decided
        When each plan was decided, by the server's clock.
    """

    def __init__(self) -> None:
        self.stops: dict[tuple[str, str], dict[str, float]] = {}
        self.unjudged: set[tuple[str, str]] = set()
        self.gone: set[tuple[str, str]] = set()
        self.permitted: list[tuple[str, str, float, float, str, str]] = []
        self.decided: dict[str, float] = {}


def check(run: Run, made: Made, watch: Watch) -> Iterator[Violation]:
    """Judge all invariants after a cycle."""
    for name, invariant in INVARIANTS.items():
        for detail in invariant(run, made, watch):
            yield Violation(run.seed, made.number, name, detail)


def kept_contracts(run: Run, made: Made, watch: Watch) -> Iterator[str]:  # noqa: ARG001 - all have the same arguments
    """Every row encodes, reads back as it was computed, and every decision follows from its record."""
    yield from (f"{name}: {detail}" for name, detail in made.faults)


def proofs_hold(run: Run, made: Made, watch: Watch) -> Iterator[str]:  # noqa: ARG001
    """Every proof that can be stated of one cycle's rows and of the decisions holds."""
    if not made.whole:
        return
    evidence = Cycle(run, made)
    for asset, proofs in PROOFS.items():
        if made.evaluated.get(asset) or (asset == "governor_permit" and made.decided):
            for proof in proofs:
                for subject, why in proof(evidence).failing.items():
                    yield f"{asset}/{proof.__name__}: {subject}: {why}"


def stops_never_loosen(run: Run, made: Made, watch: Watch) -> Iterator[str]:
    """Within one tracked position no stop, in force or proposed, is looser than one before it.

    A position is one until it is flat or another side is shown, and the one it was when it is recognized on its return
    (:mod:`quantum_core.kernels.position.identity`). Two exceptions: the first candles may refute the marks a stop rests on, and a
    proposal that has expired, because nothing was published for as long as it lives, is remembered by nobody.
    """
    rows, now = run.memory.rows.get(POSITION.asset, {}), made.now.timestamp()
    for symbol in run.settings.symbols:
        row = rows.get(symbol)
        if symbol in made.expired[RISK_PROPOSAL.asset]:
            for side in ("LONG", "SHORT"):
                watch.stops.get((symbol, side), {}).pop(PROPOSED, None)
        watch.gone |= {(symbol, side) for side in ("LONG", "SHORT") if row is None or row["side"] != side}
        if row is None or symbol not in made.evaluated[POSITION.asset]:
            continue
        position = symbol, row["side"]
        anew = position in watch.gone and row["tracked_since_epoch"] == now
        judged_first = position in watch.unjudged and row["last_candle_ms"]
        known = watch.stops.setdefault(position, {})
        if anew or judged_first:
            known.clear()
        watch.gone.discard(position)
        (watch.unjudged.discard if row["last_candle_ms"] else watch.unjudged.add)(position)
        stops = {IN_FORCE: row["current_sl"]}
        if (proposal := made.published[RISK_PROPOSAL.asset].get(symbol)) is not None:
            stops[PROPOSED] = proposal["proposed_sl"]
        direction = 1 if row["side"] == "LONG" else -1
        for what, stop in stops.items():
            before = max(known.values(), default=None)
            if before is not None and (stop is None or before - stop * direction > ROUNDING * abs(before)):
                yield f"{symbol} {row['side']}: stop {what} {stop!r} is looser than {abs(before)!r}"
            if stop is not None:
                known[what] = max(stop * direction, known.get(what, -math.inf))


def nothing_from_bad_input(run: Run, made: Made, watch: Watch) -> Iterator[str]:  # noqa: ARG001
    """Nothing is published of a symbol whose candles, position or account cannot be used."""
    now, settings = made.now.timestamp(), run.settings
    for symbol in settings.symbols:
        market, position = candles_trouble(run, symbol, now), position_trouble(run, symbol, now)
        if symbol in made.evaluated[MARKET_STATE.asset] and market:
            yield f"{symbol}: a market state from candles that are {market}"
        state = run.memory.rows.get(MARKET_STATE.asset, {}).get(symbol)
        age = math.inf if state is None else now - state["last_update_epoch"]
        old = not -AHEAD_SEC <= age <= settings.marketstate_max_age_sec
        if symbol in made.evaluated[POSITION.asset] and position:
            yield f"{symbol}: a position from a snapshot that is {position}"
        for asset in ("risk_proposal", "harvest_proposal", "trade_intent"):
            if symbol in made.evaluated[asset] and (position or symbol not in made.evaluated[POSITION.asset]):
                yield f"{symbol}: a {asset} from a snapshot that is {position or 'not tracked'}"
            if symbol in made.evaluated[asset] and old:
                yield f"{symbol}: a {asset} from a market state that is {age:.0f} s old"
        if symbol in made.evaluated["position_size"] and (old or account_trouble(run, now)):
            yield f"{symbol}: a size from a market state of {age:.0f} s, account {account_trouble(run, now) or 'usable'}"


def candles_trouble(run: Run, symbol: str, now: float) -> str:
    """Say why no state may be computed from a symbol's candles; empty where one may."""
    versions: dict[int, dict[float, set[float]]] = {}
    for score, text in run.memory.candles.get(run.memory.keys.of("candles_history", symbol), [])[-LOOKED_AT:]:
        candle = orjson.loads(text)
        versions.setdefault(candle["open_time"], {}).setdefault(score, set()).add(float(candle["close"]))
    newest = {opened: by_score[max(by_score)] for opened, by_score in versions.items()}
    usable = [opened for opened, closes in newest.items() if len(closes) == 1 and all(0 < one < math.inf for one in closes)]
    if len(usable) < CLOSES:
        return "too few"
    known = [opened for opened, closes in newest.items() if len(closes) == 1]  # of two versions nobody knows which is right
    age = now - (max(known) / 1000 + CANDLE_SEC)
    return f"{age:.0f} s old" if not -CANDLE_SEC - 1 <= age <= STALE_SEC + CANDLE_SEC else ""


def position_trouble(run: Run, symbol: str, now: float) -> str:
    """Say why a symbol's snapshot may not be tracked; empty where it may."""
    fields = run.memory.hashes.get(run.memory.keys.of("raw_position", symbol))
    if fields is None:
        return "missing"
    if fields[b"side"] not in (b"LONG", b"SHORT"):
        return "flat"
    if not all(0 < float(fields[name]) < math.inf for name in (b"entry_price", b"mark_price")):
        return "without a price"
    age = now - float(fields[b"ts_epoch"])
    return f"{age:.0f} s old" if not -AHEAD_SEC <= age <= run.settings.position_max_age_sec else ""


def account_trouble(run: Run, now: float) -> str:
    """Say why nothing may be sized on the account; empty where it may."""
    fields = run.memory.hashes.get(run.memory.keys.of("equity"), {})
    age = now - float(fields.get(b"last_update_ts", b"nan"))
    return "" if 0 < float(fields.get(b"equity", b"nan")) < math.inf and age <= EQUITY_SEC else f"{age:.0f} s old"


def openings_on_good_data(run: Run, made: Made, watch: Watch) -> Iterator[str]:  # noqa: ARG001
    """No opening is permitted on what is missing, old or not live, nor while a switch or guard blocks openings."""
    now, of = made.now.timestamp(), run.memory.keys.of
    for event in made.decided:
        if event["event"] != "PERMIT" or event["counted_as"] != OPENING:
            continue
        symbol, plan = event["symbol"], event["plan_id"]
        if symbol not in run.settings.symbols:
            yield f"{plan}: of {symbol}, which nobody serves"
            continue
        limit = limits_of(run.memory, symbol).max_data_age_sec
        state = run.memory.rows.get(MARKET_STATE.asset, {}).get(symbol)
        if state is None or not now - state["last_update_epoch"] <= limit or not now - state["ts_timestamp"] <= limit:
            yield f"{plan}: on a market state that is missing or old"
        fields = run.memory.hashes.get(of("raw_position", symbol), {})
        trouble = position_trouble(run, symbol, now)
        if trouble not in ("", "flat") or not now - float(fields[b"ts_epoch"]) <= limit:
            yield f"{plan}: on a position that is {trouble or 'old'}"
        if fields.get(b"source", b"live") != b"live":
            yield f"{plan}: on a position that is {fields[b'source'].decode()}"
        guards = [guard for guard in GUARDS if of("guard_active", guard) in run.memory.values]
        if guards or of("kill") in run.memory.values:
            yield f"{plan}: while {', '.join(guards) or 'the kill switch'} blocks openings"


def limits_never_exceeded(run: Run, made: Made, watch: Watch) -> Iterator[str]:
    """Count anew: no symbol is permitted more than its hour, its five minutes and its day allow."""
    now = made.now.timestamp()
    for event in made.decided:
        if event["event"] != "PERMIT":
            continue
        symbol, kind = event["symbol"], event["counted_as"]
        limits = limits_of(run.memory, symbol)
        limits = limits if kind == OPENING else limits.of_closes()
        amount, day = float(event["notional"] or event["qty"] or "nan"), f"{made.now:%Y-%m-%d}"
        watch.permitted.append((symbol, kind, now, amount, event["unit"], day))
        mine = [one for one in watch.permitted if one[:2] == (symbol, kind)]
        for span, most in ((HOUR_SEC, limits.max_exec_per_hour), (BURST_SEC, limits.max_exec_per_5min)):
            if (count := sum(now - when < span for _, _, when, *_ in mine)) > most:
                yield f"{event['plan_id']}: {count} permits ({kind}) of {symbol} within {span} s, limit {most}"
        total = sum(one[3] for one in mine if one[4:] == (event["unit"], day))
        most_a_day = limits.max_notional_per_day_usd if event["unit"] == "usd" else limits.max_qty_per_day
        if not total <= most_a_day * (1 + ROUNDING):
            yield f"{event['plan_id']}: {total:g} {event['unit']} ({kind}) of {symbol} on {day}, limit {most_a_day:g}"


def plans_decided_once(run: Run, made: Made, watch: Watch) -> Iterator[str]:
    """Find plans that are decided again within a day, however often they come."""
    counts = Counter(event["plan_id"] for event in made.decided)
    for plan, count in counts.items():
        if count > 1 or run.world.at - watch.decided.get(plan, -math.inf) < SEEN_TTL_SEC:
            yield f"{plan} is decided again"
        watch.decided[plan] = run.world.at


Invariant = Callable[[Run, Made, Watch], Iterator[str]]
INVARIANTS: Mapping[str, Invariant] = {
    one.__name__: one
    for one in (
        *(kept_contracts, proofs_hold, stops_never_loosen, nothing_from_bad_input, openings_on_good_data),
        *(limits_never_exceeded, plans_decided_once),
    )
}
