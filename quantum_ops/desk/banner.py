"""The status banner on top of every page: armed or blocked, symbols fresh of all, active alerts, and what is played back.

A document of its own that renews itself, because the page around it is loaded once and stays open for days. It sends the page its
height, and turns red when its server no longer answers.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from quantum_core.contracts.reading import printable
from quantum_ops.desk.standing import Alert, Standing

Level = Literal["ok", "notice", "wrong"]

PATH, FONT_PATH = "/banner", "/desk-font.css"
COLOURS: dict[Level, str] = {"ok": "#1d5c34", "notice": "#7a4b00", "wrong": "#a11212"}
RENEWED_EVERY_SEC, ANSWERS_WITHIN_SEC, HEIGHT_PX = 10, 8, 24
FIRST = ("close_refused", "stop_crossed")  # kinds of alerts that are named first: money is lost while one waits
KILL = "kill_switch"
TITLES_SHOWN = 3  # alerts named; the page of the desk has all
NAMES_SHOWN = 3  # symbols named
PART_CHARS_MAX = 160

# Not by a `refresh`, which would end with the first answer that fails.
_SCRIPT = """
const fit = () => {
  const frame = window.frameElement;  // null when the banner is opened by itself
  if (frame) {
    const height = document.body.getBoundingClientRect().height;
    frame.ownerDocument.documentElement.style.setProperty("--banner-height", `${Math.ceil(height)}px`);
  }
};
for (const moment of ["DOMContentLoaded", "load", "resize"]) addEventListener(moment, fit);
setInterval(async () => {
  try {
    const answer = await fetch(location.href, {cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS)});
    if (!answer.ok) throw answer.status;
    document.body.replaceWith(new DOMParser().parseFromString(await answer.text(), "text/html").body);
  } catch (why) {
    document.body.className = "wrong";
    if (!document.body.dataset.since) {
      document.body.dataset.since = new Date().toISOString().slice(11, 19);
      document.body.textContent =
        `this page's server does not answer since ${document.body.dataset.since} UTC: nothing here is up to date`;
    }
  }
  fit();
}, EVERY_MS);
"""
_SCRIPT = _SCRIPT.replace("EVERY_MS", str(RENEWED_EVERY_SEC * 1000)).replace("TIMEOUT_MS", str(ANSWERS_WITHIN_SEC * 1000))
_STYLE = f"""
body {{ margin: 0; padding: 3px 12px; min-height: {HEIGHT_PX - 6}px; color: #fff; text-align: center;
  font: 600 12px/{HEIGHT_PX - 6}px Geist, Inter, system-ui, sans-serif; }}
a {{ color: inherit; text-decoration: none; overflow-wrap: anywhere; }}
a:hover, a:focus-visible {{ text-decoration: underline; }}
.between {{ opacity: .6; }}
.time {{ opacity: .8; font-weight: 400; white-space: nowrap; }}
{"".join(f"body.{level} {{ background: {colour}; }}" for level, colour in COLOURS.items())}
"""
CSP = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}' 'self'; font-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class Part(NamedTuple):
    """One statement of the banner: how serious it is, its text, and the page with the detail."""

    level: Level
    text: str
    link: str


def frame(prefix: str) -> str:
    """Give what shows the banner on a page of Dagster, which is as high as the window: it goes on below the banner."""
    return (
        f"<style>:root{{--banner-height:{HEIGHT_PX}px}}body{{padding-top:var(--banner-height)}}"
        "#root{height:calc(100vh - var(--banner-height))!important}"
        "iframe[title='status banner']{position:fixed;top:0;left:0;width:100%;height:var(--banner-height);border:0;z-index:30}"
        f'</style><iframe src="{html.escape(prefix)}{PATH}" title="status banner"></iframe>'
    )


def parts(standing: Standing) -> list[Part]:
    """Say in a few words how the deployment stands: openings, symbols, alerts, and the data when it is not live."""
    blocked = standing.openings.blocked
    shown = [
        Part("wrong", f"blocked: {_listed(blocked, 1)}", "#openings") if blocked else Part("ok", "armed", "#openings"),
        Part(
            "wrong" if standing.unfresh else "notice" if standing.old_prices else "ok",
            f"{standing.fresh} of {standing.symbols} symbols fresh{_names_text(standing.unfresh)}{old_prices_text(standing)}",
            "#symbols",
        ),
        _alerts(standing.alerts),
    ]
    if standing.profile:
        trouble = f": {standing.profile_trouble}" if standing.profile_trouble else ""
        level: Level = "wrong" if trouble else "ok"
        shown.append(Part(level, _shortened(printable(f"profile {standing.profile}{trouble}")), "#profile"))
    if standing.notice:
        shown.append(Part("notice", _shortened(first_sentence(standing.notice)), "#data"))
    return shown


def standing_by(holder: str) -> Part:
    """Show that this deployment is on standby: what its Dagster pages show of assets and runs is old."""
    said = f"standing by: {printable(holder)} runs the loop; Dagster's pages here show only what this stack has computed"
    return Part("notice", _shortened(said), "")


def old_prices_text(standing: Standing) -> str:
    """Say of how many symbols the price is old; empty when of none."""
    return f", {standing.old_prices} with an old price" if standing.old_prices else ""


def unreachable(address: str, last: Standing | None) -> list[Part]:
    """Say that Redis is away, and what was known last and when: what has changed since then nobody has seen."""
    if last is None:
        return [Part("wrong", f"Redis at {address} does not answer; nothing is known yet", "")]
    opened = f"blocked: {_listed(last.openings.blocked, 1)}" if last.openings.blocked else "armed"
    shown = [Part("wrong", f"Redis does not answer; last known, at {moment(last.at)} UTC: {opened}", "")]
    if last.notice:
        shown.append(Part("notice", first_sentence(last.notice).partition(";")[0], ""))
    return shown


def moment(epoch: float) -> str:
    """Write a time of today."""
    return time.strftime("%H:%M:%S", time.gmtime(epoch))


def document(shown: Sequence[Part], prefix: str, nonce: str) -> str:
    """Write the banner.

    Parameters
    ----------
    shown
        See :func:`parts`.
    prefix
        Path prefix of the web server.
    nonce
        Of the Content-Security-Policy (:data:`CSP`), which forbids every other script and style.
    """
    levels = {part.level for part in shown}
    level = next(one for one in ("wrong", "notice", "ok") if one in levels)
    links = ' <span class="between">·</span> '.join(
        f'<a target="_top" class="{part.level}" href="{html.escape(prefix)}/desk{part.link}">{html.escape(part.text)}</a>'
        for part in shown
    )
    font = f'<link rel="stylesheet" href="{html.escape(prefix)}{FONT_PATH}">'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>status banner</title>{font}'
        f'<style nonce="{nonce}">{_STYLE}</style><script nonce="{nonce}">{_SCRIPT}</script>'
        f'<body class="{level}">{links} <span class="time">{moment(time.time())} UTC</span></body></html>'
    )


def first_sentence(text: str) -> str:
    """Give the first sentence: a notice begins with what must be known, its detail follows."""
    return text.partition(". ")[0].rstrip(". ")


def _alerts(alerts: Sequence[Alert]) -> Part:
    alerts = [alert for alert in alerts if alert.well_since is None]  # the others are on the page of the desk
    if not alerts:
        return Part("ok", "no alert", "#alerts")
    level: Level = "wrong" if any(alert.severity == "page" for alert in alerts) else "notice"
    counted = f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''}: "
    first = sorted(alerts, key=lambda alert: _rank(alert.kind))
    titles = ["kill switch set" if alert.kind == KILL else alert.title for alert in first]  # by whom and why is said already
    return Part(level, counted + _listed(titles, TITLES_SHOWN), "#alerts")


def _rank(kind: str) -> int:
    return FIRST.index(kind) if kind in FIRST else len(FIRST)


def _listed(texts: Sequence[str], shown: int) -> str:
    more = f" | and {len(texts) - shown} more" if len(texts) > shown else ""
    return " | ".join(map(_shortened, texts[:shown])) + more


def _names_text(symbols: Sequence[str]) -> str:
    if not symbols:
        return ""
    more = " ..." if len(symbols) > NAMES_SHOWN else ""
    return f", not {', '.join(symbols[:NAMES_SHOWN])}{more}"


def _shortened(text: str) -> str:
    return text if len(text) <= PART_CHARS_MAX else f"{text[: PART_CHARS_MAX - 1]}…"
