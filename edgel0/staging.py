"""Where do results stand before they are complete? Beside their place, and one rename away from it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgel0.errors import DeviceError

CHECKPOINT = "checkpoint.pt"
RESULT = "result.json"
REPORT = "report.html"
TIMINGS = "timings.json"  # of the epochs; apart, because they are not the same twice
SAMPLES = "samples.json"  # of the latencies, raw; apart, because they are many


def write(path: Path, content: bytes) -> None:
    """Write beside, then rename: ``path`` holds the old content or the new one, never a part of it."""
    beside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def staging(out: Path, name: str, fresh: bool) -> Iterator[Path]:
    """Yield ``out/.NAME.partial``, the working folder of a run, alone in it; what a killed run left is mended first.

    A checkpoint in it stays, unless ``fresh``. Every :class:`OSError` in the body is told as a :class:`DeviceError`.

    Raises:
        DeviceError: the folder cannot be written, the disk is full, what stands in the place of the results is
            something else, or another run of that name is under way.
    """
    work, final, former = _places(out, name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone(work, name):
            _mend(final, former)
            for left in work.iterdir():
                if fresh or left.name != CHECKPOINT or left.is_dir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield work
    except DeviceError:
        raise
    except OSError as error:
        raise DeviceError(
            f"{error.filename or out} cannot be written: {error.strerror or error}; make room there or give another "
            "folder with --out. The former results, if any, are untouched."
        ) from error


def publish(out: Path, name: str) -> Path:
    """Put the finished working folder in the place of the former results."""
    work, final, former = _places(out, name)
    if final.exists():
        final.rename(former)
    work.rename(final)
    _mend(final, former)
    return final


def _places(out: Path, name: str) -> tuple[Path, Path, Path]:
    return out / f".{name}.partial", out / name, out / f".{name}.former"


def _mend(final: Path, former: Path) -> None:
    """Finish what :func:`publish` leaves to do wherever it is interrupted; refuse to replace what no run made."""
    if former.exists() and not final.exists():  # killed between the two renames
        former.rename(final)
    if final.exists() and not (final / RESULT).is_file() and (not final.is_dir() or any(final.iterdir())):
        raise DeviceError(
            f"{final} is in the way: it holds no {RESULT}, so no run made it. Move it, rename the recipe, or give "
            "another folder with --out."
        )
    # The checkpoint goes last: until the results are in place, a run that is killed can go on from it.
    (final / CHECKPOINT).unlink(missing_ok=True)
    if former.exists():
        shutil.rmtree(former)


@contextlib.contextmanager
def _alone(work: Path, name: str) -> Iterator[None]:
    """Make the folder and hold a lock on it, which the system lets go of when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock, the last run wins
        work.mkdir(exist_ok=True)
        yield
        return
    while True:
        work.mkdir(exist_ok=True)
        try:
            folder = os.open(work, os.O_RDONLY)
        except FileNotFoundError:  # another run has published it in this very moment
            continue
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DeviceError(
                    f"another run of {name!r} is under way in {work.parent}; wait for it, or give another folder with "
                    "--out."
                ) from error
            except OSError:  # a file system without locks
                pass
            if work.exists() and os.path.samestat(os.fstat(folder), work.stat()):
                yield
                return
        finally:
            os.close(folder)
