"""Does a module run at the smaller size as the masked one does? Whole numbers that repeat sizes, and the comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgel0.capturing import evaluating
from edgel0.errors import SlimError
from edgel0.masks import example_of
from edgel0.types import Masks

# What torch's modules repeat of their tensors' sizes: attribute, tensor, axis; the first that fits counts.
SIZES = (
    ("num_features", "running_mean", 0),
    ("num_channels", "weight", 0),
    ("num_parameters", "weight", 0),
    ("in_features", "weight", 1),
    ("out_features", "weight", 0),
    ("embedding_dim", "weight", 1),
    ("input_size", "weight_ih", 1),
    ("input_size", "weight_ih_l0", 1),
    ("hidden_size", "weight_hh", 1),
    ("hidden_size", "weight_hr_l0", 1),
    ("hidden_size", "weight_hh_l0", 1),
)

Settings = dict[tuple[str, str], Any]  # (name of a module, attribute) -> value


def set_(model: nn.Module, settings: Settings) -> None:
    """Set attributes of the modules of ``model``."""
    for (name, attribute), value in settings.items():
        setattr(model.get_submodule(name), attribute, value)


def sizes(module: nn.Module, old: dict[str, torch.Size | None]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module that repeat sizes of its ``old`` tensors, and what they are now."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        axis_in, axis_out = (0, 1) if module.transposed else (1, 0)
        groups = module.groups
        if groups > 1 and groups == module.in_channels:
            multiple = module.out_channels // groups
            groups = weight.shape[0] if module.transposed else weight.shape[0] // multiple
        yield "groups", groups
        yield "in_channels", weight.shape[axis_in] * (1 if module.transposed else groups)
        yield "out_channels", weight.shape[axis_out] * (groups if module.transposed else 1)
    if isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        yield "num_groups", module.num_groups * weight.shape[0] // module.num_channels
    found = set()
    for attribute, tensor, axis in SIZES:
        shape = old.get(tensor)
        fits = shape is not None and len(shape) > axis and getattr(module, attribute, None) == shape[axis]
        if fits and attribute not in found:
            found.add(attribute)
            yield attribute, getattr(module, tensor).shape[axis]


def _repeated(twin: nn.Module, kind: type[nn.Module], masks: Masks) -> Settings:
    """Find whole numbers, in all modules of one class, that equal a size which shrank in their own forward."""
    read = {n for base in kind.__mro__ for k, f in vars(base).items() if k != "__init__" for n in _attributes(f)}
    resized: dict[str, dict[int, set[int]]] = {}
    for node in masks.coupling.program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {"": ("", None)}
        path = next(reversed(stack.values()))[0]
        for output, labels in enumerate(masks.coupling.activations.get(node.name, ())):
            if labels is not None and labels.axis is not None:
                value = node.meta["val"]
                size = (value[output] if isinstance(value, tuple | list) else value).shape[labels.axis]
                resized.setdefault(path, {}).setdefault(int(size), set()).add(int(masks.open[labels.units].sum()))
    settings: Settings = {}
    for name, module in twin.named_modules():
        if type(module) is kind:
            new = {size: next(iter(left)) for size, left in resized.get(name, {}).items() if len(left) == 1}
            for attribute in read & vars(module).keys():
                value = vars(module)[attribute]
                if type(value) is int and new.get(value, value) != value:
                    settings[name, attribute] = new[value]
                elif isinstance(value, tuple | list) and any(type(n) is int and new.get(n, n) != n for n in value):
                    settings[name, attribute] = type(value)(new.get(n, n) if type(n) is int else n for n in value)
    return settings


def _attributes(function: Any) -> tuple[str, ...]:
    """Names that a function of a class reads."""
    code = getattr(function, "__code__", None)
    return code.co_names if code is not None else ()


_WRONG_SIZES = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError)


def proven(reference: nn.Module, twin: nn.Module, masks: Masks) -> Settings:
    """Compare the twin with the masked model; what modules had to be told of new sizes is set and returned."""
    wanted, tried = _run(reference, masks), set[type]()
    settings: Settings = {}
    while True:
        try:
            got = _run(twin, masks)
            break
        except _WRONG_SIZES as error:
            name, module = _where(twin, error)
            more = {} if type(module) in tried else _repeated(twin, type(module), masks)
            if not more:
                raise SlimError(
                    f"cannot shrink {name!r}: its forward does not run at the smaller size "
                    f"({(str(error).splitlines() or [type(error).__name__])[0]}). A size is written out there or "
                    "before; use slim(), or take sizes from tensors, as in reshape(x.shape[0], -1) or flatten(1)."
                ) from error
            tried.add(type(module))
            set_(twin, more)
            settings |= more
    if [t.shape for t in wanted] != [t.shape for t in got] or not all(map(_alike, wanted, got)):
        raise SlimError(
            f"cannot shrink {type(twin).__name__!r}: at the smaller size its forward gives another result than the "
            "masked model. It relies on a size that it writes out itself; use slim() instead."
        )
    return settings


def _run(model: nn.Module, masks: Masks) -> list[Tensor]:
    args, kwargs = example_of(model, masks.coupling)
    with evaluating(model), torch.no_grad():
        return [t for t in torch.utils._pytree.tree_leaves(model(*args, **kwargs)) if isinstance(t, Tensor)]


def _alike(wanted: Tensor, got: Tensor) -> bool:
    """Tell whether two outputs differ by no more than rounding, relative to the largest value."""
    if not wanted.is_floating_point() or not wanted.numel():
        return torch.equal(wanted, got)
    tolerance = 1e-9 if wanted.dtype == torch.float64 else max(1e-4, 8 * torch.finfo(wanted.dtype).eps)
    scale = float(wanted.abs().max()) or 1.0
    return float((wanted.double() - got.double()).abs().max()) <= tolerance * scale


def _where(model: nn.Module, error: BaseException) -> tuple[str, nn.Module]:
    """Return the innermost module of ``model`` in whose forward an error was raised, and its name."""
    names = {id(module): name for name, module in model.named_modules()}
    name, found, trace = "", model, error.__traceback__
    while trace is not None:
        module: Any = trace.tb_frame.f_locals.get("self")
        if id(module) in names:
            name, found = names[id(module)], module
        trace = trace.tb_next
    return name or type(model).__name__, found
