"""Proofs about the product as a whole. They hang on ``governor_permit``: a permit is what they protect."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from quantum_assets.checks.evidence import Evidence
from quantum_assets.checks.proof import Finding, Prover
from quantum_core.contracts.tables import CAPITAL_EFFICIENCY, GOVERNOR_STATE, LAST_INTENT, PUBLISHED
from quantum_core.kernels import CLOCK_SKEW_SEC
from resources.calc_only import TRADING_LIBRARIES, loaded_trading_libraries
from resources.instance.launcher import shard_queues
from resources.store.lease import standing_by
from resources.store.profiles import as_put_in_force

IMPORT_WITHIN_SEC = 30
FEED = "quantum_feed"  # our own exchange feed: it brings ccxt, and has no place here
WATCH_SILENCE_SEC = 30  # the watcher looks every 5 s; nobody watches it but this proof, the status banner and its supervisor

MEASURED = ("market_state", "stops", "harvest", "tracking")  # sections whose numbers evidence is about
CYCLE_BEGAN = re.compile(r"[a-z](\d+)")  # in the name of a cycle: when it was requested, epoch s


proof = Prover(GOVERNOR_STATE.asset, group="all", per_symbol=False)


def no_trading_libraries(evidence: Evidence) -> Finding:
    """Nothing of the product imports, and nothing in this process has loaded, what could place an order."""
    failing = {}
    for name, module in evidence.modules.items():
        if odd := sorted({imported.split(".")[0] for imported in module.imports} & {*TRADING_LIBRARIES, FEED}):
            failing[name] = f"imports {', '.join(odd)}"
    failing |= dict.fromkeys(loaded_trading_libraries(), "is loaded in this process")
    judged = len(evidence.modules)
    return Finding(f"{judged} modules, {len(sys.modules)} loaded", f"none of {len(TRADING_LIBRARIES)} libraries", judged, failing)


def process_alive(evidence: Evidence) -> Finding:
    """Workers, sensor daemon, loop and watcher have been heard of."""
    settings = evidence.settings
    limits = {
        "worker": settings.worker_max_silence_sec,
        "daemon": settings.daemon_max_silence_sec,
        "cycle": settings.proposal_max_age_sec,
        **({} if evidence.cold and "watch" not in evidence.heartbeats else {"watch": WATCH_SILENCE_SEC}),
    }
    return _heard_of(evidence, limits)


def queues_served(evidence: Evidence) -> Finding:
    """Of several shards, a worker of each queue has been heard of: the others look well while one host is cut off."""
    queues = shard_queues(evidence.settings.shards)
    if not queues:
        return Finding("one queue", "served by any worker, see process_alive", 0)
    return _heard_of(evidence, dict.fromkeys(queues, evidence.settings.worker_max_silence_sec))


def _heard_of(evidence: Evidence, limits: Mapping[str, int]) -> Finding:
    failing = {}
    for part, limit in limits.items():
        age = evidence.heartbeats.get(part)
        if age is None or not -CLOCK_SKEW_SEC <= age <= limit:
            failing[part] = "never heard of" if age is None else f"silent for {age:.0f} s, limit {limit} s"
    told = ", ".join(f"{part} {max(evidence.heartbeats[part], 0):.0f} s ago" for part in limits if part in evidence.heartbeats)
    return Finding(
        told or "nothing was ever heard", ", ".join(f"{part} {limit} s" for part, limit in limits.items()), len(limits), failing
    )


def single_stack(evidence: Evidence) -> Finding:
    """No second deployment runs its sensors on the same Redis."""
    told = standing_by(evidence.store)
    failing = {"second stack": f"{told[0]} stands by while {told[1]} runs the loop"} if told else {}
    return Finding(f"{1 + len(failing)} stacks", "1", 1 + len(failing), failing)


def profile_in_force(evidence: Evidence) -> Finding:
    """Every row of a cycle carries the one profile that was in force when the cycle began."""
    settings, now = evidence.settings, evidence.in_force
    use, failing, judged = now.use, {}, 0
    at_start = use is not None and (use.at_start or settings.profile_changes == "restart")
    used_at = use.at + CLOCK_SKEW_SEC if use is not None else 0.0
    of_cycle: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for table in PUBLISHED:
        if table is CAPITAL_EFFICIENCY and settings.efficiency_mode != "enforce":
            continue  # another program's
        for symbol, row in evidence.rows(table).items():
            judged += 1
            if table is not LAST_INTENT:  # an intent is kept over many cycles, and names the one it was made in
                of_cycle[symbol, row["cycle_id"]].setdefault(row["profile"], table.asset)
            expected = now.profile.fingerprint_of(symbol)
            # What waits for a restart is in force for whoever starts first.
            if row["profile"] != expected and not at_start and _began_after(row, used_at, settings.proposal_max_age_sec):
                failing[symbol] = f"{table.asset} carries {row['profile_name']} {row['profile']}, in force is {expected}"
    for (symbol, cycle_id), assets in of_cycle.items():
        if len(assets) > 1:
            mixed = ", ".join(f"{asset} {fingerprint}" for fingerprint, asset in sorted(assets.items()))
            failing[symbol] = f"cycle {cycle_id} mixes profiles: {mixed}"
    observed = f"{now.profile.name} {now.profile.fingerprint}{f'; {now.trouble}' if now.trouble else ''}"
    return Finding(observed, "carried by every row of a cycle begun since it is in force", judged, failing)


def _began_after(row: Mapping[str, Any], epoch: float, longest_sec: float) -> bool:
    """Return whether a row is of a cycle that began after a time: by its name, or because no cycle takes so long."""
    began = CYCLE_BEGAN.match(row["cycle_id"])
    named = began is not None and float(began.group(1)) > epoch
    return named or float(row["last_update_epoch"]) > epoch + longest_sec


def profile_evidence(evidence: Evidence) -> Finding:
    """The profile in force was measured on candles of this length, with the parameters it has."""
    now, interval_sec = evidence.in_force, evidence.settings.candle_interval_sec
    chosen = as_put_in_force(now, evidence.settings)
    kept, expected = chosen.evidence, f"measured on candles of {interval_sec} s, with these parameters"
    changed = [name for name in MEASURED if now.profile.sections[name] != chosen.sections[name]]
    if not kept:
        why = "it has no evidence: nobody has measured what its numbers are worth"
    elif kept.get("interval_sec") != interval_sec:
        why = f"its evidence is of candles of {kept.get('interval_sec')} s, CANDLE_INTERVAL_SEC is {interval_sec}"
    elif kept.get("fingerprint") != chosen.fingerprint:
        why = f"its evidence is of the parameters {kept.get('fingerprint')}, and they are {chosen.fingerprint} now"
    elif changed:
        why = f"settings of the environment have changed its {', '.join(changed)}"
    else:
        why = ""
    failing = {chosen.name: f"{why}; see docs/profiles.md#a-profile-without-evidence"} if why else {}
    verdict = f": {kept['verdict']}" if kept.get("verdict") else ""
    return Finding(f"{chosen.name} {chosen.fingerprint}{verdict}", expected, 1, failing)


def imports_anywhere(evidence: Evidence) -> Finding:
    """The product is found from any working directory, and no module bends the path to be found."""
    failing = {name: "changes sys.path" for name, module in evidence.modules.items() if "sys.path" in module.attributes}
    names = [name for name in evidence.modules if not name.endswith("__main__")]
    code = (
        "import importlib.util as u, sys; print('\\n'.join(n for n in sys.argv[1:] if u.find_spec(n.partition('.')[0]) is None))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *names],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=IMPORT_WITHIN_SEC,
        check=False,
    )
    failing |= dict.fromkeys(done.stdout.split(), "is not found from another folder")
    if done.returncode:
        failing["interpreter"] = done.stderr[-200:]
    return Finding(f"{len(names)} modules", "found from / without path tricks", len(names), failing)


PROOFS = (
    proof("no_trading_libraries", "Nothing imports or has loaded an exchange, broker or order library.", no_trading_libraries),
    proof("process_alive", "Workers, sensor daemon, loop and watcher are alive.", process_alive),
    proof("queues_served", "With SHARDS, each queue has a worker.", queues_served),
    proof("single_stack", "One deployment runs its sensors on this Redis.", single_stack, "WARN"),
    proof(
        "profile_in_force",
        "Every row of a cycle carries the profile that was in force when it began, and no cycle mixes two.",
        profile_in_force,
        per_symbol=True,
    ),
    proof(
        "profile_evidence",
        "The profile in force carries evidence of what its numbers are worth on these candles, measured with its parameters.",
        profile_evidence,
        "WARN",
    ),
    proof("imports_anywhere", "The product imports from any working directory without path tricks.", imports_anywhere),
)
