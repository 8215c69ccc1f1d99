"""How large, costly and fast an artefact is: figures from the file and the JSON its exporter left beside it.

A figure is a number, or the words that say why it is missing, so that a check fails with a reason and never passes for
lack of a number. MACs, parameters and latency are believed only when the JSON carries the file's own SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgel0.checks.onnx_files import external_files

SCHEMA = 1

Figure = int | float | str  # str: why it is missing
Sidecar = dict[str, Any] | str


def read_sidecar(path: Path) -> Sidecar:
    """Return what ``<file>.json`` says of the artefact ``path``, or why it cannot be believed."""
    beside = Path(f"{path}.json")
    try:
        if not beside.is_file() or not path.is_file():  # a pipe would block for ever
            return f"{beside.name} is missing; export with edgel0, which writes it"
        record = json.loads(beside.read_bytes())
        digest = _sha256(path)
    except (ValueError, RecursionError):
        return f"{beside.name} is not readable JSON; export again"
    except OSError as error:
        return f"{beside.name} cannot be read ({error.strerror})"
    if not isinstance(record, dict):
        return f"{beside.name} is not a JSON object; export again"
    if type(record.get("schema")) is not int or record["schema"] != SCHEMA:
        return f"{beside.name} does not follow schema {SCHEMA}; export again with this version of edgel0"
    if record.get("sha256") != digest:
        return f"{beside.name} describes another file (its sha256 differs); export again"
    return record


def figure(path: Path, metric: str, qualifiers: Mapping[str, Any], sidecar: Sidecar) -> Figure:
    """Return one figure of the artefact ``path``: bytes, a count or milliseconds. The size needs no sidecar."""
    try:
        if not path.exists():
            return "file is missing"
        if not path.is_file():
            return "it is not a regular file"
        if metric == "size":
            return _size(path)
    except OSError as error:
        return f"file cannot be read ({error.strerror})"
    if isinstance(sidecar, str):
        return sidecar
    if metric == "latency":
        return _latency(sidecar, str(qualifiers.get("stat", "p50")), qualifiers.get("runtime"))
    value = _entry(sidecar.get("cost"), metric)
    return value if isinstance(value, int) else f"the exporter's JSON gives no usable number of {metric}; export again"


def _size(path: Path) -> Figure:
    """Return the bytes of the file; an ONNX model's external data files are part of it."""
    total = path.stat().st_size
    if not total:
        return "file is empty"
    if path.suffix.casefold() != ".onnx":
        return total
    folder = path.parent.resolve()
    try:
        files = {(folder / location).resolve() for location in external_files(path.read_bytes())}
    except ValueError as error:
        return f"file is not a readable ONNX model: {error}"
    except RuntimeError:  # from Python 3.13 on the loop resolves to itself and is missing below
        return "its external data are a loop of symbolic links"
    for file in sorted(files):
        if not file.is_relative_to(folder):
            return "its external data lie outside its folder"
        if not file.is_file():
            return f"its external data file {file.name!r} is missing"
        total += file.stat().st_size
    return total


def _latency(sidecar: dict[str, Any], stat: str, runtime: str | None) -> Figure:
    """Return a time in ms; ``runtime`` is a name (``onnxruntime``) or name and version (``onnxruntime 1.32.0``)."""
    measured = sidecar.get("latency_ms")
    if not isinstance(measured, dict) or not measured:
        return "the exporter's JSON holds no measured latency; measure the artefact first"
    fitting = [key for key in measured if runtime is None or runtime in (key, key.split(" ")[0])]
    names = ", ".join(map(repr, measured))  # quoted: a foreign file must not steer the terminal
    if not fitting:
        return f"no latency was measured in {runtime!r}; there is: {names}"
    if len(fitting) > 1:
        return f'latency was measured in several runtimes; name one with runtime = "…": {names}'
    value = _entry(measured[fitting[0]], stat)
    return f"the exporter's JSON gives no usable {stat} in {fitting[0]!r}" if value is None else value


def _entry(table: object, key: str) -> int | float | None:
    """Return a number from 0 to 2**63 (nan and infinity are outside), or None."""
    value = table.get(key) if isinstance(table, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < 2**63 else None


def _sha256(path: Path) -> str:
    """Digest a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
