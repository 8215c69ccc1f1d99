"""A board behind a real sshd whose every program is an aarch64 one: what ``profile --on ssh://`` meets on a Pi.

Emulated, by qemu-user with the core and processor files of a Pi 4: the shell that takes the command (Debian's dash),
the programs that it starts (Debian's coreutils), Python and both runtimes, from real arm64 packages and wheels. The
machine that the runner reports is what the emulated ``uname`` system call answers; nothing is told to it. The board's
name ("Raspberry Pi 4") is text in a file that was put there, and shows nothing.

Not emulated: the kernel below (so load, memory and processor times are this computer's), sshd itself, the folder where
files land, and between two programs, this computer's /bin/sh, for one ``exec`` of qemu: a kernel that is not told to
cannot start a foreign program. Times are an emulator's and mean nothing; only that they arrive is tested.

It runs where ``edgel0 devices setup qemu`` has been; the shell and its programs (5 packages) are fetched here, once,
into the same cache.
"""

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from loopback import NEEDS, empty, ssh_wrapper, sshd

from edgel0.devices.boards import find_board
from edgel0.devices.emulator import steps
from edgel0.devices.emulator.place import SUITE, Emulator, emulator
from edgel0.devices.emulator.running import PYTHON, make_root
from edgel0.devices.links import open_board
from edgel0.errors import DeviceError

pytestmark = [pytest.mark.emulator, *NEEDS]
CORE = "cortex-a72"
AARCH64 = 183  # EM_AARCH64, an ELF file's machine
PACKAGES = ("libc6", "dash", "coreutils", "libselinux1", "libpcre2-8-0")
PROGRAMS = {"sh": "bin/dash", **{name: f"bin/{name}" for name in ("cat", "mkdir", "rm", "uname")}}
PROGRAMS |= {name: f"usr/bin/{name}" for name in ("sha256sum", "env", "id")}
LOGIN = """#!/bin/sh
exec env -i PATH={programs} HOME={there} TMPDIR={there} {programs}/sh -c "$SSH_ORIGINAL_COMMAND"
"""


@pytest.fixture(scope="module")
def runtimes():
    """The emulator's tree, which has Python and the runtimes."""
    try:
        return emulator()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def shell(runtimes):
    """A tree with a shell and its programs, fetched once by the same steps as the emulator's own."""
    digest = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    built = runtimes.folder.parent / f"test-board-{digest}"
    if not built.is_dir():
        with tempfile.TemporaryDirectory(dir=built.parent) as beside, pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "PACKAGES", PACKAGES)
            made = Emulator(runtimes.qemu, runtimes.version, Path(beside) / "made", {})
            made.folder.mkdir()
            mirror = steps.own_mirror()
            steps.fetch_lists(made, mirror)
            steps.fetch_packages(made, mirror)
            made.folder.rename(built)
    return built / "tree"


@pytest.fixture(scope="module")
def programs(runtimes, shell, tmp_path_factory):
    """The only folder on the board's PATH: each program in it is an aarch64 one."""
    folder, root = tmp_path_factory.mktemp("programs"), tmp_path_factory.mktemp("root")
    make_root(root, runtimes.tree, CORE, {})

    def add(name, tree, file, setting=""):
        start = f"{runtimes.qemu} -cpu {CORE} -L {tree} {setting} {file}"
        (folder / name).write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        (folder / name).chmod(0o755)

    for name, file in PROGRAMS.items():
        add(name, shell, shell / file)
    add("python-bare", root, runtimes.tree / PYTHON, f"-0 /{PYTHON}")
    add("python3", root, runtimes.tree / PYTHON, f"-E PYTHONPATH=/opt/runtimes -0 /{PYTHON}")
    return folder


@pytest.fixture
def board(programs, tmp_path, monkeypatch):
    """An ``ssh://`` address, and the folder in which all of its board's files must be."""
    folder, there = tmp_path / "sshd", tmp_path / "board"
    folder.mkdir()
    there.mkdir()
    login = folder / "login"
    login.write_text(LOGIN.format(programs=programs, there=there))
    login.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh_wrapper(tmp_path, folder)), prepend=os.pathsep)
    with sshd(folder, f"ForceCommand {login}\n") as port:
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", there


def profiled(address, *files):
    options = ["--json", "--num-runs", "10", "--min-secs", "0.1", "--max-secs", "60"]
    program = "import sys; from edgel0.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "profile", "--on", address, *options, "--", *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def processes(folder):
    """Return the command lines of all processes in which a folder is named."""
    lines = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines.append(place.read_bytes())
    return [line for line in lines if os.fsencode(folder) in line]


def gone(folder, seconds=10.0):
    end = time.monotonic() + seconds
    while processes(folder) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes(folder)


def test_what_answers_there_is_aarch64(board, shell, runtimes):
    address, _ = board
    for file in (*(shell / file for file in PROGRAMS.values()), runtimes.tree / PYTHON):
        with file.open("rb") as program:
            assert int.from_bytes(program.read(20)[18:], "little") == AARCH64
    link = open_board(find_board(address))
    assert link.run(["uname", "-m"]).split() == [b"aarch64"]
    with pytest.raises(DeviceError, match="not found"):  # a program of this computer, which is no aarch64 one
        link.run(["ls"])


def test_both_formats_are_measured_and_nothing_stays(board, onnx_file, tflite_file):
    address, there = board
    done = profiled(address, onnx_file, tflite_file)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failures"] == []
    rows = told["measurements"]
    assert [row["artifact"] for row in rows] == [onnx_file.as_posix(), tflite_file.as_posix()]
    assert [row["runtime"].split()[0] for row in rows] == ["onnxruntime", "ai-edge-litert"]
    for row in rows:
        assert row["facts"]["machine"] == "aarch64"
        assert row["board"].startswith(f"{address}: Raspberry Pi 4")
        assert len(row["samples_ms"]) >= 10
        assert min(row["samples_ms"]) > 0
    assert empty(there)
    assert gone(there)


def test_awkward_names_pass_its_shell(board, onnx_file, tmp_path):
    address, there = board
    file = Path(shutil.copy(onnx_file, tmp_path / "-n; touch gone $(id) `id`\n'ü' \\0 — 網.onnx"))
    done = profiled(address, file)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["measurements"]
    assert (row["artifact"], row["facts"]["machine"]) == (file.as_posix(), "aarch64")
    assert empty(there)


def test_a_board_without_a_runtime_says_so(board, onnx_file, tmp_path, monkeypatch):
    address, there = board
    (tmp_path / "devices").mkdir()
    place, port = address.removeprefix("ssh://").split(":")
    (tmp_path / "devices" / "bare.toml").write_text(
        f'transport = "ssh"\naddress = "{place}"\nport = {port}\npython = "python-bare"\n'
    )
    monkeypatch.chdir(tmp_path)
    done = profiled("bare", onnx_file)
    (failure,) = json.loads(done.stdout)["failures"]
    assert done.returncode == 3
    assert "python3 -m pip install onnxruntime" in failure["error"]
    assert empty(there)
    assert gone(there)
