"""Find words in the README and the documentation that have a better one: ``python .ci/words.py``; exit code 1 for a finding.

Prose only: code blocks, code in backticks and the targets of links are left out. Pages that are generated have their texts in the
code. Terms are defined in docs/glossary.md.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("alerts.md", "keys.md", "proofs.md", "settings.md")
AVOIDED = {  # regular expression, in any case: what to write
    r"signs? of life": "heartbeat",
    r"the strip": "status banner",
    r"trials?(?! and error)": "test; dry run of an installation",
    r"thrown|set off|sets off": "activated",
    r"(shuts?|shutting)(?! down)": "a failed gate",
    r"(stands?|stood|standing) against": "blocks; why openings are blocked",
    r"(is|are|all|call) (well|ill)|worn": "healthy, unhealthy, old",
    r"overtak(e|en|es|ing)|overtook": "superseded",
    r"(stands?|stood|standing) by|stand-bys?": "on standby, a standby",
    r"mend|mends|mended|mending|(sees?|seen|saw) to": "fix, handle",
    r"told|tells?|telling": "reported, names, shows, says",
    r"invent|invents|invented": "synthetic, made up",
    r"missing is no permit": "without the key nothing is permitted",
    r"due intents?|intents? (is|are) due": "actionable",
    r"leave to move|own eyes|cr(y|ies) wolf|back door": "permission, independent, false alarm, bypasses",
    r"three.in.the.morning|3 a\.m": "runbook, at night",
    r"stacks?": "deployment",
    r"the loop|the loop's": "the cycle",
    r"(a|one|every|each|next|last|two) looks?": "a poll, a read",
    r"lately|of late": "recently",
    r"hostile reader": "what happens",
}
PATTERNS = [(re.compile(rf"\b(?:{words.replace(' ', ' +')})\b", re.IGNORECASE), better) for words, better in AVOIDED.items()]
NOT_PROSE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`|\]\([^)\s]*\)|<https?:[^>]*>", re.DOTALL | re.MULTILINE)


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Give the line, the words and what to write, of each finding in one page."""
    prose = NOT_PROSE.sub(lambda match: re.sub(r"\S", "\0", match[0]), text)
    one_line = re.sub(r"\s", " ", prose)  # two words are found across the end of a line, too
    for pattern, better in PATTERNS:
        for match in pattern.finditer(one_line):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), better


def pages(root: Path) -> list[Path]:
    """List the pages that people write."""
    return [root / "README.md", *(page for page in sorted((root / "docs").rglob("*.md")) if page.name not in GENERATED)]


def main(root: Path) -> int:
    """Print every finding of the product in this folder; give the exit code."""
    found = [
        f"{page.relative_to(root)}:{line}: avoid {words!r}; write: {better}"
        for page in pages(root)
        for line, words, better in sorted(findings(page.read_text()))
    ]
    sys.stdout.write("".join(f"{finding}\n" for finding in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(ROOT))
