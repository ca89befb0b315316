"""Dagster's webserver with one addition: a strip at the top that says which data the numbers come from.

Started as ``python -m resources.webserver ...``. Checked on dagster-webserver 1.13.27: the page is served by
``DagsterWebserver.index_html_endpoint``.
"""

from __future__ import annotations

import html
from typing import Any

import dagster_webserver.app
import redis
from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import HTMLResponse

from resources.redis_store import connect
from resources.settings import load_settings

STRIP = (
    '<div style="position:fixed;top:0;left:50%;transform:translateX(-50%);z-index:9999;padding:3px 18px;max-width:60%;'
    "background:#7a4b00;color:#fff;border-radius:0 0 8px 8px;font:600 12px/1.5 system-ui,sans-serif;text-align:center;"
    'pointer-events:none">{text}</div>'
)


def banner_text() -> str:
    """Read what the feed says of its data; empty when nothing non-live is being played."""
    settings = load_settings()
    try:
        with connect(settings) as client:
            raw = client.get(settings.keys.of("banner"))
    except redis.RedisError:
        return f"Redis at {settings.redis_address} does not answer"
    return raw.decode(errors="replace")[:300] if isinstance(raw, bytes) else ""


class BannerWebserver(DagsterWebserver[Any, Any]):
    """Serves the user interface with the strip."""

    def index_html_endpoint(self, request: Request) -> HTMLResponse:
        """Serve the page, with the strip when there is something to say."""
        page: Any = super().index_html_endpoint(request)
        text = banner_text()
        if not text or not isinstance(page, HTMLResponse):
            return page  # type: ignore[no-any-return]
        strip = STRIP.format(text=html.escape(text)).encode()
        body = bytes(page.body).replace(b"</body>", strip + b"</body>", 1)
        headers = {name: value for name, value in page.headers.items() if name != "content-length"}
        return HTMLResponse(body, headers=headers)


if __name__ == "__main__":
    vars(dagster_webserver.app)["DagsterWebserver"] = BannerWebserver
    main()  # type: ignore[no-untyped-call]
