"""``quantum profile`` as a desk runs it."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quantum_core.profiles.files import shipped
from quantum_core.profiles.profile import LOCKED
from quantum_core.settings import load_settings
from resources.store.profiles import profile_now
from resources.store.redis_store import RedisStore
from tests.commands import run_command

KEY = "quantum:profile:history"
BY = ("--name", "ada", "--reason", "own limits")
DESK = """name = "desk"
note = "own limits"
[risk_guard]
daily_loss_max = 0.02
[symbols.BTCUSDT.stops]
sl_min_pct = 0.01
"""
LOOSE = DESK.replace("0.02", "0.05").replace('"desk"', '"loose"')


@pytest.fixture
def live(valkey_url: str, tmp_path: Path) -> RedisStore:
    store = RedisStore(load_settings(redis_url=valkey_url, quantum_home=tmp_path / "home"), lambda: datetime.now(UTC))
    store.client.flushdb()
    store.settings.quantum_home.mkdir()
    (tmp_path / "desk.toml").write_text(DESK)
    (tmp_path / "loose.toml").write_text(LOOSE)
    return store


def quantum(store: RedisStore, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    home = store.settings.quantum_home
    files = [str(home.parent / one) if one.endswith(".toml") and not one.startswith("/") else one for one in arguments]
    return run_command("profile", *files, environment={"REDIS_URL": store.settings.url, "QUANTUM_HOME": str(home), **environment})


def test_the_shipped_profiles_are_listed_and_shown_as_calc_takes_them(live) -> None:
    listed = json.loads(quantum(live, "list", "--json").stdout)
    assert [(one["name"], one["of_settings"]) for one in listed] == [(name, name == "locked-v1") for name in shipped()]
    assert "crypto-1m" in quantum(live, "list").stdout
    shown = json.loads(quantum(live, "show", "crypto-1m", "--json").stdout)
    assert (shown["name"], shown["candle_interval_sec"]) == ("crypto-1m", 60)
    case = {"vol": {}}
    assert case.keys() <= shown["parameters"]["market_state"].keys()
    assert LOCKED.sections["stops"].override(shown["parameters"]["stops"]) != LOCKED.sections["stops"]
    text = quantum(live, "show", "crypto-1m").stdout
    (line,) = [one for one in text.splitlines() if "sl_min_pct" in one]
    assert [cell.strip() for cell in line.split("│")[2:5]] == ["0.0008", "0.005", ">= 0, <= 1"]


def test_the_evidence_a_profile_carries_is_shown(live, tmp_path: Path) -> None:
    file = tmp_path / "desk.toml"
    file.write_text('name = "desk"\n[evidence.coverage]\none_step = 0.0507\n[evidence.data]\nBTCUSDT = "5f1c"\n')
    shown = quantum(live, "show", str(file)).stdout
    assert "coverage.one_step" in shown
    assert "0.0507" in shown
    as_json = json.loads(quantum(live, "show", str(file), "--json").stdout)
    assert as_json["evidence"] == {"coverage": {"one_step": 0.0507}, "data": {"BTCUSDT": "5f1c"}}


def test_in_force_is_shown_with_what_the_environment_sets(live) -> None:
    environment = {"GOV_MAX_EXEC_PER_HOUR": "2"}
    shown = json.loads(quantum(live, "show", "in-force", "--json", **environment).stdout)
    assert shown["parameters"]["governor"]["max_exec_per_hour"] == 2
    assert quantum(live, "use", "desk.toml", *BY).returncode == 0
    shown = json.loads(quantum(live, "show", "in-force", "--symbol", "BTCUSDT", "--json").stdout)
    assert (shown["name"], shown["parameters"]["stops"]["sl_min_pct"]) == ("desk", 0.01)
    assert quantum(live, "show", "in-force", "--symbol", "NOSUCH").returncode == 2


def test_a_use_is_recorded_whole_with_who_and_why_and_takes_effect(live) -> None:
    done = quantum(live, "use", "desk.toml", *BY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "risk_guard.daily_loss_max" in done.stdout
    assert "It takes effect with the next cycle of every shard, within 10 s." in done.stdout
    assert profile_now(live).profile.name == "desk"
    told = json.loads(quantum(live, "history", "--json").stdout)
    (entry,) = told["uses"]
    assert (entry["by"], entry["reason"], entry["usable"], entry["in_force"]) == ("ada", "own limits", True, True)
    assert entry["fingerprint"] == told["in_force"]["fingerprint"] == profile_now(live).profile.fingerprint
    assert "ada" in quantum(live, "history").stdout


def test_a_loosened_limit_is_named_and_asked_for(live) -> None:
    """Back from own limits to the looser ones of locked-v1 is a loosening, too."""
    refused = quantum(live, "use", "loose.toml", *BY)
    assert refused.returncode == 1
    assert "Nothing was changed: it loosens risk_guard.daily_loss_max. If that is meant, add --loosen." in refused.stderr
    assert live.client.exists(KEY) == 0
    told = json.loads(quantum(live, "use", "loose.toml", *BY, "--json").stdout)
    assert [one["parameter"] for one in told["loosens"]] == ["risk_guard.daily_loss_max"]
    assert quantum(live, "use", "loose.toml", *BY, "--loosen").returncode == 0
    assert profile_now(live).profile.name == "loose"
    assert quantum(live, "use", "desk.toml", *BY).returncode == 0
    assert quantum(live, "use", "locked-v1", *BY).returncode == 1
    compared = json.loads(quantum(live, "diff", "in-force", "loose.toml", "--json").stdout)
    assert [(one["symbol"], one["a"], one["b"], one["loosened"]) for one in compared["differences"]] == [(None, 0.02, 0.05, True)]
    assert "B loosens safety limits: risk_guard.daily_loss_max" in quantum(live, "diff", "desk.toml", "loose.toml").stdout


def test_a_use_at_start_waits_and_says_so(live) -> None:
    """PROFILE_CHANGES=restart makes every use one of these."""
    profile_now(live, requesting=True)
    for more in ({}, {"PROFILE_CHANGES": "restart"}):
        at_start = () if more else ("--at-start",)
        assert "takes effect when the daemon is started anew" in quantum(live, "use", "desk.toml", *BY, *at_start, **more).stdout
    assert profile_now(live).profile.name == "desk"  # the second waits only for those who have the setting
    told = json.loads(quantum(live, "history", "--json", PROFILE_CHANGES="restart").stdout)
    assert [one["in_force"] for one in told["uses"]][1] is False


def test_a_record_that_lost_what_is_in_force_is_written_anew(live) -> None:
    assert quantum(live, "use", "desk.toml", *BY).returncode == 0
    profile_now(live, requesting=True)
    live.client.delete(KEY)
    lost = quantum(live, "history")
    assert lost.returncode == 1
    assert "profile_lost" in lost.stdout
    assert quantum(live, "use", "in-force", *BY).returncode == 0
    assert quantum(live, "history").returncode == 0
    assert profile_now(live).profile.name == "desk"


def test_check_names_every_mistake_by_line_also_when_profile_names_that_file(live, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\n[stops]\nsl_min_pct = 2.0\n[risk_guard]\nlosses = 3\n')
    done = quantum(live, "check", str(bad), PROFILE=str(bad))
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        f"{bad}:3: stops.sl_min_pct is 2.0: accepted is float from 0 to 1",
        f"{bad}:5: there is no parameter risk_guard.losses; did you mean losses_max?",
    ]
    told = json.loads(quantum(live, "check", str(bad), "--json").stdout)
    assert (told["usable"], [one["line"] for one in told["mistakes"]]) == (False, [3, 5])
    good = quantum(live, "check", "desk.toml", CANDLE_INTERVAL_SEC="60")
    assert (good.returncode, "can be used: profile desk" in good.stdout) == (0, True)
    other = quantum(live, "check", "crypto-1m", CANDLE_INTERVAL_SEC="300")
    assert other.returncode == 0
    assert "warning: profile crypto-1m is meant for candles of 60 s, and CANDLE_INTERVAL_SEC is 300" in other.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "crypto-1n"), 2, "did you mean crypto-1m?"),
        (("use", "crypto-1n", *BY), 2, "did you mean crypto-1m?"),
        (("use", "desk.toml", "--name", " ", "--reason", "r"), 2, "must not be blank"),
        (("use", "desk.toml", "--name", "ada"), 2, "--reason"),
        (("diff", "desk.toml"), 2, "B"),
    ],
)
def test_what_is_refused_and_why(live, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = quantum(live, *arguments)
    assert done.returncode == code, done.stdout
    assert words in done.stderr
    assert live.client.exists(KEY) == 0


@pytest.mark.parametrize("arguments", [("history",), ("show", "in-force"), ("use", "crypto-1m", *BY)])
def test_without_redis_it_says_so(live, arguments: tuple[str, ...]) -> None:
    done = quantum(live, *arguments, REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert quantum(live, "show", "crypto-1m", REDIS_URL="redis://127.0.0.1:1/0").returncode == 0


def test_a_key_of_another_type_is_named(live) -> None:
    live.client.set(KEY, "x")
    for arguments in (("history",), ("use", "crypto-1m", *BY)):
        done = quantum(live, *arguments)
        assert (done.returncode, KEY in done.stderr) == (1, True)
