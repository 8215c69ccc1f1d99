"""How does an ONNX file get smaller numbers? Weights stored in fewer bits, activations by ONNX Runtime's quantizer."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgel0.exporters.foreign import load
from edgel0.exporters.keeping import Kept, Layer, Maker
from edgel0.exporters.order import Order
from edgel0.exporters.precision import Samples

LARGE = 64  # elements: below that scales and operators cost more than the bits that they save
PER_SCALE = 8  # elements that a scale must serve at least, or there is one scale for the whole weight


def requantized(model: Any, order: Order, samples: Samples) -> tuple[Any, Kept]:
    """Return an ONNX model in another precision, and what was left in float32; ``samples`` are for calibration."""
    onnx = load("onnx", "onnx")
    if order.precision in STORED:
        return _stored(model, order.precision), Kept(b"")
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "float.onnx"
        onnx.save(model, given)  # given a model in memory, the quantizer would take its weights out
        if order.precision == "dynamic_wi8_afp32":
            return _dynamic(given), Kept(b"")
        kept = order.integer(_maker(given, samples))
    return onnx.load_model_from_string(kept.content), kept


def _dynamic(given: Path) -> Any:
    onnx, quantization = load("onnx", "onnx"), load("onnxruntime.quantization", "onnx")
    made = given.with_name("quantized.onnx")
    quantization.quantize_dynamic(given, made, per_channel=True, weight_type=quantization.QuantType.QInt8)
    simple, _ = load("onnxsim", "onnx").simplify(onnx.load(made))  # constants that it reshapes
    return simple


def _maker(given: Path, samples: Samples) -> Maker:
    """Observe every range once, then make files of them that keep this or that layer."""
    quantization, registry = load("onnxruntime.quantization", "onnx"), load("onnxruntime.quantization.registry", "onnx")
    model = load("onnxruntime.quantization.quant_utils", "onnx").load_model_with_shape_infer(given)
    kinds = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
    calibrator = quantization.create_calibrator(given, kinds, str(given.with_name("observed.onnx")))
    calibrator.collect_data(_Reader(samples))
    ranges, int8 = calibrator.compute_data(), quantization.QuantType.QInt8
    layers = tuple(Layer(node.name, node.op_type) for node in model.graph.node if node.op_type in kinds)

    def make(keep: frozenset[str]) -> bytes:
        # Copies: the quantizer changes the model, and the ranges as well.
        fresh, observed, none = copy.deepcopy(model), copy.deepcopy(ranges), list[str]()
        quantizer = quantization.QDQQuantizer(fresh, True, False, int8, int8, observed, none, sorted(keep), kinds, {})
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        return bytes(quantizer.model.model.SerializeToString())

    return Maker(layers, make)


class _Reader:
    """Hand samples out one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, samples: Samples) -> None:
        self._left = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def _stored(model: Any, precision: str) -> Any:
    """Keep each large weight in other numbers, and before all else operators that make float32 of them.

    Their inputs are constants, so runtimes run them once, as they load the file. A DequantizeLinear, which ONNX Runtime
    leaves where it is for its integer kernels, would run in every inference.
    """
    onnx = load("onnx", "onnx")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, restoring = made.graph, []
    for tensor in list(graph.initializer):
        name, weight = tensor.name, onnx.numpy_helper.to_array(tensor)
        if weight.dtype != np.float32 or weight.size < LARGE:
            continue
        numbers, scale = STORED[precision](weight)
        constants = {f"{name}.{numbers.dtype}": numbers}
        cast = name if scale is None else f"{name}.unscaled"
        restoring.append(onnx.helper.make_node("Cast", list(constants), [cast], to=onnx.TensorProto.FLOAT))
        if scale is not None:
            constants[f"{name}.scale"] = scale
            restoring.append(onnx.helper.make_node("Mul", [cast, f"{name}.scale"], [name]))
        graph.initializer.remove(tensor)
        graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in constants.items())
    nodes = [*restoring, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def _float16(weight: np.ndarray) -> tuple[np.ndarray, None]:
    most = np.finfo(np.float16).max
    return weight.clip(-most, most).astype(np.float16), None


def _int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round to integers times a scale per index of one axis: that of the finest steps, in their geometric mean.

    So the output channels of any operator get scales of their own, and its kind need not be known.
    """
    every = tuple(range(weight.ndim))
    axes = [axis for axis in every if weight.shape[axis] * PER_SCALE <= weight.size]
    around = [tuple(other for other in every if other != axis) for axis in axes] or [every]
    largest = [np.abs(weight).max(axis=others, keepdims=True) for others in around]
    finest = min(largest, key=lambda each: float(np.log(each + np.finfo(np.float32).tiny).mean()))
    scale = np.where(finest > 0, finest / 127, 1).astype(np.float32)
    return np.rint(weight / scale).clip(-127, 127).astype(np.int8), scale


STORED = {"float16": _float16, "weight_only_wi8_afp32": _int8}
