"""How is a program written as ONNX? One file, simplified, checked, without a trace of the machine that wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgel0.errors import ParityError
from edgel0.exporters.batching import AXIS, any_batch
from edgel0.exporters.foreign import foreign, load
from edgel0.exporters.fusion import fuse_batch_norm
from edgel0.exporters.onnx_precision import requantized
from edgel0.exporters.order import Order
from edgel0.exporters.parity import compare
from edgel0.exporters.runtimes import arrays, open_onnx
from edgel0.exporters.shapes import with_shapes
from edgel0.exporters.signature import Signature, Tensors, example, signature
from edgel0.files.reading import moving_parts


def write_onnx(program: ExportedProgram, path: Path, order: Order) -> dict[str, Any]:
    """Write a program as one ONNX file, weights inside; the same program and samples give the same bytes.

    Inputs and outputs stay float32. Returns the provenance as the file carries it, under the metadata key ``edgel0``:
    what was given and an entry ``onnx`` that names the opset, whether the graph is simplified, how many operators and
    transposes it has, and for integer files the layers kept in float32 and, where asked for, the sensitivity of each.
    """
    order.refuse_layout("ONNX")
    onnx, onnxsim = load("onnx", "onnx"), load("onnxsim", "onnx")
    load("onnxscript", "onnx")  # torch imports it in the middle of an export; ask now, while the answer is clear
    names, inputs = signature(program), example(program)
    module = fuse_batch_norm(program)
    told: dict[str, Any] = {}
    with foreign("the ONNX exporter", order.log):
        exported = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
        if exported is None:
            raise RuntimeError("torch.onnx.export returned nothing")
        _rename_(exported.model.graph, names)
        model, simplified = _simplified(onnxsim, exported.model_proto, module, inputs, names)
        if order.batch:
            model = any_batch(model, module, names, inputs, order.log)
        if order.precision != "float32":
            named = [dict(zip(names.inputs, arrays(sample), strict=True)) for sample in order.samples]
            model, kept = requantized(model, order, named)
            told = kept.told()
        if order.batch or order.precision != "float32":
            model = with_shapes(model, AXIS if order.batch else "")
        _strip_(model)
        told = {**moving_parts(model.SerializeToString(), ".onnx"), **told}
        told = {"opset": model.opset_import[0].version, "simplified": simplified, **told}
        carried = {**order.provenance, "onnx": told}
        onnx.helper.set_model_props(model, {"edgel0": json.dumps(carried, sort_keys=True, separators=(",", ":"))})
        onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return carried


def _rename_(graph: Any, names: Signature) -> None:
    """Give inputs and outputs their names; a value inside that already has one steps aside."""
    wanted = (*names.inputs, *names.outputs)
    inside = [value for node in graph.all_nodes() for value in node.outputs]
    for value in (*inside, *graph.initializers.values()):
        if value.name in wanted:
            value.name = f"{value.name}.inside"
    for value, name in zip((*graph.inputs, *graph.outputs), wanted, strict=True):
        value.name = name


def _simplified(
    onnxsim: Any, model: Any, module: torch.nn.Module, inputs: Tensors, names: Signature
) -> tuple[Any, str]:
    """Return onnxsim's graph, or the model as it is and why, where onnxsim fails or changes an output."""
    try:
        simple, _ = onnxsim.simplify(model)
        with torch.no_grad():
            expected = [arrays(module(*inputs))]
        found = [open_onnx(simple.SerializeToString()).run(inputs)]
        compare(expected, found, names=names.outputs, reference="torch's", runtime="onnxsim's", tolerance=1e-5)
    except (RuntimeError, ValueError, ParityError) as error:
        return model, f"no: {type(error).__name__} in onnxsim"
    return simple, "yes"


def _strip_(model: Any) -> None:
    """Remove what exporters note about every node: stack traces, module names, and the paths in them."""
    del model.metadata_props[:]
    graphs = [model.graph]
    for function in model.functions:
        _forget_(function, *function.node)
    for graph in graphs:
        _forget_(graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        graphs += [branch for a in attributes for branch in (*a.graphs, *([a.g] if a.HasField("g") else []))]


def _forget_(*messages: Any) -> None:
    for message in messages:
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
