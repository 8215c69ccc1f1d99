"""How large, costly, right and fast an artefact is: ``FIGURES``, one function for each metric.

A figure is a number, or the words that say why it is missing. What the file itself can tell is read from the file;
only what cannot be seen in it comes from the JSON beside it and from ``result.json``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgel0.checks.counting import Counts, count
from edgel0.checks.onnx_files import external_files
from edgel0.checks.paths import printable
from edgel0.checks.sidecar import (
    Figure,
    Sidecar,
    cost_of,
    instructions_of,
    latency_of,
    number,
    partitions_of,
    read_sidecar,
)
from edgel0.errors import EdgeL0Error

POINTER = b"version https://git-lfs.github.com/spec/"
RESULT = "result.json"


@dataclass(frozen=True)
class Subject:
    """One artefact, read when a figure is asked for, and at most once; nothing outside of ``folder`` is read."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.folder / self.name

    @cached_property
    def trouble(self) -> str:
        """Why the file cannot be read, or "" when it can."""
        try:
            if not self.path.exists():
                return "file is missing"
            if not self.path.is_file():
                return "it is not a regular file"
            if not self.path.stat().st_size:
                return "file is empty"
            if not inside(self.folder, self.path):
                return "it leads out of the project's folder through a symbolic link"
            with self.path.open("rb") as file:
                begins = file.read(len(POINTER))
        except (OSError, RuntimeError) as error:
            return f"file cannot be read ({getattr(error, 'strerror', None) or error})"
        if begins == POINTER:
            return "it is a Git LFS pointer, not the file; run git lfs pull (in CI, check out with lfs)"
        return ""

    @cached_property
    def files(self) -> list[Path] | str:
        """The file and those with an ONNX model's external data, or why they cannot be told."""
        if self.path.suffix.casefold() != ".onnx":
            return [self.path]
        folder = self.path.parent.resolve()
        try:
            beside = {(folder / location).resolve() for location in external_files(self.path.read_bytes())}
        except OSError as error:
            return f"file cannot be read ({error.strerror})"
        except ValueError as error:
            return f"file is not a readable ONNX model: {error}"
        except RuntimeError:  # from Python 3.13 on the loop resolves to itself and is missing below
            return "its external data are a loop of symbolic links"
        for file in sorted(beside):
            if not file.is_relative_to(folder):
                return "its external data lie outside its folder"
            if not file.is_file():
                return f"its external data file {file.name!r} is missing"
        return [self.path, *sorted(beside)]

    @cached_property
    def counts(self) -> Counts | str:
        """What the file's own graph tells, or why it does not."""
        try:
            return count(self.path)
        except EdgeL0Error as error:
            return str(error)

    @cached_property
    def layers(self) -> dict[str, dict[str, int]]:
        """What each layer costs, by name: macs, params and weight_bytes; empty where the file does not tell."""
        return {} if isinstance(self.counts, str) else {name: dict(row) for name, row in self.counts.layers.items()}

    @cached_property
    def sidecar(self) -> Sidecar:
        """What the JSON beside it says, or why that cannot be believed."""
        if not inside(self.folder, Path(f"{self.path}.json")):
            return f"{self.path.name}.json leads out of the project's folder through a symbolic link"
        return read_sidecar(self.path)


def figure(subject: Subject, metric: str, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
    """Return one figure (bytes, a count, a share or ms; or why it is missing) and its key in a baseline.

    The key is the metric and all that the figure depends on beside the file: ``instructions on cortex-a72,
    onnxruntime 1.32.0``.
    """
    if subject.trouble:
        return subject.trouble, metric
    try:
        found, detail = FIGURES[metric](subject, qualifiers)
    except OSError as error:
        return f"file cannot be read ({error.strerror})", metric
    if not isinstance(found, str) and found >= 2**63:
        return "the file gives a number that no model has", metric
    return found, f"{metric} {printable(detail)}" if detail else metric


def inside(folder: Path, path: Path) -> bool:
    """Tell whether a path stays in a folder when symbolic links are followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False


def _size(subject: Subject, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
    """Add the bytes of the file and of its external data."""
    files = subject.files
    return (files if isinstance(files, str) else sum(file.stat().st_size for file in files)), ""


def _compressed(subject: Subject, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
    """Add the bytes of each file after gzip -9, without name and time."""
    if isinstance(subject.files, str):
        return subject.files, ""
    total = sum(_gzipped(file) for file in subject.files)
    # zlib-ng, which some systems have in its place, finds other matches.
    return total, "by zlib-ng" if "ng" in zlib.ZLIB_RUNTIME_VERSION else "by zlib"


def _gzipped(file: Path) -> int:
    packer, total = zlib.compressobj(9, zlib.DEFLATED, 31), 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            total += len(packer.compress(block))
    return total + len(packer.flush())


def _partitions(subject: Subject, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
    return partitions_of(subject.sidecar), ""


def _instructions(subject: Subject, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
    return instructions_of(subject.sidecar, qualifiers)


def _latency(subject: Subject, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
    found, detail = latency_of(subject.sidecar, qualifiers)
    return found, f"{qualifiers.get('stat', 'p50')} {detail}".strip()


def _accuracy(subject: Subject, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
    """Return the share of right answers that a run's ``result.json`` gives for this file."""
    place = subject.folder / qualifiers["result"] if "result" in qualifiers else subject.path.with_name(RESULT)
    name = place.name
    if not inside(subject.folder, place):
        return f"{name} leads out of the project's folder", ""
    try:
        result = json.loads(place.read_bytes()) if place.is_file() else None
    except (ValueError, RecursionError):
        return f"{name} is not readable JSON; run the recipe again", ""
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})", ""
    if not isinstance(result, dict):
        where = "" if "result" in qualifiers else '; name it: min_accuracy = {result = "runs/NAME/result.json"}'
        return f"there is no {name} of a run to take it from{where}", ""
    return _scored(result, qualifiers.get("of", subject.path.name), subject), ""


def _scored(result: dict[str, Any], of: str, subject: Subject) -> Figure:
    """Return the accuracy of a file, or of ``dense`` or ``slim``, from the content of ``result.json``."""
    for which in ("dense", "slim"):
        side = result.get(which)
        files = side.get("files") if isinstance(side, dict) else None
        if of == which:
            return _share(side, of)
        if isinstance(files, dict) and of in files:
            return _share(side, of) if files[of] == subject.path.stat().st_size else _other(of)
    quantized = result.get("quantized")
    row = quantized.get(of) if isinstance(quantized, dict) else None
    if isinstance(row, dict):
        return _share(row, of) if row.get("bytes") == subject.path.stat().st_size else _other(of)
    return f'the run\'s {RESULT} knows no {of!r}; name the file of the run: min_accuracy = {{of = "slim.onnx"}}'


def _other(of: str) -> str:
    return f"the run's {RESULT} describes another {of!r} (its size differs); run the recipe again"


def _share(row: object, of: str) -> Figure:
    value = number(row, "accuracy")
    return value if value is not None and value <= 1 else f"the run's {RESULT} gives no usable accuracy of {of!r}"


def _counted(metric: str) -> Callable[[Subject, Mapping[str, Any]], tuple[Figure, str]]:
    """Make the function of a figure that is counted in the file's own graph."""

    def told(subject: Subject, qualifiers: Mapping[str, Any]) -> tuple[Figure, str]:
        counts = subject.counts
        if isinstance(counts, Counts) and metric in counts.figures:
            return counts.figures[metric], ""
        return cost_of(subject.sidecar, metric), ""

    return told


FIGURES: dict[str, Callable[[Subject, Mapping[str, Any]], tuple[Figure, str]]] = {
    "size": _size,
    "compressed": _compressed,
    "weight_bytes": _counted("weight_bytes"),
    "macs": _counted("macs"),
    "params": _counted("params"),
    "activation_bytes": _counted("activation_bytes"),
    "operators": _counted("operators"),
    "transposes": _counted("transposes"),
    "partitions": _partitions,
    "instructions": _instructions,
    "accuracy": _accuracy,
    "latency": _latency,
}
