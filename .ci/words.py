"""Find words in documentation, docstrings and comments that have a better one: ``python .ci/words.py``; exit code 1 if any.

Prose only: code, code in backticks, texts that are printed and the targets of links are left out; what commands and assets say
of themselves (``help=``, ``description=``) is prose. Terms are defined in docs/glossary.md.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = ("core", "assets", "lab", "ops", "feed")
PACKAGES = ("definitions.py", "resources", "sensors", *(f"quantum_{name}" for name in OWN))
SHOWN = ("description", "epilog", "help", "short_help")  # arguments whose texts people read
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
    """List the pages that people read, also those that are generated."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def modules(root: Path) -> list[Path]:
    """List the modules of the product."""
    return [path for name in PACKAGES for path in sorted([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))]


def prose_of(source: str) -> str:
    """Give the docstrings, comments and descriptions of a module on the lines where they stand, and nothing else."""
    kept = dict.fromkeys(range(1, source.count("\n") + 2), "")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            kept[token.start[0]] = token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno
            kept |= dict(enumerate(source.splitlines()[first - 1 : last], start=first))
        elif isinstance(node, ast.keyword) and node.arg in SHOWN:
            for text in (one for one in ast.walk(node.value) if isinstance(one, ast.Constant) and isinstance(one.value, str)):
                kept[text.lineno] += f" {text.value}"
    return "\n".join(kept.values())


def main(root: Path) -> int:
    """Print every finding of the product in this folder; give the exit code."""
    texts = {page: page.read_text() for page in pages(root)} | {path: prose_of(path.read_text()) for path in modules(root)}
    avoided = [
        f"{path.relative_to(root)}:{line}: avoid {words!r}; write: {better}"
        for path, text in texts.items()
        for line, words, better in sorted(findings(text))
    ]
    sys.stdout.write("".join(f"{finding}\n" for finding in avoided))
    return int(bool(avoided))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if sys.argv[1:] else ROOT))
