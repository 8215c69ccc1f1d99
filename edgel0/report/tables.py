"""What stands behind a figure? A table that is written as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgel0.report.markup import Child, Markup, tag


@dataclass(frozen=True)
class Table:
    """Rows of texts under named columns; the first column names its row, ``words`` of the others hold no numbers.

    ``marked`` are rows to be set apart, by number; a column in ``hidden`` is left out on a narrow screen.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    marked: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()


def html_table(table: Table, cells: dict[tuple[int, int], Markup] | None = None) -> Markup:
    """Write a table; ``cells`` replaces some by markup, by (row, column)."""
    heads = [tag("th", name, scope="col", class_=_class(table, at)) for at, name in enumerate(table.columns)]
    rows = []
    for number, row in enumerate(table.rows):
        found: list[Child] = []
        for at, cell in enumerate(row):
            content = (cells or {}).get((number, at), cell)
            if at:
                found.append(tag("td", content, class_=_class(table, at)))
            else:
                found.append(tag("th", content, scope="row", class_=_class(table, at)))
        rows.append(tag("tr", *found, class_="marked" if number in table.marked else None))
    return tag(
        "table",
        tag("caption", table.caption),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *rows),
    )


def _class(table: Table, at: int) -> str | None:
    names = ["num"] * (at > 0 and at not in table.words) + ["roomy"] * (at in table.hidden)
    return " ".join(names) or None


def folded(table: Table) -> Markup:
    """Write a table that opens when it is asked for, and that scrolls in itself where it is too wide."""
    inner = tag("div", html_table(table), class_="scroll", tabindex="0", role="region", aria_label=table.caption)
    return tag("details", tag("summary", f"Table: {table.caption}"), inner)


def markdown_table(table: Table) -> str:
    """Write a table as GitHub's Markdown, padded so that it reads as text, too."""
    rows = [tuple(map(in_markdown, table.columns)), *(_row(row) for row in table.rows)]
    widths = [max(3, *(len(row[at]) for row in rows)) for at in range(len(table.columns))]
    numeric = [at > 0 and at not in table.words for at in range(len(table.columns))]
    lines = [" | ".join(_padded(cell, widths[at], numeric[at]) for at, cell in enumerate(row)) for row in rows]
    under = " | ".join("-" * (width - numeric[at]) + ":" * numeric[at] for at, width in enumerate(widths))
    lines.insert(1, under)
    return "\n".join(f"| {line} |" for line in lines)


def _row(row: Sequence[str]) -> tuple[str, ...]:
    return tuple(in_markdown(cell) for cell in row)


def _padded(cell: str, width: int, numeric: bool) -> str:
    return cell.rjust(width) if numeric else cell.ljust(width)


def in_markdown(text: str) -> str:
    """Return a text as Markdown that shows it and does nothing else: no link, no mention, no HTML, no end of a cell.

    What may do more than show stands in a code span.
    """
    if not any(letter in SPECIAL for letter in text):
        return text
    fence = "`" * (_longest(text, "`") + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text.replace('|', chr(92) + '|')}{space}{fence}"


def _longest(text: str, letter: str) -> int:
    longest = here = 0
    for one in text:
        here = here + 1 if one == letter else 0
        longest = max(longest, here)
    return longest


SPECIAL = frozenset("`*_[]<>|\\#@!&~$:/{}\n")
