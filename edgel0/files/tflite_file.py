"""What does a TFLite file hold? Read from its FlatBuffers bytes (LiteRT's ``schema.fbs``) without a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgel0.files.flatbuffer import Table, root
from edgel0.files.graph import Graph, MalformedError, Operator, Tensor, stored_bytes
from edgel0.files.tflite_names import OPERATORS, TYPES


def read_tflite(data: memoryview, path: Path) -> Graph:
    """Read a TFLite model; its first subgraph is the graph, the others run an unknown number of times.

    Raises :class:`MalformedError` for bytes that are no TFLite model, or whose tensors do not fit what
    is stored for them.
    """
    model = root(data, b"TFL3")
    codes = [_kind(code) for code in model.tables(1)]
    buffers = [_stored(buffer, data) for buffer in model.tables(4)]
    operators: list[Operator] = []
    tensors: dict[str, Tensor] = {}
    ends: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    holders: dict[int, str] = {}  # buffer -> the first tensor in it
    for index, subgraph in enumerate(model.tables(2)):
        names = _tensors_(tensors, holders, subgraph, buffers, f"subgraph {index}/" if index else "")
        inputs, outputs = (_picked(names, subgraph.numbers(slot)) for slot in (1, 2))
        for position, operator in enumerate(subgraph.tables(3)):
            operators.append(_operator(operator, codes, names, f"{index or ''}{':' if index else ''}{position}"))
        ends.append((inputs, outputs))
    if not ends:
        raise MalformedError("it holds no graph")
    return Graph(
        path=path,
        format="tflite",
        operators=tuple(operators),
        tensors=tensors,
        inputs=ends[0][0],
        outputs=ends[0][1],
        metadata=_metadata(model, buffers),
        opset=model.number(0, "<I"),
        producer=model.text(3),
    )


def _kind(code: Table) -> str:
    """Return an operator's kind; numbers above 126 are in the newer of its two fields."""
    number = max(code.number(0, "<b"), code.number(3))
    if not 0 <= number < len(OPERATORS):
        return f"unknown operator {number}"
    return f"CUSTOM {code.text(1)}" if OPERATORS[number] == "CUSTOM" else OPERATORS[number]


def _stored(buffer: Table, data: memoryview) -> memoryview:
    """Return a buffer's content, which in a file of more than 2 GB lies behind the tables."""
    begin, size = buffer.number(1, "<Q"), buffer.number(2, "<Q")
    if begin <= 1:  # 0: not used, 1: a place holder that converters leave
        return buffer.bytes(0)
    if begin + size > len(data):
        raise MalformedError("it is cut off, or a weight in it reaches beyond its end")
    return data[begin : begin + size]


def _tensors_(
    tensors: dict[str, Tensor], holders: dict[int, str], subgraph: Table, buffers: list[memoryview], prefix: str
) -> list[str]:
    """Add a subgraph's tensors; return their names, made unique, for in TFLite they need not be."""
    names = []
    for index, table in enumerate(subgraph.tables(0)):
        name = prefix + (table.text(3) or f"tensor {index}")
        name = name if name not in tensors else f"{name}#{index}"
        tensors[name] = _tensor(table, name, buffers, holders)
        names.append(name)
    return names


def _tensor(table: Table, name: str, buffers: list[memoryview], holders: dict[int, str]) -> Tensor:
    shape, number, buffer = table.numbers(0), table.number(1, "<b"), table.number(2, "<I")
    if buffer >= max(1, len(buffers)):
        raise MalformedError("a tensor refers to a buffer that is not there")
    dtype = TYPES[number] if 0 <= number < len(TYPES) else "unknown"
    needed = stored_bytes(shape, dtype)
    there = len(buffers[buffer]) if buffer else 0
    details = table.table(4)
    quantized = details is not None and details.count(2) > 0
    outside = table.number(10, "<I") > 0
    if not there and not outside:
        return Tensor(name, shape, dtype, needed, quantized=quantized)
    sparse = table.table(6) is not None
    if there and needed is not None and needed != there and not sparse:
        raise MalformedError(f"a weight needs {needed:,} bytes for its shape and has {there:,}")
    first = holders.setdefault(buffer, name) if there else name
    return Tensor(
        name, shape, dtype, there or needed, constant=True, quantized=quantized, shares="" if first == name else first
    )


def _operator(table: Table, codes: list[str], names: list[str], index: str) -> Operator:
    """Read one operator; it is called after its place, for operators have no names."""
    code = table.number(0, "<I")
    if code >= len(codes):
        raise MalformedError("an operator's kind is not in its list of kinds")
    kind = codes[code]
    options, attributes = table.table(4), {}
    if options is not None and kind in SETTINGS:
        attributes = {name: options.number(slot, "<b") for name, slot in SETTINGS[kind].items()}
    inputs, outputs = _picked(names, table.numbers(1)), _picked(names, table.numbers(2))
    return Operator(f"{kind} {index}", kind, inputs, outputs, attributes=attributes, repeated=":" in index)


def _picked(names: list[str], numbers: tuple[int, ...]) -> tuple[str, ...]:
    """Return tensors' names; -1 is an input that is left out."""
    if any(number < -1 or number >= len(names) for number in numbers):
        raise MalformedError("an operator or the graph refers to a tensor that is not there")
    return tuple(names[number] if number >= 0 else "" for number in numbers)


def _metadata(model: Table, buffers: list[memoryview]) -> Mapping[str, str]:
    """Return what the file says of itself, by name; what is no text is left out."""
    found = {}
    for entry in model.tables(6):
        name, buffer = entry.text(0), entry.number(1, "<I")
        if buffer >= len(buffers):
            raise MalformedError("its metadata refer to a buffer that is not there")
        try:
            found[name] = bytes(buffers[buffer]).rstrip(b"\0").decode()
        except UnicodeDecodeError:
            continue
    return found


# Kind -> the settings that its multiply-accumulates depend on, by slot.
SETTINGS = {"BATCH_MATMUL": {"adj_x": 0, "adj_y": 1}}
