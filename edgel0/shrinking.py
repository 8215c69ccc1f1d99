"""How does training go on at the smaller size? The user's own module with closed units cut out of its tensors."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from edgel0.capturing import evaluating, unwrap
from edgel0.errors import SlimError
from edgel0.gates import detach, has_gates
from edgel0.masks import masked, tensors
from edgel0.types import Labels, Masks

# What a module repeats of its tensors' sizes: attribute -> (tensor, axis).
SIZES = {
    "num_features": ("running_mean", 0),
    "num_channels": ("weight", 0),
    "num_parameters": ("weight", 0),
    "in_features": ("weight", 1),
    "out_features": ("weight", 0),
    "embedding_dim": ("weight", 1),
}


def shrunk(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of ``model``, without gates, whose tensors are cut to the kept units; its forward is unchanged.

    The copy is checked against :func:`edgel0.masked` on the traced example.

    Raises:
        SlimError: a forward relies on a size that it writes out itself, or a tensor would be left empty; ``slim``
            rewrites sizes and removes branches, and can be used instead.
    """
    reference = masked(model, masks)
    twin = copy.deepcopy(unwrap(model))
    if has_gates(twin):
        detach(twin)
    for name, cuts in masks.coupling.tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = twin.get_submodule(owner)
        old = getattr(module, leaf)
        new = cut(old.detach(), cuts, masks)
        if not new.numel():
            raise SlimError(f"cannot shrink {owner!r}: nothing would be left of its {leaf}. Use slim(), which removes it.")
        if isinstance(old, nn.Parameter):
            setattr(module, leaf, nn.Parameter(new.clone(), requires_grad=old.requires_grad))
        else:
            setattr(module, leaf, new.clone())
    for module in twin.modules():
        _resize_(module)
    _compare(reference, twin, masks)
    return twin


def cut(tensor: Tensor, cuts: tuple[Labels, ...], masks: Masks) -> Tensor:
    """Select the kept indices along every labelled axis."""
    for labels in cuts:
        if labels.axis is not None:
            kept = torch.from_numpy(np.flatnonzero(masks.open[labels.units])).to(tensor.device)
            tensor = tensor.index_select(labels.axis, kept)
    return tensor


def restore_(model: nn.Module, small: nn.Module, masks: Masks) -> None:
    """Write what ``small = shrunk(model, masks)`` has learned since back into ``model`` (without gates)."""
    target, source = tensors(model, masks.coupling), dict(small.named_parameters()) | dict(small.named_buffers())
    with torch.no_grad():
        for name, full in target.items():
            if name not in source:
                continue
            places = [torch.arange(n) for n in full.shape]
            for labels in masks.coupling.tensors.get(name, ()):
                if labels.axis is not None:
                    places[labels.axis] = torch.from_numpy(np.flatnonzero(masks.open[labels.units]))
            if full.dim():
                full[torch.meshgrid(*places, indexing="ij")] = source[name].to(full.dtype)
            else:
                full.copy_(source[name])


def _resize_(module: nn.Module) -> None:
    """Bring the sizes that a module repeats in attributes up to date with its tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        axis_in, axis_out = (0, 1) if module.transposed else (1, 0)
        if module.groups > 1 and module.groups == module.in_channels:
            multiple = module.out_channels // module.groups
            module.groups = weight.shape[0] if module.transposed else weight.shape[0] // multiple
        module.in_channels = weight.shape[axis_in] * (1 if module.transposed else module.groups)
        module.out_channels = weight.shape[axis_out] * (module.groups if module.transposed else 1)
    for attribute, (tensor, axis) in SIZES.items():
        value = getattr(module, tensor, None)
        if isinstance(getattr(module, attribute, None), int) and isinstance(value, Tensor) and value.dim() > axis:
            setattr(module, attribute, value.shape[axis])


def _compare(reference: nn.Module, twin: nn.Module, masks: Masks) -> None:
    args, kwargs = masks.coupling.program.example_inputs
    with evaluating(reference), evaluating(twin), torch.no_grad():
        wanted = [t for t in torch.utils._pytree.tree_leaves(reference(*args, **kwargs)) if isinstance(t, Tensor)]
        try:
            got = [t for t in torch.utils._pytree.tree_leaves(twin(*args, **kwargs)) if isinstance(t, Tensor)]
        except RuntimeError as error:
            raise SlimError(
                f"cannot shrink {type(twin).__name__}: its forward does not run at the smaller size "
                f"({str(error).splitlines()[0]}). It writes a size out itself; use slim(), or take sizes from tensors, "
                "as in reshape(x.shape[0], -1) or flatten(1)."
            ) from error
    for a, b in zip(wanted, got, strict=True):
        scale = float(a.abs().max()) or 1.0
        if a.shape != b.shape or float((a - b).abs().max()) > 1e-4 * scale:
            raise SlimError(
                f"cannot shrink {type(twin).__name__}: at the smaller size its forward gives another result than the "
                "masked model. It relies on a size that it writes out itself; use slim() instead."
            )
