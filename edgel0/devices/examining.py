"""Is a board ready to measure? What it has, what it lacks, and how that is mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgel0.devices.boards import FOLDER, Board, read_board
from edgel0.devices.links import open_board
from edgel0.devices.qemu import CORES
from edgel0.errors import EdgeL0Error

ROOM = 50 * 10**6  # bytes that a runner and a model of the usual size need
PATIENCE = 20.0  # seconds for a board to say that it is there
OLDEST = (3, 9)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and how to mend it ("" where nothing is wrong)."""

    what: str
    found: str
    mend: str = ""


def boards(folder: Path = FOLDER) -> list[Board]:
    """Return this computer, the boards of a folder's files, and the emulated cores."""
    files = [read_board(path) for path in sorted(folder.glob("*.toml"))]
    cores = [Board(f"qemu:{core}", "qemu", core) for core in CORES]
    return [Board("local", "local"), *files, *cores]


def states(found: Sequence[Board]) -> list[str]:
    """Say of each board whether it answers; all are asked at once."""
    with ThreadPoolExecutor(max(1, len(found))) as pool:
        return list(pool.map(_state, found))


def _state(board: Board) -> str:
    try:
        if board.transport == "qemu":
            from edgel0.devices.emulator.place import emulator

            return f"set up, qemu {emulator().version}"
        if board.transport != "local":
            replace(open_board(board), patience=PATIENCE).run(["true"])
        return "answers"
    except EdgeL0Error as error:
        return str(error).removeprefix(f"{board.name}: ")


def doctor(board: Board) -> list[Finding]:
    """Look at all that measuring on a board needs."""
    if board.transport == "qemu":
        state = _state(board)
        ready = state.startswith("set up")
        return [Finding("emulator", "ready" if ready else "not set up", "" if ready else state)]
    link = replace(open_board(board), patience=PATIENCE)
    try:
        link.run(["true"])
    except EdgeL0Error as error:
        return [Finding("link", "no answer", str(error))]
    findings = [Finding("link", "answers")]
    python = board.python or (sys.executable if board.transport == "local" else "python3")
    try:
        said = link.run([python, "-c", PROBE, link.folder])
        told = json.loads(said.decode("utf-8", "replace").splitlines()[-1])
    except (EdgeL0Error, ValueError, IndexError) as error:
        advice = f"install Python 3.9 or newer there, or name one in the board's file (python = ...): {error}"
        return [*findings, Finding("python", "does not run", advice)]
    return [*findings, *_read(told, link.folder), *_asked(told, board)]


def _asked(told: dict[str, Any], board: Board) -> list[Finding]:
    """Judge what the board's file asks of it."""
    findings = []
    if board.runtime:
        there = told["runtimes"].get(board.runtime) if isinstance(told["runtimes"], dict) else None
        mend = f"its file asks for it: run  python3 -m pip install {board.runtime}  there, or correct runtime = ..."
        findings.append(Finding("its runtime", f"{board.runtime} {there or 'is not there'}", "" if there else mend))
    if board.cores:
        has = told.get("processors")
        absent = sorted(set(board.cores) - set(has)) if has is not None else []
        mend = f"there are no processors {absent}, but {has}: correct cores = ... in its file"
        findings.append(Finding("its cores", ", ".join(map(str, board.cores)), mend if absent else ""))
    if board.memory:
        has = told.get("memory")
        known = f"{has:,} B" if has else "unknown"
        mend = "its file allows models more than the board has: correct memory = ... there"
        findings.append(
            Finding("its memory", f"{board.memory:,} B of {known}", mend if has and board.memory > has else "")
        )
    return findings


def _read(told: dict[str, Any], folder: str) -> list[Finding]:
    """Judge what the probe told."""
    version = tuple(int(part) for part in str(told["python"]).split(".")[:2])
    free = told["free"]
    runtimes = told["runtimes"] if isinstance(told["runtimes"], dict) else {}
    listed = ", ".join(f"{name} {version}" for name, version in runtimes.items())
    governor = told["governor"]
    return [
        Finding(
            "python",
            f"{told['python']} on {told['machine']}",
            ""
            if version >= OLDEST
            else "the runner needs Python 3.9 or newer: install one, and name it (python = ...)",
        ),
        Finding(
            "runtime",
            listed or "none",
            ""
            if runtimes
            else "run  python3 -m pip install onnxruntime ai-edge-litert  there (on old systems "
            "tflite-runtime and numpy<2)",
        ),
        Finding(
            "space",
            f"{free:,} B in {folder}" if isinstance(free, int) else f"unknown in {folder}",
            ""
            if not isinstance(free, int) or free >= ROOM
            else "remove files there, or name another folder in its file",
        ),
        Finding(
            "governor",
            str(governor or "unknown"),
            ""
            if governor in (None, "performance")
            else "figures scatter less with  echo performance | sudo tee "
            "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        ),
    ]


PROBE = """
import importlib, json, os, platform, sys
found = {}
for name in ("onnxruntime", "ai_edge_litert", "tflite_runtime"):
    try:
        found[name.replace("_", "-")] = getattr(importlib.import_module(name), "__version__", "unknown")
    except ImportError:
        pass
try:
    with open("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") as file:
        governor = file.read().strip()
except OSError:
    governor = None
try:
    room = os.statvfs(sys.argv[1])
    free = room.f_bavail * room.f_frsize
except (OSError, AttributeError):
    free = None
try:
    with open("/proc/meminfo") as file:
        memory = int(next(line for line in file if line.startswith("MemTotal")).split()[1]) * 1024
except (OSError, StopIteration, ValueError):
    memory = None
processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
print(json.dumps({"python": platform.python_version(), "machine": platform.machine(), "free": free,
                  "governor": governor, "runtimes": found, "memory": memory, "processors": processors}))
"""
