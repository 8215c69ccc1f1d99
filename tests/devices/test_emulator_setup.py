"""Building the emulator, with an apt, a pip and a gcc that only pretend: all of it or nothing, whatever fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from projects import edgel0

from edgel0.devices.emulator import building, place
from edgel0.devices.emulator.building import setup
from edgel0.devices.emulator.place import PACKAGES, emulator
from edgel0.errors import DeviceError

PROGRAMS = {
    "apt-get": 'case "$*" in indextargets*) echo "Debian|Debian|http://mirror.test/debian/";;'
    ' *" update") [ -z "$FAKE_SLEEP" ] || sleep 60;;'
    " *) for p in $PACKAGES; do : > ${p}_1.0_arm64.deb; done;; esac",
    "dpkg-deb": 'mkdir -p "$3/usr/bin" "$3/usr/share/doc"; : > "$3/usr/bin/python3.11"',
    "gcc": 'while [ "$1" != -o ]; do shift; done; echo plugin > "$2"',
}
PIP = (
    "import pathlib, sys\nif '--target' in sys.argv:\n"
    " pathlib.Path(sys.argv[sys.argv.index('--target') + 1], 'numpy').mkdir(parents=True)\n"
)


@pytest.fixture
def world(tmp_path, programs, monkeypatch):
    """Programs that pretend, first on the PATH; the fixture is the folder in which the emulator's folder is built."""
    (tmp_path / "pip").mkdir()
    for name, script in PROGRAMS.items():
        program(tmp_path, name, script)
    (tmp_path / "pip/__init__.py").touch()
    (tmp_path / "pip/__main__.py").write_text(PIP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PACKAGES", " ".join(PACKAGES))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "keyring").touch()
    monkeypatch.setattr(building, "KEYRING", tmp_path / "keyring")
    return tmp_path / "cache/edgel0"


def program(tmp_path, name, script):
    (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / name).chmod(0o755)


def left(world):
    return sorted(path.name for path in world.iterdir()) if world.exists() else []


def test_it_is_built_once(world):
    heard = []
    made, new = setup(progress=lambda text, share: heard.append((text, share)))
    assert new and left(world) == [place.folder_of().name] == [made.folder.name]
    assert sorted(path.name for path in made.folder.iterdir()) == ["count.so", "made.json", "tree"]
    assert made.made["packages"] == dict.fromkeys(PACKAGES, "1.0")
    assert made.made["wheels"].keys() == {"onnxruntime", "ai-edge-litert", "numpy"}
    assert not (made.tree / "usr/share").exists()
    assert (made.tree / "etc/ld.so.cache").read_text() == ""
    assert [share for _, share in heard] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert setup() == (made, False) == (emulator(), False)


def test_again_replaces_it(world):
    made, _ = setup()
    (made.folder / "mark").touch()
    assert setup(again=True)[1]
    assert not (made.folder / "mark").exists()
    assert left(world) == [made.folder.name]


def test_versions_and_sources_are_part_of_the_name(world, tmp_path, monkeypatch):
    before = place.folder_of()
    for name in ("wheels.txt", "count.c", "compiling.py", "steps.py"):
        (tmp_path / name).write_text((place.HERE / name).read_text())
    monkeypatch.setattr(place, "HERE", tmp_path)
    assert place.folder_of() == before
    (tmp_path / "wheels.txt").write_text("onnxruntime==9")
    assert place.folder_of() != before


@pytest.mark.parametrize(
    ("name", "script", "text"),
    [
        (
            "apt-get",
            "echo E: no route to host >&2; exit 100",
            "asking apt for its mirrors failed: apt-get",
        ),
        ("dpkg-deb", "echo broken archive >&2; exit 2", "unpacking libc6_1.0_arm64.deb failed"),
        ("gcc", "echo fatal error: stdio.h >&2; exit 1", "compiling the counting plugin failed"),
    ],
)
def test_a_step_that_fails_is_told_and_leaves_nothing(world, tmp_path, name, script, text):
    program(tmp_path, name, script)
    with pytest.raises(DeviceError) as caught:
        setup()
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert left(world) == []


def test_pip_that_fails(world, tmp_path):
    (tmp_path / "pip/__main__.py").write_text(f"{PIP}if '--target' in sys.argv: sys.exit('ERROR: hashes do not match')")
    with pytest.raises(DeviceError, match=r"hashes do not match.*see that pip reaches its package index"):
        setup()
    assert left(world) == []


def test_a_failure_keeps_what_was_there(world, tmp_path):
    made, _ = setup()
    program(tmp_path, "gcc", "exit 1")
    with pytest.raises(DeviceError):
        setup(again=True)
    assert left(world) == [made.folder.name]
    assert emulator() == made


def test_everything_that_is_missing_is_named_at_once(world, tmp_path, monkeypatch):
    for name in ("gcc", "dpkg-deb"):
        (tmp_path / "bin" / name).unlink()
    (tmp_path / "keyring").unlink()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}")
    monkeypatch.setattr(
        "shutil.which", lambda name: None if name in ("gcc", "dpkg-deb") else str(tmp_path / "bin" / name)
    )
    with pytest.raises(DeviceError, match="apt-get install dpkg gcc debian-archive-keyring"):
        setup()
    assert left(world) == []


def test_no_room(world, monkeypatch):
    monkeypatch.setattr(building, "ROOM", 10**18)
    with pytest.raises(DeviceError, match="make room, or set XDG_CACHE_HOME"):
        setup()
    assert left(world) == []


def test_a_cache_that_cannot_be_written(world):
    world.parent.mkdir()
    world.touch()
    with pytest.raises(DeviceError, match="set XDG_CACHE_HOME to a folder that is writable"):
        setup()


def test_control_c_leaves_nothing_and_what_a_kill_left_goes_next_time(world):
    for end, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = subprocess.Popen(
            [sys.executable, "-c", f"import edgel0.devices.emulator.building as b, pathlib, sys\n"
             f"b.KEYRING = pathlib.Path({str(building.KEYRING)!r})\n"
             "from edgel0.cli import main; sys.argv = ['edgel0', 'devices', 'setup', 'qemu']; main()"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "FAKE_SLEEP": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not list(world.glob(".*/apt/sources.list")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(end)
        _, error = process.communicate(timeout=70) if end == signal.SIGINT else (process.wait(), "")
        process.stdout.close(), process.stderr.close()
        assert process.returncode == code, error
        assert "Traceback" not in error
        assert len(left(world)) == (end == signal.SIGKILL)
    setup()
    assert left(world) == [place.folder_of().name]


def test_command_line(world):
    code, out, error = edgel0("devices", "setup", "qemu")
    assert (code, error) == (0, "")
    assert out.startswith("built: ") and "onnxruntime 1.32.0" in out
    assert edgel0("devices", "setup", "qemu")[1].startswith("already there: ")
    code, out, error = edgel0("devices", "setup", "quemu")
    assert (code, out) == (2, "") and "did you mean 'qemu'?" in error


def test_what_the_emulator_is_built_from_is_in_the_package():
    files = {"count.c", "wheels.txt", "guest.py", "compiling.py"}
    assert files <= {path.name for path in place.HERE.iterdir()}
    pinned = [line.split() for line in (place.HERE / "wheels.txt").read_text().splitlines() if not line.startswith("#")]
    assert all("==" in name and digest.startswith("--hash=sha256:") for name, digest in pinned)


def test_the_runtimes_are_those_that_are_tested_together():
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text()
    for line in (place.HERE / "wheels.txt").read_text().splitlines():
        if not line.startswith("#"):
            assert line.split()[0] in constraints


def test_made_json_is_readable(world):
    made, _ = setup()
    assert json.loads((made.folder / "made.json").read_text()) == made.made
