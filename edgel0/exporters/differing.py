"""In which layer does a file begin to differ from its program? What both compute inside is compared, by content.

Files fuse layers, turn axes and know no names of modules, so a tensor of the program counts as found in the file where
one of as many values, sorted, is equal. A layer is to blame when nothing from it on is found, and all before it is.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from edgel0.exporters.foreign import load
from edgel0.exporters.runtimes import arrays, dequantized, interpret
from edgel0.exporters.signature import Tensors, flatten

Inside = Callable[[bytes, Tensors, str], list[np.ndarray]]


def first_difference(
    program: ExportedProgram, sample: Tensors, inside: Sequence[np.ndarray], tolerance: float, floor: float
) -> str | None:
    """Name the layer of a program from which on nothing equal is ``inside`` a file; None where all is found.

    Two tensors are equal within ``tolerance``, a share of the largest value or of ``floor`` where all are smaller.
    """
    candidates: dict[int, list[np.ndarray]] = defaultdict(list)
    for array in inside:
        if array.dtype.kind == "f" and array.size:
            candidates[array.size].append(np.sort(array, axis=None).astype(np.float64))
    module = flatten(program)
    record = _Record(module)
    with torch.no_grad():
        record.run(*sample)

    def found(value: np.ndarray) -> bool:
        wanted = np.sort(value, axis=None).astype(np.float64)
        allowed = tolerance * max(floor, float(np.abs(wanted).max()))
        return any(float(np.abs(wanted - other).max()) <= allowed for other in candidates[wanted.size])

    nodes = [node for node in module.graph.nodes if node in record.values and record.values[node].size]
    reached: set[fx.Node] = set()
    for node in reversed(nodes):
        if any(user in reached for user in node.users) or found(record.values[node]):
            reached.add(node)
    for node in nodes:
        before = [other for other in node.all_input_nodes if other in record.values]
        if node not in reached and all(other in reached for other in before):
            return _called(node)
    return None


class _Record(fx.Interpreter):
    """Keep the real numbers that operators make of a graph's inputs; what parameters alone give says nothing."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.varying: set[fx.Node] = set()
        self.values: dict[fx.Node, np.ndarray] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if n.op == "placeholder" or not self.varying.isdisjoint(n.all_input_nodes):
            self.varying.add(n)
            if n.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point():
                self.values[n] = arrays(value)[0]
        return value


def _called(node: fx.Node) -> str:
    """Return the module that a node is of, and its operator."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    operator = str(node.target).removeprefix("aten.").partition(".")[0]
    return f"'{paths[-1]}' ({operator})" if paths else f"'{node.name}' ({operator})"


def inside_onnx(content: bytes, sample: Tensors, layout: str) -> list[np.ndarray]:
    """Return all that an ONNX file computes for a sample."""
    onnx, ort = load("onnx", "onnx"), load("onnxruntime", "onnx")
    model = onnx.load_model_from_string(content)
    known = {value.name for value in model.graph.output}
    made = dict.fromkeys(name for node in model.graph.node for name in node.output if name and name not in known)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {info.name: tensor.numpy() for info, tensor in zip(session.get_inputs(), sample, strict=True)}
    return [np.asarray(value) for value in session.run(None, feeds)]


def inside_tflite(content: bytes, sample: Tensors, layout: str) -> list[np.ndarray]:
    """Return all that a TFLite file computes for a sample, as real numbers."""
    interpreter, invoke = interpret(content, layout, experimental_preserve_all_tensors=True)
    invoke(sample)
    found = []
    for detail in interpreter.get_tensor_details():
        with contextlib.suppress(ValueError):  # one that only a delegate sees
            found.append(dequantized(interpreter.get_tensor(detail["index"]), detail))
    return found


INSIDE: dict[str, Inside] = {"onnx": inside_onnx, "tflite": inside_tflite}
