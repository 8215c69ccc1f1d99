"""What ResNet-8 costs by hand at any widths, and the same network made narrower everywhere."""

from __future__ import annotations

from torch import nn

from export.resnet8 import WIDTHS

NAMES = ("trunk1", "inner1", "trunk2", "inner2", "trunk3", "inner3")
STRIDES, SIDES = (1, 2, 2), (32, 16, 8)


def widths_of(model: nn.Module) -> tuple[int, ...]:
    """Read the widths from the shapes of the weights, which others may have pruned."""
    first = [model.blocks[i].conv1.weight.shape[0] for i in range(3)]
    second = [model.blocks[i].conv2.weight.shape[0] for i in range(3)]
    return tuple(width for pair in zip(second, first, strict=True) for width in pair)


def macs_of(widths: tuple[int, ...], classes: int = 10) -> int:
    """Multiply-accumulates of :class:`ResNet8`, one image, by hand."""
    trunks, inners = widths[::2], widths[1::2]
    total = SIDES[0] ** 2 * 27 * trunks[0] + classes * trunks[2]
    for before, inner, after, stride, side in zip(
        (trunks[0], *trunks[:2]), inners, trunks, STRIDES, SIDES, strict=True
    ):
        total += side**2 * (9 * inner * (before + after) + (before * after if stride > 1 else 0))
    return total


def uniform(limit: float) -> tuple[int, ...]:
    """Return the widths, all scaled by one factor, that come nearest to ``limit`` MACs from below.

    Where the fractions are cut is free as well (``floor(width * factor + cut)``), so that rounding costs little.

    Raises:
        ValueError: one channel everywhere is too many.
    """
    factors, cuts = [i / 1024 for i in range(1025)], [i / 8 for i in range(8)]
    tried = {tuple(min(w, max(1, int(w * f + cut))) for w in WIDTHS) for f in factors for cut in cuts}
    fitting = [widths for widths in tried if macs_of(widths) <= limit]
    if not fitting:
        raise ValueError(f"no network of these widths has at most {limit:,.0f} MACs")
    return max(fitting, key=lambda widths: (macs_of(widths), widths))
