"""Real servers for the tests, each on its own free port, and a clock that only moves when told to."""

import gc
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import dagster as dg
import hypothesis
import pytest
import redis
from alembic.config import Config
from alembic.script import ScriptDirectory

from quantum_core.settings import Settings, load_settings
from resources.instance.home import EVENT_BATCH_SIZE, open_instance
from resources.store.redis_store import RedisStore
from tests.postgres import postgres_server, postgres_url  # noqa: F401 - fixtures
from tests.servers import free_port, need, valkey

START = datetime(2026, 1, 22, 12, 0, tzinfo=UTC)
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "DAGSTER_DISABLE_TELEMETRY")


WHOLE_STACKS = {"stack", "browser", "chaos", "security"}  # folders whose slow tests fill a machine of two cores


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start: a shell ignores it for what it runs in the background, and so do all its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before the options choose by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start whole stacks: `make slow` runs them one after the other, beside all other slow ones."""
    for item in items:
        if item.path.parent.name in WHOLE_STACKS and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.whole_stack)


class Clock:
    """The one clock of a test."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Name one instance folder after the other; what uses one makes it."""
    base = tmp_path_factory.mktemp("homes")
    return (base / str(number) for number in count())


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch, _homes: Iterator[Path]) -> None:
    """A variable of the developer's shell must not decide a test, and no test writes into the instance folder of the checkout."""
    for name in Settings.model_fields:
        for variable in {name.upper(), f"{name.upper()}_FILE", f"MARKETSTATE_{name.upper()}"}:
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("QUANTUM_HOME", str(next(_homes)))


@pytest.fixture(autouse=True)
def _patient_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for seconds is no finding. Tests of the bounds set their own; programs keep the product's."""
    be_patient(monkeypatch)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for Redis as long as it takes; for what is made before the fixtures of a test, too."""
    monkeypatch.setattr("resources.store.transport.breaker.BUDGET_SEC", 1e9)
    monkeypatch.setattr("resources.store.transport.connection.COMMAND_TIMEOUT_SEC", 20.0)
    monkeypatch.setattr("resources.store.transport.connection.CALL_BOUND_SEC", 60.0)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is there for good: modules and tests, half a million objects each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _migrations_read_once() -> Iterator[None]:
    """Alembic reads a hundred files of Dagster's whenever a new storage is opened; a test opens up to three."""
    read, known = ScriptDirectory.from_config, {}

    def from_config(config: Config) -> ScriptDirectory:
        folder = config.get_main_option("script_location")
        if folder not in known:
            known[folder] = read(config)
        return known[folder]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", from_config)
        yield


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A Valkey of our own."""
    with valkey() as server:
        yield server.connection_url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis 7 of our own; CI installs the program."""
    program = need("redis-server")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    arguments = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    client.close()
    yield f"redis://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def _new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance folder whose storage is made: making it takes longer than most tests."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_HOME", str(home))
        open_instance(load_settings(quantum_home=home)).dispose()
    return home


@pytest.fixture
def instance(_new_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The product's Dagster instance in a folder of its own."""
    home = shutil.copytree(_new_home, tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", str(EVENT_BATCH_SIZE))
    with open_instance(load_settings(quantum_home=home)) as opened:
        yield opened


@pytest.fixture
def server_url(valkey_url: str) -> str:
    """The server a test runs on: Valkey, unless a test asks for both."""
    return valkey_url


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def make_store(server_url: str, clock: Clock, tmp_path: Path) -> Iterator[Callable[..., RedisStore]]:
    """Build stores on an emptied server of our own, with any settings."""
    stores: list[RedisStore] = []

    def make(**overrides: object) -> RedisStore:
        settings = load_settings(**{"redis_url": server_url, "quantum_home": tmp_path / "home", **overrides})
        store = RedisStore(settings, clock)
        if not stores:
            store.client.flushdb()
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.client.close()


@pytest.fixture
def store(make_store: Callable[..., RedisStore]) -> RedisStore:
    """A store with default settings."""
    return make_store()


@pytest.fixture
def settings(store: RedisStore) -> Settings:
    """The settings of that store."""
    return store.settings


os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
hypothesis.settings.register_profile("no-deadline", deadline=None)  # a busy machine is no finding
hypothesis.settings.load_profile("no-deadline")
