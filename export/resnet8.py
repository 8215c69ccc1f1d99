"""MLPerf Tiny's ResNet-8 at any widths, for the recipe cifar10-resnet8.toml and the benchmarks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# Channels of the three residual trunks, each followed by those inside its block.
WIDTHS = (16, 16, 32, 32, 64, 64)


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
    """A convolution and three residual blocks: (N, 3, 32, 32) -> (N, classes); ``widths`` in the order of WIDTHS."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        trunks, inners = widths[::2], widths[1::2]
        self.stem, self.norm = nn.Conv2d(3, trunks[0], 3, 1, 1, bias=False), nn.BatchNorm2d(trunks[0])
        self.blocks = nn.Sequential(*map(Block, (trunks[0], *trunks[:2]), inners, trunks, (1, 2, 2)))
        self.fc = nn.Linear(trunks[2], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def build() -> nn.Module:
    """Make the network with fresh weights."""
    return ResNet8()
