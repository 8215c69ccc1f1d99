"""How did a run get there? Cost against its target over the epochs, and the accuracy meanwhile."""

from __future__ import annotations

from edgel0.report.markup import Child
from edgel0.report.plot import (
    LINE,
    STRONG,
    WIDE,
    Scale,
    around,
    beside,
    curve,
    dot,
    fitted,
    rule,
    shares,
    square,
    text,
    width_of,
)
from edgel0.report.records import Epoch, Run, Spent
from edgel0.report.wording import brief, kind_of, percent, title_of

LEFT, TALL, SMALL, GAP = 62.0, 168.0, 84.0, 44.0  # CSS pixels
PANELS = 4  # limits that are drawn; all are in the table


def keys_of(run: Run) -> list[str]:
    """Return the limits that training followed."""
    return [*dict.fromkeys(key for row in run.history for key in row.cost)]


def course(run: Run, width: float) -> tuple[float, list[Child]]:
    """Draw a panel per limit and one of the accuracy over the same epochs."""
    right = 118.0 if width == WIDE else 108.0
    across = Scale(0.5, len(run.history) + 0.5, LEFT, width - right)
    spent = {row.metric: row for row in run.budget}
    top, shapes = 2 * LINE + 8, _phases(run.history, across)
    for key in keys_of(run)[:PANELS]:
        shapes += _cost(run.history, key, spent.get(key), across, top, width)
        top += TALL + GAP
    if any(row.accuracy is not None for row in run.history):
        shapes += _accuracy(run, across, top, width)
        top += SMALL + GAP
    bottom = top - GAP
    shapes += _walls(run.history, across, bottom)
    shapes += [text(across(at), bottom + LINE, str(at), "quiet", "middle") for at in _numbers(len(run.history))]
    shapes.append(text(across.end, bottom + 2 * LINE, "epoch", "quiet", "end"))
    return bottom + 2 * LINE + 6, shapes


def _numbers(count: int) -> list[int]:
    step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if count / (s * 10**p) <= 7)
    return [*dict.fromkeys([1, *(at for at in range(step, count + 1, step) if at > 1)])]


def spans(history: tuple[Epoch, ...]) -> list[tuple[str, int, int]]:
    """Return (phase, first epoch, last epoch), counted from 1."""
    found: list[tuple[str, int, int]] = []
    for at, row in enumerate(history, 1):
        if found and found[-1][0] == row.phase:
            found[-1] = (row.phase, found[-1][1], at)
        else:
            found.append((row.phase, at, at))
    return found


def _phases(history: tuple[Epoch, ...], across: Scale) -> list[Child]:
    """Name each phase over its epochs, where there is room."""
    shapes: list[Child] = []
    for phase, first, last in spans(history):
        left, right = across(first - 0.5), across(last + 0.5)
        if width_of(phase) <= right - left:
            shapes.append(text((left + right) / 2, LINE - 4, phase, "quiet", "middle"))
    return shapes


def _walls(history: tuple[Epoch, ...], across: Scale, bottom: float) -> list[Child]:
    return [rule(across(first - 0.5), 2, across(first - 0.5), bottom, "wall") for _, first, _ in spans(history)[1:]]


def _cost(
    history: tuple[Epoch, ...], key: str, spent: Spent | None, across: Scale, top: float, width: float
) -> list[Child]:
    lines = {"expected": [row.cost.get(key) for row in history], "target": [row.target.get(key) for row in history]}
    known = [value for values in lines.values() for value in values if value is not None]
    ends = [] if spent is None else [spent.limit, spent.slim]
    up = around([*known, *ends], top + TALL, top)
    if not up.log:
        up = Scale(0.0, up.high, top + TALL, top)
    kind = kind_of(key)
    shapes = _frame(title_of(key), [(value, brief(value, kind)) for value in up.ticks()], up, across, top)
    named: list[tuple[float, str, str]] = []
    if spent is not None:
        shapes.append(rule(across.start, up(spent.limit), across.end, up(spent.limit), "limit"))
        named.append((up(spent.limit), f"limit {brief(spent.limit, kind)}", "ink"))
    shapes += _line(lines["target"], across, up, "target")
    shapes += _line(lines["expected"], across, up, "course")
    if spent is not None:
        shapes.append(square(across.end, up(spent.slim), 4.5, "slim"))
        named.append((up(spent.slim), f"slim {brief(spent.slim, kind)}", "slim-text"))
    shapes += beside(across.end + 12, named, top - 4, top + TALL + 4)
    return shapes + _on_lines(lines, across, up, top, width)


def _on_lines(lines: dict[str, list[float | None]], across: Scale, up: Scale, top: float, width: float) -> list[Child]:
    """Name the two curves where they are: the target below its middle, what is expected above."""
    shapes: list[Child] = []
    moving = [at for at, value in enumerate(lines["target"]) if value is not None]
    if len(moving) < 2 or width < WIDE:
        return shapes
    at = moving[len(moving) // 4]
    value = lines["target"][at]
    if value is not None:
        shapes.append(
            text(across(at + 1) - 8, min(up(value) + LINE + 4, top + TALL - 6), "target", "target-text", "end")
        )
    value = lines["expected"][at]
    if value is not None:
        shapes.append(text(across(at + 1) + 10, max(up(value) - 8, top + 10), "expected cost", "slim-text"))
    return shapes


def _accuracy(run: Run, across: Scale, top: float, width: float) -> list[Child]:
    values = [row.accuracy for row in run.history]
    known = [value for value in values if value is not None]
    ends = [(which, side.accuracy) for which, side in (("dense", run.dense), ("slim", run.slim))]
    told = [value for _, value in ends if value is not None]
    up = around([*known, *told], top + SMALL, top, room=0.12)
    up = Scale(up.low, up.high, top + SMALL, top)
    shapes = _frame("test accuracy", shares(up.ticks(4)), up, across, top)
    shapes += _line(values, across, up, "course")
    named = [(up(value), f"{which} {percent(value)}", f"{which}-text") for which, value in ends if value is not None]
    if run.slim.accuracy is not None:
        shapes.append(square(across.end, up(run.slim.accuracy), 4.5, "slim"))
    if run.dense.accuracy is not None:
        shapes.append(rule(across.start, up(run.dense.accuracy), across.end, up(run.dense.accuracy), "dense-line"))
    return [*shapes, *beside(across.end + 12, named, top - 8, top + SMALL + 8)]


def _frame(title: str, ticks: list[tuple[float, str]], up: Scale, across: Scale, top: float) -> list[Child]:
    """Draw the hairlines of a panel, their numbers and the panel's name over them."""
    shapes: list[Child] = [text(0, top - 10, fitted(title, across.end, STRONG), "strong")]
    for value, label in ticks:
        shapes.append(rule(across.start, up(value), across.end, up(value), "grid"))
        shapes.append(text(across.start - 8, up(value) + 4, label, "quiet", "end"))
    return shapes


def _line(values: list[float | None], across: Scale, up: Scale, class_: str) -> list[Child]:
    """Draw values over epochs; a single one, which makes no line, is a point."""
    shapes: list[Child] = []
    found: list[tuple[float, float]] = []
    for at, value in enumerate([*values, None], 1):
        if value is not None and (not up.log or value > 0):
            found.append((across(at), up(value)))
            continue
        if len(found) > 1:
            shapes.append(curve(found, class_))
        elif found:
            shapes.append(dot(*found[0], 3, f"{class_}-dot"))
        found = []
    return shapes
