"""Verdicts: the edge of a limit, the words of a failure, and what the check must not import."""

import subprocess
import sys

import pytest

from edgel0.checks.config import read_limits
from edgel0.checks.verdict import check, exit_code
from edgel0.checks.wording import label
from edgel0.errors import BudgetError
from edgel0.types import Limit

from .artefacts import model, sidecar


@pytest.fixture
def project(tmp_path):
    """An artefact of 130,000 bytes, 2 M MACs, 60,000 parameters and 4 ms, below the folder of its budget."""
    path = tmp_path / "dist" / "slim.tflite"
    path.parent.mkdir()
    path.write_bytes(bytes(130_000))
    sidecar(path)
    return tmp_path


def judge(folder, *lines, path="dist/slim.tflite"):
    (folder / "edgel0.toml").write_text("\n".join(["[[budget]]", f"path = '{path}'", *lines]))
    return check(read_limits(folder / "edgel0.toml"))


@pytest.mark.parametrize(
    ("line", "value", "passed"),
    [
        ("max_size = '130 kB'", 130_000, True),
        ("max_size = 129_999", 130_000, False),
        ("max_macs = '2 M'", 2_000_000, True),
        ("max_macs = 1_999_999", 2_000_000, False),
        ("max_params = '60 k'", 60_000, True),
        ("max_params = '59.9 k'", 60_000, False),
        ("latency = {max = '4 ms', board = 'rpi4'}", 4, True),
        ("latency = {max = '3.999 ms', board = 'rpi4'}", 4, False),
        ("latency = {max = '3.5 ms', board = 'rpi4', stat = 'p10'}", 3.5, True),
        ("latency = {max = '5 ms', board = 'rpi4', stat = 'p90'}", 5.25, False),
    ],
)
def test_at_most_the_maximum_passes(project, line, value, passed):
    (verdict,) = judge(project, line)
    assert (verdict.value, verdict.passed) == (value, passed)
    assert bool(verdict.reason) is not passed
    assert exit_code([verdict]) == (0 if passed else 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "max_size = '120 kB'",
            "size: 130,000 B (127.0 KiB) exceeds the limit of 120,000 B (117.2 KiB) by 10,000 B (9.8 KiB) or 8.3 %",
        ),
        ("max_macs = '1.6 M'", "MACs: 2,000,000 exceeds the limit of 1,600,000 by 400,000 or 25.0 %"),
        ("max_params = '48 k'", "params: 60,000 exceeds the limit of 48,000 by 12,000 or 25.0 %"),
        (
            "latency = {max = '3.2 ms', board = 'rpi4'}",
            "latency p50 (rpi4): 4.00 ms exceeds the limit of 3.20 ms by 0.800 ms or 25.0 %",
        ),
        (
            "latency = {max = '4.2 ms', board = 'rpi4', stat = 'p90', runtime = 'onnxruntime'}",
            "latency p90 (rpi4, onnxruntime): 5.25 ms exceeds the limit of 4.20 ms by 1.05 ms or 25.0 %",
        ),
    ],
)
def test_a_failure_says_by_how_much(project, line, reason):
    (verdict,) = judge(project, line)
    assert verdict.reason == reason


def test_a_missing_file_fails_every_limit(project):
    verdicts = judge(
        project,
        "max_size = '1 GB'",
        "max_macs = '1 G'",
        "latency = {max = '9 s', board = 'rpi4'}",
        path="dist/gone.onnx",
    )
    assert [verdict.passed for verdict in verdicts] == [False, False, False]
    assert {verdict.value for verdict in verdicts} == {None}
    assert all(verdict.reason.endswith(" is unknown: file is missing") for verdict in verdicts)
    assert exit_code(verdicts) == 1


def test_a_missing_figure_fails_alone(project):
    (project / "dist" / "slim.tflite.json").unlink()
    size, macs = judge(project, "max_size = '1 GB'", "max_macs = '1 G'")
    assert size.passed
    assert not macs.passed
    assert macs.reason == "MACs is unknown: slim.tflite.json is missing; export with edgel0, which writes it"
    assert exit_code([size, macs]) == 1


def test_external_data_break_a_limit(tmp_path):
    (tmp_path / "a.onnx").write_bytes(model("w.bin"))
    (tmp_path / "w.bin").write_bytes(bytes(900))
    assert not judge(tmp_path, "max_size = 900", path="a.onnx")[0].passed
    assert judge(tmp_path, "max_size = 1000", path="a.onnx")[0].passed


def test_a_limit_without_a_file_looks_in_the_working_folder(project, monkeypatch):
    monkeypatch.chdir(project / "dist")
    assert check([Limit("x", "slim.tflite", "size", 130_000, "130 kB")])[0].passed


def test_a_check_of_nothing_is_refused():
    with pytest.raises(BudgetError, match="no limit to check"):
        check([])


def test_an_unknown_metric_is_refused():
    with pytest.raises(BudgetError, match="names the metric 'speed'; known are size, compressed, "):
        check([Limit("x", "x", "speed", 1, "1")])


def test_labels():
    names = {metric: label(Limit("x", "x", metric, 1, "1")) for metric in ("size", "macs", "params", "latency")}
    assert names == {"size": "size", "macs": "MACs", "params": "params", "latency": "latency p50"}


@pytest.mark.parametrize("module", ["verdict", "config", "formats", "recording", "revision", "starting"])
def test_a_check_imports_no_torch_and_no_runtime(module):
    code = (
        f"import sys, edgel0.checks.{module}\n"
        "heavy = 'torch onnx onnxruntime tensorflow ai_edge_litert litert_torch torchvision scipy typer'.split()\n"
        "print([name for name in heavy if name in sys.modules], len(sys.modules) < 500)"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[] True\n"
