"""What follows from the settings as they are given: addresses, folders, names of keys, and what is set by symbol."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from quantum_core.alert_catalogue import SEVERITIES, Severity
from quantum_core.contracts.legs import underlying, underlyings
from quantum_core.contracts.tables import Keys
from quantum_core.kernels.position.contract import BASE_UNITS, Contract
from quantum_core.settings.addresses import Sentinels, sentinels_of
from quantum_core.settings.declared import Declared

EMBEDDED_PORT = 6390  # first choice of the embedded Valkey; the port really taken is in <QUANTUM_HOME>/redis.url
Value = TypeVar("Value")


class Derived(Declared):
    """Declared settings with what follows from them."""

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

    def as_governor(self) -> Self:
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
