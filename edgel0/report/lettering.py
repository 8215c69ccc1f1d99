"""How do names and numbers fit into a picture? Shortened, measured, and moved apart."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np


def amount(value: float, digits: int = 3) -> str:
    """Write ``177880`` as ``178 k``."""
    from matplotlib.ticker import EngFormatter  # here and below: names are shortened where there is no Matplotlib, too

    text = EngFormatter(sep=" ")(float(f"{value:.{digits}g}"))
    return text.strip()


def clean(name: str) -> str:
    """Replace what no file can show (control characters, halves of surrogate pairs)."""
    return "".join(letter if letter.isprintable() else "�" for letter in name)


def short(name: str, columns: int) -> str:
    """Return the end of a name, which says most of a module's path, in so many columns of a terminal."""
    name = clean(name)
    if sum(map(_columns, name)) <= columns:
        return name
    return f"…{_begin(name[::-1], columns - 1)[::-1].lstrip('.')}"


def apart(names: Sequence[str], columns: int) -> list[str]:
    """Leave out beginnings of names, what they share, middles or ends: whichever keeps most of them apart."""
    names = [clean(name) for name in names]
    parts = [name.split(".") for name in names]
    before, after = _shared(parts), _shared([part[::-1] for part in parts])
    cores = [".".join(part[max(before - 1, 0) : len(part) - after]) for part in parts]
    cores = [f"{'…' * (before > 1)}{core}{'…' * (after > 0)}" for core in cores]
    half = columns // 2
    middles = [
        name if short(name, columns) == name else f"{_begin(name, half)}…{_begin(name[::-1], columns - half - 1)[::-1]}"
        for name in names
    ]
    ends = [name if short(name, columns) == name else f"{_begin(name, columns - 1)}…" for name in names]
    options = [[short(name, columns) for name in which] for which in (names, cores, middles, ends)]
    return max(options, key=lambda option: len(set(option)))


def _begin(name: str, columns: int) -> str:
    used = np.cumsum([_columns(letter) for letter in name])
    return name[: int(np.searchsorted(used, columns, side="right"))]


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """Count the first parts that all names have in common; the last part of each is its own."""
    most = min(map(len, parts), default=0) - 1
    return next((n for n in range(most) if len({part[n] for part in parts}) > 1), max(most, 0)) * (len(parts) > 1)


def inches(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of a text of ``size`` points; signs that our font lacks are as wide as they are elsewhere."""
    from matplotlib.font_manager import FontProperties

    text = "".join("00" if _columns(letter) == 2 else letter for letter in text)
    font = FontProperties(size=size, weight=weight)
    return float(_renderer().get_text_width_height_descent(text, font, False)[0]) / 72


@functools.cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, 72)  # type: ignore[no-untyped-call]


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Move centres as little as it takes that things of these sizes lie side by side between ``low`` and ``high``."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))

    def pushed(centres: list[float], towards: int) -> list[float]:
        found, edge = list(centres), low if towards > 0 else high
        for i in order[::towards]:
            found[i] = max(found[i], edge + sizes[i] / 2) if towards > 0 else min(found[i], edge - sizes[i] / 2)
            edge = found[i] + towards * sizes[i] / 2
        return found

    up, down = pushed(pushed(list(wanted), 1), -1), pushed(pushed(list(wanted), -1), 1)
    return [(a + b) / 2 for a, b in zip(up, down, strict=True)]
