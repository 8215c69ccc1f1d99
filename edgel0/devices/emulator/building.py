"""How is the emulator built? Step by step in a folder beside its place, which is renamed into it: all of it or none."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgel0.devices.emulator.place import Emulator, emulator, find_qemu, folder_of
from edgel0.devices.emulator.steps import KEYRING, STEPS, own_mirror
from edgel0.errors import DeviceError

ROOM = 500 * 10**6  # bytes that building needs
Say = Callable[[str, float], None]


def setup(
    cache: Path | str | None = None,
    *,
    mirror: str = "",
    again: bool = False,
    progress: Say | None = None,
) -> tuple[Emulator, bool]:
    """Build the emulator unless it is there, and say whether it was built now.

    ``cache`` is the folder in which it lies (the user's by default), ``mirror`` a Debian mirror (by default
    the one that apt uses here), ``again`` builds it anew. ``progress`` hears what comes next and the share of steps
    done.

    Raises DeviceError when a program is missing, a download fails or the result does not run; nothing is left then.
    """
    qemu, version = find_qemu()
    folder = folder_of(cache)
    if not again and (folder / "made.json").is_file():
        return emulator(cache), False
    _need_programs()
    mirror = mirror or own_mirror()
    with _beside(folder) as partial:
        built = Emulator(qemu, version, partial, {})
        for number, (what, step) in enumerate(STEPS.items()):
            if progress:
                progress(what, number / len(STEPS))
            built.made.update(step(built, mirror))
        (partial / "made.json").write_text(json.dumps(built.made, indent=2) + "\n", encoding="utf-8")
        old = partial.with_name(f"{partial.name}-old")
        if again and folder.exists():
            folder.rename(old)
        if not folder.exists():  # it does if somebody else was faster
            partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    if progress:
        progress("ready", 1.0)
    return emulator(cache), True


def _need_programs() -> None:
    """Refuse with everything that is missing, at once."""
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if not KEYRING.is_file():
        missing.append("debian-archive-keyring")
    if missing:
        raise DeviceError(
            f"building the emulator needs the Debian packages {', '.join(missing)}, which are not installed; run  "
            f"apt-get install {' '.join(missing)}  (on Debian or Ubuntu) and try again."
        )
    found = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if found.returncode:
        raise DeviceError(
            f"building the emulator fetches the runtimes with pip, which {sys.executable} does not have; run  "
            f"{sys.executable} -m ensurepip  and try again."
        )


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder next to where the emulator goes; nothing is left of it, nor of what a killed build left."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        room = shutil.disk_usage(folder.parent).free
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-{os.getpid()}-", dir=folder.parent))
    except OSError as error:
        raise DeviceError(
            f"the emulator cannot be built in {str(folder.parent)!r} ({error.strerror or error}); set "
            "XDG_CACHE_HOME to a folder that is writable."
        ) from error
    try:
        if room < ROOM:
            raise DeviceError(
                f"the emulator needs {ROOM // 10**6} MB while it is built, and {str(folder.parent)!r} has "
                f"{room // 10**6} MB left; make room, or set XDG_CACHE_HOME to another disk."
            )
        partial.chmod(0o755)
        yield partial
    except OSError as error:
        if isinstance(error, DeviceError):
            raise
        raise DeviceError(
            f"the emulator could not be built in {str(folder.parent)!r} ({error}); make room there, or set "
            "XDG_CACHE_HOME to another folder. Nothing is left of the attempt."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what builds left that were killed."""
    for left in folder.parent.glob(f".{folder.name}.partial-*"):
        pid = left.name.rpartition("partial-")[2].partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


PROGRAMS = {"apt-get": "apt", "dpkg-deb": "dpkg", "gcc": "gcc"}  # and the packages that bring them
