"""What does a file's own graph tell? Figures of the whole, and of each layer, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgel0.errors import printable
from edgel0.files.counting import figures
from edgel0.files.reading import read

METRICS = ("macs", "params", "weight_bytes", "activation_bytes", "operators", "transposes")
OF_LAYERS = ("macs", "params", "weight_bytes")


@dataclass(frozen=True)
class Counts:
    """Figures of the whole file by metric, and of each layer by its name; what the file does not tell is left out."""

    figures: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def count(path: Path) -> Counts:
    """Count an ONNX or TFLite file; a weight that several operators read is the first one's.

    Raises UsageError when it is none, or not whole, and DeviceError when it cannot be opened.
    """
    graph = read(path)
    found = figures(graph)
    whole = {metric: value for metric in METRICS if (value := getattr(found, metric)) is not None}
    layers: dict[str, dict[str, int]] = {}
    for number, operator in enumerate(graph.operators):
        row = {metric: value for metric in OF_LAYERS if (value := getattr(operator, metric))}
        if row:
            name = printable(operator.name) or f"{printable(operator.kind)} {number}"
            layers[name if name not in layers else f"{name} {number}"] = row
    return Counts(whole, layers)
