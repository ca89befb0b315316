"""Which settings there are: type, default, bounds and meaning of each. What is accepted beyond that is checked elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from quantum_core.kernels.governor.limits import DEFAULTS as LIMITS

LOCKED = "locked-v1"  # the profile of the published specification
MARKET_STATE_STREAM = "quantum:stream:marketstate"
_PROJECT_DIR = Path(__file__).resolve().parents[2]

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[int, Field(ge=1, le=7 * 86400)]


class Declared(BaseSettings):
    """All settings as they are declared, in the order in which they are shown."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    redis_url: SecretStr = Field(SecretStr(""), description="Redis or Valkey; default: the embedded server")
    governor_redis_url: SecretStr = Field(
        SecretStr(""), description="the same server under the governor's user, for permits, blocks and guards; default: REDIS_URL"
    )
    celery_broker_url: SecretStr = Field(SecretStr(""), description="broker of the workers; default: the same server")
    redis_sentinels: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated host:port of Sentinels to ask for the master; REDIS_URL then gives user, password and db"
    )
    redis_sentinel_service: str = Field("mymaster", description="name under which the Sentinels know the master")
    redis_sentinel_password: SecretStr = Field(SecretStr(""), description="password of the Sentinels themselves")
    redis_ca_file: str = Field(
        "", description="certificates that may have signed that of a rediss:// server; default: the system's"
    )
    redis_cert_file: str = Field("", description="our own certificate, for a rediss:// server that asks for one")
    redis_key_file: str = Field("", description="its key")
    quantum_home: Path = Field(
        _PROJECT_DIR / ".quantum", description="instance folder: Dagster's and the embedded Valkey's files"
    )
    hedge_symbols: Annotated[tuple[str, ...], NoDecode] = Field(  # before symbols, whose validator needs it
        (),
        description="comma-separated, those of SYMBOLS that are held in hedge mode: their legs (BTCUSDT.LONG, BTCUSDT.SHORT) are "
        "the partitions",
    )
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        ("BTCUSDT", "ETHUSDT", "SOLUSDT"),
        validation_alias=AliasChoices("SYMBOLS", "MARKETSTATE_SYMBOLS", "symbols"),
        min_length=1,
        validate_default=True,
        description="comma-separated symbols, each one a partition",
    )
    profile: str = Field(LOCKED, description="parameters of all kernels: a shipped profile, or a TOML file of your own")
    challenger: str = Field(
        "", description="a second profile, computed beside the one in force and never acted on: what would it have proposed?"
    )
    profile_changes: Literal["running", "restart"] = Field(
        "running", description="when `quantum profile use` takes effect: with the next cycle, or when the daemon is started anew"
    )
    events: bool = Field(
        default=True, description="answer plans, closed candles and changed positions at once; off: on the daemon's grid of 5 s"
    )
    publish_interval_sec: Seconds = Field(10, description="cycle of the proposals")
    marketstate_publish_interval: Seconds = Field(60, description="market state is evaluated at least this often")
    marketstate_window_size: int = Field(300, ge=257, le=5000, description="candles read per symbol")
    candle_interval_sec: Seconds = Field(60, description="length of a candle")
    gap_max_intervals: int = Field(5, ge=0, le=1000, description="missing candles in a row; a longer hole splits the window")
    candle_fill: Literal["none", "flat"] = Field(
        "none", description="missing minutes; flat: the last close without volume, for exchanges that write none without trades"
    )
    market_inactive_candles: int = Field(
        60, ge=2, le=257, description="candles without volume, or with the same close, from which nothing is opened"
    )
    tick_sizes: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated SYMBOL=TICK, in quote units; of other symbols the tick is inferred from closes"
    )
    marketstate_source: Literal["candles", "synthetic"] = Field("candles", description="where prices come from")
    position_source: Literal["auto", "redis_hash", "redis_stream", "synthetic"] = Field(
        "auto", description="where positions come from"
    )
    marketstate_max_age_sec: Seconds = Field(180, description="age from which a market state is not acted on")
    position_max_age_sec: Seconds = Field(600, description="age from which a position snapshot is not acted on")
    proposal_max_age_sec: Seconds = Field(60, description="age from which positions and proposals are not acted on")
    proposal_warn_age_sec: Seconds = Field(30, description="age of a position or proposal that is worth a warning")
    candle_stale_margin_sec: Seconds = Field(300, description="a newest candle older than two intervals and this is stale")
    worker_max_silence_sec: Seconds = Field(20, description="silence of the workers that is an alert")
    daemon_max_silence_sec: Seconds = Field(30, description="silence of the sensor daemon that is an alert")
    redis_max_silence_sec: Seconds = Field(10, description="silence of Redis that is an alert")
    alert_remind_sec: Seconds = Field(3600, description="an alert that lasts is repeated this often")
    proof_interval_sec: Seconds = Field(60, description="the proof pack runs this often")
    asset_prefix: str = Field(
        "", description="keys of the assets in Dagster begin with this (desk/risk), beside other code locations"
    )
    watch_port: int = Field(8066, ge=0, le=65535, description="port of the watcher's /healthz on 127.0.0.1; 0 chooses a free one")
    web_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated names of the user interface beside 127.0.0.1 and localhost, as a proxy passes them on"
    )
    exporter_allocation_port: int = Field(8065, ge=0, le=65535, description="metrics of allocation targets; 0 chooses a free one")
    exporter_governor_port: int = Field(8044, ge=0, le=65535, description="metrics of the governor; 0 chooses a free one")
    shards: int = Field(1, ge=1, le=64, description="queues the universe is split into, one run and worker each")
    allow_synthetic: bool = Field(default=False, description="let replayed, example or synthetic data earn permits")
    enable_stream: bool = Field(default=False, description="also write the risk and harvest streams")
    max_publish_age_sec: Seconds = Field(60, description="publish at least this often")
    change_eps_pct: Positive = Field(0.001, lt=1, description="relative price change that is news")
    fallback_stop_pct: Positive = Field(0.02, lt=1, description="stop distance when no risk proposal exists")
    sl_ratchet: Literal["proposed", "actual"] = Field("proposed", description="which stop counts as in force")
    position_absent: Literal["unknown", "flat"] = Field(
        "unknown", description="what a symbol is that no source of positions shows; unknown opens nothing"
    )
    price_collar_pct: Positive = Field(0.10, lt=1, description="price jump that waits for confirmation")
    contract_sizes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="comma-separated SYMBOL=SIZE where sizes count contracts: base units (of INVERSE_SYMBOLS quote units) in one",
    )
    inverse_symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated symbols whose contracts are worth a fixed sum of the quote currency, and pay in coins"
    )
    price_scales: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="comma-separated SYMBOL=FACTOR by which prices of candles become those of the position (1000PEPEUSDT=1000)",
    )
    candles_from: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated SYMBOL=OTHER: its candles are those of OTHER (1000PEPEUSDT=PEPEUSDT)"
    )
    p31_min_conf: Fraction = Field(0.65, description="efficiency confidence below which it is ignored")
    p31_stale_sec: Seconds = Field(600, description="age from which the allocation proposer ignores efficiency")
    p31_min_mult: Positive = Field(0.5, le=10, description="least allocation multiplier")
    p31_max_mult: Positive = Field(1.5, le=10, description="greatest allocation multiplier")
    p31_scale: Positive = Field(1.0, le=10, description="slope of the allocation multiplier")
    p31_base: Positive = Field(1.0, le=10, description="multiplier at score .5")
    p31_downsize_threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.45, description="score below which a permit hints DOWNSIZE"
    )
    p31_min_factor: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="least downsize factor")
    p31_max_extra_cooldown_sec: int = Field(120, ge=0, le=86400, description="cooldown hinted at score 0")
    p31_eff_ttl_sec: Seconds = Field(600, description="age from which permit hints ignore efficiency")
    gov_max_exec_per_hour: int = Field(
        LIMITS.max_exec_per_hour, ge=0, le=100, description="openings permitted per symbol in 3600 s"
    )
    gov_max_exec_per_5min: int = Field(
        LIMITS.max_exec_per_5min, ge=0, le=100, description="openings permitted per symbol in 300 s"
    )
    gov_max_reduce_notional_per_day_usd: Positive = Field(
        LIMITS.max_notional_per_day_usd, description="notional of openings per symbol and UTC day"
    )
    gov_max_reduce_qty_per_day: Positive = Field(
        LIMITS.max_qty_per_day, description="quantity of openings per symbol and UTC day when no price is known"
    )
    gov_max_closes_per_hour: int | None = Field(
        None,
        ge=0,
        le=100,
        description=(
            f"closes permitted per symbol in 3600 s; unset: as GOV_MAX_EXEC_PER_HOUR, or {LIMITS.max_exec_per_hour} if that is 0"
        ),
    )
    gov_max_closes_per_5min: int | None = Field(
        None,
        ge=0,
        le=100,
        description=(
            f"closes permitted per symbol in 300 s; unset: as GOV_MAX_EXEC_PER_5MIN, or {LIMITS.max_exec_per_5min} if that is 0"
        ),
    )
    gov_max_close_notional_per_day_usd: Positive | None = Field(
        None, description="notional of closes per symbol and UTC day; unset: as GOV_MAX_REDUCE_NOTIONAL_PER_DAY_USD"
    )
    gov_max_close_qty_per_day: Positive | None = Field(
        None, description="quantity of closes without a known price per symbol and UTC day; unset: as GOV_MAX_REDUCE_QTY_PER_DAY"
    )
    gov_auto_disarm: bool = Field(
        default=True, description="let the governor disarm a planner, a symbol or itself after bursts of openings and errors"
    )
    gov_bursts_to_disarm: int = Field(
        1, ge=1, le=10_000, description="openings of one planner (or symbol) beyond the burst limit in a UTC day that disarm it"
    )
    gov_errors_to_disarm: int = Field(
        5, ge=1, le=10_000, description="plans of one planner (or symbol) in a UTC day that could not be evaluated that disarm it"
    )
    gov_kill_score_critical: Fraction = Field(LIMITS.kill_score_critical, description="kill score from which nothing is opened")
    gov_max_data_age_sec: Seconds = Field(int(LIMITS.max_data_age_sec), description="age from which data opens nothing")
    risk_guards_extra: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="comma-separated types of guards that others set, quantum:risk:guard_active:<TYPE>: seen at once, unsearched",
    )
    daily_pnl_required: bool = Field(
        default=False, description="block openings without a hash of today's profit; else none is 0, and said so"
    )
    guard_confirm_sec: int = Field(
        10, ge=1, le=300, description="a second reading of the account, so much newer, lets a guard stand for its time"
    )
    efficiency_mode: Literal["external", "shadow", "enforce"] = Field("external", description="who writes capital efficiency")
    intent_mode: Literal["shadow", "plan"] = Field("shadow", description="whether trade intents also become plans")
    permit_format: Literal["hash", "json"] = Field(
        "hash", description="type of a permit's key: hash, or json: one string, for executors that GET"
    )
    run_retention_hours: int = Field(24, ge=1, le=8760, description="age from which finished runs are deleted")
    run_retention_max_gb: Positive = Field(10, description="size of the event log from which runs are kept for less long")
    recorder: bool = Field(default=True, description="record what goes into and comes out of every cycle, see `quantum recorder`")
    recorder_url: str = Field(
        "", description="folder of the recordings, an absolute path, or s3://bucket/prefix; default: QUANTUM_HOME/recorder"
    )
    recorder_flush_sec: int = Field(60, ge=1, le=600, description="the recorder writes files this often")
    recorder_days: int = Field(30, ge=1, le=36500, description="age from which recorded days are deleted")
    recorder_max_gb: Positive = Field(20, description="size of the recordings from which the oldest days are deleted")
    alert_urls: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="comma-separated Apprise URLs of alerts that page, and of warnings without a list of their own"
    )
    alert_urls_warn: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), description="Apprise URLs of warnings")
    alert_urls_info: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Apprise URLs of notices; without them these reach the stream and the status banner only"
    )
    alert_severities: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated kind=page, warn or info, where it is not the default of docs/alerts.md"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=AliasChoices("LOG_LEVEL", "MARKETSTATE_LOG_LEVEL", "log_level"), description="verbosity"
    )
    marketstate_prefix: str = Field("quantum:marketstate", min_length=1, description="key prefix")
    riskproposal_prefix: str = Field("quantum:risk:proposal", min_length=1, description="key prefix")
    harvest_prefix: str = Field("quantum:harvest:proposal", min_length=1, description="key prefix")
    stream_name: str = Field(MARKET_STATE_STREAM, min_length=1, description="market-state stream")
    key_template: Literal["plain", "cluster"] = Field("plain", description="cluster: keys of one symbol share a slot")
    redis_host: str = Field(
        "",
        validation_alias=AliasChoices("REDIS_HOST", "MARKETSTATE_REDIS_HOST", "redis_host"),
        description="legacy, see REDIS_URL",
    )
    redis_port: int = Field(
        6379,
        ge=1,
        le=65535,
        validation_alias=AliasChoices("REDIS_PORT", "MARKETSTATE_REDIS_PORT", "redis_port"),
        description="legacy, see REDIS_URL",
    )
    redis_db: int = Field(0, ge=0, description="legacy, see REDIS_URL")
