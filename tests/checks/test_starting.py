"""The first configuration: every figure with headroom, nothing overwritten, and a check that passes on it."""

import json
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from projects import edgel0, paragraph

from edgel0.checks.source import tomllib
from edgel0.checks.starting import rounded_up
from edgel0.quantities import parse_bytes, parse_count

from .artefacts import model
from .repositories import network


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


def test_a_first_configuration_is_kept(here):
    network(here / "dist" / "digits.onnx")
    network(here / "dist" / 'a "b" [c].onnx', hidden=20)
    for foreign in (".venv", "node_modules", "venv", ".cache"):
        network(here / foreign / "x.onnx")
    (here / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    code, out, error = edgel0("init")
    assert (code, error) == (0, "")
    assert "edgel0.toml is written: " in out and "edgel0 baseline update" in out
    budgets = tomllib.loads((here / "edgel0.toml").read_text())["budget"]
    assert [budget["path"] for budget in budgets] == ['dist/a "b" [c].onnx', "dist/digits.onnx"]
    size = (here / "dist" / "digits.onnx").stat().st_size
    assert size * 1.05 <= parse_bytes(budgets[1]["max_size"]) <= size * 1.06
    code, out, error = edgel0("check")
    assert (code, error) == (0, "") and re.search(r"\n(\d+) of \1 limits kept\.", out)


def test_nothing_is_overwritten(here):
    network(here / "digits.onnx")
    (here / "edgel0.toml").write_text("mine")
    code, _, error = edgel0("init")
    paragraph(error, "edgel0.toml is there already and is left as it is")
    assert code == 2 and (here / "edgel0.toml").read_text() == "mine"
    (here / "edgel0.toml").unlink()
    (here / "pyproject.toml").write_text("[[tool.edgel0.budget]]\npath = 'a'\nmax_size = 1\n")
    code, _, error = edgel0("init")
    paragraph(error, "pyproject.toml is there already")
    assert code == 2 and not (here / "edgel0.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "there is no .onnx or .tflite file below this folder"),
        (["gone.onnx"], "'gone.onnx' has no figures: file is missing"),
        (["../gone.onnx"], "is not below this folder"),
        (["empty.onnx"], "'empty.onnx' has no figures: file is empty"),
        (["a.onnx", "--headroom", "5"], "--headroom '5' is no percentage"),
        (["a.onnx", "--headroom", "-5 %"], "write"),
    ],
)
def test_what_cannot_be_begun(here, arguments, told):
    (here / "empty.onnx").write_bytes(b"") if arguments else None
    code, _, error = edgel0("init", *arguments)
    paragraph(error, told)
    assert code == 2 and not (here / "edgel0.toml").exists()


def test_named_files_alone(here):
    for name in ("a.onnx", "b.onnx"):
        (here / name).write_bytes(model())
    assert edgel0("init", "b.onnx", "--headroom", "50 %")[0] == 0
    [budget] = tomllib.loads((here / "edgel0.toml").read_text())["budget"]
    assert budget["path"] == "b.onnx" and parse_bytes(budget["max_size"]) == -(
        -(here / "b.onnx").stat().st_size * 3 // 2
    )


@given(st.integers(0, 2**60))
def test_limits_are_rounded_up_and_read_back(amount):
    for kind, parse in (("bytes", parse_bytes), ("count", parse_count)):
        limit = parse(rounded_up(amount, kind))
        assert amount <= limit <= amount + Fraction(amount, 100)
        assert len(re.sub(r"\D", "", rounded_up(amount, kind)).strip("0")) <= 3


def test_json_is_of_the_same_limits(here):
    network(here / "digits.onnx")
    edgel0("init")
    rows = json.loads(edgel0("check", "--format", "json")[1])["checks"]
    assert {row["metric"] for row in rows} >= {"size"} and all(row["headroom"] >= 0 for row in rows)
