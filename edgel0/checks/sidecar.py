"""What the JSON beside an artefact says of it: delegate partitions, instructions, times; believed only of this file.

``<file>.json`` is written by the exporter and added to by what measures. It is believed when it carries the file's own
SHA-256. Where a figure is not there, the words that say why take its place, so that a check fails with a reason and
never passes for lack of a number. The keys that are read::

    {"schema": 1, "sha256": "…",
     "cost": {"macs": 1, "params": 1},
     "provenance": {"tflite": {"partitions": 1}},
     "instructions": {"cortex-a72": {"runtime": "onnxruntime 1.32.0", "count": 1}},
     "latency_ms": {"onnxruntime 1.32.0": {"p10": 1, "p50": 1, "p90": 1,
                                           "board": "rpi4", "threads": 1, "pinned": true, "throttled": false}}}

``pinned`` says that the board's clock and cores were fixed while it was measured; times of other machines are compared
with times of the same machine alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
STATS = ("p10", "p50", "p90")

Figure = int | float | str  # str: why it is missing
Sidecar = dict[str, Any] | str


def read_sidecar(path: Path) -> Sidecar:
    """Return what ``<file>.json`` says of the artefact ``path``, or why it cannot be believed."""
    beside = Path(f"{path}.json")
    try:
        if not beside.is_file() or not path.is_file():  # a pipe would block for ever
            return f"{beside.name} is missing; export with edgel0, which writes it"
        record = json.loads(beside.read_bytes())
        digest = digest_of(path)
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


def cost_of(sidecar: Sidecar, metric: str) -> Figure:
    """Return a count that the exporter took from the model itself."""
    if isinstance(sidecar, str):
        return sidecar
    value = number(sidecar.get("cost"), metric)
    return value if isinstance(value, int) else f"the exporter's JSON gives no usable number of {metric}; export again"


def partitions_of(sidecar: Sidecar) -> Figure:
    """Return in how many parts the delegate runs a file; 1 is best."""
    if isinstance(sidecar, str):
        return sidecar
    provenance = sidecar.get("provenance")
    value = number(provenance.get("tflite") if isinstance(provenance, dict) else None, "partitions")
    return value if isinstance(value, int) else "the JSON beside the file gives no number of delegate partitions"


def instructions_of(sidecar: Sidecar, wanted: Mapping[str, Any]) -> tuple[Figure, str]:
    """Return the instructions of one inference on ``wanted["core"]``, and what exactly was counted.

    ``wanted["runtime"]``, a name or name and version, refuses a count of another one.
    """
    if isinstance(sidecar, str):
        return sidecar, ""
    cores, core, runtime = sidecar.get("instructions"), wanted["core"], wanted.get("runtime")
    if not isinstance(cores, dict) or core not in cores:
        there = f"; there is: {', '.join(map(repr, cores))}" if isinstance(cores, dict) and cores else ""
        return f"no instructions were counted on {core!r}{there}", ""
    value, ran = number(cores[core], "count"), cores[core].get("runtime") if isinstance(cores[core], dict) else None
    if not isinstance(value, int) or not isinstance(ran, str):
        return f"the JSON beside the file gives no usable count of instructions on {core!r}", ""
    if runtime is not None and runtime not in (ran, ran.rpartition(" ")[0]):
        return f"instructions on {core!r} were counted in {ran!r}, not in {runtime!r}; count again", ""
    return value, f"on {core}, {ran}"


def latency_of(sidecar: Sidecar, wanted: Mapping[str, Any]) -> tuple[Figure, str]:
    """Return a time in ms and what exactly was timed: board, runtime and threads.

    ``wanted["absolute"]`` refuses a time of a machine whose clock and cores were not pinned: another run there would
    give another figure, and the gate would fail by chance.
    """
    if isinstance(sidecar, str):
        return sidecar, ""
    found = _timed(sidecar.get("latency_ms"), wanted.get("runtime"))
    if isinstance(found, str):
        return found, ""
    runtime, row = found
    stat, board = wanted.get("stat", "p50"), row.get("board")
    value = number(row, stat)
    if value is None:
        return f"the exporter's JSON gives no usable {stat} in {runtime!r}", ""
    if wanted.get("board", board) != board:
        return f"it was measured on {board!r}, not on {wanted['board']!r}; measure it there", ""
    if row.get("throttled") is True:
        return f"the time on {board!r} was taken while its clock was throttled; cool the board and measure again", ""
    if wanted.get("absolute") and row.get("pinned") is not True:
        return (
            f"the clock and cores of {board!r} were not pinned when it was measured, so an absolute time says little; "
            'pin the board and measure again, or compare with the same machine: max_increase = {latency = "10 %"}'
        ), ""
    threads = row.get("threads")
    return value, ", ".join(filter(None, [f"on {board}" if board else "", runtime, f"{threads} threads"]))


def number(table: object, key: str) -> int | float | None:
    """Return a number from 0 to 2**63 (nan and infinity are outside), or None."""
    value = table.get(key) if isinstance(table, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < 2**63 else None


def _timed(measured: object, runtime: str | None) -> tuple[str, dict[str, Any]] | str:
    """Return the times of one runtime by its name (``onnxruntime``) or name and version (``onnxruntime 1.32.0``)."""
    if not isinstance(measured, dict) or not measured:
        return "the exporter's JSON holds no measured latency; measure the artefact first"
    fitting = [key for key in measured if runtime is None or runtime in (key, key.rpartition(" ")[0])]
    names = ", ".join(map(repr, measured))  # quoted: a foreign file must not steer the terminal
    if not fitting:
        return f"no latency was measured in {runtime!r}; there is: {names}"
    if len(fitting) > 1:
        return f'latency was measured in several runtimes; name one with runtime = "…": {names}'
    row = measured[fitting[0]]
    return fitting[0], row if isinstance(row, dict) else {}


def digest_of(path: Path) -> str:
    """Return the sha256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
