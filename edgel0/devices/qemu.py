"""How many instructions does an inference take on a core? Run the real runtime under qemu, and count exactly.

Instructions are not milliseconds: caches, memory and clock are not emulated. They are a figure that does not depend on
the computer or its load, so that a change of one in a thousand can be told, and a ratio between two files for a core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from edgel0.devices.emulator.cores import CHOOSING, CORES, core_of
from edgel0.devices.emulator.counting import Job, run
from edgel0.devices.emulator.guest import BEGIN, EMPTY
from edgel0.devices.emulator.place import SETUP, Emulator, emulator
from edgel0.errors import DeviceError, UsageError, nearest
from edgel0.types import Artifact, Count

__all__ = ["CORES", "SUFFIXES", "count"]

SUFFIXES = (".onnx", ".tflite")
SEED = 0


def count(
    paths: Sequence[Artifact | Path | str],
    core: str = "cortex-a72",
    *,
    repeats: int = 4,
    warmups: int = 2,
    max_secs: float = 900.0,
    progress: Callable[[str, float], None] | None = None,
    cache: Path | str | None = None,
) -> list[Count]:
    """Count the instructions and memory accesses of one inference of each file, in the order given.

    Each file runs in a process of its own, on one thread, with the same made-up input on every computer, ``repeats``
    times after ``warmups``; ``max_secs`` is the longest that one file may take. ``progress`` hears what comes next and
    the share done. ``cache`` is where ``edgel0 devices setup qemu`` put the emulator, the user's cache by default.

    Raises UsageError (arguments, a missing file, an unknown core or kind) and DeviceError (no emulator, a runtime that
    refuses the file or crashes, memory, time).
    """
    asked = core_of(core)
    if repeats < 1 or warmups < 1 or max_secs <= 0:
        raise UsageError(
            f"repeats is {repeats!r}, warmups is {warmups!r} and max_secs is {max_secs!r}; the first two must be at "
            "least 1, the last more than 0."
        )
    files = [_path(path) for path in paths]
    place = emulator(cache)
    rows = []
    for number, path in enumerate(files):

        def tell(share: float, number: int = number, path: Path = path) -> None:
            if progress:
                progress(f"count {path.name} on {core}", (number + share) / len(files))

        tell(0.0)
        content = _content(path)
        job = Job(path, core, max_secs, {"seed": SEED, "warmups": warmups, "repeats": repeats})
        answer, marks = run(place, job, content, tell)
        if answer["hwcap"] & CHOOSING != asked.hwcap:
            raise DeviceError(
                f"qemu {place.version} announces other features for {core} (HWCAP {answer['hwcap']:#x}) than "
                f"{asked.board} has, so the runtime would run other kernels; use qemu 7.2, Debian 12's."
            )
        rows.append(_row(place, job, content, answer["runtime"], marks))
    if progress and rows:
        progress("counted", 1.0)
    return rows


def _path(artifact: Artifact | Path | str) -> Path:
    """Return the file's path, if it can be counted."""
    path = Path(artifact.path if isinstance(artifact, Artifact) else artifact)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"instructions of {path.name!r} cannot be counted: its suffix is {path.suffix!r}, expected one of "
            f"{', '.join(SUFFIXES)}; export the model first, or correct the suffix{nearest(path.suffix, SUFFIXES)}."
        )
    if not path.is_file():
        raise UsageError(f"there is no file {path.as_posix()!r} to count; export the model first, or correct the path.")
    return path


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"cannot read {path.as_posix()!r} ({error}); correct its permissions or copy it.") from error


def _row(place: Emulator, job: Job, content: bytes, runtime: str, marks: Sequence[tuple[int, ...]]) -> Count:
    """Take the least of the inferences, less the least of the calls of nothing."""
    spent: dict[int, list[tuple[int, int]]] = {EMPTY: [], BEGIN: []}
    for (kind, *before), (_, *after) in pairwise(marks):
        if kind in spent:
            spent[kind].append((after[0] - before[0], after[1] - before[1]))
    if len(spent[BEGIN]) != job.told["repeats"]:
        raise DeviceError(
            f"the counting plugin wrote {len(spent[BEGIN])} of {job.told['repeats']} inferences of {job.path.name!r}; "
            f"the disk may be full, or the emulator damaged: build it anew with  {SETUP} --again."
        )
    empty = min(spent[EMPTY])
    samples = tuple(instructions - empty[0] for instructions, _ in spent[BEGIN])
    instructions, accesses = min(spent[BEGIN])
    return Count(
        artifact=job.path.as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        core=job.core,
        runtime=runtime,
        instructions=instructions - empty[0],
        accesses=accesses - empty[1],
        spread=(max(samples) - min(samples)) / max(min(samples), 1),
        samples=samples,
        system=f"libc {place.made.get('packages', {}).get('libc6')}, python {place.made.get('python')}, "
        f"qemu {place.version}",
    )
