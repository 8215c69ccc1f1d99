"""Artefacts for the tests, made by hand: ONNX bytes field by field, and the JSON an exporter leaves beside a file."""

import hashlib
import json

TIMES = {"p10": 3.5, "p50": 4, "p90": 5.25, "board": "rpi4", "threads": 1, "pinned": True, "throttled": False}


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, content):
    """One length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def model(*locations, inside=b"\x01\x02\x03\x04"):
    """A ModelProto with one inner weight and one tensor for each external location."""
    tensors = field(5, field(8, b"inner") + field(9, inside))
    for location in locations:
        entry = field(1, b"location") + field(2, location.encode())
        offset = field(1, b"offset") + field(2, b"0")
        tensors += field(5, field(13, entry) + field(13, offset) + b"\x70\x01")
    return b"\x08\x0a" + field(7, tensors)


def sidecar(path, **changes):
    """Write ``<file>.json`` beside ``path`` and return its place."""
    record = {
        "schema": 1,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "format": "onnx",
        "precision": "float32",
        "cost": {"macs": 2_000_000, "params": 60_000, "weight_bytes": 240_000, "activation_bytes": 4096},
        "latency_ms": {"onnxruntime 1.32.0": TIMES},
        "of no concern": [],
    }
    beside = path.with_name(path.name + ".json")
    beside.write_text(json.dumps(record | changes))
    return beside
