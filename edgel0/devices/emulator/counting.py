"""How does one file get counted? A process in the emulator, its marks, and what it means when it dies."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgel0.devices.emulator.guest import END, SETTLE
from edgel0.devices.emulator.place import HERE, SETUP, Emulator
from edgel0.devices.emulator.running import ENVIRONMENT, PYTHON, command, make_root
from edgel0.errors import DeviceError

POLL_SECS = 0.05


@dataclass(frozen=True)
class Job:
    """What is counted: a file, a core, the seconds that it may take, and what the guest is told."""

    path: Path
    core: str
    max_secs: float
    told: dict[str, Any]


def run(
    place: Emulator, job: Job, content: bytes, tell: Callable[[float], None]
) -> tuple[dict[str, Any], list[tuple[int, ...]]]:
    """Run the guest on a file; return its answer and the marks: kind, instructions, accesses."""
    model = f"model{job.path.suffix.lower()}"
    files = {model: content, "guest.py": (HERE / "guest.py").read_bytes()}
    external = _external(job.path, content)
    told = {"model": f"/job/{model}", "external": sorted(external), **job.told}
    files |= {"job.json": json.dumps(told).encode(), **{f"data/{name}": data for name, data in external.items()}}
    ends = SETTLE + job.told["warmups"] + 2 * job.told["repeats"]
    with _folder(job, files, place) as folder:
        marks, root = folder / "marks", folder / "root"
        call = command(place, job.core, root, ["/job/guest.py", "/job/job.json"], marks)
        with (folder / "said").open("w+b") as said, (folder / "words").open("w+b") as words:
            code = _waited(
                call, place, job, said, words, lambda: tell(sum(mark[0] == END for mark in _read(marks)) / ends)
            )
            said.seek(0)
            words.seek(0)
            heard, spoken = (file.read().decode("utf-8", errors="replace") for file in (said, words))
        return _answer(place, job, code, heard, spoken), _read(marks)


@contextlib.contextmanager
def _folder(job: Job, files: dict[str, bytes], place: Emulator) -> Iterator[Path]:
    """Yield a folder with the guest's root in it; nothing is left of it."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgel0-count-") as name:
            (root := Path(name, "root")).mkdir()
            make_root(root, place.tree, job.core, files)
            yield Path(name)
    except DeviceError:
        raise
    except OSError as error:
        raise DeviceError(
            f"counting {job.path.name!r} failed: {error}; it needs some megabytes and three times the file's size in "
            f"{tempfile.gettempdir()!r} (TMPDIR names another folder)."
        ) from error


def _external(path: Path, content: bytes) -> dict[str, bytes]:
    """Return the neighbours that an ONNX file names, which hold its external data."""
    if path.suffix.lower() != ".onnx":
        return {}
    try:
        neighbours = (file for file in path.parent.iterdir() if _entry(file.name) in content)
        return {file.name: file.read_bytes() for file in neighbours if file.is_file()}
    except OSError as error:
        raise DeviceError(
            f"cannot read the neighbours of {path.as_posix()!r} ({error}), which may hold its external data; correct "
            "the folder's permissions or copy it."
        ) from error


def _entry(name: str) -> bytes:
    """Return how an ONNX file names a file of external data: the key ``location`` and a value, as Protocol Buffers."""
    value = name.encode()
    size = bytes([len(value)] if len(value) < 128 else [len(value) & 127 | 128, len(value) >> 7])
    return b"location\x12" + size + value


def _waited(call: Sequence[str], place: Emulator, job: Job, said: Any, words: Any, look: Callable[[], None]) -> int:
    """Run a process to its end and return its exit code; it is killed when anything happens here."""
    try:
        with (place.tree / PYTHON).open("rb") as python:
            process = subprocess.Popen(call, cwd="/", env=ENVIRONMENT, stdin=python, stdout=said, stderr=words)
    except OSError as error:
        raise DeviceError(
            f"cannot start {call[0]!r} to count {job.path.name!r}: {error}; build the emulator anew:  {SETUP} --again."
        ) from error
    began = time.monotonic()
    try:
        while time.monotonic() - began < job.max_secs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECS)
            look()
    finally:
        process.kill()
        process.wait()
    raise DeviceError(
        f"counting {job.path.name!r} on {job.core} took longer than {job.max_secs:g} s and was stopped; the emulator "
        "is 300 to 600 times slower than a processor: count fewer inferences (repeats), a smaller model, or raise "
        "max_secs."
    )


def _answer(place: Emulator, job: Job, code: int, heard: str, spoken: str) -> dict[str, Any]:
    """Return what the guest answered, or raise what went wrong there."""
    answer = None
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(heard.splitlines()[-1])
    if isinstance(answer, dict) and {"runtime", "hwcap"} <= answer.keys() and code == 0:
        return answer
    name, where = job.path.name, f"{job.core}, qemu {place.version}"
    if isinstance(answer, dict) and answer.get("error") == "memory":
        raise DeviceError(
            f"memory ran out while counting {name!r} ({where}): {_one_line(answer.get('message'))}; the model does not "
            "fit into what this computer has left."
        )
    if isinstance(answer, dict) and "error" in answer:
        raise DeviceError(
            f"the runtime in the emulator ({where}) failed on {name!r}: {_one_line(answer.get('message'))}; check that "
            f"the file is whole and that {_wheels(place)} knows its operators and its version."
        )
    death = signal.Signals(-code).name if code < 0 and -code in set(signal.Signals) else f"exit code {code}"
    cause = CRASHES.get(death, f"the emulator may be damaged: build it anew with  {SETUP} --again")
    last = _one_line(spoken[-300:]) or "nothing"
    raise DeviceError(f"the emulator ({where}) ended with {death} while counting {name!r}: {cause}. It said: {last}")


def _wheels(place: Emulator) -> str:
    wheels = place.made.get("wheels", {})
    return " or ".join(f"{name} {version}" for name, version in wheels.items() if name != "numpy") or "the runtime"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300].rstrip(".")


def _read(marks: Path) -> list[tuple[int, ...]]:
    """Return the marks so far; a line that is just being written is left out."""
    if not marks.is_file():
        return []
    return [tuple(map(int, line.split())) for line in marks.read_text("ascii").splitlines(True) if line.endswith("\n")]


CRASHES = {
    "SIGSEGV": "the runtime crashed, as some do on a damaged file or one that they do not support; run it in "
    "edgel0 profile to see whether it does so on this computer, too",
    "SIGABRT": "the runtime met what it thought impossible; check that the file is whole",
    "SIGILL": "the runtime uses instructions that the core does not have; count on a newer core",
    "SIGKILL": "memory ran out, or somebody killed it; count a smaller model, or make room",
}
