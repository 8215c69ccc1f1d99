"""Which files beside an ONNX model hold its weights, read from the protobuf bytes without the onnx package.

Only the fields on the way from ``ModelProto`` to ``TensorProto.external_data`` are opened (``onnx.proto``, IR version 4
and later); weights inside the model are skipped unread.
"""

from __future__ import annotations

from collections.abc import Iterator


def external_files(model: bytes) -> set[str]:
    """Return the locations named in ``external_data``, relative to the model's folder.

    Raises ``ValueError`` when the bytes are no ONNX model.
    """
    found: set[str] = set()
    graphs = 0
    todo = [("model", memoryview(model))]
    while todo:
        message, data = todo.pop()
        content = [(number, inner) for number, inner in fields(data) if isinstance(inner, memoryview)]
        graphs += message == "graph"
        todo += [(INSIDE[message][number], inner) for number, inner in content if number in INSIDE[message]]
        if message == "entry":
            pair = {number: bytes(inner) for number, inner in content}
            found |= {pair.get(2, b"").decode()} if pair.get(1) == b"location" else set()
    if not graphs:
        raise ValueError("it holds no graph")
    return found


def fields(data: memoryview, numbers: bool = False) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and content of every length-delimited field of one message, and of ``numbers`` where asked."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = varint(data, at)
            if numbers:
                yield number, value
            continue
        if wire == 2:
            size, at = varint(data, at)
        elif wire in FIXED:
            size = FIXED[wire]
        else:
            raise ValueError(f"it has a field of the unknown wire type {wire}")
        if not number or at + size > len(data):
            raise ValueError("it is cut off or is no protobuf message")
        if wire == 2:
            yield number, data[at : at + size]
        at += size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a base-128 number; return it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is cut off or is no protobuf message")


# Bytes of a field by wire type.
FIXED = {1: 8, 5: 4}

# Message -> field number -> the message inside it.
INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
