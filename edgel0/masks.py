"""What does a mask do to a model, without removing anything? Closed units are zeroed where they are read."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgel0.capturing import unwrap
from edgel0.errors import UsageError
from edgel0.types import Masks


def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a deep copy of ``model`` whose closed units are multiplied by zero at every reader.

    The copy has the shapes of the model; it is the reference that :func:`edgel0.slim` must equal.
    """
    twin = copy.deepcopy(unwrap(model))
    weights = tensors(twin, masks)
    with torch.no_grad():
        for reader in masks.coupling.readers:
            closed = np.flatnonzero(~masks.open[reader.units])
            weights[reader.parameter].index_fill_(reader.axis, torch.from_numpy(closed), 0)
    return twin


def tensors(model: nn.Module, masks: Masks) -> Mapping[str, torch.Tensor]:
    """Look up every parameter and buffer that the traced program names in ``model``, and compare their shapes.

    Raises:
        UsageError: the model is not the one that the masks were made for.
    """
    program = masks.coupling.program
    found: dict[str, torch.Tensor] = {}
    for name, traced in program.state_dict.items():
        value: object = model
        for part in name.split("."):
            value = getattr(value, part, None)
        if not isinstance(value, torch.Tensor) or value.shape != traced.shape:
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else "absent"
            raise UsageError(
                f"{name!r} is {shape} in this {type(model).__name__}, but {tuple(traced.shape)} in the model that the "
                "masks were traced on; trace this model again and make masks from that coupling."
            )
        found[name] = value
    return found
