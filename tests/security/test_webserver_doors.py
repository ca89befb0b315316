"""The user interface from outside: on loopback only, behind a proxy that asks for a password, and without mutations for viewers."""

import base64
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from resources.store.redis_store import RedisStore
from tests.servers import ACL_FILE, certificates, free_port, listens
from tests.stack.test_up import command_of
from tests.world import QUIET, real_closes, run_cycle, write_candles, write_plan, write_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LAUNCH = 'mutation {launchRun(executionParams: {selector: {jobName: "cycle", repositoryName: "__repository__", repositoryLocationName: "quantum"}, runConfigData: {}}) {__typename}}'
MUTATIONS = (
    LAUNCH,
    'mutation {deletePipelineRun(runId: "x") {__typename}}',
    'mutation {terminateRun(runId: "x") {__typename}}',
    'mutation {wipeAssets(assetPartitionRanges: [{assetKey: {path: ["position"]}}]) {__typename}}',
    'mutation {startSensor(sensorSelector: {repositoryName: "__repository__", repositoryLocationName: "quantum", sensorName: "cycle"}) {__typename}}',
    'mutation {stopSensor(id: "SENSOR_ID") {__typename}}',
    'mutation {reportRunlessAssetEvents(eventParams: {eventType: ASSET_MATERIALIZATION, assetKey: {path: ["position"]}}) {__typename}}',
    'mutation {shutdownRepositoryLocation(repositoryLocationName: "quantum") {__typename}}',
    "mutation {reloadWorkspace {__typename}}",
)
SENSORS = (
    'query {sensorsOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "quantum"})'
    "{... on Sensors{results{sensorState{id}}}}}"
)
AGES = ("PROPOSAL_MAX_AGE", "MARKETSTATE_MAX_AGE", "GOV_MAX_DATA_AGE", "CANDLE_STALE_MARGIN", "PROPOSAL_WARN_AGE")
PATIENT = {f"{name}_SEC": "3000" for name in AGES}  # what stands in Redis stays fresh for as long as a test takes
REFUSED = ("UnauthorizedError", "not authorized", "does not have permission")


@contextmanager
def webserver(home: Path, *arguments: str, port: int = 0, **variables: str) -> Iterator[int]:
    """Run the product's webserver; it needs no workers to answer."""
    port = port or free_port()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "QUANTUM_HOME": str(home),
        "DAGSTER_HOME": str(home),
        **variables,
    }
    root = ACL_FILE.parents[2]
    command = [
        sys.executable,
        "-m",
        "quantum_ops.desk.webserver",
        "-p",
        str(port),
        "-w",
        str(root / "workspace.yaml"),
        *arguments,
    ]
    with (
        (home / "webserver.log").open("wb") as log,
        subprocess.Popen(command, env=environment, cwd=root, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2).read()
                    break
                except OSError:
                    assert process.poll() is None, (home / "webserver.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.3)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def graphql(connection: HTTPConnection, query: str, **headers: str) -> tuple[int, str]:
    connection.request("POST", "/graphql", json.dumps({"query": query}), {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    told = answer.status, answer.read().decode()
    connection.close()  # the next request opens it again
    return told


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    """Whoever reaches the port may do everything; nobody else's machine may reach it."""
    with webserver(tmp_path) as port:
        listening = {
            one.laddr.ip for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.laddr.port == port
        }
        assert listening == {"127.0.0.1"}


def test_a_viewer_reads_and_changes_nothing(tmp_path: Path) -> None:
    """Every kind of change that Dagster's GraphQL has a word for, and the same without the flag to see that it was the flag."""
    with webserver(tmp_path, "--read-only") as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        status, told = graphql(connection, "{runsOrError{... on Runs{results{runId}}}}")
        assert (status, "errors" in told) == (200, False)
        sensor_id = re.findall(r'"sensorState": ?{"id": ?"([^"]+)"', graphql(connection, SENSORS)[1])[0]
        for mutation in MUTATIONS:
            status, told = graphql(connection, mutation.replace("SENSOR_ID", sensor_id))
            assert any(word in told for word in REFUSED), (mutation, told[:500])
    with webserver(tmp_path) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        assert not any(word in graphql(connection, MUTATIONS[1])[1] for word in REFUSED)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Run Debian's nginx with the shipped configuration in front of a webserver that knows its name."""
    home, folder = tmp_path / "home", tmp_path / "nginx"
    home.mkdir()
    folder.mkdir()
    ca = certificates(folder)
    password = subprocess.run(["openssl", "passwd", "-apr1", "right"], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "quantum.htpasswd").write_text(f"ada:{password}\n")
    port = free_port()
    with webserver(home, WEB_HOSTS="quantum.example") as behind:
        site = (ACL_FILE.parents[1] / "nginx" / "quantum.conf").read_text()
        site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace("127.0.0.1:3000", f"127.0.0.1:{behind}")
        site = site.replace("/etc/nginx/tls/quantum.crt", f"{folder}/server.crt").replace(
            "/etc/nginx/tls/quantum.key", f"{folder}/server.key"
        )
        (folder / "site.conf").write_text(site.replace("/etc/nginx/quantum.htpasswd", f"{folder}/quantum.htpasswd"))
        user = "user root;" if os.getuid() == 0 else ""  # the password file is in a folder of this test's
        temporary = " ".join(f"{one}_temp_path {folder}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"{user} pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log off; {temporary} include {folder}/site.conf; }}"
        )
        process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"])
        try:
            deadline = time.monotonic() + 10
            while not listens(port):
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            context = ssl.create_default_context(cafile=str(ca))
            yield port, context
        finally:
            process.terminate()
            process.wait(10)


def test_the_proxy_asks_for_a_password_and_passes_everything_on(proxied: tuple[int, ssl.SSLContext]) -> None:
    """Nothing without credentials; with them the page, GraphQL, and its websocket."""
    port, context = proxied

    def connect() -> HTTPSConnection:
        return HTTPSConnection("localhost", port, context=context, timeout=60)

    named = {"Host": "quantum.example"}
    ada = {**named, "Authorization": f"Basic {base64.b64encode(b'ada:right').decode()}"}
    wrong = {**named, "Authorization": f"Basic {base64.b64encode(b'ada:wrong').decode()}"}
    for headers, expected in ((named, 401), (wrong, 401), (ada, 200)):
        connection = connect()
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        page = answer.read()
        connection.close()
        assert answer.status == expected
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"  # the banner is a frame; Dagster's own pages allow nobody
        assert ("frame-ancestors 'none'" in answer.headers.get("Content-Security-Policy", "")) == (expected == 200)
        assert "max-age" in answer.headers["Strict-Transport-Security"]
        assert (b"Dagster" in page or b"dagster" in page) == (expected == 200)
        assert graphql(connect(), "{version}", **headers)[0] == expected
    assert "1.13" in graphql(connect(), "{version}", **ada)[1]
    assert graphql(connect(), "{version}", **ada, Origin="https://evil.example")[0] == 403
    assert upgraded(connect(), {**ada, "Origin": "https://quantum.example"}) == 101
    assert upgraded(connect(), {**ada, "Origin": "https://evil.example"}) == 403
    assert upgraded(connect(), named) == 401


def test_no_hostile_word_runs_or_calls_out_on_dagsters_pages(make_store: Any, tmp_path: Path) -> None:
    """Reasons, labels and alerts of other programs end up in metadata, tables, logs, the banner and the desk."""
    from playwright.sync_api import sync_playwright

    from definitions import assemble
    from resources.instance.dagster_internals import FAILED_SYMBOLS_JOB
    from sensors.proofs import PROOFS_JOB_NAME
    from tests.browser.test_ui import ARGUMENTS, CHROMIUM

    hostile = "<img src=x onerror=window.pwned=1><script>window.pwned=1</script> ![x](http://127.0.0.1:9/leak)"
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    store = make_store()
    for symbol in store.settings.symbols:
        write_candles(store, symbol, real_closes(symbol))
    store.client.hset(store.keys.of("raw_position", "ETHUSDT"), mapping={"side": f"data {hostile}"})
    store.client.set(store.keys.of("guard_active", "DRAWDOWN"), json.dumps({"reason": hostile}))
    store.client.set(store.keys.of("banner"), f"banner {hostile}")
    store.client.set(store.keys.of("alerts_active"), json.dumps([{"title": hostile}]))
    write_plan(store, "p-1", "ETHUSDT", source=hostile, action=hostile)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run = run_cycle(store, instance, raise_on_error=False)
        proofs = (
            assemble(store)
            .resolve_job_def(PROOFS_JOB_NAME)
            .execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
        )
        (failed,) = instance.get_runs(dg.RunsFilter(job_name=FAILED_SYMBOLS_JOB))
    with webserver(tmp_path, REDIS_URL=store.settings.url) as port, sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        seen = ""
        for path in ("/", "/assets/position?view=checks", "/assets/position?view=events", "/assets/risk_guard?view=checks",
                     "/assets/governor_permit?view=events", "/desk", "/desk/ETHUSDT", f"/runs/{run.run_id}", f"/runs/{failed.run_id}", f"/runs/{proofs.run_id}"):  # fmt: skip
            page.goto(f"http://127.0.0.1:{port}{path}", wait_until="domcontentloaded")
            page.wait_for_timeout(3_000)  # the page fetches and renders by itself
            for frame in page.frames:  # the banner is one
                seen += frame.inner_text("body")
                assert frame.evaluate("window.pwned") is None, path
        browser.close()
    for place in ("data", "banner"):
        assert f"{place} {hostile[:20]}".lower() in seen.lower()  # it was there to be run
    assert [url for url in asked if not url.startswith((f"http://127.0.0.1:{port}", "data:", "blob:"))] == []


def test_a_page_that_stays_open_turns_red_by_itself_and_hides_nothing(make_store: Any, tmp_path: Path) -> None:
    """Dagster's page is loaded once; what it said of alerts then must not stand for days."""
    from playwright.sync_api import expect, sync_playwright

    from tests.browser.test_ui import ARGUMENTS, CHROMIUM

    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    store = RedisStore(make_store().settings)  # the web server's clock is the real one

    def publish() -> None:
        write_world(store)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            run_cycle(store, instance)
        for key in store.client.scan_iter():
            store.client.persist(key)
        store.client.set(store.keys.of("alerts_active"), "[]")

    publish()
    port = free_port()
    patient = {**PATIENT, "REDIS_URL": store.settings.url}
    with ExitStack() as stack, sync_playwright() as player:
        stack.enter_context(webserver(tmp_path, port=port, **patient))
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        banner = page.frame_locator("iframe[title='status banner']").locator("body")
        expect(banner).to_contain_text("no alert")
        green = banner.evaluate("body => getComputedStyle(body).backgroundColor")
        navigation = page.get_by_role("link", name="Runs")
        expect(navigation).to_be_visible()
        heights = page.evaluate("['#root', 'html'].map(one => document.querySelector(one).getBoundingClientRect().bottom)")
        assert heights == [page.viewport_size["height"]] * 2  # nothing below the window
        assert page.locator("#root").bounding_box()["y"] >= page.locator("iframe").bounding_box()["height"]
        store.client.set(store.keys.of("alerts_active"), json.dumps([{"title": "worker is silent"}]))
        expect(banner).to_contain_text("worker is silent", timeout=20_000)
        assert banner.evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(161, 18, 18)"
        store.client.set(store.keys.of("alerts_active"), "[]")
        expect(banner).to_contain_text("no alert", timeout=20_000)
        (server,) = (one for one in psutil.Process().children(recursive=True) if "quantum_ops.desk.webserver" in command_of(one))
        server.suspend()  # it takes connections, and answers none
        expect(banner).to_contain_text("does not answer", timeout=30_000)
        server.resume()
        expect(banner).to_contain_text("no alert", timeout=20_000)
        stack.close()
        expect(banner).to_contain_text("does not answer", timeout=20_000)
        assert banner.evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(161, 18, 18)"
        with ThreadPoolExecutor(1) as pool:  # by now the prices are old, which is a notice; this thread's loop is the browser's
            pool.submit(publish).result()
        with webserver(tmp_path, port=port, **patient):
            expect(banner).to_contain_text("no alert", timeout=20_000)
            assert banner.evaluate("body => getComputedStyle(body).backgroundColor") == green
        browser.close()


def upgraded(connection: HTTPSConnection, headers: dict[str, Any]) -> int:
    words = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0" * 16).decode(),
    }
    connection.request("GET", "/graphql", headers={**headers, **words, "Sec-WebSocket-Protocol": "graphql-ws"})
    status = connection.getresponse().status
    connection.close()
    return status
