"""The check of words: a word that has a better one is found wherever prose can hide it, and code is left alone."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = runpy.run_path(str(ROOT / ".ci" / "words.py"))
findings, main, pages, prose_of = WORDS["findings"], WORDS["main"], WORDS["pages"], WORDS["prose_of"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("A worker leaves a sign of life.", 1, "sign of life"),
        ("one\ntwo leave signs of\n  life in Redis", 2, "signs of life"),  # across the end of a line, in a list
        ("## Mend it", 1, "Mend"),
        ("| the gate that shut | x |", 1, "shut"),
        ("`code` and then a stack", 1, "stack"),
        ("```sh\nquantum up\n```\nThe second host stands by.", 4, "stands by"),
        ("[what stands against openings](keys.md)", 1, "stands against"),
        ("It was set off by a loss.", 1, "set off"),
        ("At 3 a.m. somebody reads", 1, "3 a.m"),
    ],
)
def test_a_planted_word_is_found(text: str, line: int, words: str) -> None:
    assert [found[:2] for found in findings(text)] == [(line, words)]


@pytest.mark.parametrize(
    "text",
    [
        "`quantum_ops/processes/stack.py`",
        "[decision 14](decisions/0014-one-stack-runs-the-loop.md)",
        "```python\nstack = told\n```",
        "<http://localhost:3000/stack>",
        "They shut down; by trial and error; foretold, shutter, recommended, amend",
    ],
)
def test_code_links_and_other_words_are_left_alone(text: str) -> None:
    assert list(findings(text)) == []


def test_a_planted_word_fails_the_check_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `make check` runs."""
    page = tmp_path / "docs" / "decisions" / "planted.md"
    page.parent.mkdir(parents=True)
    (tmp_path / "README.md").write_text("Short sentences.\n")
    (tmp_path / "definitions.py").write_text('"""Short sentences."""\n')
    page.write_text("# A\n\nNobody was told.\n")
    assert main(tmp_path) == 1
    assert capsys.readouterr().out == f"{page.relative_to(tmp_path)}:3: avoid 'told'; write: reported, names, shows, says\n"
    page.write_text("# A\n\nNobody was informed.\n")
    assert main(tmp_path) == 0


def test_docstrings_and_comments_are_read_and_code_is_not() -> None:
    source = '''"""A stack."""

stack = "told"  # nobody was told


@click.option("--all", help="mends", default="told")
def told(stack: str) -> str:
    """Mend it.

    The strip
    is red.
    """
    return f"the loop of a {stack}"
'''
    assert [row[:2] for row in sorted(findings(prose_of(source)))] == [
        (1, "stack"),
        (3, "told"),
        (6, "mends"),
        (8, "Mend"),
        (10, "The strip"),
    ]


def test_the_pages_of_the_product_are_clean_and_all_of_them_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that reads no page would be green for ever."""
    assert main(ROOT) == 0, capsys.readouterr().out
    names = {page.name for page in pages(ROOT)}
    assert {"README.md", "guide.md", "glossary.md", "dagster.md", "spec.md", "operations.md"} <= names
    assert {"alerts.md", "keys.md", "proofs.md", "settings.md"} <= names  # also what is generated
    assert "$(BIN)/python .ci/words.py" in (ROOT / "Makefile").read_text()
