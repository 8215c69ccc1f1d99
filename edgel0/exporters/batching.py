"""How does an ONNX file of one sample take any number? Sizes that held the one are left open, and it is proven."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgel0.errors import ParityError, UsageError
from edgel0.exporters.foreign import foreign, load
from edgel0.exporters.parity import compare
from edgel0.exporters.runtimes import arrays, open_onnx
from edgel0.exporters.signature import Signature, Tensors, example_like

AXIS, COUNTS = "batch", (1, 2, 3)
SMALL = 64  # values of a constant that may be a shape


def any_batch(model: Any, module: torch.nn.Module, names: Signature, inputs: Tensors, log: Path) -> Any:
    """Return the model with a first axis of any size in all inputs and outputs.

    In the constant shapes that a Reshape writes out, the size that holds the samples is left open, and recurrent layers
    lose initial states of zeros, which are the default. Then 1, 2 and 3 different samples at once must be answered as
    they are one by one.

    Raises:
        UsageError: an input or output has no first axis of size 1, or the answers differ.
    """
    made = type(model)()
    made.CopyFrom(model)
    for value in (*made.graph.input, *made.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if not sizes or sizes[0].dim_value != 1:
            raise UsageError(
                f"{value.name!r} has no first axis of size 1, so there is nothing to put several samples along; trace "
                "the model with a batch of one, or write the file for that one."
            )
        sizes[0].dim_param = AXIS
    del made.graph.value_info[:]  # they say 1, and ONNX Runtime believes them
    try:
        with foreign("opening its first axis", log):
            _forget_states_(made.graph)
            _open_sizes_(made, model)
            _prove(made.SerializeToString(), module, names, inputs)
    except (UsageError, ParityError) as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
        raise UsageError(
            f"the model cannot be written for any number of samples: something in it mixes the first axis with others "
            f"({reason}). Leave the batch out; the file then takes one sample at a time."
        ) from error
    return made


def _forget_states_(graph: Any) -> None:
    """Leave initial states of zeros, one for each sample, to their default."""
    numpy_helper = load("onnx", "onnx").numpy_helper
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for at in STATES.get(node.op_type, ()):
            state = constants.get(node.input[at]) if at < len(node.input) else None
            if state is not None and not numpy_helper.to_array(state).any():
                node.input[at] = ""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _open_sizes_(made: Any, model: Any) -> None:
    """Leave that size open in each constant shape along which the samples lie.

    In row-major order, as much comes before the samples in a Reshape's output as in its input: that finds the place. A
    bare copy of the model, without large weights, tells where they lie in the input.
    """
    onnx = load("onnx", "onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    before = _shapes(onnx, _bare(onnx, model))
    bare = _bare(onnx, made)
    for node, twin in zip(made.graph.node, bare.graph.node, strict=True):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        source, target = before[node.input[0]], before[node.output[0]]
        now = _shapes(onnx, bare)[node.input[0]]
        lies = [axis for axis, size in enumerate(now) if size is None]
        if len(lies) != 1 or None in source or None in target:
            continue
        place = _place([int(size or 0) for size in source], [int(size or 0) for size in target], lies[0])
        if place is None:
            continue
        shape = np.array([-1 if at == place else size for at, size in enumerate(target)], np.int64)
        name = f"{node.output[0]}.{AXIS}"
        for graph in (made.graph, bare.graph):
            graph.initializer.append(onnx.numpy_helper.from_array(shape, name))
        node.input[1] = twin.input[1] = name
        sizes = [None if at == place else size for at, size in enumerate(target)]
        kind = onnx.TensorProto.FLOAT
        bare.graph.value_info.append(onnx.helper.make_tensor_value_info(node.output[0], kind, sizes))


def _place(source: list[int], target: list[int], axis: int) -> int | None:
    """Return the axis of ``target`` that holds the samples which a reshape finds along ``axis`` of ``source``.

    An axis of size one is where they were before; else they are the outer part of an axis, but not of the last one,
    which layers contract.
    """
    ahead = math.prod(source[:axis])
    begins = [math.prod(target[:at]) for at in range(len(target))]
    exact = [at for at, begin in enumerate(begins) if begin == ahead]
    inside = [at for at, begin in enumerate(begins) if ahead <= begin <= ahead * source[axis]]
    ones = [at for at in (*exact, *inside) if target[at] == 1]
    outer = [at if at < len(target) - 1 else at - 1 for at in exact if at < len(target) - 1 or at]
    return next(iter((*ones, *outer, *exact)), None)


def _bare(onnx: Any, model: Any) -> Any:
    """Copy a model without the values of its large weights and without what it knows of the shapes inside."""
    bare = type(model)()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for tensor in [tensor for tensor in bare.graph.initializer if math.prod(tensor.dims) > SMALL]:
        bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        bare.graph.initializer.remove(tensor)
    return bare


def _shapes(onnx: Any, model: Any) -> dict[str, list[int | None]]:
    """Infer the sizes of every value, None where a size is open."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found: dict[str, list[int | None]] = defaultdict(list)
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        found[value.name] = [size.dim_value if size.HasField("dim_value") else None for size in sizes]
    return found


def _prove(content: bytes, module: torch.nn.Module, names: Signature, inputs: Tensors) -> None:
    """Compare answers to several samples at once with the program's to each of them."""
    runtime = open_onnx(content)
    generator = torch.Generator().manual_seed(0)
    samples = [example_like(inputs, generator) for _ in range(max(COUNTS))]
    with torch.no_grad():
        alone = [arrays(module(*sample)) for sample in samples]
    for count in COUNTS:
        together = tuple(torch.cat(column) for column in zip(*samples[:count], strict=True))
        expected = tuple(np.concatenate(column) for column in zip(*alone[:count], strict=True))
        found = runtime.run(together)
        compare([expected], [found], names=names.outputs, reference="one by one", runtime="at once", tolerance=1e-5)


STATES = {"GRU": (5,), "RNN": (5,), "LSTM": (5, 6)}
