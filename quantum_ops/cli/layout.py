"""Records on a console: a table where it fits, lines of whole fields where it does not. Nothing is ever cut.

A pipe has no width: there a record is always one line, so that grep finds symbol, plan and reason together.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import groupby, pairwise
from textwrap import wrap

import click
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from quantum_core.contracts.reading import printable

PIPE_WIDTH = 10_000  # columns; a table takes what it needs
INDENT = "    "
GONE = "none"  # of a value that the record before had
HARD_WRAP = re.compile(r"(?<=[^\n|])\n(?=[^\n|#*-])")  # line break within a paragraph of Markdown
BAR = re.compile(r"(?<!\\)\|")  # between two cells of a table


@dataclass(frozen=True)
class Column:
    """One field of every record.

    Attributes
    ----------
    heading
        Shown above the column; in front of the value where records are lines and ``labelled`` is set.
    right
        Whether it is set flush right: numbers.
    labelled
        Whether a value says too little without its heading.
    colours
        Value to colour.
    """

    heading: str
    right: bool = False
    labelled: bool = False
    colours: Mapping[str, str] | None = None


def console() -> Console:
    """Give the console of stdout: as wide as the terminal, or without a width in a pipe."""
    terminal = Console(highlight=False, soft_wrap=True)
    return terminal if terminal.is_terminal else Console(highlight=False, soft_wrap=True, width=PIPE_WIDTH)


def records(
    out: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    title: str = "",
    *,
    together: bool = False,
    successive: bool = False,
) -> RenderableType:
    """Lay records out for a console.

    Parameters
    ----------
    out
        Where they are shown.
    columns
        Fields of a record; the first one names it.
    rows
        Values of each record, as text; control characters are replaced.
    title
        Above them.
    together
        Say once, above them, what is the same in all of several records that do not fit side by side.
    successive
        Each record follows the one before: as lines, only what has changed is shown.
    """
    heading = [paragraph(out, title, "italic")] if title else []
    table = table_of(columns, rows, title, successive=successive)
    if fits(out, table):
        return table
    if together and len(rows) > 1:
        same = [number for number in range(1, len(columns)) if len({row[number] for row in rows}) == 1]
        kept = [number for number in range(len(columns)) if number not in same]
        said = [f"{columns[number].heading} {rows[0][number]}" for number in same if rows[0][number]]
        heading += [paragraph(out, f"In all of them: {', '.join(said)}")] if said else []
        columns, rows = [columns[number] for number in kept], [[row[number] for number in kept] for row in rows]
        table = table_of(columns, rows, successive=successive)
        if fits(out, table):
            return Group(*heading, table)
    shown = _changes(rows) if successive else rows
    cells = [[_cell(column, value) for column, value in zip(columns, row, strict=True)] for row in shown]
    return Group(*heading, *(line for row in cells for line in _lines(columns, row, out.width)))


def table_of(columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str = "", *, successive: bool = False) -> Table:
    """Build a table; where records are successive, what has not changed steps back."""
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=True)
    before: Sequence[str] = ()
    for row in rows:
        cells = [_cell(column, value) for column, value in zip(columns, row, strict=True)]
        for number, cell in enumerate(cells[1:] if successive and before else (), start=1):
            cell.stylize("dim" if row[number] == before[number] else "bold")
        table.add_row(*cells)
        before = row
    return table


def fits(out: Console, table: Table) -> bool:
    """Whether a table needs no more columns than the console has."""
    return Measurement.get(out, out.options.update(max_width=PIPE_WIDTH), table).maximum <= out.width


def _changes(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Give the first record whole, and of each later one its name and what differs from the one before."""
    differing = [
        [row[0], *("" if value == was else value or GONE for value, was in zip(row[1:], before[1:], strict=True))]
        for before, row in pairwise(rows)
    ]
    return [*rows[:1], *differing]


def say(*sentences: str, style: str = "", hang: int = 2) -> None:
    """Print sentences on stdout, each one as a paragraph."""
    out = console()
    for sentence in sentences:
        out.print(paragraph(out, sentence, style, hang=hang))


def paragraph(out: Console, text: str, style: str = "", *, hang: int = 2) -> Text:
    """Set a sentence, broken between words where the terminal ends; in a pipe it is one line.

    Parameters
    ----------
    out
        Where it is shown.
    text
        The sentence; control characters are replaced.
    style
        Of all of it.
    hang
        Columns by which its other lines are indented deeper than its first one.
    """
    text = printable(text)
    if out.width < PIPE_WIDTH:
        text = "\n".join(_broken(text, out.width, " " * (len(text) - len(text.lstrip()) + hang)))
    return Text(text, style, overflow="ignore", no_wrap=True)


def _broken(text: str, width: int, indent: str) -> list[str]:
    """Break a text between words; every line but the first is indented."""
    return wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def show_page(text: str) -> None:
    """Print a page of Markdown: as it is into a file or pipe; on a terminal its tables are laid out as records are."""
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    out = console()
    out.print(page_of(out, text))


def page_of(out: Console, text: str) -> Group:
    """Lay a page of Markdown out for a terminal."""
    parts: list[RenderableType] = []
    for is_table, lines in groupby(HARD_WRAP.sub(" ", text).splitlines(), key=lambda line: line.startswith("|")):
        if is_table:
            heads, _, *body = lines
            headings, *rows = [
                [unescape(cell.strip()).replace(r"\|", "|") for cell in BAR.split(line[1:-1])] for line in (heads, *body)
            ]
            widest = max(range(len(headings)), key=lambda number: max(len(row[number]) for row in rows))  # it explains itself
            columns = [Column(heading, labelled=number not in (0, widest)) for number, heading in enumerate(headings)]
            parts.append(records(out, columns, rows))
        else:
            parts += [paragraph(out, line) for line in lines]
    return Group(*parts)


def _cell(column: Column, value: str) -> Text:
    text = printable(value)
    return Text(text, style=(column.colours or {}).get(text, ""))


def _lines(columns: Sequence[Column], row: Sequence[Text], width: int) -> list[Text]:
    """Set the fields of one record one after the other; a field that does not fit begins the next line, or takes several."""
    lines: list[Text] = []
    for column, cell in zip(columns, row, strict=True):
        if not cell.plain:
            continue
        field = Text.assemble(f"{column.heading} ", cell) if column.labelled else cell
        if lines and lines[-1].cell_len + 2 + field.cell_len <= width:
            lines[-1].append("  ").append_text(field)
            continue
        start = INDENT if lines else ""
        pieces = _broken(f"{start}{field.plain}", width, f"{INDENT}  ")
        lines += [Text.assemble((piece, cell.style)) for piece in pieces] if len(pieces) > 1 else [Text.assemble(start, field)]
    return [Text.assemble(line, overflow="ignore", no_wrap=True) for line in lines]
