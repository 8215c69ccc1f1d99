"""What is in a file, for people and for programs? A table, JSON, and node data for Model Explorer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgel0.errors import printable
from edgel0.files.counting import Figures, figures
from edgel0.files.graph import Graph, Operator, provenance
from edgel0.quantities import format_bytes, format_count, format_percent
from edgel0.report.text import grid

SCHEMA, TOP, UNKNOWN = 1, 20, "?"


def described(graph: Graph) -> dict[str, Any]:
    """Return all that ``edgel0 show`` tells, as plain JSON values: bytes and counts are integers, unknown is None."""
    found = figures(graph)
    totals = {key: value for key, value in dataclasses.asdict(found).items() if key != "unknown"}
    return {
        "schema": SCHEMA,
        "file": graph.path.name,
        "sha256": _sha256(graph),
        "bytes": graph.path.stat().st_size,
        "external": dict(graph.external),
        "format": graph.format,
        "opset": graph.opset,
        "producer": graph.producer,
        "inputs": [_tensor(graph, name) for name in graph.inputs],
        "outputs": [_tensor(graph, name) for name in graph.outputs],
        "totals": totals,
        "unknown": list(found.unknown),
        "layers": [_layer(graph, operator, found) for operator in graph.operators],
        "provenance": provenance(graph),
        "metadata": {key: text for key, text in graph.metadata.items() if key != "edgel0"},
    }


def layers(told: dict[str, Any], everything: bool = False, by: str = "order") -> RenderableType:
    """Return the table of :func:`described` within 80 columns: the layers, the totals, where the file came from."""
    rows = ordered(told, by)
    largest = {id(row) for row in sorted(rows, key=_weighty, reverse=True)[: len(rows) if everything else TOP]}
    shown = [row for row in rows if id(row) in largest]
    table = grid("layer", "output", "weights", "MACs", "share")
    table.columns[0].overflow = table.columns[1].overflow = "ellipsis"
    table.columns[0].no_wrap, table.columns[0].max_width, table.columns[1].max_width = True, 31, 17
    for row in shown:
        share = "" if not row["macs"] else format_percent(row["share"])
        macs = UNKNOWN if row["macs"] is None else format_count(row["macs"]) if row["macs"] else ""
        size = format_count(row["weight_bytes"]) if row["weight_bytes"] else ""
        table.add_row(*(Text(printable(cell)) for cell in (_called(row), _shape(row["outputs"]), size, macs, share)))
    left = len(rows) - len(shown)
    more = [Text(f"{left} smaller ones are not shown; --all shows every one.")] if left else []
    notes = [Text(f"unknown: {printable(each)}") for each in told["unknown"][:5]]
    if len(told["unknown"]) > 5:
        notes.append(Text(f"and {len(told['unknown']) - 5} more; --json lists all."))
    return Group(table, *more, Text(""), _totals(told), *notes, Text(""), origin(told))


def ordered(told: dict[str, Any], by: str) -> list[dict[str, Any]]:
    """Return the layers in the order they run, or by ``share`` of the MACs or ``bytes`` of weights, largest first."""
    return sorted(told["layers"], key=ORDERS[by])


def origin(told: dict[str, Any]) -> RenderableType:
    """Return what edgel0 wrote into the file, one line for each fact."""
    if told["provenance"] is None:
        made = f" by {printable(told['producer'])}" if told["producer"] else ""
        return Text(f"No provenance of edgel0 is in this file; it was written{made}.")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, max_width=24)
    table.add_column(overflow="fold")
    for key, value in facts(told["provenance"]):
        table.add_row(Text(key), Text(value))
    return table


def facts(found: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield name and value of each entry of a provenance; tables of figures within it by name.figure."""
    for key, value in found.items():
        name = printable(f"{prefix}{key}")
        if isinstance(value, dict) and depth < 2:
            yield from facts(value, f"{name}.", depth + 1)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield name, printable(text if len(text) <= 400 else text[:400] + " ...")


def node_data(told: dict[str, Any], metric: str = "macs") -> dict[str, Any]:
    """Return one graph's data in the format of Model Explorer's ``node_data_builder.GraphNodeData``.

    Keys are names of output tensors, which Model Explorer finds in TFLite and ONNX graphs alike.
    """
    rows = [row for row in told["layers"] if row["outputs"] and row[metric] is not None]
    results = {row["outputs"][0]["name"]: {"value": row[metric]} for row in rows}
    return {"results": results, "gradient": [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#e0584f"}]}


def _totals(told: dict[str, Any]) -> RenderableType:
    totals = told["totals"]
    types = ", ".join(f"{name} {size:,}" for name, size in totals["weights"].items())
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    size = told["bytes"] + sum(told["external"].values())
    for name, value in (
        ("file", format_bytes(size) + (f", {len(told['external'])} beside it included" if told["external"] else "")),
        ("format", f"{told['format']}, {'opset' if told['format'] == 'onnx' else 'schema'} {told['opset']}"),
        ("sha256", told["sha256"]),
        ("MACs", UNKNOWN if totals["macs"] is None else format_count(totals["macs"])),
        ("parameters", format_count(totals["params"])),
        ("weights", format_bytes(totals["weight_bytes"]) + (f": {types}" if types else "")),
        ("peak activations", _peak(totals["activation_bytes"])),
        ("operators", f"{totals['operators']:,}, of which {totals['transposes']:,} transposes"),
        *((end, f"{_described(each)}") for end in ("inputs", "outputs") for each in told[end]),
    ):
        table.add_row(Text(name.removesuffix("s") if name in ("inputs", "outputs") else name), Text(value))
    return table


def _peak(size: int | None) -> str:
    return UNKNOWN if size is None else f"{format_bytes(size)}, planned; scratch memory excluded"


def _described(tensor: dict[str, Any]) -> str:
    shape = UNKNOWN if tensor["shape"] is None else " x ".join(map(str, tensor["shape"])) or "scalar"
    return f"{printable(tensor['name'])}: {shape} {tensor['dtype']}"


def _called(row: dict[str, Any]) -> str:
    return row["name"] if row["kind"] in row["name"] else f"{row['kind']} {row['name']}"


def _shape(outputs: list[dict[str, Any]]) -> str:
    if not outputs or outputs[0]["shape"] is None:
        return UNKNOWN
    return "x".join(map(str, outputs[0]["shape"])) or "scalar"


def _layer(graph: Graph, operator: Operator, found: Figures) -> dict[str, Any]:
    known = sum(each.macs or 0 for each in graph.operators) if found.macs is None else found.macs
    return {
        "name": operator.name,
        "kind": operator.kind,
        "outputs": [_tensor(graph, name) for name in operator.outputs if name],
        "macs": operator.macs,
        "params": operator.params,
        "weight_bytes": operator.weight_bytes,
        "share": (operator.macs or 0) / known if known else 0.0,
        "note": operator.note,
    }


def _tensor(graph: Graph, name: str) -> dict[str, Any]:
    tensor = graph.tensors.get(name)
    shape = None if tensor is None or tensor.shape is None else list(tensor.shape)
    return {"name": name, "shape": shape, "dtype": tensor.dtype if tensor else "unknown"}


def _sha256(graph: Graph) -> str:
    digest = hashlib.sha256()
    with graph.path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _weighty(row: dict[str, Any]) -> tuple[bool, int, int]:
    return row["macs"] is None, row["macs"] or 0, row["weight_bytes"]


ORDERS: dict[str, Any] = {
    "order": lambda row: 0,
    "share": lambda row: (row["macs"] is not None, -(row["macs"] or 0)),
    "bytes": lambda row: -row["weight_bytes"],
}
