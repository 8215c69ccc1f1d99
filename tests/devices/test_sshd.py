"""A real sshd on the loopback, with keys and a configuration of its own, reached by the real ssh."""

import dataclasses
import getpass
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from loopback import NEEDS, empty, ssh_wrapper, sshd
from test_benchmark_model import scripted
from test_boards import hostile

from edgel0.devices import links
from edgel0.devices.boards import Board
from edgel0.devices.examining import doctor
from edgel0.devices.profiling import Failure, profile
from edgel0.types import Measurement

pytestmark = [pytest.mark.board, *NEEDS]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start an sshd; yield its folder and port."""
    folder = tmp_path_factory.mktemp("sshd")
    with sshd(folder) as port:
        yield folder, port


@pytest.fixture
def reach(server, tmp_path, monkeypatch):
    """A function that makes ``ssh`` use a key and a list of known hosts, and returns the board."""
    folder, port = server
    there = tmp_path / "board"
    there.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(key="user", known="known", port=port):
        monkeypatch.setenv("PATH", str(ssh_wrapper(tmp_path, folder, key, known)), prepend=os.pathsep)
        return Board("pi", "ssh", f"{getpass.getuser()}@127.0.0.1", port, sys.executable, str(there))

    return made, there


def test_files_are_measured_and_nothing_stays(reach, onnx_file, tflite_file):
    made, there = reach
    rows = profile([made()], [onnx_file, tflite_file], min_secs=0.1, num_runs=10)
    assert [type(row) for row in rows] == [Measurement, Measurement]
    assert rows[0].board.startswith("pi: ")
    assert [row.runtime.split()[0] for row in rows] == ["onnxruntime", "ai-edge-litert"]
    assert empty(there)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=hostile, folder=hostile)
@example(name="-a; touch pwned;$(touch pwned)`touch pwned`", folder="-b\n touch pwned\n")
@example(name='it\'s "ü — 網" \\ %s !', folder=" & touch pwned & ")
def test_hostile_names_arrive_unharmed(reach, tmp_path, onnx_file, name, folder):
    made, there = reach
    place, source = there / folder, tmp_path / "source"
    place.mkdir()
    source.mkdir(exist_ok=True)
    file = Path(shutil.copy(onnx_file, source / f"{name}.onnx"))
    board = dataclasses.replace(made(), name=name, folder=os.fspath(place))
    (row,) = profile([board], [file], min_secs=0, num_runs=3, rounds=1)
    assert isinstance(row, Measurement), row.error
    assert row.artifact == file.as_posix()
    link = links.open_board(board)
    link.push(file, f"{place}/{name}")
    assert (place / name).read_bytes() == onnx_file.read_bytes()
    assert link.run(["printf", "%s", name]).decode() == name
    link.run(["rm", "-rf", "--", os.fspath(place)])
    file.unlink()
    assert empty(there)
    assert not list(Path.home().glob("pwned"))


def test_a_board_without_python_runs_a_binary(reach, tflite_file, tmp_path):
    made, there = reach
    scripted(tmp_path / "bm")
    (row,) = profile([made()], [tflite_file], binary=tmp_path / "bm")
    assert row.p50_ms == 2.2
    assert empty(there)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"key": "stranger"}, "it refused the key"),
        ({"known": "changed"}, "its host key is not the one that ssh knows"),
        ({"port": 1}, "nothing listens there"),
    ],
    ids=["key", "host-key", "port"],
)
def test_what_ssh_refuses_is_explained(reach, onnx_file, how, words):
    made, there = reach
    (row,) = profile([made(**how)], [onnx_file])
    assert isinstance(row, Failure)
    assert words in str(row.error)
    (finding,) = doctor(made(**how))
    assert words in finding.mend
    assert empty(there)


def test_a_link_that_is_cut_keeps_what_was_measured(reach, server, onnx_file):
    made, there = reach
    heard = threading.Event()

    def cut():
        heard.wait(60)
        time.sleep(1.0)
        listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines():
            if str(there) in line and "ssh -F" in line:  # the client of this test's session alone
                os.kill(int(line.split()[0]), signal.SIGKILL)

    thread = threading.Thread(target=cut)
    thread.start()

    def progress(what, share):
        if "run" in what:
            heard.set()

    rows = profile([made()], [onnx_file], min_secs=8, max_secs=60, rounds=40, progress=progress)
    thread.join()
    kinds = {type(row): row for row in rows}
    assert kinds[Measurement].samples_ms
    assert any("cut short" in note for note in kinds[Measurement].notes)
    assert isinstance(kinds[Failure], Failure)
    assert empty(there)


def test_the_doctor_finds_a_board_ready(reach):
    made, _ = reach
    findings = {finding.what: finding for finding in doctor(made())}
    assert findings["link"].found == "answers"
    assert "onnxruntime" in findings["runtime"].found
