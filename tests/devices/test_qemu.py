"""Counting, with a qemu that emulates nothing: what it is given, what is made of its marks, how its ends are told."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import onnx
import pytest
from projects import edgel0, paragraph

from edgel0.devices.emulator import place
from edgel0.devices.emulator.cores import CORES, board_files
from edgel0.devices.emulator.counting import CRASHES, _entry
from edgel0.devices.qemu import count
from edgel0.errors import DeviceError, UsageError
from edgel0.types import Artifact


@pytest.fixture
def fake(tmp_path, programs, monkeypatch):
    """A fake qemu on the PATH, and an emulator that looks built; the fixture is its folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache, of mine"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = place.folder_of()
    (folder / "tree/usr/bin").mkdir(parents=True)
    (folder / "tree/usr/bin/python3.11").touch()
    made = {"packages": {"libc6": "2.36-9"}, "wheels": {"onnxruntime": "1.32.0", "numpy": "2"}, "python": "3.11.2"}
    (folder / "made.json").write_text(json.dumps(made))
    return folder


def model(tmp_path, name="m.onnx", **content):
    (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / name


def seen(fake):
    return json.loads((fake / "log").read_text())


def assert_nothing_left(tmp_path, fake):
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(seen(fake)["pid"], 0)


def test_the_least_inference_without_the_cost_of_marking(fake, tmp_path):
    file = model(tmp_path, runs=[[9999, 1], [9999, 1], [1300, 530], [1250, 520], [1251, 510], [1260, 520]])
    (row,) = count([file])
    assert (row.instructions, row.accesses) == (1200, 500)
    assert row.samples == (1250, 1200, 1201, 1210)
    assert row.spread == pytest.approx(50 / 1200)
    assert (row.core, row.runtime, row.threads) == ("cortex-a72", "fake 1.0", 1)
    assert row.system == "libc 2.36-9, python 3.11.2, qemu 7.2.22"
    assert (row.artifact, row.sha256) == (file.as_posix(), hashlib.sha256(file.read_bytes()).hexdigest())
    assert_nothing_left(tmp_path, fake)


def test_rows_come_in_the_order_asked_and_an_artifact_by_its_path(fake, tmp_path):
    files = [model(tmp_path, name, runs=[[n, 30]] * 3) for name, n in (("b.tflite", 1050), ("a.onnx", 2050))]
    artifact = Artifact(files[0], "tflite", "float32", 1, "", (), (), None, None, {})
    rows = count([artifact, str(files[1])], warmups=1, repeats=2)
    assert [(row.artifact, row.instructions) for row in rows] == [
        (files[0].as_posix(), 1000),
        (files[1].as_posix(), 2000),
    ]


@pytest.mark.parametrize("core", CORES)
def test_a_core_goes_with_the_files_of_its_board(fake, tmp_path, core):
    count([model(tmp_path)], core)
    got = seen(fake)
    assert got["arguments"][:2] == ["-cpu", core]
    assert f"CPU part\t: {CORES[core].part}\n" in got["cpuinfo"]
    assert CORES[core].board in got["cpuinfo"]


def test_boards_tell_dot_products_where_there_are_some():
    told = {core: "asimddp" in board_files(CORES[core])["proc/cpuinfo"].split() for core in CORES}
    assert told == {"cortex-a53": False, "cortex-a72": False, "cortex-a76": True}
    sizes = {core: board_files(CORES[core])["sys/devices/system/cpu/cpu3/cache/index2/size"] for core in CORES}
    assert sizes == {"cortex-a53": "512K\n", "cortex-a72": "1024K\n", "cortex-a76": "512K\n"}


def test_nothing_of_the_host_reaches_the_guest(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.chdir(tmp_path)
    count([model(tmp_path, "a long name; $(touch x) ünd, more.ONNX")])
    got = seen(fake)
    assert "SECRET" not in got["environment"] and "LD_PRELOAD" not in got["environment"]
    assert got["environment"]["PYTHONHASHSEED"] == "0"
    assert got["environment"]["ORT_DISABLE_TELEMETRY"] == "1"
    assert got["cwd"] == "/"
    assert got["job"] == ["guest.py", "job.json", "model.onnx"]
    assert got["arguments"][-2:] == ["/job/guest.py", "/job/job.json"]
    assert not (tmp_path / "x").exists()


def test_external_data_go_with_their_model(fake, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"123")
    (tmp_path / "other.bin").write_bytes(b"456")
    (tmp_path / "m.onnx").write_bytes(b'{"": "location\x12\x0bweights.bin other.bin"}')
    count([tmp_path / "m.onnx"])
    assert seen(fake)["job"] == ["data/weights.bin", "guest.py", "job.json", "model.onnx"]


@pytest.mark.parametrize("name", ["w.bin", "ü" * 90 + ".data"])
def test_external_data_are_found_as_onnx_names_them(name):
    entry = onnx.StringStringEntryProto(key="location", value=name)
    assert _entry(name) in entry.SerializeToString()
    assert _entry(f"a{name}") not in entry.SerializeToString()


def test_progress_grows_to_one(fake, tmp_path):
    heard = []
    count(
        [model(tmp_path, how="slow"), model(tmp_path, "n.onnx")],
        progress=lambda text, share: heard.append((text, share)),
    )
    shares = [share for _, share in heard]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert any(0 < share < 0.5 for share in shares)
    assert heard[0][0] == "count m.onnx on cortex-a72"


ENDS = {
    "SIGSEGV": "the runtime crashed",
    "SIGKILL": "memory ran out, or somebody killed it",
    "SIGABRT": "thought impossible",
    "SIGILL": "does not have",
    "exit": "no plugin today",
    "failed": "NotImplemented: no kernel for MyOp(1); check that the file is whole and that onnxruntime 1.32.0",
    "memory": "memory ran out while counting 'm.onnx'",
    "short": "0 of 4 inferences",
    "sve": "announces other features",
}


@pytest.mark.parametrize("how", ENDS)
def test_every_end_is_explained_and_leaves_nothing(fake, tmp_path, how):
    with pytest.raises(DeviceError) as caught:
        count([model(tmp_path, how=how)])
    assert ENDS[how] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert_nothing_left(tmp_path, fake)


def test_every_cause_is_a_signal():
    assert set(CRASHES) <= set(signal.Signals.__members__)


def test_time_runs_out(fake, tmp_path):
    with pytest.raises(DeviceError, match=r"longer than 1.5 s and was stopped"):
        count([model(tmp_path, how="hang")], max_secs=1.5)
    assert_nothing_left(tmp_path, fake)


def test_control_c_ends_the_emulator(fake, tmp_path):
    file = model(tmp_path, how="hang")
    command = [sys.executable, "-c", "from edgel0.cli import main; main()", "instructions", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (fake / "log").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert_nothing_left(tmp_path, fake)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"core": "cortex-a77"}, "did you mean 'cortex-a7"),
        ({"repeats": 0}, "at least 1"),
        ({"warmups": 0}, "at least 1"),
        ({"max_secs": 0}, "more than 0"),
    ],
)
def test_wrong_arguments(fake, tmp_path, wrong, text):
    with pytest.raises(UsageError, match=text):
        count([model(tmp_path)], **wrong)


@pytest.mark.parametrize(
    ("name", "text"), [("a.pt2", "expected one of .onnx, .tflite"), ("none.onnx", "there is no file")]
)
def test_wrong_files(fake, tmp_path, name, text):
    (tmp_path / "a.pt2").touch()
    with pytest.raises(UsageError, match=text):
        count([tmp_path / name])


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"FAKE_QEMU_VERSION": "10.0.2"}, "another version of the API; counting needs qemu 6 to 8"),
        ({"FAKE_QEMU_VERSION": "5.2.0"}, "qemu 5.2.0"),
        ({"FAKE_QEMU_VERSION": "strange"}, "which is no qemu"),
        ({"FAKE_QEMU_STATIC": "1"}, "install the package qemu-user, not qemu-user-static"),
    ],
)
def test_a_qemu_that_cannot_count(fake, tmp_path, monkeypatch, environment, text):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=text):
        count([model(tmp_path)])


def test_no_qemu_says_what_to_install(fake, tmp_path, monkeypatch):
    file = model(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="apt-get install qemu-user"):
        count([file])
    (tmp_path / "qemu-aarch64-static").touch()
    (tmp_path / "qemu-aarch64-static").chmod(0o755)
    with pytest.raises(DeviceError, match="static builds take no plugins"):
        count([file])


def test_no_root_file_system_says_how_to_build_it(fake, tmp_path):
    (fake / "made.json").unlink()
    with pytest.raises(DeviceError, match="edgel0 devices setup qemu"):
        count([model(tmp_path)])


def test_command_line(fake, tmp_path):
    first = model(tmp_path, "a.onnx", runs=[[2050, 1020]] * 6)
    second = model(tmp_path, "b.onnx", runs=[[1050, 520]] * 6)
    code, out, error = edgel0("instructions", first, second, "--core", "cortex-a76", "--record")
    assert (code, error) == (0, "")
    assert "Instructions are not milliseconds" in out
    assert max(map(len, out.splitlines())) <= 80
    line = next(line for line in out.splitlines() if line.startswith("b.onnx"))
    assert line.split() == ["b.onnx", "cortex-a76", "1,000", "500", "0.500", "0.000%"]
    told = json.loads((tmp_path / "b.onnx.json").read_text())["instructions"]
    assert told == {"cortex-a76": {"runtime": "fake 1.0", "count": 1000, "accesses": 500}}


def test_command_line_in_json_and_in_trouble(fake, tmp_path):
    file = model(tmp_path)
    code, out, error = edgel0("instructions", file, "--core", "cortex-a53", "--core", "cortex-a72", "--json")
    assert (code, error) == (0, "")
    rows = json.loads(out)["counts"]
    assert [row["core"] for row in rows] == ["cortex-a53", "cortex-a72"]
    assert rows[0]["samples"] == [950] * 4
    code, out, error = edgel0("instructions", model(tmp_path, how="SIGSEGV"))
    assert (code, out) == (3, "")
    paragraph(error)
    assert error.startswith("edgel0: the emulator (cortex-a72, qemu 7.2.22) ended with SIGSEGV")


def test_counting_imports_neither_torch_nor_a_runtime(fake, tmp_path):
    code = (
        "import sys; from edgel0.devices.qemu import count; from edgel0.report.text import counts_table\n"
        f"count([{str(model(tmp_path))!r}])\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
