"""How large is a model before anything runs? The file with its external data, its weights, its planned activations."""

from __future__ import annotations

from pathlib import Path

from edgel0.checks.onnx_files import external_files
from edgel0.errors import EdgeL0Error
from edgel0.files.counting import figures
from edgel0.files.reading import read


def file_bytes(path: Path, content: bytes) -> int:
    """Return the bytes of a model file and of the external data files that an ONNX model names."""
    total = len(content)
    if path.suffix.lower() == ".onnx":
        folder = path.resolve().parent
        try:
            files = {(folder / name).resolve() for name in external_files(content)}
            total += sum(file.stat().st_size for file in files if file.is_file() and file.is_relative_to(folder))
        except (ValueError, RuntimeError, OSError):  # its runtime will say what is wrong with it
            pass
    return total


def planned(path: Path) -> tuple[int | None, int | None]:
    """Return the bytes of the weights and the peak of live activations as the file's graph tells them, None = unknown.

    A file that its runtime runs and edgel0 cannot read is no failure of the measurement.
    """
    try:
        found = figures(read(path))
    except EdgeL0Error:
        return None, None
    return found.weight_bytes, found.activation_bytes
