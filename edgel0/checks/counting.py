"""What a file's own graph tells: how many operators and transposes it has, and what the weights of each layer are.

Read from the protobuf bytes of an ONNX model (``onnx.proto``) without the onnx package. What needs shapes (MACs,
activations) is not in every file; the exporter's JSON has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from edgel0.checks.onnx_files import fields, varint
from edgel0.checks.paths import printable

Message = dict[int, list[memoryview | int]]


@dataclass(frozen=True)
class Counts:
    """Figures of the whole file by metric, and of each layer by its name."""

    figures: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def count_onnx(model: bytes) -> Counts:
    """Count an ONNX model; a weight that several operators read is the first one's.

    Raises ``ValueError`` when the bytes are no ONNX model.
    """
    graph = _message(_one(_message(memoryview(model)), 7))
    weights = {name: amount for tensor in graph.get(5, []) for name, amount in _weight(_message(tensor))}
    kinds, layers = [], {}
    for number, content in enumerate(graph.get(1, [])):
        node = _message(content)
        kinds.append(_text(node, 4))
        if _text(node, 4) == "Constant":
            continue
        mine = [weights.pop(name) for name in map(_decoded, node.get(1, [])) if name in weights]
        if mine:
            name = printable(_text(node, 3)) or f"{printable(_text(node, 4))} {number}"
            name = name if name not in layers else f"{name} {number}"
            layers[name] = {key: sum(row[key] for row in mine) for key in ("params", "weight_bytes")}
    total = {key: sum(row[key] for row in [*layers.values(), *weights.values()]) for key in ("params", "weight_bytes")}
    if any(amount >= 2**63 for amount in total.values()):
        raise ValueError("its tensors are larger than any file")
    operators = sum(kind != "Constant" for kind in kinds)
    return Counts({**total, "operators": operators, "transposes": kinds.count("Transpose")}, layers)


def _weight(tensor: Message) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield name and amount of one initializer whose elements have a size that is known."""
    dims = [number for part in tensor.get(1, []) for number in ([part] if isinstance(part, int) else _packed(part))]
    kind = tensor.get(2, [0])[-1]
    if len(dims) > 64:
        raise ValueError("it has a tensor of more than 64 dimensions")
    if kind in BITS:
        elements = math.prod(dims)
        yield _text(tensor, 8), {"params": elements, "weight_bytes": -(-elements * BITS[kind] // 8)}


def _message(content: memoryview | int) -> Message:
    """Return the fields of one message by number."""
    if isinstance(content, int):
        raise ValueError("it is no protobuf message of an ONNX model")
    found: Message = {}
    for number, value in fields(content, numbers=True):
        found.setdefault(number, []).append(value)
    return found


def _packed(content: memoryview) -> Iterator[int]:
    at = 0
    while at < len(content):
        value, at = varint(content, at)
        yield value


def _one(message: Message, number: int) -> memoryview | int:
    if number not in message:
        raise ValueError("it holds no graph")
    return message[number][-1]


def _text(message: Message, number: int) -> str:
    return _decoded(message[number][-1]) if number in message else ""


def _decoded(content: memoryview | int) -> str:
    return "" if isinstance(content, int) else bytes(content).decode("utf-8", "replace")


# TensorProto.DataType -> bits of one element; strings have no size.
BITS = {
    **dict.fromkeys((1, 6, 12), 32), **dict.fromkeys((2, 3, 9), 8), **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((7, 11, 13, 14), 64), 15: 128, **dict.fromkeys((17, 18, 19, 20), 8), 21: 4, 22: 4, 23: 4,
}  # fmt: skip

# Suffix of a file -> what counts its bytes.
COUNTERS: dict[str, Callable[[bytes], Counts]] = {".onnx": count_onnx}
