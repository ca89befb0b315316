"""How champion and challenger differed, for people and programs."""

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from quantum_core.profiles.files import load
from quantum_core.profiles.profile import from_body
from quantum_ops.cli.desk.compare import compare
from quantum_ops.cli.history.profile_trial import try_profiles
from quantum_ops.report import render
from resources.store.profiles import use
from resources.store.shadow import add_comparisons, note_challenger
from tests.world import SAMPLE

SYMBOLS = "BTCUSDT,ETHUSDT"
FACTS = {
    "BTCUSDT": {"n": 4, "regime": 1, "held": 2, "action": 1, "farther": 2000, "champion_first": 0, "challenger_first": 1},
    "ETHUSDT": {"n": 6, "regime": 0},
}


@pytest.fixture
def desk(make_store, monkeypatch: pytest.MonkeyPatch):
    """A desk whose last comparisons are known."""
    store = make_store(symbols=SYMBOLS, challenger="crypto-1m")
    monkeypatch.setenv("REDIS_URL", store.settings.url)
    monkeypatch.setenv("SYMBOLS", SYMBOLS)
    return store


@pytest.mark.usefixtures("desk")
def test_without_a_challenger_it_says_what_to_set() -> None:
    done = CliRunner().invoke(compare, [])
    assert done.exit_code == 2
    assert "no challenger is computed: set CHALLENGER to a shipped profile or a file" in done.output


@pytest.mark.usefixtures("desk")
def test_before_the_first_comparison_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHALLENGER", "crypto-1m")
    done = CliRunner().invoke(compare, [])
    assert done.exit_code == 1
    assert "nothing was compared yet with crypto-1m" in done.output


def test_shares_are_of_what_was_compared_and_held(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per symbol and over all, as JSON, as a table and on the page of evidence."""
    monkeypatch.setenv("CHALLENGER", "crypto-1m")
    desk.clock = lambda: datetime.now(UTC)  # as the command has it
    add_comparisons(desk, load("crypto-1m"), FACTS)
    told = json.loads(CliRunner().invoke(compare, ["--json"]).output)
    assert told["symbols"]["BTCUSDT"] == {
        "compared": 4, "regimes": 0.25, "held": 2, "actions": 0.5, "stop_farther": pytest.approx(0.001),
        "champion_first": 0, "challenger_first": 1,
    }  # fmt: skip
    assert (told["all"]["compared"], told["all"]["regimes"], told["all"]["held"]) == (10, 0.1, 2)
    assert told["challenger"]["fingerprint"] == load("crypto-1m").fingerprint
    table = CliRunner().invoke(compare, []).output
    assert "25.0%" in table
    assert "+0.10%" in table
    page = render([], store=desk)
    assert f"Challenger crypto-1m {load('crypto-1m').fingerprint}" in page
    assert "<td>25.0%</td>" in page


def test_a_running_challenger_is_found_without_its_setting_and_each_champion_has_its_own_counts(desk) -> None:
    """Who types the command has another shell than the product; and another champion was never compared."""
    desk.clock = lambda: datetime.now(UTC)
    note_challenger(desk, load("crypto-1m"))
    add_comparisons(desk, load("crypto-1m"), FACTS)
    assert json.loads(CliRunner().invoke(compare, ["--json"]).output)["all"]["compared"] == 10
    use(desk, from_body({"name": "other", "stops": {"sl_min_pct": 0.01}}), by="ada", reason="r")
    done = CliRunner().invoke(compare, ["--json"])
    assert done.exit_code == 1
    assert "nothing was compared yet" in done.output


def test_profiles_are_tried_on_recorded_candles() -> None:
    """The bundled hours of BTC: what locked-v1 says of minutes, and crypto-1m."""
    done = CliRunner().invoke(try_profiles, [str(SAMPLE / "BTCUSDT_1m.csv"), "--json", "--step", "20"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    by_name = {one["profile"]: one for one in rows}
    assert by_name["locked-v1"]["chop"] == by_name["locked-v1"]["stop_at_floor"] == 1.0
    assert by_name["crypto-1m"]["stop_at_floor"] == 0.0
    assert by_name["crypto-1m"]["windows"] == by_name["locked-v1"]["windows"] == 23


def test_a_profile_that_does_not_exist_and_a_file_that_is_too_short_are_named(tmp_path) -> None:
    short = tmp_path / "BTCUSDT_1m.csv"
    short.write_text("".join((SAMPLE / "BTCUSDT_1m.csv").read_text().splitlines(keepends=True)[:100]))
    unknown = CliRunner().invoke(try_profiles, [str(short), "--profile", "crypto_1m"])
    assert unknown.exit_code == 2
    assert "did you mean crypto-1m" in unknown.output
    few = CliRunner().invoke(try_profiles, [str(short)])
    assert few.exit_code == 1
    assert "a window needs 257 candles" in few.output
