"""How does a program run in the emulator so that every run executes the same? Same paths, addresses, environment.

What would differ between two computers, and does not: the guest sees its root file system and ``/job`` at fixed paths
(the length of a path shows in ONNX Runtime's counts), works in ``/``, has a fixed environment, gets its memory at fixed
addresses (``-R``), the same "random" bytes at its start (``-seed``), the kernel's name and the board's processor files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgel0.devices.emulator.cores import board_files, core_of
from edgel0.devices.emulator.place import Emulator

PYTHON = "usr/bin/python3.11"
ENVIRONMENT = {
    "HOME": "/job",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC0",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "/opt/runtimes",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Its telemetry, on by default since 1.29, starts a thread, draws random numbers and writes a data base in HOME.
    "ORT_DISABLE_TELEMETRY": "1",
}
STDIN = "/proc/self/fd/0"
ADDRESSES, KERNEL = "64G", "6.1.0"


def make_root(root: Path, tree: Path, core: str, files: Mapping[str, bytes]) -> None:
    """Make the guest's ``/`` in an empty folder: links to the tree, the board's files, and ``/job`` with ``files``."""
    for entry in tree.iterdir():
        (root / entry.name).symlink_to(entry)
    job = {f"job/{name}": content for name, content in files.items()}
    for name, content in {**{path: text.encode() for path, text in board_files(core_of(core)).items()}, **job}.items():
        folder, _, file = name.rpartition("/")
        (root / folder).mkdir(parents=True, exist_ok=True)
        if file:
            (root / name).write_bytes(content)


def command(
    emulator: Emulator, core: str, root: Path, arguments: Sequence[str], marks: Path | None = None
) -> list[str]:
    """Return what runs Python in the emulator; ``marks`` is the file that the counting plugin writes.

    Its stdin must be :data:`PYTHON` of the tree: the program's path lies on the guest's stack, and must be the same.
    """
    plugin = ["-plugin", f"{_quoted(emulator.plugin)},out={_quoted(marks)}"] if marks else []
    fixed = ["-R", ADDRESSES, "-seed", "1", "-r", KERNEL, "-0", f"/{PYTHON}"]
    return [emulator.qemu, "-cpu", core, *plugin, *fixed, "-L", str(root), STDIN, "-B", "-S", "-s", *arguments]


def _quoted(path: Path) -> str:
    """Double the commas, at which qemu would cut."""
    return str(path).replace(",", ",,")
