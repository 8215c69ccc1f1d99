"""How are latencies spread? One ridge per file over a common axis, of all raw samples that were kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from edgel0.report.markup import Child
from edgel0.report.plot import LINE, STRONG, WIDE, Scale, around, curve, dot, fitted, rule, text, width_of
from edgel0.report.records import Timing
from edgel0.report.wording import brief

HIGH = 44.0  # CSS pixels of a ridge
BINS = 160  # over the whole axis


def ridges(rows: Sequence[tuple[str, Timing]], width: float) -> tuple[float, list[Child]]:
    """Draw (dense, slim or small, timing) rows: the spread, the span from p10 to p90, and p50 as a point."""
    shown = [_span(timing) for _, timing in rows]
    across = around([value for span in shown for value in span], 2, width - 2, room=0.04)
    step = HIGH + 38.0
    bottom = len(rows) * step
    shapes: list[Child] = []
    for tick in across.ticks(8 if width == WIDE else 5):
        label = brief(tick, "ms")
        half = width_of(label) / 2
        shapes.append(rule(across(tick), 4, across(tick), bottom, "grid"))
        shapes.append(text(min(max(across(tick), half), width - half), bottom + LINE, label, "quiet", "middle"))
    for at, (kind, timing) in enumerate(rows):
        shapes += _ridge(kind, timing, across, at * step, width)
    shapes.append(text(width, bottom + 2 * LINE, "time of one inference", "quiet", "end"))
    return bottom + 2 * LINE + 6, shapes


def _span(timing: Timing) -> tuple[float, float]:
    """Return what of a file's samples the axis shows: all but the slowest hundredth, which may be anywhere."""
    known = [value for value in (timing.p10, timing.p50, timing.p90) if value]
    if not timing.samples_ms:
        return min(known), max(known)
    low, high = np.percentile(timing.samples_ms, [0.5, 99])
    return min(float(low), *known), max(float(high), *known)


def _ridge(kind: str, timing: Timing, across: Scale, top: float, width: float) -> list[Child]:
    base, told = top + HIGH + 18, f"p50 {brief(timing.p50, 'ms')}"
    shapes: list[Child] = [text(0, top + LINE, fitted(timing.file, width, STRONG), "strong halo")]
    outline = _outline(timing, across, base)
    if outline:
        shapes.append(curve(outline, f"{kind} ridge", closed=True))
    shapes.append(rule(across.start, base, across.end, base, "base"))
    if timing.p10 and timing.p90:
        shapes.append(rule(across(timing.p10), base + 6, across(timing.p90), base + 6, f"{kind}-line span"))
    x, away = across(timing.p50), 18.0
    shapes.append(dot(x, base + 6, 3.6, kind))
    left = x + away + width_of(told) > width
    shapes.append(text(x - away if left else x + away, base - 8, told, f"{kind}-text halo", "end" if left else None))
    return shapes


def _outline(timing: Timing, across: Scale, base: float) -> list[tuple[float, float]]:
    """Count samples in steps of the axis; the highest step is as high as a ridge, whoever many samples there are."""
    if not timing.samples_ms:
        return []
    low, high = across.low, across.high
    edges = np.geomspace(low, high, BINS + 1) if across.log else np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(timing.samples_ms, edges)
    smooth = np.convolve(counts, (0.25, 0.5, 0.25), mode="same")
    peak = float(smooth.max())
    if not peak or not math.isfinite(peak):
        return []
    heights = smooth / peak * (HIGH - 4)
    middles = [(across(float(a)) + across(float(b))) / 2 for a, b in itertools.pairwise(edges)]
    found = np.flatnonzero(heights > 0.05)
    first, last = max(int(found[0]) - 1, 0), min(int(found[-1]) + 2, BINS)
    points = [(x, base - float(h)) for x, h in zip(middles[first:last], heights[first:last], strict=True)]
    return [(points[0][0], base), *points, (points[-1][0], base)]
