"""The doctor names each trouble that is brought about, says what to do, and finds nothing wrong where nothing is."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from quantum_core.contracts.tables import MARKET_STATE, RISK_PROPOSAL
from quantum_core.settings import SettingsError
from quantum_ops.cli import cli
from quantum_ops.doctor import diagnosis, server_needs
from quantum_ops.doctor.env_files import examine_files
from resources.store.lease import other_holder
from resources.store.redis_store import RedisStore
from tests.servers import valkey
from tests.world import real_closes, write_candles, write_equity, write_position

SECRET = "plantedpassword"  # noqa: S105 - what must not be printed


@pytest.fixture
def examine(make_store, monkeypatch: pytest.MonkeyPatch):
    """Give a store on a clean world, and a function that runs the command on it and gives the findings that are not ok."""
    store = make_store()
    store.clock.now = diagnosis.RedisStore(store.settings).clock()
    for symbol in store.settings.symbols:
        write_candles(store, symbol, real_closes(symbol))
    write_equity(store)
    store.client.set(store.keys.of("heartbeat", "bell"), store.clock().timestamp())
    store.settings.quantum_home.mkdir(mode=0o700)

    def run(expected: int = 0, **variables: object) -> dict[str, dict[str, str]]:
        wanted = {
            "REDIS_URL": store.settings.url,
            "QUANTUM_HOME": str(store.settings.quantum_home),
            "ALERT_URLS": "json://127.0.0.1:9",
            **{name: str(value) for name, value in variables.items()},
        }
        for name, value in wanted.items():
            monkeypatch.setenv(name, value)
        result = CliRunner().invoke(cli, ["doctor", "--json"])
        assert result.exit_code == expected, result.output
        assert SECRET not in result.output
        return {one["what"]: one for one in json.loads(result.output) if one["level"] != "ok" and one["what"] not in EXCUSED}

    return store, run


EXCUSED = {"user", "persistence", "disk"}  # tests run as root in a container, on a server that forgets


def test_where_nothing_is_wrong_it_finds_nothing(examine) -> None:
    _, run = examine
    assert run() == {}


def keep_every_fifth(store) -> None:
    """Leave candles of five minutes where those of one are expected."""
    key = store.keys.of("candles_history", "BTCUSDT")
    kept = store.client.zrange(key, 0, -1)[::-5]
    store.client.zrem(key, *(set(store.client.zrange(key, 0, -1)) - set(kept)))


TROUBLES = [
    ("candles", keep_every_fifth, "BTCUSDT: candles_spacing: 300.0 s, want 60 s", 0),
    ("our keys", lambda store: store.client.hset(store.keys.of(MARKET_STATE.key, "BTCUSDT"), "sigma", "abc"), "BTCUSDT", 1),
    ("our keys", lambda store: store.client.set(store.keys.of(RISK_PROPOSAL.key, "ETHUSDT"), "x"), "ETHUSDT", 1),
    ("our keys", lambda store: store.client.set(store.keys.of("stream_market_state"), "x"), "stream:marketstate", 1),
    ("candles", lambda store: store.client.delete(store.keys.of("candles_history", "SOLUSDT")), "SOLUSDT: candles_missing", 0),
    ("positions", lambda store: store.client.set(store.keys.of("raw_position", "SOLUSDT"), "x"), "SOLUSDT", 0),
    ("positions", lambda store: write_position(store, "SOLUSDT", entry_price="-1"), "entry_price=-1", 0),
    ("bell", lambda store: store.client.delete(store.keys.of("heartbeat", "bell")), "never heard of", 0),
    ("bell", lambda store: store.client.set(store.keys.of("heartbeat", "bell"), "1700000000"), "silent for", 0),
    ("account", lambda store: store.client.delete(store.keys.of("equity")), "no equity", 0),
    ("account", lambda store: store.client.hset(store.keys.of("equity"), "equity", "nan"), "equity is 'nan'", 0),
    ("account", lambda store: store.client.hset(store.keys.of("equity"), "last_update_ts", "1700000000"), "age=", 0),
    ("account", lambda store: store.client.set(store.keys.of("consecutive_losses"), "-1"), "consecutive_losses: '-1'", 0),
    ("our keys", lambda store: store.client.set(store.keys.of("counts_ran"), "x"), "quantum:metrics:ran", 1),
    ("file modes", lambda store: store.settings.quantum_home.chmod(0o755), "open to everybody", 1),
    ("eviction", lambda store: store.client.config_set("maxmemory-policy", "allkeys-lru"), "allkeys-lru", 1),
]


@pytest.mark.parametrize(("what", "bring_about", "seen", "code"), TROUBLES, ids=[f"{row[0]}-{row[2]}" for row in TROUBLES])
def test_a_trouble_is_named_with_what_to_do(examine, what, bring_about, seen, code) -> None:
    store, run = examine
    bring_about(store)
    try:
        found = run(code)
    finally:
        store.client.config_set("maxmemory-policy", "noeviction")
    assert found.keys() == {what}
    assert seen in found[what]["seen"]
    assert found[what]["remedy"]


def test_a_second_stack_is_named(examine, tmp_path) -> None:
    store, run = examine
    other_holder(store, "one")
    other_holder(
        RedisStore(store.settings.model_copy(update={"quantum_home": tmp_path / "second"}), store.clock, store.client), "one"
    )
    assert "second" in run()["stacks"]["seen"]


def test_settings_that_have_no_place_in_production_are_named(examine) -> None:
    _, run = examine
    assert "ALLOW_SYNTHETIC" in run(ALLOW_SYNTHETIC="true")["settings"]["seen"]
    assert "ALERT_URLS" in run(ALERT_URLS="", ALLOW_SYNTHETIC="false")["settings"]["seen"]


def test_a_setting_whose_name_is_misspelt_is_named(examine) -> None:
    """A limit that is not in force is none."""
    _, run = examine
    found = run(GOV_MAX_EXECS_PER_HOUR="1", DAGSTER_POSTGRES_URL="x", HOSTNAME="x")
    assert found.keys() == {"names of settings"}
    assert found["names of settings"]["remedy"] == "did you mean GOV_MAX_EXEC_PER_HOUR?"


OLD_FILES = {
    "marketstate.env": f"""# one of several
export MARKETSTATE_SYMBOLS="BTCUSDT,kPEPE" # two
MARKETSTATE_LOG_LEVEL=warn
STREAM_NAME=quantum:stream:marketstate
METRICS_PORT=9100
PUBLISH_INTERVAL_SEC=10
REDIS_URL=redis://u:{SECRET}@h:1/0
not a line
""",
    "harvest.env": "STREAM_NAME=quantum:stream:harvest.proposal\r\nLOOP_INTERVAL_SEC=10\r\nPUBLISH_INTERVAL_SEC=10\r\n",
    "governor.env": "GOV_ENABLE_AUTO_DISARM=true\nGOV_MAX_EXECS_PER_HOUR=3\nANOTHER=1\n",
}


def test_old_environment_files_are_explained(tmp_path: Path) -> None:
    """Whoever moves over wants to know what still counts, before the first start."""
    for name, content in OLD_FILES.items():
        (tmp_path / name).write_bytes(content.encode())
    files = [str(tmp_path / name) for name in OLD_FILES]
    result = CliRunner().invoke(cli, ["doctor", "--json", "--env", *files])
    assert (result.exit_code, SECRET in result.output) == (0, False), result.output
    said = {f"{one['what']}: {one['seen']}": one["level"] for one in json.loads(result.stdout)}
    assert said == {
        "marketstate.env line 2: MARKETSTATE_SYMBOLS=BTCUSDT,kPEPE is taken over": "ok",
        "marketstate.env line 3: MARKETSTATE_LOG_LEVEL=warn is taken over": "ok",
        "marketstate.env line 4: STREAM_NAME=quantum:stream:marketstate is taken over": "ok",
        "marketstate.env line 5: METRICS_PORT is obsolete and ignored": "warn",
        "marketstate.env line 6: PUBLISH_INTERVAL_SEC=10 is taken over": "ok",
        "marketstate.env line 7: REDIS_URL=(hidden) is taken over": "ok",
        "marketstate.env line 8: is no NAME=value": "warn",
        "harvest.env line 1: STREAM_NAME=quantum:stream:harvest.proposal names another of our streams, "
        "which has this name already": "ok",
        "harvest.env line 2: LOOP_INTERVAL_SEC is obsolete and ignored": "warn",
        "harvest.env line 3: PUBLISH_INTERVAL_SEC=10 is taken over": "ok",
        "governor.env line 1: GOV_ENABLE_AUTO_DISARM is obsolete and ignored": "warn",
        "governor.env line 2: GOV_MAX_EXECS_PER_HOUR is unknown and ignored": "warn",
        "governor.env line 3: ANOTHER is none of our settings and ignored": "ok",
    }


def test_old_environment_files_that_conflict_are_refused(tmp_path: Path) -> None:
    """One setting for all processes: which of the two is meant, only a person knows."""
    for name, content in (("a.env", "SYMBOLS=A1\nP31_MIN_CONF=7\n"), ("b.env", "MARKETSTATE_SYMBOLS=B1\nREDIS_URL=x\n")):
        (tmp_path / name).write_text(content)
    result = CliRunner().invoke(cli, ["doctor", "--env", str(tmp_path / "a.env"), "--env", str(tmp_path / "b.env")])
    assert result.exit_code == 1
    assert "SYMBOLS of a.env line 1; MARKETSTATE_SYMBOLS of b.env line 1" in result.output
    assert "P31_MIN_CONF='7'" in result.output
    assert "REDIS_URL=(hidden)" in result.output
    with pytest.raises(SettingsError, match="cannot be read"):
        CliRunner().invoke(cli, ["doctor", "--env", str(tmp_path)], catch_exceptions=False)
    assert CliRunner().invoke(cli, ["doctor", str(tmp_path / "a.env")]).exit_code == 2


ENV_LINES: dict[bytes, list[str]] = {
    b"\xef\xbb\xbfexport\tSYMBOLS='BTCUSDT,ETHUSDT' # two\r\n\r\n  LOG_LEVEL = INFO\r\n": ["1 ok SYMBOLS=BTCUSDT,ETHUSDT", "3 ok LOG_LEVEL=INFO"],
    "# Größe\nSYMBOLS=A1\n".encode("latin-1"): ["2 ok SYMBOLS=A1"],
    "SYMBOLS=A1\n".encode("utf-16"): ["1 ok SYMBOLS=A1"],
    b"; of systemd\nSYMBOLS=A1,\\\n  B1\nREDIS_PORT=1\n": ["2 ok SYMBOLS=A1,B1", "4 ok REDIS_PORT=1"],
    b"services:\n  one:\n    environment:\n      - SYMBOLS=A1\n      - 'REDIS_PORT=1'\n": ["4 ok SYMBOLS=A1", "5 ok REDIS_PORT=1"],
    b'    environment:\n      SYMBOLS: "A1"\n      "REDIS_PORT": 1 # x\n': ["2 ok SYMBOLS=A1", "3 ok REDIS_PORT=1"],
    b'[Service]\nEnvironment=SYMBOLS=A1\nEnvironment="REDIS_PORT=1"\n': ["2 ok SYMBOLS=A1", "3 ok REDIS_PORT=1"],
    b"ENV SYMBOLS=A1\nset REDIS_PORT=1\n-e LOG_LEVEL=INFO": ["1 ok SYMBOLS=A1", "2 ok REDIS_PORT=1", "3 ok LOG_LEVEL=INFO"],
    b"symbols=A1\nredis_port=1\n": ["1 ok symbols=A1", "2 ok redis_port=1"],
    b"metrics_port=x\nLOOP_INTERVAL_SEC=\n": ["1 warn metrics_port is obsolete", "2 warn LOOP_INTERVAL_SEC is obsolete"],
    b"SYMBOLS=${SYMBOLS:-A1}\nREDIS_PORT=$PORT\n": ["1 fail SYMBOLS refers", "2 fail REDIS_PORT refers"],
    b"STREAM_NAME=quantum:stream:trade.execution\n": ["1 warn STREAM_NAME=quantum:stream:trade.execution"],
    b"STREAM_NAME=quantum:stream:governor.events\n": ["1 ok STREAM_NAME=quantum:stream:governor.events names another"],
    b'Environment="SYMBOLS=A1" "REDIS_PORT=1"\nSYMBOLS="A1\nREDIS_PORT=1': ["1 warn is no NAME", "2 warn is no NAME", "3 ok REDIS_PORT=1"],
    b"": ["warn has no variable"],
    b"# nothing\n": ["warn has no variable"],
}  # fmt: skip


@pytest.mark.parametrize("content", ENV_LINES)
def test_an_environment_file_of_any_program_is_read(tmp_path: Path, content: bytes) -> None:
    """Shells, systemd, compose, Docker and editors of Windows have them in their own ways; names count in any case, as in the environment."""
    (tmp_path / "a.env").write_bytes(content)
    told = [f"{what} {level} {seen}" for what, level, seen, _ in examine_files([tmp_path / "a.env"])]
    others = ("services:", "environment:", "one:", "[Service]")  # lines that hold no variable
    lines = [line for line in told if not any(one in content.decode("latin-1") for one in others) or "is no NAME" not in line]
    wanted = ENV_LINES[content]
    assert len(lines) == len(wanted)
    for line, start in zip(lines, wanted, strict=True):
        assert line.removeprefix("a.env ").removeprefix("line ").startswith(start)


@pytest.mark.parametrize(
    "line",
    ["{0}", "export {0}", "A {0}", "REDIS_HOST=redis://:{0}@h", "REDIS_PORT=redis://u:{0}@h", "{0}abCD/+==", "{0}aB==", "REDIS_URL=\"{0}",
     "ALERT_URLS=slack://{0}", "REDIS_URL=${{{0}}}", "redis_url=redis//{0}", "REDIS_SENTINEL_PASSWORD={0}", "BINANCE_API_SECRET={0}",
     "- REDIS_URL=redis://:{0}@h/x", "REDIS_PASSWORD: {0}", "REDIS_URL=redis://:{0}@h/0\nREDIS_URL=redis://:b{0}@h/0"],
)  # fmt: skip
def test_nothing_of_a_secret_in_an_environment_file_is_shown(tmp_path: Path, line: str) -> None:
    """Its output is pasted into chats and tickets."""
    (tmp_path / "a.env").write_text(line.format(SECRET))
    told = list(examine_files([tmp_path / "a.env"]))
    assert told
    assert SECRET not in str(told)


@pytest.mark.parametrize("content", [bytes(range(256)), b"A" * (2 << 20), b"\0"])
def test_what_is_no_environment_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """One line, whatever its size."""
    (tmp_path / "a.env").write_bytes(content)
    with pytest.raises(SettingsError, match=r"give a file of lines NAME=value") as caught:
        list(examine_files([tmp_path / "a.env"]))
    assert len(str(caught.value)) < 200 + len(str(tmp_path))


def test_a_setting_of_an_older_service_is_named(examine) -> None:
    """It is ignored, which nobody would notice."""
    _, run = examine
    assert run(METRICS_PORT="9100")["names of settings"]["seen"] == "METRICS_PORT is obsolete and ignored"


def test_a_user_without_the_right_to_write_is_found_before_the_first_cycle(examine) -> None:
    store, run = examine
    store.client.execute_command(
        "ACL", "SETUSER", "viewer", "on", f">{SECRET}", "~*", "+@read", "+@connection", "+info", "+time", "+eval_ro"
    )
    try:
        found = run(1, REDIS_URL=store.settings.url.replace("redis://", f"redis://viewer:{SECRET}@"))
    finally:
        store.client.execute_command("ACL", "DELUSER", "viewer")
    assert {"rights of quantum-proposals", "rights of quantum-governor"} <= found.keys()


def test_a_clock_that_is_off_and_a_server_that_is_too_old_are_found(examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is moved by hand; for an old server, what is too old is."""
    store, _ = examine
    store.clock.advance(17)
    (finding,) = diagnosis._clock(store)
    assert (finding.level, finding.seen[:2]) == ("fail", "+1")
    monkeypatch.setattr(server_needs, "OLDEST", {"Redis": 99, "Valkey": 99})
    assert next(diagnosis._server(store)).level == "fail"


def test_persistence_and_disk(examine, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = examine
    by_name = {one.what: one for one in diagnosis._server(store)}
    assert by_name["persistence"].level == "warn"
    with valkey(appendonly="yes") as server:  # switched on later, it would refuse to stop while it writes its first file
        other = RedisStore(store.settings.model_copy(update={"redis_url": type(store.settings.redis_url)(server.connection_url)}))
        assert {one.what: one for one in diagnosis._server(other)}["persistence"].level == "ok"
    monkeypatch.setattr(diagnosis, "DISK_MIN_GB", 1e9)
    assert next(diagnosis._disk(store.settings)).level == "fail"


def test_a_broker_that_is_away_is_no_reason_to_be_silent_about_the_rest(examine) -> None:
    _, run = examine
    found = run(1, CELERY_BROKER_URL=f"redis://:{SECRET}@127.0.0.1:1")
    assert "CELERY_BROKER_URL" in found["broker"]["seen"] + found["broker"]["remedy"]


def test_a_broker_of_another_kind_is_named_and_not_examined(examine) -> None:
    _, run = examine
    assert run(CELERY_BROKER_URL=f"amqp://quantum:{SECRET}@127.0.0.1:1/")["broker"]["seen"] == "amqp: not examined"


def test_a_replica_is_found_before_the_first_cycle(examine) -> None:
    """It answers every question, and takes nothing."""
    store, run = examine
    with valkey() as server:
        other = RedisStore(store.settings.model_copy(update={"redis_url": type(store.settings.redis_url)(server.connection_url)}))
        other.client.replicaof("127.0.0.1", store.client.get_connection_kwargs()["port"])
        found = run(1, REDIS_URL=server.connection_url)
    assert {"rights of quantum-proposals", "rights of quantum-governor"} <= found.keys()


def test_a_user_that_may_run_no_script_is_found_before_the_first_cycle(examine) -> None:
    store, run = examine
    store.client.execute_command("ACL", "SETUSER", "plain", "on", f">{SECRET}", "~*", "&*", "+@all", "-eval")
    try:
        found = run(1, REDIS_URL=store.settings.url.replace("redis://", f"redis://plain:{SECRET}@"))
    finally:
        store.client.execute_command("ACL", "DELUSER", "plain")
    assert "by a script" in found["rights of quantum-proposals"]["seen"]


def test_without_redis_it_says_so_within_its_bounds(examine) -> None:
    _, run = examine
    found = run(3, REDIS_URL=f"redis://:{SECRET}@127.0.0.1:1")
    assert found.keys() == {"redis"}


def test_running_as_root_is_worth_a_warning() -> None:
    (finding,) = diagnosis._user(None)
    assert finding.level == ("warn" if os.geteuid() == 0 else "ok")


def test_a_missing_or_wrong_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "requires", lambda _: ["nosuchpackage>=1", "redis>=99", "ccxt>=1; extra == 'feed'"])
    (finding,) = diagnosis._versions(None)
    assert "nosuchpackage is missing" in finding.seen
    assert "needed >=99" in finding.seen
    assert "ccxt" not in finding.seen


def test_a_storage_that_cannot_be_opened_is_named(examine) -> None:
    store, _ = examine
    (Path(store.settings.quantum_home) / "dagster.yaml").write_text("run_storage: {module: nosuchmodule, class: X}\n")
    (finding,) = diagnosis._storage(store.settings)
    assert finding.level == "fail"
