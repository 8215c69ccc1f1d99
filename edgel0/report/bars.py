"""Which figures are bars? Limits and what is taken of them, what is kept of each group, and where the cost goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgel0.report.lettering import apart
from edgel0.report.markup import Child, Markup
from edgel0.report.plot import LINE, SIZE, STRONG, WIDE, curve, fitted, rect, rule, text, width_of

ROWS = 24  # more groups than this are columns
HIGH = 10.0  # CSS pixels of a bar


@dataclass(frozen=True)
class Limited:
    """A limit as its bar shows it: ``share`` of it is taken; None where the figure is missing, which is not kept."""

    name: str
    share: float | None
    kept: bool
    status: str
    told: str


def limits(rows: Sequence[Limited], width: float) -> tuple[float, list[Child]]:
    """Draw each limit as a track whose end is the limit; what exceeds it is hatched and goes beyond."""
    most = max([1.0, *(min(row.share or 0, 4.0) for row in rows)])
    scale, step = (width - 2) / most, 66.0
    shapes: list[Child] = []
    for at, row in enumerate(rows):
        y = at * step + LINE
        status = fitted(row.status, width * 0.6, STRONG)
        room = width - width_of(status, STRONG) - 12
        shapes.append(text(0, y, fitted(row.name, room, STRONG), "strong"))
        shapes.append(text(width, y, status, "good" if row.kept else "bad", "end"))
        shapes.append(rect(0, y + 8, scale, HIGH, "track", 1.5))
        if row.share is not None:
            shapes.append(rect(0, y + 8, min(row.share, 1) * scale, HIGH, "slim", 1.5))
        if row.share is not None and row.share > 1 and not row.kept:
            end = min(row.share, most) * scale
            shapes += [rect(scale, y + 8, end - scale, HIGH, "over"), _hatching(scale, end, y + 8)]
        shapes.append(rule(scale, y + 4, scale, y + 8 + HIGH + 4, "limit"))
        shapes.append(text(0, y + 8 + HIGH + LINE, fitted(row.told, width), "quiet"))
    return len(rows) * step - 6, shapes


def _hatching(left: float, right: float, top: float) -> Markup:
    """Draw slanted lines, so that what is over a limit is told by more than its colour."""
    starts = [left + 6 * n for n in range(int((right - left) / 6))]
    return curve([(x, y) for x0 in starts for x, y in ((x0, top + HIGH), (x0 + 6, top), (x0 + 6, top + HIGH))], "hatch")


def kept(groups: dict[str, tuple[int, int]], width: float) -> tuple[float, list[Child]]:
    """Draw what is kept of each group, in network order, as a share of its size."""
    return (_rows if len(groups) <= ROWS else _columns)(groups, width)


def _rows(groups: dict[str, tuple[int, int]], width: float) -> tuple[float, list[Child]]:
    room = 0.36 * width
    names = apart([*groups], int(room / (0.66 * SIZE)))
    ends = [f"{now:,} of {size:,}" for now, size in groups.values()]
    left = min(room, max(width_of(name) for name in names)) + 12
    right = width - max(width_of(end, STRONG) for end in ends) - 12
    shapes: list[Child] = []
    for at, (name, end, (now, size)) in enumerate(zip(names, ends, groups.values(), strict=True)):
        y = at * 26.0 + 4
        shapes.append(text(0, y + 13, fitted(name, room)))
        shapes.append(rect(left, y + 2, right - left, 14, "track", 1.5))
        shapes.append(rect(left, y + 2, (right - left) * (now / size if size else 0), 14, "slim", 1.5))
        shapes.append(text(width, y + 13, end, "strong" if now else "bad", "end"))
    return len(groups) * 26.0 + 6, shapes


def _columns(groups: dict[str, tuple[int, int]], width: float) -> tuple[float, list[Child]]:
    """Draw many groups as one outline over their numbers in network order."""
    left, top, high, count = 44.0, 12.0, 170.0, len(groups)
    step = (width - left - 4) / count
    shapes: list[Child] = [rect(left, top, step * count, high, "track")]
    outline = [(left, top + high)]
    for n, (now, size) in enumerate(groups.values()):
        y = top + high * (1 - (now / size if size else 0))
        outline += [(left + n * step, y), (left + (n + (0.86 if step > 4 else 1)) * step, y)]
        if step > 4:
            outline += [(outline[-1][0], top + high), (left + (n + 1) * step, top + high)]
    shapes.append(curve([*outline, (left + count * step, top + high)], "slim", closed=True))
    at = {share: top + high * (1 - share) + 4 for share in (0, 0.5, 1)}
    shapes += [text(left - 8, y, f"{share:.0%}", "quiet", "end") for share, y in at.items()]
    for n in dict.fromkeys((0, count // 4, count // 2, 3 * count // 4, count - 1)):
        x = min(left + (n + 0.5) * step, width - width_of(str(n + 1)) / 2)
        shapes += [text(x, top + high + LINE, str(n + 1), "quiet", "middle")]
    middle = left + step * count / 2
    shapes.append(text(middle, top + high + 2 * LINE, "group, in network order", "quiet", "middle"))
    return top + high + 2 * LINE + 6, shapes


@dataclass(frozen=True)
class Pair:
    """What one layer or operator takes, dense and slim, None where it is not there, and both in words."""

    name: str
    dense: float | None
    slim: float | None
    told: str


def pairs(rows: Sequence[Pair], width: float) -> tuple[float, list[Child]]:
    """Draw dense over slim for each row, in one scale."""
    if width < WIDE:
        return _stacked(rows, width)
    room = 0.3 * width
    names = apart([row.name for row in rows], int(room / (0.66 * SIZE)))
    left = min(room, max(width_of(name) for name in names)) + 14
    right = width - max(width_of(row.told) for row in rows) - 14
    scale = (right - left) / (max(max(row.dense or 0, row.slim or 0) for row in rows) or 1)
    shapes: list[Child] = []
    for at, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = at * 30.0 + 4
        shapes.append(text(0, y + 14, fitted(name, room)))
        shapes += _pair(row, left, y + 1, scale)
        shapes.append(text(width, y + 14, row.told, "", "end"))
    return len(rows) * 30.0 + 4, shapes


def _stacked(rows: Sequence[Pair], width: float) -> tuple[float, list[Child]]:
    """Draw the same for a narrow screen: names and figures over the bars."""
    scale = width / (max(max(row.dense or 0, row.slim or 0) for row in rows) or 1)
    names = apart([row.name for row in rows], 40)
    shapes: list[Child] = []
    for at, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = at * 46.0
        shapes.append(text(0, y + 14, fitted(name, width - width_of(row.told) - 14)))
        shapes.append(text(width, y + 14, row.told, "", "end"))
        shapes += _pair(row, 0, y + 20, scale)
    return len(rows) * 46.0, shapes


def _pair(row: Pair, left: float, y: float, scale: float) -> list[Child]:
    shapes: list[Child] = []
    if row.dense is not None:
        shapes.append(rect(left, y, max(row.dense * scale, 1), 7, "dense"))
    if row.slim is not None:
        shapes.append(rect(left, y + 9, max(row.slim * scale, 1), 7, "slim"))
    return shapes
