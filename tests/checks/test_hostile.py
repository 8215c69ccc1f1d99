"""What a stranger's pull request may try: to read outside of the project, to run something, to forge what is shown."""

import json
import os
import re
import sys

import pytest
from markdown_it import MarkdownIt
from projects import edgel0, paragraph

from edgel0.checks.formats import FORMATS
from edgel0.checks.paths import matches

from .artefacts import model, sidecar

SECRET = "the-secret-of-somebody-else"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs symbolic links and names that Windows refuses")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with an artefact, and a secret and another artefact beside it."""
    (tmp_path / "secret.json").write_text(json.dumps({"schema": 1, "slim": {"accuracy": 0.5, "secret": SECRET}}))
    (tmp_path / "other.onnx").write_bytes(model(inside=bytes(777)))
    folder = tmp_path / "project"
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / "a.onnx").write_bytes(model())
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return folder


def budget(folder, *lines, path="dist/*.onnx"):
    (folder / "edgel0.toml").write_text("\n".join(["[[budget]]", f"path = {json.dumps(path)}", *lines]))


def seen(*options):
    """Everything that a check shows in any format, all of it without the secret."""
    shown = []
    for name in FORMATS:
        code, out, error = edgel0("check", "--format", name, *options)
        assert code in (0, 1) and error == ""
        shown.append(out)
    everything = "".join(shown)
    assert SECRET not in everything and "777" not in everything
    return everything


def test_an_artefact_that_is_a_link_to_outside_is_not_read(project):
    (project / "dist" / "a.onnx").unlink()
    (project / "dist" / "a.onnx").symlink_to("../../other.onnx")
    budget(project, "max_size = '1 MB'")
    assert "leads out of the project's folder through a symbolic link" in seen()
    assert edgel0("check")[0] == 1


def test_a_folder_that_is_a_link_to_outside_is_not_walked(project, tmp_path):
    (project / "out").symlink_to(tmp_path)
    (project / "dist" / "up").symlink_to("../..")
    assert matches(project, ["**/*.onnx"]) == ["dist/a.onnx"]
    for path in ("out/*.onnx", "out/**", "dist/up/*.onnx"):
        budget(project, "max_size = '1 MB'", path=path)
        code, _, error = edgel0("check")
        paragraph(error, f"the path '{path}' is not inside the folder")
        assert code == 2
    budget(project, "max_size = '1 MB'", path="*/up/*.onnx")
    assert "no file fits the pattern" in seen()


def test_what_stands_beside_an_artefact_may_not_lead_outside(project):
    (project / "dist" / "a.onnx.json").symlink_to("../../secret.json")
    (project / "dist" / "result.json").symlink_to("../../secret.json")
    budget(project, "max_partitions = 9", "min_accuracy = { min = '1 %', of = 'slim' }")
    shown = seen()
    assert "a.onnx.json leads out of the project's folder" in shown
    assert "result.json leads out of the project's folder" in shown


def test_a_result_is_named_inside(project):
    (project / "r.json").symlink_to("../secret.json")
    budget(project, "min_accuracy = { min = '1 %', result = 'r.json', of = 'slim' }")
    code, _, error = edgel0("check")
    paragraph(error, "the path 'r.json' is not inside the folder of this file")
    assert code == 2 and SECRET not in error


def test_external_data_outside_are_not_weighed(project):
    (project / "dist" / "a.onnx").write_bytes(model("../../other.onnx"))
    budget(project, "max_size = '1 MB'", "max_compressed = '1 MB'")
    assert "its external data lie outside its folder" in seen()


def test_a_device_or_a_pipe_is_not_opened(project):
    os.mkfifo(project / "dist" / "p.onnx")
    (project / "dist" / "zero.onnx").symlink_to("/dev/zero")
    budget(project, "max_size = '1 MB'")
    assert "it is not a regular file" in seen()


def test_a_configuration_names_no_code(project):
    """Nothing of the project is imported, whatever its files are called."""
    for name in ("sitecustomize", "onnx", "numpy", "rich", "edgel0_plugin", "typer", "gzip"):
        (project / f"{name}.py").write_text("raise SystemExit('run')")
    budget(project, "max_size = '1 MB'", 'message = \'__import__("os").system("touch pwned")\'')
    assert edgel0("check")[0] == 0
    budget(project, "max_size = '1 MB'", "plugin = 'edgel0_plugin'")
    assert edgel0("check")[0] == 2
    assert not (project / "pwned").exists()
    assert not any(getattr(m, "__file__", None) and str(project) in str(m.__file__) for m in list(sys.modules.values()))


NAMES = [
    "a|b.onnx", "`a`.onnx", "*a*.onnx", "<script>.onnx", "[a](b).onnx", "@everyone.onnx", "a\x1b[31m\x1b]0;x\x07.onnx",
    "a\n::error::b.onnx", "a%0A::error::b.onnx", "::warning::a.onnx", "a\r\n| b |.onnx", "-rf.onnx",
    "$(touch pwned).onnx", "a;b.onnx", "'a\".onnx", "a\udcff.onnx", "\x85.onnx", "a\u202eb.onnx",
    "模型.onnx", "a]]>.onnx",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_file_forges_nothing(project, name, monkeypatch, tmp_path):
    """A file that fits a glob brings its name into every format, and too large a size beside it."""
    try:
        (project / "dist" / name).write_bytes(model(inside=bytes(900)))
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has no such name")
    (project / "dist" / "a.onnx").unlink()
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    budget(project, "max_size = 100")
    for format in FORMATS:
        code, out, error = edgel0("check", "--format", format)
        assert (code, error) == (1, "")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out), format
        out.encode("utf-8")
        if format == "github":
            assert [line.startswith("::error file=edgel0.toml,line=3,title=") for line in out.splitlines()] == [
                True,
                False,
            ]
        if format == "markdown":
            html = MarkdownIt("gfm-like", {"linkify": False}).render(out)
            assert html.count("<tr>") == 2 and html.count("<td") == 8
            assert "<script" not in html and "<a " not in html and "<em>" not in html
    assert summary.read_text("utf-8").count("<!-- edgel0 check -->") == len(FORMATS)
    assert not (project / "pwned").exists()


def test_what_a_sidecar_says_steers_no_terminal(project):
    escape = "\x1b[2J\n::error::x"
    sidecar(project / "dist" / "a.onnx", latency_ms={escape: {"p50": 1, "board": escape}}, instructions={escape: {}})
    budget(project, "latency = { max = '1 ms', board = 'x' }", "instructions = { max = 1, core = 'x' }")
    shown = seen()
    assert "\x1b" not in shown and not re.search(r"^::error::", shown, re.M)
    sidecar(project / "dist" / "a.onnx", latency_ms={escape: {"p50": 1, "board": "x", "pinned": True}})
    budget(project, "max_increase = { latency = '1 %' }")
    (project / "edgel0-baseline.json").unlink(missing_ok=True)
    code, out, error = edgel0("baseline", "update")
    assert (code, error) == (0, "") and "\x1b" not in out
    code, out, error = edgel0("check")
    assert (code, error) == (0, "") and "\x1b" not in out


def test_a_baseline_that_is_a_link_to_outside_is_not_read(project):
    budget(project, "max_increase = { size = '1 %' }")
    (project / "edgel0-baseline.json").symlink_to("../secret.json")
    code, _, error = edgel0("check")
    paragraph(error, "edgel0-baseline.json", "leads out of")
    assert code == 2 and SECRET not in error
    code, _, error = edgel0("baseline", "update")
    assert code == 2 and json.loads((project.parent / "secret.json").read_text())["slim"]["secret"] == SECRET
