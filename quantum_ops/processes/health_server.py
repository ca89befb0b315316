"""Answers /healthz on this machine: what a service reports of itself, and whether it is alive."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from quantum_ops.processes.http_answers import JSON, Answers


class HealthServer(ThreadingHTTPServer):
    """Serves /healthz on 127.0.0.1.

    Parameters
    ----------
    port
        TCP port; 0 chooses a free one.
    report
        Gives the report, and whether the watcher is healthy.
    """

    daemon_threads = True

    def __init__(self, port: int, report: Callable[[], tuple[dict[str, Any], bool]]) -> None:
        super().__init__(("127.0.0.1", port), _HealthHandler)
        self.report = report


class _HealthHandler(Answers):
    server: HealthServer

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        if self.path != "/healthz":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        report, alive = self.server.report()
        self.answer(json.dumps(report).encode(), JSON, HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE)
