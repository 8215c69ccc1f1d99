"""The real adb, with a server of its own, and a device that is a folder here."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from adbd import Device
from hypothesis import HealthCheck, example, given, settings
from test_benchmark_model import scripted
from test_boards import hostile

from edgel0.devices import links
from edgel0.devices.boards import Board, find_board
from edgel0.devices.curing import explained
from edgel0.devices.examining import doctor
from edgel0.devices.profiling import profile
from edgel0.types import Measurement

pytestmark = [
    pytest.mark.board,
    pytest.mark.skipif(not shutil.which("adb"), reason="not installed: adb"),
    pytest.mark.skipif(sys.platform != "linux", reason="the device's commands are Linux's"),
]
QUICK = ["--min-secs", "0", "--num-runs", "5"]


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    """An adb server on a port of its own; the user's, its keys and its log are left alone."""
    folder = tmp_path_factory.mktemp("adb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ADB_SERVER_SOCKET", raising=False)
        patch.delenv("ANDROID_SERIAL", raising=False)
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("ADB_LOCAL_TRANSPORT_MAX_PORT", "5553")  # look for no emulators
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
            patch.setenv(name, str(folder))
        adb("start-server")
        yield
        adb("kill-server")


def adb(*arguments):
    subprocess.run(["adb", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def plug(tmp_path):
    """A function that plugs a device in; all are unplugged at the end."""
    plugged = []

    def made(**how):
        device = Device(tmp_path / f"device{len(plugged)}", **how)
        plugged.append(device)
        device.__enter__()
        adb("connect", device.serial)
        return device

    yield made
    for device in plugged:
        subprocess.run(["adb", "disconnect", device.serial], check=False, capture_output=True, timeout=30)
        device.__exit__()


@pytest.fixture
def device(plug):
    return plug()


def edgel0(*arguments):
    """Start the command line."""
    command = [sys.executable, "-c", "from edgel0.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process):
    """Return how it ended, its rows and its words."""
    out, err = process.communicate(timeout=120)
    return process.returncode, json.loads(out or "[]"), " ".join(err.split())


def left(device):
    """Return what stays on a device after its jobs, and beside the folder that they were given."""
    return device.left(), {path.name for path in device.folder.iterdir()} - {"bin", "tmp"}


NOTHING = ([], set())


def test_files_are_measured_and_nothing_stays(plug, onnx_file, tflite_file):
    device = plug()
    on = f"adb:{device.serial}"
    code, rows, words = told(edgel0("profile", onnx_file, tflite_file, "--on", on, "--json", *QUICK))
    assert (code, words, rows["failures"]) == (0, "", [])
    found = [(row["artifact"], row["runtime"].split()[0]) for row in rows["measurements"]]
    assert found == [(onnx_file.as_posix(), "onnxruntime"), (tflite_file.as_posix(), "ai-edge-litert")]
    assert all(row["board"].startswith(f"{on}: ") and len(row["samples_ms"]) >= 5 for row in rows["measurements"])
    assert left(device) == NOTHING


def test_files_go_there_and_come_back(plug, large_onnx_file, tmp_path):
    device = plug()
    link = links.open_board(find_board(f"adb:{device.serial}"))
    link.push(large_onnx_file, f"{link.folder}/there")
    assert (device.tmp / "there").read_bytes() == large_onnx_file.read_bytes()
    link.pull(f"{link.folder}/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large_onnx_file.read_bytes()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=hostile, folder=hostile)
@example(name="-a; touch pwned;$(touch pwned)`touch pwned`", folder="-b\n touch pwned\n")
@example(name='it\'s "ü — 網" \\ %s !', folder=" & touch pwned & ")
def test_hostile_names_arrive_unharmed(device, tmp_path, onnx_file, name, folder):
    there, source = device.tmp / folder, tmp_path / "source"
    there.mkdir()
    source.mkdir(exist_ok=True)
    file = Path(shutil.copy(onnx_file, source / f"{name}.onnx"))
    board = Board(name, "adb", device.serial, folder=os.fspath(there))
    (row,) = profile([board], [file], min_secs=0, num_runs=3, rounds=1)
    assert isinstance(row, Measurement), row.error
    assert row.artifact == file.as_posix()
    link = links.open_board(board)
    link.push(file, f"{there}/{name}")
    assert (there / name).read_bytes() == onnx_file.read_bytes()
    assert link.run(["printf", "%s", name]).decode() == name
    link.run(["rm", "-rf", "--", os.fspath(there)])
    file.unlink()
    assert left(device) == NOTHING


def test_a_device_without_python_runs_a_binary(plug, tflite_file, tmp_path):
    device = plug(python=("/nowhere/python3",))
    scripted(tmp_path / "bm")
    on = ("--on", f"adb:{device.serial}", "--benchmark-model", tmp_path / "bm")
    code, rows, words = told(edgel0("profile", tflite_file, *on, "--json"))
    assert (code, words, [row["p50_ms"] for row in rows["measurements"]]) == (0, "", [2.2])
    assert left(device) == NOTHING


# Faults: a row each, exit code 3, nothing left on the board, nothing measured is lost


def failed(process):
    """Return the rows and failures of a command that ends with exit code 3, each failure told on stderr as well."""
    code, rows, words = told(process)
    assert code == 3
    assert all(" ".join(failure["error"].split()) in words for failure in rows["failures"])
    assert "Traceback" not in words
    return rows["measurements"], [failure["error"] for failure in rows["failures"]]


def test_a_device_that_has_not_allowed_this_computer(plug, onnx_file):
    device = plug(trusting=False)
    rows, (error,) = failed(edgel0("profile", onnx_file, "--on", f"adb:{device.serial}", "--json"))
    assert (rows, "accept the question about USB debugging" in error) == ([], True)
    (finding,) = doctor(find_board(f"adb:{device.serial}"))
    assert "accept the question about USB debugging" in finding.mend
    assert left(device) == NOTHING


def test_a_device_that_is_offline(plug, onnx_file):
    device = plug()
    device.cut()
    rows, (error,) = failed(edgel0("profile", onnx_file, "--on", f"adb:{device.serial}", "--json"))
    assert (rows, "adb lists it as offline" in error) == ([], True)
    assert left(device) == NOTHING


def test_a_serial_that_adb_does_not_know(onnx_file):
    rows, (error,) = failed(edgel0("profile", onnx_file, "--on", "adb:192.0.2.1:5555", "--json"))
    assert (rows, "adb connect HOST:PORT" in error) == ([], True)


def test_a_device_that_adb_is_greeting_is_explained():
    assert "run this again" in explained(1, b"error: device still authorizing")  # adb's words; it lasts a moment


def test_several_devices_and_no_serial(plug, onnx_file):
    devices = plug(), plug()
    rows, (error,) = failed(edgel0("profile", onnx_file, "--on", "adb", "--json"))
    assert (rows, "choose one with adb:SERIAL" in error) == ([], True)
    assert [left(device) for device in devices] == [NOTHING, NOTHING]


def test_a_link_that_is_cut_keeps_what_was_measured(plug, onnx_file, tflite_file):
    device = plug(cut_at=(b'"samples"', 5))
    rows, errors = failed(edgel0("profile", onnx_file, tflite_file, "--on", f"adb:{device.serial}", "--json"))
    assert [row["artifact"] for row in rows] == [onnx_file.as_posix(), tflite_file.as_posix()]
    assert all(f"cut short after {len(row['samples_ms'])} runs" in row["notes"] for row in rows)
    assert all(row["samples_ms"] for row in rows)
    assert len(errors) == 2
    assert all("the link was cut" in error for error in errors)
    assert left(device) == NOTHING


def test_a_link_that_is_cut_while_files_are_sent(plug, large_onnx_file):
    device = plug(cut_at=(b"\n", 2))  # the line that says that the folder is there
    rows, (error,) = failed(edgel0("profile", large_onnx_file, "--on", f"adb:{device.serial}", "--json"))
    assert (rows, "the link was cut" in error) == ([], True)
    assert left(device) == NOTHING


def test_a_device_without_a_runtime(plug, onnx_file):
    device = plug(python=(sys.executable, "-I", "-S"))  # the standard library alone
    rows, (error,) = failed(edgel0("profile", onnx_file, "--on", f"adb:{device.serial}", "--json"))
    assert (rows, "python3 -m pip install onnxruntime  there" in error) == ([], True)
    assert left(device) == NOTHING


def test_a_device_without_python(plug, onnx_file):
    device = plug(python=("/nowhere/python3",))
    rows, (error,) = failed(edgel0("profile", onnx_file, "--on", f"adb:{device.serial}", "--json"))
    assert (rows, "name its Python (python = ...)" in error) == ([], True)
    assert left(device) == NOTHING


SMALL = """
mount -t tmpfs -o size=1m none "$0" || exit 99
sh -c "$1"
code=$?
ls -A "$0" >> "$0.left"
exit $code
"""


def test_a_device_without_space(plug, tmp_path, large_onnx_file, onnx_file):
    shell = ("unshare", "--map-root-user", "--mount", "sh", "-c")
    place = tmp_path / "device0" / "tmp"  # a file system of 1 MiB there, as a command of the device sees it
    (tmp_path / "probe").mkdir()
    if subprocess.run([*shell, SMALL, tmp_path / "probe", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no file system")
    device = plug(shell=(*shell, SMALL, os.fspath(place)))
    files = [onnx_file, large_onnx_file]
    (row,), (error,) = failed(edgel0("profile", *files, "--on", f"adb:{device.serial}", "--json", *QUICK))
    assert (row["artifact"], "the board has no space left" in error) == (onnx_file.as_posix(), True)
    assert (device.left(), place.with_name("tmp.left").read_text()) == ([], "")


def test_an_interrupt_keeps_what_was_measured_and_leaves_nothing(plug, onnx_file):
    device = plug()
    process = edgel0("profile", onnx_file, "--on", f"adb:{device.serial}", "--min-secs", "60", "--json")
    deadline = time.monotonic() + 30
    while device.said.count(b'"some"') < 2:  # the first has arrived by then
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    (row,), (error,) = failed(process)
    assert (len(row["samples_ms"]) > 0, "interrupted while running" in error) == (True, True)
    assert left(device) == NOTHING


def test_the_doctor_finds_a_device_ready(plug):
    findings = {finding.what: finding for finding in doctor(find_board(f"adb:{plug().serial}"))}
    assert findings["link"].found == "answers"
    assert "onnxruntime" in findings["runtime"].found
