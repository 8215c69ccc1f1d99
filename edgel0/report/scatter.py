"""What does accuracy cost? Points over a cost, the way between them, and the front that nothing is better than."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgel0.report.markup import Child
from edgel0.report.placing import Box, place
from edgel0.report.plot import LINE, Scale, around, curve, dot, rule, shares, square, text, width_of
from edgel0.report.wording import brief

LEFT, TALL, TOP = 62.0, 280.0, 40.0  # CSS pixels


@dataclass(frozen=True)
class Point:
    """A network: its cost, its accuracy, and between which two chance may move that, if that is known.

    ``kind`` is ``dense``, ``slim``, or ``dominated`` where another is better.
    """

    name: str
    cost: float
    accuracy: float
    kind: str
    ends: tuple[float, float] = (0.0, 0.0)


def scatter(
    points: Sequence[Point],
    width: float,
    kind: str,
    title: str,
    way: Sequence[tuple[float, float]] = (),
    front: Sequence[tuple[float, float]] = (),
) -> tuple[float, list[Child]]:
    """Draw points of (cost, accuracy), costs counted as ``kind``; ``way`` are epochs, ``front`` the best points."""
    across = around([*(p.cost for p in points), *(x for x, _ in way)], LEFT + 12, width - 14, room=0.05)
    ends = [end for p in points for end in (p.ends if any(p.ends) else (p.accuracy,))]
    up = around([*ends, *(y for _, y in way)], TOP + TALL, TOP, room=0.08)
    up = Scale(up.low, up.high, TOP + TALL, TOP)
    shapes = _axes(across, up, width, kind, title)
    if front:
        shapes.append(curve([(across(x), up(y)) for x, y in _steps(front, across.high)], "front"))
    shapes += [dot(across(x), up(y), 2.2, "way-dot") for x, y in way]
    for point in points:
        if any(point.ends):
            bar, x = _bar(point, across, up), across(point.cost)
            shapes.append(rule(x, bar.top, x, bar.bottom, f"{point.kind}-line"))
        draw = {"dense": _hollow, "dominated": _cross}.get(point.kind, _full)
        shapes += draw(across(point.cost), up(point.accuracy))
    return TOP + TALL + 2 * LINE + 8, [*shapes, *_names(points, across, up, width)]


def _steps(front: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return the outline of what the front rules out: nothing known is both cheaper and more accurate."""
    ordered = sorted(front)
    found = [ordered[0]]
    for x, y in ordered[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return [*found, (end, found[-1][1])]


def _axes(across: Scale, up: Scale, width: float, kind: str, title: str) -> list[Child]:
    shapes: list[Child] = [text(0, LINE - 2, "accuracy", "strong")]
    for value, label in shares([tick for tick in up.ticks(6) if tick < 1.0001]):
        shapes.append(rule(LEFT, up(value), width, up(value), "grid"))
        shapes.append(text(LEFT - 8, up(value) + 4, label, "quiet", "end"))
    base = TOP + TALL
    shapes.append(rule(LEFT, base, width, base, "base"))
    for value in across.ticks(7 if width > 500 else 4):
        label = brief(value, kind)
        x = min(max(across(value), LEFT + width_of(label) / 2), width - width_of(label) / 2)
        shapes.append(text(x, base + LINE, label, "quiet", "middle"))
        shapes.append(rule(across(value), base, across(value), base + 4, "base"))
    shapes.append(text(width, base + 2 * LINE, title, "strong", "end"))
    return shapes


def _names(points: Sequence[Point], across: Scale, up: Scale, width: float) -> list[Child]:
    """Write each point's name near it; those on the front stand above, where no point is."""
    order = sorted(points, key=lambda p: ("slim", "dense", "dominated").index(p.kind))
    bars = [_bar(p, across, up) for p in points if any(p.ends)]
    asked = [(across(p.cost), up(p.accuracy), p.name, p.kind == "slim" and not any(p.ends)) for p in order]
    shapes: list[Child] = []
    for point, spot in zip(order, place(asked, Box(LEFT, 0, width, TOP + TALL), bars), strict=True):
        if spot is None:
            continue
        if spot.far:
            x, y = across(point.cost), up(point.accuracy)
            end = min(max(x, spot.x), spot.x + width_of(spot.words))
            shapes.append(rule(x, y, end, spot.y + 3 if spot.y < y else spot.y - 10, "leader"))
        shapes.append(text(spot.x, spot.y, spot.words, f"{point.kind}-text halo"))
    return shapes


def _bar(point: Point, across: Scale, up: Scale) -> Box:
    """Return what the line of chance takes."""
    x = across(point.cost)
    return Box(x - 2, up(point.ends[1]), x + 2, up(point.ends[0]))


def _hollow(x: float, y: float) -> list[Child]:
    return [square(x, y, 4.5, "hollow")]


def _full(x: float, y: float) -> list[Child]:
    return [dot(x, y, 5, "slim ring")]


def _cross(x: float, y: float) -> list[Child]:
    return [curve([(x - 4, y - 4), (x + 4, y + 4)], "cross"), curve([(x - 4, y + 4), (x + 4, y - 4)], "cross")]
