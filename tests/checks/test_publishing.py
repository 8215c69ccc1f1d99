"""Where a check writes: the terminal, a file, the summary of a CI step; and what it says when it cannot."""

import json

import pytest
from projects import edgel0, paragraph

from .artefacts import model


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    (tmp_path / "a.onnx").write_bytes(model())
    (tmp_path / "edgel0.toml").write_text('[[budget]]\npath = "a.onnx"\nmax_size = "1 kB"\n')
    return tmp_path


def test_a_file_gets_the_format_and_the_terminal_the_table(here):
    (here / "out.json").write_text("old")
    code, out, error = edgel0("check", "--format", "json", "--output", "out.json")
    assert (code, error) == (0, "") and "1 of 1 limits kept." in out and "{" not in out
    assert json.loads((here / "out.json").read_text())["passed"] is True
    assert edgel0("check", "-o", "out.txt")[1].rstrip() == (here / "out.txt").read_text().rstrip()
    assert sorted(path.name for path in here.iterdir()) == ["a.onnx", "edgel0.toml", "out.json", "out.txt"]


def test_the_summary_is_added_to(here, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    (here / "summary.md").write_text("before\n")
    assert edgel0("check")[0] == 0
    edgel0("check", "--format", "json")
    written = (here / "summary.md").read_text()
    assert written.startswith("before\n<!-- edgel0 check -->\n### ✅ edgel0: 1 of 1 limits kept.\n")
    assert written.count("| a.onnx | size |") == 2


@pytest.mark.parametrize("place", ["nowhere/out.json", "folder"])
def test_a_file_that_cannot_be_written(here, place):
    (here / "folder").mkdir()
    code, _, error = edgel0("check", "--format", "json", "-o", place)
    paragraph(error, place, "cannot be written", "What stood there is untouched")
    assert code == 3 and not list(here.rglob("*.partial*"))


def test_a_summary_that_cannot_be_written(here, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here))
    code, out, error = edgel0("check")
    paragraph(error, "the step summary", "cannot be written")
    assert code == 3 and "1 of 1 limits kept." in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "junnit"], "did you mean 'junit'?"),
        (["--base", "main", "--baseline", "b.json"], "leave one of them out"),
    ],
)
def test_wrong_use(here, arguments, told):
    code, out, error = edgel0("check", *arguments)
    paragraph(error, told)
    assert (code, out) == (2, "")


def test_a_baseline_elsewhere(here):
    (here / "edgel0.toml").write_text('[[budget]]\npath = "a.onnx"\nmax_increase = { size = "0" }\n')
    assert edgel0("baseline", "update", "--baseline", "main.json")[0] == 0
    assert edgel0("check")[0] == 1
    assert edgel0("check", "--baseline", "main.json")[0] == 0
    (here / "a.onnx").write_bytes(model(inside=b"12345"))
    code, out, _ = edgel0("check", "--baseline", "main.json")
    assert code == 1 and "commit main.json" in " ".join(out.split())
