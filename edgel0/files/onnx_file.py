"""What does an ONNX file hold? Read from its protobuf bytes (``onnx.proto``) without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.files.graph import LARGEST, Graph, MalformedError, Operator, Tensor, stored_bytes
from edgel0.files.protobuf import Message

DEPTH = 32  # branches within branches


@dataclass
class Reading:
    """What has been read so far, the graphs of branches and loops included."""

    path: Path
    operators: list[Operator] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    external: dict[str, int] = field(default_factory=dict)
    samples: set[str] = field(default_factory=set)  # names of the first axis of inputs: any number of samples
    known: set[str] = field(default_factory=set)  # full names of what has been made so far


def read_onnx(data: memoryview, path: Path) -> Graph:
    """Read an ONNX model; an axis for any number of samples counts as one sample.

    External data count with the bytes the model declares; a file outside of the model's folder, or one that is missing
    or shorter than that, raises :class:`MalformedError`, and so does anything that is no ONNX model.
    """
    model = Message(data)
    graph = model.message(7)
    if graph is None:
        raise MalformedError("it holds no graph")
    found = Reading(path)
    inputs = [value.text(1) for value in graph.messages(11)]
    outputs = tuple(value.text(1) for value in graph.messages(12))
    _graph_(found, graph, ("",))
    if not found.operators and not outputs:
        raise MalformedError("its graph is empty")
    opsets = {each.text(1): each.number(2) for each in model.messages(8)}
    return Graph(
        path=path,
        format="onnx",
        operators=tuple(found.operators),
        tensors=found.tensors,
        inputs=tuple(name for name in inputs if not _constant(found, name)),
        outputs=outputs,
        metadata={entry.text(1): entry.text(2) for entry in model.messages(14)},
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        producer=" ".join(filter(None, (model.text(2), model.text(3)))),
        external=found.external,
    )


def _constant(found: Reading, name: str) -> bool:
    return name in found.tensors and found.tensors[name].constant


def _graph_(found: Reading, graph: Message, scopes: tuple[str, ...]) -> None:
    """Read one graph; what a branch makes gets the branch's prefix, for it hides the same name outside."""
    if len(scopes) > DEPTH:
        raise MalformedError(f"it nests more than {DEPTH} graphs")
    prefix = scopes[-1]
    if not prefix:
        for value in graph.messages(11):
            found.samples |= {axis for axis in _axes(value)[:1] if isinstance(axis, str) and axis}
    for number in (11, 12, 13):
        for value in graph.messages(number):
            _value_(found, value, prefix)
            found.known |= {prefix + value.text(1)} if number == 11 else set()
    for weight in graph.messages(5):
        _weight_(found, weight, prefix + weight.text(8))
    for sparse in graph.messages(15):
        _sparse_(found, sparse, prefix)
    for index, node in enumerate(graph.messages(1)):
        _node_(found, node, index, scopes)


def _node_(found: Reading, node: Message, index: int, scopes: tuple[str, ...]) -> None:
    """Read one node; a constant is a tensor, not an operator."""
    domain, kind = node.text(7), node.text(4)
    kind = kind if domain in ("", "ai.onnx") else f"{domain}.{kind}"
    attributes = dict(_attributes(node))
    outputs = tuple(scopes[-1] + name if name else "" for name in node.texts(2))
    if kind == "Constant" and outputs:
        value = attributes.get("value")
        _weight_(found, value if isinstance(value, Message) else None, outputs[0], attributes)
        return
    name = scopes[-1] + (node.text(3) or f"{kind}_{index}")
    plain = {key: value for key, value in attributes.items() if not isinstance(value, (Message, list))}
    inputs = tuple(_resolved(found, given, scopes) for given in node.texts(1))
    found.operators.append(Operator(name, kind, inputs, outputs, attributes=plain, repeated=len(scopes) > 1))
    for key, value in attributes.items():
        for branch in value if isinstance(value, list) else ():
            _graph_(found, branch, (*scopes, f"{name}/{key}/"))
    found.known.update(outputs)


def _resolved(found: Reading, name: str, scopes: tuple[str, ...]) -> str:
    """Return the full name of what a node reads: its own graph's, or that of the nearest graph around it."""
    known = (prefix + name for prefix in reversed(scopes) if prefix + name in found.known)
    return next(known, scopes[-1] + name) if name else ""


def _attributes(node: Message) -> Iterator[tuple[str, Any]]:
    """Yield name and value: a number, numbers, text, a tensor's message, or a list of the graphs' messages."""
    for attribute in node.messages(5):
        name = attribute.text(1)
        if 5 in attribute:
            yield name, attribute.message(5)
        elif 6 in attribute or 11 in attribute:
            yield name, [*attribute.messages(6), *attribute.messages(11)]
        elif 8 in attribute:
            yield name, attribute.numbers(8, 4096)
        elif 4 in attribute:
            yield name, attribute.text(4)
        elif 3 in attribute or attribute.number(20) == 2:
            yield name, attribute.number(3)


def _axes(value: Message) -> list[int | str]:
    """Return the axes of a declared value: numbers, or names of what may vary; a MalformedError if it has no shape."""
    kind = value.message(2)
    tensor = kind.message(1) if kind else None
    shape = tensor.message(2) if tensor else None
    if shape is None:
        return []
    axes: list[int | str] = []
    for axis in shape.messages(1):
        axes.append(axis.number(1) if 1 in axis else axis.text(2))
        if len(axes) > 64:
            raise MalformedError("it has a tensor of more than 64 axes")
    return axes


def _value_(found: Reading, value: Message, prefix: str) -> None:
    """Note the type and shape of an activation, where they are declared."""
    kind = value.message(2)
    tensor = kind.message(1) if kind else None
    if tensor is None:
        return
    dtype = TYPES.get(tensor.number(1), "unknown")
    axes = [1 if axis in found.samples else axis for axis in _axes(value)]
    known = 2 in tensor and all(isinstance(axis, int) and axis >= 0 for axis in axes)
    shape = tuple(int(axis) for axis in axes) if known else None
    name = prefix + value.text(1)
    found.tensors[name] = Tensor(name, shape, dtype, None if shape is None else stored_bytes(shape, dtype))


def _weight_(found: Reading, tensor: Message | None, name: str, attributes: Mapping[str, Any] | None = None) -> None:
    """Note a constant, and check that as many bytes are stored for it as its shape asks for."""
    if tensor is None:  # a constant given as numbers among the settings
        values = next((v for v in (attributes or {}).values() if isinstance(v, (int, tuple))), 0)
        size = (len(values),) if isinstance(values, tuple) else tuple[int, ...]()
        _constant_(found, Tensor(name, size, "int64", stored_bytes(size, "int64"), constant=True))
        return
    shape, dtype = tensor.numbers(1), TYPES.get(tensor.number(2), "unknown")
    expected = stored_bytes(shape, dtype)
    if tensor.number(14) == 1:
        _external_(found, tensor, expected)
    elif expected is None:
        expected = tensor.size(6)
    elif 9 in tensor:
        if tensor.size(9) != expected:
            raise MalformedError(f"a weight needs {expected:,} bytes for its shape and has {tensor.size(9):,}")
    elif sum(map(tensor.size, (4, 5, 7, 10, 11))) < (expected if dtype in ("float32", "float64") else expected // 16):
        raise MalformedError(f"a weight needs {expected:,} bytes for its shape and has fewer")
    _constant_(found, Tensor(name, shape, dtype, expected, constant=True))


def _constant_(found: Reading, tensor: Tensor) -> None:
    found.tensors[tensor.name] = tensor
    found.known.add(tensor.name)


def _external_(found: Reading, tensor: Message, expected: int | None) -> None:
    """Check a weight that lies in another file, which is looked at only inside of the model's folder."""
    entries = {entry.text(1): entry.text(2) for entry in tensor.messages(13)}
    location, folder = entries.get("location", ""), found.path.parent.resolve()
    try:
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise MalformedError("its external data lie outside of its folder")
        if not file.is_file():
            raise MalformedError(f"its external data file {Path(location).name!r} is missing")
        size = file.stat().st_size
        begin, length = int(entries.get("offset") or 0), int(entries.get("length") or expected or 0)
    except (OSError, RuntimeError) as error:
        raise MalformedError("its external data are a loop of links or have an impossible name") from error
    except MalformedError:
        raise
    except ValueError as error:
        raise MalformedError("the place of its external data is not a number") from error
    if not 0 <= begin <= begin + length <= min(size, LARGEST) or (expected is not None and length != expected):
        raise MalformedError(f"a weight does not fit its place in the external data file {file.name!r}")
    found.external[location] = size


def _sparse_(found: Reading, sparse: Message, prefix: str) -> None:
    """Note a sparse constant: its values and indices are what is stored."""
    values, indices = sparse.message(1), sparse.message(2)
    if values is None or indices is None:
        raise MalformedError("it has a sparse weight without values")
    name = prefix + values.text(8)
    for part, into in ((indices, f"{name}.indices"), (values, name)):
        _weight_(found, part, into)


# TensorProto.DataType -> NumPy's name, or what comes nearest.
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2", 27: "float6e2m3", 28: "float6e3m2",
}  # fmt: skip
