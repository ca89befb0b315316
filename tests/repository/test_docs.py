"""What the pages say exists: links lead somewhere, and every alert has its section."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from quantum_core.alert_catalogue import KINDS
from quantum_core.alert_catalogue import page as catalogue
from quantum_ops.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
REFERENCE = re.compile(r"\bdocs/[\w./-]+?\.md(?:#([\w-]+))?")  # in code: a page, and a section of it
SOURCES = (".py", ".lua", ".yml", ".yaml", ".toml", ".service", ".example", ".sh")
FOLDERS = (
    "definitions.py",
    "sensors",
    "quantum_assets",
    "resources",
    "quantum_core",
    "quantum_lab",
    "quantum_ops",
    "quantum_feed",
    "tests",
    "deploy",
    ".ci",
)
PARTS = ("**Meaning.**", "**First look.**", "**Fix.**")


def anchors(page: Path) -> set[str]:
    """Name the sections of a page."""
    return {anchor(heading) for heading in HEADING.findall(page.read_text())}


def anchor(heading: str) -> str:
    """Give the anchor of a heading, as both GitHub and MkDocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_or_a_section_leads_there(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, section = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (section and section not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_test_that_the_page_of_the_field_names_exists() -> None:
    """A claim whose test was renamed or moved is held by nothing."""
    text = (ROOT / "docs" / "field.md").read_text()
    tests_by_file = {
        file.relative_to(ROOT).as_posix(): set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
        for file in (ROOT / "tests").rglob("test_*.py")
    }
    names = set(re.findall(r"\btest_\w+\b(?!\.py)", text)) - {Path(file).stem for file in tests_by_file}
    assert names - set().union(*tests_by_file.values()) == set()
    wrong = []
    for path, name in re.findall(r"([\w/]*\btest_\w+\.py)(?:::(\w+))?", text):
        tests = [tests for file, tests in tests_by_file.items() if file.endswith("/" + path.removeprefix("tests/"))]
        if len(tests) != 1 or (name and name not in tests[0]):
            wrong.append((path, name))
    assert wrong == []


def test_every_section_that_code_refers_to_exists() -> None:
    """Whoever follows a comment to the contract must arrive there, also after a heading was changed."""
    roots = [ROOT / name for name in FOLDERS]
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*"))) if file.suffix in SOURCES]
    references = [(file, match) for file in files for match in REFERENCE.finditer(file.read_text())]
    broken = []
    for file, match in references:
        page, section = ROOT / match[0].partition("#")[0], match[1]
        if not page.exists() or (section and section not in anchors(page)):
            broken.append(f"{file.relative_to(ROOT)}: {match[0]}")
    assert broken == []
    assert sum(match[0].startswith("docs/spec.md#") for _, match in references) >= 50  # or this test has judged nothing


def test_every_alert_has_its_section_and_no_section_is_left_over() -> None:
    """At three in the morning nobody reads the code."""
    text = (ROOT / "docs" / "alerts.md").read_text()
    ours, theirs = text.split("## Alerts of Prometheus")
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    told = {**sections(ours, "## "), **sections(theirs, "### ")}
    assert ours == f"{catalogue()}\n", "make docs"
    assert told.keys() == {*KINDS, *(rule["alert"] for rule in rules)}
    assert [name for name, section in told.items() if not all(part in section for part in PARTS)] == []
    for rule in rules:
        page, _, section = rule["annotations"]["runbook_url"].partition("#")
        assert (ROOT / page).exists()
        assert section == anchor(rule["alert"])


def test_the_guide_has_every_command() -> None:
    """It says that it has."""
    rows = "\n".join(
        line.split(" | ")[0] for line in (ROOT / "docs" / "guide.md").read_text().splitlines() if line.startswith("| `")
    )
    assert [name for name in COMMANDS if not re.search(rf"`quantum {name}\b", rows)] == []


def test_the_help_of_every_command_fits_80_columns() -> None:
    """But for the cases of ``quantum calc``: JSON to copy stands on one line."""
    assert [
        line for path, text in helps(cli, "quantum", None) if "calc" not in path for line in text.splitlines() if len(line) > 80
    ] == []


def helps(command: click.Command, path: str, above: click.Context | None) -> Iterator[tuple[str, str]]:
    """Give the help of a command and of all below it."""
    context = click.Context(command, info_name=path.split()[-1], parent=above, terminal_width=80, max_content_width=80)
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from helps(below, f"{path} {name}", context)


def sections(text: str, mark: str) -> dict[str, str]:
    """Split a page at its headings."""
    return {part.partition("\n")[0]: part for part in re.split(rf"^{mark}", text, flags=re.MULTILINE)[1:]}
