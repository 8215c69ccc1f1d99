"""What is a part of a report? A finding in words, a figure, the table behind it, and notes."""

from __future__ import annotations

from dataclasses import dataclass

from edgel0.report.lettering import short
from edgel0.report.plot import Draw
from edgel0.report.tables import Table
from edgel0.report.wording import listed


@dataclass(frozen=True)
class Section:
    """A part of a report; ``draw`` draws its figure, ``told`` says in words what the figure shows."""

    ident: str
    title: str
    finding: str
    table: Table
    draw: Draw | None = None
    told: str = ""
    notes: tuple[str, ...] = ()


def first(names: list[str]) -> str:
    """Name three, and say how many more there are."""
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return listed([*map(clipped, names[:3]), *more])


def clipped(name: str) -> str:
    """Return as much of a name as a sentence bears."""
    return short(name, 36)


def some(parts: list[str]) -> str:
    """Say the first dozen in words; the table has all."""
    return ", ".join(parts[:12]) + (f" and {len(parts) - 12} more, in the table." if len(parts) > 12 else ".")
