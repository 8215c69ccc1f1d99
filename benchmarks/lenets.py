"""LeNet-300-100 as the L0 paper prunes it: hidden neurons and the pixels that are read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class LeNet300(nn.Module):
    """784-300-100-10; reads the pixels listed in ``pixels``, all of them to begin with: (N, 1, 28, 28) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixels", torch.arange(784))
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        x = x.flatten(1).index_select(1, self.pixels)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def lenet_300_100() -> nn.Module:
    """Make the model with fresh weights."""
    return LeNet300()
