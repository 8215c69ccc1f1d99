import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from conftest import save_onnx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from test_benchmark_model import scripted

from edgel0.cli import app
from edgel0.devices import links
from edgel0.devices.boards import Board, find_board
from edgel0.devices.curing import CURES
from edgel0.devices.profiling import Failure, alone, profile
from edgel0.errors import DeviceError, UsageError
from edgel0.types import Measurement

FAKE_RUNNER = Path(__file__).with_name("fake_runner.py")


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """An ssh and an adb that run commands in a real sh here, first in PATH."""
    folder = tmp_path_factory.mktemp("bin")
    text = Path(__file__).with_name("fake_program.py").read_text()
    for name in ("ssh", "adb"):
        (folder / name).write_text(f"#!{sys.executable} -S\n{text}")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def lab(programs, tmp_path, monkeypatch):
    """A board's folder and the knob of what goes wrong there."""
    (programs / "argv").unlink(missing_ok=True)
    (programs / "how").unlink(missing_ok=True)
    (tmp_path / "board").mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "board", lambda how: (programs / "how").write_text(how)


def board(kind, folder, **more):
    return Board(f"{kind}-board", kind, "pi@board", python=sys.executable, folder=str(folder), **more)


def left(folder, seconds=5.0):
    """Return what is still on the board once its shell had the time to tidy."""
    end = time.monotonic() + seconds
    while list(folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    return [path.name for path in folder.iterdir()]


def processes(folder):
    """Return the processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words and int(path.parent.name) != os.getpid():
            found.append(words)
    return found


def gone(folder, seconds=5.0):
    end = time.monotonic() + seconds
    while processes(folder) and time.monotonic() < end:
        time.sleep(0.02)
    return processes(folder) == []


@pytest.fixture
def fake_runner(monkeypatch):
    monkeypatch.setattr(links.parcels.runner, "__file__", str(FAKE_RUNNER))


# The contract of a transport

KINDS = list(links.TRANSPORTS)


@pytest.mark.parametrize("kind", KINDS)
def test_files_go_there_and_come_back(kind, lab, tmp_path):
    folder, _ = lab
    link = links.open_board(board(kind, folder))
    (tmp_path / "a").write_bytes(bytes(range(256)) * 999)
    link.push(tmp_path / "a", f"{folder}/b")
    link.pull(f"{folder}/b", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (folder / "b").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_that_fails_is_an_error_with_its_words(kind, lab):
    link = links.open_board(board(kind, lab[0]))
    assert link.run(["printf", "%s", "a  b"]) == b"a  b"
    with pytest.raises(DeviceError, match=r"-board: .*exit code 5.*'no paper'"):
        link.run(["sh", "-c", "echo no paper >&2; exit 5"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_measured_and_nothing_stays(kind, lab, onnx_file):
    folder, _ = lab
    (row,) = profile([board(kind, folder)], [onnx_file], min_secs=0.05)
    assert isinstance(row, Measurement)
    assert (len(row.samples_ms) >= 50, row.board.split(":")[0]) == (True, f"{kind}-board")
    assert row.artifact == onnx_file.as_posix()
    assert (left(folder), gone(folder)) == ([], True)


# Names reach the board as they are, and no shell reads them

hostile = st.text(
    st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]) | st.sampled_from(" ;$()`'\"\\\n-*&|<>!~#"),
    min_size=1,
    max_size=40,
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@pytest.mark.parametrize("kind", ["ssh", "adb"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=hostile)
@example(name="; touch pwned")
@example(name="$(touch pwned)")
@example(name="a\n touch pwned\n")
@example(name="-rf")
@example(name="'\"\\'`touch pwned`")
def test_hostile_names_arrive_unharmed(kind, name, lab, tmp_path):
    folder, _ = lab
    link = links.open_board(board(kind, folder))
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / name).write_text(name)
    link.push(source / name, f"{folder}/{name}")
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert link.run(["printf", "%s", name]).decode() == name
    link.run(["rm", "-rf", "--", f"{folder}/{name}"])
    assert list(folder.iterdir()) == []
    (source / name).unlink()


@pytest.mark.parametrize("kind", ["ssh", "adb"])
@pytest.mark.parametrize("name", ["; touch pwned;.onnx", "$(touch pwned).onnx", "-a\nb 'ü\".onnx", "\\`x`.onnx"])
def test_models_of_hostile_names_are_measured(kind, name, lab, tmp_path, monkeypatch, fake_runner):
    folder, _ = lab
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    (row,) = profile([board(kind, folder)], [Path(name)], num_runs=5, min_secs=0)
    assert row.artifact == name
    assert (list(folder.iterdir()), list(tmp_path.rglob("pwned"))) == ([], [])


@pytest.mark.parametrize("host", ["-oProxyCommand=touch pwned", "a;touch pwned", "$(touch pwned)"])
def test_a_hostile_host_is_one_argument_after_the_options(host, lab, programs):
    links.open_board(find_board(f"ssh://{host}")).run(["true"])
    (argv,) = [json.loads(line) for line in (programs / "argv").read_text().splitlines()]
    assert argv[-3:-1] == ["--", host]
    assert links.SAFE.issuperset(argv[-1].replace("'", "").replace("\\0", ""))


# Faults: a row each, nothing left on the board, nothing measured is lost

LINKED = ["ssh", "adb"]
FAULTS = {
    "refused": (["ssh"], "nothing listens there"),
    "key": (["ssh"], "it refused the key"),
    "changed": (["ssh"], "host key is not the one"),
    "unauthorized": (["adb"], "unlock it"),
    "several": (["adb"], "choose one with adb:SERIAL"),
    "offline": (["adb"], "lists it as offline"),
    "full": (LINKED, "no space left"),
    "architecture": (LINKED, "built for another architecture"),
    "halfway": (LINKED, "the link was cut"),
    "damaged": (LINKED, "did not arrive whole"),
    "endless": (LINKED, "xxxxx"),
    "silent": (LINKED, "ran no command|nobody answered|left no words|it said ''"),
}


@pytest.mark.parametrize(("fault", "kind"), [(fault, kind) for fault in FAULTS for kind in FAULTS[fault][0]])
def test_a_fault_is_a_row(fault, kind, lab, tmp_path, fake_runner):
    folder, happen = lab
    happen(fault)
    (tmp_path / "plain.onnx").touch()
    (row,) = profile([board(kind, folder)], [tmp_path / "plain.onnx"], num_runs=5, min_secs=0)
    assert isinstance(row, Failure)
    assert re.search(FAULTS[fault][1], str(row.error))
    assert row.error.exit_code == 3
    assert gone(folder)
    assert left(folder) == []


@pytest.mark.parametrize("kind", LINKED)
def test_a_greeting_is_passed_over(kind, lab, tmp_path, onnx_file, fake_runner):
    folder, happen = lab
    happen("greeting")
    (tmp_path / "plain.onnx").touch()
    (row,) = profile([board(kind, folder)], [tmp_path / "plain.onnx"], num_runs=5, min_secs=0)
    assert isinstance(row, Measurement)
    link = links.open_board(board(kind, folder))
    link.push(onnx_file, f"{folder}/there")
    link.pull(f"{folder}/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == onnx_file.read_bytes()


@pytest.mark.parametrize("program", ["sha256sum", ""])
def test_a_push_that_is_damaged_is_seen_by_a_digest_or_by_reading_back(program, lab, tmp_path, onnx_file, monkeypatch):
    folder, _ = lab
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ["sh", "cat", "printf", *([program] if program else [])]:
        (tools / name).symlink_to(shutil.which(name))
    link = links.open_board(board("local", folder))
    monkeypatch.setenv("PATH", str(tools))
    link.push(onnx_file, f"{folder}/there")
    with pytest.raises(DeviceError, match="damaged on the way"):
        links.Link(
            link.board, lambda argv: [each.replace('cat > "$0"', 'cat > "$0"; echo >> "$0"') for each in argv]
        ).push(onnx_file, f"{folder}/there")


# What a board leaves us to work with


def test_folders_of_jobs_that_a_power_cut_ended_are_swept(lab, onnx_file):
    folder, _ = lab
    old, young, other = (folder / name for name in (f"edgel0.{'0' * 16}", f"edgel0.{'1' * 16}", "edgel0.notes"))
    for path in (old, young, other):
        (path / "model").mkdir(parents=True)
        (path / "model" / "a.onnx").touch()
        days = 0.5 if path is young else 2.0
        os.utime(path, (time.time() - days * 86400,) * 2)
    (row,) = profile([board("ssh", folder)], [onnx_file], min_secs=0, num_runs=3)
    assert isinstance(row, Measurement)
    assert set(left(folder, 0.5)) == {young.name, other.name}


def test_a_board_whose_folder_cannot_be_written_takes_the_next(lab, tmp_path, onnx_file, monkeypatch):
    (tmp_path / "file").touch()  # nobody makes a folder in it, root neither
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    before = set(Path("/tmp").glob("edgel0.*"))
    (row,) = profile([board("ssh", "")], [onnx_file], min_secs=0, num_runs=3)
    assert isinstance(row, Measurement), row.error
    time.sleep(0.5)
    assert set(Path("/tmp").glob("edgel0.*")) <= before
    (row,) = profile([board("ssh", str(tmp_path / "file"))], [onnx_file], min_secs=0, num_runs=3)
    assert "Not a directory" in str(row.error)  # of a folder that was named, there is no next


# Models of several files


@pytest.mark.parametrize("kind", KINDS)
def test_weights_beside_a_model_go_with_it(kind, lab, tmp_path):
    folder, _ = lab
    (tmp_path / "model").mkdir()
    path = save_onnx(tmp_path / "model" / "big.onnx", 64)
    (tmp_path / "model" / "deep" / "er").mkdir(parents=True)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="deep/er/w $(id).data", size_threshold=0)
    (row,) = profile([board(kind, folder)], [path], num_runs=5, min_secs=0)
    assert isinstance(row, Measurement), row.error
    assert row.file_bytes > 64 * 64 * 4
    assert left(folder) == []


def external(folder, location):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    made = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/../../secret", "link", "..", "c:\\x", "absent", ""]
)
def test_weights_elsewhere_are_refused_before_anything_is_sent(location, lab, tmp_path, programs):
    folder, _ = lab
    (tmp_path / "secret").write_text("s")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to("../secret")
    (row,) = profile([board("ssh", folder)], [external(tmp_path / "model", location)])
    assert isinstance(row.error, UsageError)
    assert "\n" not in str(row.error)
    assert not (programs / "argv").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kill-samples", "killed by SIGKILL while running .*; most likely memory ran out"),
        ("exit-warm", "exit code 1 while warming up .*no more paper"),
        ("garbage-warm", "Welcome to this board!"),
        ("half-samples", "ended with exit code 0 while running"),
        ("endless-warm", "wrote 'xxxx"),
        ("bare-ready", "where the event 'ready' was expected"),
        ("bare-samples", "where the event 'samples' was expected"),
        ("infinite-samples", "where the event 'samples' was expected"),
        ("stranger-warm", "where the event 'warm' was expected"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_runner_that_fails_is_a_row_and_the_others_go_on(kind, name, text, lab, tmp_path, fake_runner):
    folder, _ = lab
    for model in (name, "plain"):
        (tmp_path / f"{model}.onnx").touch()
    files = [tmp_path / f"{model}.onnx" for model in (name, "plain")]
    good, bad = profile([board(kind, folder)], files, num_runs=5, min_secs=0)
    assert (good.artifact, bad.artifact) == (files[1].as_posix(), files[0].as_posix())
    assert re.search(text, str(bad.error))
    assert (left(folder), gone(folder)) == ([], True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_runner_told_of_a_batch_is_kept(kind, lab, tmp_path, fake_runner):
    (tmp_path / "some-exit.onnx").touch()
    row, failure = profile([board(kind, lab[0])], [tmp_path / "some-exit.onnx"], num_runs=5, min_secs=0)
    assert (row.samples_ms, row.p50_ms, row.notes[0]) == ((4.0, 4.0, 5.0), 4.0, "cut short after 3 runs")
    assert "no more paper" in str(failure.error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hang_ends_at_the_limit(kind, lab, tmp_path, fake_runner, monkeypatch):
    folder, _ = lab
    monkeypatch.setattr("edgel0.devices.measure.GRACE_SECS", 0.2)
    (tmp_path / "hang-warm.onnx").touch()
    (row,) = profile([board(kind, folder)], [tmp_path / "hang-warm.onnx"], num_runs=5, min_secs=0, max_secs=0.5)
    assert "no answer within 0.7 s" in str(row.error)
    assert left(folder) == []


@pytest.mark.parametrize("kind", LINKED)
def test_a_link_cut_in_the_middle_keeps_what_was_measured(kind, lab, onnx_file):
    folder, happen = lab
    happen("cut")
    row, failure = profile([board(kind, folder)], [onnx_file], min_secs=0.05)
    assert len(row.samples_ms) >= 10
    assert row.notes[0] == f"cut short after {len(row.samples_ms)} runs"
    assert "the link was cut" in str(failure.error)
    assert (left(folder), gone(folder)) == ([], True)  # the board's own shell and runner did it: nobody can reach them


def test_a_missing_runtime_names_what_to_install_there(lab, tmp_path, onnx_file, monkeypatch):
    (tmp_path / "absent" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "absent" / "onnxruntime" / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"))
    (row,) = profile([board("ssh", lab[0])], [onnx_file])
    assert "python3 -m pip install onnxruntime  there" in str(row.error)
    assert left(lab[0]) == []


def test_one_board_that_fails_does_not_stop_the_others(lab, tmp_path, fake_runner):
    folder, happen = lab
    happen("refused")
    (tmp_path / "plain.onnx").touch()
    boards = [board("ssh", folder), board("local", folder)]
    heard = []
    rows = profile(boards, [tmp_path / "plain.onnx"], num_runs=5, min_secs=0, found=heard.append)
    assert [type(row) for row in rows] == [Failure, Measurement]
    assert sorted(map(repr, heard)) == sorted(repr([row]) for row in rows)


def test_emulated_cores_that_cannot_count_do_not_stop_the_others(lab, tmp_path, fake_runner):
    (tmp_path / "plain.onnx").touch()  # and there is no emulator in this cache
    asked = [find_board("qemu:cortex-a72"), board("local", lab[0])]
    failure, row = profile(asked, [tmp_path / "plain.onnx"], num_runs=5, min_secs=0)
    assert (failure.board, failure.artifact, failure.error.exit_code) == ("qemu:cortex-a72", "", 3)
    assert isinstance(row, Measurement)


def test_jobs_on_one_board_take_turns(lab):
    one = board("ssh", lab[0])
    with alone(one):
        with pytest.raises(DeviceError, match="busy with another job"), alone(one, patience=0.0):
            pass
        with alone(Board("other", "ssh", "pi@other"), patience=0.0):
            pass
    with alone(one, patience=0.0):
        pass


@pytest.mark.parametrize("many", [False, True])
def test_an_interrupt_is_a_row_and_leaves_what_was_measured(many, lab, tmp_path, monkeypatch):
    folder, _ = lab
    (tmp_path / "some-hang.onnx").touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    text = f"transport = 'ssh'\naddress = 'b'\npython = {sys.executable!r}\nfolder = {str(folder)!r}\n"
    (tmp_path / "devices" / "one.toml").write_text(text)
    (tmp_path / "devices" / "two.toml").write_text(text.replace("'b'", "'c'"))
    code = f"""
import sys
from edgel0.devices import links
from edgel0.cli import main
links.parcels.runner.__file__ = {str(FAKE_RUNNER)!r}
sys.argv = ["edgel0", "profile", "some-hang.onnx", "--on", {"one,two" if many else "one"!r}, "--json"]
main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    begun = 2 if many else 1
    deadline = time.monotonic() + 30
    while sum("some" in log.read_text().split() for log in folder.glob("*/model/log")) < begun:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    told = json.loads(out)
    assert (process.returncode, error.count("interrupted while running")) == (3, begun)
    assert [row["samples_ms"] for row in told["measurements"]] == [[4.0, 4.0, 5.0]] * begun
    assert [row["artifact"] for row in told["failures"]] == ["some-hang.onnx"] * begun
    assert left(folder) == []


def test_an_interrupt_ends_a_wait_for_another_job(lab, tmp_path):
    (tmp_path / "plain.onnx").touch()
    code = f"""
from pathlib import Path
from edgel0.devices.boards import Board
from edgel0.devices.profiling import profile
print("begun", flush=True)
profile([Board("b", "ssh", "b")], [Path({str(tmp_path / "plain.onnx")!r})], found=lambda rows: print(rows[0].error))
"""
    with alone(Board("b", "ssh", "b")):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert out == "b: interrupted while another job of edgel0 had it.\n"
    assert error.strip().endswith("KeyboardInterrupt")


# Boards without a Python


@pytest.fixture
def binary(tmp_path):
    """A function that makes a benchmark_model, a script that prints what the real one does, and what it does before."""

    def made(before=""):
        return scripted(tmp_path / "bm 'x", before)

    return made


@pytest.mark.parametrize("kind", LINKED)
def test_a_binary_is_sent_and_measures_there(kind, lab, tflite_file, binary, tmp_path):
    folder, _ = lab
    there = board(kind, folder, threads=3)
    files = [tflite_file, Path(shutil.copy(tflite_file, tmp_path / "-$(id) ü.tflite"))]
    rows = profile([there], files, binary=binary('echo "$@" >&2'), num_runs=9)
    assert [(row.artifact, row.p50_ms, row.threads) for row in rows] == [(file.as_posix(), 2.2, 3) for file in files]
    assert rows[0].board.startswith(f"{kind}-board: ")
    assert left(folder) == []


BAD_BINARIES = {
    "echo no such flag; exit 7": "exit code 7; it said 'no such flag'",
    "exec /bin/true": "printed no init",
    "kill -9 $$": "exit code 137",
    "exec sleep 60": "no answer within",
}


@pytest.mark.parametrize("before", BAD_BINARIES)
@pytest.mark.parametrize("kind", LINKED)
def test_a_binary_that_fails_there_is_a_row_and_leaves_nothing(
    kind, before, lab, tflite_file, binary, monkeypatch, tmp_path
):
    folder, _ = lab
    monkeypatch.setattr("edgel0.devices.benchmark_model.GRACE_SECS", 1.0)
    (row,) = profile([board(kind, folder)], [tflite_file], binary=binary(before), max_secs=1.0)
    assert (row.artifact, row.error.exit_code) == (tflite_file.as_posix(), 3)
    assert BAD_BINARIES[before] in str(row.error)
    assert (left(folder), gone(folder)) == ([], True)


def test_a_binary_of_another_architecture_says_so(lab, tflite_file, tmp_path):
    folder, _ = lab
    (tmp_path / "bm").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xff" + bytes(90))
    (row,) = profile([board("adb", folder)], [tflite_file], binary=tmp_path / "bm")
    assert "built for another architecture" in str(row.error)
    (failure,) = profile([board("adb", folder, memory=9)], [tflite_file], binary=tmp_path / "bm")
    assert "needs at least" in str(failure.error)
    with pytest.raises(UsageError, match=r"no file .* to send"):
        profile([board("adb", folder)], [tflite_file], binary=tmp_path / "absent")


@pytest.mark.parametrize("end", ["interrupt", "cut"])
@pytest.mark.parametrize("kind", LINKED)
def test_a_binary_ends_with_its_link(kind, end, lab, tflite_file, binary, tmp_path):
    folder, _ = lab
    made = binary(f"echo $$ > {tmp_path / 'running'}; exec sleep 600")
    code = f"""
from pathlib import Path
from edgel0.devices.boards import Board
from edgel0.devices.profiling import profile
there = Board("b", {kind!r}, "b", folder={str(folder)!r})
profile([there], [Path({str(tflite_file)!r})], binary=Path({str(made)!r}), found=lambda rows: print(rows[0].error))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert out == ("b: interrupted.\n" if end == "interrupt" else "")
    pid = (tmp_path / "running").read_text().strip()
    while Path("/proc", pid).exists() and "sleep" in Path("/proc", pid, "cmdline").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert left(folder) == []


# Board files and names


def test_boards_are_addresses_or_files(tmp_path):
    assert find_board("local") == Board("local", "local")
    assert find_board("ssh://pi@host:2222") == Board("ssh://pi@host:2222", "ssh", "pi@host", 2222)
    assert find_board("ssh://host") == Board("ssh://host", "ssh", "host")
    assert find_board("ssh://pi@[fe80::1%25eth0]:2222").address == "pi@fe80::1%25eth0"
    assert (find_board("ssh://[::1]").address, find_board("ssh://[::1]").port) == ("::1", 0)
    assert (find_board("adb").address, find_board("adb:127.0.0.1:5555").address) == ("", "127.0.0.1:5555")
    (tmp_path / "kitchen.toml").write_text(
        'transport = "ssh"\naddress = "pi@kitchen"\nthreads = 4\n[board]\nsoc = "x"\n'
    )
    assert find_board("kitchen", tmp_path) == Board("kitchen", "ssh", "pi@kitchen", threads=4)
    assert find_board(str(tmp_path / "kitchen.toml")).name == "kitchen"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transport = 'shs'", "'transport' in"),
        ("transport = 'ssh'", "has no address"),
        ("transport = 'local'\nthread = 4", "did you mean 'threads'"),
        ("transport = 'local'\nthreads = 'four'", "expected int"),
        ("transport =", "is not TOML"),
        ("transport = 'local'\nruntim = 'onnxruntime'", "did you mean 'runtime'"),
        ("transport = 'local'\nruntime = 'onnxruntme'", "did you mean 'onnxruntime'"),
        ("transport = 'local'\nruntime = ['onnxruntime']", "expected one of onnxruntime, ai-edge-litert"),
        *[
            (f"transport = 'local'\ncores = {value}", r"expected numbers of processors, as in \[0, 1\]")
            for value in ("4", "[]", "[-1]", "[true]", "['0']", "'0-3'", "[1.0]")
        ],
        *[
            (f"transport = 'local'\nmemory = {value}", 'expected bytes, or a size such as "512 MB"')
            for value in ("0", "-1", "true", "'much'", "1.5", "[1]", "nan")
        ],
        *[
            (f"transport = 'qemu'\naddress = 'cortex-a72'\n{key}", "an emulated core has no use for")
            for key in ("runtime = 'onnxruntime'", "cores = [0]", "memory = 5")
        ],
    ],
)
def test_a_wrong_board_file_is_a_usage_error(text, message, tmp_path):
    (tmp_path / "b.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        find_board("b", tmp_path)
    assert "\n" not in str(caught.value).split("is not TOML")[0]


def test_a_board_file_has_all_its_keys(tmp_path):
    keys = "runtime = 'ai-edge-litert'\ncores = [2, 3, 2]\nmemory = '256 MB'\nthreads = 2\nnotes = 'on the shelf'\n"
    (tmp_path / "b.toml").write_text("transport = 'local'\n" + keys)
    assert find_board("b", tmp_path) == Board(
        "b", "local", threads=2, notes="on the shelf", runtime="ai-edge-litert", cores=(2, 3), memory=256_000_000
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_file_chooses_the_processors(kind, lab, onnx_file):
    folder, _ = lab
    (core, *_) = sorted(os.sched_getaffinity(0))
    (row,) = profile([board(kind, folder, cores=(core,))], [onnx_file], num_runs=5, min_secs=0)
    assert row.cores == (core,)
    (failure,) = profile([board(kind, folder, cores=(core,))], [onnx_file], cores=(9999,))
    assert "the board has no processors [9999]" in str(failure.error)  # what was asked for goes before the file


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_file_chooses_the_runtime(kind, lab, onnx_file, tflite_file, programs):
    folder, _ = lab
    asked = board(kind, folder, runtime="ai-edge-litert")
    row, failure = profile([asked], [tflite_file, onnx_file], num_runs=5, min_secs=0)
    assert row.runtime.startswith("ai-edge-litert ")
    assert failure.artifact == onnx_file.as_posix()
    assert re.search(r"runs in onnxruntime, and the file of .* names runtime = 'ai-edge-litert'", str(failure.error))
    (absent,) = profile([board(kind, folder, runtime="tflite-runtime")], [tflite_file])
    assert "tflite_runtime" in str(absent.error)  # and no other was taken instead
    assert "ai_edge_litert" not in str(absent.error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_needs_too_much_memory_is_not_sent(kind, lab, large_onnx_file, onnx_file, programs):
    folder, _ = lab
    needs = 2896 * 2896 * 4
    (row,) = profile([board(kind, folder, memory=needs - 1)], [large_onnx_file])
    assert isinstance(row.error, DeviceError)
    assert f"({needs:,} B of weights and " in str(row.error)
    assert "so nothing was sent" in str(row.error)
    assert (not (programs / "argv").exists(), row.error.exit_code) == (True, 3)
    (good,) = profile([board(kind, folder, memory=needs - 1)], [onnx_file], num_runs=5, min_secs=0)
    assert isinstance(good, Measurement)


@pytest.mark.parametrize("text", ["kitchn", "../kitchen", "ssh://", "ssh://h:port", "", "qemu:", "ssh://a/b"])
def test_no_such_board_is_a_usage_error(text, tmp_path):
    (tmp_path / "kitchen.toml").write_text('transport = "local"\n')
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError):
        find_board(text, tmp_path / "sub")


def test_every_cure_is_one_clause():
    assert all(advice[-1] not in ".;" for advice in CURES.values())


def test_two_files_are_compared_on_a_board(lab, tmp_path, fake_runner, monkeypatch, capsys):
    folder, _ = lab
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    text = f"transport = 'ssh'\naddress = 'b'\npython = {sys.executable!r}\nfolder = {str(folder)!r}\nthreads = 2\n"
    (tmp_path / "devices" / "one.toml").write_text(text)
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").touch()
    arguments = ["compare", "a.onnx", "b.onnx", "--on", "one", "--min-secs", "0", "--num-runs", "5", "--json"]
    app(arguments, standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert (told["difference"], told["a"]["board"].split(":")[0]) == ("none", "one")
    assert told["a"]["threads"] == 2
    assert left(folder) == []
