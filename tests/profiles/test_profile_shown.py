"""The profile in force, and trouble with it, wherever a desk looks: banner, status, doctor, alerts, settings, report."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from quantum_core.kernels.governor.limits import GovernorLimits
from quantum_core.profiles.files import parse
from quantum_core.profiles.profile import LOCKED
from quantum_core.settings import load_settings
from quantum_ops import report
from quantum_ops.alerts.profile_signs import UNUSABLE, WAITING
from quantum_ops.alerts.watcher import Watcher
from quantum_ops.cli.audit.settings import settings as settings_command
from quantum_ops.cli.desk.status import _page, read_report
from quantum_ops.cli.layout import console
from quantum_ops.desk import banner, pages
from quantum_ops.desk.overview import DeskReader, read_faults, read_rows
from quantum_ops.doctor.diagnosis import _profile
from resources.store.profiles import profile_now, use
from resources.store.redis_store import RedisStore
from tests.commands import run_command

KEY = "quantum:profile:history"
DESK = parse('name = "desk"\n[governor]\nmax_exec_per_hour = 1\n[stops]\nsl_min_pct = 0.001\n', "desk.toml")
BY = {"by": "ada", "reason": "a test"}


@pytest.fixture
def live(valkey_url: str, tmp_path: Path) -> RedisStore:
    store = RedisStore(load_settings(redis_url=valkey_url, quantum_home=tmp_path), lambda: datetime.now(UTC))
    store.client.flushdb()
    return store


def spoil(store: RedisStore) -> None:
    """Add an entry whose parameters are not those of its fingerprint."""
    fields = {"name": "odd", "fingerprint": "0" * 12, "profile": DESK.text(), "by": "bob", "reason": "r", "at": "1"}
    store.client.xadd(KEY, fields)


def test_the_banner_and_the_page_show_it_and_turn_red_for_trouble(live) -> None:
    standing = DeskReader(live).standing()
    assert ("ok", f"profile locked-v1 {LOCKED.fingerprint}", "#profile") in banner.parts(standing)
    assert 'id="profile"' in pages._cards(standing, [], "")
    use(live, DESK, **BY)
    profile_now(live, requesting=True)
    spoil(live)
    standing = DeskReader(live).standing()
    (part,) = [one for one in banner.parts(standing) if one.link == "#profile"]
    assert part.level == "wrong"
    assert part.text.startswith(f"profile desk {DESK.fingerprint}: profile_unusable")
    assert "a newer one cannot be used" in pages._cards(standing, [], "")


def test_status_and_doctor_name_it(live) -> None:
    out = console()
    with out.capture() as shown:
        out.print(_page(out, read_report(live), by_asset=False))
    assert f"profile locked-v1 {LOCKED.fingerprint}" in shown.get()
    assert [(one.what, one.level) for one in _profile(live)] == [("profile", "ok")]
    spoil(live)
    with out.capture() as shown:
        out.print(_page(out, read_report(live), by_asset=False))
    assert "profile_unusable" in shown.get()
    (finding,) = _profile(live)
    assert finding.level == "fail"
    assert f"in force: locked-v1 {LOCKED.fingerprint}" in finding.seen


def test_the_doctor_warns_of_candles_of_another_length(live) -> None:
    use(live, replace(DESK, candle_interval_sec=300), **BY)
    (finding,) = _profile(live)
    assert (finding.level, "meant for candles of 300 s" in finding.seen) == ("warn", True)


def alerts_of(store: RedisStore) -> dict[str, str]:
    active = json.loads(store.client.get(store.keys.of("alerts_active")))
    return {one["alert"]: one["severity"] for one in active if one["kind"] in (UNUSABLE, WAITING) and one["well_since"] is None}


def test_a_profile_that_cannot_be_used_is_alerted_and_cleared(live) -> None:
    """The desk believes that its limits changed; they have not."""
    profile_now(live, requesting=True)
    messages = []
    watcher = Watcher(live, say=messages.append)
    watcher.round()
    assert alerts_of(live) == {}
    spoil(live)
    watcher.round()
    assert alerts_of(live) == {UNUSABLE: "page"}
    (raised,) = [one for one in messages if one.alert == UNUSABLE]
    assert raised.title.startswith("Profile not in force: entry ")
    use(live, DESK, **BY)
    watcher.round()
    assert alerts_of(live) == {}
    assert [one.event for one in messages if one.alert == UNUSABLE] == ["raised", "cleared"]
    use(live, LOCKED, **BY, at_start=True)
    watcher.round()
    assert alerts_of(live) == {WAITING: "info"}
    use(live, LOCKED, **BY)
    watcher.round()
    assert alerts_of(live) == {}


def test_watch_once_names_it_and_the_stream_of_alerts_carries_the_fingerprint(live) -> None:
    profile_now(live, requesting=True)
    spoil(live)
    environment = {"REDIS_URL": live.settings.url, "QUANTUM_HOME": str(live.settings.quantum_home)}
    told = json.loads(run_command("watch", "--once", "--json", environment=environment).stdout)
    assert UNUSABLE in [one["kind"] for one in told["wrong"]]
    use(live, DESK, **BY)
    watcher = Watcher(live)
    stream = watcher.outboxes[0].sink
    spoil(live)
    messages = []
    watcher.say = messages.append
    watcher.round()
    stream.deliver(next(one for one in messages if one.alert == UNUSABLE))
    ((_, fields),) = live.client.xrevrange(live.keys.of("stream_alerts"), count=1)
    assert fields[b"profile"].decode() == DESK.fingerprint


def test_the_desk_judges_openings_by_the_limits_in_force(live) -> None:
    """A row that showed the limits of PROFILE would promise a permit that is refused."""
    use(live, DESK, **BY)
    read_rows(live, live.settings.symbols, read_faults(live, live.settings.symbols))
    assert live.profile.theta(GovernorLimits).max_exec_per_hour == 1


def test_the_evidence_report_names_it(live) -> None:
    use(live, DESK, **BY)
    assert f"desk {DESK.fingerprint}" in report.render([], store=live)


def test_settings_say_whether_a_value_is_of_the_profile_or_of_the_environment(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "desk.toml"
    path.write_text('name = "desk"\n[governor]\nmax_exec_per_hour = 1\nmax_exec_per_5min = 1\n')
    monkeypatch.setenv("PROFILE", str(path))
    monkeypatch.setenv("GOV_MAX_EXEC_PER_HOUR", "2")
    table = CliRunner().invoke(settings_command, []).output
    rows = {
        cells[1].strip(): (cells[2].strip(), cells[3].strip()) for one in table.splitlines() if len(cells := one.split("│")) > 3
    }
    assert rows["GOV_MAX_EXEC_PER_HOUR"] == ("2", "environment")
    assert rows["GOV_MAX_EXEC_PER_5MIN"] == ("1", "profile desk")
    assert rows["P31_STALE_SEC"][1] == "profile desk"
    told = json.loads(CliRunner().invoke(settings_command, ["--json"]).output)
    assert (told["GOV_MAX_EXEC_PER_HOUR"], told["GOV_MAX_EXEC_PER_5MIN"]) == ("2", "1")
