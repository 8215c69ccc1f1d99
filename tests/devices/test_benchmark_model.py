"""The tool's outputs as it prints them (two formats, whole, cut and garbled), and a binary that prints one."""

import json
import shlex
import sys

import pytest

from edgel0.devices.benchmark_model import command, measure_by_binary, operator_times, parse, run_here
from edgel0.errors import DeviceError, UsageError

OLD = """STARTING!
Graph: [net.tflite]
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 5 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=9 first=87112 curr=51629 min=51629 max=87112 avg=58147.4 std=11478

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
"""
ANDROID = """INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602
INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 \
median=1239807 p95=1247415
INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, \
Inference (avg): 1.24027e+06
INFO: Overall peak memory footprint (MB) via periodic monitoring: 109.832
"""
NEW = """Model loaded (3.1 ms)

========================================
 BENCHMARK RESULTS
========================================
Model initialization:  3.10 ms
Warmup (first):        4.20 ms
Warmup (avg):          2.50 ms (5 runs)
Inference (avg):       2.25 ms (50 runs)
Inference (min):       2.10 ms
Inference (max):       3.30 ms
Inference (median):    2.20 ms
Inference (std):       0.05 ms
Inference (p5):        2.11 ms
Inference (p95):       2.90 ms
Throughput:            7.45 MB/s
Fully accelerated:     True
========================================
"""


def scripted(path, before=""):
    """Write a benchmark_model that prints what the real one does, beside its model, and does something before."""
    path.write_text(f"#!/bin/sh\n{before}\n[ -s model.tflite ] || exit 9\ncat <<'END'\n{NEW}\nEND\n")
    return path


PROFILE = """Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t [node type]\t [first]\t [avg ms]\t [%]\t [cdf%]\t [mem KB]\t[times called]\t[Name]
\t ModifyGraphWithDelegate\t 5.0\t 5.0\t 100%\t 100%\t 0.0\t 1\tModifyGraphWithDelegate/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t [node type]\t [first]\t [avg ms]\t [%]\t [cdf%]\t [mem KB]\t[times called]\t[Name]
\t CONV_2D\t 1.250\t 1.150\t 76.7%\t 76.7%\t 0.000\t 1\t[a/b]:0
\t SOFTMAX\t 0.300\t 0.350\t 23.3%\t 100%\t 0.000\t 1\t[prob]:1

============================== Top by Computation Time ==============================
\t [node type]\t [first]\t [avg ms]\t [%]\t [cdf%]\t [mem KB]\t[times called]\t[Name]
\t CONV_2D\t 1.250\t 1.150\t 76.7%\t 76.7%\t 0.000\t 1\t[a/b]:0
"""


def test_the_line_of_timings():
    assert parse(OLD.splitlines()) == pytest.approx(
        {
            **{"init": 17.187, "first": 3512.391, "warmup": 3512.39, "avg": 2950.34, "runs": 50},
            **{"min": 2727.568, "max": 3189.954, "std": 109.798, "memory_mb": 46.0859},
        }
    )


def test_the_line_with_a_median_and_a_prefix():
    found = parse(ANDROID.splitlines(keepends=True))
    assert (found["median"], found["p5"], found["p95"]) == pytest.approx((1239.807, 1238.753, 1247.415))
    assert (found["runs"], found["memory_mb"]) == (50, 109.832)


def test_the_block():
    assert parse(NEW.splitlines()) == {
        **{"init": 3.1, "first": 4.2, "warmup": 2.5, "avg": 2.25, "min": 2.1, "max": 3.3, "median": 2.2},
        **{"std": 0.05, "p5": 2.11, "p95": 2.9, "runs": 50},
    }


@pytest.mark.parametrize(("text", "last"), [(OLD, 10), (ANDROID, 2), (NEW, 17)], ids=["old", "android", "new"])
def test_an_output_that_is_cut_is_never_half_a_result(text, last):
    """Cut before line ``last``: an error that shows where it ended."""
    lines = text.splitlines()
    for end in range(last):
        with pytest.raises(DeviceError, match="BENCHMARK RESULTS"):
            parse(lines[:end])
    assert parse(lines[: last + 1]).items() <= parse(lines).items()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\x1b[31m\n" * 3,
        "Inference timings in us: Init: x, First inference: y, Warmup (avg): z, Inference (avg): nan",
        "count=50 avg=3\n",
        "Inference (avg): 2 ms",
        "CANNOT LINK EXECUTABLE: library not found",
    ],
)
def test_garbage_is_an_error(text):
    with pytest.raises(DeviceError, match="benchmark_model printed no "):
        parse(text.splitlines())


def test_the_table_of_operators_is_that_of_the_regular_runs():
    rows = [(each.kind, each.name, each.ms) for each in operator_times(PROFILE.splitlines())]
    assert rows == [("CONV_2D", "[a/b]:0", 1.15), ("SOFTMAX", "[prob]:1", 0.35)]
    assert operator_times(OLD.splitlines()) == ()
    assert operator_times(PROFILE.splitlines()[:9]) == operator_times(PROFILE.splitlines())[:1]


def test_the_command_line_takes_any_name_as_one_argument():
    argv = command("./benchmark_model", "a b;$(x).tflite", threads=4, num_runs=7, operators=True)
    assert argv[:4] == ["./benchmark_model", "--graph=a b;$(x).tflite", "--num_threads=4", "--warmup_runs=5"]
    assert {"--warmup_min_secs=0.5", "--num_runs=7", "--min_secs=1.0", "--max_secs=150.0"} < set(argv)
    assert argv[-2:] == ["--enable_op_profiling=true", "--op_profiling_output_mode=stdout"]


@pytest.fixture
def binary(tmp_path):
    def make(text, code=0):
        (tmp_path / "output").write_text(text)
        path = tmp_path / "benchmark_model"
        say = f"cat {shlex.quote(str(tmp_path / 'output'))}"
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "$0.argv"\n{say}\nexit {code}\n')
        path.chmod(0o755)
        return path

    return make


def test_a_binary_makes_a_row(binary, tflite_file, tmp_path):
    made = binary(NEW + PROFILE)
    (row,) = measure_by_binary([tflite_file], made, threads=2, operators=True, num_runs=9)
    assert (row.p50_ms, row.mean_ms, row.load_ms, row.first_ms) == (2.2, 2.25, 3.1, 4.2)
    assert (row.samples_ms, row.interval_ms, row.threads, len(row.operators)) == ((), None, 2, 2)
    assert row.file_bytes == tflite_file.stat().st_size
    argv = (tmp_path / "benchmark_model.argv").read_text().splitlines()
    assert argv == command(str(made), str(tflite_file), threads=2, operators=True, num_runs=9)[1:]


def test_a_mean_is_not_passed_off_as_a_median(tflite_file):
    (row,) = measure_by_binary([tflite_file], "x", board="phone", run=lambda argv: OLD.splitlines())
    assert (row.board, row.p50_ms, row.p10_ms) == ("phone", 2950.34, 0.0)
    assert "tells no median" in row.notes[1]
    json.dumps(row.facts, allow_nan=False)


def test_the_file_lies_elsewhere_on_a_board(tflite_file):
    heard = []
    measure_by_binary(
        [tflite_file],
        "bm",
        place=lambda path: f"there/{path.name[-7:]}",
        run=lambda argv: heard.append(argv) or NEW.splitlines(),
    )
    assert "--graph=there/.tflite" in heard[0]


def test_a_binary_that_fails_is_explained(binary, tflite_file, tmp_path):
    with pytest.raises(DeviceError, match=r"exit code 7; its last words: 'no such flag'"):
        measure_by_binary([tflite_file], binary("no such flag", 7))
    with pytest.raises(DeviceError, match="cannot start"):
        measure_by_binary([tflite_file], tmp_path / "absent")
    with pytest.raises(DeviceError, match=r"did not end within 0\.1 s"):
        run_here([sys.executable, "-c", "import time; time.sleep(60)"], patience=0.1)


@pytest.mark.parametrize("name", ["a.onnx", "absent.tflite"])
def test_only_tflite_files_that_are_there(tmp_path, name):
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UsageError, match=r"measures \.tflite files"):
        measure_by_binary([tmp_path / name], "bm")
