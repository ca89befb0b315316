"""The exporter: real counts that nothing loses or doubles, and a scrape that never shows what is old."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPException
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from dagster._core.storage.runs.schema import RunsTable
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from definitions import assemble
from quantum_core.contracts.tables import ALLOCATION_TARGET
from quantum_core.settings import load_settings
from quantum_ops.cli.run.exporter import CACHED_SEC, Looks, MetricsServer
from quantum_ops.exporter.exposition import families, text_of
from quantum_ops.exporter.metrics import EVENTS_AT_ONCE, OTHER, Collector, Look, counts_in, fold_decisions, fold_runs
from quantum_ops.processes.recorder import Recorder
from resources.instance.home import EVENT_BATCH_SIZE, open_instance
from resources.store.redis_store import RedisStore
from sensors.cycle import CYCLE_JOB_NAME
from tests.conftest import Clock
from tests.servers import free_port, valkey
from tests.world import (
    run_cycle,
    write_plan,
    write_world,
)

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float | None:
    return samples(text).get((name, tuple(sorted(labels.items()))))


@pytest.fixture(scope="module")
def world(_new_home, tmp_path_factory):
    """Two cycles of three symbols, a permit and two blocks, and the instance that ran them."""
    home = shutil.copytree(_new_home, tmp_path_factory.mktemp("exporter") / "home")
    with valkey() as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_HOME", str(home))
        environment.setenv("DAGSTER_EVENT_BATCH_SIZE", str(EVENT_BATCH_SIZE))
        with open_instance(load_settings(quantum_home=home)) as instance:
            store = RedisStore(load_settings(redis_url=server.connection_url, quantum_home=home), Clock())
            write_world(store)
            run_cycle(store, instance)
            write_plan(store, "p1", "BTCUSDT", "CLOSE", qty=0.001)
            write_plan(store, "p2", "NOSUCHUSDT", "CLOSE", qty=0.001)
            write_plan(store, "p3", "BTCUSDT", "CLOSE", qty="nan")
            run_cycle(store, instance)
            Recorder(store).once()
            yield store, instance


def page(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=20) as answer:  # noqa: S310 - our own address
        return answer.read()


def both(store, instance) -> tuple[bytes, bytes]:
    look = Collector(store, instance).look()
    return text_of(look, "allocation"), text_of(look, "governor")


def test_a_scrape_shows_what_was_published_decided_and_how_old_it_is(world) -> None:
    allocation, governor = both(*world)
    assert value(allocation, "p29_shadow_loops_total") == 2
    assert value(allocation, "p29_shadow_proposed_total", reason="ok") == 6
    assert value(allocation, "p29_shadow_multiplier", symbol="BTCUSDT") == pytest.approx(1.3)
    assert value(allocation, "p29_shadow_confidence", symbol="BTCUSDT") == pytest.approx(0.9)
    assert value(allocation, "p29_shadow_score", symbol="BTCUSDT") == pytest.approx(0.8)
    assert value(governor, "quantum_govern_allow_total", symbol="BTCUSDT") == 1
    assert value(governor, "p32_eff_apply_total", action="NONE", reason="ok") == 1
    assert value(governor, "p32_eff_factor", symbol="BTCUSDT") == 1
    assert value(governor, "quantum_govern_block_total", symbol="BTCUSDT", reason="invalid_plan") == 1
    assert value(governor, "quantum_govern_errors_total") == 0
    assert value(governor, "quantum_govern_exec_count_hour", symbol="BTCUSDT") == 1
    assert value(governor, "quantum_govern_exec_count_5min", symbol="BTCUSDT") == 1
    for text in (allocation, governor):
        assert value(text, "quantum_redis_up") == value(text, "quantum_dagster_up") == 1
        assert value(text, "quantum_asset_age_seconds", asset="risk_proposal", symbol="ETHUSDT") == 0
        assert value(text, "quantum_publications_total", asset="market_state") == 3
        assert value(text, "quantum_suppressions_total", asset="market_state") == 3
        assert value(text, "quantum_switch", switch="killed") == 0
        assert value(text, "quantum_runs_total", job_name="cycle", status="FAILURE") == 0  # so that a first one is an increase
        assert value(text, "quantum_heartbeat_age_seconds", part="watch") == math.inf  # never heard of: longer than any limit
        assert value(text, "quantum_plans_waiting") == 0


def test_the_text_is_what_the_library_writes(world) -> None:
    """Ours is faster; the library's is the measure, of hostile names and of numbers that are none, too."""
    look = Collector(*world).look()
    hostile = 'a"b\\c\nd' + "\u2028é"
    for number, name in ((float("inf"), hostile), (float("nan"), "x"), (-0.0, "y"), (1e300, "z"), (123456789.5, "w")):
        shown = replace(
            look, beats={name: number, "1": 1.0}, allocations={name: {"multiplier": number}}, switches={hostile: True}
        )
        for port in ("allocation", "governor"):
            assert text_of(shown, port) == generate_latest(SimpleNamespace(collect=partial(families, shown, port)))


def test_counts_survive_a_new_exporter_and_are_never_doubled(world) -> None:
    store, instance = world
    first = both(store, instance)
    again = both(RedisStore(store.settings, store.clock), instance)
    counters = {key: number for text in first for key, number in samples(text).items() if key[0].endswith("_total")}
    assert counters
    assert {key: number for text in again for key, number in samples(text).items() if key[0].endswith("_total")} == counters


def test_of_two_exporters_at_once_one_counts(world) -> None:
    """Both have read the same cursor; the second script finds it moved."""
    store, _ = world
    threads = [threading.Thread(target=fold_decisions, args=(RedisStore(store.settings, store.clock),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts_in(store, "counts_decided")["allow:BTCUSDT"] == 1


@pytest.mark.slow
def test_decisions_that_came_while_no_exporter_ran_are_counted_later(store) -> None:
    stream = store.keys.of("stream_governor_events")
    for number in range(EVENTS_AT_ONCE + 10):
        store.client.xadd(stream, {"plan_id": str(number), "symbol": "BTCUSDT", "granted": "0", "reason": "kill_switch_active"})
    assert fold_decisions(store) == EVENTS_AT_ONCE
    assert fold_decisions(store) == 10
    assert fold_decisions(store) == 0
    assert counts_in(store, "counts_decided") == {"block:BTCUSDT:kill_switch_active": EVENTS_AT_ONCE + 10}


def test_text_from_redis_makes_no_series_of_its_own(store) -> None:
    """A planner with a thousand invented symbols, or reasons, must not fill the memory of whoever scrapes."""
    stream = store.keys.of("stream_governor_events")
    for number in range(50):
        store.client.xadd(stream, {"plan_id": "p", "symbol": f"X{number}", "granted": "0", "reason": f"why {number}\n"})
        store.client.xadd(
            stream, {"plan_id": "p", "symbol": f"X{number}", "granted": "1", "eff_action": 'a"b', "eff_reason": "c\n"}
        )
    fold_decisions(store)
    found = counts_in(store, "counts_decided")
    assert found == {f"block:{OTHER}:{OTHER}": 50, f"allow:{OTHER}": 50, f"eff:{OTHER}:{OTHER}": 50}


def test_runs_are_counted_once_with_how_long_they_took(store, instance) -> None:
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    store.clock.now = instance.get_run_record_by_id(
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED).run_id
    ).create_timestamp
    assert fold_runs(store, instance, store.clock().timestamp())
    assert counts_in(store, "counts_ran") == {}
    for _ in range(3):
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        instance.report_run_failed(run)
    for _ in range(3):
        store.clock.advance(1)
        fold_runs(store, instance, store.clock().timestamp())
    assert counts_in(store, "counts_ran")["run:cycle:FAILURE"] == 3
    fold_runs(RedisStore(store.settings, store.clock), instance, (store.clock() + timedelta(hours=1)).timestamp())
    assert counts_in(store, "counts_ran")["run:cycle:FAILURE"] == 3


@pytest.mark.parametrize("whose", ["of the workers", "of all"])
def test_runs_are_counted_once_while_a_clock_is_ahead_and_when_it_is_set_right(store, whose, instance) -> None:
    """Runs of a time that is yet to come are seen at every look until it has come."""
    start, ahead_sec, ended = time.time(), 600, 0
    for sec in range(0, 900, 20):
        wrong = 100 <= sec < 300
        now = start + sec + ahead_sec * (wrong and whose == "of all")
        if sec not in (0, 300):  # what ends between two looks while a clock is set may be lost
            run = dg.DagsterRun(job_name=CYCLE_JOB_NAME, run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.FAILURE)
            instance.run_storage.add_run(run)
            stamp = datetime.fromtimestamp(start + sec + ahead_sec * wrong, UTC).replace(tzinfo=None)
            with instance.run_storage.connect() as connection:
                connection.execute(RunsTable.update().where(RunsTable.c.run_id == run.run_id).values(update_timestamp=stamp))
            ended += 1
        fold_runs(store, instance, now)
    assert counts_in(store, "counts_ran")["run:cycle:FAILURE"] == ended


def test_two_exporters_of_different_clocks_lose_no_run(store, instance) -> None:
    """The one behind would take what has ended for what is yet to come, and the other would find it noted."""
    right, behind = RedisStore(store.settings, Clock()), RedisStore(store.settings, Clock())
    right.clock.now = datetime.now(UTC)
    behind.clock.now = right.clock.now - timedelta(seconds=90)
    exporters = [Collector(one, instance) for one in (right, behind)]
    exporters[0].look()
    for collector in exporters * 5:
        instance.add_run(dg.DagsterRun(job_name=CYCLE_JOB_NAME, status=dg.DagsterRunStatus.FAILURE))
        collector.look()
    assert counts_in(store, "counts_ran")["run:cycle:FAILURE"] == 10


def test_a_last_cycle_from_the_future_is_none(store, instance) -> None:
    """Else a shard whose clock was set right and that died would look well until then."""
    now = store.clock().timestamp()
    ends = store.keys.of("cycles", store.settings.symbols[0])
    for end in (now - 20, now - 10):
        store.client.lpush(ends, end)
    assert Collector(store, instance).look().cycle_gaps_sec == {"0": 10.0}
    for end in (now + 3590, now + 3600):
        store.client.lpush(ends, end)
    assert Collector(store, instance).look().cycle_gaps_sec == {"0": math.inf}


def test_counts_that_are_none_of_ours_and_beats_from_the_future_blind_no_scrape(world) -> None:
    store, instance = world
    name, beat = store.keys.of("counts_decided"), store.keys.of("heartbeat", "daemon")
    was = store.client.get(beat)
    store.client.hset(name, mapping={"block:BTCUSDT": 1, "block": 1, "allow:a:b:c": 1, "eff": 2})
    store.client.set(beat, store.clock().timestamp() + 3600)
    _, text = both(store, instance)
    store.client.hdel(name, "block:BTCUSDT", "block", "allow:a:b:c", "eff")
    store.client.set(beat, was or 0)
    assert value(text, "quantum_govern_allow_total", symbol="BTCUSDT") == 1
    assert value(text, "quantum_heartbeat_age_seconds", part="daemon") == math.inf


def test_without_redis_a_scrape_answers_and_shows_nothing_old(instance) -> None:
    gone = RedisStore(load_settings(redis_url="redis://127.0.0.1:1"))
    for text in both(gone, instance):
        assert value(text, "quantum_redis_up") == 0
        assert value(text, "quantum_dagster_up") == 1
        assert {name for name, _ in samples(text)} == {"quantum_redis_up", "quantum_dagster_up", "quantum_look_seconds"}


def test_what_is_stale_is_named_and_what_cannot_be_read_has_no_value(world) -> None:
    store, instance = world
    multiplier = store.keys.of(ALLOCATION_TARGET.key, "ETHUSDT"), "multiplier"
    was = store.client.hget(*multiplier)
    store.clock.advance(100)
    store.client.hset(*multiplier, "abc")
    text, _ = both(store, instance)
    store.clock.advance(-100)
    store.client.hset(*multiplier, was)
    assert value(text, "quantum_asset_ill", asset="risk_proposal", symbol="BTCUSDT", condition="stale") == 1
    assert value(text, "p29_shadow_multiplier", symbol="ETHUSDT") is None


def test_the_cadence_is_told_for_each_shard(world) -> None:
    """The cycles of the others would fill the gaps of a shard that has none."""
    store, instance = world
    sharded = RedisStore(store.settings.model_copy(update={"shards": 3}), store.clock)
    now = store.clock().timestamp()
    for symbol, ends in zip(SYMBOLS, ((1, 11), (40, 50), ()), strict=True):
        key = store.keys.of("cycles", symbol)
        store.client.delete(key)
        for ago in ends:
            store.client.rpush(key, now - ago)
    _, text = both(sharded, instance)
    told = [value(text, "quantum_cycle_gap_seconds", shard=str(shard)) for shard in range(3)]
    assert told == [pytest.approx(10), pytest.approx(40), math.inf]
    store.client.set(store.keys.of("cycles", "SOLUSDT"), "none")
    store.client.rpush(store.keys.of("cycles", "BTCUSDT"), "none")
    _, text = both(sharded, instance)
    assert value(text, "quantum_cycle_gap_seconds", shard="2") == math.inf


def test_counts_that_cannot_be_read_are_not_shown_as_none(world) -> None:
    """A counter that falls to 0 and comes back is a thousand events to whoever computes a rate."""
    store, instance = world
    for key, shown in (("counts_published", "p29_shadow_loops_total"), ("counts_ran", "quantum_cycle_seconds_count")):
        name = store.keys.of(key)
        assert any(family == shown for family, _ in samples(both(store, instance)[0]))
        store.client.rename(name, "aside")
        store.client.set(name, "x")
        assert not any(family == shown for family, _ in samples(both(store, instance)[0]))
        gone = SimpleNamespace(get_run_records=lambda *_, **__: 1 / 0)
        assert value(both(store, gone)[0], "quantum_dagster_up") == 0  # whatever else is wrong
        store.client.rename("aside", name)


def test_a_look_that_hangs_is_answered_and_holds_nobody(monkeypatch) -> None:
    monkeypatch.setattr("quantum_ops.cli.run.exporter.PATIENCE_SEC", 0.1)
    let_go = threading.Event()
    looks = Looks(lambda: let_go.wait() and Look(0.0, 0.0, redis_up=False, dagster_up=True))
    server = MetricsServer("127.0.0.1", 0, "governor", looks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=looks.newest, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for path in ("/healthz", "/metrics"):
        with pytest.raises(urllib.error.HTTPError, match="503"):
            page(address + path)
    let_go.set()
    assert value(page(f"{address}/metrics"), "quantum_redis_up") == 0
    with pytest.raises(urllib.error.HTTPError, match="503") as told:
        page(f"{address}/healthz")
    assert json.loads(told.value.read())["redis_up"] is False
    server.shutdown()
    server.server_close()


def test_who_waited_for_a_slow_look_gets_that_one() -> None:
    """Else those who wait would each look again, one after the other."""
    now = 0.0

    def look() -> float:
        nonlocal now
        now += 5.0
        return now

    looks = Looks(look, clock=lambda: now)
    assert [looks.newest(), looks.newest()] == [5.0, 5.0]


def test_scrapes_of_both_ports_share_one_look() -> None:
    now, looked = 0.0, []
    looks = Looks(lambda: looked.append(now) or len(looked), clock=lambda: now)
    assert [looks.newest(), looks.newest()] == [1, 1]
    now = 1.0
    assert looks.newest() == 2


def test_the_ports_answer_over_http(world) -> None:
    store, instance = world
    server = MetricsServer("127.0.0.1", 0, "governor", Looks(Collector(store, instance).look))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert b"quantum_govern_allow_total" in page(f"{address}/metrics")
    assert b'"redis_up": true' in page(f"{address}/healthz")
    server.shutdown()
    server.server_close()


def alert_rules() -> dict[str, dict]:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_every_alert_has_tests_and_asks_only_for_what_is_exported(world) -> None:
    """A rule on a metric with a typo never fires."""
    rules = alert_rules()
    tested = [test["alert_rule_test"][0] for test in yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]]
    for name in rules:
        *fires, quiet = [bool(one["exp_alerts"]) for one in tested if one["alertname"] == name]
        assert fires, name
        assert (set(fires), quiet) == ({True}, False), name
    store, instance = world
    write_plan(store, "p9", "BTCUSDT", "CLOSE", qty="nan")
    exported = {family for text in both(store, instance) for family in re.findall(r"^# TYPE (\S+)", text.decode(), re.MULTILINE)}
    exported |= {"up", *(f"quantum_cycle_seconds_{part}" for part in ("bucket", "sum", "count"))}
    expressions = [*(rule["expr"] for rule in rules.values()), *(one["expr"] for panel in panels() for one in panel["targets"])]
    asked = {name for text in expressions for name in re.findall(r"\b(?:up|quantum_[a-z_]+|p\d\d_\w+)\b(?=[\[{]|$)", text)}
    assert asked <= exported


@pytest.mark.slow
def test_prometheus_itself_accepts_the_configuration_and_the_rules_do_as_they_say() -> None:
    if shutil.which("promtool") is None:
        pytest.fail("promtool is not installed: apt-get install prometheus")
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ):
        done = subprocess.run(["promtool", *command], cwd=RULES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def panels() -> list[dict]:
    return json.loads((RULES.parent / "grafana" / "quantum.json").read_text())["panels"]


AS_JSON = """import type { Dashboard } from "@grafana/schema";
// JSON has the values of enumerations, not their names.
type Json<T> = T extends string ? `${T}` : T extends (infer One)[] ? Json<One>[] : T extends object ? { [Name in keyof T]: Json<T[Name]> } : T;
export const dashboard: Json<Dashboard> = """


@pytest.mark.slow
def test_the_dashboard_is_one_to_grafanas_own_types(tmp_path) -> None:
    """What Grafana does not know, or wants otherwise, is an error of the compiler; a misspelt one is found."""
    text = (RULES.parent / "grafana" / "quantum.json").read_text()
    shutil.copytree(Path(__file__).parent / "grafana", tmp_path, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=tmp_path, check=True, capture_output=True)
    for change, fits in ((("", ""), True), (('"gridPos"', '"gridPosition"'), False), (('"absolute"', '"absolutely"'), False)):
        assert change[0] in text
        (tmp_path / "dashboard.ts").write_text(AS_JSON + text.replace(*change))
        done = subprocess.run(["npx", "tsc", "-p", "."], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is fits, done.stdout


def test_the_dashboard_is_whole_and_its_panels_do_not_overlap() -> None:
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.slow
def test_a_real_prometheus_scrapes_both_ports_and_answers_every_panel(world, tmp_path) -> None:
    """A panel with a typo stays empty, and empty looks like calm."""
    store, instance = world
    looks = Looks(Collector(store, instance).look)
    servers = [MetricsServer("127.0.0.1", 0, port, looks) for port in ("allocation", "governor")]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("prometheus.yml", "alerts.yml"):
        text = (RULES / name).read_text().replace("scrape_interval: 10s", "scrape_interval: 1s")
        for port, server in zip((8065, 8044), servers, strict=True):
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{server.server_port}")
        (tmp_path / name).write_text(text)
    port = free_port()
    options = [
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(["prometheus", *options], cwd=tmp_path, stderr=subprocess.DEVNULL) as prometheus:
        try:

            def ask(expression: str) -> list:
                query = urllib.parse.urlencode({"query": expression})
                return json.loads(page(f"http://127.0.0.1:{port}/api/v1/query?{query}"))["data"]["result"]

            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with suppress(OSError):
                    if len(ask("up == 1")) == 2 and ask("count_over_time(quantum_redis_up[1m]) > 4"):
                        break
                time.sleep(0.5)
            else:
                pytest.fail("Prometheus does not scrape")
            silent = [panel["title"] for panel in panels() if not any(ask(target["expr"]) for target in panel["targets"])]
        finally:
            prometheus.terminate()
    for server in servers:
        server.shutdown()
        server.server_close()
    # Nothing is ill, and the pack has not ended in this world: these are right to be silent.
    assert set(silent) == {"Ill now", "Failing proofs", "Proofs that hold"}


@pytest.mark.slow
def test_the_command_serves_both_ports_and_says_which_is_taken(world, tmp_path) -> None:
    store, _ = world
    ports = free_port(), free_port()
    environment = {
        "REDIS_URL": store.settings.redis_url.get_secret_value(),
        "QUANTUM_HOME": str(tmp_path / "q"),
        "EXPORTER_ALLOCATION_PORT": str(ports[0]),
        "EXPORTER_GOVERNOR_PORT": str(ports[1]),
    }
    command = [sys.executable, "-m", "quantum_ops.cli", "exporter"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd="/") as process:
        said = [process.stderr.readline(), process.stderr.readline()]
        assert all("http://127.0.0.1:" in line for line in said)
        assert b"p29_shadow_loops_total 2.0" in page(f"http://127.0.0.1:{ports[0]}/metrics")
        second = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", check=False)
        assert (second.returncode, "cannot be used" in second.stderr) == (1, True)
        process.terminate()
        assert process.wait(10) == 0
    (tmp_path / "q" / "dagster.yaml").write_text("run_storage: {module: nothing.here, class: Nothing, config: {}}")
    broken = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", check=False, timeout=60)
    assert (broken.returncode, "nothing.here" in broken.stderr) == (1, True)


@pytest.mark.slow
def test_killed_again_and_again_it_counts_every_decision_and_run_once(tmp_path, monkeypatch) -> None:
    """Two exporters on one Redis, one of them killed every second or so, while decisions and runs go on."""
    home = tmp_path / "q"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    with valkey() as server:
        store = RedisStore(load_settings(redis_url=server.connection_url, quantum_home=home))
        ports = [free_port() for _ in range(4)]
        stop, made, scraped = threading.Event(), Counter(), []
        with ExitStack() as stack:
            instance = stack.enter_context(open_instance(store.settings))
            exporters = [exporter_of(store, home, *ports[:2]), exporter_of(store, home, *ports[2:])]
            stack.callback(lambda: [(one.kill(), one.wait()) for one in exporters])
            for port in (ports[1], ports[3]):
                wait_for_page(f"http://127.0.0.1:{port}/healthz")  # Redis and Dagster's storage are open
            writer = threading.Thread(target=decide_and_run, args=(store, instance, stop, made))
            writer.start()
            scraper = threading.Thread(target=scrape_until, args=(stop, ports[1]))  # so that kills fall into looks, too
            scraper.start()
            stack.callback(stop.set)
            for _ in range(8):
                time.sleep(0.7)
                exporters[0].kill()
                exporters[0].wait()
                scraped.append(wait_for_page(f"http://127.0.0.1:{ports[3]}/metrics"))
                exporters[0] = exporter_of(store, home, *ports[:2])
                wait_for_page(f"http://127.0.0.1:{ports[1]}/metrics")
            stop.set()
            writer.join()
            scraper.join()
            time.sleep(CACHED_SEC + 0.1)
            scraped += [page(f"http://127.0.0.1:{port}/metrics") for port in (ports[1], ports[3])]
    assert sum(made.values()) > 500
    for (symbol, reason), times in made.items():
        found = [value(text, "quantum_govern_block_total", symbol=symbol, reason=reason) or 0 for text in scraped if symbol]
        found += [value(text, "quantum_runs_total", job_name="cycle", status=reason) or 0 for text in scraped if not symbol]
        assert found == sorted(found)
        assert found[-2:] == [times, times]


def exporter_of(store: RedisStore, home: Path, allocation: int, governor: int) -> subprocess.Popen[bytes]:
    environment = {
        "REDIS_URL": store.settings.redis_url.get_secret_value(),
        "QUANTUM_HOME": str(home),
        "EXPORTER_ALLOCATION_PORT": str(allocation),
        "EXPORTER_GOVERNOR_PORT": str(governor),
        "LOG_LEVEL": "ERROR",
    }
    return subprocess.Popen([sys.executable, "-m", "quantum_ops.cli", "exporter"], env=environment, cwd="/")


def scrape_until(stop: threading.Event, port: int) -> None:
    while not stop.is_set():
        with suppress(OSError, HTTPException):  # killed before, or in the middle of, its answer
            page(f"http://127.0.0.1:{port}/metrics")
        time.sleep(0.02)


def wait_for_page(address: str) -> bytes:
    deadline = time.monotonic() + 30
    while True:
        try:
            return page(address)
        except OSError:  # not there yet, or 503
            assert time.monotonic() < deadline
            time.sleep(0.1)


def decide_and_run(store: RedisStore, instance: dg.DagsterInstance, stop: threading.Event, made: Counter) -> None:
    """Record decisions, and runs that end, until told to stop; count them."""
    job = assemble(store).resolve_job_def(CYCLE_JOB_NAME)
    stream, reasons = store.keys.of("stream_governor_events"), ("kill_switch_active", "synthetic_data")
    for number in itertools.count():
        if stop.is_set():
            return
        reason, symbol = reasons[number % 2], SYMBOLS[number % 3]
        store.client.xadd(stream, {"plan_id": str(number), "symbol": symbol, "granted": "0", "reason": reason})
        made[symbol, reason] += 1
        if number % 20 == 0:
            run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
            instance.report_run_failed(run)
            made["", "FAILURE"] += 1
        time.sleep(0.005)


def test_the_settings_name_the_ports_operators_know() -> None:
    settings = load_settings()
    assert (settings.exporter_allocation_port, settings.exporter_governor_port) == (8065, 8044)
