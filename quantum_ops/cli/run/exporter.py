"""``quantum exporter``: Prometheus metrics on two ports, a process of its own."""

from __future__ import annotations

import gc
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer

import click
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from quantum_core.exit_codes import EXIT_FAILED
from quantum_core.logs import log_to_stderr
from quantum_core.settings import load_settings
from quantum_ops.exporter.exposition import text_of
from quantum_ops.exporter.metrics import Collector, Look
from quantum_ops.processes.http_answers import JSON, Answers
from resources.instance.home import open_instance, wait_for_instance
from resources.store.redis_store import RedisStore

CACHED_SEC = 1.0  # scrapes of both ports, and of several servers, share one reading
GARBAGE_LOOKED_FOR_EVERY = 50_000  # allocations
PATIENCE_SEC = 8.0  # so long a scrape waits for the reading; Prometheus itself gives up after 10 s

log = logging.getLogger("quantum.exporter")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--once", is_flag=True, help="Look once, print the metrics of both ports, and exit.")
def exporter(host: str, *, once: bool) -> None:
    """Serve metrics for Prometheus on EXPORTER_ALLOCATION_PORT (8065) and EXPORTER_GOVERNOR_PORT (8044), and /healthz on both.

    \b
    quantum exporter
    quantum exporter --once | grep quantum_asset_age

    Counts are kept in Redis and survive every restart. While Redis is away, quantum_redis_up is 0 and nothing old is shown.
    Exit codes: 0 stopped as asked; 1 a port is taken; 2 wrong settings.
    """
    settings = load_settings()
    collector = Collector(RedisStore(settings), None)
    looks = Looks(collector.look)
    if once:
        with open_instance(settings) as collector.instance:
            for name in ("allocation", "governor"):
                click.echo(text_of(looks.newest(), name).decode(), nl=False)
        return
    log_to_stderr(settings.log_level)
    ports = {"allocation": settings.exporter_allocation_port, "governor": settings.exporter_governor_port}
    servers = []
    for name, port in ports.items():
        try:
            servers.append(MetricsServer(host, port, name, looks))
        except OSError as error:
            click.echo(f"Port {port} cannot be used ({error.strerror}). Does another exporter run?", err=True)
            sys.exit(EXIT_FAILED)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    failures: list[Exception] = []
    threading.Thread(target=_open_storage, args=(collector, failures, stop), daemon=True).start()
    for server in servers:
        log.info("metrics of %s on http://%s:%d/metrics", server.port, host, server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True, name=server.port).start()
    stop.wait()
    for server in servers:
        server.shutdown()
        server.server_close()
    if failures:
        raise failures[0]


def _open_storage(collector: Collector, failures: list[Exception], stop: threading.Event) -> None:
    """Open Dagster's storage as soon as it answers; until then quantum_dagster_up is 0."""
    try:
        collector.instance = wait_for_instance(collector.store.settings, log.warning)
    except Exception as failure:  # noqa: BLE001 - a wrong configuration: in a thread nobody would hear of it
        failures.append(failure)
        stop.set()
    gc.freeze()  # Dagster's modules are searched for garbage no more: 0.2 s of a scrape, now and then
    gc.set_threshold(GARBAGE_LOOKED_FOR_EVERY)  # and what a reading leaves, which has no cycles, less often: a tenth of it


class LookHangsError(RuntimeError):
    """The look under way does not come to its end."""

    def __init__(self) -> None:
        super().__init__(f"The look under way has not ended within {PATIENCE_SEC:g} s; Redis or Dagster's storage hangs.")


class Looks:
    """The newest look, not older than CACHED_SEC; who asks meanwhile waits for the one under way.

    Parameters
    ----------
    look
        Looks.
    clock
        Monotonic seconds.
    """

    def __init__(self, look: Callable[[], Look], clock: Callable[[], float] = time.monotonic) -> None:
        self.look, self.clock = look, clock
        self._lock = threading.Lock()
        self._newest: tuple[float, Look] | None = None

    def newest(self) -> Look:
        """Give it.

        Raises
        ------
        LookHangsError
            See there.
        """
        if not self._lock.acquire(timeout=PATIENCE_SEC):
            raise LookHangsError
        try:
            if self._newest is None or self.clock() - self._newest[0] >= CACHED_SEC:
                look = self.look()
                self._newest = self.clock(), look  # who waited for it gets it, however long it took
            return self._newest[1]
        finally:
            self._lock.release()


class MetricsServer(ThreadingHTTPServer):
    """One port."""

    daemon_threads = True

    def __init__(self, host: str, number: int, port: str, looks: Looks) -> None:
        super().__init__((host, number), _Handler)
        self.port, self.looks = port, looks


class _Handler(Answers):
    server: MetricsServer

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        path = self.path.partition("?")[0]
        if path not in ("/healthz", "/metrics"):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            look = self.server.looks.newest()
        except LookHangsError as error:
            self.answer(json.dumps({"error": str(error)}).encode(), JSON, HTTPStatus.SERVICE_UNAVAILABLE)
            return
        if path == "/metrics":  # also without Redis: that it is away is a metric
            self.answer(text_of(look, self.server.port), CONTENT_TYPE_LATEST)
            return
        told = {"redis_up": look.redis_up, "dagster_up": look.dagster_up, "look_sec": round(look.took_sec, 3)}
        well = look.redis_up and look.dagster_up
        self.answer(json.dumps(told).encode(), JSON, HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE)
