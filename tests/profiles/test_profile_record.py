"""The record of uses on a real server: what is in force when entries are broken, gone, later, or not meant for now."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quantum_core.profiles.files import load, parse
from quantum_core.profiles.profile import LOCKED, Profile, ProfileError
from quantum_core.settings import load_settings
from quantum_ops.alerts.profile_signs import UNUSABLE, WAITING, profile_troubles
from resources.store import profiles
from resources.store.profiles import (
    LAST_GOOD,
    PROFILE_ENTRY_TAG,
    AnotherProfileError,
    NotRecordedError,
    OvertakenUseError,
    bring_up_to_date,
    digest_of,
    history,
    newest_entry,
    profile_now,
    take_profile,
    use,
)
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError

BY = {"by": "ada", "reason": "a test"}
KEY = "quantum:profile:history"


@pytest.fixture
def make(valkey_url: str, tmp_path: Path):
    """Give stores of one deployment, each as if of a process of its own; the first empties the server."""
    made: list[RedisStore] = []

    def make(**overrides: object) -> RedisStore:
        settings = load_settings(**{"redis_url": valkey_url, "quantum_home": tmp_path, **overrides})
        made.append(RedisStore(settings, lambda: datetime.now(UTC)))
        return made[-1]

    make().client.flushdb()
    yield make
    for one in made:
        one.client.close()


def desk(floor: float = 0.001, name: str = "desk") -> Profile:
    return parse(f'name = "{name}"\n[stops]\nsl_min_pct = {floor}\n', "desk.toml")


def in_force(store: RedisStore) -> str:
    now = profile_now(store, requesting=True)
    assert now.trouble == ""
    return now.profile.fingerprint


def test_a_use_takes_effect_in_every_process_and_survives_a_restart(make) -> None:
    first, second = make(), make()
    assert in_force(first) == in_force(second) == LOCKED.fingerprint
    use(first, desk(), **BY)
    assert in_force(first) == in_force(second) == in_force(make()) == desk().fingerprint


def test_of_two_uses_at_once_both_are_recorded_and_the_later_wins(make) -> None:
    first, second = make(), make()
    one, another = use(first, desk(0.001), **BY), use(second, desk(0.002), by="bob", reason="too")
    assert [entry.by for entry in history(first)] == ["bob", "ada"]
    assert another.entry > one.entry
    assert in_force(first) == in_force(second) == desk(0.002).fingerprint


def test_the_evidence_of_a_profile_is_recorded_with_its_use_and_is_no_parameter(make) -> None:
    """Other figures of the same parameters are the same parameters; and who asks later finds what they rest on."""
    store = make()
    evidence = {"data": {"BTCUSDT": "5f1c"}, "coverage": 0.05}
    proven = replace(desk(), evidence=evidence)
    assert proven.fingerprint == desk().fingerprint
    use(store, proven, **BY)
    assert profile_now(make(), requesting=True).profile.evidence == evidence
    assert "evidence" not in desk().body()


def test_evidence_that_is_no_table_is_not_used(make) -> None:
    store = make()
    use(store, desk(), **BY)
    assert in_force(store) == desk().fingerprint
    text = json.dumps({"name": "odd", "evidence": [1]})
    store.client.xadd(KEY, {"name": "odd", "fingerprint": "0" * 12, "profile": text, "by": "bob", "at": "1"})
    now = profile_now(store)
    assert now.profile.fingerprint == desk().fingerprint
    assert "evidence" in now.trouble


def edited(store: RedisStore, **changes: str) -> None:
    """Write the newest entry again, edited, in its place: a stream's entries cannot be changed otherwise."""
    rows = store.client.xrange(KEY)
    store.client.delete(KEY)
    for entry, fields in rows[:-1]:
        store.client.xadd(KEY, fields, id=entry)
    store.client.xadd(KEY, {**rows[-1][1], **{name.encode(): text for name, text in changes.items()}}, id=rows[-1][0])


@pytest.mark.parametrize("restarted", [False, True])
def test_an_entry_edited_by_hand_leaves_what_was_in_force_and_not_the_use_before(make, *, restarted: bool) -> None:
    """The use before has looser or tighter limits than the desk believes to have."""
    store = make()
    use(store, desk(0.003), **BY)
    use(store, desk(0.001), **BY)
    assert in_force(store) == desk(0.001).fingerprint
    edited(store, profile=desk(0.5).text())
    store = make() if restarted else store
    now = profile_now(store)
    assert now.profile.fingerprint == desk(0.001).fingerprint
    assert "edited since it was stored" in now.trouble
    found = profile_troubles(store, 1.0)
    assert found.keys() == {UNUSABLE}
    assert f"desk {desk(0.001).fingerprint} stays in force" in found[UNUSABLE].what
    use(store, desk(0.002), **BY)
    assert in_force(store) == desk(0.002).fingerprint
    assert profile_troubles(store, 2.0) == {}


def test_an_entry_of_a_newer_version_leaves_what_was_in_force(make) -> None:
    """Half of a fleet is upgraded: the older half must not compute with half of a profile."""
    store = make()
    use(store, desk(), **BY)
    assert in_force(store) == desk().fingerprint
    newer = {"name": "new", "stops": {"sl_min_pct": 0.002, "of_tomorrow": 1}}
    store.client.xadd(KEY, {"name": "new", "fingerprint": "0" * 12, "profile": json.dumps(newer), "by": "bob", "at": "1"})
    for process in (store, make()):
        now = profile_now(process)
        assert now.profile.fingerprint == desk().fingerprint
        assert "stops.of_tomorrow" in now.trouble
        assert "older than the one that stored it" in now.trouble


@pytest.mark.parametrize("broken", ["gone", "another type", "newest entry lost"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_record_that_is_gone_leaves_what_was_in_force(make, broken: str, *, restarted: bool) -> None:
    """A failover that lost the newest writes must not put older limits in force."""
    store = make()
    use(store, desk(0.003), **BY)
    newest = use(store, desk(0.001), **BY)
    assert in_force(store) == desk(0.001).fingerprint
    if broken == "newest entry lost":
        store.client.xdel(KEY, newest.entry)
    else:
        store.client.delete(KEY)
    if broken == "another type":
        store.client.set(KEY, "x")
    store = make() if restarted else store
    now = profile_now(store)
    assert now.profile.fingerprint == desk(0.001).fingerprint
    assert now.trouble.startswith("profile_unreadable" if broken == "another type" else "profile_lost")
    assert take_profile(make(), now.tags()).fingerprint == desk(0.001).fingerprint  # a worker of the same host
    if broken == "another type":
        with pytest.raises(NotRecordedError, match=KEY):
            use(store, desk(), **BY)
        store.client.delete(KEY)
    use(store, desk(0.001), **BY)
    assert in_force(store) == desk(0.001).fingerprint


def test_without_anybody_who_remembers_an_unreadable_record_is_an_error(make) -> None:
    """To guess would be to put PROFILE in force in the place of what the desk has chosen."""
    store = make()
    store.client.set(KEY, "x")
    with pytest.raises(ProfileError, match=KEY):
        profile_now(store)
    assert bring_up_to_date(store)[0] == "unknown"
    assert profile_troubles(store, 1.0).keys() == {UNUSABLE}


def test_half_a_file_of_the_last_one_is_as_none(make, tmp_path: Path) -> None:
    store = make()
    use(store, desk(), **BY)
    assert in_force(store) == desk().fingerprint
    whole = (tmp_path / LAST_GOOD).read_text()
    (tmp_path / LAST_GOOD).write_text(whole[: len(whole) // 2])
    assert in_force(make()) == desk().fingerprint
    assert (tmp_path / LAST_GOOD).read_text() == whole


@pytest.mark.parametrize("way", ["--at-start", "PROFILE_CHANGES"])
def test_a_use_that_waits_for_a_start_waits_for_that_of_the_daemon(make, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A command or a worker is started anew all the time: none of them may put it in force."""
    overrides = {"profile_changes": "restart"} if way == "PROFILE_CHANGES" else {}
    daemon = make(**overrides)
    assert in_force(daemon) == LOCKED.fingerprint
    use(make(**overrides), desk(), **BY, at_start=way == "--at-start")
    waits = profile_now(daemon, requesting=True)
    assert (waits.profile.fingerprint, waits.waiting.name) == (LOCKED.fingerprint, "desk")
    later = profiles.STARTED_AT + 3600
    with monkeypatch.context() as of_a_command:
        of_a_command.setattr(profiles, "STARTED_AT", later)
        command = make(**overrides)
        assert profile_now(command).profile.fingerprint == LOCKED.fingerprint
        assert profile_troubles(command, 1.0).keys() == {WAITING}
        restarted = make(**overrides)
        assert in_force(restarted) == desk().fingerprint
        assert profile_troubles(restarted, 1.0) == {}
    older = make(**overrides)  # a daemon on standby, started before, takes over
    assert in_force(older) == desk().fingerprint


def test_a_run_computes_with_the_profile_of_its_tags_whatever_was_used_since(make) -> None:
    daemon, worker = make(), make()
    use(daemon, desk(0.001), **BY)
    tags = profile_now(daemon, requesting=True).tags()
    use(daemon, desk(0.002), **BY)
    assert take_profile(worker, tags).fingerprint == desk(0.001).fingerprint
    assert take_profile(worker, profile_now(daemon).tags()).fingerprint == desk(0.002).fingerprint


def test_a_run_names_a_use_only_where_there_is_one(make) -> None:
    """An empty tag on each of 8,640 runs a day says nothing, and Dagster lists it as a value to filter by."""
    store = make()
    assert PROFILE_ENTRY_TAG not in profile_now(store).tags()
    entry = use(store, desk(), **BY).entry
    assert profile_now(store).tags()[PROFILE_ENTRY_TAG] == entry


def test_a_worker_with_other_settings_refuses_by_name(make) -> None:
    """Its numbers would be stamped with a profile they were not computed with."""
    daemon = make()
    use(daemon, desk(), **BY)
    tags = profile_now(daemon).tags()
    with pytest.raises(AnotherProfileError, match=rf"profile_differs: the run wants desk {desk().fingerprint}"):
        take_profile(make(gov_max_exec_per_hour=2, quantum_home=daemon.settings.quantum_home / "other"), tags)
    with pytest.raises(AnotherProfileError, match="Give all processes the same PROFILE"):
        take_profile(make(profile="crypto-1m", quantum_home=daemon.settings.quantum_home / "other"), make_tags_of(make))


def make_tags_of(make) -> dict[str, str]:
    """Give the tags of a deployment that nobody has used a profile of."""
    store = make()
    store.client.delete(KEY)
    (store.settings.quantum_home / LAST_GOOD).unlink(missing_ok=True)
    return profile_now(make()).tags()


def test_a_server_lost_between_storing_and_taking_loses_nothing(make) -> None:
    """The use is on record; the tick that finds the server away requests nothing, and the next one takes it."""
    store = make()
    use(store, desk(), **BY)
    away = RedisStore(load_settings(redis_url="redis://127.0.0.1:1/0", quantum_home=store.settings.quantum_home))
    with pytest.raises(RedisUnavailableError):
        profile_now(away, requesting=True)
    assert in_force(make()) == desk().fingerprint


def test_shipped_profiles_can_be_used_by_name(make) -> None:
    store = make()
    use(store, load("crypto-1m"), **BY)
    assert profile_now(store).profile.name == "crypto-1m"


def test_of_uses_at_the_same_moment_each_is_compared_with_what_it_replaces(make) -> None:
    """Compared with what was in force before another one, a use could loosen what nobody has asked to loosen."""
    store = make()
    before = newest_entry(store)
    use(store, desk(0.001), by="ada", reason="r", compared=before)
    with pytest.raises(OvertakenUseError, match="compare again"):
        use(store, desk(0.002), by="bob", reason="r", compared=before)
    assert in_force(store) == desk(0.001).fingerprint
    use(store, desk(0.002), by="bob", reason="r", compared=newest_entry(store))
    assert in_force(store) == desk(0.002).fingerprint


def test_a_use_after_the_clock_was_set_back_is_in_force(make) -> None:
    """The record is gone, and what was in force has an id of a time to come: the next one has a later one."""
    store = make()
    ahead = f"{int(time.time() * 1000) + 10**9}-0"
    first = use(store, desk(0.001), by="ada", reason="r")
    fields = store.client.xrange(KEY)[0][1]
    store.client.delete(KEY)
    store.client.xadd(KEY, fields, id=ahead)
    profile_now(store, requesting=True)
    store.client.delete(KEY)
    later = use(store, desk(0.002), by="ada", reason="r")
    assert int(later.entry.split("-")[0]) > int(ahead.split("-")[0]) > int(first.entry.split("-")[0])
    assert in_force(make()) == desk(0.002).fingerprint


def test_an_entry_nested_without_end_stops_nobody(make) -> None:
    """Whoever may write there could else stop every cycle, and the very command that repairs it."""
    store, text = make(), "[" * 5000
    use(store, desk(0.001), by="ada", reason="r")
    digest = digest_of("deep", "0" * 12, text)
    store.client.xadd(KEY, {"name": "deep", "fingerprint": "0" * 12, "profile": text, "digest": digest, "by": "eve", "at": "1"})
    now = profile_now(store)
    assert now.profile.fingerprint == desk(0.001).fingerprint
    assert "profile_unusable" in now.trouble
    use(store, desk(0.002), by="ada", reason="r")
    assert (profile_now(store).profile.fingerprint, profile_now(store).trouble) == (desk(0.002).fingerprint, "")
