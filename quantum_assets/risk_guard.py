"""Asset ``risk_guard``: limits of the account as a whole, evaluated in every cycle before the governor decides.

There is one account, so that the asset has no partitions. In a run over a range of symbols Dagster 1.13 runs an asset without
partitions once and leaves the range to the others; our own asset events then carry no partition
(``tests/guards/test_risk_guard.py`` fails when an upgrade changes that). With SHARDS it runs in the first shard's run only.
"""

import dagster as dg
import polars as pl

from quantum_assets.shared.partitions import OWNERS
from quantum_core.contracts.reading import State
from quantum_core.contracts.schema import ACCOUNT
from quantum_core.contracts.tables import RISK_GUARD
from quantum_core.kernels.governor.risk_guard import RiskGuardTheta, assess
from resources.calc_only import require_calc_only
from resources.governor.account import account_row, read_account
from resources.governor.guard_search import look_for_more
from resources.governor.guards import enforce, guard_facts, guard_state
from resources.io_manager import cycle_id_of
from resources.recorder.tape import tape_of
from resources.store.profiles import take_profile
from resources.store.redis_store import RedisStore


@dg.asset(
    deps=["equity"],
    group_name="governor",
    kinds={"redis"},
    owners=OWNERS,
    io_manager_key="governor_io",
    description=(
        "Guards of the account, each of which blocks openings while it lives: **EQUITY_STALE**, **DAILY_LOSS** > 2.5 % of "
        "equity, **DRAWDOWN** > 8 % and **EMERGENCY_FLATTEN** > 10 % of the peak, **CONSEC_LOSS** >= 3. The three that rest on "
        "the equity stand for their time, and are announced, only after a second reading. An input that cannot be used is an "
        "error by name, and never replaced by a default."
    ),
)
def risk_guard(context: dg.AssetExecutionContext, governor: dg.ResourceParam[RedisStore]) -> pl.DataFrame:
    """Judge the account, set and announce its guards, and say what was found."""
    require_calc_only()
    account = read_account(governor)
    assessment = assess(account.account, take_profile(governor, context.run.tags).theta(RiskGuardTheta))
    enforced = enforce(governor, account, assessment, cycle_id=cycle_id_of(context.run))
    for one in enforced.announced:
        context.log.warning(f"Risk guard {one.reason}: nothing is opened for {one.duration_sec} s")
    for guard in enforced.recovered:
        context.log.warning(f"Risk guard {guard} ended: a newer reading of the account is within its limit")
    searched = look_for_more(governor)
    if (tape := tape_of(governor)) is not None:
        tape.take("account", {ACCOUNT: account_row(account)})
        tape.note(guards=guard_facts(account, assessment, enforced, searched))
    row = guard_state(account, assessment, enforced, searched)
    return RISK_GUARD.frame([{**row, "state": str(State.PRESENT), "why": ""}])
