"""What does a file answer, and what does it take? Run it in the runtime that a board would use, on one thread."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from edgel0.exporters.foreign import load
from edgel0.exporters.parity import Arrays
from edgel0.exporters.signature import Tensors, channels_last, leaves, signature
from edgel0.types import TensorInfo


@dataclass(frozen=True)
class Runtime:
    """A file, loaded: its inputs and outputs in the program's order, and ``run`` from tensors to arrays."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    run: Callable[[Tensors], Arrays]


def open_onnx(source: Path | bytes, layout: str = "nchw") -> Runtime:
    """Load an ONNX file, or its bytes, with ONNX Runtime on the CPU."""
    ort = load("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = source if isinstance(source, bytes) else source.read_bytes()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs, outputs = _onnx_infos(session.get_inputs()), _onnx_infos(session.get_outputs())

    def run(sample: Tensors) -> Arrays:
        feeds = {info.name: tensor.numpy() for info, tensor in zip(inputs, sample, strict=True)}
        return tuple(np.asarray(output) for output in session.run([info.name for info in outputs], feeds))

    return Runtime(f"onnxruntime {version('onnxruntime')}", inputs, outputs, run)


def open_tflite(source: Path | bytes, layout: str = "nchw") -> Runtime:
    """Load a TFLite file, or its bytes, with the LiteRT interpreter.

    ``run`` takes the program's own layout and numbers: it turns 4-D inputs channels-last for a file with
    ``layout="nhwc"``, and quantizes and dequantizes what goes into and comes out of a file with integer inputs.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    interpreter, invoke = interpret(content, layout)
    details = {d["index"]: d for d in (*interpreter.get_input_details(), *interpreter.get_output_details())}
    inputs, outputs = _ends(content)

    def run(sample: Tensors) -> Arrays:
        invoke(sample)
        found = [(interpreter.get_tensor(e.TensorIndex()), details[e.TensorIndex()]) for e in outputs]
        return tuple(dequantized(array, detail) for array, detail in found)

    name = f"ai-edge-litert {version('ai-edge-litert')}"
    return Runtime(name, _tflite_infos(inputs, details), _tflite_infos(outputs, details), run)


def interpret(content: bytes, layout: str, **options: Any) -> tuple[Any, Callable[[Tensors], None]]:
    """Return an interpreter of a TFLite file, and what runs it on a sample of the program's own layout and numbers."""
    interpreters = load("ai_edge_litert.interpreter", "tflite")
    interpreter = interpreters.Interpreter(model_content=content, num_threads=1, **options)
    interpreter.allocate_tensors()
    details = {detail["index"]: detail for detail in interpreter.get_input_details()}
    inputs, _ = _ends(content)

    def invoke(sample: Tensors) -> None:
        for entry, tensor in zip(inputs, sample, strict=True):
            array = (channels_last(tensor) if layout == "nhwc" else tensor).numpy()
            interpreter.set_tensor(entry.TensorIndex(), _quantized(array, details[entry.TensorIndex()]))
        interpreter.invoke()

    return interpreter, invoke


def _ends(content: bytes) -> tuple[list[Any], list[Any]]:
    """Return the inputs and outputs of a file's signature, which keeps the program's order; the interpreter sorts."""
    schema = load("ai_edge_litert.schema_py_generated", "tflite")
    named = schema.Model.GetRootAs(content, 0).SignatureDefs(0)
    inputs = [named.Inputs(i) for i in range(named.InputsLength())]
    return inputs, [named.Outputs(i) for i in range(named.OutputsLength())]


def open_pt2(source: Path | bytes, layout: str = "nchw") -> Runtime:
    """Load a saved ``torch.export`` program, or its bytes, with torch."""
    program = torch.export.load(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()))
    module, names = program.module(), signature(program)
    specs = {node.name: node.meta.get("val") for node in program.graph.nodes}
    returned = [name for name in program.graph_signature.user_outputs if isinstance(name, str)]
    inputs = _torch_infos(names.inputs, [specs[name] for name in names.inputs])
    outputs = _torch_infos(names.outputs, [specs[name] for name in returned])

    def run(sample: Tensors) -> Arrays:
        # The saved program wants its inputs nested as it was traced; samples come flat.
        return arrays(module(*pytree.tree_unflatten(sample, program.call_spec.in_spec)[0]))

    return Runtime(f"torch {torch.__version__}", inputs, outputs, run)


def arrays(value: Any) -> Arrays:
    """Return the tensors of a model's answer as arrays, flat and in order."""
    return tuple(tensor.detach().cpu().numpy().copy() for tensor in leaves(value))


def _quantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Bring real numbers into the type that a TFLite tensor has."""
    scale, zero = detail["quantization"]
    if scale and array.dtype.kind == "f":
        limits = np.iinfo(detail["dtype"])
        array = np.rint(array / scale + zero).clip(limits.min, limits.max)
    return array.astype(detail["dtype"])


def dequantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Return the real numbers that a tensor's integers stand for."""
    scale, zero = detail["quantization"]
    return np.float32(scale) * (array.astype(np.float32) - np.float32(zero)) if scale else array


def _onnx_infos(values: Sequence[Any]) -> tuple[TensorInfo, ...]:
    names = {"tensor(float)": "float32", "tensor(double)": "float64"}
    return tuple(
        TensorInfo(v.name, tuple(v.shape), names.get(v.type, v.type.removeprefix("tensor(").removesuffix(")")))
        for v in values
    )


def _tflite_infos(entries: Sequence[Any], details: dict[int, Any]) -> tuple[TensorInfo, ...]:
    infos = []
    for entry in entries:
        detail = details[entry.TensorIndex()]
        shape, (scale, zero) = tuple(int(size) for size in detail["shape"]), detail["quantization"]
        stands_for = (float(scale), int(zero)) if scale else (None, None)
        infos.append(TensorInfo(entry.Name().decode(), shape, np.dtype(detail["dtype"]).name, *stands_for))
    return tuple(infos)


def _torch_infos(names: Sequence[str], specs: Sequence[Any]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, tuple(spec.shape), str(spec.dtype).removeprefix("torch."))
        for name, spec in zip(names, specs, strict=True)
    )
