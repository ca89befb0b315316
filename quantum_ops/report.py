"""The proof pack as one page that can be filed: what was claimed, what was found, on what, by which version.

The page needs nothing but itself: no scripts, no links, pictures inside. Everything that comes from Redis is text to it, never
markup. It ends with the SHA-256 of its own content, see :func:`quantum_ops.sealed_page.verify`. Judging stays out.
"""

from __future__ import annotations

import html
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote

from pydantic import SecretStr

from quantum_assets.checks.proof import Verdict
from quantum_assets.shared.charts import as_data_uri
from quantum_assets.symbol_chart import Portrait, portraits
from quantum_core.comparison import HEADINGS, comparison_cells, difference
from quantum_core.settings import Settings
from quantum_ops.sealed_page import sealed_page
from resources.store.profiles import bring_up_to_date
from resources.store.redis_store import RedisStore
from resources.store.shadow import read_comparisons
from resources.store.transport.unavailable import RedisUnavailableError

DISTRIBUTION = "quantum-risk-pipeline"
LIBRARIES = ("dagster", "redis", "numpy", "scipy", "polars")
ROOT = Path(__file__).resolve().parent.parent
GIT_WITHIN_SEC = 5
SECRET_CHARACTERS_MIN = 6  # a shorter one may be ordinary text
HIDDEN = "(hidden)"
PASSWORD = re.compile(r"://[^/]*?:(.+)@")
NOTHING = r"(?!)"  # matches nowhere
BODY = """<h2>Proofs</h2>
{proofs}
<h2>Symbols</h2>
<div class="charts">
{symbols}
</div>
<h2>Made with</h2>
{versions}
{challenger}<h2>Settings</h2>
{settings}"""


def render(verdicts: Sequence[Verdict], *, store: RedisStore) -> str:
    """Write the page.

    Parameters
    ----------
    verdicts
        All of them, in the order of the table.
    store
        Server, settings and clock; candles and published rows of its symbols are read for the pictures.

    Raises
    ------
    RedisUnavailableError
        The server is away.
    """
    safe = sanitizer(store.settings)
    moment = f"{store.clock():%Y-%m-%d %H:%M:%S} UTC"
    body = BODY.format(
        proofs=proofs_table(verdicts, safe),
        symbols="\n".join(_symbol(one, safe) for one in portraits(store, store.settings.symbols)),
        versions=pairs({**made_with(), **_server_and_profile(store)}, safe),
        challenger=_challenger(store, safe),
        settings=pairs(public_settings(store.settings), safe),
    )
    stamp = f"{moment} · {', '.join(store.settings.symbols)} · Redis at {store.settings.redis_address}"
    return laid_out("Proof pack", f"Proof pack, {moment}", safe(stamp), summary(verdicts), body)


def laid_out(heading: str, title: str, stamp: str, verdict: str, body: str) -> str:
    """Lay out a proof pack, with the hash of itself; all parts are markup that is safe already."""
    return sealed_page(heading, title, stamp, f'<p class="verdict">{verdict}</p>\n{body}')


def public_settings(settings: Settings) -> dict[str, str]:
    """Give every setting as text, by the name of its variable, with nothing secret in it."""
    shown = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name == "redis_url":
            shown[name] = settings.redis_address
        elif isinstance(value, SecretStr):
            shown[name] = HIDDEN if value.get_secret_value() else ""
        elif isinstance(value, tuple):
            shown[name] = ", ".join(HIDDEN if isinstance(one, SecretStr) else str(one) for one in value)
        else:
            shown[name] = str(value)
    return {name.upper(): text for name, text in shown.items()}


def commit() -> str | None:
    """Name the commit this code was checked out from; ``None`` for an installed package or without git."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=GIT_WITHIN_SEC, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def made_with() -> dict[str, str]:
    """Give the versions of what runs now: the product and its commit, Python, libraries."""
    return {
        DISTRIBUTION: version(DISTRIBUTION),
        "commit": commit() or "unknown: not run from a checkout",
        "python": f"{platform.python_version()} on {platform.platform()}",
        **{library: version(library) for library in LIBRARIES},
    }


def _server_and_profile(store: RedisStore) -> dict[str, str]:
    return {"server": _server(store), "profile": ": ".join(filter(None, bring_up_to_date(store)))}


def _server(store: RedisStore) -> str:
    try:
        (reply,) = store.run("asking the server for its version", [("INFO", "server")])
    except RedisUnavailableError as error:  # who may read keys need not have the right to ask
        return f"unknown: {error}"
    if not isinstance(reply, bytes):
        return f"unknown: {reply}"
    facts = dict(line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line)
    name = facts.get("server_name", "redis")
    return f"{name} {facts.get(f'{name}_version', facts.get('redis_version', 'unknown'))}"


def sanitizer(settings: Settings) -> Callable[[object], str]:
    """Build what turns any value into text of the page: escaped, on one line, without the secrets a reason may quote."""
    secrets = sorted(_secrets(settings), key=len, reverse=True)
    hidden = re.compile("|".join(map(re.escape, secrets)) or NOTHING)

    def safe(value: object) -> str:
        # A carriage return or a lone surrogate would not survive being written and read again, and the hash with it.
        text = " ".join(str(value).split()).encode("utf-8", "replace").decode()
        return html.escape(hidden.sub(HIDDEN, text))

    return safe


def _secrets(settings: Settings) -> set[str]:
    servers = [one.get_secret_value() for one in (settings.redis_url, settings.governor_redis_url, settings.celery_broker_url)]
    urls = [*filter(PASSWORD.search, servers), *(one.get_secret_value() for one in settings.alert_urls)]
    passwords = [found[1] for url in urls if (found := PASSWORD.search(url))]
    passwords.append(settings.redis_sentinel_password.get_secret_value())
    return {text for text in (*urls, *passwords, *map(unquote, passwords)) if len(text) >= SECRET_CHARACTERS_MIN}


def summary(verdicts: Sequence[Verdict]) -> str:
    """Say in one line whether all proofs hold."""
    counts = {name: sum(_result(one) == name for one in verdicts) for name in ("passed", "failed", "not evaluated")}
    whole = "passed" if counts["passed"] == len(verdicts) > 0 else "failed"
    words = {"passed": "All proofs hold", "failed": "Not all proofs hold"}[whole]
    return f'<span class="{whole}">{words}</span>: ' + ", ".join(f"{count} {name}" for name, count in counts.items())


def _result(verdict: Verdict) -> str:
    if not verdict.evaluated:
        return "not evaluated"
    return "passed" if verdict.passed else "failed"


def proofs_table(verdicts: Sequence[Verdict], safe: Callable[[object], str]) -> str:
    """Lay out every proof with its figures and what contradicts it."""
    headings = ("group", "proof", "result", "severity", "claim, and what contradicts it", "observed", "accepted", "judged")
    rows = "\n".join(_proof(one, safe) for one in verdicts)
    return f"<table>\n<tr>{''.join(f'<th>{name}</th>' for name in headings)}</tr>\n{rows}\n</table>"


def rows_table(headings: Sequence[str], rows: Iterable[Sequence[object]], safe: Callable[[object], str]) -> str:
    """Lay out plain rows."""
    body = "\n".join(f"<tr>{''.join(f'<td>{safe(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<tr>{''.join(f'<th>{safe(name)}</th>' for name in headings)}</tr>\n{body}\n</table>"


def _proof(verdict: Verdict, safe: Callable[[object], str]) -> str:
    proof, finding, result = verdict.proof, verdict.finding, _result(verdict)
    mark = {"passed": "passed", "failed": "failed", "not evaluated": "unjudged"}[result]
    failing = "".join(f"<li><b>{safe(name)}</b> {safe(why)}</li>" for name, why in finding.failing.items())
    cells = (
        f'<span class="whole">{safe(proof.group)}</span>',
        f'<span class="whole">{safe(proof.asset)}<br><b>{safe(proof.name)}</b></span>',
        f'<span class="{mark} whole">{result}</span>',
        safe(verdict.severity),
        safe(proof.claim) + (f"<ul>{failing}</ul>" if failing else ""),
        safe(finding.observed),
        safe(finding.threshold),
        safe(finding.judged),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _symbol(portrait: Portrait, safe: Callable[[object], str]) -> str:
    figure, name = portrait.figure(), safe(portrait.symbol)
    numbers = "".join(f"<dt>{safe(key)}</dt><dd>{safe(_short(value))}</dd>" for key, value in portrait.numbers().items())
    picture = f'<img alt="{name}" src="{as_data_uri(figure)}">' if figure is not None else ""
    caption = "" if figure is not None else f"<figcaption>{name}: no chart, {safe(portrait.candles.reason)}</figcaption>"
    return f"<figure>{picture}{caption}<dl>{numbers}</dl></figure>"


def _challenger(store: RedisStore, safe: Callable[[object], str]) -> str:
    """Lay out how champion and challenger differed over the last 24 h; nothing where there is no challenger."""
    challenger = store.settings.challenger_profile
    if challenger is None:
        return ""
    found = {name: difference(hours) for name, hours in read_comparisons(store, challenger, store.settings.symbols).items()}
    rows = rows_table(HEADINGS, ((name, *comparison_cells(one)) for name, one in found.items()), safe)
    title = f"<h2>Challenger {safe(challenger.name)} {safe(challenger.fingerprint)}, last 24 h</h2>"
    return f"{title}\n{rows}\n"


def _short(value: float | str) -> str:
    return f"{value:.8g}" if isinstance(value, float) else value


def pairs(values: Mapping[str, str], safe: Callable[[object], str]) -> str:
    """Lay out names with values, in two columns."""
    rows = "".join(f"<tr><th>{safe(name)}</th><td><code>{safe(text)}</code></td></tr>" for name, text in values.items())
    return f'<div class="two"><table>{rows}</table></div>'
