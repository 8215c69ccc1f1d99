"""What became of each group of units? Over time, and in the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from edgel0.report.canvas import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    PALE,
    RED,
    WIDTH,
    Array,
    Rows,
    known,
    labels,
    last,
    legend,
    line,
    over_epochs,
    phases,
    quantity,
    series,
    sheet,
)
from edgel0.report.lettering import apart, clean, inches

LINES = 8  # more groups than this are a heat map
ROWS = 40  # more groups than this get two columns of thinner bars
TALLEST = 13.0  # inches of a column of bars; many groups share it, and some of their names are left out
CLOSED = "#DFE5E9"
OPEN = LinearSegmentedColormap.from_list("open", ["#F7F3E8", "#BFD3E0", "#5B9BC4", "#0B5E96", "#08304F"])


def units(result: dict[str, Any]) -> Figure | None:
    """Return the open units of each group over time, as shares of its size: lines, or a heat map of many groups."""
    history: Rows = result.get("history") or []
    total = series([_share(row.get("open_units"), row.get("units")) for row in history])
    kept: dict[str, Any] = (result.get("mask") or {}).get("groups") or {}
    seen = dict.fromkeys(n for row in history for n, count in (row.get("groups") or {}).items() if count is not None)
    names = [name for name in kept if name in seen] + [name for name in seen if name not in kept]
    shares = {name: _shares(history, name, kept) for name in names}
    if not shares and not known(total):
        return None
    draw = _unit_lines if len(shares) <= LINES else _unit_map
    return draw(str(result.get("name", "")), history, shares, total)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _shares(history: Rows, name: str, kept: dict[str, Any]) -> Array:
    opened = series([(row.get("groups") or {}).get(name) for row in history])
    size = kept[name][1] if name in kept else np.nanmax(opened)
    return opened / max(float(size), 1.0)


def _unit_lines(name: str, history: Rows, shares: dict[str, Array], total: Array) -> Figure:
    ends = [f"{text} {last(values)[1]:.0%}" for text, values in zip(apart([*shares], 24), shares.values(), strict=True)]
    right = max([inches(text, 8) for text in ends] + [0.75]) + 0.4
    figure, [[axes]] = sheet(name, "open units", [3.0], left=0.75, right=right)
    over_epochs(axes, history, named=True)
    named = []
    if known(total) and len(shares) != 1:
        line(axes, total, INK, linestyle=(0, (3, 1.5)), linewidth=1.2, label="all units")
        named.append((f"all units {last(total)[1]:.0%}", *last(total), INK))
    for end, (group, values), color in zip(ends, shares.items(), COLOURS, strict=False):
        line(axes, values, color, label=f"group {clean(group)}")
        named.append((end, *last(values), color))
    quantity(axes, "open units, share of the group" if shares else "open units, share of all", percent=True)
    axes.set_ylim(0, 1.04)
    labels(axes, named)
    return figure


def _unit_map(name: str, history: Rows, shares: dict[str, Array], total: Array) -> Figure:
    count, columns = len(shares), 24
    row = min(0.19, max(0.058, 5.5 / count)) if count <= 170 else 10 / count
    every = max(1, math.ceil(0.125 / row))
    named = {n: text for n, text in enumerate(apart([*shares], columns)) if n % every == 0}
    left = max(0.75, 0.3 + max(inches(text, 7) for text in named.values()))
    figure, rows = sheet(name, "open units", [0.75] * known(total) + [row * count], left=left, right=1.0)
    if known(total):
        [axes] = rows[0]
        over_epochs(axes, history, numbered=False)
        line(axes, total, INK, label="all units", linewidth=1.4)
        quantity(axes, "all units", percent=True)
        axes.set_yticks([0, 0.5, 1])
        axes.set_ylim(0, 1.06)
        labels(axes, [(f"{last(total)[1]:.0%}", *last(total), INK)])
    [axes] = rows[-1]
    over_epochs(axes, history)
    over_epochs(rows[0][0], history, named=True, numbered=len(rows) == 1)
    image = axes.imshow(
        np.ma.masked_invalid(np.stack([*shares.values()])),
        cmap=OPEN,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="none",
        extent=(0.5, len(history) + 0.5, count - 0.5, -0.5),
        zorder=1,
    )
    axes.grid(visible=False)
    for _, first, _ in phases(history)[1:]:
        axes.axvline(first - 0.5, color="white", linewidth=1, zorder=2)
    axes.set_yticks([*named], [*named.values()], size=7)
    axes.tick_params(axis="y", length=2)
    box, tall = axes.get_position(), figure.get_figheight()
    high = min(2.0, row * count)
    bar = figure.add_axes((box.x1 + 0.15 / WIDTH, box.y1 - high / tall, 0.12 / WIDTH, high / tall))
    figure.colorbar(image, cax=bar, ticks=[0, 0.5, 1], format=FuncFormatter(lambda value, _: f"{value:.0%}"))
    bar.set_ylabel("open units of a group", size=7.5)
    bar.tick_params(labelsize=7.5, length=2)
    bar.spines[:].set_visible(False)
    return figure


# Channels.


def channels(result: dict[str, Any]) -> Figure | None:
    """Return what is kept of each group, in network order: its dense size as an outline, what stays filled."""
    groups: dict[str, Any] = (result.get("mask") or {}).get("groups") or {}
    if not groups:
        return None
    halves, rows = (2 if len(groups) > ROWS else 1), [*groups.items()]
    per = math.ceil(len(rows) / halves)
    row = min(0.24 if halves == 1 else 0.155, TALLEST / per)
    every = max(1, math.ceil(0.125 / row))
    size = 8.0 if row > 0.2 else 7.0
    names = apart([*groups], 30 if halves == 1 else 20)
    left = 0.25 + max(inches(name, size) for name in names)
    ends = max(inches(f"{kept:,} of {full:,}", size) for kept, full in groups.values()) + 0.15
    figure, [found] = sheet(
        *(str(result.get("name", "")), "what is kept", [max(per * row, 0.4)], left, ends + 0.1),
        columns=halves,
        between=left + ends,
        head=0.42,
        keyed=True,
    )
    most = max(1, *(full for _, full in groups.values()))
    for n, axes in enumerate(found):
        part, shown = rows[n * per : (n + 1) * per], names[n * per : (n + 1) * per]
        _bars(axes, part, shown, most, per, every, size)
    legend(figure, [_patch("kept", BLUE), _patch("removed", "white" if every == 1 else CLOSED)])
    return figure


def _patch(label: str, color: str) -> Line2D:
    return Line2D([], [], marker="s", markersize=6.5, linestyle="", color=color, markeredgecolor=GREY, label=label)


def _bars(
    axes: Axes, rows: list[tuple[str, Any]], names: list[str], most: float, per: int, every: int, size: float
) -> None:
    """Draw a column of bars, the first group on top."""
    at = np.arange(len(rows))
    thick = 0.72 if every == 1 else 1.0
    edge: dict[str, Any] = {"edgecolor": GREY, "linewidth": 0.7} if every == 1 else {"linewidth": 0}
    axes.barh(at, [full for _, (_, full) in rows], thick, color="white" if every == 1 else CLOSED, **edge, label="size")
    axes.barh(at, [kept for _, (kept, _) in rows], thick, color=BLUE, linewidth=0, label="kept")
    for n, (_, (kept, full)) in enumerate(rows):
        if n % every == 0:
            axes.annotate(
                *(f"{kept:,} of {full:,}", (full if every == 1 else most, n)),
                xytext=(3, 0),
                textcoords="offset points",
                va="center_baseline",
                size=size,
                color=INK if kept else RED,
                annotation_clip=False,
            )
    axes.set_xlim(0, most)
    axes.set_ylim(per - 0.4, -0.6)
    axes.grid(visible=False)
    axes.set_yticks(at[::every], names[::every], size=size)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_color(PALE)
    axes.set_xlabel("units (channels, neurons, heads)")
    axes.locator_params(axis="x", nbins=4, integer=True)
