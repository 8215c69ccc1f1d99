"""How many multiply-accumulates is one operator of a file? MACS: kind -> function of its shapes.

Only contractions count, as in ``edgel0.cost``: convolutions, matrix products and recurrent layers; element-wise
operators and normalisation do not. 1 MAC = 1 multiply-accumulate = 2 FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgel0.files.graph import Operator

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]


class ShapelessError(LookupError):
    """A shape that is needed is not in the file."""


Rule = Callable[[Operator, Shapes, Shapes], int]


def known(shapes: Shapes, index: int, rank: int = 0) -> Shape:
    """Return one shape of at least ``rank`` axes, or raise :class:`ShapelessError`."""
    shape = shapes[index] if -len(shapes) <= index < len(shapes) else None
    if shape is None or len(shape) < rank:
        raise ShapelessError
    return shape


def convolution(weight: int) -> Rule:
    """ONNX: each output element contracts a kernel of (out, in / groups, ...)."""

    def rule(operator: Operator, given: Shapes, made: Shapes) -> int:
        return math.prod(known(made, 0)) * math.prod(known(given, weight, 2)[1:])

    return rule


def transposed(operator: Operator, given: Shapes, made: Shapes) -> int:
    """ONNX: each input element is spread by a kernel of (in, out / groups, ...)."""
    return math.prod(known(given, 0)) * math.prod(known(given, 1, 2)[1:])


def product(operator: Operator, given: Shapes, made: Shapes) -> int:
    """ONNX: each output element contracts the last axis of the first operand, or the one before."""
    left = known(given, 0, 1)
    turned = operator.attributes.get("transA") == 1 and len(left) > 1
    return math.prod(known(made, 0)) * left[-2 if turned else -1]


def block_quantized(operator: Operator, given: Shapes, made: Shapes) -> int:
    """Multiply a matrix of K columns with weights packed in blocks (com.microsoft.MatMulNBits)."""
    return math.prod(known(made, 0)) * int(operator.attributes.get("K", 0))


def recurrent(operator: Operator, given: Shapes, made: Shapes) -> int:
    """ONNX: each step of each sequence contracts W and R, of (directions, gates * hidden, ...)."""
    steps = math.prod(known(given, 0, 3)[:2])
    return steps * (math.prod(known(given, 1, 3)) + math.prod(known(given, 2, 3)))


def einsum(operator: Operator, given: Shapes, made: Shapes) -> int:
    """Multiply the sizes of all indices where two operands share one that is summed over."""
    terms, arrow, result = str(operator.attributes.get("equation", "")).replace(" ", "").partition("->")
    operands = terms.split(",")
    if not arrow or len(operands) != 2 or "." in terms or len(given) != 2:
        raise ShapelessError
    sizes = {
        letter: size for i, term in enumerate(operands) for letter, size in zip(term, known(given, i), strict=False)
    }
    return math.prod(sizes.values()) if set(operands[0]) & set(operands[1]) - set(result) else 0


def lite_convolution(operator: Operator, given: Shapes, made: Shapes) -> int:
    """TFLite: kernels of (out, height, width, in / groups)."""
    return math.prod(known(made, 0)) * math.prod(known(given, 1, 2)[1:])


def lite_depthwise(operator: Operator, given: Shapes, made: Shapes) -> int:
    """TFLite: kernels of (1, height, width, channels), each over one channel."""
    return math.prod(known(made, 0)) * math.prod(known(given, 1, 4)[1:3])


def lite_transposed(operator: Operator, given: Shapes, made: Shapes) -> int:
    """TFLite: kernels of (out, height, width, in), data third; each input element is spread by out kernels."""
    return math.prod(known(given, 2)) * math.prod(known(given, 1, 4)[:3])


def lite_volume(operator: Operator, given: Shapes, made: Shapes) -> int:
    """TFLite: kernels of (depth, height, width, in, out)."""
    return math.prod(known(made, 0)) * math.prod(known(given, 1, 5)[:4])


def lite_volume_transposed(operator: Operator, given: Shapes, made: Shapes) -> int:
    """TFLite: kernels of (depth, height, width, out, in), data third."""
    return math.prod(known(given, 2)) * math.prod(known(given, 1, 5)[:4])


def lite_linear(operator: Operator, given: Shapes, made: Shapes) -> int:
    """TFLite: weights of (out, in)."""
    return math.prod(known(made, 0)) * known(given, 1, 2)[1]


def lite_product(operator: Operator, given: Shapes, made: Shapes) -> int:
    """TFLite: each output element contracts the last axis of the first operand, or the one before."""
    return math.prod(known(made, 0)) * known(given, 0, 2)[-2 if operator.attributes.get("adj_x") else -1]


def lite_recurrent(*matrices: int) -> Rule:
    """TFLite: each step contracts every matrix among these inputs; those that are left out are zero."""

    def rule(operator: Operator, given: Shapes, made: Shapes) -> int:
        steps = math.prod(known(given, 0, 1)[:-1])
        present = [i for i in matrices if i < len(operator.inputs) and operator.inputs[i]]
        return steps * sum(math.prod(known(given, i, 2)) for i in present)

    return rule


MACS: dict[str, dict[str, Rule]] = {
    "onnx": {
        "Conv": convolution(1),
        "ConvInteger": convolution(1),
        "QLinearConv": convolution(3),
        "com.microsoft.QLinearConv": convolution(3),
        "com.microsoft.FusedConv": convolution(1),
        "ConvTranspose": transposed,
        "Gemm": product,
        "MatMul": product,
        "MatMulInteger": product,
        "QLinearMatMul": product,
        "Einsum": einsum,
        "com.microsoft.FusedGemm": product,
        "com.microsoft.FusedMatMul": product,
        "com.microsoft.TransposeMatMul": product,
        "com.microsoft.QGemm": product,
        "com.microsoft.MatMulIntegerToFloat": product,
        "com.microsoft.DynamicQuantizeMatMul": product,
        "com.microsoft.MatMulNBits": block_quantized,
        "RNN": recurrent,
        "GRU": recurrent,
        "LSTM": recurrent,
    },
    "tflite": {
        "CONV_2D": lite_convolution,
        "DEPTHWISE_CONV_2D": lite_depthwise,
        "TRANSPOSE_CONV": lite_transposed,
        "CONV_3D": lite_volume,
        "CONV_3D_TRANSPOSE": lite_volume_transposed,
        "FULLY_CONNECTED": lite_linear,
        "BATCH_MATMUL": lite_product,
        "LSTM": lite_recurrent(1, 2, 3, 4, 5, 6, 7, 8, 16),
        "UNIDIRECTIONAL_SEQUENCE_LSTM": lite_recurrent(1, 2, 3, 4, 5, 6, 7, 8, 16),
        "RNN": lite_recurrent(1, 2),
        "UNIDIRECTIONAL_SEQUENCE_RNN": lite_recurrent(1, 2),
    },
}

# Kinds that multiply and accumulate in a way nobody here counts; the count of the whole is then not known.
UNCOUNTED = frozenset(
    """
    Attention DeformConv DFT STFT RotaryEmbedding LinearRegressor LinearClassifier SVMClassifier SVMRegressor
    SVDF BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN RFFT2D DELEGATE CALL STABLEHLO_CONVOLUTION
    STABLEHLO_DOT_GENERAL STABLEHLO_COMPOSITE STABLEHLO_CUSTOM_CALL
    """.split()  # noqa: SIM905  a list of words reads best as words
)

# What onnxruntime's own quantizers and optimizers leave, and what multiplies nothing.
HARMLESS = frozenset(
    f"com.microsoft.{name}"
    for name in """
    QLinearAdd QLinearMul QLinearLeakyRelu QLinearSigmoid QLinearSoftmax QLinearConcat QLinearAveragePool
    QLinearGlobalAveragePool QLinearReduceMean QLinearWhere QuantizeLinear DequantizeLinear Gelu FastGelu BiasGelu
    QuickGelu LayerNormalization SkipLayerNormalization SimplifiedLayerNormalization NhwcMaxPool
    """.split()  # noqa: SIM905
)
