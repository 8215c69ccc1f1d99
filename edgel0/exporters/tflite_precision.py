"""How does a TFLite file get smaller numbers? By AI Edge Quantizer, kept in one piece for the delegate that runs it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edgel0.exporters.foreign import load
from edgel0.exporters.keeping import Kept, Layer, Maker
from edgel0.exporters.order import Order
from edgel0.exporters.precision import Samples, precision_of


def requantized(content: bytes, order: Order, samples: Samples) -> tuple[Kept, list[str]]:
    """Return a TFLite file in another precision, and the kinds of operators that were left in float32 for speed.

    An integer operator for which the delegate (XNNPACK) has no kernel cuts the graph in two and is itself many times
    slower than in float32. Such kinds are left in float32 where that makes fewer partitions.
    """
    observed = _ranges(content, order.precision, samples) if precision_of(order.precision).calibrated else None

    def make(left: Sequence[str], keep: frozenset[str] = frozenset()) -> bytes:
        return _quantized(content, order.precision, observed, left, keep)

    best, left = make([]), list[str]()
    parts, outside = partitions(best)
    while parts > 1 and not set(outside) <= set(left):
        more = sorted({*left, *outside})
        made = make(more)
        count, outside = partitions(made)
        if count >= parts:
            break
        best, left, parts = made, more, count
    if observed is None or not (order.keep or order.ranking):
        return Kept(best), left
    layers = tuple(layer for layer in _layers(content) if layer.kind not in left)
    return order.integer(Maker(layers, lambda keep: make(left, keep))), left


def partitions(content: bytes) -> tuple[int, list[str]]:
    """Return in how many pieces the delegate runs a file, and the kinds of operators that run outside of it."""
    interpreters = load("ai_edge_litert.interpreter", "tflite")
    interpreter = interpreters.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()  # private, and called here alone; what a delegate took is listed, too
    pieces = [operator for operator in details if operator["op_name"] == "DELEGATE"]
    operators = [operator for operator in details if operator["op_name"] != "DELEGATE"]
    maker = {tensor: at for at, operator in enumerate(operators) for tensor in operator["outputs"]}
    inside: set[int] = set()
    for piece in pieces:
        wanted, given = list(piece["outputs"]), set(piece["inputs"])
        while wanted:
            at = maker.get(wanted.pop())
            if at is not None and at not in inside:
                inside.add(at)
                wanted += [tensor for tensor in operators[at]["inputs"] if tensor not in given]
    return len(pieces), sorted({o["op_name"] for at, o in enumerate(operators) if at not in inside})


def _quantized(
    content: bytes, precision: str, observed: Any, left: Sequence[str], keep: frozenset[str] = frozenset()
) -> bytes:
    """Quantize what is in no kind ``left`` and is no layer of ``keep``."""
    quantizer, types = _quantizer(content, precision), load("ai_edge_quantizer.qtyping", "tflite")
    known = {name.value for name in types.TFLOperationName}
    for kind in sorted(known.intersection(left)):
        quantizer.update_quantization_recipe(".*", types.TFLOperationName(kind), algorithm_key="no_quantize")
    for name in sorted(keep):
        scope = f"^{re.escape(name)}$"
        quantizer.update_quantization_recipe(scope, types.TFLOperationName.ALL_SUPPORTED, algorithm_key="no_quantize")
    made = quantizer.quantize(observed, enable_progress_bar=False, enable_progress_report=False)
    return bytes(made.quantized_model)


def _quantizer(content: bytes, precision: str) -> Any:
    quantizers, types = load("ai_edge_quantizer.quantizer", "tflite"), load("ai_edge_quantizer.qtyping", "tflite")
    quantizer = quantizers.Quantizer(content)
    if precision == "float16":
        _cast_weights(quantizer, types)
    else:
        recipes = load("ai_edge_quantizer.recipe", "tflite")
        quantizer.load_quantization_recipe(getattr(recipes, precision)())
    return quantizer


def _layers(content: bytes) -> list[Layer]:
    """List the operators that the quantizer knows, by the names that it has for them."""
    naming = load("ai_edge_quantizer.utils.tfl_flatbuffer_utils", "tflite")
    schema = load("ai_edge_litert.schema_py_generated", "tflite")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    layers = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = naming.TFL_OP_CODE_TO_NAME.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
            if kind is not None:
                layers.append(Layer(naming.get_op_scope(operator, graph.tensors), kind.value))
    return layers


def _cast_weights(quantizer: Any, types: Any) -> None:
    casting = load("ai_edge_quantizer.algorithms.nonlinear_quantize.float_casting", "tflite")
    half = types.TensorQuantizationConfig(num_bits=16, dtype=types.TensorDataType.FLOAT)
    wanted = types.OpQuantizationConfig(
        weight_tensor_config=half, compute_precision=types.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    for kind in sorted(casting.SUPPORTED_WEIGHT_QUANT_OPS):
        quantizer.update_quantization_recipe(".*", kind, wanted, algorithm_key=casting.ALGORITHM_KEY)


def _ranges(content: bytes, precision: str, samples: Samples) -> Any:
    """Observe the smallest and the largest value of each tensor: the quantizer's own way, a moving average, clips."""
    calibrators, managers = (load(f"ai_edge_quantizer.{name}", "tflite") for name in ("calibrator", "recipe_manager"))
    manager = managers.RecipeManager()
    manager.load_quantization_recipe(_quantizer(content, precision).get_quantization_recipe())
    calibrator = calibrators.Calibrator(
        content,
        num_threads=1,
        mode=calibrators.CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS,
        qsv_update_func=load("ai_edge_quantizer.utils.qsv_utils", "tflite").min_max_update,
    )
    (signature,) = _signatures(content)
    calibrator.calibrate({signature: samples}, manager)
    return calibrator.get_model_qsvs()


def _signatures(content: bytes) -> list[str]:
    schema = load("ai_edge_litert.schema_py_generated", "tflite")
    model = schema.Model.GetRootAs(content, 0)
    return [model.SignatureDefs(at).SignatureKey().decode() for at in range(model.SignatureDefsLength())]
