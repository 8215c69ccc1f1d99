"""How is a program written as TFLite? With batch norms folded, under the program's own names, in either layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from edgel0.errors import UsageError
from edgel0.exporters.foreign import foreign, load
from edgel0.exporters.fusion import fuse_batch_norm
from edgel0.exporters.signature import Signature, channels_last, example, signature

LAYOUTS = ("nchw", "nhwc")


def write_tflite(
    program: ExportedProgram, path: Path, *, provenance: Mapping[str, Any], layout: str = "nchw", log: Path
) -> dict[str, Any]:
    """Write a program as a float32 TFLite file; the same program gives the same bytes.

    With ``layout="nhwc"`` every 4-D input is channels-last; outputs keep the program's layout. 64-bit integers become
    32-bit, as runtimes want them. Returns the provenance as the file carries it, in the metadata entry ``edgel0``.
    ``log`` is written when the conversion fails.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"the layout is {layout!r}; it must be one of {', '.join(map(repr, LAYOUTS))}.")
    litert = load("litert_torch", "tflite")
    names, inputs = signature(program), example(program)
    module: torch.nn.Module = fuse_batch_norm(program)
    with foreign("the LiteRT converter", log):
        if layout == "nhwc":
            images = [index for index, tensor in enumerate(inputs) if tensor.ndim == 4]
            module = litert.to_channel_last_io(module, args=images).eval()
            inputs = tuple(map(channels_last, inputs))
        content = litert.convert(module, inputs).model_content()
    carried = {**provenance, "tflite": {"layout": layout}}
    path.write_bytes(_labelled(content, names, json.dumps(carried, sort_keys=True)))
    return carried


def _labelled(content: bytes, names: Signature, provenance: str) -> bytes:
    """Put the program's names and the provenance into a TFLite file, which has ``args_0``, ``output_0``, ... so far."""
    schema = load("ai_edge_litert.schema_py_generated", "tflite")
    flatbuffers = load("flatbuffers", "tflite")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    (named,) = model.signatureDefs
    for entries, prefix, wanted in ((named.inputs, "args", names.inputs), (named.outputs, "output", names.outputs)):
        entries.sort(key=lambda entry: int(entry.name.decode().rpartition("_")[2]))
        if [entry.name.decode() for entry in entries] != [f"{prefix}_{index}" for index in range(len(wanted))]:
            raise UsageError(f"the converter named {[e.name for e in entries]} where {list(wanted)} was expected.")
        for entry, name in zip(entries, wanted, strict=True):
            entry.name = name

    buffer, note = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(provenance.encode(), dtype=np.uint8)
    note.name, note.buffer = "edgel0", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), note]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
