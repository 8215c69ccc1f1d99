"""The action, the hook and the GitLab job: their own steps are run here, as a runner would run them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .repositories import CONFIG, commit, git, network, repository

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
BASH = shutil.which("bash")
HERE = Path(sys.executable).parent
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


@pytest.fixture
def repo(tmp_path):
    folder = repository(tmp_path / "repo")
    environment = {k: v for k, v in os.environ.items() if k != "GITHUB_STEP_SUMMARY"}
    environment |= {
        "PATH": f"{HERE}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RUNNER_TEMP": str(tmp_path),
    }
    subprocess.run(
        [HERE / "edgel0", "baseline", "update"], cwd=folder, env=environment, check=True, capture_output=True
    )
    commit(folder, "the baseline")
    return folder


def given(value, inputs, action_path):
    """Replace the expressions that the action may use; any other is an error of it."""
    known = {f"inputs.{name}": inputs.get(name, spec["default"]) for name, spec in ACTION["inputs"].items()}
    known["github.action_path"] = str(action_path)
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: known[found[1]], value)


def run_step(step, repo, inputs):
    """Run one step as a composite action's runner does: bash, the step's environment, the working folder."""
    environment = {key: given(value, inputs, ROOT) for key, value in step["env"].items()}
    temp = repo.parent / "temp"
    temp.mkdir(exist_ok=True)
    folder = repo / given(step.get("working-directory", "."), inputs, ROOT)
    script = temp / "step.sh"
    script.write_text(step["run"])
    command = [BASH, "--noprofile", "--norc", "-e", "-o", "pipefail", script]
    own = {"RUNNER_TEMP": str(temp), "GITHUB_STEP_SUMMARY": str(temp / "summary.md"), "HOME": str(temp)}
    return subprocess.run(command, cwd=folder, env={**os.environ, **own, **environment}, capture_output=True, text=True)


@pytest.fixture
def check(repo):
    """The check step, with the edgel0 of this environment where the install step would have put it."""
    install, step = ACTION["runs"]["steps"]
    assert install["name"] == "Install edgel0"
    place = repo.parent / "temp" / "edgel0" / "bin"
    place.mkdir(parents=True)
    (place / "edgel0").symlink_to(HERE / "edgel0")

    def run(**inputs):
        done = run_step(step, repo, {key.replace("_", "-"): value for key, value in inputs.items()})
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def test_no_script_of_the_action_holds_an_expression():
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"] and step["shell"] == "bash"
        assert not re.search(
            r"\beval\b|(?<!\")\$\{?(PYTHON|ACTION|CONFIG|BASE|REPORT|REPORT_FORMAT)\b(?!\")",
            re.sub(r'"[^"]*"', "", step["run"]),
        )


def test_the_action_and_the_examples_keep_to_their_schemas():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    for schema, path in (("vendor.github-actions", "action.yml"), ("vendor.gitlab-ci", "docs/ci/gitlab-ci.yml")):
        done = subprocess.run([*command, schema, ROOT / path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    validate = [sys.executable, "-m", "pre_commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"]
    assert subprocess.run(validate, capture_output=True).returncode == 0


def test_the_action_passes_fails_and_writes_the_summary(repo, check):
    assert check() == (0, "2 of 2 limits kept.\n", "")
    network(repo / "dist" / "digits.onnx", hidden=210)
    code, out, _ = check(base="main", report="out.xml", report_format="junit")
    assert code == 1
    lines = [line for line in out.splitlines() if line.startswith("::")]
    assert len(lines) == 1 and lines[0].startswith(
        "::error file=edgel0.toml,line=5,title=digits%3A size +1 %25::size +1 %25: "
    )
    assert "<testsuites>" in (repo / "out.xml").read_text()
    summary = (repo.parent / "temp" / "summary.md").read_text()
    assert summary.count("<!-- edgel0 check -->") == 2 and "✅ edgel0: 2 of 2" in summary and "🔺 +4.9 %" in summary


def test_the_action_in_another_folder_with_another_configuration(repo, check):
    (repo / "budgets").mkdir()
    (repo / "budgets" / "my own.toml").write_text(CONFIG.replace("dist/", ""))
    network(repo / "budgets" / "digits.onnx")
    code, out, _ = check(config="my own.toml", working_directory="budgets", report="r.json")
    assert code == 1 and "there is no edgel0-baseline.json" in out
    assert json.loads((repo / "budgets" / "r.json").read_text())["schema"] == 1
    code, _, error = check(config="nothing.toml", report="r.json")
    assert code == 2 and "nothing.toml" in error


INJECTIONS = [
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "main; touch pwned #", '"; touch pwned; "', "--help", "-h",
    "main\ntouch pwned", "&& touch pwned", "| touch pwned", "${IFS}touch${IFS}pwned",
    "--output=pwned", "'$(touch pwned)'",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
def test_what_stands_in_an_input_is_an_argument_and_no_command(tmp_path, text):
    repo = tmp_path / "repo"
    repo.mkdir()
    place = tmp_path / "temp" / "edgel0" / "bin"
    place.mkdir(parents=True)
    (place / "edgel0").write_text("#!/bin/sh\nprintf '%s\\0' \"$@\" >> arguments\n")
    (place / "edgel0").chmod(0o755)
    inputs = {"config": text, "base": text, "report": text, "report-format": text}
    assert run_step(ACTION["runs"]["steps"][1], repo, inputs).returncode == 0
    first = ["check", f"--format={text}", f"--output={text}", f"--base={text}", "--", text]
    second = ["check", "--format=github", f"--base={text}", "--", text]
    assert (repo / "arguments").read_text().split("\0")[:-1] == first + second
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.slow
def test_the_install_step_and_then_the_check(repo):
    """The real step: a new environment, the package built from this folder, its dependencies from the index."""
    install, step = ACTION["runs"]["steps"]
    done = run_step(install, repo, {"python": sys.executable})
    if done.returncode and "No matching distribution" in done.stderr + done.stdout:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    done = run_step(step, repo, {})
    assert (done.returncode, done.stdout) == (0, "2 of 2 limits kept.\n"), done.stderr
    have = subprocess.run(
        [repo.parent / "temp" / "edgel0" / "bin" / "python", "-c", "import torch"], capture_output=True
    )
    assert have.returncode == 1
    files = [path for path in (repo.parent / "temp" / "edgel0").rglob("*") if path.is_file()]
    ours = [path for path in files if not {"pip", "setuptools", "pkg_resources"} & set(path.parts)]
    assert sum(path.stat().st_size for path in ours) < 120e6


def test_the_hook_runs_in_pre_commit(repo):
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    hook["language"] = "system"  # with the edgel0 of this environment; the install is that of the action
    (repo / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": [hook]}]}))
    commit(repo, "the hook")
    environment = {
        **os.environ,
        "PATH": f"{HERE}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(repo.parent),
        "PRE_COMMIT_HOME": str(repo.parent / "cache"),
    }

    def run():
        command = [sys.executable, "-m", "pre_commit", "run"]
        return subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True)

    (repo / "notes.txt").write_text("nothing of a model")
    git(repo, "add", "-A")
    assert "Skipped" in run().stdout
    network(repo / "dist" / "digits.onnx", hidden=201)
    git(repo, "add", "-A")
    assert run().returncode == 0
    network(repo / "dist" / "digits.onnx", hidden=210)
    git(repo, "add", "-A")
    done = run()
    assert done.returncode == 1 and "1 of 2 limits kept." in done.stdout


def test_the_gitlab_job_runs(repo):
    [job] = yaml.safe_load((ROOT / "docs" / "ci" / "gitlab-ci.yml").read_text()).values()
    base = git(repo, "rev-parse", "HEAD")
    environment = {**os.environ, "PATH": f"{HERE}{os.pathsep}{os.environ['PATH']}"}

    def run(**more):
        script = "\n".join(job["script"])
        return subprocess.run(["sh", "-ec", script], cwd=repo, env=environment | more, capture_output=True, text=True)

    assert run().returncode == 0
    assert run(CI_MERGE_REQUEST_DIFF_BASE_SHA=base).returncode == 0
    network(repo / "dist" / "digits.onnx", hidden=210)
    done = run(CI_MERGE_REQUEST_DIFF_BASE_SHA=base)
    assert done.returncode == 1 and "digits: size +1 %" in done.stdout
    assert "<failure" in (repo / "edgel0.xml").read_text()
