"""Every environment variable of the product, typed and validated (docs/spec.md#11-settings). Nothing else reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from quantum_core.alert_catalogue import KINDS, SEVERITIES, Severity
from quantum_core.contracts.legs import underlying, underlyings, with_legs
from quantum_core.contracts.reading import is_plain
from quantum_core.contracts.tables import Keys
from quantum_core.kernels.governor.limits import DEFAULTS as LIMITS
from quantum_core.kernels.governor.risk_guard import GUARDS
from quantum_core.kernels.position.contract import BASE_UNITS, Contract

if TYPE_CHECKING:
    from quantum_core.profiles.profile import Profile

REDIS_PORT = 6379
LOCKED = "locked-v1"  # the profile of the published specification
EMBEDDED_PORT = 6390  # first choice of the embedded Valkey; the port really taken is in <QUANTUM_HOME>/redis.url
_PROJECT_DIR = Path(__file__).resolve().parent.parent
_COMMENT = re.compile(r"(^|\s+)#.*$")
_WRONG = "Wrong settings, nothing was started ({}):\n"
_SYMBOL = re.compile(r"[\w-]{2,40}")

SLOWER_THAN = (  # what is renewed less often than it is believed would be stale for ever
    ("publish_interval_sec", "proposal_max_age_sec"),
    ("marketstate_publish_interval", "marketstate_max_age_sec"),
)
OBJECT_STORES = ("s3", "gs", "az")
REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")
SENTINEL_PORT = 26379
SENTINEL_FORM = "redis+sentinel://[user:password@]host:port,host:port/service/db"
_SENTINEL = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
LOG_LEVELS = {"WARN": "WARNING", "CRITICAL": "ERROR", "FATAL": "ERROR"}  # other spellings, and levels that we do not distinguish
MARKET_STATE_STREAM = "quantum:stream:marketstate"
Value = TypeVar("Value")
RENAMED = {  # kinds of keys that operators may rename
    "market_state": "MARKETSTATE_PREFIX",
    "risk_proposal": "RISKPROPOSAL_PREFIX",
    "harvest_proposal": "HARVEST_PREFIX",
    "stream_market_state": "STREAM_NAME",
}

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[int, Field(ge=1, le=7 * 86400)]


class SettingsError(ValueError):
    """Wrong settings; the text names every wrong variable, its value and what is accepted."""


@dataclass(frozen=True)
class Sentinels:
    """Where the address of a master is asked for.

    Attributes
    ----------
    hosts
        Names and ports of the sentinels.
    service
        Name under which they know the master.
    db
        Database of the master.
    user
        ``user:password@`` for the master, percent-encoded as in the address; empty when it needs none.
    tls
        Whether sentinels and master are spoken to in TLS.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int
    user: str
    tls: bool


def sentinels_of(url: str) -> Sentinels | None:
    """Read an address that names sentinels; ``None`` for an address of another kind.

    Raises
    ------
    ValueError
        It is not of the form SENTINEL_FORM.
    """
    scheme, _, rest = url.partition("://")
    if not scheme.endswith("+sentinel"):
        return None
    authority, _, path = rest.partition("/")
    user, at, listed = authority.rpartition("@")
    service, _, db = path.partition("/")
    matches = [_SENTINEL.fullmatch(one.strip()) for one in listed.split(",")]
    hosts = tuple((one["host"].strip("[]"), int(one["port"] or SENTINEL_PORT)) for one in matches if one)
    if len(hosts) < len(matches) or not all(0 < port <= 65535 for _, port in hosts) or not re.fullmatch(r"[\w.-]+", service):
        raise ValueError(SENTINEL_FORM)
    if not re.fullmatch(r"\d{0,5}", db, re.ASCII):
        raise ValueError(SENTINEL_FORM)
    return Sentinels(hosts, service, int(db or 0), user + at, scheme.startswith("rediss"))


class Settings(BaseSettings):
    """All settings, with their defaults.

    Notes
    -----
    Values may carry a trailing `` # comment``: environment files did, and one crashed a service.
    """

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

    @field_validator("hedge_symbols", mode="before")
    @classmethod
    def _split_hedged(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [as_listed(part.strip()) for part in value.split(",") if part.strip()]
        if wrong := [symbol for symbol in value if not _SYMBOL.fullmatch(symbol)]:
            msg = f"{', '.join(map(repr, wrong))}: accepted are symbols, comma-separated, as in SYMBOLS, without .LONG or .SHORT"
            raise ValueError(msg)
        return tuple(dict.fromkeys(value))

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = [as_listed(part.strip()) for part in value.split(",") if part.strip()]
        symbols = tuple(value)
        if not symbols:
            msg = "the list is empty; accepted: at least one symbol, comma-separated"
            raise ValueError(msg)
        hedged = info.data.get("hedge_symbols", ())
        wrong = [symbol for symbol in symbols if not _SYMBOL.fullmatch(underlying(symbol))]
        if wrong:
            msg = f"{', '.join(map(repr, wrong))}: a symbol is 2 to 40 letters, digits, _ or -"
            raise ValueError(msg)
        if legs := [symbol for symbol in symbols if underlying(symbol) not in (symbol, *hedged)]:
            msg = f"{', '.join(legs)}: a leg of a symbol that HEDGE_SYMBOLS does not name"
            raise ValueError(msg)
        symbols = with_legs(symbols, hedged)
        if len(set(symbols)) < len(symbols):
            msg = "a symbol is listed twice"
            raise ValueError(msg)
        return symbols

    @field_validator("alert_severities")
    @classmethod
    def _check_severities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        pairs = [one.partition("=") for one in value]
        wrong = [
            one for one, (kind, _, severity) in zip(value, pairs, strict=True) if kind not in KINDS or severity not in SEVERITIES
        ]
        if wrong:
            msg = f"{', '.join(map(repr, wrong))}: accepted: KIND={'|'.join(SEVERITIES)}, kinds: {', '.join(KINDS)}"
            raise ValueError(msg)
        if len({kind for kind, _, _ in pairs}) < len(pairs):
            msg = "a kind is listed twice"
            raise ValueError(msg)
        return value

    @field_validator("contract_sizes", "price_scales", "candles_from", "inverse_symbols", "tick_sizes")
    @classmethod
    def _check_per_symbol(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        named = info.field_name or ""
        pairs = [one.partition("=") for one in value]
        wrong = [
            one
            for one, (symbol, sign, given) in zip(value, pairs, strict=True)
            if not _SYMBOL.fullmatch(symbol) or not _fits(named, sign, given)
        ]
        if wrong:
            accepted = {"inverse_symbols": "SYMBOL", "candles_from": "SYMBOL=OTHER"}.get(named, "SYMBOL=NUMBER, more than 0")
            msg = f"{', '.join(map(repr, wrong))}: accepted: {accepted}"
            raise ValueError(msg)
        if len({symbol for symbol, _, _ in pairs}) < len(pairs):
            msg = "a symbol is listed twice"
            raise ValueError(msg)
        return value

    @field_validator("asset_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if value and not all(re.fullmatch(r"[A-Za-z0-9_]{1,40}", part) for part in value.split("/")):
            msg = "accepted: parts of 1 to 40 letters, digits or _, with / between"
            raise ValueError(msg)
        return value

    @field_validator("risk_guards_extra")
    @classmethod
    def _check_guards(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [one for one in value if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", one)]
        if wrong or len(set(value)) < len(value) or set(value) & set(GUARDS):
            msg = f"accepted: each type once, 1 to 40 letters, digits, _ . or -, and none of {', '.join(GUARDS)}"
            raise ValueError(msg)
        return value

    @field_validator("contract_sizes", "inverse_symbols", "price_scales", "candles_from", "tick_sizes", mode="before")
    @classmethod
    def _split_symbols_named(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple("=".join(map(as_listed, part.strip().split("="))) for part in value.split(",") if part.strip())

    @field_validator(
        "risk_guards_extra",
        "alert_urls",
        "alert_urls_warn",
        "alert_urls_info",
        "alert_severities",
        "web_hosts",
        "redis_sentinels",
        mode="before",
    )
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator(
        "candle_fill",
        "marketstate_source",
        "position_source",
        "sl_ratchet",
        "efficiency_mode",
        "intent_mode",
        "key_template",
        "permit_format",
        mode="before",
    )
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return LOG_LEVELS.get(value.upper(), value.upper()) if isinstance(value, str) else value

    @field_validator("stream_name")
    @classmethod
    def _keep_streams(cls, value: str) -> str:
        return market_state_stream(value)

    @field_validator("*", mode="before")  # last of the "before" validators, because pydantic runs them in reverse order
    @classmethod
    def _strip_comment(cls, value: Any) -> Any:
        return uncommented(value) if isinstance(value, str) else value

    @field_validator("redis_url", "governor_redis_url", "celery_broker_url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        """Refuse a password that would be read as a host or a path, and then be shown as one; and a wrong port."""
        url = value.get_secret_value()
        if "+sentinel://" in url:
            try:
                sentinels_of(url)
            except ValueError:
                msg = f"accepted: {SENTINEL_FORM}; in user and password write / as %2F, @ as %40, # as %23"
                raise ValueError(msg) from None
            return value
        try:
            inside = url.startswith(("redis://", "rediss://")) and (
                "@" in url.partition("://")[2].partition("/")[2] or "#" in url
            )
            if inside or (url and urlsplit(url).port == 0):
                raise ValueError  # noqa: TRY301 - one message for all ways to be wrong
        except ValueError:
            msg = "in user and password write / as %2F, @ as %40, # as %23, ? as %3F; port 1 to 65535"
            raise ValueError(msg) from None
        return value

    @field_validator("redis_url", "governor_redis_url")
    @classmethod
    def _check_scheme(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(REDIS_SCHEMES):
            msg = f"accepted: redis://host:port/db, rediss://... (TLS), unix://path or {SENTINEL_FORM}, port 1 to 65535"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        templates = self.keys.templates()
        for name, variable in RENAMED.items():
            covered = [other for other, template in templates.items() if other != name and _cover(templates[name], template)]
            if covered:  # who may write the one kind of key could write the other, too
                msg = f"{variable}: keys like {templates[name]} could be keys of {', '.join(covered)}"
                raise ValueError(msg)
        for every, limit in SLOWER_THAN:
            if getattr(self, every) >= getattr(self, limit):
                msg = f"{every.upper()}={getattr(self, every)} must be less than {limit.upper()}={getattr(self, limit)}"
                raise ValueError(msg)
        if self.redis_sentinels:
            self._check_sentinels()
        self._check_recorder_url()
        governor = self.as_governor()
        if governor is not self and _server(governor.url) != _server(self.url):
            msg = "GOVERNOR_REDIS_URL=(hidden) must be the server and database of REDIS_URL, under another user"
            raise ValueError(msg)
        if self.p31_min_mult > self.p31_max_mult:
            msg = f"P31_MIN_MULT={self.p31_min_mult} must not exceed P31_MAX_MULT={self.p31_max_mult}"
            raise ValueError(msg)
        if self.profile not in ("", LOCKED) or self.challenger:  # the default is known as right
            _ = self.own_profile, self.challenger_profile  # raise for one that cannot be used: nothing is to start with it
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read explicit values first, then secrets in files, then the environment; no other files."""
        return init_settings, SecretFiles(settings_cls), env_settings

    def _check_sentinels(self) -> None:
        given = (self.redis_url, self.governor_redis_url)
        if any("+sentinel://" in url.get_secret_value() or url.get_secret_value().startswith("unix") for url in given):
            msg = "REDIS_SENTINELS is given, too; accepted beside it: redis://[user:password@]any/db or rediss://..."
            raise ValueError(msg)
        try:
            sentinels_of(self.url)
        except ValueError:
            given_as = f"REDIS_SENTINELS={','.join(self.redis_sentinels)}, REDIS_SENTINEL_SERVICE={self.redis_sentinel_service}"
            msg = f"{given_as}: accepted: host:port,host:port, port 1 to 65535, and letters, digits, _ . or -"
            raise ValueError(msg) from None

    def _check_recorder_url(self) -> None:
        scheme, sign, rest = self.recorder_url.partition("://")
        accepted = "accepted: an absolute path, s3://bucket/prefix (gs, az), or nothing for QUANTUM_HOME/recorder"
        bare = not set(rest) & set("@?#") and rest.strip("/")  # else a secret may be in it
        if sign and (scheme not in OBJECT_STORES or not bare):
            msg = f"RECORDER_URL={scheme}://(hidden): {accepted}; credentials only as the store's own variables (AWS_*)"
            raise ValueError(msg)
        if self.recorder_url and not sign and not self.recorder_url.startswith("/"):
            msg = f"RECORDER_URL={self.recorder_url}: {accepted}"
            raise ValueError(msg)

    @property
    def recorder_address(self) -> Path | str:
        """Folder of the recordings, or the address of an object store."""
        return self.recorder_url if "://" in self.recorder_url else self.recorder_folder

    @property
    def recorder_folder(self) -> Path:
        """Folder of the recordings, where they are on this host."""
        return Path(self.recorder_url) if self.recorder_url else self.quantum_home / "recorder"

    @property
    def sentinels(self) -> Sentinels | None:
        """Sentinels to ask for the server, where it has some."""
        return sentinels_of(self.url)

    @property
    def url(self) -> str:
        """Address of the Redis server, password included; never print it."""
        explicit = self.redis_url.get_secret_value()
        if self.redis_sentinels:
            parts = urlsplit(explicit or "redis:")
            user, at, _ = parts.netloc.rpartition("@")
            hosts, db = ",".join(self.redis_sentinels), parts.path.strip("/") or self.redis_db
            return f"{parts.scheme}+sentinel://{user}{at}{hosts}/{self.redis_sentinel_service}/{db}"
        if explicit:
            return explicit
        if self.redis_host:
            return f"redis://{self.redis_host}:{self.redis_port}/{self.redis_db}"
        try:
            return self.embedded_url_file.read_text().strip()
        except OSError:
            return f"redis://127.0.0.1:{EMBEDDED_PORT}/0"

    def as_governor(self) -> Settings:
        """Give these settings with the governor's address for the proposals'."""
        return (
            self.model_copy(update={"redis_url": self.governor_redis_url}) if self.governor_redis_url.get_secret_value() else self
        )

    @property
    def tls_files(self) -> dict[str, str]:
        """Certificates and key of TLS connections, by the names redis-py has for them."""
        files = {"ssl_ca_certs": self.redis_ca_file, "ssl_certfile": self.redis_cert_file, "ssl_keyfile": self.redis_key_file}
        return {name: file for name, file in files.items() if file}

    @property
    def broker_url(self) -> str:
        """Address of the workers' broker, password included; never print it."""
        return self.celery_broker_url.get_secret_value() or self.url

    @property
    def uses_embedded_server(self) -> bool:
        """Whether no address was given, so that ``quantum up`` starts a server of its own."""
        return not (self.redis_url.get_secret_value() or self.redis_host or self.redis_sentinels)

    @property
    def embedded_url_file(self) -> Path:
        """File in which ``quantum up`` or ``quantum example`` leaves the address of the embedded server."""
        return self.quantum_home / "redis.url"

    @cached_property
    def own_profile(self) -> Profile:
        """Parameters of all kernels as PROFILE and these settings have them; `quantum profile use` may put others in force.

        Raises
        ------
        ValueError
            The profile cannot be found or used, or contradicts other settings.
        """
        return self._profile_of("profile", self.profile or LOCKED)

    @cached_property
    def challenger_profile(self) -> Profile | None:
        """The profile of CHALLENGER; ``None`` where there is none.

        Raises
        ------
        ValueError
            It cannot be found or used, or contradicts other settings.
        """
        return self._profile_of("challenger", self.challenger) if self.challenger else None

    def _profile_of(self, setting: str, name: str) -> Profile:
        from quantum_core.profiles.files import ProfileFileError, load_once
        from quantum_core.profiles.in_force import in_force

        try:
            return in_force(load_once(name, self.symbols), self)
        except ProfileFileError as error:
            msg = f"{setting.upper()}={name}: {error}"
            raise ValueError(msg) from None

    @cached_property
    def contracts(self) -> dict[str, Contract]:
        """What one unit of size is, by symbol, where CONTRACT_SIZES or INVERSE_SYMBOLS name it."""
        sizes = {symbol: float(size) for symbol, _, size in (one.partition("=") for one in self.contract_sizes)}
        named = dict.fromkeys((*sizes, *self.inverse_symbols))
        return {symbol: Contract(sizes.get(symbol, 1.0), symbol in self.inverse_symbols) for symbol in named}

    def contract_of(self, symbol: str) -> Contract:
        """Give what one unit of size of a symbol is."""
        return _of_market(self.contracts, symbol, BASE_UNITS)

    def candle_scale_of(self, symbol: str) -> float:
        """Give the factor from prices of a symbol's candles to prices of its position."""
        return _of_market(self.candle_scales, symbol, 1.0)

    def candles_of(self, symbol: str) -> str:
        """Give the symbol whose candles a symbol is judged by."""
        return _of_market(self.candle_symbols, symbol, symbol)

    @cached_property
    def candle_scales(self) -> dict[str, float]:
        """Factor from prices of candles to prices of the position, by symbol, where it is not 1."""
        return {symbol: float(factor) for symbol, _, factor in (one.partition("=") for one in self.price_scales)}

    @cached_property
    def candle_symbols(self) -> dict[str, str]:
        """Whose candles a symbol is judged by, where they are not its own."""
        return {symbol: other for symbol, _, other in (one.partition("=") for one in self.candles_from)}

    @property
    def severities(self) -> dict[str, Severity]:
        """Severity by kind of alert, where ALERT_SEVERITIES names one."""
        chosen = dict(one.split("=") for one in self.alert_severities)
        return {kind: severity for kind, text in chosen.items() for severity in SEVERITIES if severity == text}

    @property
    def markets(self) -> list[str]:
        """Symbols as exchanges and candle files know them: each once, without its legs."""
        return underlyings(self.symbols)

    @property
    def ticks(self) -> dict[str, float]:
        """Tick size by symbol, in quote units, where TICK_SIZES names one."""
        return {symbol: float(tick) for symbol, _, tick in (one.partition("=") for one in self.tick_sizes)}

    def asset_path(self, asset: str) -> list[str]:
        """Give the parts of an asset's key in Dagster."""
        return [*filter(None, self.asset_prefix.split("/")), asset]

    @property
    def redis_address(self) -> str:
        """Address of the Redis server without credentials, for messages."""
        if self.sentinels is not None:
            scheme, _, rest = self.url.partition("://")
            return f"{scheme}://{rest.rpartition('@')[2]}"
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def keys(self) -> Keys:
        """All key names under these settings."""
        return Keys(
            cluster=self.key_template == "cluster",
            marketstate_prefix=self.marketstate_prefix.rstrip(":"),
            risk_prefix=self.riskproposal_prefix.rstrip(":"),
            harvest_prefix=self.harvest_prefix.rstrip(":"),
            marketstate_stream=self.stream_name,
        )


def _of_market(values: Mapping[str, Value], symbol: str, otherwise: Value) -> Value:
    """Look up what is set by symbol; both legs have what their symbol has."""
    return values.get(underlying(symbol), otherwise)


def _fits(named: str, sign: str, given: str) -> bool:
    """Whether what follows a symbol is what the setting accepts there."""
    if named == "inverse_symbols":
        return not sign
    if named == "candles_from":
        return bool(_SYMBOL.fullmatch(given))
    try:
        return 0 < float(given) < float("inf") and is_plain(given)
    except ValueError:
        return False


class SecretFiles(PydanticBaseSettingsSource):
    """Reads a secret from a file: the one named by ``<NAME>_FILE``, or the credential ``<name>`` that systemd hands over."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Read one field's file, if there is one.

        Raises
        ------
        SettingsError
            It cannot be read, or the secret is given in another way, too.
        """
        if "Secret" not in str(field.annotation):
            return None, field_name, False
        variable = f"{field_name.upper()}_FILE"
        credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "")) / field_name
        text_by_way = {one: uncommented(os.environ.get(one, "")) for one in (field_name.upper(), variable)}
        text_by_way[f"credential {field_name}"] = str(credential) if credential.is_absolute() and credential.exists() else ""
        ways = [way for way, text in text_by_way.items() if text]
        if len(ways) > 1:
            msg = f"  {' and '.join(ways)} are all given; accepted: one of them"
            raise SettingsError(_WRONG.format(1) + msg)
        if not ways or ways == [field_name.upper()]:
            return None, field_name, False
        try:
            return Path(text_by_way[ways[0]]).read_text().strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            msg = f"  {ways[0]}={text_by_way[ways[0]]!r} cannot be read: {error}"
            raise SettingsError(_WRONG.format(1) + msg) from None

    def __call__(self) -> dict[str, Any]:
        """Read all of them."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def uncommented(text: str) -> str:
    """Take the comment off a value."""
    return _COMMENT.sub("", text).strip()


def market_state_stream(name: str) -> str:
    """Give the stream of the market state under STREAM_NAME.

    Each service once had a file with a STREAM_NAME of its own: the name of another of our streams is not meant for this one.
    """
    streams = (template for kind, template in Keys().templates().items() if kind.startswith("stream_"))
    return MARKET_STATE_STREAM if name in set(streams) - {MARKET_STATE_STREAM} else name


def as_listed(symbol: str) -> str:
    """Spell a symbol as the houses list it: kPEPE keeps its case, what was typed in lower case only is meant in upper case."""
    return symbol.upper() if symbol.islower() else symbol


def _cover(one: str, other: str) -> bool:
    """Whether a key of one template could be one of the other."""
    (head, hole, _), (other_head, other_hole, _) = one.partition("{"), other.partition("{")
    return one == other or bool((hole and other_head.startswith(head)) or (other_hole and head.startswith(other_head)))


def _server(url: str) -> tuple[object, ...]:
    if (at := sentinels_of(url)) is not None:
        return frozenset(at.hosts), at.service, at.db
    parts = urlsplit(url)
    return parts.hostname, parts.port or REDIS_PORT, parts.path.strip("/") or "0"


def load_settings(**overrides: Any) -> Settings:
    """Read and validate all settings.

    Parameters
    ----------
    **overrides
        Field names and values that win over the environment.

    Raises
    ------
    SettingsError
        One message for all wrong variables.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, os.environ)) from None


def check_values(values: Mapping[str, str]) -> str:
    """Say what is wrong with values by field, whatever the environment has; nothing when all are accepted."""
    try:
        _Given(**values)  # type: ignore[arg-type]  # texts, as an environment has them
    except ValidationError as error:
        return _explain(error, {name.upper(): value for name, value in values.items()})
    return ""


class _Given(Settings):
    """Settings of what is given, and nothing else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read explicit values only."""
        return (init_settings,)


def _explain(error: ValidationError, environ: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]).upper() if problem["loc"] else ""
        field = Settings.model_fields.get(name.lower())
        secret = field is not None and "Secret" in str(field.annotation)
        seen = environ.get(name, problem["input"]) if name else ""
        value = "(hidden)" if secret else repr(seen)
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"  {name}={value}: {message}" if name else f"  {message}")
    return _WRONG.format(len(lines)) + "\n".join(lines)
