"""Several runs: which are on the front, which are dominated and by whom, and which cannot be compared at all."""

import itertools
import random
import re

import pytest
from projects import edgel0

from edgel0.report.pareto import METRICS, compare, labels
from edgel0.report.reading import read_run
from edgel0.report.writing import render
from report.runs import changed, folder, result


def runs(tmp_path, *figures, **changes):
    found = []
    for n, (name, accuracy, macs) in enumerate(figures):
        one = result(name, accuracy, macs)
        for path, value in changes.get(name, {}).items():
            one = changed(one, path, value)
        found.append(folder(tmp_path / f"{n}" / name, one))
    return found


def dominated(folders, metric="macs"):
    return {entry.label: entry.dominated_by for entry in compare([read_run(one) for one in folders], metric)}


FOUR = [("small", 0.95, 50_000), ("middle", 0.97, 100_000), ("worse", 0.96, 120_000), ("large", 0.98, 400_000)]


def test_the_front(tmp_path):
    found = dominated(runs(tmp_path, *FOUR))
    assert found == {"small": "", "middle": "", "worse": "middle", "large": ""}
    assert list(found) == ["small", "middle", "worse", "large"]


def test_equal_runs_do_not_dominate_each_other(tmp_path):
    assert dominated(runs(tmp_path, ("a", 0.9, 10), ("b", 0.9, 10))) == {"a": "", "b": ""}
    assert dominated(runs(tmp_path, ("a", 0.9, 10), ("b", 0.9, 11))) == {"a": "", "b": "a"}
    assert dominated(runs(tmp_path, ("a", 0.9, 10), ("b", 0.91, 10))) == {"a": "b", "b": ""}


def test_the_front_is_what_brute_force_says(tmp_path):
    rng = random.Random(0)
    figures = [(f"r{n}", rng.randint(1, 9) / 10, rng.randint(1, 9) * 1000) for n in range(30)]
    found = dominated(runs(tmp_path, *figures))
    for (name, accuracy, cost), (_, other, less) in itertools.product(figures, figures):
        if other >= accuracy and less <= cost and (other, less) != (accuracy, cost):
            assert found[name]
    best = {(accuracy, cost) for name, accuracy, cost in figures if not found[name]}
    for name, winner in found.items():
        if winner:
            [(_, accuracy, cost)] = [one for one in figures if one[0] == winner]
            assert (accuracy, cost) in best, f"{name} is dominated by one that is dominated itself"


def test_what_was_tested_on_other_data_is_not_compared(tmp_path):
    folders = runs(tmp_path, *FOUR, worse={"data.digest": "0000"})
    assert dominated(folders)["worse"] == ""
    page = render(folders)["--output"]
    assert "tested on different data" in page and "No run lies above the line" not in page


def test_latencies_of_different_boards_are_not_compared(tmp_path):
    slow = {"slim.latency_ms.onnxruntime.p50": 0.9}
    assert dominated(runs(tmp_path, *FOUR[1:3], worse=slow), "latency") == {"middle": "", "worse": "middle"}
    for path, value in (
        ("profile.board", "local: Another CPU"),
        ("profile.threads", 2),
        ("slim.latency_ms.onnxruntime.runtime", "onnxruntime 1.20.0"),
    ):
        folders = runs(tmp_path, *FOUR[1:3], worse=slow | {path: value})
        assert dominated(folders, "latency") == {"middle": "", "worse": ""}
        assert dominated(folders)["worse"] == "middle"  # MACs do not depend on a board
    folders = runs(tmp_path, *FOUR[1:3], worse={"profile.board": "qemu: cortex-a76"})
    assert not next(e for e in compare([read_run(f) for f in folders], "latency") if e.label == "worse").known


def test_what_was_not_measured_is_named_and_neither_dominates_nor_is_dominated(tmp_path):
    folders = runs(tmp_path, *FOUR, middle={"slim.accuracy": None})
    assert dominated(folders) == {"small": "", "worse": "", "large": "", "middle": ""}
    text = render(folders)["--markdown"]
    assert "Not measured, and so not compared: middle." in text
    none = runs(tmp_path / "none", *FOUR[:2], **{name: {"slim.macs": None} for name in ("small", "middle")})
    page = render(none)["--output"]
    assert "2 runs: accuracy and MACs are not known of any" in page and "<svg" not in page


@pytest.mark.parametrize("metric", METRICS)
def test_every_cost(tmp_path, metric):
    texts = render(runs(tmp_path, *FOUR), metric)
    assert "Pareto front" in texts["--output"] and "on the front" in texts["--markdown"]


def test_names_are_told_apart(tmp_path):
    folders = [folder(tmp_path / place, result("same")) for place in ("a", "b", "c/b", "same")]
    found = labels([read_run(one) for one in [*folders, folders[0]]])
    assert found == ["same (a)", "same (b)", "same (b) #2", "same", "same (a) #2"]


def test_the_command_compares(tmp_path):
    folders = runs(tmp_path, *FOUR)
    code, out, error = edgel0("report", *folders, "-o", tmp_path / "c.html", "--markdown", tmp_path / "c.md")
    assert (code, error) == (0, "") and out.count("report in") == 2
    text = (tmp_path / "c.md").read_text()
    assert text.startswith(
        "## 4 runs, 3 on the Pareto front of accuracy against MACs: small, middle and large. worse is"
    )
    assert "<" not in text
    page = (tmp_path / "c.html").read_text()
    assert page.count("dominated by middle") >= 2 and "Provenance that all share" in page
    again = render(folders)
    assert again["--output"] == page and again["--markdown"] == text


def test_runs_at_one_point_are_both_there(tmp_path):
    page = render(runs(tmp_path, ("left", 0.9, 1000), ("right", 0.9, 1000), ("other", 0.95, 5000)))["--output"]
    drawn = page.split("<figure>")[1].split("</svg>")[0]
    assert drawn.count("<circle") == 3 and all(f">{name}</text>" in drawn for name in ("left", "right", "other"))


def test_chance_and_unknown_data_are_told(tmp_path):
    folders = runs(tmp_path, *FOUR, worse={"data.digest": None})
    text = render(folders)["--markdown"]
    assert "On which data worse was tested is not known." in text
    assert re.search(r"Chance alone moves these accuracies up or down by as much as 1\.3\d? points\.", text)
