"""How does training go on at the smaller size? The user's own module with closed units cut out of its tensors."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from edgel0.capturing import evaluating, unwrap
from edgel0.errors import SlimError, UsageError
from edgel0.gates import detach, has_gates, holders
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
    shapes: dict[nn.Module, dict[str, torch.Size]] = {}
    for name, cuts in masks.coupling.tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = twin.get_submodule(owner)
        old = getattr(module, leaf, None)
        if old is None:
            continue  # the forward writes this tensor out; if that matters, the comparison below says so
        new = cut(old.detach(), cuts, masks).clone()
        if not new.numel():
            raise SlimError(
                f"cannot shrink {owner or type(twin).__name__!r}: nothing would be left of its {leaf}. Use slim(), "
                "which removes it."
            )
        made = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        for holder, key in holders(twin, name) or [(module, leaf)]:
            setattr(holder, key, made)
            shapes.setdefault(holder, {})[key] = old.shape
    for module, traced in shapes.items():
        _resize_(module, traced)
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
    """Write what ``small = shrunk(model, masks)`` has learned since back into ``model``.

    Raises:
        UsageError: the model has gates, which would be multiplied to what is written.
    """
    model = unwrap(model)
    if has_gates(model):
        raise UsageError(f"this {type(model).__name__} has gates; write into masked(model, masks), or detach it first.")
    target = tensors(model, masks.coupling)
    source = dict(small.named_parameters(remove_duplicate=False)) | dict(small.named_buffers(remove_duplicate=False))
    cuts = {id(target[name]): labels for name, labels in masks.coupling.tensors.items() if name in target}
    with torch.no_grad():
        for name, full in target.items():
            if name not in source:
                continue
            places = [torch.arange(n) for n in full.shape]
            for labels in cuts.get(id(full), ()):
                if labels.axis is not None:
                    places[labels.axis] = torch.from_numpy(np.flatnonzero(masks.open[labels.units]))
            if full.dim():
                full[torch.meshgrid(*places, indexing="ij")] = source[name].to(full)
            else:
                full.copy_(source[name])


def _resize_(module: nn.Module, traced: dict[str, torch.Size]) -> None:
    """Bring the sizes that a module repeats in attributes up to date, where they repeat those of its old tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        axis_in, axis_out = (0, 1) if module.transposed else (1, 0)
        if module.groups > 1 and module.groups == module.in_channels:
            multiple = module.out_channels // module.groups
            module.groups = weight.shape[0] if module.transposed else weight.shape[0] // multiple
        module.in_channels = weight.shape[axis_in] * (1 if module.transposed else module.groups)
        module.out_channels = weight.shape[axis_out] * (module.groups if module.transposed else 1)
    if isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        module.num_groups = module.num_groups * weight.shape[0] // module.num_channels
    for attribute, (tensor, axis) in SIZES.items():
        shape = traced.get(tensor, ())
        if len(shape) > axis and getattr(module, attribute, None) == shape[axis]:
            setattr(module, attribute, getattr(module, tensor).shape[axis])


def _compare(reference: nn.Module, twin: nn.Module, masks: Masks) -> None:
    args, kwargs = masks.coupling.program.example_inputs
    with evaluating(reference), evaluating(twin), torch.no_grad():
        wanted = [t for t in torch.utils._pytree.tree_leaves(reference(*args, **kwargs)) if isinstance(t, Tensor)]
        try:
            got = [t for t in torch.utils._pytree.tree_leaves(twin(*args, **kwargs)) if isinstance(t, Tensor)]
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
            raise SlimError(
                f"cannot shrink {_where(twin, error)!r}: its forward does not run at the smaller size "
                f"({(str(error).splitlines() or [type(error).__name__])[0]}). A size is written out there or before; "
                "use slim(), or take sizes from tensors, as in reshape(x.shape[0], -1) or flatten(1)."
            ) from error
    for a, b in zip(wanted, got, strict=True):
        scale = float(a.abs().max()) or 1.0
        if a.shape != b.shape or not float((a.double() - b.double()).abs().max()) <= _tolerance(a) * scale:
            raise SlimError(
                f"cannot shrink {type(twin).__name__!r}: at the smaller size its forward gives another result than the "
                "masked model. It relies on a size that it writes out itself; use slim() instead."
            )


def _tolerance(output: Tensor) -> float:
    return max(1e-4, 8 * torch.finfo(output.dtype).eps) if output.is_floating_point() else 0.0


def _where(model: nn.Module, error: BaseException) -> str:
    """Name the innermost module of ``model`` in whose forward an error was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    found, frame = "", error.__traceback__
    while frame is not None:
        found = names.get(id(frame.tb_frame.f_locals.get("self")), found)
        frame = frame.tb_next
    return found or type(model).__name__
