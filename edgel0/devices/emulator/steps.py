"""What are the steps of building the emulator? Each does one thing in a folder, and returns facts for ``made.json``.

apt works in folders of its own and only fetches, dpkg-deb unpacks: any user can, and no script of a package is run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgel0.devices.emulator.place import HERE, PACKAGES, SUITE, Emulator
from edgel0.devices.emulator.running import ENVIRONMENT, PYTHON, command, make_root
from edgel0.errors import DeviceError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
STEP_SECS = 1800.0


def _run(arguments: Sequence[str], doing: str, advice: str, env: Mapping[str, str] | None = None, **where: Any) -> str:
    """Run a program to its end and return its output."""
    env = {**os.environ, "LC_ALL": "C"} if env is None else env
    try:
        done = subprocess.run(
            arguments, capture_output=True, encoding="utf-8", errors="replace", env=env, timeout=STEP_SECS, check=False,
            **{"stdin": subprocess.DEVNULL, **where},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{doing} failed ({error}); {advice}. Nothing is left of the attempt.") from error
    if done.returncode:
        words = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-400:]
        raise DeviceError(
            f"{doing} failed: {Path(arguments[0]).name} ended with {done.returncode} and said {words!r}; {advice}. "
            "Nothing is left of the attempt."
        )
    return str(done.stdout)


def own_mirror() -> str:
    """Return the mirror from which apt gets this computer's own Debian packages.

    Raises DeviceError where the computer is no Debian, or has no package lists.
    """
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]
    for line in _run(asked, "asking apt for its mirrors", NETWORK).splitlines():
        origin, label, address = line.split("|", 2)
        if origin == label == "Debian":
            return address.rstrip("/")
    raise DeviceError(
        "apt names no Debian mirror here, from which the emulated system could be fetched; run apt-get update, or name "
        "one with --mirror URL."
    )


def fetch_lists(built: Emulator, mirror: str) -> dict[str, Any]:
    """Fetch the index of Debian's packages for arm64 into folders of our own."""
    apt = built.folder / "apt"
    for name in ("lists/partial", "cache/archives/partial", "debs", "none"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n", encoding="utf-8")
    _run([*_apt(apt), "update"], f"fetching Debian's package lists from {mirror}", NETWORK)
    return {}


def fetch_packages(built: Emulator, mirror: str) -> dict[str, Any]:
    """Fetch and unpack the packages; nothing of them is run here."""
    apt, tree = built.folder / "apt", built.tree
    _run([*_apt(apt), "download", *PACKAGES], f"fetching Debian's packages from {mirror}", NETWORK, cwd=apt / "debs")
    tree.mkdir()
    versions = {}
    for deb in sorted((apt / "debs").iterdir()):
        _run(["dpkg-deb", "-x", str(deb), str(tree)], f"unpacking {deb.name}", NETWORK)
        name, version, _ = deb.name.split("_")
        versions[name] = version.replace("%3a", ":")
    shutil.rmtree(apt)
    shutil.rmtree(tree / "usr/share", ignore_errors=True)
    for name, text in ETC.items():
        (tree / "etc" / name).parent.mkdir(exist_ok=True)
        (tree / "etc" / name).write_text(text, encoding="utf-8")
    return {"packages": versions}


def fetch_runtimes(built: Emulator, mirror: str) -> dict[str, Any]:
    """Fetch the runtimes' wheels, whose hashes are pinned."""
    wheels, target = HERE / "wheels.txt", built.tree / "opt/runtimes"
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)]
    _run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"),
            *("--no-deps", "--root-user-action=ignore", "--only-binary=:all:", "--require-hashes", "-r", str(wheels)),
            *("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"),
            *(*platforms, "--platform=any", "--target", str(target)),
        ],
        "fetching the runtimes",
        "see that pip reaches its package index",
    )
    shutil.rmtree(target / "bin", ignore_errors=True)
    for file in target.glob("*.dist-info/RECORD"):  # it and the scripts name this computer's Python
        file.unlink()
    lines = [line.split() for line in wheels.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return {"wheels": dict(line[0].split("==") for line in lines)}


def compile_plugin(built: Emulator, mirror: str) -> dict[str, Any]:
    """Compile the counting plugin for this computer."""
    source, options = str(HERE / "count.c"), ("-O2", "-fPIC", "-shared", "-fvisibility=hidden")
    advice = "run  apt-get install gcc libc6-dev  and try again"
    _run(["gcc", *options, "-o", str(built.plugin), source], "compiling the counting plugin", advice)
    return {}


def compile_modules(built: Emulator, mirror: str) -> dict[str, Any]:
    """Compile Python's modules in the emulator, which also shows that both runtimes work there."""
    root, tree = built.folder / "root", str(built.tree)
    root.mkdir()
    make_root(root, built.tree, "cortex-a72", {"compiling.py": (HERE / "compiling.py").read_bytes()})
    homes = {"PYTHONHOME": f"{tree}/usr", "PYTHONPATH": f"{tree}/opt/runtimes"}
    with (built.tree / PYTHON).open("rb") as python:
        said = _run(
            command(built, "cortex-a72", root, ["/job/compiling.py", tree]),
            "trying the runtimes in the emulator",
            f"{built.qemu} (qemu {built.version}) may be at fault: try the package qemu-user of Debian 12",
            env={**ENVIRONMENT, **homes},
            cwd="/",
            stdin=python,
        )
    shutil.rmtree(root)
    facts: dict[str, Any] = json.loads(said.splitlines()[-1])
    return facts


def _apt(folder: Path) -> list[str]:
    """Return apt-get with its state, its lists and its configuration in one folder, for another processor."""
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",  # as who runs it: the folder may be closed to others
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "1",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": folder / "none",
        "Dir::Etc::preferences": folder / "none/preferences",
        "Dir::Etc::preferencesparts": folder / "none",
    }
    return ["apt-get", "--quiet", *(f"-o{name}={value}" for name, value in options.items())]


NETWORK = "see that the mirror is reachable, or name another with --mirror"

ETC = {  # without these the guest would read this computer's
    "ld.so.cache": "",
    "ld.so.preload": "",
    "nsswitch.conf": "passwd: files\n",
    "os-release": 'ID=debian\nVERSION_ID="12"\n',
    "passwd": "root:x:0:0::/job:/bin/sh\n",
    "localtime": "",
    "lsb-release": "",
}

STEPS: dict[str, Callable[[Emulator, str], dict[str, Any]]] = {
    "fetching Debian's package lists": fetch_lists,
    "fetching Debian's packages": fetch_packages,
    "fetching the runtimes": fetch_runtimes,
    "compiling the counting plugin": compile_plugin,
    "trying the runtimes": compile_modules,
}
