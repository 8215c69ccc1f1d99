"""How does training go on at the smaller size? The user's own module with closed units cut out of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from edgel0.attaching import detach
from edgel0.capturing import capture, duplicate, unwrap
from edgel0.cost import cost_of
from edgel0.errors import SlimError, UsageError
from edgel0.fitting import Settings, proven, set_, sizes
from edgel0.gates import Gates, ReaderGate, gates_of, has_gates
from edgel0.masks import example_of, masked, tensors
from edgel0.sharding import sharded
from edgel0.types import Coupling, Group, Labels, Masks, Origin, Reader

CLOSED = 0.05  # P(z != 0) at which a gate counts as closed while it still trains


def shrunk(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of ``model``, without gates, whose tensors are cut to the kept units; its forward is unchanged.

    The copy is checked against :func:`edgel0.masked` on the traced example.

    Raises:
        SlimError: a forward relies on a size that it writes out itself, or a tensor would be left empty; ``slim``
            rewrites sizes and removes branches, and can be used instead.
    """
    return _shrunk(unwrap(model), masks)[0]


def shrink_(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    masks: Masks | None = None,
    *,
    closed: float = CLOSED,
) -> Coupling:
    """Cut the closed units out of ``model`` in place, between two steps of training, and return what is left to close.

    Parameters, buffers, gates, gradients and the optimizers' state per element (momentum, Adam's moments) are cut
    alike; each tensor stays the object that it was, so optimizers, schedulers and whoever else holds it go on. Without
    ``masks`` the units go whose gates are closed: by the fixed mask, or with P(z != 0) <= ``closed``; a layer's last
    unit stays. The result is compared with :func:`edgel0.masked` on the traced example; a module's own whole numbers
    that repeat a size (``self.head_dim``) are followed where its forward needs them.

    Raises:
        SlimError: a forward relies on a size that it writes out itself, or a layer would be left empty.
        UsageError: masks of another trace, a state that cannot be cut, a model inside DistributedDataParallel or
            under ``fully_shard``.
            Whatever is raised, model and optimizer are as they were.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UsageError(
            f"shrink_ was given a {type(model).__name__}, which keeps buffers of the sizes it began with; shrink its "
            "module (model.module) and wrap that anew."
        )
    model = unwrap(model)
    if any(map(sharded, model.parameters())):
        raise UsageError(
            f"shrink_ was given a {type(model).__name__} whose parameters fully_shard has spread over ranks, in parts "
            "of the sizes that it began with; train at full size, and slim the model when its parameters are gathered."
        )
    masks = closed_units(gates_of(model), closed) if masks is None else masks
    if has_gates(model) and masks.coupling is not gates_of(model).coupling:
        raise UsageError(
            f"the masks were made for another coupling than the gates of this {type(model).__name__} have; make them "
            "from gates.coupling, which changes whenever the model shrinks."
        )
    if masks.open.all():
        return masks.coupling
    twin, settings = _shrunk(model, masks)
    args, kwargs = example_of(twin, masks.coupling)
    coupling = _restricted(masks, capture(twin, kwargs or args, masks.coupling.flow))
    cuts = {tensor: cut for _, tensor, cut in _places(model, masks)}
    changes = [
        (tensor, _cut(tensor.detach(), cut, masks), None if tensor.grad is None else _cut(tensor.grad, cut, masks))
        for tensor, cut in cuts.items()
    ]
    changes += [(index, renumbered, None) for index, renumbered in _renumbered(model, masks)]
    optimizers = () if optimizer is None else (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
    states = [state for one in optimizers for state in _states(one, cuts, masks)]
    for tensor, small, gradient in changes:  # from here on nothing can fail
        _replace_(tensor, small)
        tensor.grad = gradient
    for state, key, smaller in states:
        state[key] = smaller
    set_(model, settings)
    if has_gates(model):
        gates_of(model).follow(coupling, model)
    return coupling


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


# Tensors.


def _places(model: nn.Module, masks: Masks) -> Iterator[tuple[str, Tensor, tuple[Labels, ...]]]:
    """Yield every tensor of a model that units lie in, gates included, and how it is cut."""
    for name, cuts in masks.coupling.tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if parametrize.is_parametrized(module, leaf):  # by a gate: what the user parametrized bears other names
            yield name, module.parametrizations[leaf].original, cuts  # type: ignore[union-attr, index]
        elif isinstance(found := getattr(module, leaf, None), Tensor):  # else the forward writes it out itself
            yield name, found, cuts
    if has_gates(model):
        gates, each = gates_of(model), (Labels(0, np.arange(1, masks.coupling.units + 1)),)
        for name, tensor in (("log_alpha", gates.log_alpha), ("mask", gates.mask), ("words", gates.words)):
            yield name, tensor, each


def _cut(tensor: Tensor, cuts: tuple[Labels, ...], masks: Masks) -> Tensor:
    """Select the kept indices along every labelled axis."""
    for labels in cuts:
        if labels.axis is not None:
            kept = torch.from_numpy(np.flatnonzero(masks.open[labels.units])).to(tensor.device)
            tensor = tensor.index_select(labels.axis, kept)
    return tensor


def _replace_(tensor: Tensor, small: Tensor) -> None:
    """Give a tensor another size, also while a graph through it is alive, as that of the last loss is in most loops.

    Autograd keeps one node per leaf, which expects gradients of the old size, for as long as any graph holds it. It
    makes another one when the type changes.
    """
    tensor.grad = None
    if tensor.requires_grad:
        other = torch.float32 if tensor.dtype == torch.float16 else torch.float16
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = small


def _shrunk(model: nn.Module, masks: Masks) -> tuple[nn.Module, Settings]:
    """Return a smaller copy, proven equal, and what was set in its modules to make it run."""
    reference = masked(model, masks)
    twin = duplicate(model)
    if has_gates(twin):
        detach(twin)
    old: dict[int, torch.Size] = {}
    for name, tensor, cuts in _places(twin, masks):
        if id(tensor) in old:
            continue
        old[id(tensor)] = tensor.shape
        tensor.data = _cut(tensor.detach(), cuts, masks).clone()
        if not tensor.numel():
            owner, _, leaf = name.rpartition(".")
            raise SlimError(
                f"cannot shrink {owner or type(twin).__name__!r}: nothing would be left of its {leaf}. Use slim(), "
                "which removes it."
            )
    settings: Settings = {}
    for name, module in twin.named_modules():
        held = {**module._parameters, **module._buffers}
        settings |= {(name, key): value for key, value in sizes(module, {k: old.get(id(t)) for k, t in held.items()})}
    set_(twin, settings)
    return twin, settings | proven(reference, twin, masks)


# What else counts by units: gates, the coupling, the optimizer.


def closed_units(gates: Gates, closed: float = CLOSED) -> Masks:
    """Units whose gates are closed; of those that a tensor needs at least one of, the most probable stays."""
    probability = np.append(1.0, gates.probability().detach().cpu().double().numpy())
    return spared(Masks(gates.coupling, probability > closed, "closed", probability))


def spared(masks: Masks) -> Masks:
    """Open the most probable unit of each tensor of which a mask would leave nothing: no module can run without."""
    opened = masks.open.copy()
    probability = np.ones(opened.size) if masks.probability is None else masks.probability
    for cuts in masks.coupling.tensors.values():
        for labels in cuts:
            if not opened[labels.units].any():
                opened[labels.units[np.argmax(probability[labels.units])]] = True
    return replace(masks, open=opened)


def _renumbered(model: nn.Module, masks: Masks) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the unit numbers that each reader's gate looks up, and those that replace them."""
    number = torch.from_numpy(np.cumsum(masks.open) - 1)
    opened = torch.from_numpy(masks.open)
    for module in model.modules():
        if isinstance(module, ReaderGate):
            index = module.index.cpu()
            yield module.index, number[index[opened[index]]].to(module.index.device)


def _states(optimizer: Optimizer, cuts: Mapping[Tensor, tuple[Labels, ...]], masks: Masks) -> Iterator[Any]:
    """Yield (state, key, smaller value) of everything that an optimizer keeps per element of a tensor that is cut."""
    for tensor, state in optimizer.state.items():
        for key, value in state.items():
            kept = [v for v in torch.utils._pytree.tree_leaves(value) if isinstance(v, Tensor) and v.numel() > 1]
            if kept and tensor in cuts and isinstance(value, Tensor) and value.shape == tensor.shape:
                yield state, key, _cut(value, cuts[tensor], masks)
            elif kept and (tensor in cuts or any(v.numel() > tensor.numel() for v in kept)):
                raise UsageError(
                    f"cannot shrink the state {key!r} of {type(optimizer).__name__}: it is not kept per element of one "
                    "parameter (as momentum and Adam's moments are). Shrink before the first step, or pass no "
                    "optimizer and make it anew."
                )


def _restricted(masks: Masks, program: ExportedProgram) -> Coupling:
    """Return the coupling of the smaller model: the same units, those that are left."""
    old, opened, number = masks.coupling, masks.open, np.cumsum(masks.open) - 1
    shapes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    same = [(n.name, n.target) for n in program.graph.nodes] == [(n.name, n.target) for n in old.program.graph.nodes]

    def left(labels: Labels) -> Labels:
        return Labels(labels.axis, number[labels.units[opened[labels.units]]])

    def all_left(cuts: Iterable[Labels]) -> tuple[Labels, ...]:
        return tuple(labels for labels in map(left, cuts) if labels.units.any())

    activations = {
        name: tuple(None if labels is None or not left(labels).units.any() else left(labels) for labels in outputs)
        for name, outputs in old.activations.items()
    }
    for name, outputs in activations.items():
        values = shapes.get(name)
        for value, labels in zip(values if isinstance(values, tuple | list) else (values,), outputs, strict=False):
            same = same and (labels is None or labels.axis is None or value.shape[labels.axis] == labels.units.size)
    if not same:
        raise SlimError(
            "cannot shrink this model: at the smaller size its forward runs other operators than those that were "
            "traced (a Python loop over channels, say). Use slim() instead."
        )
    readers = [Reader(r.parameter, r.axis, left(Labels(r.axis, r.units)).units) for r in old.readers]
    groups, start = [], 1
    for group in old.groups:
        stop = start + int(opened[group.start : group.stop].sum())
        groups += [Group(group.name, start, stop, group.writers)] if stop > start else []
        start = stop
    return replace(
        old,
        origin=old.origin or Origin(cost_of(old), {group.name: group.size for group in old.groups}),
        program=program,
        units=start - 1,
        groups=tuple(groups),
        activations=activations,
        constants={name: all_left(cuts) for name, cuts in old.constants.items()},
        uses={use: all_left(cuts) for use, cuts in old.uses.items()},
        tensors={name: cut for name, cuts in old.tensors.items() if (cut := all_left(cuts))},
        readers=tuple(r for r in readers if r.units.any()),
    )
