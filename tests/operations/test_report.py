"""The page that is filed: complete, unchanged, harmless and without secrets."""

import html.parser
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quantum_assets.checks.proof import Finding, Proof, Verdict
from quantum_core.settings import load_settings
from quantum_ops import report
from quantum_ops.report import commit, public_settings, render
from quantum_ops.sealed_page import verify
from resources.store.redis_store import RedisStore
from tests.world import random_closes, write_candles

HOSTILE = '<script>alert(1)</script><img src=x onerror="x">&"\'\r\n\x00\ud800</td></table>'
PLANTED = "planted-p@ss"


def verdict(name: str = "recomputed", *, evaluated: bool = True, **failing: str) -> Verdict:
    proof = Proof(
        asset="risk_proposal",
        name=name,
        group="risk_proposal",
        severity="ERROR",
        claim=f"The claim of {name}.",
        judge=lambda _: Finding("", "", 0),
    )
    return Verdict(proof, Finding(f"observed {name}", f"accepted {name}", 3, failing), evaluated)


@pytest.fixture
def world(store: RedisStore) -> RedisStore:
    """Candles of two of the three symbols."""
    for seed, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
        write_candles(store, symbol, random_closes(seed))
    return store


def outside(page: str) -> list[str]:
    """List what a browser would fetch or run: addresses that are not in the page, scripts, handlers."""
    found: list[str] = []

    class Finder(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
                found.append(tag)
            for name, value in attributes:
                fetched = name in ("src", "href", "srcset", "action") and not (value or "").startswith(("data:image/png", "#"))
                if fetched or name.startswith("on"):
                    found.append(f"{tag} {name}={value}")

    Finder().feed(page)
    return [*found, *re.findall(r"@import|url\(", page)]


def test_the_page_names_every_proof_with_its_figures_and_failing_symbols(world) -> None:
    """Evidence that leaves something out is none."""
    page = render(
        [verdict("good"), verdict("bad", ETHUSDT="sl is 5, recomputed 6"), verdict("dark", evaluated=False)], store=world
    )
    assert "Not all proofs hold</span>: 1 passed, 1 failed, 1 not evaluated" in page
    for said in (
        "2026-01-22 12:00:00 UTC",
        "The claim of good.",
        "observed bad",
        "accepted dark",
        "<b>ETHUSDT</b> sl is 5, recomputed 6",
    ):
        assert said in page
    assert page.count("data:image/png;base64,") == 2
    assert "SOLUSDT: no chart, candles_missing" in page
    assert "All proofs hold" in render([verdict("good")], store=world)
    assert "Not all proofs hold" in render([], store=world)


def test_the_page_says_what_it_was_made_with(store) -> None:
    """Who reads it in a year must be able to run the same again."""
    page = render([], store=store)
    for name in (
        "quantum-risk-pipeline",
        "commit",
        "python",
        "dagster",
        "redis",
        "numpy",
        "polars",
        "SYMBOLS",
        "PRICE_COLLAR_PCT",
    ):
        assert f"<th>{name}</th>" in page
    assert re.search(r"<th>server</th><td><code>valkey \d+\.\d+", page)


def test_the_page_needs_nothing_outside_itself(world) -> None:
    """It is filed, mailed and opened years later, without a network."""
    assert outside(render([verdict(ETHUSDT="broken")], store=world)) == []


def test_what_comes_from_redis_is_text_and_never_markup(store) -> None:
    """Anybody who may write a key could otherwise put a script into the evidence."""
    one = verdict(**{"BTCUSDT": HOSTILE, HOSTILE: HOSTILE})
    page = render([Verdict(one.proof, Finding(HOSTILE, HOSTILE, 1, one.finding.failing))], store=store)
    assert outside(page) == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("</table>") == 3


def test_no_secret_is_on_the_page(make_store: Callable[..., RedisStore], valkey_url) -> None:
    """It is handed to people who must not reach the server, also when an error quotes an address."""
    broker = f"redis://user:{PLANTED}@10.1.2.3:6379/1"
    alerts = "slack://planted-token-a/planted-token-b, mailto://desk:planted-mail@example.com"
    open_store = make_store()  # the tests' server knows no password
    settings = load_settings(redis_url=f"{valkey_url}/0?password=planted-query", celery_broker_url=broker, alert_urls=alerts)
    store = RedisStore(settings, open_store.clock, open_store.client)
    page = render([verdict(BTCUSDT=f"{broker} refused {PLANTED}; slack://planted-token-a/planted-token-b is away")], store=store)
    assert "planted" not in page
    assert "(hidden) refused (hidden); (hidden) is away" in page
    assert public_settings(store.settings)["REDIS_URL"] == f"{valkey_url}/0"
    told = public_settings(load_settings(redis_url=f"rediss://user:{PLANTED}@db.example:6380/2"))
    assert told["REDIS_URL"] == "rediss://db.example:6380/2"


def test_a_page_that_was_changed_by_one_byte_no_longer_verifies(world, tmp_path: Path) -> None:
    """That is what the hash is for; it must survive the file system, and nothing else."""
    written = render([verdict(BTCUSDT=HOSTILE)], store=world)
    (tmp_path / "report.html").write_text(written, encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert verify(page)
    digits = page.index('id="sha256">') + len('id="sha256">')
    for place in (0, 20, page.index("observed"), page.index("base64,") + 500, digits, digits + 63, len(page) - 2):
        assert not verify(page[:place] + chr(ord(page[place]) ^ 1) + page[place + 1 :]), place
    assert not verify(page + " ")
    assert not verify(page.replace("</body>", f'<code id="sha256">{"0" * 64}</code></body>'))
    assert not verify("")


def test_the_printed_recipe_gives_the_printed_hash(store, tmp_path: Path) -> None:
    """Who does not trust our program checks it with sed and sha256sum."""
    page = render([verdict()], store=store)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    recipe = html.unescape(re.search(r"<code>(sed .*?)</code>", page)[1])
    printed = subprocess.run(["bash", "-c", recipe], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == re.search(r'id="sha256">([0-9a-f]{64})', page)[1]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_ours_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel installed below somebody's repository must not name that repository's commit."""

    def git(*words: str) -> None:
        named = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *named, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "--message", "one")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", commit())
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(report, "ROOT", tmp_path / "site-packages")
    assert commit() is None
