import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from projects import HERE, edgel0, finished, paragraph, project, run_until, started

from edgel0.errors import DeviceError
from edgel0.exporters.loading import load
from edgel0.report.text import slower
from edgel0.report.writing import render
from edgel0.staging import CHECKPOINT, TIMINGS, publish, staging

NEVER = ("never", 0, 0.0)
FILES = [
    *("budget.svg", "channels.svg", "dense.pt2", "dense.pt2.json", "polarisation.svg", "recipe.toml"),
    *("report.html", "result.json", "slim.pt2", "slim.pt2.json", "timings.json", "units.svg"),
]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    """All that must be the same for the same recipe: the times that its epochs took are not."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != TIMINGS}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny project and its results."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = project(folder)
    code, out, error = edgel0("run", recipe, "--out", folder / "runs")
    assert (code, error) == (0, ""), error
    return recipe, folder / "runs" / "tiny", out


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """The results of a run with every limit, every format and latencies, that was killed on its way."""
    folder = tmp_path_factory.mktemp("every")
    wanted = 'formats = ["onnx", "tflite", "pt2"]\nquantize = ["static_wi8_ai8", "float16"]\ncalibrate = 16'
    formats = ('formats = ["pt2"]', wanted)
    limits = ('macs = "30 %"', 'macs = "30 %"\nparams = "2 k"\nsize = "8 kB"')
    recipe = project(folder, formats, limits, ('path = "slim.pt2"', 'path = "slim.onnx"\nmin_accuracy = "10 %"'))
    assert run_until(recipe, folder / "runs", "exporting dense.tflite", 0, 0.0)[-1] == "killed"
    code, out, error = edgel0("run", recipe, "--out", folder / "runs")
    assert (code, error) == (0, ""), error
    return recipe, folder / "runs" / "tiny", out


# What a run leaves.


def test_a_run_leaves_its_results_and_nothing_else(tiny):
    _, folder, out = tiny
    assert names(folder) == FILES
    assert names(folder.parent) == ["tiny"]
    assert (folder / "recipe.toml").read_text() == tiny[0].read_text()
    assert f"results in {folder}" in out and "1 of 1 limits kept" in out


def test_the_result_follows_its_schema(every):
    _, folder, _ = every
    result = json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert list(result) == [
        *("schema", "name", "dense", "slim", "quantized", "parity", "budget", "mask", "profile", "data", "seed"),
        "shrunk",
        *("history", "versions"),
    ]
    assert (result["schema"], result["name"], result["seed"]) == (1, "tiny", 3)
    for which in ("dense", "slim"):
        side = result[which]
        made = [f"{which}{suffix}" for suffix in (".onnx", ".tflite", ".pt2")]
        assert side["files"] == {name: (folder / name).stat().st_size for name in made}
        assert 0 < side["accuracy"] <= 1
        assert all(isinstance(side[key], int) for key in ("macs", "params", "weight_bytes", "activation_bytes"))
        assert list(side["latency_ms"]) == ["onnxruntime", "litert"]
        for row in side["latency_ms"].values():
            assert 0 < row["p10"] <= row["p50"] <= row["p90"]
            assert row["runs"] >= 5 and row["threads"] == 1
        for name in made:
            sidecar = json.loads((folder / f"{name}.json").read_text())
            assert sidecar["cost"] == {key: side[key] for key in ("macs", "params", "weight_bytes", "activation_bytes")}
            assert sidecar["bytes"] == side["files"][name]
            if not name.endswith(".pt2"):
                [row] = sidecar["latency_ms"].values()
                timing = side["latency_ms"]["onnxruntime" if name.endswith(".onnx") else "litert"]
                assert row.items() <= (timing | {"board": result["profile"]["board"]}).items()
                assert {"p10", "p50", "p90", "board", "threads", "pinned", "throttled"} == set(row)
    files = [*result["dense"]["files"], *result["slim"]["files"]]
    assert list(result["parity"]) == ["slim program", *files, *result["quantized"]]
    for name, row in result["parity"].items():
        assert row["samples"] == 20
        if name not in result["quantized"]:
            assert 0 <= row["max_abs"] <= row["tolerance"] * 100 and row["top1"] == 1.0
    assert list(result["budget"]) == ["macs", "params", "weight_bytes"]
    for metric, row in result["budget"].items():
        assert row["slim"] == result["slim"][metric] <= row["limit"] < row["dense"] == result["dense"][metric]
    assert result["budget"]["weight_bytes"]["limit"] == 8000
    assert result["mask"]["rule"] == "median" and re.fullmatch(r"[0-9a-f]{16}", result["mask"]["digest"])
    assert {"edgel0", "numpy", "torch", "onnx", "onnxruntime", "ai-edge-litert"} <= set(result["versions"])


def test_layers_raw_samples_and_the_report_are_there(every):
    _, folder, _ = every
    result = json.loads((folder / "result.json").read_text())
    for which in ("dense", "slim"):
        layers = result[which]["layers"]
        assert sum(layer["macs"] for layer in layers) == result[which]["macs"]
        assert {layer["kind"] for layer in layers} == {"conv2d", "linear"}
    rows = json.loads((folder / "samples.json").read_text())["samples"]
    assert set(rows) == {*result["dense"]["files"], *result["slim"]["files"], *result["quantized"]} - {
        *("dense.pt2", "slim.pt2"),
    }
    for which in ("dense", "slim"):
        told, raw = result[which]["latency_ms"]["onnxruntime"], rows[f"{which}.onnx"]
        assert len(raw["ns"]) == -(-told["runs"] // raw["every"]) <= 20_000
        assert np.median(raw["ns"]) / 1e6 == pytest.approx(told["p50"], rel=0.05)
    assert render([folder])["--output"] == (folder / "report.html").read_text()


def test_files_in_fewer_bits_stand_beside_those_in_float32(every):
    _, folder, out = every
    result = json.loads((folder / "result.json").read_text())
    kinds = [(precision, kind) for kind in ("onnx", "tflite") for precision in ("static_wi8_ai8", "float16")]
    assert list(result["quantized"]) == [f"slim.{precision}.{kind}" for precision, kind in kinds]
    for (precision, kind), (name, row) in zip(kinds, result["quantized"].items(), strict=True):
        assert (row["precision"], row["bytes"]) == (precision, (folder / name).stat().st_size)
        assert row["latency_ms"]["p50"] > 0
        runtime = "onnxruntime" if kind == "onnx" else "litert"
        assert row["float32_p50_ms"] == result["slim"]["latency_ms"][runtime]["p50"]
        assert row["partitions"] == (1 if kind == "tflite" else None)
        assert abs(row["accuracy"] - result["slim"]["accuracy"]) <= 0.2  # of twenty samples
        assert row["accuracy"] == result["parity"][name]["accuracy"]
        sidecar = json.loads((folder / f"{name}.json").read_text())
        assert sidecar["precision"] == precision
        assert list(sidecar["latency_ms"])
        assert f"{precision}.{kind}" in out


def test_what_is_slower_in_fewer_bits_is_told_in_numbers():
    row = {"latency_ms": {"p50": 2.0}, "float32_p50_ms": 1.0, "partitions": 3, "outside": ["HARD_SWISH"]}
    told = "m.tflite is slower than float32 here: 2.00 ms against 1.00 ms; it runs in 3 partitions, with HARD_SWISH"
    assert slower("m.tflite", row).startswith(told)
    assert "measure on the target" in slower("m.onnx", row | {"partitions": None, "outside": None})
    assert slower("m.tflite", row | {"latency_ms": {"p50": 1.04}}) == ""
    assert slower("m.tflite", row | {"latency_ms": None}) == ""


def test_the_result_names_no_place_and_no_time(every):
    recipe, folder, _ = every
    text = (folder / "result.json").read_text()
    for secret in (str(recipe.parent), str(folder.parent.parent), sys.prefix, str(Path.home())):
        assert secret not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d|\b1[6-9]\d{8}\b", text)


def test_the_accuracy_is_that_of_the_files(every):
    import onnxruntime

    recipe, folder, _ = every
    result = json.loads((folder / "result.json").read_text())
    sys.path.insert(0, str(recipe.parent))
    from projects.tiny import load as samples

    _, _, x, y = samples()
    program = load(folder / "slim.pt2").program.module()
    session = onnxruntime.InferenceSession(folder / "slim.onnx", providers=["CPUExecutionProvider"])
    [name] = [info.name for info in session.get_inputs()]
    import torch

    pairs = list(zip(x, y, strict=True))
    by_torch = np.mean([program(torch.from_numpy(row[None])).argmax().item() == kind for row, kind in pairs])
    by_onnx = np.mean([session.run(None, {name: row[None]})[0].argmax() == kind for row, kind in pairs])
    assert result["slim"]["accuracy"] == by_torch == by_onnx
    verified = pairs[: result["parity"]["slim.onnx"]["samples"]]
    by_first = np.mean([program(torch.from_numpy(row[None])).argmax().item() == kind for row, kind in verified])
    assert result["parity"]["slim.onnx"]["accuracy"] == result["parity"]["slim.tflite"]["accuracy"] == by_first


def test_a_killed_run_with_every_format_ends_with_the_same_bits(every, tmp_path):
    recipe, folder, out = every
    assert out.startswith("going on after settle epoch 2\n")
    recipe.with_name("again.toml").write_text(
        recipe.read_text().replace('"onnx", "tflite", ', "").replace("slim.onnx", "slim.pt2")
    )
    run_until(recipe.with_name("again.toml"), tmp_path, *NEVER)
    for name in ("slim.pt2", "dense.pt2"):
        assert (tmp_path / "tiny" / name).read_bytes() == (folder / name).read_bytes()


def test_the_saved_program_knows_its_dense_cost(every):
    _, folder, _ = every
    result, slimmed = json.loads((folder / "result.json").read_text()), load(folder / "slim.pt2")
    assert slimmed.cost.macs == result["slim"]["macs"] and slimmed.dense.macs == result["dense"]["macs"]
    assert slimmed.provenance["recipe"] == "tiny"


def test_an_exceeded_budget_exits_with_1_and_keeps_the_results(tmp_path):
    recipe = project(tmp_path, ('max_macs = "100 k"', 'max_macs = "1 k"'))
    code, out, error = edgel0("run", recipe, "--out", tmp_path / "runs")
    assert (code, error) == (1, "")
    assert names(tmp_path / "runs" / "tiny") == FILES
    assert f"raisethelimitin{recipe}:34" in "".join(out.split())  # a long path is folded


def test_data_from_the_command_line(tmp_path):
    from projects.tiny import load as samples

    recipe = project(tmp_path)
    np.savez(tmp_path / "a.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), samples(), strict=True)))
    code, _, error = edgel0("run", recipe, "--out", tmp_path / "runs", "--data", tmp_path / "a.npz")
    assert (code, error) == (0, "")
    code, _, error = edgel0("run", recipe, "--out", tmp_path / "runs", "--data", tmp_path / "b.npz")
    paragraph(error, "there is no data file", "b.npz")
    code, _, error = edgel0("run", recipe, "--out", tmp_path / "runs", "--data", recipe)
    paragraph(error, "tiny:load(", "tiny.py:39 with ", "Error: ")
    assert code == 2


# Recipes whose code or wishes cannot work: nothing is trained, and former results stay.

BROKEN = {
    "build raises": (
        "def build():\n    raise OSError(2, 'weights are gone')",
        ["tiny.py:+2", "FileNotFoundError", "weights are gone"],
    ),
    "build exits": ("import sys\ndef build():\n    sys.exit(0)", ["tiny.py:+3 with SystemExit: 0"]),
    "build gives no module": ("def build():\n    return 'Tiny'", ["'tiny:build' returned str", "torch.nn.Module"]),
    "load raises": ("def load():\n    return {}['x']", ["tiny:load() failed at", "tiny.py:+2 with KeyError: 'x'"]),
    "load takes arguments": ("def load(a, b):\n    return a", ["tiny:load() failed", "TypeError", "'a' and 'b'"]),
    "load gives two": ("_l = load\ndef load():\n    return _l()[:2]", ["returned 2 things; four arrays"]),
    "nan": (
        "_l = load\ndef load():\n    a, *b = _l()\n    a[3, 0, 0, 0] = np.nan\n    return a, *b",
        ["1 of 400 train"],
    ),
    "too many kinds": ("_l = load\ndef load():\n    a, b, c, d = _l()\n    return a, b + 1, c, d", ["run from 1 to 4"]),
    "other shapes": (
        "_l = load\ndef load():\n    a, b, c, d = _l()\n    return a[..., :4, :4], b, c[..., :4, :4], d",
        ["(2, 1, 4, 4)"],
    ),
    "whole numbers": (
        "_l = load\ndef load():\n    a, b, c, d = _l()\n    return a.astype(int), b, c.astype(int), d",
        ["int64"],
    ),
    "the module": ("\nundefined_name", ["importing 'tiny' failed", "tiny.py:+2 with NameError"]),
    "its syntax": ("\ndef f(:", ["importing 'tiny' failed", "tiny.py:+2 with SyntaxError"]),
    "forward in training": (
        "class W(Tiny):\n    def forward(self, x):\n        return super().forward(1 / 0 if self.training else x)\n"
        "def build():\n    return W()",
        ["the forward of W in dense epoch 1, batch 1 failed at", "tiny.py:+3 with ZeroDivisionError"],
    ),
    "nothing to remove": (
        "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))",
        ["nothing in Sequential can be removed"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_project_that_cannot_work(tmp_path, tiny, name):
    extra, told = BROKEN[name]
    recipe = project(tmp_path, extra="\n" + extra + "\n")
    first = len((HERE / "tiny.py").read_text().splitlines()) + 1  # the line before ``extra``
    told = [re.sub(r"\+(\d)", lambda found: str(first + int(found[1])), part) for part in told]
    _check_refused(tmp_path, recipe, tiny, told)


def test_a_limit_below_the_smallest_network(tmp_path, tiny):
    recipe = project(tmp_path, ('macs = "30 %"', 'macs = "1 %"'))
    _check_refused(tmp_path, recipe, tiny, ["cannot be reached", "the smallest network", "Raise the limit to at least"])


def _check_refused(folder, recipe, tiny, told):
    (folder / "runs").mkdir()
    before = contents(tiny[1])
    (folder / "runs" / "tiny").mkdir()
    for name, content in before.items():
        (folder / "runs" / "tiny" / name).write_bytes(content)
    code, out, error = edgel0("run", recipe, "--out", folder / "runs")
    paragraph(error, *told)
    assert code == 2 and all(line.startswith("limit: ") for line in out.splitlines())  # not one epoch
    assert contents(folder / "runs" / "tiny") == before
    code, _, error = edgel0("run", recipe, "--out", folder / "new")
    assert code == 2 and not (folder / "new" / "tiny").exists()


def test_a_reachable_limit_is_the_one_that_was_named(tmp_path):
    recipe = project(tmp_path, ('macs = "30 %"', 'macs = "1 %"'))
    _, _, error = edgel0("run", recipe, "--out", tmp_path)
    least = int(re.search(r"at least (\d+)", error)[1])
    recipe = project(tmp_path, ('macs = "30 %"', f"macs = {least - 1}"))
    assert edgel0("run", recipe, "--out", tmp_path)[0] == 2
    recipe = project(tmp_path, ('macs = "30 %"', f"macs = {least}"))
    code, _, error = edgel0("run", recipe, "--out", tmp_path)
    assert (code, error) == (0, "")
    assert json.loads((tmp_path / "tiny" / "result.json").read_text())["slim"]["macs"] <= least


# Places that cannot be written.


def test_a_file_in_the_way_of_the_folder(tmp_path):
    recipe, file = project(tmp_path), tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below", "/proc/edgel0"):
        code, _, error = edgel0("run", recipe, "--out", out)
        paragraph(error, "cannot be written", "--out")
        assert code == 3
    assert file.read_text() == "mine"


@pytest.mark.parametrize("folder", [False, True])
def test_what_no_run_made_is_not_replaced(tmp_path, folder):
    recipe, place = project(tmp_path), tmp_path / "runs" / "tiny"
    (place if folder else place.parent).mkdir(parents=True)
    (place / "thesis.tex" if folder else place).write_text("mine")
    code, out, error = edgel0("run", recipe, "--out", tmp_path / "runs")
    paragraph(error, f"{place} is in the way")
    assert (code, out) == (3, "")
    assert (place / "thesis.tex" if folder else place).read_text() == "mine"


@pytest.mark.parametrize(("largest", "where"), [(8192, "runs"), (130_000, "dense.pt2")])
def test_a_full_disk(tmp_path, tiny, largest, where):
    recipe, before = project(tmp_path), contents(tiny[1])
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    for name, content in before.items():
        (tmp_path / "runs" / "tiny" / name).write_bytes(content)
    code, _, error = finished(tmp_path, "run", recipe, "--out", tmp_path / "runs", largest=largest)
    paragraph(error, "cannot be written: File too large", where)
    assert code == 3
    assert contents(tmp_path / "runs" / "tiny") == before
    assert not [name for name in names(tmp_path / "runs" / ".tiny.partial") if "partial" in name]
    assert edgel0("run", recipe, "--out", tmp_path / "runs")[0] == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_indeed(tmp_path, small_disk):
    code, _, error = edgel0("run", project(tmp_path), "--out", small_disk)
    paragraph(error, "cannot be written: No space left on device")
    assert code == 3 and names(small_disk) == [".tiny.partial"]


# Extras that are not installed.


@pytest.mark.parametrize(
    ("blocked", "kind", "extra"),
    [
        ("torch", "pt2", "train"),
        ("onnxruntime", "onnx", "onnx"),
        ("onnxsim", "onnx", "onnx"),
        ("litert_torch", "tflite", "tflite"),
        ("ai_edge_litert", "tflite", "tflite"),
    ],
)
def test_an_extra_that_is_not_installed(tmp_path, blocked, kind, extra):
    recipe = project(tmp_path, ('["pt2"]', f'["{kind}"]'), ('path = "slim.pt2"', f'path = "slim.{kind}"'))
    if blocked == "torch":  # not in the processes that the others are forked from
        code, out, error = without_torch(tmp_path, "run", recipe, "--out", tmp_path / "runs")
    else:
        code, out, error = finished(tmp_path, "run", recipe, "--out", tmp_path / "runs", blocked=[blocked])
    paragraph(error, blocked, f'pip install "edgel0[{extra}]"')
    assert (code, out) == (3, "")
    assert not (tmp_path / "runs").exists()


def without_torch(folder, *arguments):
    script = "import sys; sys.modules['torch'] = None; import edgel0; from edgel0.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, cwd=folder
    )
    return done.returncode, done.stdout, done.stderr


def test_without_torch_a_check_still_works_and_the_others_say_what_is_missing(tmp_path, tiny):
    _, folder, _ = tiny
    code, out, error = without_torch(tmp_path, "check", folder / "recipe.toml")
    assert (code, error) == (0, "") and "1 of 1 limits kept" in out
    for arguments in (["inspect", "a.py:b"], ["export", "a.pt2", "b.onnx"]):
        code, _, error = without_torch(tmp_path, *arguments)
        paragraph(error, "torch", 'pip install "edgel0[train]"')
        assert code == 3


# Runs that end early.


@pytest.mark.parametrize(
    ("moment", "extra"),
    [
        ("importing", "\ninterrupt()"),
        ("loading", "\n_l = load\ndef load():\n    interrupt()\n    return _l()"),
        ("going on after dense epoch 1\n", 10),  # the tenth forward in training, of seven an epoch
        ("going on after gating epoch 1\n", 25),
        ("going on after gating epoch 4\n", 47),
    ],
)
def test_ctrl_c(tmp_path, moment, extra):
    signalling = "\nimport os, signal\ndef interrupt():\n    os.killpg(os.getpgid(0), signal.SIGINT)\n"
    once = tmp_path / "once"
    if isinstance(extra, int):
        extra = f"""
class Counting(Tiny):
    calls = 0
    def forward(self, x):
        Counting.calls += self.training
        if Counting.calls == {extra} and self.training and not os.path.exists({str(once)!r}):
            open({str(once)!r}, "w").close()
            interrupt()
        return super().forward(x)
def build():
    return Counting()
"""
    recipe = project(tmp_path, extra=signalling + extra)
    code, _, error = finished(tmp_path, "run", recipe, "--out", tmp_path / "runs")
    assert error == "edgel0: interrupted; a run goes on from its last checkpoint when started again.\n"
    assert code == 130
    assert not (tmp_path / "runs" / "tiny").exists()
    if once.exists():
        code, again, error = finished(tmp_path, "run", recipe, "--out", tmp_path / "runs")
        assert (code, error) == (0, "")
        assert again.startswith(moment)


@pytest.mark.parametrize("text", ["exporting dense.onnx", "measuring"])
def test_ctrl_c_after_training(tmp_path, text):
    recipe = project(
        tmp_path,
        ('["pt2"]', '["onnx"]'),
        ('path = "slim.pt2"', 'path = "slim.onnx"'),
        ("min_secs = 0.0", "min_secs = 5.0"),
    )
    process = started(tmp_path, "run", recipe, "--out", tmp_path / "runs")
    while text not in _text(tmp_path / "stdout") and process.is_alive():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert (
        _text(tmp_path / "stderr")
        == "edgel0: interrupted; a run goes on from its last checkpoint when started again.\n"
    )
    assert names(tmp_path / "runs") == [".tiny.partial"]
    assert not [name for name in names(tmp_path / "runs" / ".tiny.partial") if "partial" in name]
    assert run_until(recipe, tmp_path / "runs", "slimming", 0, 0.0)[0] == "going on after settle epoch 2"


def _text(path):
    return path.read_text() if path.exists() else ""


def test_kill_9_at_many_moments(tmp_path, tiny):
    recipe, expected = tiny[0], contents(tiny[1])
    rng = random.Random(0)
    resumed = 0
    for number in range(6):
        out = tmp_path / str(number)
        process = started(tmp_path, "run", recipe, "--out", out)
        time.sleep(rng.uniform(0.05, 1.2))
        process.kill()
        process.join()
        left = (out / ".tiny.partial" / CHECKPOINT).exists()
        said = run_until(recipe, out, *NEVER)
        assert said[0].startswith("going on after" if left else "limit:")  # killed before its first epoch: anew
        resumed += left
        assert contents(out / "tiny") == expected
        assert names(out) == ["tiny"]
    del resumed  # how many depends on the machine; each is right either way


def test_former_results_stay_until_new_ones_are_complete(tmp_path, tiny):
    recipe, expected = tiny[0], contents(tiny[1])
    run_until(recipe, tmp_path, *NEVER)
    for moment in (("dense", 1, 0.5), ("settle", 2, 1.0), ("exporting slim", 0, 0.0)):
        assert run_until(recipe, tmp_path, *moment)[-1] == "killed"
        assert contents(tmp_path / "tiny") == expected
    timed = (tmp_path / "tiny" / TIMINGS).read_bytes()
    run_until(recipe, tmp_path, *NEVER)
    assert (tmp_path / "tiny" / TIMINGS).read_bytes() != timed
    assert contents(tmp_path / "tiny") == expected and names(tmp_path) == ["tiny"]


def test_two_runs_of_one_name_at_once(tmp_path):
    recipe = project(tmp_path)
    with staging(tmp_path / "runs", "tiny", fresh=False):
        code, out, error = finished(tmp_path, "run", recipe, "--out", tmp_path / "runs")
        paragraph(error, "another run of 'tiny' is under way", "--out")
        assert (code, out) == (3, "")
    assert edgel0("run", recipe, "--out", tmp_path / "runs")[0] == 0


def test_fresh_begins_anew(tmp_path, tiny):
    recipe, expected = tiny[0], contents(tiny[1])
    run_until(recipe, tmp_path, "gating", 3, 0.5)
    code, out, _ = edgel0("run", recipe, "--out", tmp_path, "--fresh")
    assert code == 0 and out.startswith("limit: macs ") and out.splitlines()[1].startswith("dense     1/2")
    assert contents(tmp_path / "tiny") == expected


# Publishing, cut at every system call that changes a name.


class Cut(BaseException):
    pass


@pytest.mark.parametrize("calls", range(7))
def test_publishing_can_be_cut_anywhere(tmp_path, monkeypatch, calls):
    left = calls

    def make(text, cut=False):
        with staging(tmp_path, "a", fresh=False) as work, monkeypatch.context() as patch:
            had = (work / CHECKPOINT).exists()
            (work / CHECKPOINT).write_text("state")
            (work / "result.json").write_text(text)
            (work / "sub").mkdir()
            for name in ("rename", "unlink", "rmdir") if cut else ():
                patch.setattr(os, name, counted(getattr(os, name)))
            publish(tmp_path, "a")
        return had

    def counted(real):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut
            return real(*args, **kwargs)

        return call

    make("old")
    with contextlib.suppress(Cut):
        make("new", cut=True)
    assert (left < 0) == (calls < 6)  # two renames, the checkpoint, three entries of the former folder
    results = [place / "result.json" for place in (tmp_path / "a", tmp_path / ".a.former")]
    assert any(file.exists() and file.read_text() in ("old", "new") for file in results)
    published = (tmp_path / "a" / "result.json").exists() and (tmp_path / "a" / "result.json").read_text() == "new"
    with staging(tmp_path, "a", fresh=False) as work:
        assert (tmp_path / "a" / "result.json").read_text() == ("new" if published else "old")
        assert (work / CHECKPOINT).exists() != published  # what is not published can be gone on with
        assert names(tmp_path) == [".a.partial", "a"]
    assert make("newer") != published
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["result.json", "sub"]


def test_two_stagings_exclude_each_other(tmp_path):
    with staging(tmp_path, "a", fresh=False):
        with pytest.raises(DeviceError, match="another run of 'a'"), staging(tmp_path, "a", fresh=False):
            pass
        with staging(tmp_path, "b", fresh=False):
            pass
    with staging(tmp_path, "a", fresh=True):
        pass
