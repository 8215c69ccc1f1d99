"""How is a finished file read? By its suffix, mapped and not loaded, refused in one sentence where it is not whole."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from edgel0.errors import DeviceError, UsageError, nearest
from edgel0.files.counting import counted
from edgel0.files.graph import Graph, MalformedError
from edgel0.files.onnx_file import read_onnx
from edgel0.files.tflite_file import read_tflite

LARGEST_BYTES = 16 * 2**30
ADVICE = {
    ".pt2": "A .pt2 is a program for torch: edgel0 export writes .onnx and .tflite of it.",
    ".pt": "A pickle may run code, so it is not opened; edgel0 export writes .onnx and .tflite of the model.",
    ".pth": "A pickle may run code, so it is not opened; edgel0 export writes .onnx and .tflite of the model.",
    ".ort": "Read the .onnx that it was made of.",
}


def read(path: str | Path) -> Graph:
    """Read a ``.onnx`` or ``.tflite`` file and count what each operator costs.

    Nothing of it is run. Raises :class:`~edgel0.errors.UsageError` for another kind of file, one that is missing, is no
    regular file or is not whole, and :class:`~edgel0.errors.DeviceError` where it cannot be opened.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.casefold())
    if reader is None:
        advice = ADVICE.get(path.suffix.casefold(), f"Known are {', '.join(READERS)}{nearest(path.suffix, READERS)}.")
        raise UsageError(f"{str(path)!r} cannot be read, for its suffix is {path.suffix!r}. {advice}")
    try:
        data = _mapped(path)
        return counted(reader(data, path))
    except OSError as error:
        raise DeviceError(
            f"{str(path)!r} cannot be read ({error.strerror or error}); correct its permissions."
        ) from error
    except (MalformedError, struct.error, OverflowError) as error:
        raise UsageError(
            f"{str(path)!r} is not a readable {path.suffix[1:]} file: {error}. Export or download it again."
        ) from error


def moving_parts(content: bytes, suffix: str) -> dict[str, int]:
    """Count the operators of a file's bytes, and how many of them only turn axes; {} where the reader refuses them."""
    try:
        graph = READERS[suffix](memoryview(content), Path(f"memory{suffix}"))
    except (UsageError, MalformedError, struct.error, OverflowError):
        return {}
    turning = sum(operator.kind.upper() == "TRANSPOSE" for operator in graph.operators)
    return {"operators": len(graph.operators), "transposes": turning}


def _mapped(path: Path) -> memoryview:
    """Map a regular file, so that the weights of a large one are never loaded."""
    try:
        if not path.exists():
            raise UsageError(f"there is no file {str(path)!r}; correct the path, or export the model first.")
        if not path.is_file():  # a pipe would block for ever
            raise UsageError(f"{str(path)!r} is not a regular file; name a .onnx or .tflite file.")
    except ValueError as error:  # a null character
        raise UsageError(f"{str(path)!r} is not a path ({error}); correct it.") from error
    with path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise MalformedError("it is empty")
        if size > LARGEST_BYTES:
            raise MalformedError(f"it is larger than {LARGEST_BYTES >> 30} GiB")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


READERS: dict[str, Callable[[memoryview, Path], Graph]] = {".onnx": read_onnx, ".tflite": read_tflite}
