"""Dagster's webserver with a status banner, the desk's pages, and check results shown until the next are due.

Here belong routes and who may use them; what the pages say and how they look is in ``pages.py`` and ``banner.py``.
Requests that other sites' pages make a browser send are refused.
Started as ``python -m quantum_ops.desk.webserver ...``. Checked on dagster-webserver 1.13.27: the page is served by
``DagsterWebserver.index_html_endpoint``; it answers to any Host, and executes mutations that come as a GET.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import dagster_webserver.app
import orjson
from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from quantum_assets.checks.pack import PROOFS
from quantum_assets.checks.proof import RENEWED_AFTER_SEC, SOUND
from quantum_assets.checks.proofs.inputs import INPUTS
from quantum_core.kernels import CLOCK_SKEW_SEC
from quantum_core.settings import load_settings
from quantum_ops.alerts.findings import PACK_INTERVALS
from quantum_ops.desk import banner
from quantum_ops.desk import pages as desk_pages
from quantum_ops.desk.history import History, read_history
from quantum_ops.desk.overview import DeskReader, Recent
from resources.instance.check_results import judge_check_results
from resources.instance.dagster_internals import storage_id
from resources.store.lease import seen_holder
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORBIDDEN, POLICY_VIOLATION = 403, 1008  # HTTP status, websocket code
DESK_FONT = re.compile(r"@font-face\s*\{font-family:Geist;[^}]*\}")  # Dagster's own, part of one of its style sheets
DAY_SEC = 86_400
JSON_MEDIA = "application/json"

OUR_CHECKS = frozenset({SOUND, *(proof.name for proof in PROOFS), *(one.proof.name for one in INPUTS)})


def targets_latest(check: str, partition: str | None, stored_at: float) -> bool | None:
    """Return whether the result of a check is that of now; ``None`` where Dagster is to judge.

    Dagster shows a result as "not evaluated" once its asset has been materialized again, which here happens six times between
    two runs of the pack. A result of the pack is shown while it is younger than the next one may be late, and no longer: when
    the whole loop has stopped nothing is materialized any more, and Dagster would show the last result for ever.

    Parameters
    ----------
    check
        Name of the check; those of other code are Dagster's to judge.
    partition
        Its symbol, if it has one.
    stored_at
        When the result was stored, epoch s.
    """
    if check not in OUR_CHECKS:
        return None
    limit_sec = RENEWED_AFTER_SEC if check == SOUND and partition is not None else 0
    return -CLOCK_SKEW_SEC <= time.time() - stored_at <= limit_sec + PACK_INTERVALS * load_settings().proof_interval_sec


class OwnPagesOnly:
    """Refuses what another site's page makes a browser send here: a page that is merely visited could launch and delete runs.

    Parameters
    ----------
    app
        What answers the rest.
    hosts
        Names by which this server is addressed.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        why = refusal(scope, self.hosts) if scope["type"] in ("http", "websocket") else ""
        answer: ASGIApp = self.app
        if why:
            answer = WebSocketClose(POLICY_VIOLATION, why) if scope["type"] == "websocket" else PlainTextResponse(why, FORBIDDEN)
        await answer(scope, receive, send)


def refusal(scope: Scope, hosts: Collection[str]) -> str:
    """Say why a request is refused; empty when it is not.

    A name that is not ours came by a foreign DNS answer (rebinding). A foreign Origin is a foreign page. A browser sends GET and
    forms for any page without asking, JSON only after a leave that is never given here.
    """
    headers = Headers(scope=scope)
    if _host(f"//{headers.get('host', '')}") not in hosts:
        return "This name is none of this server's; WEB_HOSTS lists them."
    if (origin := headers.get("origin")) is not None and _host(origin) not in hosts:
        return "This request comes from another site's page."
    if scope["type"] == "http" and scope["path"].endswith("/graphql"):
        playground = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        json_sent = scope["method"] == "POST" and headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        if not (playground or json_sent):
            return "GraphQL is taken as POST with Content-Type application/json only."
    return ""


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


class DeskPages:
    """Answers the desk's addresses: status banner, overview, one symbol; each as a page, or as JSON for programs.

    Parameters
    ----------
    reader
        Reads what they show.
    instance
        Gives Dagster's instance, whose event log holds the path of the stop.
    prefix
        Path prefix of the web server.
    """

    def __init__(self, reader: DeskReader, instance: Callable[[], dg.DagsterInstance], prefix: str = "") -> None:
        self.reader, self.instance, self.prefix = reader, instance, prefix
        self._histories: dict[str, Recent[History]] = {}

    def routes(self) -> list[Route]:
        """Give the routes; they answer in threads, so that a slow Redis holds up nobody else."""
        return [
            Route(f"{self.prefix}{banner.PATH}", self.banner),
            Route(f"{self.prefix}{banner.FONT_PATH}", self.font),
            Route(f"{self.prefix}{desk_pages.PATH}", self.overview, middleware=[Middleware(GZipMiddleware, compresslevel=1)]),
            Route(f"{self.prefix}{desk_pages.PATH}/{{symbol:path}}", self.symbol),
        ]

    def banner(self, _: Request) -> Response:
        """Serve the status banner, also while Redis is away."""
        try:
            shown = banner.parts(self.reader.standing())
            if holder := self._holder():
                shown.append(banner.standing_by(holder))
        except RedisUnavailableError:
            shown = banner.unreachable(self.reader.store.settings.redis_address, self.reader.last)
        nonce = secrets.token_hex(16)
        return _page(banner.document(shown, self.prefix, nonce), banner.CSP, nonce)

    def _holder(self) -> str:
        """Name the deployment that runs the cycle instead of this one; none while Dagster's database is away."""
        try:
            return seen_holder(self.reader.store, storage_id(self.instance()))
        except SQLAlchemyError:
            return ""

    def overview(self, request: Request) -> Response:
        """Serve all symbols."""
        nonce = secrets.token_hex(16)
        try:
            standing, rows = self.reader.standing(), self.reader.rows()
        except RedisUnavailableError as error:
            return self._unavailable(request, error)
        if wants_json(request):
            return _json({"standing": standing, "symbols": rows})
        return _page(desk_pages.overview(standing, rows, self.prefix, nonce), desk_pages.CSP, nonce)

    def symbol(self, request: Request) -> Response:
        """Serve one symbol."""
        name = request.path_params["symbol"]
        nonce = secrets.token_hex(16)
        try:
            view = self.reader.symbol(name)
            if view is None:
                return self._unknown(request, name)
            history = self._history(name)
            standing = self.reader.standing()
        except RedisUnavailableError as error:
            return self._unavailable(request, error)
        if wants_json(request):
            return _json(
                {
                    "standing": standing,
                    "symbol": view.row,
                    "stop_since": history.stop_since(view.row),
                    "failures": view.faults.failures,
                    "ages": [vital._asdict() for vital in view.faults.vitals],
                    "decisions": view.decisions,
                    "proposals": [point._asdict() for point in history.proposals],
                }
            )
        return _page(
            desk_pages.symbol_page(view, history, standing, self.prefix, nonce, self.reader.store.settings.asset_path),
            desk_pages.CSP,
            nonce,
        )

    def _history(self, symbol: str) -> History:
        def read() -> History:
            return read_history(self.reader.store, self.instance(), symbol)

        return self._histories.setdefault(symbol, Recent(read)).get()

    def font(self, _: Request) -> Response:
        """Serve the font of Dagster's pages; where it cannot be found, the browser takes one of its own."""
        return Response(_font_face(), media_type="text/css", headers={"Cache-Control": f"max-age={DAY_SEC}"})

    def _unknown(self, request: Request, name: str) -> Response:
        text = f"{name[:80]} is not among the SYMBOLS of this deployment."
        return self._message(request, "Unknown symbol", text, HTTPStatus.NOT_FOUND)

    def _unavailable(self, request: Request, error: RedisUnavailableError) -> Response:
        parts = banner.unreachable(self.reader.store.settings.redis_address, self.reader.last)
        text = (
            "Nothing is shown until Redis answers again, and nothing is permitted. This page tries again by itself. "
            "What to look at: quantum doctor."
        )
        if error.__cause__ is not None:
            text += f" The connection says: {error.__cause__}"
        return self._message(request, ". ".join(part.text for part in parts), text, HTTPStatus.SERVICE_UNAVAILABLE)

    def _message(self, request: Request, title: str, text: str, status: HTTPStatus) -> Response:
        if wants_json(request):
            return _json({"error": text}, status)
        nonce = secrets.token_hex(16)
        return _page(desk_pages.message_page(title, text, self.prefix, nonce), desk_pages.CSP, nonce, status)


def wants_json(request: Request) -> bool:
    """Return whether a program asks: by ``?format=json``, or by a header Accept that names JSON and no page."""
    if (wanted := request.query_params.get("format")) is not None:
        return wanted == "json"
    accepted = request.headers.get("accept", "")
    return JSON_MEDIA in accepted and "text/html" not in accepted


def _page(text: str, csp: str, nonce: str, status: int = HTTPStatus.OK) -> Response:
    headers = {
        "Content-Security-Policy": csp.format(nonce=nonce),
        "Cache-Control": "no-store",
        "Vary": "Accept",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(text, status, headers=headers)


def _json(content: object, status: int = HTTPStatus.OK) -> Response:
    headers = {"Cache-Control": "no-store", "Vary": "Accept", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS), status, headers, JSON_MEDIA)


@lru_cache(maxsize=1)
def _font_face() -> str:
    sheets = Path(dagster_webserver.app.__file__).parent.glob("webapp/build/_next/static/css/*.css")
    faces = (DESK_FONT.search(sheet.read_text(errors="replace")) for sheet in sheets)
    return next((face.group() for face in faces if face), "")


class BannerWebserver(DagsterWebserver[Any, Any]):
    """Serves the user interface with the status banner and the desk's pages, to its own pages."""

    def build_middleware(self) -> list[Middleware]:
        """Refuse requests of other sites' pages before Dagster sees them."""
        return [Middleware(OwnPagesOnly, hosts={*LOOPBACK, *load_settings().web_hosts}), *super().build_middleware()]

    def make_csp_header(self, nonce: str) -> str:
        """Let the page show no pictures of other servers: Markdown in a description could count who looks."""
        return f"{super().make_csp_header(nonce).strip().rstrip(';')}; img-src 'self' data: blob:; frame-ancestors 'none'"

    def build_routes(self) -> list[Any]:
        """Serve banner and desk beside Dagster's own pages."""
        reader = DeskReader(RedisStore(load_settings()))
        pages = DeskPages(reader, lambda: self._process_context.instance, self._app_path_prefix)
        return [*pages.routes(), *super().build_routes()]  # type: ignore[no-untyped-call]

    def index_html_endpoint(self, request: Request) -> HTMLResponse:
        """Serve the page with the banner on top."""
        page: Any = super().index_html_endpoint(request)
        if not isinstance(page, HTMLResponse):
            return page  # type: ignore[no-any-return]
        body = bytes(page.body).replace(b"</body>", banner.frame(self._app_path_prefix).encode() + b"</body>", 1)
        headers = {name: value for name, value in page.headers.items() if name != "content-length"}
        return HTMLResponse(body, headers=headers)


if __name__ == "__main__":
    vars(dagster_webserver.app)["DagsterWebserver"] = BannerWebserver
    judge_check_results(targets_latest)
    main()  # type: ignore[no-untyped-call]
