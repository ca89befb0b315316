"""Settings: everything wrong is said at once, nothing secret is ever said."""

from pathlib import Path

import pytest

from quantum_core.contracts.tables import Keys
from quantum_core.settings import Settings, SettingsError, load_settings


def test_all_wrong_variables_are_named_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mending one problem per restart is how nights are lost."""
    wrong = {
        "SYMBOLS": " ",
        "PUBLISH_INTERVAL_SEC": "0",
        "EFFICIENCY_MODE": "sometimes",
        "P31_MIN_CONF": "1.5",
        "ALLOW_SYNTHETIC": "maybe",
        "REDIS_URL": "http://localhost",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    text = str(refused.value)
    assert all(name in text for name in wrong)
    assert "'sometimes'" in text
    assert "'external', 'shadow' or 'enforce'" in text


@pytest.mark.parametrize("value", ["30 # twice a minute", "30\t# x", " 30 "])
def test_a_trailing_comment_is_not_part_of_the_value(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An env file with comments once crashed a service."""
    monkeypatch.setenv("PUBLISH_INTERVAL_SEC", value)
    assert load_settings().publish_interval_sec == 30


def test_a_password_is_neither_in_messages_nor_in_the_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs travel further than secrets should."""
    monkeypatch.setenv("REDIS_URL", "redis://user:hunter2@db.example:6380/1")
    monkeypatch.setenv("ALERT_URLS", "slack://hunter2/abc")
    settings = load_settings()
    assert settings.url.endswith("hunter2@db.example:6380/1")
    assert settings.redis_address == "redis://db.example:6380/1"
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("REDIS_URL", "ftp://user:hunter2@db.example")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


def test_legacy_spellings_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing deployments keep their environment files."""
    monkeypatch.setenv("MARKETSTATE_SYMBOLS", "btcusdt, dogeusdt")
    monkeypatch.setenv("MARKETSTATE_REDIS_HOST", "cache.example")
    monkeypatch.setenv("MARKETSTATE_REDIS_PORT", "6400")
    monkeypatch.setenv("REDIS_DB", "2")
    settings = load_settings()
    assert settings.symbols == ("BTCUSDT", "DOGEUSDT")
    assert settings.url == "redis://cache.example:6400/2"


def test_the_new_spelling_wins_over_the_legacy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a forgotten variable would win over a deliberate one."""
    monkeypatch.setenv("MARKETSTATE_SYMBOLS", "AAAUSDT")
    monkeypatch.setenv("SYMBOLS", "BBBUSDT")
    assert load_settings().symbols == ("BBBUSDT",)


@pytest.mark.parametrize("symbols", ["BTC:USDT", "A", "BTCUSDT,BTCUSDT", "{X}USDT", ",,"])
def test_a_symbol_that_cannot_be_part_of_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, symbols: str) -> None:
    """Keys are read by programs that split them at colons."""
    monkeypatch.setenv("SYMBOLS", symbols)
    with pytest.raises(SettingsError, match="SYMBOLS"):
        load_settings()


def test_prefixes_rename_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two deployments may share one server."""
    monkeypatch.setenv("MARKETSTATE_PREFIX", "desk2:marketstate:")
    monkeypatch.setenv("STREAM_NAME", "desk2:stream")
    keys = load_settings().keys
    assert keys.of("market_state", "BTCUSDT") == "desk2:marketstate:BTCUSDT"
    assert keys.of("stream_market_state") == "desk2:stream"


def test_every_setting_is_described() -> None:
    """The description is the documentation."""
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("url", ["redis://localhost:99999/0", "redis://localhost:abc/0", "localhost:6379", "redis://localhost:0"])
def test_an_address_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Better at start than as a traceback in the first cycle."""
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError, match="REDIS_URL"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MARKETSTATE_PREFIX", "quantum:allocation:target"),
        ("RISKPROPOSAL_PREFIX", "quantum:harvest:proposal"),
        ("MARKETSTATE_PREFIX", "quantum"),
        ("HARVEST_PREFIX", "quantum:state"),
        ("MARKETSTATE_PREFIX", "quantum:permit:mine"),
        ("STREAM_NAME", "quantum:permit:mine"),
    ],
)
def test_a_prefix_that_would_write_into_another_key_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The live allocation target is never written by us, not even by a typing error."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


@pytest.mark.parametrize("name", [one for kind, one in Keys().templates().items() if kind.startswith("stream_")])
def test_a_stream_name_of_another_service_is_not_that_of_the_market_state(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each service once had an environment file with a STREAM_NAME of its own."""
    monkeypatch.setenv("STREAM_NAME", f"{name} # ours")
    assert load_settings().keys.of("stream_market_state") == "quantum:stream:marketstate"


def test_a_symbol_keeps_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """KPEPE would be another market, or none; what was typed in lower case only is a spelling of ours."""
    monkeypatch.setenv("SYMBOLS", "kPEPE,btcusdt,币安人生USDT,BTCUSDT_260327,1000shibusdt")
    assert load_settings().symbols == ("kPEPE", "BTCUSDT", "币安人生USDT", "BTCUSDT_260327", "1000SHIBUSDT")


@pytest.mark.parametrize(("given", "level"), [("warn", "WARNING"), ("critical", "ERROR"), ("Debug", "DEBUG")])
def test_the_log_level_of_older_services_is_understood(monkeypatch: pytest.MonkeyPatch, given: str, level: str) -> None:
    """It has more names than we tell apart."""
    monkeypatch.setenv("MARKETSTATE_LOG_LEVEL", given)
    assert load_settings().log_level == level
    monkeypatch.setenv("LOG_LEVEL", "info")
    assert load_settings().log_level == "INFO"


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of a process is read more easily than a credential of systemd."""
    file = tmp_path / "redis_url"
    file.write_text("redis://user:a%23b@127.0.0.1:6399/0\n")
    monkeypatch.setenv("REDIS_URL_FILE", f"{file} # of the proposals")
    monkeypatch.setenv("REDIS_URL", " # it stands in a file")
    assert load_settings().url == "redis://user:a%23b@127.0.0.1:6399/0"
    monkeypatch.delenv("REDIS_URL_FILE")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # of systemd's LoadCredential=redis_url:...
    assert load_settings().url == "redis://user:a%23b@127.0.0.1:6399/0"
    alerts = tmp_path / "alerts"
    alerts.write_text("json://one, json://two")
    monkeypatch.setenv("ALERT_URLS_FILE", str(alerts))
    assert len(load_settings().alert_urls) == 2


def test_a_secret_file_that_cannot_be_used_stops_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Falling back to another address would be a silent change of server."""
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match="REDIS_URL_FILE"):
        load_settings()
    (tmp_path / "missing").write_text("redis://127.0.0.1")
    monkeypatch.setenv("REDIS_URL", "redis://planted@127.0.0.1")
    with pytest.raises(SettingsError, match="REDIS_URL and REDIS_URL_FILE are all given") as caught:
        load_settings()
    assert "planted" not in str(caught.value)
    (tmp_path / "redis_url").write_text("redis://127.0.0.1")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("REDIS_URL_FILE")
    with pytest.raises(SettingsError, match="REDIS_URL and credential redis_url are all given"):
        load_settings()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "missing"))
    monkeypatch.delenv("REDIS_URL")
    (tmp_path / "missing").write_text("no address")
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        load_settings()
    assert "no address" not in str(caught.value)


def test_the_governor_decides_on_the_server_where_the_proposals_are() -> None:
    """Permits on another server would be seen by nobody, and kill switches by no governor."""
    proposals = "redis://proposals:x@127.0.0.1:6399/0"
    settings = load_settings(redis_url=proposals, governor_redis_url="redis://governor:planted@127.0.0.1:6399")
    assert settings.as_governor().url == "redis://governor:planted@127.0.0.1:6399"
    assert load_settings(redis_url=proposals).as_governor().url == proposals
    for other in ("redis://governor:planted@127.0.0.2:6399/0", "redis://governor:planted@127.0.0.1:6399/1"):
        with pytest.raises(SettingsError, match="GOVERNOR_REDIS_URL") as caught:
            load_settings(redis_url=proposals, governor_redis_url=other)
        assert "planted" not in str(caught.value)


@pytest.mark.parametrize("name", ["redis_url", "celery_broker_url"])
@pytest.mark.parametrize("url", ["redis://u:123/S3cret@host", "redis://:/S3cret@host", "redis://u:S3c/ret@host:6379/0"])
def test_a_password_that_would_be_read_as_host_or_path_is_refused_and_not_shown(name, url) -> None:
    """What comes before the slash is taken for the host, and the rest of the password for what may be printed."""
    with pytest.raises(SettingsError, match="%2F") as caught:
        load_settings(**{name: url})
    assert "S3c" not in str(caught.value)
    assert load_settings(**{name: url.replace("/S3", "%2FS3").replace("S3c/", "S3c%2F")})


@pytest.mark.parametrize("value", ["guard", "guard=loud", "nothing=page", "guard=page,guard=warn"])
def test_a_severity_is_one_of_three_of_a_kind_that_exists(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A misspelt kind would page nobody."""
    monkeypatch.setenv("ALERT_SEVERITIES", value)
    with pytest.raises(SettingsError, match="ALERT_SEVERITIES="):
        load_settings()
    monkeypatch.setenv("ALERT_SEVERITIES", "permit_unused=page, guard=warn # at night")
    assert load_settings().severities == {"permit_unused": "page", "guard": "warn"}


def test_the_addresses_of_warnings_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are secrets like ALERT_URLS."""
    file = tmp_path / "warn"
    file.write_text("json://a, json://b\n")
    monkeypatch.setenv("ALERT_URLS_WARN_FILE", str(file))
    assert [url.get_secret_value() for url in load_settings().alert_urls_warn] == ["json://a", "json://b"]


def test_both_legs_of_a_symbol_have_what_is_set_for_it() -> None:
    """A leg is counted, and judged by candles, as its symbol is; any other symbol as it stands."""
    settings = load_settings(
        contract_sizes=("BTCUSDT=100",),
        price_scales=("BTCUSDT=1000",),
        candles_from=("BTCUSDT=XBTUSD",),
        hedge_symbols=("BTCUSDT",),
    )
    for name in ("BTCUSDT", "BTCUSDT.LONG", "BTCUSDT.SHORT"):
        assert (settings.contract_of(name).size, settings.candle_scale_of(name), settings.candles_of(name)) == (
            100,
            1000,
            "XBTUSD",
        )
    assert (settings.contract_of("ETHUSDT").size, settings.candle_scale_of("ETHUSDT"), settings.candles_of("ETHUSDT")) == (
        1,
        1,
        "ETHUSDT",
    )
