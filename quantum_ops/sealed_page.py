"""What every page that is filed has in common: its look, and the SHA-256 of its own content by which a change is found."""

from __future__ import annotations

import hashlib
import html
import re

UNHASHED = "0" * 64
HASH = re.compile(r'(?<=<code id="sha256">)[0-9a-f]{64}(?=</code>)')
RECIPE = r"""sed -E 's/(<code id="sha256">)[0-9a-f]{64}/\1'$(printf '0%.0s' $(seq 64))'/' report.html | sha256sum"""

STYLE = """
:root{color-scheme:light dark;--ink:#22303c;--soft:#5b6771;--paper:#fbfaf7;--line:#dcd8cf;--good:#1d7a4f;--bad:#b3261e;
--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#a3adb5;--paper:#171b1f;--line:#343b42;--good:#5cc492;--bad:#ff8a80;
--warn:#e9b44c}}
body{margin:2rem auto;max-width:1280px;padding:0 1.5rem;background:var(--paper);color:var(--ink);
font:14px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{margin:0;font-size:1.6rem}h2{margin:2.5rem 0 .6rem;font-size:1.15rem}p{margin:.3rem 0}
.soft,th,figcaption,dt{color:var(--soft)}
.passed{color:var(--good)}.failed{color:var(--bad)}.unjudged{color:var(--warn)}.passed,.failed,.unjudged{font-weight:600}
.verdict{font-size:1.15rem;margin:1rem 0}
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-weight:500;text-align:left}th,td{padding:.4rem .8rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
th,.whole{white-space:nowrap}ul{margin:.3rem 0 0;padding-left:1.1rem}
code{font:12.5px ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.two{columns:2;column-gap:3rem}.two tr{break-inside:avoid}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(480px,100%),1fr));gap:1.5rem}
figure{margin:0;break-inside:avoid}img{width:100%;border:1px solid var(--line);border-radius:6px}
dl{display:grid;grid-template-columns:auto 1fr auto 1fr;gap:0 .8rem;margin:.5rem 0;font-size:12.5px}
dd{margin:0;overflow-wrap:anywhere}
@media print{body{margin:0;max-width:none}tr,figure{break-inside:avoid}}
"""


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{heading}</h1>
<p class="soft">{stamp}</p>
{body}
<h2>This page</h2>
<p>SHA-256 <code id="sha256">{unhashed}</code></p>
<p class="soft">It is the hash of this page (UTF-8) with its own 64 digits replaced by zeros. This prints it again:<br>
<code>{recipe}</code></p>
</body>
</html>
"""


def sealed_page(heading: str, title: str, stamp: str, body: str, style: str = "") -> str:
    """Lay out a page around what it says, with the hash of itself.

    Parameters
    ----------
    heading, title, stamp, body
        Markup that is safe already.
    style
        Rules of this page, after those of all.
    """
    page = PAGE.format(
        title=title,
        style=f"{STYLE}{style}",
        heading=heading,
        stamp=stamp,
        body=body,
        unhashed=UNHASHED,
        recipe=html.escape(RECIPE),
    )
    return HASH.sub(_sha256(page), page)


def verify(page: str) -> bool:
    """Return whether a page is as it was written: its content still has the hash it ends with."""
    found = HASH.findall(page)
    return len(found) == 1 and _sha256(HASH.sub(UNHASHED, page)) == found[0]


def _sha256(page: str) -> str:
    return hashlib.sha256(page.encode()).hexdigest()
