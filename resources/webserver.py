"""Dagster's webserver with a strip that names what is wrong, check results shown until the next are due, and a shut door.

The door is shut to requests that other sites' pages make a browser send.
Started as ``python -m resources.webserver ...``. Checked on dagster-webserver 1.13.27: the page is served by
``DagsterWebserver.index_html_endpoint``; it answers to any Host, and executes mutations that come as a GET.
"""

from __future__ import annotations

import html
import json
import secrets
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

import dagster_webserver.app
import redis
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from quantum_assets.checks.proof import RENEWED_AFTER_SEC, SOUND
from quantum_assets.contracts.schema import CLOCK_SKEW_SEC
from quantum_assets.incidents import PACK_INTERVALS
from resources.redis_store import connect
from resources.settings import load_settings

AMBER, RED, GREEN = "#7a4b00", "#a11212", "#1d5c34"
STRIP_PATH = "/strip"
RENEWED_EVERY_SEC, ANSWERS_WITHIN_SEC, HEIGHT_PX = 10, 8, 24
# A document of its own that renews itself: the page around it is loaded once and stays open for days. Not by a `refresh`, which
# would end with the first answer that fails.
RENEWS = """
setInterval(async () => {
  try {
    const answer = await fetch(location.href, {cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS)});
    if (!answer.ok) throw answer.status;
    document.body.replaceWith(new DOMParser().parseFromString(await answer.text(), "text/html").body);
  } catch (why) {
    document.body.style.background = "RED";
    if (!document.body.dataset.since) {
      document.body.dataset.since = new Date().toISOString().slice(11, 19);
      document.body.title = document.body.textContent =
        `this page's server does not answer since ${document.body.dataset.since} UTC: nothing here is up to date`;
    }
  }
}, EVERY_MS);
""".replace("RED", RED)
RENEWS = RENEWS.replace("EVERY_MS", str(RENEWED_EVERY_SEC * 1000)).replace("TIMEOUT_MS", str(ANSWERS_WITHIN_SEC * 1000))
STRIP = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>alerts</title><script nonce="{nonce}">{script}</script>'
    '<body title="{text}" style="margin:0;padding:0 12px;background:{colour};color:#fff;text-align:center;overflow:hidden;'
    'white-space:nowrap;text-overflow:ellipsis;font:600 12px/{height}px system-ui,sans-serif">{text}</body></html>'
)
STRIP_CSP = (
    "default-src 'none'; script-src 'nonce-{nonce}'; connect-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'"
)
FRAME = (  # Dagster's page is as high as the window: it goes on below the strip
    "<style>body{{padding-top:{height}px}}#root{{height:calc(100vh - {height}px)!important}}</style>"
    '<iframe src="{path}" title="alerts" style="position:fixed;top:0;left:0;width:100%;height:{height}px;border:0"></iframe>'
)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORBIDDEN, POLICY_VIOLATION = 403, 1008  # HTTP status, websocket code
TEXT_MAX = 300  # characters of what comes from Redis


def banner() -> tuple[str, str]:
    """Read what is wrong (the watcher's active alerts) and what the feed says of its data.

    Returns
    -------
    tuple
        Colour and text; an empty text when all is well and live.
    """
    settings = load_settings()
    try:
        with connect(settings) as client:
            alerts, playing = client.mget(settings.keys.of("alerts_active"), settings.keys.of("banner"))
    except redis.RedisError:
        return RED, f"Redis at {settings.redis_address} does not answer"
    wrong = _titles(alerts)
    played = playing.decode(errors="replace")[:TEXT_MAX] if isinstance(playing, bytes) else ""
    return (RED if wrong else AMBER), " | ".join(text for text in (wrong, played) if text)


def _titles(alerts: object) -> str:
    """Name the active alerts; that nobody has told of any, good or bad, is an alert, and so is a text that is none of ours."""
    if not isinstance(alerts, bytes):
        return "the watcher has not been heard of for 30 s: nothing is alerted"
    try:
        return "; ".join(str(one["title"]) for one in json.loads(alerts))[:TEXT_MAX]
    except (ValueError, TypeError, KeyError):
        return "the list of active alerts cannot be read"


stock_targets_latest = AssetCheckExecutionRecord.targets_latest_materialization


async def targets_latest(record: AssetCheckExecutionRecord, loading_context: Any) -> bool:
    """Tell whether a check's result is that of now.

    Dagster shows a result as "not evaluated" once its asset has been materialized again, which here happens six times between
    two runs of the pack. A result is shown while it is younger than the next one may be late; an older one is Dagster's to
    judge, so that a pack that has stopped does not stay green.
    """
    limit_sec = RENEWED_AFTER_SEC if record.key.name == SOUND else 0
    age_sec = time.time() - record.create_timestamp
    if -CLOCK_SKEW_SEC <= age_sec <= limit_sec + PACK_INTERVALS * load_settings().proof_interval_sec:
        return True
    return await stock_targets_latest(record, loading_context)


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


def strip(nonce: str) -> str:
    """Write the strip: what is wrong, what is played, or that no alert stands, and when that was looked up."""
    colour, text = banner()
    said = html.escape(f"{text or 'no alert'} ({time.strftime('%H:%M:%S', time.gmtime())} UTC)")
    return STRIP.format(colour=colour if text else GREEN, text=said, height=HEIGHT_PX, nonce=nonce, script=RENEWS)


def strip_endpoint(_: Request) -> HTMLResponse:
    """Serve the strip."""
    nonce = secrets.token_hex(16)
    headers = {"Content-Security-Policy": STRIP_CSP.format(nonce=nonce), "Cache-Control": "no-store"}
    return HTMLResponse(strip(nonce), headers=headers)


class BannerWebserver(DagsterWebserver[Any, Any]):
    """Serves the user interface with the strip, to its own pages."""

    def build_middleware(self) -> list[Middleware]:
        """Shut the door to others before Dagster sees a request."""
        return [Middleware(OwnPagesOnly, hosts={*LOOPBACK, *load_settings().web_hosts}), *super().build_middleware()]

    def make_csp_header(self, nonce: str) -> str:
        """Let the page show no pictures of other servers: Markdown in a description could count who looks."""
        return f"{super().make_csp_header(nonce).strip().rstrip(';')}; img-src 'self' data: blob:; frame-ancestors 'none'"

    def build_routes(self) -> list[Any]:
        """Serve the strip beside Dagster's own pages."""
        return [Route(f"{self._app_path_prefix}{STRIP_PATH}", strip_endpoint), *super().build_routes()]  # type: ignore[no-untyped-call]

    def index_html_endpoint(self, request: Request) -> HTMLResponse:
        """Serve the page with the strip on top."""
        page: Any = super().index_html_endpoint(request)
        if not isinstance(page, HTMLResponse):
            return page  # type: ignore[no-any-return]
        frame = FRAME.format(path=f"{self._app_path_prefix}{STRIP_PATH}", height=HEIGHT_PX).encode()
        body = bytes(page.body).replace(b"</body>", frame + b"</body>", 1)
        headers = {name: value for name, value in page.headers.items() if name != "content-length"}
        return HTMLResponse(body, headers=headers)


if __name__ == "__main__":
    vars(dagster_webserver.app)["DagsterWebserver"] = BannerWebserver
    AssetCheckExecutionRecord.targets_latest_materialization = targets_latest  # type: ignore[assignment, method-assign]
    main()  # type: ignore[no-untyped-call]
