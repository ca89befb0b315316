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
        What that means for trading and for open positions, as every message of the kind says it. A title has only what is
        before the first semicolon.
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
        "Redis, which holds all inputs and all published numbers, has not answered for REDIS_MAX_SILENCE_SEC (10 s), or it "
        "answers that it cannot be used: a read-only replica, loading, out of memory, or without the replicas it demands. The "
        "title says which. Stops and targets that are published expire by themselves, ten intervals (100 s) after their last "
        "evaluation. The stream of alerts lies in this Redis, too, and lacks this alert; the addresses of ALERT_URLS get it.",
        "no new numbers and no permits for any symbol; open positions get no new stop, closing plans no permit",
        "quantum doctor",
        "Does not answer: start the server, or correct what the doctor names (a full disk, the network, a changed password). "
        "Out of memory: raise `maxmemory`. A read-only replica: let REDIS_URL, or the name in it, lead to the master. Only "
        "after a change of address or password restart our units: write it where they read it, then `systemctl restart "
        "quantum.target`. Otherwise restart nothing of ours: every process tries again by itself. What must be closed "
        "meanwhile, close at the exchange.",
        "Redis answers again.",
    ),
    Kind(
        "daemon",
        "page",
        "The sensor daemon, the process that starts cycles and decisions, has left no heartbeat for DAEMON_MAX_SILENCE_SEC "
        "(30 s). Nothing is started. It is the daemon of the deployment that holds the lease; one on standby leaves no "
        "heartbeat.",
        "no new numbers and no permits for any symbol; open positions get no new stop, closing plans no permit",
        "journalctl -u quantum-daemon -n 50, or with `quantum up` the lines of `daemon` in `quantum.log` of the instance folder",
        "Not running, or it hangs: `systemctl restart quantum-daemon`; `quantum up` restarts it by itself. If its lines name "
        "the code server: first `systemctl restart quantum-code`. If it runs: switch the sensor `cycle` on, under Automation "
        "in the user interface. What must be closed meanwhile, close at the exchange.",
        "A tick has left its heartbeat again.",
    ),
    Kind(
        "worker",
        "page",
        "No worker, the process that computes and publishes, has left a heartbeat for WORKER_MAX_SILENCE_SEC (20 s). Runs are "
        "requested, and nobody executes them.",
        "no new numbers and no permits for any symbol; open positions get no new stop, closing plans no permit",
        "journalctl -u quantum-worker -n 50, or with `quantum up` the lines of `worker` in `quantum.log` of the instance folder",
        "On its host: `systemctl restart quantum-worker`; `quantum up` restarts it by itself. If it dies again: look for the "
        "out-of-memory killer (`dmesg | grep -i oom`). If it runs: `quantum doctor` on its host says whether the broker "
        "(CELERY_BROKER_URL) is reachable. Runs that were left unfinished need nobody: the new worker fails them at its "
        "start, or the sensor after 60 s. What must be closed meanwhile, close at the exchange.",
        "A worker has left its heartbeat again.",
    ),
    Kind(
        "loop",
        "page",
        "Worker and daemon are alive, but no cycle has ended for PROPOSAL_MAX_AGE_SEC (60 s): its runs fail, hang or wait.",
        "no new numbers and no permits for any symbol; open positions get no new stop, closing plans may wait",
        "journalctl -u quantum-worker -u quantum-daemon -n 100, or the newest failed run in the user interface (Runs)",
        "A run failed: its error names what to repair. None failed: look at the newest ticks of the sensor `cycle` "
        "(Automation). `late`: the run before hangs, or waits for a worker; `systemctl restart quantum-worker`. `standing "
        "by`: another deployment holds the lease and ends no cycle; repair or stop that one. `read failed`: Redis; `quantum "
        "doctor`.",
        "A cycle has ended again.",
    ),
    Kind(
        "symbol",
        "page",
        "Numbers of the named symbols cannot be computed, or are stale, missing, unreadable or dated in the future, or a "
        "proof of theirs does not hold. The title begins with the cause. Nothing new is published for them; what was "
        "published stays until it expires. All other symbols go on. If only warnings of proofs say so, the severity is "
        "`warn`.",
        "no new stop or target for the named symbols; openings stop at the latest when their last market state or position is "
        "GOV_MAX_DATA_AGE_SEC old (120 s unless set otherwise), their closing plans are still decided; the others go on",
        "quantum status --symbols SYMBOL",
        "Candles or a position are named: restart or repair the program that writes them. A hash of ours is named as "
        "unreadable: find out who writes there, and rename or delete it; the next cycle writes it anew. Dated in the future: "
        "synchronise the clock of the host that writes. With several worker hosts, and all symbols of one shard: the host of "
        "that shard is gone (proof `queues_served`).",
        "The values are fresh again and the proofs hold.",
        may_flap=True,
    ),
    Kind(
        "proof",
        "page",
        "A proof does not hold, and it is about no single symbol: what is published, or how this product runs, is not as "
        "promised. A proof that can only warn must fail twice in a row, and has severity `warn`.",
        "published numbers may be wrong, stops too; plans are still decided, by gates that do not rest on proofs",
        "quantum prove",
        "If it is about stops, positions or permits, and you cannot explain it, first stop all openings: `quantum kill "
        '--reason "WHY"`. Then find the cause; what each proof says is in [Proofs](proofs.md). `recomputed`: a published hash '
        "was edited, or another version of the product publishes beside this one; find it and stop it. `single_stack`: a "
        "second deployment runs its sensors on this Redis; stop it, unless it is your standby. `no_trading_libraries`: a "
        "library that could place orders is loaded; find out who installed it. `coverage`: the published sigma is narrower or "
        "wider than returns are, see [Profiles](profiles.md#sigma-out-of-its-band).",
        "The proof holds.",
        may_flap=True,
    ),
    Kind(
        "proofs",
        "page",
        "The job `proofs`, which checks all published numbers every PROOF_INTERVAL_SEC, has not run for three such intervals.",
        "numbers are still published and plans decided, but nobody checks the numbers",
        "quantum prove",
        "It checks once, now: if all proofs hold, this can wait until morning. Then look at the newest run of the job "
        "`proofs` (Runs) and at the newest ticks of the sensor `proofs` (Automation): they say why. The sensor must be on, "
        "and a worker must serve the queue `quantum`.",
        "The pack has run.",
        may_flap=True,
    ),
    Kind(
        "stop_crossed",
        "page",
        "The price has reached the proposed stop of an open position, or is beyond it (below for LONG, above for SHORT), and "
        "the position is still open. The stop is published unchanged. This product sends no orders: the executor should have "
        "closed.",
        "the position should have been closed at its stop; nothing here closes it",
        "quantum status --symbols SYMBOL",
        "Look at the price at the exchange. If it is right: close the position there, or decide to keep it; then find out why "
        "the executor did not (a refused closing plan is an alert of its own: `close_refused`). If it is wrong: repair the "
        "program that writes the mark.",
        "The stop is no longer crossed, or the position is closed.",
        may_flap=True,
    ),
    Kind(
        "position_doubtful",
        "page",
        "What is written about the position of the named symbol cannot be right, for two evaluations or more. The title says "
        "why. `position_conflict`: LONG and SHORT, or an empty row, come in turn under one key. `price_collar`: a price has "
        "jumped by more than PRICE_COLLAR_PCT and waits for the next candle. `position_inconsistent`: profit, worth, size and "
        "prices contradict each other, or the mark is far from the candles. `position_unchanged`: it has no time, and nothing "
        "in it has changed for GOV_MAX_DATA_AGE_SEC.",
        "no openings for the named symbol; its stop does not loosen, closing plans pass",
        "quantum status --symbols SYMBOL",
        "Compare it with the position at the exchange. `position_conflict`: the account is in hedge mode; name the symbol in "
        "HEDGE_SYMBOLS and write each leg under a key of its own. `price_collar`: wait for the next candle, which confirms or "
        "refutes the price. `position_inconsistent`: if the units differ, set CONTRACT_SIZES, INVERSE_SYMBOLS, PRICE_SCALES "
        "or CANDLES_FROM; else repair the program that writes positions. `position_unchanged`: restart that program if it is "
        "dead; if not, let it write `ts_epoch`.",
        "Nothing is wrong with the position any more, or it is closed.",
        may_flap=True,
    ),
    Kind(
        "kill_switch",
        "page",
        "Somebody has set the kill switch, with `quantum kill` or by writing its key. The title says who and why, if that is "
        "known.",
        "no openings for any symbol; closing plans pass, within their limits",
        "quantum permits",
        'Nothing is broken. Ask whoever set it. When the reason is gone, allow openings again: `quantum arm --name "YOUR '
        'NAME" --reason "WHY"`.',
        "The kill switch is cleared; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "auto_disarm",
        "page",
        "The governor has blocked all openings by itself: plans of too many planners or symbols could not be evaluated today, "
        "or more than 50 planners and symbols had to be disarmed. The title says which.",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        "It does not end by itself. Take the last refused plans it lists: `quantum explain PLAN_ID` says who sent each and "
        "what could not be read. Stop that planner, or repair that input. Then allow openings again, which ends a kill "
        'switch, too: `quantum arm --name "YOUR NAME" --reason "WHY"`.',
        "The governor is armed; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "scope_disarmed",
        "page",
        "The governor has blocked the openings of one planner (the field `source` of its plans), or of one symbol where plans "
        "name no planner. It sent an opening when the symbol already had all the permits that five minutes allow "
        "(GOV_MAX_EXEC_PER_5MIN; the limit is the symbol's, so another planner may have used it up), as often as "
        "GOV_BURSTS_TO_DISARM says, which is once unless set otherwise; or too many "
        "of its plans of one day could not be evaluated (GOV_ERRORS_TO_DISARM). The message counts them.",
        "no openings by that planner or of that symbol; others and closing plans pass",
        "quantum permits",
        "It does not end by itself. `quantum explain PLAN_ID` of the plan in the title says what was wrong. Stop or repair "
        'the planner. Then allow its openings again: `quantum arm --source PLANNER --name "YOUR NAME" --reason "WHY"`, or '
        "with `--symbol SYMBOL` in place of `--source PLANNER`.",
        "The planner or symbol is armed; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "disarmed",
        "page",
        "The key that blocks all openings (disarms the governor) is set, but not by the governor: another program or a person "
        "wrote it, or it cannot be read.",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        'Find out who wrote it, and why. When the reason is gone, allow openings again: `quantum arm --name "YOUR NAME" '
        '--reason "WHY"`.',
        "The governor is armed; the message says by whom and why.",
        independent=True,
    ),
    Kind(
        "guard",
        "page",
        "The account has broken a limit, and a guard blocks openings: DAILY_LOSS for a day, DRAWDOWN or CONSEC_LOSS (losses "
        "in a row) for an hour, EMERGENCY_FLATTEN (a very large drawdown) for four hours, EQUITY_STALE until the equity is "
        "written again.",
        "no openings for any symbol; closing plans pass",
        "quantum guard list",
        "Look at the account at the exchange. The loss is real: leave the guard; it ends at the time that is listed. "
        "EMERGENCY_FLATTEN also asks the executor to close everything: see that it does. The number was wrong: repair its "
        "writer; a guard that still waits for a second reading then ends by itself, a confirmed one with `quantum guard "
        'release TYPE --name "YOUR NAME" --reason "WHY"`. EQUITY_STALE: restart the program that writes '
        "`quantum:equity:current`.",
        "The guard is over; the message says how it ended.",
        independent=True,
    ),
    Kind(
        "openings_blocked",
        "page",
        "All openings are refused, though nobody has set a switch and no guard is active. What must be known first is not: "
        "the account cannot be judged, was not judged recently, or the key of a switch or guard cannot be read. The title "
        "says which.",
        "no openings for any symbol; closing plans pass",
        "quantum permits",
        "The account is named: repair or restart the program that writes `quantum:equity:current`, "
        "`quantum:risk:daily_pnl:<date>` or `quantum:risk:consecutive_losses`. A key that cannot be read is named: find out "
        "who wrote it, and rename or delete it. The risk guard is named as not evaluated: look at the newest failed run in "
        "the user interface (Runs).",
        "The account is judged again.",
        may_flap=True,
    ),
    Kind(
        "close_refused",
        "page",
        "The governor has refused a plan that closes or reduces a position. The title says why, and when it would pass, if "
        "that is known. Further refusals of the symbol are counted in this alert.",
        "the position stays open",
        "quantum explain PLAN_ID",
        "If it must be closed now, close it at the exchange. A limit is named: send the plan again, under a new plan_id, at "
        "the time in the title, or raise the limit in the environment of the workers (GOV_MAX_CLOSES_PER_HOUR, "
        "GOV_MAX_CLOSES_PER_5MIN, GOV_MAX_CLOSE_NOTIONAL_PER_DAY_USD) and restart them. Anything else: repair what is named "
        "and send the plan again under a new plan_id.",
        "A closing plan of the symbol is permitted, the position is closed, the limit has room again, or no other was refused "
        "for an hour.",
        independent=True,
    ),
    Kind(
        "plan_backlog",
        "warn",
        "Plans have waited for more than 30 s for a decision. Usually they are decided within seconds.",
        "plans wait for their permits, closing plans too",
        "quantum permits",
        "It shows when the last plan was decided. The newest run of the job `plans` (Runs in the user interface) says why it "
        "fails or waits. The sensor `plans` must be on (Automation), and a worker must serve the queue `quantum`: `systemctl "
        "restart quantum-worker`. What must be closed now, close at the exchange.",
        "No plan has waited for that long.",
        may_flap=True,
    ),
    Kind(
        "permit_unused",
        "info",
        "A permit has expired after its 60 s, and no executor has used it. Raised only where executors mark permits as "
        "`consumed`.",
        "a plan that was permitted was not executed",
        "quantum explain PLAN_ID",
        "Nothing here is broken. Look at the executor: it was down, too slow, or decided against the plan. If it was a "
        "closing plan, the position is still open: send a new one.",
        "A later permit of the symbol was used, or ten minutes have passed.",
        independent=True,
    ),
    Kind(
        "profile_unusable",
        "page",
        "Somebody put a profile of parameters and limits in force (`quantum profile use`), and it cannot be used, or the "
        "record of uses is gone or unreadable. It was edited by hand, a newer version of the product wrote it, or it does not "
        "fit the settings. The title says which.",
        "the parameters and limits last in force stay in force; those that were asked for do not count",
        "quantum profile history",
        'Put the profile that you want in force again: `quantum profile use FILE --name "YOUR NAME" --reason "WHY"`; with '
        "`in-force` in place of FILE what is in force now is recorded anew. If `quantum:profile:history` is a key of another "
        "type, rename or delete it first. Find out who writes to it: only the operator's user may.",
        "The newest profile on record is in force.",
        independent=True,
    ),
    Kind(
        "profile_waiting",
        "info",
        "Somebody recorded a profile of parameters and limits that takes effect when the daemon is started anew "
        "(`--at-start`, or PROFILE_CHANGES=restart). It has not been since.",
        "the parameters and limits before it stay in force until then",
        "quantum profile history",
        "Restart the daemon when it suits: `systemctl restart quantum-daemon`, or `quantum up` anew. To take it back, put "
        "another profile in force.",
        "It is in force, or another one was put in force since.",
        independent=True,
    ),
    Kind(
        "undelivered",
        "warn",
        "An alert did not reach one of its recipients and is not tried again: the service refused it twelve times, took it "
        "four times without an answer, or was away for a day. The title names the recipient: its setting, its place there, "
        "the service, and its place in the address.",
        "none, the numbers are right; but somebody does not get alerts",
        "quantum alerts test",
        "It sends a test to every address and shows which ones fail. Usual causes: a bot was removed from its chat, a mailbox "
        "or topic is gone, a token was revoked. Correct or remove the entry of ALERT_URLS (or ALERT_URLS_WARN, "
        "ALERT_URLS_INFO), then `systemctl restart quantum-watch`. The other recipients of the address got every alert once.",
        "The recipient has taken an alert again.",
        independent=True,
    ),
    Kind(
        "recorder",
        "warn",
        "The recorder, which writes what goes into and comes out of every cycle to files, has not reported for a minute, its "
        "disk takes nothing, or it does not keep up. What is not written waits in Redis, at most 2000 records: beyond that the "
        "oldest are lost, and the archive has a gap.",
        "none: cycles and decisions do not wait for it; only the record of them is at risk",
        "quantum recorder --status",
        "Silent: `systemctl restart quantum-recorder`; `quantum up` restarts it by itself, and its lines in `quantum.log` say "
        "why it ends. No space left: make room on the disk of RECORDER_URL, or lower RECORDER_DAYS or RECORDER_MAX_GB; it goes "
        "on by itself and nothing is written twice. `position.json is damaged`: restore it, or move the folder away; nothing is "
        "ever begun anew silently. Does not keep up: give it a faster disk. If it is not wanted here: RECORDER=off for all "
        "processes.",
        "The recorder writes again, and less than a quarter of the records that fit are waiting.",
        independent=True,
        may_flap=True,
    ),
    Kind(
        "clock",
        "warn",
        "The clock of the watcher's host has jumped by more than 5 s: somebody set it, or the machine slept. Cycles go on "
        "within 15 s.",
        "numbers dated in the future are refused until the next cycle; limits of the governor count by the new time",
        "quantum doctor",
        "It shows how far this clock is from that of Redis. Synchronise the clocks of all hosts (chrony or systemd-timesyncd; "
        "`timedatectl`), so that they are corrected in small steps. Restart nothing.",
        "A minute has passed.",
        independent=True,
    ),
    Kind(
        "event_log",
        "page",
        "Another program (a copy, a scan, a shell of sqlite3) holds a lock on the event log of Dagster. Until it ends, no run "
        "can be started or recorded. Daemon and worker are healthy: their silence follows from it. Runs that could not be "
        "started are failed and replaced afterwards.",
        "no new numbers and no permits for any symbol while it lasts; open positions get no new stop, closing plans no permit",
        "fuser -v QUANTUM_HOME/history/event_log.db",
        "It lists the programs that have the file open. End the one that is none of ours, and restart nothing of ours. For "
        "copies use only `sqlite3 FILE \".backup 'COPY'\"`, and exclude QUANTUM_HOME from scans. What must be closed meanwhile, "
        "close at the exchange.",
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
since when it is healthy and when it closes. Another cause is reported at once. A repeat of a crossed stop, whatever position it
is of, or of EQUITY_STALE is a notice (`info`); one that lasts for two minutes is raised as it would be the first time. (Not the
switches, other guards, refusals, `event_log` and the first four kinds: these change when somebody acts.)

**Identity.** Each `alert` that was raised is cleared under the same name: when the last fault that was reported under it is over,
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
