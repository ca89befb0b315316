"""The desk's pages: all symbols as a table, and one symbol with its price, its stop and the reasons.

Here belongs how they look. What they say comes from ``quantum_ops/desk/rows.py`` and ``standing.py``, how a number reads
from ``quantum_core/display.py``. Every text of others goes through :func:`esc`; nothing is loaded from elsewhere, and only what
carries the page's nonce runs.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from quantum_core.contracts.reading import printable
from quantum_core.display import (
    ACTIONS,
    NONE,
    REGIMES,
    duration_text,
    failure_text,
    moment_text,
    name_text,
    number_text,
    percent_text,
    price_text,
    prices_text,
    reason_text,
)
from quantum_core.freshness import WELL, Vital
from quantum_ops.desk import banner
from quantum_ops.desk.chart import shares_bar
from quantum_ops.desk.history import History
from quantum_ops.desk.overview import Symbol
from quantum_ops.desk.rows import HEALTHS, UNHEALTHY, Row
from quantum_ops.desk.standing import Standing

PATH = "/desk"
RENEWED_EVERY_SEC = 10
ALERT_SYMBOLS_MAX = 12  # linked beside one alert
AssetPath = Callable[[str], Sequence[str]]
LINKED_ASSETS = (
    "market_state",
    "position",
    "risk_proposal",
    "harvest_proposal",
    "trade_intent",
    "governor_permit",
    "symbol_chart",
)
CSP = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}' 'self'; font-src data:; img-src 'self'; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


_HERE = Path(__file__).parent
_STYLE, _SCRIPT = ((_HERE / f"desk.{kind}").read_text() for kind in ("css", "js"))

_COLUMNS = (  # heading, unit, aligned to the right, first click sorts
    ("Symbol", "", False, "up"),
    ("Health", "", False, "up"),
    ("Side", "", False, "up"),
    ("Size", "base", True, "down"),
    ("Entry", "quote", True, "down"),
    ("Price", "quote", True, "down"),
    ("Profit", "R", True, "down"),
    ("Stop", "quote", True, "down"),
    ("Distance", "to stop", True, "up"),
    ("Target", "quote", True, "down"),
    ("Regime", "likeliest", False, "up"),
    ("Action", "harvest", False, "up"),
    ("Kill score", "0.5 to 1", True, "down"),
    ("Age", "position", True, "down"),
    ("Decision", "governor", False, "down"),
    ("Blocked by", "openings", False, "up"),
)


def esc(text: object) -> str:
    """Escape text for a page, also inside an attribute; what is not printable becomes a question mark."""
    return html.escape(printable(text))


def address(prefix: str, symbol: str) -> str:
    """Give the address of a symbol's page."""
    return f"{prefix}{PATH}/{quote(symbol, safe='')}"


def overview(standing: Standing, rows: Sequence[Row], prefix: str, nonce: str) -> str:
    """Write the page of all symbols."""
    heads = "".join(
        f'<th data-sort="{first}"{" class=n" if right else ""}><button type="button"><span>{heading}</span>'
        f"<small>{unit}</small></button></th>"
        for heading, unit, right, first in _COLUMNS
    )
    body = "".join(_table_row(row, standing.at, prefix) for row in rows)
    content = (
        f"{_cards(standing, rows, prefix)}"
        '<section class="table" id="symbols"><div class="tools">'
        '<input type="search" id="filter" placeholder="Symbol, side, regime, reason" aria-label="Filter rows">'
        '<label><input type="checkbox" id="unhealthy"> unhealthy only</label><span id="shown" class="dim"></span>'
        f'<span class="end"><a href="{esc(prefix)}{PATH}?format=json">JSON, full precision</a></span></div>'
        f'<div class="scroll"><table id="desk"><thead><tr>{heads}</tr></thead><tbody id="rows" data-live>{body}</tbody>'
        "</table></div></section>"
    )
    return _page("Desk", "<h1>Desk</h1>", content, standing.at, prefix, nonce)


def symbol_page(
    symbol: Symbol, history: History, standing: Standing, prefix: str, nonce: str, asset_path: AssetPath = lambda asset: [asset]
) -> str:
    """Write the page of one symbol; ``asset_path`` gives the parts of an asset's key in Dagster."""
    row, at = symbol.row, standing.at
    title = (
        f'<a href="{esc(prefix)}{PATH}">Desk</a><span class="sep">/</span><h1>{esc(row.symbol)}</h1>'
        f'<span id="health" data-live>{_health_chip(row)} {_source_chip(row)}</span>'
    )
    since = "" if row.since is None else f"since {moment_text(row.since)}, for {duration_text(at - row.since)}"
    wrong = f'<div class="cards">{_card("What is wrong", esc(row.why), [since], tone="bad")}</div>' if row.why else ""
    chart = f'<section class="card"><h2>{esc(history.note)}</h2><div class="wide">{history.chart(row, at)}</div></section>'
    stack = f'<div class="stack">{_harvest_card(row)}{_stop_card(row, history.stop_since(row), at)}{_regime_card(row)}</div>'
    below = (
        f'<div class="cards">{_openings_card(row, standing)}{_decisions_card(symbol.decisions, at)}{_ages_card(symbol, at)}</div>'
    )
    content = (
        f'<div id="live" data-live>{wrong}{_tiles(row, history.stop_since(row), at)}'
        f'<div class="pair"><div class="stack">{chart}{below}</div>{stack}</div>{_links(row.symbol, prefix, asset_path)}</div>'
    )
    return _page(row.symbol, title, content, at, prefix, nonce)


def message_page(title: str, text: str, prefix: str, nonce: str) -> str:
    """Write a page that says why there is nothing to show."""
    content = f'<section class="card" id="live" data-live><div class="say bad">{esc(title)}</div><p>{esc(text)}</p></section>'
    heading = f'<a href="{esc(prefix)}{PATH}">Desk</a>'
    return _page(title, heading, content, time.time(), prefix, nonce)


def _page(title: str, heading: str, content: str, at: float, prefix: str, nonce: str) -> str:
    moment = time.strftime("%H:%M:%S", time.gmtime(at))
    root = esc(prefix)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{esc(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="{root}/favicon.svg">'
        f'<link rel="stylesheet" href="{root}{banner.FONT_PATH}"><style nonce="{nonce}">{_STYLE}</style></head><body>'
        f'<iframe src="{root}{banner.PATH}" title="status banner"></iframe>'
        f'<header><a href="{root}/">Dagster</a><span class="sep">/</span>{heading}'
        f'<span class="end" id="moment" data-live>as of {moment} UTC, renewed every {RENEWED_EVERY_SEC} s</span></header>'
        f'<main>{content}</main><script nonce="{nonce}" data-every-ms="{RENEWED_EVERY_SEC * 1000}" '
        f'data-timeout-ms="{banner.ANSWERS_WITHIN_SEC * 1000}">{_SCRIPT}</script></body></html>'
    )


def _cards(standing: Standing, rows: Sequence[Row], prefix: str) -> str:
    blocked = standing.openings.blocked
    details = standing.openings.details or ("No kill switch, no disarming, no risk guard.",)
    counts = {health: sum(row.health == health for row in rows) for health in HEALTHS}
    health_counts = ", ".join(f"{count} {health}" for health, count in counts.items() if count)
    held = f"{sum(row.side is not None for row in rows)} with a position"
    fresh = f"{standing.fresh} of {standing.symbols} fresh{banner.old_prices_text(standing)}"
    tone = "bad" if standing.unfresh else "so" if standing.old_prices else "good"
    cards = [
        _card("Openings", _blocked(blocked[0] if blocked else "", "armed"), map(esc, details), name="openings"),
        _card("Symbols", fresh, [health_counts, held], tone=tone),
        _alerts_card(standing, prefix),
    ]
    if standing.profile:
        profile_state, tone = ("a newer one cannot be used", "bad") if standing.profile_trouble else ("in force", "good")
        items = filter(None, (profile_state, standing.profile_trouble))
        cards.append(_card("Profile", esc(standing.profile), map(esc, items), tone=tone, name="profile"))
    if standing.notice:
        headline = banner.first_sentence(standing.notice)
        explanation = standing.notice[len(headline) :].lstrip(". ")
        cards.append(_card("Data", esc(headline), [esc(explanation)], tone="so", name="data"))
    return f'<div class="cards" id="live" data-live>{"".join(cards)}</div>'


def _card(heading: str, headline: str, items: Iterable[str] = (), *, tone: str = "", name: str = "", whole: bool = False) -> str:
    """Write a card; heading, text and items are HTML. A long list is scrolled, unless ``whole``."""
    anchor = f' id="{name}"' if name else ""
    kind = "card whole" if whole else "card"
    return f'<section class="{kind}"{anchor}><h2>{heading}</h2><div class="say {tone}">{headline}</div>{_list(items)}</section>'


def _blocked(why: str, otherwise: str) -> str:
    return f'<span class="bad">blocked: {esc(why)}</span>' if why else f'<span class="good">{otherwise}</span>'


def _alerts_card(standing: Standing, prefix: str) -> str:
    tones = {"page": "bad", "warn": "so", "info": "dim"}
    items = []
    for alert in standing.alerts:
        symbols = ", ".join(
            f'<a href="{esc(address(prefix, name))}">{esc(name)}</a>' for name in alert.symbols[:ALERT_SYMBOLS_MAX]
        )
        since = f"since {moment_text(alert.since)}" if alert.since is not None else ""
        more = " · ".join(filter(None, (since, symbols)))
        items.append(f'<span class="{tones[alert.severity]}">{esc(alert.title)}</span>{f"<br>{more}" if more else ""}')
    ending = sum(alert.well_since is not None for alert in standing.alerts)
    active = len(items) - ending
    said = f"{active or 'none'} active{f', {ending} ending' if ending else ''}"
    return _card("Alerts", said, items, tone="bad" if active else "good", name="alerts")


def _list(items: Iterable[str]) -> str:
    inner = "".join(f"<li>{item}</li>" for item in items if item)
    return f"<ul>{inner}</ul>" if inner else ""


def _table_row(row: Row, now: float, prefix: str) -> str:
    """Write a row: cells are left unclosed and attributes unquoted where HTML allows it, which is a third of the page."""
    why = f"<small>{esc(row.why)}</small>" if row.why else ""
    when = row.last_decision_epoch
    entry, price, stop, target = prices_text(row.entry, row.price, row.stop, row.target)
    ago = "" if when is None else f"<small>{duration_text(now - when)} ago</small>"
    cells = (
        f'<td><a href="{esc(address(prefix, row.symbol))}">{esc(row.symbol)}</a>',
        f"<td data-v={HEALTHS.index(row.health)}>{_health_chip(row)}{why}",
        f"<td>{_side(row)}",
        _number(price_text(row.qty)),
        _number(entry),
        _price_cell(row, price, now),
        _number(number_text(row.R, signed=True), _tone(row.R)),
        _number(stop, _stop_tone(row), row.stop_last),
        _number(percent_text(row.stop_distance), _stop_tone(row)),
        _number(target),
        f"<td>{REGIMES.get(row.regime or '', NONE)}",
        f"<td{' class=so' if row.action not in (None, 'NONE') else ''}>{esc(_action(row))}",
        _number(number_text(row.kill_score)),
        f"<td class=n data-v={_key(row.age_sec)}>{duration_text(row.age_sec)}",
        f"<td data-v={_key(when)}>{_decision(row)}{ago}",
        f"<td>{esc(reason_text(row.blocked_by)) or NONE}",
    )
    return f"<tr{' data-unhealthy' if row.health in UNHEALTHY else ''}>{''.join(cells)}"


def _number(text: str, tone: str = "", more: str = "") -> str:
    """Write a number; rows are sorted by what is shown."""
    cell = f'<td class="n {tone}">' if tone else "<td class=n>"
    return f"{cell}{text}{f'<small>{esc(more)}</small>' if more else ''}"


def _price_cell(row: Row, price: str, now: float) -> str:
    return _number(price, _mark_tone(row, now), "" if row.price is None else mark_text(row, now))


def mark_text(row: Row, now: float) -> str:
    """Say how old the price is: that it was computed with a moment ago does not make it new."""
    age = row.mark_age(now)
    return "age unknown" if age is None else f"{duration_text(max(age, 0.0))} old"


def _mark_tone(row: Row, now: float) -> str:
    return "dim" if row.price is not None and row.mark_old(now) else ""


def _key(value: float | None) -> str:
    return '""' if value is None else f"{value:.0f}"


def _tone(value: float | None) -> str:
    return "" if not value else "good" if value > 0 else "bad"


def _health_chip(row: Row) -> str:
    tone = "good" if row.health == "ok" else "so" if row.health == "warning" else "bad"
    return f'<span class="chip {tone}">{esc(row.health)}</span>'


def _source_chip(row: Row) -> str:
    return f'<span class="chip so">{esc(row.source)} data</span>' if row.source not in (None, "candles") else ""


def _side(row: Row) -> str:
    if row.side:
        return esc(row.side)
    return '<span class="dim">flat</span>' if row.held is False else '<span class="bad">unknown</span>'


def _action(row: Row) -> str:
    return NONE if row.action is None else ACTIONS.get(row.action, row.action)


def _decision(row: Row) -> str:
    if row.last_decision is None:
        return f'<span class="dim">{NONE}</span>'
    return '<span class="good">permit</span>' if row.last_decision == "PERMIT" else '<span class="so">block</span>'


def _tiles(row: Row, stop_since: float | None, now: float) -> str:
    pnl = row.unrealized_pnl
    unrealized = "" if pnl is None else f"unrealized {number_text(pnl) if abs(pnl) >= 1 else price_text(pnl)} quote"
    moved = f"{percent_text(row.price / row.entry - 1, signed=True)} since entry" if row.price and row.entry else ""
    stands = f", for {duration_text(now - stop_since)}" if stop_since is not None else ""
    away = f"{percent_text(row.stop_distance)} away{stands}" if row.stop else ""
    away = esc(row.stop_last) if row.stop_last else away
    moved = "" if row.price is None else ", ".join(filter(None, (mark_text(row, now), moved)))
    entry, price, stop, target = prices_text(row.entry, row.price, row.stop, row.target)
    tiles = (
        ("Position", _side(row), "", f"{price_text(row.qty)} base, {duration_text(row.age_sec)} old" if row.side else ""),
        ("Entry, quote", entry, "", ""),
        ("Price, quote", price, _mark_tone(row, now), moved),
        ("Profit, R", number_text(row.R, signed=True), _tone(row.R), unrealized),
        ("Stop, quote", stop, _stop_tone(row), away),
        ("Target, quote", target, "", f"{percent_text(row.target_distance)} away" if row.target else ""),
        ("Kill score, 0.5 to 1", number_text(row.kill_score), "", esc(_action(row)) if row.action else ""),
    )
    inner = "".join(
        f'<section class="tile"><h2>{name}</h2><div class="value {tone}">{value}</div><div class="more">{more}</div></section>'
        for name, value, tone, more in tiles
    )
    return f'<div class="tiles">{inner}</div>'


def _stop_tone(row: Row) -> str:
    if row.stop_last:
        return "dim"
    return "bad" if row.health == "stop crossed" else ""


def _harvest_card(row: Row) -> str:
    lock = [f"profit lock: stop at {price_text(row.new_stop)} quote"] if row.new_stop else []
    reasons = [esc(reason_text(code)) for code in row.action_reasons] or ([] if row.action is None else ["no reason to act"])
    return _card("Harvest action", esc(_action(row)), [*reasons, *lock])


def _stop_card(row: Row, stop_since: float | None, now: float) -> str:
    if row.stop is None:
        return ""
    stands = "" if stop_since is None else f"since {moment_text(stop_since)}, for {duration_text(now - stop_since)}"
    reasons = [esc(reason_text(code)) for code in row.stop_reasons if not code.startswith("regime_")]
    headline = f'{price_text(row.stop)} <span class="dim">quote, {percent_text(row.stop_distance)} away</span>'
    if row.stop_last:
        stands = f"{esc(row.stop_last)}; none is proposed now"
    return _card("Proposed stop", headline, [stands, *reasons], tone=_stop_tone(row))


def _regime_card(row: Row) -> str:
    shares = [(name, getattr(row, f"p_{name}")) for name in REGIMES]
    if any(share is None for _, share in shares):
        return _card("Regime", "unknown", tone="dim")
    lines = [f'<span class="key {name}"></span>{REGIMES[name]} {percent_text(share, 1)}' for name, share in shares]
    sigma = f"volatility {number_text(row.sigma * 1e4, 1)} bps per candle" if row.sigma is not None else ""
    return _card("Regime", f"{REGIMES[row.regime or '']}{shares_bar(shares)}", [*lines, sigma])


def _openings_card(row: Row, standing: Standing) -> str:
    hint, counts = "", ""
    if row.size_factor is not None:
        why = esc(reason_text(row.size_reason or ""))
        hint = f"size hint: {number_text(row.size_factor)} × the size of a plan ({why})"
    if row.permits_hour is not None:
        counts = f"permits: {row.permits_hour} in the last hour, {row.permits_5min} in 5 min"
    said = _blocked(reason_text(row.blocked_by), "not blocked")
    return _card("Openings of this symbol", said, [*map(esc, standing.openings.details), hint, counts])


def _decisions_card(decisions: Sequence[Mapping[str, Any]], now: float) -> str:
    items = []
    for decision in decisions:
        outcome, action, plan = (esc(str(decision[name])[:80]) for name in ("outcome", "action", "plan_id"))
        tone = "good" if outcome == "permit" else "so"
        reason = f": {esc(reason_text(str(decision['reason'])[:200]))}" if decision["reason"] else ""
        ago = duration_text(now - decision["time"])
        items.append(f'<span class="{tone}">{outcome}</span> {action}{reason}<br><span class="dim">{ago} ago · {plan}</span>')
    said, tone = (f"{len(items)} shown", "") if items else ("none lately", "dim")
    return _card("Last decisions of the governor", said, items, tone=tone)


def _ages_card(symbol: Symbol, now: float) -> str:
    failures, vitals = symbol.faults.failures, {vital.thing: vital for vital in symbol.faults.vitals}
    failing = [
        f'<span class="bad">{name_text(asset)}: {esc(failure_text(failure.why))}{_and_age(vitals.get(asset))}</span>'
        for asset, failure in failures.items()
    ]
    old = [vital for vital in symbol.faults.old if vital.thing not in failures]
    fresh = [vital for vital in symbol.faults.vitals if vital.condition in WELL and vital.thing not in failures]
    headline, tone = (f"{len(old) + len(failing)} not fresh", "bad") if old or failing else ("all fresh", "good")
    if symbol.row.mark_old(now):
        headline, tone = f"{headline}, the price is old", "bad"
    if symbol.row.price is not None:
        failing.insert(0, f'<span class="{"bad" if symbol.row.mark_old(now) else ""}">price: {mark_text(symbol.row, now)}</span>')
    return _card("Age of everything that is due", headline, [*failing, *map(_age_line, [*old, *fresh])], tone=tone, whole=True)


def _and_age(vital: Vital | None) -> str:
    return "" if vital is None or vital.age_sec is None else f"; last {duration_text(vital.age_sec)} ago"


def _age_line(vital: Vital) -> str:
    tone = "" if vital.condition in WELL else "bad"
    limit = f", limit {duration_text(vital.limit_sec)}"
    age = str(vital.condition) if vital.age_sec is None else f"{duration_text(vital.age_sec)}{limit}"
    return f'<span class="{tone}">{name_text(vital.thing)}: {esc(age)}{f" ({esc(vital.detail)})" if vital.detail else ""}</span>'


def _links(symbol: str, prefix: str, asset_path: AssetPath) -> str:
    key = quote(symbol, safe="")
    pages = [(asset, "/".join(asset_path(asset))) for asset in LINKED_ASSETS]
    links = " · ".join(
        f'<a href="{esc(prefix)}/assets/{page}?view=partitions&amp;partition={esc(key)}">{asset}</a>' for asset, page in pages
    )
    return f'<p class="dim">In Dagster: {links} · <a href="?format=json">JSON, full precision</a></p>'
