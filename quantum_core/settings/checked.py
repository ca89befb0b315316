"""What is accepted: each value by itself, and all of them together."""

from __future__ import annotations

import re
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationInfo, field_validator, model_validator

from quantum_core.alert_catalogue import KINDS, SEVERITIES
from quantum_core.contracts.legs import underlying, with_legs
from quantum_core.contracts.reading import is_plain
from quantum_core.contracts.tables import Keys
from quantum_core.kernels.governor.risk_guard import GUARDS
from quantum_core.settings.addresses import REDIS_SCHEMES, SENTINEL_FORM, sentinels_of, server_of
from quantum_core.settings.declared import MARKET_STATE_STREAM
from quantum_core.settings.derived import Derived
from quantum_core.settings.sources import uncommented

_SYMBOL = re.compile(r"[\w-]{2,40}")
SLOWER_THAN = (  # what is renewed less often than it is believed would be stale for ever
    ("publish_interval_sec", "proposal_max_age_sec"),
    ("marketstate_publish_interval", "marketstate_max_age_sec"),
)
OBJECT_STORES = ("s3", "gs", "az")
LOG_LEVELS = {"WARN": "WARNING", "CRITICAL": "ERROR", "FATAL": "ERROR"}  # other spellings, and levels that we do not distinguish
RENAMED = {  # kinds of keys that operators may rename
    "market_state": "MARKETSTATE_PREFIX",
    "risk_proposal": "RISKPROPOSAL_PREFIX",
    "harvest_proposal": "HARVEST_PREFIX",
    "stream_market_state": "STREAM_NAME",
}


class Checked(Derived):
    """Settings that are accepted, but for the profiles that they name."""

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
    def _check_together(self) -> Self:
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
        if governor is not self and server_of(governor.url) != server_of(self.url):
            msg = "GOVERNOR_REDIS_URL=(hidden) must be the server and database of REDIS_URL, under another user"
            raise ValueError(msg)
        if self.p31_min_mult > self.p31_max_mult:
            msg = f"P31_MIN_MULT={self.p31_min_mult} must not exceed P31_MAX_MULT={self.p31_max_mult}"
            raise ValueError(msg)
        return self

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
