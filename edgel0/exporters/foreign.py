"""How do we call converters that print, warn and fail in their own ways? Silently, and with one clear error."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgel0.errors import DeviceError, EdgeL0Error, UsageError, need


@contextlib.contextmanager
def foreign(task: str, log: Path, error: type[UsageError] | type[DeviceError] = UsageError) -> Iterator[None]:
    """Run somebody else's code: what it prints is kept in ``log`` if it fails, its failure is raised as ``error``.

    File-system errors pass as they are. Not for threads: descriptors 1 and 2 belong to the whole process.
    """
    with tempfile.TemporaryFile() as sink:
        try:
            with _quiet(sink.fileno()):
                yield
        except (EdgeL0Error, OSError):
            raise
        except Exception as failure:  # converters raise anything: MLIRError, for one, derives from Exception itself
            sink.seek(0)
            log.write_bytes(sink.read() + traceback.format_exc().encode())
            reason = (str(failure).strip() or "no message").splitlines()[0][:300]
            raise error(
                f"{task} failed with {type(failure).__name__}: {reason}. All that it said is in {log}; "
                "replace the operation that it names, or export to another format."
            ) from failure


def load(module: str, extra: str) -> Any:
    """Import an optional library silently, or raise an :class:`~edgel0.errors.ExtraError` that names the extra.

    ONNX Runtime reports nothing of the user's models to its makers, unless the user's environment says that it may.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with silently():
        return need(module, extra)


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """Run somebody else's code, whose words and warnings nobody needs."""
    with tempfile.TemporaryFile() as sink, _quiet(sink.fileno()):
        yield


@contextlib.contextmanager
def _quiet(sink: int) -> Iterator[None]:
    """Send descriptors 1 and 2 and Python's own streams into ``sink``; ignore warnings; leave logging as it was.

    Their warnings concern their own code, which a user who runs with ``-W error`` cannot change.
    """
    _flush()
    kept = os.dup(1), os.dup(2)
    handlers = logging.root.handlers[:]  # logging.warning() in a library installs a handler for good
    # Left open on purpose: a logger born in here keeps its stream, which later is the real descriptor again.
    out, err = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
    try:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        out.flush()
        err.flush()
        _flush()
        logging.root.handlers[:] = handlers
        for copy, fd in zip(kept, (1, 2), strict=True):
            os.dup2(copy, fd)
            os.close(copy)


def _flush() -> None:
    """Empty Python's and C's buffers, so that no text ends on the wrong side of a redirection."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
