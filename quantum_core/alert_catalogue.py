"""The closed catalogue of alerts: what each kind means, how bad it is, where to look first and what to do.

Here belong the kinds and the words that are the same in every alert of a kind. What one alert says of one fault is in
``quantum_ops.alerts.words``; when it is raised and cleared, in ``quantum_ops.alerts.incidents``. ``docs/alerts.md`` is made from
this table by ``quantum alerts kinds``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["page", "warn", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # worst first


@dataclass(frozen=True)
class Kind:
    """One kind of alert.

    Attributes
    ----------
    name
        Its name: on the wire, in ALERT_SEVERITIES and as the heading of its section.
    severity
        How bad it is unless ALERT_SEVERITIES says otherwise.
    meaning
        What has happened.
    trading
        What that means for trading, as every message of the kind says it.
    look
        First command to look.
    fix
        What to do.
    over
        When it is cleared.
    independent
        Whether it is no consequence of a dead worker, daemon or cycle: it is raised and cleared while one of those lasts.
    may_flap
        Whether it may come and go by itself: raised again within ten minutes, it stays open until it was healthy for ten minutes.
    """

    name: str
    severity: Severity
    meaning: str
    trading: str
    look: str
    fix: str
    over: str
    independent: bool = False
    may_flap: bool = False


CATALOGUE = (
    Kind(
        "redis",
        "page",
        "Redis has not answered for REDIS_MAX_SILENCE_SEC (10 s), or answers that it cannot be used: a read-only replica, "
        "loading, out of memory, without the replicas it demands. The title says which. Nothing is read or published; what is "
        "published expires by itself. Sinks other than the stream still get this alert.",
        "no new numbers and no permits for any symbol",
        "quantum doctor",
        "Start the server, or repair what keeps it from answering (a full disk with AOF, OOM with `maxmemory`, a wrong "
        "password after a rotation). A read-only replica: point REDIS_URL (or what its name leads to) at the master. After a new "
        "address or password: write it where the units read it, and restart them. "
        "Otherwise nothing of ours must be restarted: every process tries again by itself, and the next cycle goes on.",
        "Redis answers again.",
    ),
    Kind(
        "daemon",
        "page",
        "The sensor daemon has left no heartbeat for DAEMON_MAX_SILENCE_SEC (30 s): no cycle is started. The heartbeat is "
        "that of the deployment that holds the lease; one on standby leaves none.",
        "no new numbers and no permits for any symbol",
        "quantum status, and the lines of `daemon` in what `quantum up` prints, or the journal of its unit",
        "Restart the daemon process; switch the sensor `cycle` on (Automation in the user interface). If the code server is"
        " gone, the daemon says so: restart that first.",
        "A tick has left its heartbeat again.",
    ),
    Kind(
        "worker",
        "page",
        "No worker has left a heartbeat for WORKER_MAX_SILENCE_SEC (20 s): runs are requested and nobody executes them.",
        "no new numbers and no permits for any symbol",
        "quantum status, and the lines of `worker` in what `quantum up` prints, or the journal of its unit",
        "Restart it. Look for the out-of-memory killer (`dmesg`) and whether the broker (CELERY_BROKER_URL) is reachable "
        "from its host. The runs its predecessor left unfinished are failed by the new one at its start, or by the sensor "
        "after 60 s.",
        "A worker has left its heartbeat again.",
    ),
    Kind(
        "loop",
        "page",
        "Worker and daemon are alive, but no cycle has ended for PROPOSAL_MAX_AGE_SEC (60 s): runs fail, hang or wait.",
        "no new numbers and no permits for any symbol",
        "quantum status, and the newest failed run in the user interface (Runs)",
        "What the run says. The ticks of the sensor `cycle` name the rest: `late`, `standing by` (another deployment holds "
        "the lease and does not finish its cycles) or `read failed`.",
        "A cycle has ended again.",
    ),
    Kind(
        "symbol",
        "page",
        "Numbers of the named symbols cannot be computed, are stale, missing, unreadable or dated in the future, or a proof"
        " names them. The others are unaffected. A symbol whose inputs are missing publishes nothing and keeps its old hash"
        " until that expires. Only warnings of proofs: severity `warn`.",
        "no new stop, target or opening for the named symbols; the others go on",
        "quantum status",
        "The input that is named: candles that have stopped, a position that cannot be read, a hash somebody has edited. "
        "With several worker hosts: if all the symbols are those of one shard, its host is gone (proof `queues_served`).",
        "The values are fresh again and the proofs hold.",
        may_flap=True,
    ),
    Kind(
        "proof",
        "page",
        "A proof that concerns no single symbol does not hold, twice in a row where it is only a warning (severity `warn` then).",
        "numbers may be wrong; permits are protected by their own gates",
        "quantum prove",
        "By proof: [Proofs](proofs.md). `single_stack`: a second deployment runs its sensors on this Redis; stop it, unless"
        " it is your standby. `no_trading_libraries`: something that could place an order is loaded; find out who installed"
        " it. `recomputed`: what was published was edited, or another version publishes beside this one.",
        "The proof holds.",
        may_flap=True,
    ),
    Kind(
        "proofs",
        "page",
        "The proof pack has not run for three intervals (3 x PROOF_INTERVAL_SEC): nothing is known of what it proves.",
        "numbers are still published, but nobody checks them",
        "quantum prove",
        "As the newest run of the job `proofs` and the ticks of the sensor `proofs` say; a worker must serve the queue "
        "`quantum`.",
        "The pack has run.",
        may_flap=True,
    ),
    Kind(
        "stop_crossed",
        "page",
        "The price is beyond the proposed stop of an open position: below it for LONG, above it for SHORT, or at it. The "
        "stop is published unchanged; we place no orders.",
        "the position should have been closed at its stop; nothing here closes it",
        "quantum status",
        "Decide on the position. If the executor should have closed it: find out why it did not (a closing plan refused is "
        "an alert of its own). If the price is wrong: repair the source of the mark.",
        "The stop is no longer crossed, or the position is closed.",
        may_flap=True,
    ),
    Kind(
        "position_doubtful",
        "page",
        "What is told of the position of the named symbol cannot be relied on, for two evaluations or more: "
        "`position_conflict` (LONG and SHORT, or an empty row, in turn under one key), `price_collar` (a price jumped by more "
        "than PRICE_COLLAR_PCT and waits for the next candle), `position_inconsistent` (profit, worth, size and prices "
        "contradict each other, or the mark is far from the candles), `position_unchanged` (no clock, and nothing has changed "
        "for GOV_MAX_DATA_AGE_SEC).",
        "no openings for the named symbol; stops are kept, closing plans pass",
        "quantum status",
        "`position_conflict`: the account is in hedge mode; give each leg a key of its own. `price_collar`: look at the market; "
        "it ends with the next candle that confirms or refutes the price. `position_inconsistent`: CONTRACT_SIZES, "
        "INVERSE_SYMBOLS, PRICE_SCALES and CANDLES_FROM say in which units the writer counts; else repair the writer. "
        "`position_unchanged`: let the writer add `ts_epoch`, or find out whether it is dead.",
        "Nothing is wrong with the position any more, or it is closed.",
        may_flap=True,
    ),
    Kind(
        "kill_switch",
        "page",
        "Somebody has set the kill switch (`quantum kill`, or the key itself). Plans that reduce risk pass it, within their"
        " limits.",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        'When the reason is gone: `quantum arm --name "YOUR NAME" --reason "WHY"`.',
        "The kill switch is cleared; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "auto_disarm",
        "page",
        "The governor has disarmed itself for all: plans of too many planners or symbols could not be evaluated, or more than 50"
        " of them had to be disarmed.",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        'Find out who sent the burst, or what could not be read (`quantum explain PLAN_ID`); then `quantum arm --name "YOUR'
        ' NAME" --reason "WHY"`. It would end a kill switch, too.',
        "The governor is armed; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "scope_disarmed",
        "page",
        "The governor has disarmed one planner, as its plans name it in `source`, or one symbol where they name none: after"
        " openings beyond the burst limit (GOV_BURSTS_TO_DISARM), or plans of one day that could not be evaluated"
        " (GOV_ERRORS_TO_DISARM). The message counts them.",
        "no openings by that planner or of that symbol; others and closing plans pass",
        "quantum permits",
        "Find out why it sent so many (`quantum explain PLAN_ID`); then `quantum arm --source PLANNER` or `--symbol SYMBOL`, with"
        ' `--name "YOUR NAME" --reason "WHY"`.',
        "The planner or symbol is armed; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "disarmed",
        "page",
        "The governor is disarmed, and not by itself: another program has set its key, or it cannot be read.",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        'Find out who set it; then `quantum arm --name "YOUR NAME" --reason "WHY"`.',
        "The governor is armed; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "guard",
        "page",
        "A guard of the account is active: DAILY_LOSS (a day), DRAWDOWN or CONSEC_LOSS (an hour), EMERGENCY_FLATTEN (four "
        "hours), EQUITY_STALE (until the equity is fresh again).",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        "Look at the account. A guard that waits for a second reading ends with a newer one within its limit. One that is "
        "confirmed ends with its time, or by a named person once its condition no longer holds: `quantum guard release TYPE "
        '--name "YOUR NAME" --reason "WHY"`. EQUITY_STALE: restart the program that writes `quantum:equity:current`.',
        "The guard is over; the message says how it ended.",
        independent=True,
    ),
    Kind(
        "openings_blocked",
        "page",
        "All openings are refused although no switch is set and no guard is active: the risk guard could not judge the "
        "account, was not evaluated lately, or a switch cannot be read. While a switch or a guard is the reason, that is "
        "the alert.",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        "What is named: the hash of the account (`quantum:equity:current`, `quantum:risk:daily_pnl:<date>`, "
        "`quantum:risk:consecutive_losses`), or the key that cannot be read.",
        "The account is judged again.",
        may_flap=True,
    ),
    Kind(
        "close_refused",
        "page",
        "The governor has refused a plan that closes or reduces a position. Each refusal of the symbol while this lasts is "
        "counted.",
        "the position stays open",
        "quantum explain PLAN_ID",
        "A limit: send the plan again when it would pass, or raise the limit of closes (GOV_MAX_CLOSES_PER_HOUR,"
        " GOV_MAX_CLOSES_PER_5MIN, GOV_MAX_CLOSE_NOTIONAL_PER_DAY_USD). Anything else: repair the named input and send it again"
        " under a new plan_id.",
        "A closing plan of the symbol is permitted, the position is closed, the limit has room again, or no other was "
        "refused for an hour.",
        independent=True,
    ),
    Kind(
        "plan_backlog",
        "warn",
        "Plans have waited for more than 30 s; they are decided within seconds otherwise.",
        "plans wait for their permits, closing plans too",
        "quantum permits",
        "Look at the newest runs of the job `plans`: a worker must serve the queue `quantum`, and the daemon must run.",
        "No plan has waited for that long.",
        may_flap=True,
    ),
    Kind(
        "permit_unused",
        "info",
        "A permit has expired and no executor has used it. Only where executors mark permits as `consumed`.",
        "a plan that was permitted was not executed",
        "quantum explain PLAN_ID",
        "Ask the executor: it was down, too slow for the 60 s of a permit, or decided against the plan.",
        "A later permit of the symbol was used, or ten minutes have passed.",
        independent=True,
    ),
    Kind(
        "profile_unusable",
        "page",
        "A profile that was put in force (`quantum profile use`) cannot be used, or the record of uses is gone or unreadable: it "
        "was edited by hand, a newer version of the product wrote it, or it does not fit the settings. The title says which.",
        "the parameters and limits last in force stay in force; those that were asked for do not count",
        "quantum profile history",
        'Put the profile that is meant in force again: `quantum profile use FILE --name "YOUR NAME" --reason "WHY"`; NAME'
        " `in-force` records anew what stays. A key of another type: rename or delete it first. Find out who writes to"
        " `quantum:profile:history`: only the operator's user may.",
        "The newest profile on record is in force.",
        independent=True,
    ),
    Kind(
        "profile_waiting",
        "info",
        "A profile was put on record that takes effect when the daemon is started anew (`--at-start`, or "
        "PROFILE_CHANGES=restart).",
        "the parameters and limits before it stay in force until then",
        "quantum profile history",
        "Restart the daemon when it suits; or put another profile in force.",
        "It is in force, or another one was put in force since.",
        independent=True,
    ),
    Kind(
        "undelivered",
        "warn",
        "An alert was given up: its recipient said no to it twelve times, took it four times without an answer, or was away for "
        "a day. A recipient is named by its list, its place in it, its service and its place in the address.",
        "somebody is not told what he should know; the numbers are right",
        "quantum alerts test",
        "A bot that was thrown out of its chat, a mailbox or topic that is gone, a token that was revoked: mend or remove the "
        "entry of ALERT_URLS, and restart the watcher. The other recipients of the address got every alert once.",
        "The recipient has taken an alert again.",
        independent=True,
    ),
    Kind(
        "clock",
        "warn",
        "The clock of the watcher's host has jumped by more than 5 s: it was set, or the machine slept. Cycles go on within "
        "15 s; values that are dated ahead of the clock are refused until they are computed anew.",
        "numbers dated in the future are refused until the next cycle; limits of the governor count by the new time",
        "quantum doctor",
        "Synchronise the clocks of all hosts (chrony or systemd-timesyncd), so that they are corrected in small steps.",
        "A minute has passed.",
        independent=True,
    ),
    Kind(
        "event_log",
        "page",
        "Another program holds a lock on the event log of Dagster (a copy, a scan, a shell of sqlite3): runs can neither be "
        "started nor recorded until it lets go. Runs that could not be started meanwhile are failed, and replaced.",
        "no new numbers and no permits for any symbol while it lasts",
        "quantum status",
        'Find the program (`fuser QUANTUM_HOME/history/event_log.db`) and end it; copy the file with `sqlite3 FILE ".backup '
        "'COPY'\"` only, and exclude QUANTUM_HOME from scans.",
        "The event log can be written again, and the next cycle has ended.",
    ),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in CATALOGUE}

HEAD = """# Alert catalogue

What `quantum watch` raises: once, again after ALERT_REMIND_SEC while it lasts (all that last in one message), and once more when
it is over, with what ended it. One fault is one incident: while one of `redis`, `event_log`, `worker`, `daemon` or `loop`
lasts, its consequences are neither raised nor cleared. The title begins with the cause. Evaluated every 5 s; switches, refusals
and permits are read from their streams, so that none is missed between two polls or while the watcher restarts.

What is active now: `quantum alerts list`, the status banner on every page of the user interface, `quantum watch --once`.

**Severity** decides where a message goes. `page`: ALERT_URLS. `warn`: ALERT_URLS_WARN, or ALERT_URLS where that is empty. `info`:
ALERT_URLS_INFO. Every message goes to `quantum:stream:alerts`. ALERT_SEVERITIES changes it: `permit_unused=page,guard=warn`.
An alert that rests on warnings of proofs only is at most `warn`. `quantum alerts test` tries every address.

**Flapping.** The same fault (the same thing with the same cause) that is raised again within ten minutes after it was cleared
stays open until it was healthy for ten minutes: at most one raise-and-clear in ten minutes. Meanwhile it is listed last, with
since when it is well and when it closes. Another cause is told at once. A repeat of a crossed stop, whatever position it is of,
or of EQUITY_STALE is a notice (`info`); one that lasts for two minutes is raised as it would be the first time. (Not the
switches, other guards, refusals, `event_log` and the first four kinds: these change when somebody acts.)

**Identity.** Each `alert` that was raised is cleared under the same name: when the last fault that was told under it is over,
or when it goes on under another. Until then a reminder says which of several are over.

**What cannot be used.** Malformed entries in Redis are left out and named once in the watcher's log; everything else goes on.

Generated by `make docs` from `quantum_core/alert_catalogue.py`; a test fails when the two differ.

| kind | severity | for trading |
|---|---|---|
"""


def page() -> str:
    """Write the catalogue as Markdown."""
    rows = "".join(f"| [{kind.name}](#{kind.name}) | {kind.severity} | {kind.trading} |\n" for kind in CATALOGUE)
    return HEAD + rows + "\n" + "\n".join(map(_section, CATALOGUE))


def _section(kind: Kind) -> str:
    command, more, rest = kind.look.partition(", ")
    look = f"`{command}`{more}{rest}"
    return (
        f"## {kind.name}\n\n**Meaning.** {kind.meaning} For trading: {kind.trading}.\n\n**First look.** {look}.\n\n"
        f"**Fix.** {kind.fix}\n\n**Over when.** {kind.over}\n"
    )
