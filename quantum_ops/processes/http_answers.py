"""What the product's own small HTTP servers share: how they answer, and that they say nothing of it."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

JSON = "application/json"


class Answers(BaseHTTPRequestHandler):
    """Answers with a whole body, and logs nothing."""

    timeout = 10  # s; who connects and says nothing keeps no thread

    def answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Send it."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError, TimeoutError):  # who asked has gone
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's names
        """Keep quiet: a line per look would drown what matters."""
