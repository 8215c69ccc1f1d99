"""What does a file cost? Multiply-accumulates, parameters, bytes of weights and activations, from its own graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgel0.errors import UsageError
from edgel0.files.graph import LARGEST, Graph, Operator, Tensor, stored_bytes
from edgel0.files.macs import HARMLESS, MACS, UNCOUNTED, ShapelessError


@dataclass(frozen=True)
class Figures:
    """What one inference of one sample costs; None where ``unknown`` says why.

    ``params`` are elements of learned constants: no shapes, scales, statistics of batch norms or single numbers.
    ``weight_bytes`` are those of all constants as they are kept, by type in ``weights``. ``activation_bytes`` is the
    peak of live activations when the operators run in the file's order: inputs and outputs of the running operator
    included, constants and the runtime's scratch memory excluded; a reshaped tensor shares what it was.
    """

    macs: int | None
    params: int
    weight_bytes: int
    weights: Mapping[str, int]
    activation_bytes: int | None
    operators: int
    transposes: int
    unknown: tuple[str, ...] = ()


def counted(graph: Graph) -> Graph:
    """Return the graph with each operator's MACs, parameters and weight bytes filled in."""
    graph = dataclasses.replace(graph, tensors=_inferred(graph))
    owners = _owners(graph)
    dequantized = {each.outputs[0] for each in graph.operators if each.kind in DEQUANTIZERS and each.outputs}
    seen: set[str] = set()
    operators = []
    for operator in graph.operators:
        params, size = 0, 0
        for place, name in enumerate(operator.inputs):
            weight = graph.tensors.get(owners.get(name, ""))
            if weight is None or weight.name in seen or (place == 0 and owners.keys() & operator.outputs):
                continue
            seen.add(weight.name)
            size += weight.bytes or 0
            params += _learned(operator, place, weight, scaled=name in dequantized)
        macs, note = _macs(graph, operator)
        operators.append(dataclasses.replace(operator, macs=macs, note=note, params=params, weight_bytes=size))
    return dataclasses.replace(graph, operators=tuple(operators))


def figures(graph: Graph) -> Figures:
    """Sum up a graph that :func:`counted` returned; a UsageError where a figure is larger than 2**63."""
    weights: dict[str, int] = {}
    for tensor in graph.tensors.values():
        if tensor.constant and not tensor.shares:
            weights[tensor.dtype] = weights.get(tensor.dtype, 0) + (tensor.bytes or 0)
    missing = [f"{each.name}: {each.note}" for each in graph.operators if each.macs is None]
    macs = None if missing else sum(each.macs or 0 for each in graph.operators)
    peak, why = _peak(graph)
    found = Figures(
        macs=macs,
        params=sum(each.params for each in graph.operators),
        weight_bytes=sum(weights.values()),
        weights=dict(sorted(weights.items())),
        activation_bytes=peak,
        operators=len(graph.operators),
        transposes=sum(each.kind in TRANSPOSES for each in graph.operators),
        unknown=(*missing, *([why] if why else [])),
    )
    if max(macs or 0, found.params, found.weight_bytes, peak or 0) > LARGEST:
        raise UsageError(
            f"the figures of {str(graph.path)!r} are larger than any model's; export or download it again."
        )
    return found


def _inferred(graph: Graph) -> dict[str, Tensor]:
    """Add the tensors whose shape is that of what they are made from, where the file does not tell it."""
    tensors = dict(graph.tensors)
    for operator in graph.operators:
        source = tensors.get(operator.inputs[0]) if operator.inputs else None
        if operator.kind not in ALIKE or not operator.outputs or source is None or source.shape is None:
            continue
        name, place = operator.outputs[0], ALIKE[operator.kind]
        if name not in tensors or tensors[name].shape is None:
            model = tensors.get(operator.inputs[place]) if place < len(operator.inputs) else None
            dtype = model.dtype if model else "uint8"
            tensors[name] = Tensor(name, source.shape, dtype, stored_bytes(source.shape, dtype))
    return tensors


def _macs(graph: Graph, operator: Operator) -> tuple[int | None, str]:
    """Return an operator's multiply-accumulates, or None and why."""
    rule = MACS[graph.format].get(operator.kind)
    if rule is None:
        foreign = "." in operator.kind and operator.kind not in HARMLESS
        unknown = foreign or operator.kind in UNCOUNTED or operator.kind.startswith(("CUSTOM", "unknown"))
        return (None, f"no rule counts {operator.kind}") if unknown else (0, "")
    if operator.repeated:
        return None, "it stands in a branch, a loop or another subgraph, which runs an unknown number of times"
    shapes = [[_shape(graph, name) for name in names] for names in (operator.inputs, operator.outputs)]
    try:
        return rule(operator, *shapes), ""
    except ShapelessError:
        return None, "the file does not tell a shape that its count needs"


def _shape(graph: Graph, name: str) -> tuple[int, ...] | None:
    return graph.tensors[name].shape if name in graph.tensors else None


def _owners(graph: Graph) -> dict[str, str]:
    """Return the constant that each constant, or what is cast or dequantized from one, is kept in."""
    owners = {name: each.shares or name for name, each in graph.tensors.items() if each.constant}
    for operator in graph.operators:
        if operator.kind in CARRIERS and operator.inputs and operator.outputs and operator.inputs[0] in owners:
            owners[operator.outputs[0]] = owners[operator.inputs[0]]
    return owners


def _learned(operator: Operator, place: int, weight: Tensor, scaled: bool) -> int:
    """Return how many parameters a constant is to the operator that reads it there."""
    if operator.kind in PACKED and place == 1:
        return int(operator.attributes.get("K", 0)) * int(operator.attributes.get("N", 0))
    if place in SETTINGS.get(operator.kind, ()) or not weight.shape:
        return 0
    if weight.dtype in WHOLE and not (scaled or weight.quantized) and place != BIASES.get(operator.kind):
        return 0
    return weight.elements or 0


def _peak(graph: Graph) -> tuple[int | None, str]:
    """Return the peak bytes of live activations, or None and why."""
    if any(operator.repeated for operator in graph.operators):
        return None, "peak activations: the file has branches, loops or several subgraphs"
    owner, last = _lifetimes(graph)
    bytes_of = {}
    for name in last:
        size = graph.tensors[name].bytes if name in graph.tensors else None
        if size is None:
            return None, f"peak activations: the file does not tell the shape of {name!r}"
        bytes_of[name] = size
    ends: dict[int, int] = {}
    for name, at in last.items():
        ends[at] = ends.get(at, 0) + bytes_of[name]
    live = peak = sum(bytes_of[name] for name in graph.inputs if name in bytes_of)
    for at, operator in enumerate(graph.operators):
        live += sum(bytes_of[name] for name in set(operator.outputs) if owner.get(name) == name)
        peak = max(peak, live)
        live -= ends.get(at, 0)
    return peak, ""


def _lifetimes(graph: Graph) -> tuple[dict[str, str], dict[str, int]]:
    """Return what each activation is kept in, and after which operator that is not needed any more."""
    fixed = {name for name, each in graph.tensors.items() if each.constant}
    owner = {name: name for name in graph.inputs}
    last = dict.fromkeys(graph.inputs, -1)
    for at, operator in enumerate(graph.operators):
        read = [name for name in operator.inputs if name]
        for name in read:
            if name in owner:
                last[owner[name]] = at
        made = [name for name in operator.outputs if name and name not in owner]
        if read and all(name in fixed for name in read):
            fixed.update(made)  # known before the first inference
            continue
        for name in made:
            shares = operator.kind in VIEWS and read and read[0] in owner
            owner[name] = owner[read[0]] if shares else name
            last[owner[name]] = at
    for name in graph.outputs:
        if name in owner:
            last[owner[name]] = len(graph.operators)
    return owner, last


def shares(graph: Graph) -> Iterator[tuple[Operator, float]]:
    """Yield each operator with its share of the MACs that are known."""
    total = sum(each.macs or 0 for each in graph.operators)
    for each in graph.operators:
        yield each, (each.macs or 0) / total if total else 0.0


# Kind whose output has the shape of its first input -> the input that has the output's type.
ALIKE = {
    **dict.fromkeys(
        """
        Relu LeakyRelu Elu Selu Celu Gelu Sigmoid HardSigmoid HardSwish Tanh Softmax LogSoftmax Softplus Softsign Erf
        Clip Identity Dropout BatchNormalization InstanceNormalization LayerNormalization GroupNormalization Abs Neg Exp
        Log Sqrt Sin Cos Floor Ceil Round Reciprocal Mish ThresholdedRelu PRelu LRN Sign
        """.split(),  # noqa: SIM905  a list of words reads best as words
        0,
    ),
    "QuantizeLinear": 2,
    "DequantizeLinear": 1,
}

TRANSPOSES = frozenset(("Transpose", "TRANSPOSE"))

# Kinds whose output is their first input in another type, order or shape: their constant belongs to the next reader.
CARRIERS = frozenset(
    ("DequantizeLinear", "com.microsoft.DequantizeLinear", "Cast", "Identity", "Transpose", "Reshape", "Unsqueeze",
     "Squeeze", "DEQUANTIZE", "CAST", "TRANSPOSE", "RESHAPE", "DENSIFY")
)  # fmt: skip

DEQUANTIZERS = frozenset(("DequantizeLinear", "com.microsoft.DequantizeLinear", "DEQUANTIZE"))

# Kinds whose output lies where their first input lies.
VIEWS = frozenset(
    ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
)

# Kind -> inputs that are settings or statistics, not parameters.
SETTINGS = {
    "BatchNormalization": (3, 4), "Clip": (1, 2), "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2),
    "com.microsoft.QuantizeLinear": (1, 2), "com.microsoft.DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7), "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3), "com.microsoft.QLinearConv": (1, 2, 4, 5, 6, 7), "com.microsoft.QGemm": (1, 2, 4, 5, 7, 8),
    "com.microsoft.MatMulIntegerToFloat": (2, 3, 4, 5), "com.microsoft.DynamicQuantizeMatMul": (2, 3),
    "com.microsoft.MatMulNBits": (2, 3, 4), "Resize": (1, 2, 3), "Pad": (1, 2, 3), "ConstantOfShape": (0,),
    "com.microsoft.QLinearAdd": (1, 2, 4, 5, 6, 7), "com.microsoft.QLinearMul": (1, 2, 4, 5, 6, 7),
    "com.microsoft.QLinearGlobalAveragePool": (1, 2, 3, 4), "com.microsoft.QLinearAveragePool": (1, 2, 3, 4),
    "com.microsoft.QLinearSigmoid": (1, 2, 3, 4), "com.microsoft.QLinearLeakyRelu": (1, 2, 3, 4),
    "com.microsoft.QLinearSoftmax": (1, 2, 3, 4), "Dropout": (1, 2), "Range": (0, 1, 2),
}  # fmt: skip

# Types of shapes and places; a bias in one of them is quantized.
WHOLE = frozenset(("int32", "int64", "uint32", "uint64", "bool", "string"))

# Kind -> its input that may be a 32-bit bias without a scale of its own.
BIASES = {"QLinearConv": 8, "com.microsoft.QLinearConv": 8, "com.microsoft.QGemm": 6}

PACKED = frozenset(("com.microsoft.MatMulNBits",))
