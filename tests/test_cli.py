import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from projects import edgel0, paragraph, project
from projects.tiny import build

import edgel0 as package
from edgel0.exporters.loading import load, save
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with slim.pt2 and slim.onnx, made by the command line from one another."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    model, example = build().eval(), torch.randn(1, 1, 8, 8)
    save(slim(model, Masks.random(trace(model, example), seed=1)), folder / "slim.pt2")
    code, out, error = edgel0("export", folder / "slim.pt2", folder / "slim.onnx")
    assert (code, error) == (0, ""), error
    assert re.fullmatch(rf"{folder}/slim\.onnx: [\d,]+ B \([\d.]+ KiB\), within \d.\de-\d+ on 3 samples\n", out)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The tiny project's folder as the working folder."""
    project(
        tmp_path,
        extra="\nmodel, number = Tiny(), 3\ndef broken():\n    return model.nothing\ndef word():\n    return 'w'\n",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_version_and_help():
    assert edgel0("--version") == (0, f"edgel0 {package.__version__}\n", "")
    code, out, error = edgel0()
    assert code in (0, 2) and "Usage: edgel0" in out + error
    for verb in ("run", "inspect", "export", "profile", "check"):
        assert f"\n  {verb} " in out + error
        code, out_of_verb, _ = edgel0(verb, "--help")
        assert code == 0 and f"Usage: edgel0 {verb}" in out_of_verb


@pytest.mark.parametrize(
    "arguments", [["walk"], ["run"], ["run", "a", "b"], ["check", "--nothing"], ["profile", "a.onnx", "--threads", "0"]]
)
def test_wrong_use(arguments):
    code, out, error = edgel0(*arguments)
    assert (code, out) == (2, "") and "Usage: edgel0" in error and "Traceback" not in error


def test_the_installed_command():
    done = subprocess.run([Path(sys.executable).with_name("edgel0"), "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"edgel0 {package.__version__}\n", "")


# inspect


def test_inspect_prints_groups_and_json(here):
    code, out, error = edgel0("inspect", "tiny.py:build", "--input", "1x1x8x8")
    assert (code, error) == (0, "")
    assert "44 units in 3 groups; MACs 38,400, parameters 3,688" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, error = edgel0("inspect", "tiny:model", "--input", "1x1x8x8", "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert found["schema"] == 1 and found["units"] == 44 and found["cost"]["macs"] == 38_400
    assert [(group["name"], group["units"]) for group in found["groups"]] == [("conv1", 8), ("conv2", 12), ("fc1", 24)]
    assert [pin["reason"] for pin in found["pins"]] == ["an output of the model"] and found["unknown"] == []


@pytest.mark.parametrize(
    ("reference", "shape", "told"),
    [
        ("tiny.py:bild", "1x1x8x8", ["'tiny.py' has no 'bild'", "did you mean 'build'"]),
        ("tiny.py:number", "1x1x8x8", ["'tiny.py:number' is int, and a function is needed"]),
        ("tiny.py:word", "1x1x8x8", ["'tiny.py:word' gives str", "torch.nn.Module"]),
        ("tiny.py:broken", "1x1x8x8", ["tiny.py:broken() failed at tiny.py:49 with AttributeError", "AttributeError"]),
        ("tini.py:build", "1x1x8x8", ["there is no file 'tini.py'"]),
        ("tiny.py", "1x1x8x8", ["module:function or path/file.py:function is needed"]),
        ("tiny.py:build", "1x1x8", ["Tiny does not run on the example input"]),
        ("tiny.py:build", "1x0x8x8", ["--input '1x0x8x8' is no shape"]),
        ("tiny.py:build", "one", ["--input 'one' is no shape"]),
        ("tiny.py:build", "9999999999x9999999999", ["cannot be made"]),
        ("tiny.py:build", "9" * 30, ["cannot be made"]),
    ],
)
def test_inspect_of_what_cannot_be_inspected(here, reference, shape, told):
    code, out, error = edgel0("inspect", reference, "--input", shape)
    paragraph(error, *told)
    assert (code, out) == (2, "")


# export


def test_an_exported_file_is_the_program(made):
    import onnxruntime

    x = torch.randn(1, 1, 8, 8)
    session = onnxruntime.InferenceSession(made / "slim.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = load(made / "slim.pt2").program.module()(x).detach()
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)


def test_a_model_of_the_users_is_exported_in_other_precisions(here):
    rng = np.random.default_rng(0)
    np.save("digits.npy", rng.normal(size=(30, 1, 8, 8)).astype(np.float32))
    command = ["export", "tiny.py:build", "--input", "1x1x8x8", "--to", "onnx,tflite", "--quantize", "static_wi8_ai8"]
    code, out, error = edgel0(*command, "--calibrate", "digits.npy", "--verify", "12")
    assert (code, error) == (0, ""), error
    assert re.findall(r"(\S+): [\d,]+ B .* on (\d+) samples", out) == [
        ("build.static_wi8_ai8.onnx", "12"),
        ("build.static_wi8_ai8.tflite", "12"),
    ]
    assert json.loads(Path("build.static_wi8_ai8.onnx.json").read_text())["precision"] == "static_wi8_ai8"
    np.save("digits.npy", np.zeros((30, 8, 8), np.float32))
    code, _, error = edgel0(*command, "--calibrate", "digits.npy")
    paragraph(error, "float32 of shape (30, 8, 8); samples of shape (1, 1, 8, 8) along a first axis are needed")
    assert code == 2


def test_export_refuses_what_it_cannot_write_or_read(made, tmp_path):
    code, _, error = edgel0("export", made / "slim.pt2", tmp_path / "a.xyz")
    paragraph(error, "'a.xyz' ends in '.xyz'", ".onnx, .tflite, .pt2")
    assert code == 2
    code, _, error = edgel0("export", made / "slim.onnx", tmp_path / "a.onnx")
    paragraph(error, "is a finished file, which edgel0 measures (profile) and checks; export the model")
    assert code == 2
    code, _, error = edgel0("export", made / "slim.onnx.json", tmp_path / "a.onnx")
    paragraph(error, "is not an exported program")
    assert code == 2
    code, _, error = edgel0("export", made / "slim.pt2")
    paragraph(error, "there is no file to write", "--to onnx,tflite")
    assert code == 2
    code, _, error = edgel0("export", made / "slim.pt2", tmp_path / "a.onnx", "--quantize", "int8")
    paragraph(error, "there is no precision 'int8'", "static_wi8_ai8")
    assert code == 2
    code, _, error = edgel0("export", made / "slim.pt2", tmp_path / "a.onnx", "--quantize", "static_wi8_ai8")
    paragraph(error, "there is none to calibrate on", "--calibrate")
    assert code == 2
    code, _, error = edgel0("export", made / "slim.pt2", tmp_path / "a" / "a.pt2")
    paragraph(error, "cannot be written")
    assert code == 3
    assert list(tmp_path.iterdir()) == []


# profile


def test_profile_of_a_real_file(made):
    fast = ("--num-runs", "5", "--min-secs", "0")
    code, out, error = edgel0("profile", made / "slim.onnx", *fast)
    assert (code, error) == (0, "")
    assert re.search(r"slim\.onnx +[\d.]+ ms +[\d.]+ ms", out) and "1 thread(s)" in out
    code, out, error = edgel0("profile", made / "slim.onnx", *fast, "--json")
    assert (code, error) == (0, "")
    [row] = json.loads(out)["measurements"]
    assert len(row["samples_ms"]) >= 5 and row["file_bytes"] == (made / "slim.onnx").stat().st_size


def test_profile_of_what_cannot_be_measured(made, tmp_path):
    for file in (tmp_path / "a.onnx", made / "slim.pt2"):
        code, out, error = edgel0("profile", file)
        paragraph(error, file.name)
        assert (code, out) == (2, "")


def test_profile_of_operators_and_by_a_binary(made, tmp_path):
    fast = ("--num-runs", "5", "--min-secs", "0")
    code, out, error = edgel0("profile", made / "slim.onnx", *fast, "--operators", "--cores", "0")
    assert (code, error) == (0, "")
    assert "operator of slim.onnx" in out and max(map(len, out.splitlines())) <= 80
    code, out, error = edgel0("profile", made / "slim.onnx", "--benchmark-model", tmp_path / "absent")
    paragraph(error, "benchmark_model measures .tflite files")
    assert (code, out) == (2, "")
    code, out, error = edgel0("profile", made / "slim.onnx", "--cores", "first")
    paragraph(error, "--cores 'first'")
    assert code == 2


def test_compare_tells_the_ratio_and_its_interval(made):
    fast = ("--num-runs", "8", "--min-secs", "0")
    code, out, error = edgel0("compare", made / "slim.onnx", made / "slim.onnx", *fast, "--json")
    found = json.loads(out)
    assert (code, error, found["schema"]) == (0, "", 1)
    assert found["interval"][0] <= found["ratio"] <= found["interval"][1]
    assert found["difference"] in ("none", "faster", "slower")
    code, out, error = edgel0("compare", made / "slim.onnx", made / "absent.onnx")
    paragraph(error, "absent.onnx")
    assert (code, out) == (2, "")


def test_profile_imports_no_torch_and_no_runtime(made):
    """What it adds to a measurement is what it imports: the runtime stays in its runner."""
    code = (
        "import sys; from edgel0.cli import app\n"
        "try: app(['profile', sys.argv[1], '--num-runs', '5', '--min-secs', '0', '--operators', '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'ai_edge_litert', 'litert_torch', 'matplotlib', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, made / "slim.onnx"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# check


def config(folder, text):
    (folder / "edgel0.toml").write_text(text)
    return folder / "edgel0.toml"


def test_check_passes_fails_and_misses(made, monkeypatch):
    monkeypatch.chdir(made)
    entry = '[[budget]]\npath = "slim.onnx"\nmax_size = "{}"\nmax_macs = "40 k"\n'
    config(made, entry.format("1 MB"))
    code, out, error = edgel0("check")
    assert (code, error) == (0, "") and "2 of 2 limits kept." in out
    config(made, entry.format("1 kB"))
    code, out, error = edgel0("check")
    assert (code, error) == (1, "") and "FAIL" in out and "edgel0.toml:3" in out
    code, out, error = edgel0("check", "--format", "json")
    assert (code, error) == (1, "") and json.loads(out)["passed"] is False
    config(made, entry.format("1 MB").replace("slim.onnx", "gone.onnx"))
    code, out, error = edgel0("check")
    assert (code, error) == (1, "") and "file is missing" in " ".join(out.split())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "there is no edgel0.toml or pyproject.toml"),
        ("[[budget]]\npath = 3\nmax_size = 1\n", "edgel0.toml:2"),
        ("[[budget]\n", "edgel0.toml:1"),
        ("[[budgets]]\n", "did you mean that by 'budgets'"),
    ],
)
def test_check_of_a_broken_configuration(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        config(tmp_path, text)
    code, out, error = edgel0("check")
    paragraph(error, told)
    assert (code, out) == (2, "")


def test_check_in_an_unknown_format(tmp_path):
    code, _, error = edgel0("check", "--format", "jsn")
    paragraph(error, "--format 'jsn' is not known; known are text, json", "did you mean 'json'")
    assert code == 2


def test_names_are_printed_as_they_are(here):
    (here / "[red]x:smile:").mkdir()
    code, _, error = edgel0("run", "[red]x:smile:/nothing.toml")
    assert code == 2 and error.startswith("edgel0: [red]x:smile:/nothing.toml: cannot be read")


def on_a_terminal(*arguments, stderr=None):
    """Return the exit code and the lines that a command draws on a real terminal."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-c", "from edgel0.cli import main; main()", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=stderr or follower, env=environment)
    os.close(follower)
    output = b""
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:  # Linux tells the end so
            break
        if not block:
            break
        output += block
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    return process.wait(), [line.rstrip() for part in text.splitlines() for line in part.split("\r")]


def test_a_run_on_a_terminal_draws_bars_of_80_columns(tmp_path):
    """One real terminal: exporters redirect descriptors while bars are drawn."""
    code, lines = on_a_terminal("run", project(tmp_path), "--out", tmp_path)
    assert code == 0
    assert max(map(len, lines)) <= 80 or max(lines, key=len).startswith("results in")
    assert [line for line in lines if line.startswith("settle") and "2/2" not in line]
    assert any(line.startswith("accuracy") for line in lines) and "1 of 1 limits kept." in lines


def test_measuring_on_a_terminal_draws_a_bar_and_takes_names_as_they_are(made, tmp_path):
    file = tmp_path / "[red] \x1b[31m.onnx"
    file.write_bytes((made / "slim.onnx").read_bytes())
    with (tmp_path / "errors").open("w+") as errors:
        code, lines = on_a_terminal("profile", file, "--on", "local,ssh://nobody@127.0.0.1:1", stderr=errors)
        errors.seek(0)
        told = errors.read()
    assert code == 3
    assert [line for line in lines if line.startswith("local: ") and "━" in line and "[red]" in line]
    assert max(map(len, lines)) <= 80
    assert told.startswith("edgel0: ") and "\x1b[31m.onnx" not in told
    assert not any("edgel0: " in line for line in lines)


@pytest.mark.parametrize("more", [("--on", "local,qemu:cortex-a72"), ("--cores", "0")])
def test_what_a_binary_does_not_go_with(tmp_path, more):
    code, out, error = edgel0("profile", tmp_path / "a.tflite", "--benchmark-model", "bm", *more)
    assert (code, out) == (2, "")
    paragraph(error, "--benchmark-model goes neither with --cores nor with emulated cores")
