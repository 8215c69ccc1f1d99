"""Is there an emulator on this computer, and where? qemu from the PATH, what was built for it in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgel0.errors import DeviceError

HERE = Path(__file__).parent
SETUP = "edgel0 devices setup qemu"
SUITE = "bookworm"
PACKAGES = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8"),
    *("libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal"),
)
PLUGIN_API = (6, 8)  # the major versions of qemu whose plugins speak version 1 of the API


@dataclass(frozen=True)
class Emulator:
    """A qemu and what was built for it; ``made`` is the content of ``made.json``."""

    qemu: str
    version: str
    folder: Path
    made: dict[str, Any]

    @property
    def tree(self) -> Path:
        """The root file system."""
        return self.folder / "tree"

    @property
    def plugin(self) -> Path:
        """The counting plugin."""
        return self.folder / "count.so"


def folder_of(cache: Path | str | None = None) -> Path:
    """Return where the emulator is or would be built; what it is built from, and how, is part of the name.

    A file more or less in it shows in ONNX Runtime's counts, so one that other steps built is another emulator.
    """
    content = [
        SUITE,
        *PACKAGES,
        *((HERE / name).read_text("utf-8") for name in ("wheels.txt", "count.c", "compiling.py", "steps.py")),
    ]
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:12]
    root = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgel0"
    return Path(os.path.abspath(root)) / f"emulator-{digest}"  # noqa: PTH100 - a link to a larger disk stays one


def emulator(cache: Path | str | None = None) -> Emulator:
    """Return the emulator of this computer.

    Raises DeviceError when qemu cannot be used or when nothing was built for it yet.
    """
    qemu, version = find_qemu()
    folder = folder_of(cache)
    try:
        made = json.loads((folder / "made.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"the emulator's root file system is not at {str(folder)!r}; run  {SETUP}  once (half a minute, 70 MB to "
            "download, 210 MB on disk, no root needed) and try again."
        ) from error
    return Emulator(qemu, version, folder, made)


def find_qemu() -> tuple[str, str]:
    """Return the path of qemu-aarch64 and its version.

    Raises DeviceError when there is none, or none that takes our plugin.
    """
    path = shutil.which("qemu-aarch64")
    if path is None:
        static = " (qemu-aarch64-static is there, but static builds take no plugins)"
        raise DeviceError(
            f"qemu-aarch64 is not on the PATH{static if shutil.which('qemu-aarch64-static') else ''}; it counts the "
            "instructions: run  apt-get install qemu-user  on Debian or Ubuntu and try again."
        )
    try:
        texts = [
            subprocess.run([path, option], capture_output=True, text=True, timeout=30, check=False).stdout
            for option in ("--version", "--help")
        ]
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{path} cannot be run ({error}); reinstall the package qemu-user.") from error
    found = re.search(r"version (\d+)\.[\w.]+", texts[0])
    if found is None:
        raise DeviceError(
            f"{path} says {texts[0].strip()[:100]!r} of its version, which is no qemu; remove it from the PATH or "
            "install the package qemu-user."
        )
    version, major = found[0].removeprefix("version "), int(found[1])
    if not PLUGIN_API[0] <= major <= PLUGIN_API[1]:
        raise DeviceError(
            f"{path} is qemu {version}, whose plugins speak another version of the API; counting needs qemu "
            f"{PLUGIN_API[0]} to {PLUGIN_API[1]} (Debian 12 and Ubuntu 22.04 and 24.04 have one): install that or "
            "put it first on the PATH."
        )
    if "-plugin" not in texts[1]:
        raise DeviceError(
            f"{path} is qemu {version} built without plugins, as static builds are; install the package qemu-user, not "
            "qemu-user-static."
        )
    return path, version
