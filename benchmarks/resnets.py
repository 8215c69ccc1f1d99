"""MLPerf Tiny's ResNet-8 at any widths, what it costs by hand, and the same network made narrower everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# Channels of the three residual trunks, each followed by those inside its block.
WIDTHS = (16, 16, 32, 32, 64, 64)
NAMES = ("trunk1", "inner1", "trunk2", "inner2", "trunk3", "inner3")
STRIDES, SIDES = (1, 2, 2), (32, 16, 8)


class Block(nn.Module):
    """Two convolutions beside a shortcut; of no inner channels a constant is left, as slimming leaves it."""

    def __init__(self, before: int, inner: int, after: int, stride: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(before, after, 1, stride) if stride > 1 else nn.Identity()
        if inner:
            self.conv1, self.norm1 = nn.Conv2d(before, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv2, self.norm2 = nn.Conv2d(inner, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        else:
            self.constant = nn.Parameter(torch.zeros(after, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the convolutions make of ``x`` to the shortcut."""
        if hasattr(self, "constant"):
            return F.relu(self.shortcut(x) + self.constant)
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))


class ResNet8(nn.Module):
    """A convolution and three residual blocks: (N, 3, 32, 32) -> (N, classes). ``widths`` are named by ``NAMES``."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        trunks, inners = widths[::2], widths[1::2]
        self.stem, self.norm = nn.Conv2d(3, trunks[0], 3, 1, 1, bias=False), nn.BatchNorm2d(trunks[0])
        self.blocks = nn.Sequential(*map(Block, (trunks[0], *trunks[:2]), inners, trunks, STRIDES))
        self.fc = nn.Linear(trunks[2], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def build() -> nn.Module:
    """Make the network with fresh weights."""
    return ResNet8()


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
