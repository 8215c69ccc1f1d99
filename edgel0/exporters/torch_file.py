"""How is a program kept for Python? As torch saves it, without the stack traces that name its author's folders."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgel0.errors import UsageError
from edgel0.exporters.foreign import foreign
from edgel0.exporters.order import Order


def write_pt2(program: ExportedProgram, path: Path, order: Order) -> dict[str, Any]:
    """Save a program as ``.pt2``; the same program gives the same bytes.

    Returns the provenance as the file carries it, in the extra file ``edgel0``.
    """
    order.refuse_layout(".pt2")
    order.refuse_batch(".pt2")
    if order.precision != "float32":
        raise UsageError(
            f"precision {order.precision!r} was asked of a .pt2 file, which keeps the program as it is; "
            "write .onnx or .tflite."
        )
    carried = dict(order.provenance)
    with foreign("torch.export.save", order.log), _without_stack_traces(program):
        content = io.BytesIO()  # a path would leave its own name in every entry of the archive
        torch.export.save(program, content, extra_files={"edgel0": json.dumps(carried, sort_keys=True)})
    path.write_bytes(content.getvalue())
    return carried


@contextlib.contextmanager
def _without_stack_traces(program: ExportedProgram) -> Iterator[None]:
    """Take the traces off and put them back; a deep copy would rename inputs such as ``input`` and not be valid."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    traces = {node: node.meta.pop("stack_trace", None) for graph in graphs for node in graph.nodes}
    try:
        yield
    finally:
        for node, trace in traces.items():
            if trace is not None:
                node.meta["stack_trace"] = trace
