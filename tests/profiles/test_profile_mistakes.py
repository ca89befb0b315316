"""Profile files with mistakes in them: each is named with its line, and nothing is put in force."""

from pathlib import Path

import pytest

from quantum_core.profiles.files import ProfileFileError, load, parse
from quantum_core.profiles.in_force import warnings_of
from quantum_core.settings import SettingsError, load_settings

SYMBOLS = ("BTCUSDT", "ETHUSDT")
HEAD = 'name = "desk"\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (f"{HEAD}[stops]\nsl_min_pct = 0.00", None, ""),  # half a number is one
        (f'{HEAD}note = "a note that en', 2, ""),
        (f"{HEAD}[stops\n", 2, ""),
        (f"{HEAD}[stops]\nsl_min_pct = \n", 3, ""),
        ("[stops]\nsl_min_pct = 0.1\n", 1, "name is None"),
        (f"{HEAD}[stops]\nsl_min_pc = 0.1\n", 3, "there is no parameter stops.sl_min_pc; did you mean sl_min_pct?"),
        (f"{HEAD}[stops.k_sl]\nchopp = 1.0\n", 3, "did you mean k_sl.chop?"),
        (f"{HEAD}[stop]\nsl_min_pct = 0.1\n", 2, "there is no section stop; did you mean stops?"),
        (f"{HEAD}[stops]\nsl_min_pct = 1.5\n", 3, "stops.sl_min_pct is 1.5: accepted is float from 0 to 1"),
        (f'{HEAD}[stops]\nsl_min_pct = "0.1"\n', 3, "stops.sl_min_pct is '0.1'"),
        (f"{HEAD}[risk_guard]\nlosses_max = 2.5\n", 3, "risk_guard.losses_max is 2.5: accepted is int"),
        (f"{HEAD}[allocation]\nmin_mult = 1.4\nmax_mult = 1.2\n", 3, "min_mult"),
        (f"{HEAD}[symbols.XRPUSDT.stops]\nsl_min_pct = 0.1\n", 2, "XRPUSDT is not one of SYMBOLS"),
        (f"{HEAD}[symbols.BTCUSDT.risk_guard]\nlosses_max = 2\n", 2, "risk_guard is of the account as a whole"),
        (f"{HEAD}candle_interval_sec = 0\n", 2, "candle_interval_sec is 0"),
        (f"{HEAD}x = {'[' * 5000}\n", 1, "nested too deeply"),
        (f"{HEAD}[risk_guard]\nlosses_max = {'9' * 5000}\n", 3, ""),
        ('name = "in-force"\n', 1, "name is 'in-force'"),
        (f'{HEAD}note = "{"x" * 3000}"\n', 2, "note has 3000 characters"),
        (f"{HEAD}[market_state.trend]\nwindows = [32, 64]\n", 2, "accepted is 2 weights"),
        (f"{HEAD}[market_state.trend]\nwindows = [32, 64]\nweights = [1.0, 1.0]\n", None, ""),
        (f"{HEAD}evidence = 3\n", 2, "evidence is 3: accepted is a table"),
        (f"{HEAD}[evidence]\nas_of = 2024-01-01\n", 2, "accepted are texts, finite numbers, lists and tables"),
        (f"{HEAD}[evidence]\ncoverage = nan\n", 2, "accepted are texts, finite numbers, lists and tables"),
        (f'{HEAD}[evidence]\nx = "{"x" * 30_000}"\n', 2, "evidence has 30"),
        (f"{HEAD}[evidence.BTCUSDT]\ncoverage = 0.05\n[stops]\nsl_min_pct = 0.1\n", None, ""),
        (f"{HEAD}[market_state.vol]\nwinsor_q_low = 0.995\nwinsor_q_high = 0.999\n", None, ""),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int | None, words: str) -> None:
    """Whoever reads the message opens the file there."""
    if line is None:
        assert parse(text, "desk.toml", SYMBOLS).name == "desk"
        return
    with pytest.raises(ProfileFileError) as caught:
        parse(text, "desk.toml", SYMBOLS)
    assert [at for at, _ in caught.value.mistakes] == [line]
    assert words in caught.value.mistakes[0][1]
    assert f"desk.toml:{line}: " in str(caught.value)


def test_all_mistakes_are_named_in_one_message() -> None:
    """One by one would be one restart each."""
    text = f"{HEAD}[stop]\nx = 1\n[harvest]\nsigma_ref = -1.0\n[symbols.XRPUSDT.stops]\nsl_min_pct = 2.0\n"
    with pytest.raises(ProfileFileError) as caught:
        parse(text, "desk.toml", SYMBOLS)
    assert [line for line, _ in caught.value.mistakes] == [2, 5, 6, 7]


def test_a_name_that_is_no_profile_names_the_nearest() -> None:
    with pytest.raises(ProfileFileError, match=r"crypto-1n: no such file, .*; did you mean crypto-1m\?"):
        load("crypto-1n")


def test_a_file_must_not_pass_for_a_shipped_profile(tmp_path: Path) -> None:
    """Its name is what banner and records show."""
    path = tmp_path / "mine.toml"
    path.write_text('name = "locked-v1"\n[stops]\nsl_min_pct = 0.1\n')
    with pytest.raises(ProfileFileError, match="give yours a name of its own"):
        load(str(path))
    path.write_text('name = "locked-v1"\n')
    assert load(str(path)).fingerprint == load("locked-v1").fingerprint


def test_nothing_starts_with_a_profile_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{HEAD}[stops]\nsl_min_pct = 1.5\n")
    with pytest.raises(SettingsError, match=rf"{path}:3: stops.sl_min_pct is 1.5"):
        load_settings(profile=str(path))


def test_candles_of_another_length_are_a_warning_and_a_window_too_short_is_an_error() -> None:
    hourly = parse(f"{HEAD}candle_interval_sec = 3600\n", "desk.toml")
    (warning,) = warnings_of(hourly, load_settings())
    assert warning == "profile desk is meant for candles of 3600 s, and CANDLE_INTERVAL_SEC is 60"
    assert warnings_of(hourly, load_settings(candle_interval_sec=3600)) == []


def test_a_file_with_a_mark_of_its_encoding_is_read(tmp_path: Path) -> None:
    """Editors of Windows write one."""
    path = tmp_path / "desk.toml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.encode())
    assert load(str(path)).name == "desk"


def test_a_file_that_is_edited_while_a_process_runs_counts_from_its_next_start(tmp_path: Path) -> None:
    """The settings are read at every tick: half a file in between stopped the cycles."""
    path = tmp_path / "desk.toml"
    path.write_text(f"{HEAD}[stops]\nsl_min_pct = 0.001\n")
    first = load_settings(profile=str(path), challenger=str(path)).own_profile
    path.write_text("broken = [")
    again = load_settings(profile=str(path), challenger=str(path))
    assert again.own_profile.fingerprint == again.challenger_profile.fingerprint == first.fingerprint


@pytest.mark.parametrize("setting", ["profile", "challenger"])
def test_the_message_names_the_setting(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("broken = [")
    with pytest.raises(SettingsError, match=f"{setting.upper()}=.*broken.toml"):
        load_settings(**{setting: str(path)})
