"""Where do the names of points go? Beside their points, over no other name and no other point, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgel0.report.plot import SIZE, STRONG, fitted, width_of

TALL = SIZE * 1.25  # CSS pixels that a name takes
AWAY = 10.0  # CSS pixels between a point and its name
FARTHEST = 5  # lines that a name may be away


@dataclass(frozen=True)
class Box:
    """A rectangle of the figure, in CSS pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Tell whether two boxes have more than an edge in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True)
class Placed:
    """A name with the left end of its baseline; ``far`` ones need a line to their point."""

    words: str
    x: float
    y: float
    far: bool


def place(
    points: Sequence[tuple[float, float, str, bool]], inside: Box, taken: Sequence[Box] = ()
) -> list[Placed | None]:
    """Place the name of each (x, y, name, prefers to be above); None where there is no room at all.

    What comes first is placed first.
    """
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y, _, _ in points]
    busy = [*taken]
    found: list[Placed | None] = []
    for n, (x, y, name, above) in enumerate(points):
        others = [*busy, *marks[:n], *marks[n + 1 :]]
        words = fitted(name, (inside.right - inside.left) * 0.62, STRONG)
        spot = _spot(x, y, width_of(words, STRONG), above, inside, others)
        if spot is None:
            found.append(None)
            continue
        box, far = spot
        busy.append(box)
        found.append(Placed(words, box.left, box.bottom - TALL * 0.22, far))
    return found


def _spot(x: float, y: float, wide: float, above: bool, inside: Box, others: Sequence[Box]) -> tuple[Box, bool] | None:
    """Try places from the nearest on; none may leave the figure or meet what is there."""
    for line in range(FARTHEST + 1):
        rise = AWAY * 0.5 + line * TALL
        up, down = y - rise - TALL, y + rise
        level = y - TALL / 2
        beside = [] if line else [(x + AWAY, level), (x - AWAY - wide, level)]
        over = [(x - wide - 4, up), (x + 4, up), (x - wide / 2, up - 3)]
        under = [(x + 4, down), (x - wide - 4, down), (x - wide / 2, down + 3)]
        for left, top in [*over, *beside, *under] if above else [*beside, *under, *over]:
            box = Box(left, top, left + wide, top + TALL)
            fits = box.left >= inside.left and box.right <= inside.right
            fits = fits and box.top >= inside.top and box.bottom <= inside.bottom
            if fits and not any(box.meets(other) for other in others):
                return box, line > 0
    return None
