"""Who may touch which key: the users of an access control list (ACL) for Redis 7 and Valkey, made from the key templates.

Every template names its writers here (a test fails for one that does not), so that no new key is open to everybody or to nobody.
``quantum keys --acl`` prints the list; ``deploy/redis/users.acl`` is that, for the default key names.
"""

from __future__ import annotations

from collections.abc import Mapping

from quantum_core.contracts.tables import CANDLE_KEYS, ONE_SLOT, Keys

PROPOSALS, GOVERNOR, OPERATOR = "quantum-proposals", "quantum-governor", "quantum-operator"
READER, WATCH, FEED = "quantum-reader", "quantum-watch", "quantum-feed"
PLANNER, EXECUTOR, BROKER, ADMIN = "quantum-planner", "quantum-executor", "quantum-broker", "quantum-admin"

# What is written by two of our own roles, and why:
#   disarmed, disarm, disarmed_scopes   the governor disarms itself, only an operator ends that
#   governor_errors, governor_faults    why it does: counted by the governor, forgotten by whoever arms
#   stream_governor_events              decisions are the governor's, KILL and ARMED the operator's
#   guard_active, guard_readings        the governor activates guards, only an operator releases one before its time
#   stream_risk_events                  RISK_GUARD_RELEASED is the operator's
#   alerts_active, stream_alerts, counts_alerts   `quantum up` runs the watcher under the address of the proposals
#   counts_decided, counts_ran          so may the exporter be
#   counts_published, failures, shown   are written with each evaluation
#   stream_recorder, recorder_writers, recorder_seq   so is the record of a step
WRITERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *(
                "market_state",
                "risk_proposal",
                "harvest_proposal",
                "allocation_target",
                "position_size",
                "position",
                "efficiency_state",
            ),
            "efficiency_fills",
            *("position_memory", "candle_memory"),
            *("trade_intent_pending", "trade_intent_last"),
            *("stream_market_state", "stream_risk_proposal", "stream_harvest_proposal"),
            *("stream_capital_efficiency", "stream_efficiency_decision", "stream_allocation_target"),
            *("proofs", "proofs_by_symbol", "informative", "shadow", "single_cycle", "lease", "lease_rival", "newest_cycles"),
        ),
        (PROPOSALS,),
    ),
    **dict.fromkeys(
        (
            *("governor_state", "block", "permits_granted", "permitted_today", "seen_plan"),
            *("closes_granted", "closed_today"),
            *("risk_guard", "guards_found"),
        ),
        (GOVERNOR,),
    ),
    **dict.fromkeys(("guard_active", "guard_readings", "stream_risk_events"), (GOVERNOR, OPERATOR)),
    **dict.fromkeys(("disarmed", "disarm", "disarmed_scopes", "governor_errors", "governor_faults"), (GOVERNOR, OPERATOR)),
    "stream_governor_events": (GOVERNOR, OPERATOR),
    **dict.fromkeys(("heartbeat", "cycles", "events_waiting", "events_postponed", "runs_awaited"), (PROPOSALS,)),
    **dict.fromkeys(("alerts_active", "stream_alerts", "counts_alerts"), (PROPOSALS, WATCH)),
    **dict.fromkeys(
        ("raw_position", "stream_execution", "stream_execution_result", "equity", "daily_pnl", "consecutive_losses"), (EXECUTOR,)
    ),
    **dict.fromkeys(("attribution", "base_target"), (PLANNER,)),
    **dict.fromkeys((*CANDLE_KEYS, "banner"), (FEED,)),
    **dict.fromkeys(("counts_decided", "counts_ran"), (WATCH, PROPOSALS)),
    **dict.fromkeys(("counts_published", "failures", "shown"), (PROPOSALS, GOVERNOR)),
    **dict.fromkeys(("stream_recorder", "recorder_writers", "recorder_seq"), (PROPOSALS, GOVERNOR)),
    **dict.fromkeys(("recorder_lease", "recorder_state"), (PROPOSALS,)),  # whose address the recorder has, which also trims
    **dict.fromkeys(("kill", "profiles"), (OPERATOR,)),
    "profile_started": (PROPOSALS,),
    "permit": (GOVERNOR, EXECUTOR),  # whoever uses a permit marks it as consumed
    "capital_efficiency": (PLANNER, PROPOSALS),  # EFFICIENCY_MODE=enforce makes it ours
    "stream_plans": (GOVERNOR,),  # which reads through a consumer group
}
# Who may only add entries to a stream: a plan is asked for by planners, and by our intents (INTENT_MODE=plan). A list of users
# cannot forbid XADD's own MAXLEN, which takes entries away (docs/threat-model.md).
ADDERS: Mapping[str, tuple[str, ...]] = {"stream_plans": (PLANNER, PROPOSALS)}

READS = "-@all +@read +@connection -@dangerous -@scripting +info +time +eval_ro +evalsha_ro"
# A script's keys are announced as written, whatever it does with them: a selector lets it name any, and each command in it is
# still judged by itself. So the governor's script reads the kill switch, and cannot clear it.
_CHANGES = "-@all +@read +@write +@connection +multi +exec +discard -@dangerous -@scripting +info +time"
WRITES = f"{_CHANGES} +eval_ro +evalsha_ro"
SCRIPTS = "(-@all +eval +evalsha ~*)"
ADDS = "(-@all +xadd ~{})"
# Workers receive the order to stop a run on a channel whose name has the storage's identity in it, and a pattern subscription is
# granted by the letter only: hence all channels. We use no others.
BROKER_RIGHTS = f"~quantum:celery:* &* {_CHANGES} +@pubsub +watch +unwatch +eval +evalsha +script|load +script|exists"


def acl(keys: Keys) -> str:
    """Build the ACL file for these key names.

    Every user is off and has no password until the operator gives it one. Such a file takes no comments.
    """
    # Nobody is `default`: it is off and has no password. But it is under its rights that Redis repeats the transactions of its
    # append-only file when it starts: every script's writes, and the kill switch, would be gone after a restart without them.
    users = {"default": "~* &* +@all"}
    users |= {role: _rights(role, keys) for role in (PROPOSALS, GOVERNOR, OPERATOR, READER, WATCH, FEED, PLANNER, EXECUTOR)}
    users |= {BROKER: BROKER_RIGHTS, ADMIN: "~* &* +@all"}
    return "".join(f"user {name} off resetpass resetkeys resetchannels {rights}\n" for name, rights in users.items())


def _rights(role: str, keys: Keys) -> str:
    written = [pattern(keys, name) for name, writers in WRITERS.items() if role in writers]
    if role == WATCH:
        written.append(keys.of("heartbeat", "watch"))  # its own heartbeat only: no other part may look alive because of it
    if role == FEED:
        return " ".join((*(f"~{one}" for one in written), WRITES, SCRIPTS))
    every = (pattern(keys, name) for name in WRITERS)
    read = ["quantum:*", *sorted({one for one in every if not one.startswith("quantum:")})]
    granted = (*(f"%R~{one}" for one in read), *(f"~{one}" for one in written))  # both rights: half of two is none to INCRBYFLOAT
    added = [ADDS.format(pattern(keys, name)) for name, adders in ADDERS.items() if role in adders]
    return " ".join((*granted, *((WRITES, SCRIPTS) if written else (READS,)), *added))


def pattern(keys: Keys, name: str) -> str:
    """Give the pattern that covers every key made from one template."""
    if name == "base_target":  # a symbol is in capitals; else this would cover the proposed targets beside it
        return keys.templates()[name].replace("{symbol}", "[^a-z]*")
    if not keys.cluster:
        return keys.of(name, "*")
    before, hole, _ = keys.templates()[name].partition("{")
    return f"{before}*" if hole or name in ONE_SLOT or name.startswith("stream_") else before
