"""What does a file hold? Its operators in the order they run, its tensors, and what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.errors import UsageError

LARGEST = 2**63 - 1
RANK = 64


@dataclass(frozen=True)
class Tensor:
    """One tensor; ``shape`` is None where the file does not tell it, and so are the ``bytes``.

    The bytes of a constant are those that the file keeps for it. ``quantized``: its integers stand for real numbers.
    ``shares`` names an earlier constant that is kept in the same place.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    bytes: int | None
    constant: bool = False
    quantized: bool = False
    shares: str = ""

    @property
    def elements(self) -> int | None:
        """Number of elements, where the shape is known."""
        return None if self.shape is None else math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """One operator, and what it costs: ``macs`` is None where ``note`` says why they cannot be told.

    ``inputs`` and ``outputs`` are names of tensors, "" for one that is left out. ``params`` and ``weight_bytes`` are
    those of the constants that it is the first to read. ``repeated``: it stands in a branch or a loop, which runs an
    unknown number of times.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int | None = 0
    params: int = 0
    weight_bytes: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    repeated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Graph:
    """One file: ``opset`` is the ONNX opset or the TFLite schema version; ``metadata`` is text by key.

    ``external`` are the files beside it that hold weights, and their bytes.
    """

    path: Path
    format: str
    operators: tuple[Operator, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]
    opset: int
    producer: str = ""
    external: Mapping[str, int] = field(default_factory=dict)


class MalformedError(ValueError):
    """The bytes are no file of the format; the text completes the sentence "it is not readable: ..."."""


def stored_bytes(shape: tuple[int, ...], dtype: str) -> int | None:
    """Return the bytes of a tensor, packed where elements are smaller than a byte; None for text.

    Raises :class:`MalformedError` for a shape that no memory holds.
    """
    if len(shape) > RANK or any(size < 0 for size in shape) or math.prod(shape) * 128 > LARGEST:
        raise MalformedError("it declares a tensor that no memory can hold")
    return -(-math.prod(shape) * BITS[dtype] // 8) if dtype in BITS else None


def provenance(graph: Graph) -> dict[str, Any] | None:
    """Return what edgel0 wrote into the file about its origin, or None where it is not edgel0's.

    Raises :class:`~edgel0.errors.UsageError` where that entry is not the JSON object that edgel0 writes.
    """
    import json

    text = graph.metadata.get("edgel0")
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            f"the metadata entry 'edgel0' of {graph.path.name!r} is no JSON object; export the file again."
        )
    return found


BITS = {
    "float32": 32, "float16": 16, "bfloat16": 16, "float64": 64, "complex64": 64, "complex128": 128,
    "int8": 8, "uint8": 8, "bool": 8, "int16": 16, "uint16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64,
    "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4e2m1": 4, "float6e2m3": 6, "float6e3m2": 6,
    "float8e4m3fn": 8, "float8e4m3fnuz": 8, "float8e5m2": 8, "float8e5m2fnuz": 8, "float8e8m0": 8,
}  # fmt: skip
