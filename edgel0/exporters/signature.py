"""What goes in and out of a program? Its tensors, flat, in order and by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgel0.errors import UsageError

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Signature:
    """The names of a program's inputs and outputs, flat and in order, each name used once."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def signature(program: ExportedProgram) -> Signature:
    """Name the tensors of a program: inputs after the arguments of ``forward``, outputs after the keys it returns.

    A program that returns a tensor or a tuple has no names for them: they become ``output`` or ``output_0``, ....
    """
    inputs = tuple(program.graph_signature.user_inputs)
    returned = program.graph_signature.user_outputs
    places = pytree.tree_unflatten(list(range(len(returned))), program.call_spec.out_spec)
    if isinstance(places, dict) and list(places.values()) == list(range(len(returned))):
        keys = [str(key) for key in places]
    else:
        keys = [f"output_{index}" for index in range(len(returned))] if len(returned) > 1 else ["output"]
    tensors = [key for key, value in zip(keys, returned, strict=True) if isinstance(value, str)]
    return Signature(_strings(inputs), tuple(_unique(tensors, taken=set(_strings(inputs)))))


def flatten(program: ExportedProgram) -> fx.GraphModule:
    """Copy a program into a module that takes its tensors one by one and returns a plain tuple of tensors.

    Input guards, nesting and outputs that are no tensors are gone. Parameters are shared with the program, so replace
    them, never write into them.
    """
    module = program.module(check_guards=False)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    end = graph.output_node()
    end.args = (tuple(value for value in pytree.tree_leaves(end.args) if isinstance(value, fx.Node)),)
    graph.eliminate_dead_code()
    # A new GraphModule: the one of ExportedProgram.module() refuses eval() and warns of training mode.
    return fx.GraphModule(module, graph).eval()


def leaves(value: Any) -> Tensors:
    """Return the tensors of a nested argument or result, in the order of the flat signature."""
    return tuple(leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))


def example(program: ExportedProgram) -> Tensors:
    """Return the inputs that the program was traced with, flat.

    Raises :class:`~edgel0.errors.UsageError` where the program kept none, has keyword inputs or
    dynamic shapes, or is not float32.
    """
    if program.example_inputs is None:
        raise UsageError(
            "the program keeps no example inputs; trace it again with torch.export.export(model, example)."
        )
    if program.example_inputs[1]:
        raise UsageError(
            "the program takes keyword inputs, which no file has; trace the model with positional example inputs."
        )
    if program.range_constraints:
        raise UsageError("the program has a dynamic dimension; trace it without dynamic_shapes, for batches of one.")
    inputs = leaves(program.example_inputs)
    if len(inputs) != len(program.graph_signature.user_inputs):
        raise UsageError("an input of the program is not a tensor; make it a constant of the model.")
    wrong = {t.dtype for t in (*inputs, *program.state_dict.values()) if t.is_floating_point()} - {torch.float32}
    if wrong:
        raise UsageError(f"the program holds {min(map(str, wrong))} tensors; files are float32: trace model.float().")
    return inputs


def example_like(inputs: Tensors, generator: torch.Generator) -> Tensors:
    """Draw normal values of the shapes of ``inputs``; integers (token numbers, say) are their own, in another order."""

    def drawn(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)

    return tuple(map(drawn, inputs))


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """Move the channels of a 4-D tensor to the end (NCHW to NHWC); leave any other tensor alone."""
    return tensor.permute(0, 2, 3, 1).contiguous() if tensor.ndim == 4 else tensor


def _strings(names: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(name) for name in names)


def _unique(names: Iterable[str], taken: set[str]) -> Iterable[str]:
    """Make each name differ from those before it and from ``taken``."""
    for name in names:
        while name in taken:
            name = f"{name}_out"
        taken.add(name)
        yield name
