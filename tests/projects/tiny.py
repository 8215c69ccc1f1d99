"""A network of 45,000 MACs and 400 noisy 8 x 8 images of four kinds, drawn with NumPy."""

import numpy as np
import torch
from torch import nn


class Tiny(nn.Module):
    """Two convolutions (the first with batch norm), dropout, two linear layers: (N, 1, 8, 8) -> (N, 4)."""

    def __init__(self, fixed=False):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3)
        self.fc1, self.fc2 = nn.Linear(108, 24), nn.Linear(24, 4)
        self.dropout, self.fixed = nn.Dropout(0.1), fixed

    def forward(self, x):
        """Return class scores; ``fixed`` writes a size out in the reshape, as careless code does."""
        x = torch.max_pool2d(self.norm(self.conv1(x)).relu(), 2, 2)
        x = torch.max_pool2d(self.conv2(torch.nn.functional.pad(x, (2, 2, 2, 2))).relu(), 2, 2)
        x = x.reshape(-1, 108) if self.fixed else x.flatten(1)
        return self.fc2(self.dropout(self.fc1(x).relu()))


def build():
    """Make the network with fresh weights."""
    return Tiny()


def build_fixed():
    """Make one whose forward cannot run at a smaller size."""
    return Tiny(fixed=True)


def load(path=None):
    """Return 400 training and 80 test samples, or those of a file."""
    if path is not None:
        with np.load(path) as file:
            return tuple(file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    rng = np.random.default_rng(7)
    kinds = rng.standard_normal((4, 1, 8, 8))
    y = np.arange(480) % 4
    x = (kinds[y] + 0.9 * rng.standard_normal((480, 1, 8, 8))).astype(np.float32)
    return x[:400], y[:400], x[400:], y[400:]
