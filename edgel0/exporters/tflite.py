"""How is a program written as TFLite? With batch norms folded, under the program's own names, in either layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from edgel0.errors import UsageError
from edgel0.exporters.foreign import foreign, load
from edgel0.exporters.fusion import fuse_batch_norm
from edgel0.exporters.order import Order
from edgel0.exporters.runtimes import arrays
from edgel0.exporters.signature import Signature, channels_last, example, signature
from edgel0.exporters.tflite_precision import partitions, requantized
from edgel0.exporters.tidying import tidy_
from edgel0.files.reading import moving_parts

LAYOUTS = ("nchw", "nhwc")


def write_tflite(program: ExportedProgram, path: Path, order: Order) -> dict[str, Any]:
    """Write a program as a TFLite file; the same program and samples give the same bytes.

    With ``layout="nhwc"`` every 4-D input is channels-last; outputs keep the program's layout. 64-bit integers become
    32-bit, as runtimes want them. Samples come in the program's layout; inputs and outputs of a file with integer
    activations are integers, too. Returns the provenance as the file carries it, in the metadata entry ``edgel0``: what
    was given and an entry ``tflite`` with the layout, operators and transposes, in how many partitions the delegate
    runs the file, the kinds of operators outside of them, and what was kept in float32.
    """
    layout = order.layout
    if layout not in LAYOUTS:
        raise UsageError(f"the layout is {layout!r}; it must be one of {', '.join(map(repr, LAYOUTS))}.")
    order.refuse_batch("TFLite")
    litert = load("litert_torch", "tflite")
    names, inputs = signature(program), example(program)
    module: torch.nn.Module = fuse_batch_norm(program)
    with foreign("the LiteRT converter", order.log):
        if layout == "nhwc":
            images = [index for index, tensor in enumerate(inputs) if tensor.ndim == 4]
            module = litert.to_channel_last_io(module, args=images).eval()
            inputs = tuple(map(channels_last, inputs))
        content = _edited(litert.convert(module, inputs).model_content(), tidy_)
        told: dict[str, Any] = {"kept_float": []}
        if order.precision != "float32":
            given = [tuple(map(channels_last, s)) if layout == "nhwc" else s for s in order.samples]
            named = [dict(zip(names.inputs, map(_narrow, arrays(sample)), strict=True)) for sample in given]
            kept, left = requantized(_edited(content, lambda model: _name_(model, names)), order, named)
            content, told = kept.content, {"kept_float": left, **kept.told()}
        count, outside = partitions(content)
        told = {"layout": layout, "partitions": count, "outside": outside, **moving_parts(content, ".tflite"), **told}
        carried = {**order.provenance, "tflite": told}

        def label_(model: Any) -> None:
            if order.precision == "float32":
                _name_(model, names)
            _note_(model, json.dumps(carried, sort_keys=True, separators=(",", ":")))

        content = _edited(content, label_)
    path.write_bytes(content)
    return carried


def _narrow(array: np.ndarray) -> np.ndarray:
    """Make 32-bit integers of 64-bit ones, as the converter does."""
    return array.astype(np.int32) if array.dtype == np.int64 else array


def _edited(content: bytes, edit_: Callable[[Any], None]) -> bytes:
    """Take a TFLite file apart, which takes a while for a large one, change it, and put it together again."""
    schema = load("ai_edge_litert.schema_py_generated", "tflite")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # the quantizer lays larger ones behind the FlatBuffer, where Pack would lose them
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    edit_(model)
    builder = load("flatbuffers", "tflite").Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _name_(model: Any, names: Signature) -> None:
    """Put the program's names into the signature, which has ``args_0``, ``output_0``, ... so far."""
    (named,) = model.signatureDefs
    for entries, prefix, wanted in ((named.inputs, "args", names.inputs), (named.outputs, "output", names.outputs)):
        entries.sort(key=lambda entry: int(entry.name.decode().rpartition("_")[2]))
        if [entry.name.decode() for entry in entries] != [f"{prefix}_{index}" for index in range(len(wanted))]:
            raise UsageError(f"the converter named {[e.name for e in entries]} where {list(wanted)} was expected.")
        for entry, name in zip(entries, wanted, strict=True):
            entry.name = name


def _note_(model: Any, provenance: str) -> None:
    """Put the provenance into the metadata."""
    schema = load("ai_edge_litert.schema_py_generated", "tflite")
    buffer, note = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(provenance.encode(), dtype=np.uint8)
    note.name, note.buffer = "edgel0", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), note]
