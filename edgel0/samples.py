"""Are these data and this model made for each other? Samples and labels, checked before any training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgel0.capturing import evaluating
from edgel0.errors import TrainingError
from edgel0.importing import theirs


@dataclass(frozen=True)
class Data:
    """Training and test samples: ``x`` of shape (samples, ...), ``y`` class numbers of shape (samples,)."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def digest(self) -> str:
        """SHA-256 over all four, shortened to 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for tensor in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()[:16]


def as_data(loaded: Any) -> Data:
    """Check what a recipe's ``load`` returned: (x_train, y_train, x_test, y_test), arrays or tensors.

    Raises:
        TrainingError: there are not four of them, they do not belong together, or they hold what nobody can learn from.
    """
    if not isinstance(loaded, tuple | list) or len(loaded) != 4:
        found = f"{len(loaded)} things" if isinstance(loaded, tuple | list) else type(loaded).__name__
        raise TrainingError(
            f"the recipe's load function returned {found}; four arrays are needed: x_train, y_train, x_test, y_test."
        )
    names = ("x_train", "y_train", "x_test", "y_test")
    x_train, y_train, x_test, y_test = (_tensor(name, part) for name, part in zip(names, loaded, strict=True))
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y) or not len(x):
            raise TrainingError(
                f"there are {len(x)} {name} samples and {len(y)} labels; equal numbers above 0 are needed."
            )
        if y.dim() != 1 or y.is_floating_point():
            raise TrainingError(
                f"the {name} labels are {_kind(y)} of shape {tuple(y.shape)}; one whole class number per sample is "
                "needed, as in y.argmax(1) of one-hot labels, or y.astype('int64')."
            )
    if x_train.shape[1:] != x_test.shape[1:] or x_train.is_floating_point() != x_test.is_floating_point():
        raise TrainingError(
            f"train samples are {_kind(x_train)} of shape {tuple(x_train.shape[1:])} and test samples {_kind(x_test)} "
            f"of shape {tuple(x_test.shape[1:])}; prepare both in the same way."
        )
    kind = torch.float32 if x_train.is_floating_point() else torch.int64
    data = Data(x_train.to(kind), y_train.long(), x_test.to(kind), y_test.long())
    for name, x in (("train", data.x_train), ("test", data.x_test)):
        wrong = int((~torch.isfinite(x).flatten(1).all(1) if x.dim() > 1 else ~torch.isfinite(x)).sum())
        if wrong:
            raise TrainingError(
                f"{wrong:,} of {len(x):,} {name} samples hold values that are not finite float32 numbers; clean "
                "them, or leave them out."
            )
    return data


def _tensor(name: str, part: Any) -> Tensor:
    array = part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise TrainingError(
            f"{name} is {type(part).__name__} of type {array.dtype} and shape {array.shape}; an array of numbers, one "
            "row per sample, is needed."
        )
    # torch takes neither negative strides nor foreign byte order, and warns of read-only memory
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ("C", "W")))


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_fit(model: nn.Module, data: Data, folder: Path) -> None:
    """Run the model on two samples and compare labels with its outputs, before any training.

    Raises:
        RecipeError: the model does not run on them.
        TrainingError: it does not classify them, has nothing to learn with, or has fewer outputs than classes.
    """
    some = data.x_train[:2]
    name = type(model).__name__
    what = f"the forward of {name} on {_kind(some)} samples of shape {tuple(some.shape)}"
    with (
        evaluating(model),
        torch.no_grad(),
        theirs(what, folder, "The data's and the model's shapes and types must fit."),
    ):
        out = model(some)
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != len(some) or not out.is_floating_point():
        found = f"{_kind(out)} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise TrainingError(
            f"{what} gives {found}; one float tensor of shape (samples, classes) is needed, for any number of samples."
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise TrainingError(f"{name} has no parameter that requires a gradient; there is nothing to train.")
    for part, y in (("train", data.y_train), ("test", data.y_test)):
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= out.shape[1]:
            raise TrainingError(
                f"the {part} labels run from {low} to {high}, and the model has {out.shape[1]} outputs, for labels 0 to"
                f" {out.shape[1] - 1}. Give the model more outputs, or renumber the labels."
            )


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 500) -> float:
    """Share of right top-1 answers in eval mode."""
    with evaluating(model), torch.no_grad():
        parts = zip(torch.split(x, batch), torch.split(y, batch), strict=True)
        right = sum(int((model(part).argmax(1) == labels).sum()) for part, labels in parts)
    return right / len(y)
