"""A repository's life under a budget: it passes, grows, is agreed to, loses its file, and its configuration breaks."""

import json
import os

import pytest
from projects import edgel0, paragraph

from .artefacts import sidecar
from .repositories import CONFIG, checks, commit, counts, git, network, repository


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A repository with a baseline; the working folder is in it."""
    folder = repository(tmp_path / "repo")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    code, out, error = edgel0("baseline", "update")
    assert (code, error) == (0, "") and "added    dist/digits.onnx" in out
    commit(folder, "the baseline")
    return folder


def grow(folder, hidden):
    network(folder / "dist" / "digits.onnx", hidden=hidden)
    commit(folder, f"{hidden} units")


def test_as_it_was_it_passes(repo):
    code, out, error = edgel0("check")
    assert (code, error) == (0, "")
    assert "2 of 2 limits kept." in out and "0.0 %" in out


def test_the_baseline_holds_what_the_file_tells(repo):
    held = json.loads((repo / "edgel0-baseline.json").read_text())["artifacts"]["dist/digits.onnx"]
    figures = held["figures"]
    assert {key: figures[key] for key in ("params", "weight_bytes")} == {
        k: counts()[k] for k in ("params", "weight_bytes")
    }
    assert figures["size"] == (repo / "dist" / "digits.onnx").stat().st_size
    assert (figures["operators"], figures["transposes"]) == (6, 0)
    assert held["layers"]["fc1"] == {"macs": 64 * 200, "params": 65 * 200, "weight_bytes": 4 * 65 * 200}
    assert edgel0("baseline", "update") == (0, "nothing has changed\nedgel0-baseline.json is as it was.\n", "")
    assert git(repo, "status", "--short") == ""


def test_half_a_percent_more_passes_and_drift_is_shown(repo):
    grow(repo, 201)
    code, out, error = edgel0("check", "--format", "json")
    assert (code, error) == (0, "")
    row = checks(out)["size", "increase"]
    assert 0.004 < row["drift"] < 0.006 and row["headroom"] > 0 and row["against"] == "edgel0-baseline.json"
    code, out, _ = edgel0("check")
    assert code == 0 and "+0.5 %" in out


def test_five_percent_more_fails_and_the_layer_is_named(repo):
    grow(repo, 210)
    code, out, error = edgel0("check")
    assert (code, error) == (1, "")
    words = " ".join(out.split())
    assert "digits: size +1 %: " in words
    assert "Grown: fc1 54,600 B (+2,600 B); fc2 8,440 B (+400 B)." in words
    assert (
        "Shrink the model, or agree to it: run edgel0 baseline update and commit edgel0-baseline.json. See docs"
        in words
    )
    assert "1 of 2 limits kept." in words
    assert max(map(len, out.splitlines())) <= 80


def test_the_layer_that_grew_is_named_though_another_is_larger(repo):
    network(repo / "dist" / "digits.onnx", hidden=200)
    model = (repo / "edgel0.toml").read_text().replace('"1 %"', '{ params = "1 %" }')
    (repo / "edgel0.toml").write_text(model)
    network(repo / "dist" / "digits.onnx", hidden=190, channels=5)
    code, out, _ = edgel0("check", "--format", "json")
    row = checks(out)["params", "increase"]
    assert code == 1 and row["value"] == counts(190, 5)["params"]
    assert [part["layer"] for part in row["largest"]] == ["fc1", "conv1"]
    assert row["largest"][1] == {"layer": "conv1", "value": 50, "growth": 10}


def test_a_baseline_raised_in_the_same_commit_passes(repo):
    network(repo / "dist" / "digits.onnx", hidden=210)
    code, out, error = edgel0("baseline", "update")
    assert (code, error) == (0, "")
    assert "raised   dist/digits.onnx: params 15,050 -> 15,800 (+5.0 %)" in out
    commit(repo, "210 units, agreed")
    assert edgel0("check")[0] == 0
    network(repo / "dist" / "digits.onnx", hidden=200)
    assert "lowered  dist/digits.onnx: params 15,800 -> 15,050 (-4.7 %)" in edgel0("baseline", "update")[1]


def test_a_missing_file_fails(repo):
    (repo / "dist" / "digits.onnx").unlink()
    code, out, error = edgel0("check")
    assert (code, error) == (1, "")
    assert "digits: size is unknown: file is missing. Restore the figure" in " ".join(out.split())
    before = (repo / "edgel0-baseline.json").read_bytes()
    code, _, error = edgel0("baseline", "update")
    paragraph(error, "is left as it was: size of 'dist/digits.onnx' is unknown: file is missing")
    assert code == 2 and (repo / "edgel0-baseline.json").read_bytes() == before


def test_a_missing_baseline_or_entry_or_figure_fails(repo):
    path = repo / "edgel0-baseline.json"
    document = json.loads(path.read_text())
    del document["artifacts"]["dist/digits.onnx"]["figures"]["size"]
    path.write_text(json.dumps(document))
    for told in (
        "edgel0-baseline.json holds no size of this file",
        "has no entry for this file",
        "there is no edgel0-b",
    ):
        code, out, error = edgel0("check")
        assert (code, error) == (1, "") and told in " ".join(out.split())
        if document["artifacts"]:
            document["artifacts"].clear()
            path.write_text(json.dumps(document))
        else:
            path.unlink(missing_ok=True)


def test_a_broken_configuration_is_told_with_file_line_and_nearest_key(repo):
    (repo / "edgel0.toml").write_text(CONFIG.replace("max_size", "max_siez"))
    code, out, error = edgel0("check")
    assert (code, out) == (2, "")
    paragraph(error, "edgel0.toml:4: unknown key 'max_siez'", "did you mean 'max_size'?")


# A glob, and files that come and go.


def test_a_glob_is_checked_file_by_file_and_a_recorded_file_that_is_gone_fails(repo):
    (repo / "edgel0.toml").write_text(CONFIG.replace("dist/digits.onnx", "dist/**/*.onnx"))
    network(repo / "dist" / "b" / "small.onnx", hidden=20)
    assert "added    dist/b/small.onnx" in edgel0("baseline", "update")[1]
    code, out, _ = edgel0("check", "--format", "json")
    assert code == 0
    assert [row["path"] for row in json.loads(out)["checks"]] == [*["dist/b/small.onnx"] * 2, *["dist/digits.onnx"] * 2]
    (repo / "dist" / "b" / "small.onnx").unlink()
    code, out, _ = edgel0("check", "--format", "json")
    assert code == 1 and [row["status"] for row in json.loads(out)["checks"]] == ["ok", "ok", "fail", "fail"]
    assert "dropped  dist/b/small.onnx" in edgel0("baseline", "update")[1]
    assert edgel0("check")[0] == 0


def test_a_glob_that_fits_nothing_fails(repo):
    (repo / "edgel0.toml").write_text(CONFIG.replace("dist/digits.onnx", "dits/*.onnx"))
    code, out, error = edgel0("check")
    assert (code, error) == (1, "") and "no file fits the pattern 'dits/*.onnx'" in " ".join(out.split())


def test_a_list_leaves_out_what_it_says(repo):
    network(repo / "dist" / "draft.onnx")
    (repo / "edgel0.toml").write_text(CONFIG.replace('"dist/digits.onnx"', '["!dist/draft*", "dist/*.onnx"]'))
    _, out, _ = edgel0("check", "--format", "json")
    assert {row["path"] for row in json.loads(out)["checks"]} == {"dist/digits.onnx"}


@pytest.mark.parametrize(("level", "code", "status"), [("warn", 0, "warn"), ("off", 0, "off"), ("error", 1, "fail")])
def test_levels(repo, level, code, status):
    (repo / "edgel0.toml").write_text(CONFIG + f'level = "{level}"\n')
    network(repo / "dist" / "digits.onnx", hidden=400)
    found, out, error = edgel0("check", "--format", "json")
    assert (found, error) == (code, "")
    assert {row["status"] for row in json.loads(out)["checks"]} == {status}


def test_figures_of_another_runtime_are_not_comparable(repo):
    config = CONFIG.replace('"1 %"', '{ instructions = "0" }') + 'instructions = { core = "cortex-a72" }\n'
    (repo / "edgel0.toml").write_text(config)
    path = repo / "dist" / "digits.onnx"
    sidecar(path, instructions={"cortex-a72": {"runtime": "onnxruntime 1.32.0", "count": 1000}})
    assert "instructions on cortex-a72, onnxruntime 1.32.0 1,000" in edgel0("baseline", "update")[1]
    assert edgel0("check")[0] == 0
    sidecar(path, instructions={"cortex-a72": {"runtime": "onnxruntime 1.32.0", "count": 1001}})
    code, out, _ = edgel0("check")
    assert code == 1 and "instructions (cortex-a72) +0: 1,001 exceeds the baseline's 1,000 +0" in " ".join(out.split())
    sidecar(path, instructions={"cortex-a72": {"runtime": "onnxruntime 1.33.0", "count": 1000}})
    code, out, _ = edgel0("check")
    assert (
        code == 1
        and "not comparable: edgel0-baseline.json holds 'instructions on cortex-a72, onnxruntime 1.32.0'"
        in " ".join(out.split())
    )


def test_a_baseline_needs_the_figures_of_relative_limits_alone(repo):
    (repo / "edgel0.toml").write_text(CONFIG + "max_partitions = 1\n")
    code, _, error = edgel0("baseline", "update")
    paragraph(error, "partitions of 'dist/digits.onnx' is unknown: digits.onnx.json is missing")
    assert code == 2
    (repo / "edgel0.toml").write_text(CONFIG.replace('"1 %"', '{ size = "1 %" }') + "max_partitions = 1\n")
    assert edgel0("baseline", "update")[0] == 0
    assert edgel0("check")[0] == 1


# A revision of git as base.


def test_a_revision_is_compared_with_instead_of_the_baseline(repo):
    first = git(repo, "rev-parse", "HEAD")
    git(repo, "switch", "-qc", "larger")
    grow(repo, 210)
    assert "raised" in edgel0("baseline", "update")[1]
    commit(repo, "agreed")
    assert edgel0("check")[0] == 0
    for ref in ("main", first, "HEAD~2", "main~0"):
        code, out, error = edgel0("check", "--base", ref, "--format", "json")
        row = checks(out)["size", "increase"]
        assert (code, error, row["status"], row["largest"][0]["growth"]) == (1, "", "fail", 2600)
        assert row["against"] == f"revision {ref} ({first[:9]})"
    assert edgel0("check", "--base", "HEAD")[0] == 0
    assert git(repo, "status", "--short") == ""


def test_a_file_that_git_does_not_track_cannot_be_compared(repo):
    (repo / ".gitignore").write_text("built/\n")
    network(repo / "built" / "digits.onnx")
    (repo / "edgel0.toml").write_text(CONFIG.replace("dist", "built"))
    code, out, error = edgel0("check", "--base", "main")
    assert (code, error) == (1, "") and "cannot be compared: git does not track this file" in " ".join(out.split())


def test_a_file_that_the_revision_has_not_is_new_and_held_by_absolute_limits(repo):
    network(repo / "dist" / "other.onnx", hidden=20)
    git(repo, "add", "dist/other.onnx")
    (repo / "edgel0.toml").write_text(CONFIG.replace("digits.onnx", "*.onnx"))
    code, out, error = edgel0("check", "--base", "main")
    assert (code, error) == (0, "")
    assert "size +1 %: new, for revision main (" in " ".join(out.split())
    (repo / "edgel0.toml").write_text(CONFIG.replace("digits.onnx", "*.onnx").replace("100 kB", "5 kB"))
    assert edgel0("check", "--base", "main")[0] == 1


def test_external_data_of_a_revision_are_weighed(tmp_path, monkeypatch):
    folder = repository(tmp_path / "repo", external=True)
    monkeypatch.chdir(folder)
    network(folder / "dist" / "digits.onnx", hidden=210, external=True)
    code, out, _ = edgel0("check", "--base", "HEAD", "--format", "json")
    row = checks(out)["size", "increase"]
    assert code == 1 and row["baseline"] > counts()["weight_bytes"] and 0.04 < row["drift"] < 0.06


def test_a_configuration_in_a_sub_folder(tmp_path, monkeypatch):
    folder = repository(tmp_path / "repo" / "models" / "a", CONFIG)
    git(folder, "mv", "edgel0.toml", "budgets.toml")
    commit(folder)
    monkeypatch.chdir(tmp_path)
    code, out, _ = edgel0("check", folder / "budgets.toml", "--base", "HEAD", "--format", "json")
    assert code == 0 and checks(out)["size", "increase"]["drift"] == 0


def lfs(content, store=None):
    """Replace a file by a Git LFS pointer to its content, which may be put where git-lfs stores it."""
    import hashlib

    data = content.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    content.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n")
    if store:
        place = store / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
        place.parent.mkdir(parents=True)
        place.write_bytes(data)


def test_a_pointer_of_git_lfs_is_told_and_never_weighed(repo):
    path = repo / "dist" / "digits.onnx"
    lfs(path)
    commit(repo, "lfs")
    code, out, error = edgel0("check")
    assert (code, error) == (1, "") and "it is a Git LFS pointer, not the file; run git lfs pull" in " ".join(
        out.split()
    )
    network(path)
    code, out, error = edgel0("check", "--base", "HEAD")
    assert (code, error) == (1, "")
    assert "it is a Git LFS pointer, not the file; run git lfs pull" in " ".join(out.split())


def test_a_pointer_whose_content_the_repository_has_is_followed(repo):
    path = repo / "dist" / "digits.onnx"
    lfs(path, store=repo / ".git")
    commit(repo, "lfs")
    network(path, hidden=210)
    code, out, _ = edgel0("check", "--base", "HEAD", "--format", "json")
    assert code == 1 and 0.04 < checks(out)["size", "increase"]["drift"] < 0.06


REFS = [
    "-h", "--help", "--output=pwned", "-c core.pager=touch pwned", "--upload-pack=touch pwned", "", "nothing", "a b",
    "main:dist", "main^{tree}", ":/nothing", "main..HEAD", "$(touch pwned)", "main\n--help", "\x1b[31m", "HEAD@{99}",
    "../main", "main;touch pwned", "ext::sh -c touch% pwned", "a" * 5000, "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("ref", REFS)
def test_a_hostile_name_of_a_revision_is_refused(repo, ref):
    code, out, error = edgel0("check", f"--base={ref}")
    assert (code, out) == (2, "")
    paragraph(error, "--base")
    assert not list(repo.rglob("*pwned*")) and git(repo, "status", "--short") == ""


def test_a_revision_outside_of_a_repository_or_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    network(tmp_path / "plain" / "dist" / "digits.onnx")
    (tmp_path / "plain" / "edgel0.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "plain")
    code, _, error = edgel0("check", "--base", "main")
    paragraph(
        error, "--base 'main' names no commit of a repository that '.' is in (git rev-parse failed", "not a git rep"
    )
    assert code == 2
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, error = edgel0("check", "--base", "main")
    paragraph(error, "git cannot be started", "install git")
    assert code == 3


def test_what_a_repository_configures_is_not_run(repo):
    trap = repo / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {repo}/sprung\ncat\n")
    trap.chmod(0o755)
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "filter.lfs.smudge",
        "filter.lfs.process",
        "diff.external",
        "core.hooksPath",
    ):
        git(repo, "config", key, trap)
    (repo / ".gitattributes").write_text("*.onnx filter=lfs diff=lfs export-subst\n")
    git(
        repo,
        "-c",
        "filter.lfs.process=",
        "-c",
        "filter.lfs.smudge=",
        "-c",
        "core.fsmonitor=",
        "-c",
        "core.hooksPath=",
        "commit",
        "-qam",
        "x",
        "--allow-empty",
    )
    (repo / "sprung").unlink(missing_ok=True)
    assert edgel0("check", "--base", "HEAD")[0] == 0
    assert not (repo / "sprung").exists()


def test_links_of_a_revision_are_no_files(repo):
    path = repo / "dist" / "digits.onnx"
    path.unlink()
    path.symlink_to("/etc/passwd" if os.name == "posix" else "x")
    commit(repo, "a link")
    path.unlink()
    network(path)
    code, out, _ = edgel0("check", "--base", "HEAD", "--format", "json")
    row = checks(out)["size", "increase"]
    assert code == 1 and row["value"] and row["baseline"] is None and "file is missing" in row["reason"]
