"""How is a program written for ExecuTorch? As ``.pte``, lowered to XNNPACK in as few pieces as it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from edgel0.errors import UsageError
from edgel0.exporters.foreign import foreign, load
from edgel0.exporters.fusion import fuse_batch_norm
from edgel0.exporters.order import Order
from edgel0.exporters.parity import Arrays
from edgel0.exporters.runtimes import Runtime, arrays
from edgel0.exporters.signature import Tensors, example
from edgel0.types import TensorInfo

aten = torch.ops.aten
NOTE = "edgel0"  # a method of the file that takes nothing and returns the provenance


def write_pte(program: ExportedProgram, path: Path, order: Order) -> dict[str, Any]:
    """Write a program as a ``.pte`` file; the same program gives the same bytes.

    Returns the provenance as the file carries it, in a constant method ``edgel0``: what was given and an entry ``pte``
    with the number of pieces that the delegate runs, and the operators that lie outside of them.
    """
    order.refuse_layout(".pte")
    order.refuse_batch(".pte")
    if order.precision != "float32":
        raise UsageError(
            f"precision {order.precision!r} was asked of a .pte file, which edgel0 writes in float32 alone; write "
            ".onnx or .tflite."
        )
    exir = load("executorch.exir", "executorch")
    xnnpack = load("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    module, inputs = _means_keep_axes(fuse_batch_norm(program)), example(program)
    with foreign("the ExecuTorch exporter", order.log):
        told, constants = dict[str, Any](), dict[str, str]()
        for constants in ({}, {NOTE: ""}):  # what the first lowering tells is noted in the second
            if constants:
                constants[NOTE] = json.dumps({**order.provenance, "pte": told}, sort_keys=True)
            lowered = exir.to_edge_transform_and_lower(
                torch.export.export(module, inputs),
                partitioner=[xnnpack.XnnpackPartitioner()],
                constant_methods=constants or None,
            )
            told = _pieces(lowered.exported_program())
        path.write_bytes(lowered.to_executorch().buffer)
    return {**order.provenance, "pte": told}


def open_pte(source: Path | bytes, layout: str = "nchw") -> Runtime:
    """Load a ``.pte`` file, or its bytes, with ExecuTorch's own runtime."""
    api, version = load("executorch.runtime", "executorch"), load("executorch.version", "executorch").__version__
    content = source if isinstance(source, bytes) else source.read_bytes()
    program = api.Runtime.get().load_program(content)
    method = program.load_method("forward")

    def run(sample: Tensors) -> Arrays:
        return arrays(method.execute([tensor.contiguous() for tensor in sample]))

    told = method.metadata
    inputs = tuple(_info(told.input_tensor_meta(at), f"input_{at}") for at in range(told.num_inputs()))
    outputs = tuple(_info(told.output_tensor_meta(at), f"output_{at}") for at in range(told.num_outputs()))
    return Runtime(f"executorch {version}", inputs, outputs, run)


def _means_keep_axes(module: fx.GraphModule) -> fx.GraphModule:
    """Take means over a picture with its axes kept, and view the result: so the delegate has a kernel for them."""
    for node in module.graph.find_nodes(op="call_function", target=aten.mean.dim):
        image, axes = node.args[0], node.args[1]
        if image.meta["val"].ndim != 4 or {axis % 4 for axis in axes} != {2, 3} or (node.args[2:] or (False,))[0]:
            continue
        shape = list(node.meta["val"].shape)
        with module.graph.inserting_before(node):
            kept = module.graph.call_function(aten.mean.dim, (image, [2, 3], True))
            made = module.graph.call_function(aten.view.default, (kept, shape))
        kept.meta, made.meta = dict(node.meta), dict(node.meta)
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    module.recompile()
    return module


def _pieces(program: ExportedProgram) -> dict[str, Any]:
    """Count what the delegate runs, and name what it does not."""
    names = [str(getattr(n.target, "__name__", n.target)) for n in program.graph.nodes if n.op == "call_function"]
    outside = {name for name in names if name not in ("executorch_call_delegate", "getitem")}
    return {"partitions": names.count("executorch_call_delegate"), "outside": sorted(outside)}


def _info(told: Any, name: str) -> TensorInfo:
    """Describe a tensor; the file keeps no names, and types by their number in torch."""
    return TensorInfo(name, tuple(told.sizes()), TYPES.get(told.dtype(), f"type {told.dtype()}"))


TYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 6: "float32", 7: "float64", 11: "bool"}
