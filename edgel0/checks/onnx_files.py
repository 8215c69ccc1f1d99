"""Which files beside an ONNX model hold its weights, read from the protobuf bytes without the onnx package.

Only the fields on the way from ``ModelProto`` to ``TensorProto.external_data`` are opened (``onnx.proto``, IR version 4
and later); weights inside the model are skipped unread.
"""

from __future__ import annotations

from edgel0.files.protobuf import Message


def external_files(model: bytes) -> set[str]:
    """Return the locations named in ``external_data``, relative to the model's folder.

    Raises ``ValueError`` when the bytes are no ONNX model.
    """
    found: set[str] = set()
    graphs = 0
    todo = [("model", Message(memoryview(model)))]
    while todo:
        kind, message = todo.pop()
        graphs += kind == "graph"
        todo += [(inner, each) for number, inner in INSIDE[kind].items() for each in message.messages(number)]
        if kind == "entry" and message.text(1) == "location":
            found.add(bytes(message.data(2)).decode())
    if not graphs:
        raise ValueError("it holds no graph")
    return found


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
