import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgel0.devices import cooling, local, runner
from edgel0.devices.base import CAUSES
from edgel0.devices.measure import RUNTIMES, measure
from edgel0.errors import DeviceError, ExtraError, UsageError
from edgel0.types import Artifact

quick = partial(measure, min_secs=0.05)
FAKE = Path(__file__).with_name("fake_runner.py")
fake = partial(measure, start=partial(local.start, script=FAKE), min_secs=0.2)  # 50 runs of 4 ms


@pytest.fixture
def files(tmp_path):
    """Make empty files of the given names; the fake runner only looks at those."""

    def make(*names):
        for name in names:
            (tmp_path / name).touch()
        return [tmp_path / name for name in names]

    return make


def log(folder):
    return (folder / "log").read_text().splitlines()


def assert_no_runner_left(folder, expected):
    pids = [int(line.split()[1]) for line in log(folder) if line.startswith("pid ")]
    assert len(pids) == expected
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# Real files in real runtimes


@pytest.fixture(scope="module")
def rows(onnx_file, tflite_file):
    return quick([onnx_file, str(tflite_file)])


def test_rows_come_in_the_order_asked(rows, onnx_file, tflite_file):
    assert [row.artifact for row in rows] == [onnx_file.as_posix(), tflite_file.as_posix()]
    assert [row.runtime.split()[0] for row in rows] == ["onnxruntime", "ai-edge-litert"]


def test_versions_are_those_installed(rows):
    code = "import onnxruntime, ai_edge_litert as l; print(onnxruntime.__version__, l.__version__)"
    versions = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [row.runtime.split()[1] for row in rows] == versions


@pytest.mark.parametrize("i", [0, 1])
def test_row_holds_enough_samples_and_their_percentiles(rows, i):
    row = rows[i]
    assert sum(each.runs for each in row.rounds) >= 50
    if not row.marks:  # a busy machine may leave fewer quiet rounds
        assert len(row.samples_ms) >= 50
        assert sum(row.samples_ms) >= 50 * (1 - 1e-9)
    assert min(row.samples_ms) > 0
    assert [row.p10_ms, row.p50_ms, row.p90_ms, row.p99_ms] == pytest.approx(
        np.percentile(row.samples_ms, [10, 50, 90, 99]).tolist()
    )
    assert row.mean_ms == pytest.approx(np.mean(row.samples_ms))
    assert row.interval_ms[0] <= row.p50_ms <= row.interval_ms[1]
    assert row.warmup_runs >= 5
    assert row.load_ms > 0
    assert row.first_ms > 0


@pytest.mark.parametrize("i", [0, 1])
def test_row_identifies_the_file_and_the_board(rows, i, onnx_file, tflite_file):
    row, content = rows[i], [onnx_file, tflite_file][i].read_bytes()
    assert row.sha256 == hashlib.sha256(content).hexdigest()
    assert row.file_bytes == len(content)
    facts = local.describe_local()
    assert row.board == f"local: {facts['board'] or facts['cpu'] or facts['machine']}"


def test_peak_memory_is_that_of_the_runner(rows, large_onnx_file):
    (large,) = measure([large_onnx_file], min_secs=0)
    assert sum(each.runs for each in large.rounds) >= 50  # how many of them count depends on who else is at work
    assert 10e6 < rows[0].peak_rss_bytes < 1e9
    assert large.peak_rss_bytes - rows[0].peak_rss_bytes > 24 * 2**20


def test_one_thread_computes_on_one_thread(rows):
    assert all(row.threads == 1 for row in rows)
    assert all(0 < row.threads_observed < 1.25 for row in rows)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads of another process in /proc")
@pytest.mark.parametrize("fixture", ["onnx_file", "tflite_file"])
def test_runtime_gets_as_many_threads_as_asked(fixture, request):
    def alive(threads):
        sessions, counts = [], []

        def start(job, patience):
            sessions.append(local.start(job, patience))
            return sessions[0]

        def look(text, share):
            if text.startswith("run"):
                counts.append(len(list(Path(f"/proc/{sessions[0]._process.pid}/task").iterdir())))

        (row,) = quick([request.getfixturevalue(fixture)], threads=threads, start=start, progress=look)
        assert row.threads == threads
        return counts[-1]

    assert alive(3) - alive(1) == 2


def test_artifact_is_measured_by_its_path(onnx_file):
    artifact = Artifact(onnx_file, "onnx", "fp32", 0, "", (), ())
    (row,) = quick([artifact])
    assert row.artifact == onnx_file.as_posix()


def test_parent_imports_neither_torch_nor_a_runtime(onnx_file):
    code = (
        "import sys; from edgel0.devices.measure import measure; measure([sys.argv[1]], min_secs=0.01);"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, onnx_file], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The conversation, made visible by a runner that computes nothing


def test_batches_alternate_and_only_one_computes(files, tmp_path):
    fake(files("a.onnx", "b.tflite", "c.onnx"), rounds=4, num_runs=50, min_secs=1.0, max_secs=100.0)
    lines = [line for line in log(tmp_path) if not line.startswith("pid ")]
    assert [line.split()[0] for line in lines] == ["begin", "finish"] * (len(lines) // 2)
    begun = [line.split(maxsplit=2)[1:] for line in lines[::2]]
    assert [name for name, _ in begun] == [*"abc", *"abc", *"cba", *"abc", *"cba", *"abc"]
    commands = [json.loads(text) for _, text in begun]
    assert commands[:3] == [{"do": "warmup", "runs": 5, "seconds": 0.5, "limit": 100.0}] * 3
    assert commands[3:15] == [{"do": "run", "runs": 13, "seconds": 0.25, "limit": 25.0}] * 12
    assert commands[15:] == [{"do": "end"}] * 3
    assert_no_runner_left(tmp_path, 3)


def test_figures_are_what_the_runner_said(files):
    (row,) = fake(files("plain.onnx"))
    assert (row.board, row.runtime, row.load_ms, row.first_ms) == ("local: Fake-1", "fake 1", 1.0, 2.0)
    assert row.samples_ms == (4.0,) * 50
    assert (row.p10_ms, row.p50_ms, row.p90_ms, row.threads_observed) == (4.0, 4.0, 4.0, 1.0)
    assert (row.warmup_runs, row.peak_rss_bytes, row.notes) == (5, 20_000_000, ())


@pytest.mark.parametrize(
    ("name", "how", "note"),
    [
        ("threads", {}, "observed 1.9 threads, asked 1"),
        ("big", {}, "the processors differ and any was taken; --cores 2,3 stays on the fastest"),
        ("threads", {"threads": 3}, "observed 1.9 threads, asked 3"),
        ("waits", {}, "the runner had a processor for 40% of the time only"),
        ("plain", {"num_runs": 20, "min_secs": 0.0}, "threads not verified: 80 ms of inferences are too few"),
        ("governor", {}, "frequency governor powersave"),
        ("cold", {}, "the warm-up ended while inferences were still getting faster"),
        ("plain", {"min_secs": 0.3}, "stopped at max_secs: the figures are of 50 of 50 runs and 0.2 of 0.3 s"),
        # three more would take longer than max_secs
        ("long", {}, "stopped at max_secs: the figures are of 3 of 50 runs and 120 of 0.2 s"),
        # 4 5 ... 23 ms: 20.5 / 6.5
        ("drift", {"rounds": 1, "num_runs": 20}, "drifted: the last third took +215% against the first"),
    ],
)
def test_notes_say_what_is_odd(files, name, how, note):
    (row,) = fake(files(f"{name}.onnx"), **how)
    assert row.notes == (note,)


def test_what_a_board_would_tell_and_does_not_is_noted(files):
    (mute,) = fake(files("pi-mute.onnx"))
    assert [note.partition(":")[0] for note in mute.notes] == ["the firmware's throttle flags cannot be read"]
    assert fake(files("big.onnx"), cores=[2])[0].notes == fake(files("pi.onnx"))[0].notes == ()


# Rounds in which the board was disturbed


def test_a_disturbed_round_is_repeated_and_never_averaged_in(files, tmp_path):
    plain, busy = fake(files("plain.onnx", "busy-1-3.onnx"))
    assert (busy.samples_ms, busy.marks, busy.p99_ms) == ((4.0,) * 50, (), 4.0)
    assert busy.notes == ("2 disturbed round(s) set aside and repeated",)
    assert [(each.turn, each.kept, each.runs) for each in busy.rounds] == [
        (turn, turn not in (1, 3), 10) for turn in range(7)
    ]
    aside = [each for each in busy.rounds if not each.kept]
    assert [each.disturbed for each in aside] == [{"throttled": "the firmware says under-voltage"}] * 2
    assert all(each.samples_ms == (8.0,) * 10 for each in aside)  # kept, beside the figures
    assert (len(plain.rounds), plain.notes) == (5, ())
    assert (busy.rounds[1].after, busy.rounds[0].samples_ms) == ({"throttled": 1}, ())


def test_where_every_repeat_is_disturbed_the_figures_bear_the_mark(files, tmp_path):
    (row,) = fake(files("busy-all.onnx"))
    assert (row.marks, row.samples_ms, len(row.rounds)) == (("throttled",), (8.0,) * 100, 10)
    assert row.notes == (
        "disturbed in all of 10 rounds, repeats included (throttled: the firmware says under-voltage)",
    )


def test_figures_of_few_quiet_rounds_bear_the_mark_and_hold_no_other(files):
    (row,) = fake(files("busy-0-1-2-3-4-5-6-7.onnx"))
    assert (row.marks, row.samples_ms) == (("throttled",), (4.0,) * 20)
    assert row.notes == (
        "too few rounds were undisturbed: the figures are of 20 of 50 runs and 0.08 of 0.2 s",
        "threads not verified: 80 ms of inferences are too few",
        "only 2 of 5 rounds undisturbed, the figures are theirs (throttled: the firmware says under-voltage)",
    )


def test_repeats_end_at_max_secs(files):
    (row,) = fake(files("busy-all.onnx"), min_secs=0.0, max_secs=0.25)  # a batch says that it took 40 ms
    assert len(row.rounds) == 6


def test_a_board_that_is_hot_is_let_cool_before_its_next_batch(files, tmp_path, monkeypatch):
    monkeypatch.setattr(cooling, "POLL_SECS", 0.01)
    heard = []
    plain, hot = fake(files("plain.onnx", "hot-3.onnx"), progress=lambda text, share: heard.append((text, share)))
    begun = [line.split(maxsplit=2)[1:] for line in log(tmp_path) if line.startswith("begin")]
    names = [(name, json.loads(text)["do"]) for name, text in begun]
    first = names.index(("hot-3", "run"))
    # nobody runs before it is cool, whoever's turn it is; the runner that is next looks
    assert names[first + 1 : first + 4] == [("hot-3", "look")] * 3
    why = "the firmware says throttled; cpu-thermal at 86 °C, its passive point is 80 °C"
    assert [text for text, _ in heard if text.startswith("cool")] == [f"cool down ({why}) before hot-3.onnx"] * 3
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    assert hot.notes == (
        "1 disturbed round(s) set aside and repeated",
        f"the board cooled down for 0 s ({why})",
    )
    assert (plain.notes, hot.marks, hot.samples_ms) == ((), (), (4.0,) * 50)


def test_an_inference_beyond_max_secs_is_one_run(files, tmp_path):
    (row,) = fake(files("long.onnx"), min_secs=0.0, max_secs=0.001)
    assert row.samples_ms == (40e3,)
    assert row.notes == ("stopped at max_secs: the figures are of 1 of 50 runs and 40 of 0 s",)
    (command,) = [json.loads(line.split(maxsplit=2)[2]) for line in log(tmp_path) if '"run"' in line]
    assert command["limit"] == 0.0


def test_files_are_repeated_together_when_they_are_to_be_compared(files):
    rows = fake(files("plain.onnx", "busy-1.onnx"), together=True)
    assert [len(row.rounds) for row in rows] == [6, 6]
    assert rows[0].marks == rows[1].marks == ()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_the_runner_stays_on_its_processors(onnx_file):
    core = max(os.sched_getaffinity(0))
    seen = []

    def start(job, patience):
        seen.append(local.start(job, patience))
        return seen[-1]

    def look(text, share):
        if text.startswith("run"):
            assert os.sched_getaffinity(seen[0]._process.pid) == {core}

    (row,) = quick([onnx_file], cores=[core], start=start, progress=look)
    assert row.cores == (core,)
    with pytest.raises(DeviceError, match=r"the board has no processors \[5000\]"):
        quick([onnx_file], cores=[5000])


def test_memory_is_four_figures(tmp_path, onnx_file):
    model = onnx.load(onnx_file)
    path = tmp_path / "outside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (row,) = quick([path])
    assert row.file_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert row.peak_rss_bytes > row.base_rss_bytes > 10e6
    assert row.weight_bytes in (None, 8 * 8 * 4)  # unknown where no reader of files is installed
    assert row.activation_bytes in (None, 2 * 8 * 4)


def test_operators_are_profiled_apart_from_the_samples(onnx_file, tflite_file):
    lite, row = quick([tflite_file, onnx_file], operators=True)
    assert [each.kind for each in row.operators] == ["MatMul"]
    assert 0 <= row.operators[0].ms < 10
    assert lite.operators == ()
    assert "LiteRT's Python interpreter has no profile of operators" in " ".join(lite.notes)
    assert row.peak_rss_bytes < 1e9


def test_progress_is_told_every_step(files):
    heard = []
    fake(files("a.onnx", "b.onnx"), rounds=2, progress=lambda text, share: heard.append((text, share)))
    texts = ["load a", "load b", "warm up a", "warm up b", "run a", "run b", "run b", "run a"]
    assert heard == [(f"{text}.onnx", i / 8) for i, text in enumerate(texts)] + [("measured", 1.0)]


def test_nothing_asked_nothing_measured():
    assert measure([]) == []


# What goes wrong


@pytest.mark.parametrize("event", ["ready", "warm", "samples", "end"])
@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("garbage", "wrote 'Welcome to this board!' to its stdout"),
        ("stranger", "surprise"),
        ("exit", "ended with exit code 1 .* its last words: 'no more paper'"),
        ("half", "ended with exit code 0"),
        ("kill", "was killed by SIGKILL .* memory ran out"),
    ],
)
def test_runner_that_misbehaves_is_explained_and_none_is_left(files, tmp_path, how, text, event):
    doing = {"ready": "loading", "warm": "warming up", "samples": "running", "end": "closing"}[event]
    with pytest.raises(DeviceError, match=text) as caught:
        fake(files("plain.onnx", f"{how}-{event}.onnx"))
    assert f"{doing} '{how}-{event}.onnx'" in str(caught.value)
    assert_no_runner_left(tmp_path, 2)


def test_a_name_that_is_no_utf_8_is_a_usage_error(tmp_path):
    path = tmp_path / "\udcff.onnx"
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(UsageError, match="is no UTF-8"):
        measure([path])


@pytest.mark.parametrize("event", ["ready", "samples"])
def test_runner_that_hangs_is_stopped(files, tmp_path, event):
    def impatient(job, patience):
        assert patience == 67.0
        return local.start(job, 1.0, FAKE)

    with pytest.raises(DeviceError, match=f"no answer within 1 s .* 'hang-{event}.onnx' .* raise max_secs"):
        measure(files("plain.onnx", f"hang-{event}.onnx"), max_secs=7.0, start=impatient)
    assert_no_runner_left(tmp_path, 2)


def test_interrupt_leaves_no_runner(files, tmp_path):
    def interrupt(text, share):
        if text == "run b.onnx":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake(files("a.onnx", "b.onnx"), progress=interrupt)
    assert_no_runner_left(tmp_path, 2)


def test_control_c_while_waiting_leaves_no_runner(files, tmp_path):
    files("a.onnx", "hang-samples.onnx")
    code = (
        "import sys; from functools import partial; from edgel0.devices import local, measure;"
        "measure.measure(sys.argv[2:], start=partial(local.start, script=sys.argv[1]))"
    )
    names = [FAKE, tmp_path / "a.onnx", tmp_path / "hang-samples.onnx"]
    with subprocess.Popen([sys.executable, "-c", code, *names], stderr=subprocess.PIPE, text=True) as coordinator:
        while (
            not (tmp_path / "log").exists() or 'begin hang-samples {"do": "run"' not in (tmp_path / "log").read_text()
        ):
            assert coordinator.poll() is None
            time.sleep(0.05)
        coordinator.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in coordinator.communicate(timeout=30)[1]
    assert_no_runner_left(tmp_path, 2)


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_damaged_file_is_refused_by_its_runtime(tmp_path, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(b"this was a model before the disk was full")
    with pytest.raises(DeviceError, match=rf"failed while loading 'damaged{suffix}'"):
        measure([path])


def test_truncated_file_is_an_error_even_where_the_runtime_crashes(tmp_path, onnx_file, tflite_file):
    for whole in (onnx_file, tflite_file):
        path = tmp_path / whole.name
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(DeviceError, match=f"loading '{whole.name}'"):
            measure([path])


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_missing_runtime_names_the_extra(tmp_path, monkeypatch, files, suffix):
    for module in RUNTIMES[suffix].modules:
        (tmp_path / "absent" / module).mkdir(parents=True)
        (tmp_path / "absent" / module / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"))
    with pytest.raises(ExtraError, match=rf'not here.*pip install "edgel0\[{RUNTIMES[suffix].extra}\]"'):
        measure(files(f"model{suffix}"))


def test_python_that_does_not_start_is_an_error(files, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(DeviceError, match="cannot start"):
        measure(files("a.onnx"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("absent.onnx", "there is no file"),
        ("folder.onnx", "there is no file"),
        ("model.onxn", r"expected one of \.onnx, \.tflite; .* did you mean '\.onnx'\?$"),
        ("model.pt2", r"its suffix is '\.pt2'.* correct the suffix\.$"),
    ],
)
def test_wrong_file_is_a_usage_error(tmp_path, name, text):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match=text):
        measure([tmp_path / name])


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"num_runs": 0}, {"rounds": 0}, {"min_secs": -1}, {"min_secs": 2.0, "max_secs": 1.0}]
)
def test_impossible_figures_are_usage_errors(files, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        measure(files("a.onnx"), **wrong)


def test_every_runtime_named_has_an_opener():
    assert {module for row in RUNTIMES.values() for module in row.modules} == set(runner.OPENERS)


def test_every_cause_is_a_signal():
    assert set(CAUSES) <= {member.name for member in signal.Signals}
