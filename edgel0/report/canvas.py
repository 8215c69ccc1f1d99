"""What do all pictures of a run share? Their style, room for labels, and a panel over epochs with its phases."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from edgel0.report.lettering import clean, inches, short, spread

Rows = Sequence[dict[str, Any]]
Array = NDArray[np.float64]

WIDTH = 8.0  # inches; a README shows about 800 pixels
HEAD, FOOT, GAP = 0.62, 0.52, 0.2  # inches over, under and between panels
FEW = 12  # epochs get points, for one of them makes no line
NUMBERS = (1, 2, 5, 10)  # steps of an axis
INK, GREY, PALE = "#222222", "#6B6B6B", "#B5B5B5"
# Okabe and Ito's colours, which stay apart for colour-blind eyes; yellow is left out (pale on white), wine is Tol's.
BLUE, RED, GREEN, ORANGE, PURPLE, SKY, WINE, TAUPE = COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#882255", "#7F7362"),
)
# Of each phase: what stands behind its epochs, and its name.
PHASES = {"dense": ("#F0F0F0", "#5F5F5F"), "gating": ("#E4EEF7", "#1B5A87"), "settle": ("#E5F3EB", "#17714E")}
RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": PALE,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8.5,
    "grid.color": "#FFFFFF",
    "grid.linewidth": 0.9,
    "lines.linewidth": 1.7,
    "lines.markersize": 3.5,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: searchable, and in any script that the reader's fonts have
    "svg.hashsalt": "edgel0",
    "text.color": INK,
    "text.parse_math": False,  # names may hold $
    "xtick.color": PALE,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": PALE,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in our style whatever the user's matplotlibrc says, and without a word about fonts."""
    logger = logging.getLogger("matplotlib")  # a first import tells that it lists the fonts
    level = logger.level
    with warnings.catch_warnings(), matplotlib.style.context(["default", RC]):
        # Only the width is guessed then; in an SVG the reader's own font shows the letter.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support .* natively", UserWarning)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def sheet(
    name: str,
    subject: str,
    heights: Sequence[float],
    left: float,
    right: float,
    columns: int = 1,
    between: float = 0.0,
    head: float = HEAD,
    keyed: bool = False,
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a title and rows of panels, each row of equal columns; all measures in inches.

    The title leaves room for a key to the kinds of lines if the figure is to be ``keyed``.
    """
    tall = head + sum(heights) + GAP * (len(heights) - 1) + FOOT
    figure = Figure(figsize=(WIDTH, tall))
    figure.text(
        0.1 / WIDTH,
        1 - 0.1 / tall,
        _title(name, subject, 4.5 if keyed else 7.8),
        size=10.5,
        weight="bold",
        va="top",
        ha="left",
    )
    wide, top, rows = (WIDTH - left - right - between * (columns - 1)) / columns, tall - head, []
    for height in heights:
        box = [(left + i * (wide + between), top - height) for i in range(columns)]
        rows.append([figure.add_axes((x / WIDTH, y / tall, wide / WIDTH, height / tall)) for x, y in box])
        top -= height + GAP
    return figure, rows


def _title(name: str, subject: str, room: float) -> str:
    begun = [short(name[::-1], columns)[::-1] for columns in range(60, 5, -3)]
    texts = [f"{begin} · {subject}" if begin else subject for begin in begun]
    return next((text for text in texts if inches(text, 10.5, "bold") <= room), texts[-1])


def over_epochs(axes: Axes, history: Rows, named: bool = False, numbered: bool = True) -> None:
    """Shade a panel's phases and set its axis of epochs, counted through all phases."""
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=NUMBERS, integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", labelbottom=numbered)
    if numbered:
        axes.set_xlabel("epoch")
    spans = phases(history)
    for phase, first, end in spans:
        axes.axvspan(first - 0.5, end + 0.5, color=_tint(phase)[0], linewidth=0, zorder=-1)
    if named:
        wide = axes.get_position().width * WIDTH
        middles = [(first + end - 1) / 2 / len(history) * wide for _, first, end in spans]
        sizes = [inches(clean(phase), 8) + 0.12 for phase, _, _ in spans]
        for (phase, _, _), at in zip(spans, spread(middles, sizes, -0.05, wide + 0.3), strict=True):
            axes.annotate(
                *(clean(phase), (at / wide, 1)),
                xycoords="axes fraction",
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                size=8,
                color=_tint(phase)[1],
            )


def _tint(phase: str) -> tuple[str, str]:
    return PHASES.get(phase, PHASES["dense"])


def phases(history: Rows) -> list[tuple[str, int, int]]:
    """Return (phase, first epoch, last epoch) in order, counted from 1."""
    spans: list[tuple[str, int, int]] = []
    for epoch, row in enumerate(history, 1):
        if spans and spans[-1][0] == row["phase"]:
            spans[-1] = (row["phase"], spans[-1][1], epoch)
        else:
            spans.append((row["phase"], epoch, epoch))
    return spans


def series(values: Sequence[float | None]) -> Array:
    """Return one number for each epoch, nan where there is none."""
    return np.array([math.nan if value is None else float(value) for value in values])


def known(values: Array) -> bool:
    """Tell whether any epoch has a value."""
    return bool(np.isfinite(values).any())


def line(axes: Axes, values: Array, color: str, **kwargs: Any) -> None:
    """Draw values over epochs."""
    marker = "o" if np.isfinite(values).sum() <= FEW else None
    axes.plot(
        np.arange(1, len(values) + 1),
        values,
        **{"color": color, "marker": marker, "clip_on": False, "zorder": 3} | kwargs,
    )


def last(values: Array) -> tuple[int, float]:
    """Return the last epoch that has a value, counted from 1, and the value."""
    at = int(np.flatnonzero(np.isfinite(values))[-1])
    return at + 1, float(values[at])


def labels(axes: Axes, found: Sequence[tuple[str, float, float, str]], size: float = 8) -> None:
    """Write (text, x, y, colour) right of where lines end, each at the height of what it tells of and tied to it."""
    if not found:
        return
    figure = axes.get_figure()
    tall = axes.get_position().height * figure.get_figheight() * 72  # type: ignore[union-attr]
    low, high = (float(axes.transScale.transform((1, y))[1]) for y in axes.get_ylim())
    wanted = [(float(axes.transScale.transform((1, y))[1]) - low) / (high - low) * tall for _, _, y, _ in found]
    places = spread(wanted, [size * 1.35] * len(found), -8, tall + 8)
    left, right = axes.get_xlim()
    beside = (max(x for _, x, _, _ in found) - left) / (right - left) + 0.035
    for (text, x, y, color), at in zip(found, places, strict=True):
        axes.annotate(
            *(text, (x, y)),
            xytext=(beside, at / tall),
            textcoords="axes fraction",
            va="center",
            size=size,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.9,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def quantity(axes: Axes, title: str, percent: bool = False, ticks: int = 5) -> None:
    """Title the axis of values and write its numbers short."""
    axes.set_ylabel(title)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=ticks, steps=(1, 2, 2.5, 5, 10) if percent else NUMBERS))
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.6g}%")
    else:
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))


def legend(figure: Figure, handles: list[Line2D]) -> None:
    """Say above the panels, right, what each kind of line is."""
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1, 1 - 0.04 / figure.get_figheight()),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        handlelength=1.6,
        columnspacing=1.2,
        handletextpad=0.5,
    )
