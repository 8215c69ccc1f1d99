"""How is a text file written? Beside its place and renamed into it, so that nobody ever finds half of one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgel0.errors import DeviceError


def store(path: Path, text: str) -> None:
    """Write UTF-8 text; a :class:`~edgel0.errors.DeviceError` where it cannot be, and what was there stays."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        raise DeviceError(
            f"{path} cannot be written: {error.strerror or error}; give a file in a folder that exists, is writable "
            "and has room. What stood there before is untouched."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
