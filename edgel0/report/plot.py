"""What are the report's figures drawn with? SVG shapes in the page's own colours, axes, and texts that fit.

Each figure is a function of a width in CSS pixels and is drawn twice, for a wide and a narrow screen, so that its texts
have the same size on both. Shapes bear classes and ``report.css`` gives them colours, in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgel0.report.lettering import clean, spread
from edgel0.report.markup import Child, Markup, tag

WIDE, NARROW = 760.0, 350.0  # CSS pixels of the two drawings
SIZE = 12.5  # CSS pixels of a letter
STRONG = SIZE * 1.13  # of a bold one, which is as wide as one of this size
LINE = 17.0  # CSS pixels from one line of text to the next

Draw = Callable[[float], tuple[float, list[Child]]]


def figure(ident: str, title: str, told: str, draw: Draw) -> Markup:
    """Draw a figure for both widths; ``title`` names it and ``told`` says in words what it shows."""
    return tag("figure", *(_drawing(ident, title, told, draw, width) for width in (WIDE, NARROW)))


def _drawing(ident: str, title: str, told: str, draw: Draw, width: float) -> Markup:
    kind = "wide" if width == WIDE else "narrow"
    height, shapes = draw(width)
    names = f"{ident}-{kind}-title", f"{ident}-{kind}-told"
    words = tag("title", title, id=names[0]), tag("desc", told, id=names[1])
    return tag(
        "svg",
        *words,
        *shapes,
        class_=kind,
        role="img",
        aria_labelledby=" ".join(names),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
    )


# Shapes.


def text(x: float, y: float, words: str, class_: str = "", anchor: str | None = None) -> Markup:
    """Write words with their baseline at ``y``."""
    return tag("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def rect(x: float, y: float, width: float, height: float, class_: str, rx: float | None = None) -> Markup:
    """Draw a box."""
    return tag("rect", x=x, y=y, width=max(width, 0.0), height=height, rx=rx, class_=class_)


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Draw a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def curve(points: Sequence[tuple[float, float]], class_: str, closed: bool = False) -> Markup:
    """Draw a line through points."""
    d = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{d}{'Z' * closed}", class_=class_)


def dot(x: float, y: float, r: float, class_: str) -> Markup:
    """Draw a round mark."""
    return tag("circle", cx=x, cy=y, r=r, class_=class_)


def square(x: float, y: float, r: float, class_: str) -> Markup:
    """Draw a square mark."""
    return rect(x - r, y - r, 2 * r, 2 * r, class_)


# Texts.


def width_of(words: str, size: float = SIZE) -> float:
    """Return about the width of words in a wide sans-serif font; no font of the reader's is known here."""
    return size * sum(_width(letter) for letter in words)


def _width(letter: str) -> float:
    if letter in "iljtfrI.,:;|!'()[] ":
        return 0.39
    if letter.isdigit() or letter in "·…":
        return 0.64
    if not letter.isascii():
        return 1.05
    return 0.98 if letter in "mwMW@%" else 0.76 if letter.isupper() else 0.63


def fitted(words: str, room: float, size: float = SIZE) -> str:
    """Return the end of a name that fits into so many pixels: the end says most of a module's path."""
    words = clean(words)
    if width_of(words, size) <= room:
        return words
    begin = next((n for n in range(len(words)) if width_of("…" + words[n:], size) <= room), len(words))
    return "…" + words[begin:]


def beside(x: float, found: Sequence[tuple[float, str, str]], low: float, high: float) -> list[Markup]:
    """Write (y, words, class) at the ends of lines, moved apart as little as it takes."""
    places = spread([y for y, _, _ in found], [LINE - 2] * len(found), low, high)
    return [text(x, at + 4, words, class_) for at, (_, words, class_) in zip(places, found, strict=True)]


# Axes.


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` to pixels from ``start`` to ``end``, evenly or by their logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low * 1e-3))
        else:
            low, high = self.low, self.high
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values, no more than ``most``."""
        return _log_ticks(self.low, self.high, most) if self.log else _even_ticks(self.low, self.high, most)


def shares(values: Sequence[float]) -> list[tuple[float, str]]:
    """Return round values with their percents, with as many decimals as it takes to tell each exactly."""
    exact = (d for d in range(6) if all(abs(round(value, d + 2) - value) < 1e-9 for value in values))
    digits = next(exact, 6)
    return [(value, f"{value:.{digits}%}") for value in values]


def around(values: Sequence[float], start: float, end: float, room: float = 0.06) -> Scale:
    """Return a scale that holds all values with some room; logarithmic where they differ by more than 5 times."""
    low, high = min(values), max(values)
    if low > 0 and high > 5 * low:
        factor = (high / low) ** room
        return Scale(low / factor, high * factor, start, end, log=True)
    margin = (high - low) * room or abs(high) * 0.02 or 1.0
    return Scale(low - margin, high + margin, start, end)


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / max(most - 1, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for subs in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [s * 10.0**p for p in powers for s in subs if low <= s * 10.0**p <= high]
        if len(found) <= most:
            return found if len(found) > 1 else _even_ticks(low, high, 3)
    every = math.ceil(len(found) / most)
    return found[::every]
