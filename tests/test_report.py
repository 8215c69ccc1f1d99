# ruff: noqa: RUF001 - signs of the typeset tables
import dataclasses
import io
import re

import pytest
from rich.console import Console

from edgel0.report.progress import Watch, words
from edgel0.report.text import comparison, inspection, measurements, no_faster, summary
from edgel0.training import Tick
from edgel0.types import Comparison, Measurement, OperatorTime

LONG = "keyword-spotting-on-the-kitchen-device-with-four-microphones-and-a-very-long-name [red]"


def side(scale, files):
    latency = {"p10": 1.5 * scale, "p50": 1.6 * scale, "p90": 2.25 * scale}
    return {
        "accuracy": 0.99 if scale > 1 else 0.985,
        "macs": 2_293_000 * scale,
        "params": 430_500 * scale,
        "weight_bytes": 1_722_000 * scale,
        "activation_bytes": 57_600,
        "files": dict.fromkeys(files, 1725000 * scale),
        "latency_ms": {"onnxruntime": latency, "litert": {key: 10 * value for key, value in latency.items()}},
    }


def result(name="lenet", timed=True):
    made = {
        "schema": 1,
        "name": name,
        "dense": side(1000, ["dense.onnx", "dense.tflite"]),
        "slim": side(1, ["slim.onnx", "slim.tflite"]),
        "parity": {
            "slim.onnx": {
                "max_abs": 3.2e-6,
                "relative": 1.6e-7,
                "reference": "the masked model",
                "top1": 1.0,
                "samples": 1000,
            },
        },
        "budget": {"macs": {"limit": 2_300_000.0, "dense": 2_293_000_000, "slim": 2_293_000}},
        "mask": {"groups": {f"layer{n}": [n, 64] for n in range(8)}},
        "profile": {
            "board": "local: Some CPU",
            "threads": 1,
            "runtimes": {"onnxruntime": "1.32", "ai-edge-litert": "2.3"},
        },
    }
    if not timed:
        made["dense"]["latency_ms"] = made["slim"]["latency_ms"] = made["profile"]["runtimes"] = {}
    return made


def rendered(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(renderable)
    return console.file.getvalue()


SUMMARY = """\
lenet                       dense         slim         ratio
────────────────────────────────────────────────────────────
accuracy                   99.00%       98.50%  -0.50 points
MACs                2,293,000,000    2,293,000      1000.0 ×
parameters            430,500,000      430,500      1000.0 ×
weights           1,681,640.6 KiB  1,681.6 KiB      1000.0 ×
peak activations         56.2 KiB     56.2 KiB         1.0 ×
.onnx file        1,684,570.3 KiB  1,684.6 KiB      1000.0 ×
.tflite file      1,684,570.3 KiB  1,684.6 KiB      1000.0 ×
onnxruntime p50          1,600 ms      1.60 ms      1000.0 ×
onnxruntime p90          2,250 ms      2.25 ms      1000.0 ×
litert p50              16,000 ms      16.0 ms      1000.0 ×
litert p90              22,500 ms      22.5 ms      1000.0 ×

compared with its model   model  at most  of largest   top-1  samples
─────────────────────────────────────────────────────────────────────
slim.onnx                masked  3.2e-06     1.6e-07  100.0%    1,000

kept: layer0 0 of 64, layer1 1 of 64, layer2 2 of 64, layer3 3 of 64, layer4 4
of 64, layer5 5 of 64 … (8 groups, all in result.json)
budget: 2,293,000 of 2,300,000 macs (99.7 %)
measured interleaved on local: Some CPU, 1 thread(s); ai-edge-litert 2.3,
onnxruntime 1.32
"""


def test_the_summary_of_a_run():
    text = rendered(summary(result()))
    assert [line.rstrip() for line in text.splitlines()] == SUMMARY.splitlines()


def test_a_network_that_gained_no_time_is_told_with_what_may_mend_it():
    made = result()
    made["slim"]["latency_ms"]["litert"] = made["dense"]["latency_ms"]["litert"]
    (told,) = no_faster(made)
    assert told.startswith("slim is no faster than dense in litert here: 16,000 ms against 16,000 ms; runtimes compute")
    assert "7 of 7 groups keep no multiple of 8: round_to = 8" in told
    made["mask"]["groups"] = {"a": [16, 64], "b": [0, 64]}
    assert no_faster(made)[0].endswith("edgel0 profile --operators tells which operators take it")
    assert (no_faster(result()), no_faster(result(timed=False))) == ([], [])


def test_a_long_name_folds_and_no_number_is_cut():
    text = rendered(summary(result(LONG)))
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text.replace(" … (8", "")
    assert "[red]" in re.sub(r"\s", "", text)
    for number in ("2,293,000,000", "1000.0 ×", "-0.50 points"):
        assert number in text


def test_a_summary_without_measurements():
    text = rendered(summary(result(timed=False)))
    assert "p50" not in text and "measured" not in text


ROW = Measurement(
    artifact=f"runs/{LONG}/{LONG}.onnx",
    sha256="0" * 64,
    board="local: Some CPU",
    runtime="onnxruntime 1.32",
    threads=1,
    threads_observed=1.0,
    load_ms=1234.0,
    first_ms=2.0,
    samples_ms=(1.0,),
    p10_ms=1021.5,
    p50_ms=1621.5,
    p90_ms=12621.5,
    file_bytes=123_456_789,
    peak_rss_bytes=1_500 * 2**20,
    notes=("drifted: the last third took +20% against the first",),
)


def test_measurements_fit_80_columns():
    text = rendered(measurements([ROW, dataclasses.replace(ROW, artifact="a.tflite", peak_rss_bytes=None, notes=())]))
    assert max(map(len, text.splitlines())) <= 80
    for number in ("1,020 ms", "12,600 ms", "1,230 ms", "1,500 MiB", "120,563.3 KiB", "–"):
        assert number in text
    assert "drifted" in text and "Some CPU; onnxruntime 1.32; 1 thread(s)" in text


def test_measurements_name_their_marks_their_memory_and_the_slowest_operators():
    times = tuple(OperatorTime(f"node_{i}{LONG}", "Conv", float(i)) for i in range(1, 13))
    row = dataclasses.replace(
        ROW, marks=("busy", "throttled"), interval_ms=(1600.0, 1653.93), weight_bytes=2048, operators=times
    )
    text = rendered(measurements([row]))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("busy", "throttled", "2.0%", "2.0 KiB", "unknown", "weights", "activations", "peak RSS"):
        assert part in text
    assert "2 more" in text and "3.8 %" in text and "15.4 %" in text  # 1 + 2 and 12 of 78 ms


@pytest.mark.parametrize(
    ("difference", "ratio", "said"),
    [
        ("none", 1.01, "no difference between a.onnx (A) and b.tflite (B) beyond 3%"),
        ("faster", 0.5, "b.tflite (B) is faster than a.onnx (A), by a factor of 2.00"),
        ("slower", 3.0, "b.tflite (B) is slower than a.onnx (A), by a factor of 3.00"),
    ],
)
def test_a_comparison_says_in_a_sentence_which_is_faster(difference, ratio, said):
    a, b = (dataclasses.replace(ROW, artifact=name) for name in ("a.onnx", "b.tflite"))
    text = rendered(comparison(Comparison(a, b, ratio, (ratio - 0.1, ratio + 0.1), 24, 0.03, difference)))
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert said in flat
    assert f"B takes {ratio:.3f} of its time (95 %: {ratio - 0.1:.3f} to {ratio + 0.1:.3f}, 24 pairs of rounds)" in flat


def test_an_inspection_fits_80_columns():
    group = {"name": f"backbone.{LONG}", "units": 2048, "writers": [], "macs": 0.999, "params": 0.001}
    pin = {"operator": "aten.sort.default", "module": "head", "reason": "no rule", "labels": 3, "source": "a.py:3"}
    found = {
        "units": 4096,
        "groups": [group, {**group, "name": "[b]", "macs": 0.0}],
        "cost": {"macs": 4_000_000_000, "params": 25_000_000, "weight_bytes": 100_000_000},
        "least": {"macs": 0.01, "params": 0.02},
        "pins": [pin],
    }
    text = rendered(inspection(found))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("2,048", "99.9%", "[b]", "█" * 20, "pinned: 3 by aten.sort.default in head: no rule (a.py:3)"):
        assert part in text


# Progress.

GATING = Tick(
    phase="gating",
    epoch=12,
    epochs=150,
    done=0.5,
    loss=12.345,
    accuracy=0.9876,
    cost={"macs": 1.2345e9, "params": 23.4e6, "weight_bytes": 999_900.0},
    target={"macs": 999e6, "params": 20e6, "weight_bytes": 800.0},
    multiplier={"macs": 12.5, "params": 0.0, "weight_bytes": 1.25},
    open_units=123_456,
    units=234_567,
)


def test_words_leave_out_what_matters_least():
    everything = words(GATING)
    assert everything == (
        "loss 12.345 acc 98.76% macs 1.23G/999M λ 12.50 params 23.4M/20M weight 1M/800 λ 1.25 open 123456/234567"
    )
    shorter = [words(GATING, room) for room in range(len(everything), -1, -1)]
    assert all(len(text) <= room for text, room in zip(shorter, range(len(everything), -1, -1), strict=True))
    assert list(dict.fromkeys(shorter)) == [
        everything,
        "loss 12.345 acc 98.76% macs 1.23G/999M params 23.4M/20M weight 1M/800 λ 1.25 open 123456/234567",
        "loss 12.345 acc 98.76% macs 1.23G/999M params 23.4M/20M weight 1M/800 open 123456/234567",
        "acc 98.76% macs 1.23G/999M params 23.4M/20M weight 1M/800 open 123456/234567",
        "acc 98.76% macs 1.23G/999M params 23.4M/20M open 123456/234567",
        "acc 98.76% macs 1.23G/999M open 123456/234567",
        "acc 98.76% macs 1.23G/999M",
        "macs 1.23G/999M",
        "",
    ]


@pytest.mark.parametrize("width", [80, 50, 30])
def test_a_bar_fits_the_terminal(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Watch(console) as watch:
        watch.tick(Tick("dense", 1, 2, 0.5, 2.0))
        watch.tick(GATING)
        watch.say("measuring " + LONG)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width
    last = "\n".join(lines[-4:])
    assert "dense" in last and "gating" in last and "then" in last
    if width == 80:
        assert "macs 1.23G/999M open 123456/234567" in last and "0:00:0" in last


def test_a_log_gets_one_line_per_epoch():
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    with Watch(console) as watch:
        for done in (0.5, 1.0):
            watch.tick(dataclasses.replace(GATING, done=done, accuracy=None))
        watch.tick(GATING)
        watch.say("slimming [red]")
    assert console.file.getvalue() == f"gating   12/150 {words(GATING)}\nslimming [red]\n"
