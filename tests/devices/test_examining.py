"""Which boards there are, whether they answer, and what they lack."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from edgel0.devices.boards import Board, read_board
from edgel0.devices.examining import boards, doctor, states

EXAMPLES = Path(__file__).parents[2] / "devices"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_examples_are_board_files(file):
    board = read_board(file)
    assert board.transport in ("ssh", "adb", "local")
    assert f"{file.stem}" == board.name


def test_boards_are_this_computer_files_and_cores(tmp_path):
    (tmp_path / "kitchen.toml").write_text('transport = "ssh"\naddress = "pi@kitchen"\n')
    found = boards(tmp_path)
    assert [board.name for board in found[:2]] == ["local", "kitchen"]
    assert {board.address for board in found[2:]} == {"cortex-a53", "cortex-a72", "cortex-a76"}


def test_states_come_in_order_and_failures_are_words(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no emulator is
    monkeypatch.setenv("PATH", str(program(tmp_path, "ssh", "echo 'Connection refused' >&2; exit 255").parent))
    told = states([Board("local", "local"), Board("kitchen", "ssh", "pi@kitchen"), Board("qemu:x", "qemu", "x")])
    assert told[0] == "answers"
    assert told[1].startswith("nothing listens there")
    assert "set up" not in told[2].split(",")[0]


def program(folder, name, code):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_this_computer_is_ready():
    findings = {finding.what: finding for finding in doctor(Board("local", "local"))}
    assert list(findings) == ["link", "python", "runtime", "space", "governor"]
    assert findings["python"].found.startswith(sys.version.split()[0])
    assert "onnxruntime" in findings["runtime"].found
    assert not findings["space"].mend


@pytest.mark.parametrize(
    ("told", "what", "words"),
    [
        ({"runtimes": {}}, "runtime", "pip install onnxruntime"),
        ({"python": "3.8.10"}, "python", "needs Python 3.9"),
        ({"free": 1000}, "space", "remove files there"),
        ({"governor": "powersave"}, "governor", "echo performance"),
    ],
)
def test_what_a_board_lacks_is_told_with_a_cure(tmp_path, told, what, words):
    full = {"python": "3.11.2", "machine": "aarch64", "free": 10**9, "governor": "performance", "runtimes": {"a": "1"}}
    python = program(tmp_path, "python", f"echo a greeting; echo '{json.dumps(full | told)}'")
    wrong = [finding for finding in doctor(Board("board", "local", python=str(python))) if finding.mend]
    assert [finding.what for finding in wrong] == [what]
    assert words in wrong[0].mend


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"runtime": "ai-edge-litert"}, "pip install ai-edge-litert"),
        ({"cores": (0, 7)}, r"there are no processors [7], but [0, 1]"),
        ({"memory": 2**30 + 1}, "more than the board has"),
        ({"runtime": "onnxruntime", "cores": (1,), "memory": 2**30}, ""),
    ],
    ids=str,
)
def test_what_a_board_file_asks_for_is_compared_with_the_board(tmp_path, asked, words):
    told = {"python": "3.11.2", "machine": "aarch64", "free": 10**9, "governor": "performance"}
    told |= {"runtimes": {"onnxruntime": "1"}, "memory": 2**30, "processors": [0, 1]}
    python = program(tmp_path, "python", f"echo '{json.dumps(told)}'")
    findings = doctor(Board("board", "local", python=str(python), **asked))
    assert [finding.what for finding in findings[5:]] == [f"its {key}" for key in asked]
    assert [words in finding.mend for finding in findings if finding.mend] == [True] * bool(words)


def test_this_computer_has_what_a_file_asks_for():
    asked = Board("here", "local", runtime="onnxruntime", cores=tuple(os.sched_getaffinity(0)), memory=1)
    findings = {finding.what: finding for finding in doctor(asked)}
    assert [findings[f"its {key}"].mend for key in ("runtime", "cores", "memory")] == ["", "", ""]
    assert not findings["its memory"].found.endswith("unknown")


@pytest.mark.parametrize("code", ["exit 1", "echo nonsense", "kill -9 $$"])
def test_a_python_that_does_not_run(tmp_path, code):
    *_, last = doctor(Board("board", "local", python=str(program(tmp_path, "python", code))))
    assert (last.what, last.found) == ("python", "does not run")
    assert "install Python 3.9 or newer there" in last.mend


def test_a_board_that_does_not_answer(tmp_path, monkeypatch):
    text = "echo 'ssh: Could not resolve hostname kitchen' >&2; exit 255"
    monkeypatch.setenv("PATH", str(program(tmp_path, "ssh", text).parent))
    (finding,) = doctor(Board("kitchen", "ssh", "pi@kitchen"))
    assert "the name of the host is not known" in finding.mend
