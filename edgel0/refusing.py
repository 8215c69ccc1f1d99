"""Which models and examples can no capture make sense of? Checks beforehand, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from edgel0.errors import UsageError


def no_module(found: Any) -> UsageError:
    """Say what to do with a thing that is no module."""
    advice = ""
    if isinstance(found, type):
        advice = f" Make an instance first: {found.__name__}(...)."
    elif isinstance(found, Mapping):
        advice = " If these are saved weights, make the model and load_state_dict them."
    elif isinstance(found, torch.export.ExportedProgram):
        advice = " Give the module that it was exported from."
    elif callable(found):
        advice = " Give what it makes, or put the function into the forward of a module."
    return UsageError(f"a torch.nn.Module was expected, but {type(found).__name__!r} was given.{advice}")


def check(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse models and examples that no capture can make sense of.

    Raises:
        UsageError: a tensor of the model is lazy, on the meta device, of inference mode, sparse, quantised, distributed
            or on another device than the example; a module of it is scripted, quantised or a wrapper that can be taken
            off around the whole model only; or there is no tensor in the example.
    """
    for name, module in model.named_modules():
        kind = type(module)
        which = f"{kind.__name__} {name!r}" if name else kind.__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(
                f"{which} is a TorchScript module, whose code torch.export cannot read; give the nn.Module that was "
                "scripted or traced, and script after slimming if need be."
            )
        if name and kind.__name__ in _PARALLEL:
            raise UsageError(
                f"{which} is a wrapper inside of the model; only around all of it can it be taken off. Put the module "
                f"that it wraps in its place: model.{name} = model.{name}.module."
            )
        if ".quantized." in f"{kind.__module__}.":
            raise UsageError(
                f"{which} ({kind.__module__}) is quantised, and its packed weights have no channels to remove; slim "
                "the float model first and quantise what comes out."
            )
    given = [leaf for leaf in torch.utils._pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
    if not given:
        raise UsageError(
            f"the example input ({shapes(args, kwargs)}) holds no tensor; a tensor that the output depends on was "
            "expected. Make it an argument of the forward."
        )
    for name, tensor in _tensors(model):
        _check_tensor(name, tensor)
        for other in given:
            if other.device != tensor.device:
                raise UsageError(
                    f"the example input is on {other.device} and {name!r} on {tensor.device}; both must be on one "
                    f"device. Move one with .to({str(tensor.device)!r})."
                )


_PARALLEL = ("DistributedDataParallel", "FullyShardedDataParallel")


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if nn.parameter.is_lazy(tensor):
        raise UsageError(
            f"{name!r} belongs to a lazy module and has no shape yet; run the model once on an example, model(x), "
            "before it is traced."
        )
    if tensor.is_meta:
        raise UsageError(
            f"{name!r} is on the meta device and has no values; materialise the model first: build it without "
            'torch.device("meta"), or model.to_empty(device="cpu") and then load_state_dict.'
        )
    if tensor.is_inference():
        raise UsageError(
            f"{name!r} was made in inference mode, and autograd takes no such tensors; build or load the model under "
            "torch.no_grad() in place of torch.inference_mode()."
        )
    wrapper: bool = any(map(is_traceable_wrapper_subclass, (tensor, tensor.data)))
    if wrapper:
        raise UsageError(
            f"{name!r} is a {type(tensor.data).__name__}, and plain dense tensors were expected; slim the model before "
            "it is quantised or sharded."
        )
    if tensor.is_quantized:
        raise UsageError(
            f"{name!r} is a quantised tensor ({tensor.dtype}); slim the float model first and quantise what comes out."
        )
    if tensor.layout is not torch.strided:
        raise UsageError(
            f"{name!r} is a sparse tensor ({tensor.layout}), and dense tensors were expected; make it dense with "
            ".to_dense()."
        )


def shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Write an example as shapes and types."""
    named = [(None, a) for a in args] + list(kwargs.items())
    return ", ".join(
        (f"{name}=" if name else "")
        + (f"{tuple(v.shape)} {str(v.dtype)[6:]}" if isinstance(v, torch.Tensor) else repr(v)[:40])
        for name, v in named
    )
