"""How did training go? Cost against its budget, and how decided the gates were."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from edgel0.report.canvas import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    RED,
    Array,
    Rows,
    known,
    labels,
    last,
    legend,
    line,
    over_epochs,
    quantity,
    series,
    sheet,
)
from edgel0.report.lettering import amount, clean, short

TITLES = {
    "macs": "MACs",
    "params": "parameters",
    "weight_bytes": "weights (bytes)",
    "activation_bytes": "peak activations (bytes)",
}
STEEP = 10  # a cost that falls by more is drawn on a logarithmic axis


def budget(result: dict[str, Any]) -> Figure | None:
    """Return expected cost, target, limit and the slim model's cost, one panel per limit; multipliers below."""
    history: Rows = result.get("history") or []
    keys = [*dict.fromkeys(key for row in history for key in row.get("cost") or {})]
    if not keys:
        return None
    multipliers = {key: _by_key(history, "multiplier", key) for key in keys}
    multipliers = {key: values for key, values in multipliers.items() if known(values)}
    height = 2.5 if len(keys) == 1 else 1.8 if len(keys) <= 4 else 1.4
    heights = [height] * len(keys) + [0.85] * bool(multipliers)
    figure, rows = sheet(
        str(result.get("name", "")), "cost against its budget", heights, left=0.85, right=1.45, keyed=True
    )
    for n, (key, [axes]) in enumerate(zip(keys, rows, strict=False)):
        over_epochs(axes, history, named=n == 0, numbered=n == len(heights) - 1)
        _cost(axes, key, history, (result.get("budget") or {}).get(key) or {})
    if multipliers:
        [axes] = rows[-1]
        over_epochs(axes, history)
        named = []
        for (key, values), color in zip(multipliers.items(), itertools.cycle(COLOURS[4:]), strict=False):
            line(axes, values, color, linewidth=1.2, label=f"multiplier {key}")
            named.append((short(_title(key).partition(" (")[0], 22), *last(values), color))
        quantity(axes, "multiplier λ", ticks=3)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        labels(axes, named if len(named) > 1 else [])
    handles = [
        Line2D([], [], color=BLUE, label="expected"),
        Line2D([], [], color=ORANGE, linestyle=(0, (3, 1.5)), label="target"),
        Line2D([], [], color=INK, linewidth=1, label="limit"),
        Line2D([], [], color=RED, marker="D", markersize=6, linestyle="", label="slim model"),
    ]
    legend(figure, handles)
    return figure


def _cost(axes: Axes, key: str, history: Rows, spent: dict[str, Any]) -> None:
    cost, target = _by_key(history, "cost", key), _by_key(history, "target", key)
    line(axes, cost, BLUE, label=f"cost {key}")
    if known(target):
        line(axes, target, ORANGE, label=f"target {key}", linestyle=(0, (3, 1.5)), linewidth=1.4, markersize=2)
    limit, slim = spent.get("limit"), spent.get("slim")
    seen = [*cost[np.isfinite(cost)], *target[np.isfinite(target)], *(v for v in (limit, slim) if v is not None)]
    quantity(axes, short(_title(key), 30))
    if not seen:
        return
    if min(seen) > 0 and max(seen) > STEEP * min(seen):
        axes.set_yscale("log")
        axes.set_ylim(min(seen) * 0.75, max(seen) * 1.25)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(seen) < 500 * min(seen) else (1,), numticks=9))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    else:
        axes.set_ylim(0, max(seen) * 1.08 or 1)
    named, end = [], len(history) + 0.5
    if limit is not None:
        axes.axhline(limit, color=INK, linewidth=1, zorder=2, label=f"limit {key}")
        named.append((f"limit {amount(limit)}", end, float(limit), INK))
    if slim is not None:
        share = f" ({slim / limit:.1%})" if limit else ""
        style: dict[str, Any] = {"markersize": 6, "markeredgecolor": "white", "clip_on": False, "zorder": 5}
        axes.plot([end], [slim], color=RED, marker="D", label=f"slim {key}", **style)
        named.append((f"slim {amount(slim)}{share}", end, float(slim), RED))
    labels(axes, named)


def _title(key: str) -> str:
    metric, _, part = key.partition(" of ")
    title = TITLES.get(metric, metric)
    if not part:
        return clean(title)
    noun, bracket, unit = title.partition(" (")
    return clean(f"{noun} of {part}{bracket}{unit}")


def _by_key(history: Rows, what: str, key: str) -> Array:
    return series([(row.get(what) or {}).get(key) for row in history])


def polarisation(result: dict[str, Any]) -> Figure | None:
    """Return the share of undecided gates, with loss, accuracy and the time of a step where they are known."""
    history: Rows = result.get("history") or []
    undecided = series([row.get("polarisation") for row in history])
    if not known(undecided):
        return None
    beside: dict[str, tuple[str, Array, str]] = {
        "loss": ("training loss", series([row.get("loss") for row in history]), GREY),
        "accuracy": ("test accuracy", series([row.get("accuracy") for row in history]), COLOURS[2]),
        "step_ms": ("time of a step (ms)", series([row.get("step_ms") for row in history]), COLOURS[6]),
    }
    beside = {key: row for key, row in beside.items() if known(row[1])}
    heights = [2.2] + [0.95] * len(beside)
    figure, [[axes], *others] = sheet(str(result.get("name", "")), "undecided gates", heights, left=0.85, right=1.0)
    over_epochs(axes, history, named=True, numbered=not others)
    line(axes, undecided, BLUE, label="polarisation")
    quantity(axes, "gates with 0.05 < P(open) < 0.95", percent=True)
    axes.set_ylim(0, max(float(np.nanmax(undecided)) * 1.08, 0.01))
    labels(axes, [(f"{last(undecided)[1]:.1%}", *last(undecided), BLUE)])
    for n, ([axes], (key, (name, values, color))) in enumerate(zip(others, beside.items(), strict=True), 1):
        over_epochs(axes, history, numbered=n == len(others))
        line(axes, values, color, label=key, linewidth=1.4)
        quantity(axes, name.replace(" (", "\n(").replace(" ", "\n", 1), percent=key == "accuracy", ticks=3)
        if key == "step_ms":
            axes.set_ylim(0, float(np.nanmax(values)) * 1.1 or 1)
        end = last(values)
        axes.margins(y=0.12)
        labels(axes, [(f"{end[1]:.2%}" if key == "accuracy" else f"{end[1]:.3g}", *end, color)])
    figure.align_ylabels()
    return figure
