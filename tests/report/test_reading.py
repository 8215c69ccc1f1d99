# ruff: noqa: RUF001 - the report is typeset
"""A run's folder may be damaged, foreign or half there: one paragraph that names it, never a traceback."""

import copy
import json
import random
import re

import pytest
from projects import edgel0, paragraph

from edgel0.errors import EdgeL0Error
from edgel0.report.reading import read_run
from edgel0.report.writing import render
from report.runs import HOSTILE, STORED, changed, folder, result, samples

GOOD = json.dumps(result())
BROKEN = {
    "empty": ("", "damaged: line 1"),
    "cut off": (GOOD[: len(GOOD) // 2], "it may have been cut off"),
    "binary": ("\0\x01PK\x03\x04", "damaged"),
    "a list": ("[1, 2]", "an object with the figures of a run was expected"),
    "a number": ("3", "an object with the figures"),
    "null": ("null", "an object with the figures"),
    "deep": ("[" * 100_000, "damaged"),
    "nan": (GOOD.replace("0.97", "NaN"), "it holds NaN, which is no number"),
    "infinity": (GOOD.replace("0.97", "-Infinity"), "it holds -Infinity"),
    "overflow": (GOOD.replace("0.97", "1e999"), "slim.accuracy is inf; a number from 0 to 1 was expected"),
    "many digits": (GOOD.replace("100000", "9" * 5000), "damaged"),
    "another schema": (GOOD.replace('"schema": 1', '"schema": 2'), "has the schema 2"),
    "a schema of words": (GOOD.replace('"schema": 1', '"schema": "<b>"'), "has the schema '<b>'"),
    "a true schema": (GOOD.replace('"schema": 1', '"schema": true'), "has the schema True"),
    "no schema": ('{"name": "x"}', "has the schema None"),
    "of something else": ('{"schema": 1, "benchmarks": []}', "holds no 'name', so it is no finished run's result"),
    "no slim": (json.dumps(changed(result(), "slim", None)), "holds no 'slim'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_result(tmp_path, name):
    text, told = BROKEN[name]
    run = folder(tmp_path / "run", text)
    code, out, error = edgel0("report", run, "-o", tmp_path / "report.html")
    paragraph(error, str(run / "result.json"), told)
    assert (code, out) == (2, "") and not (tmp_path / "report.html").exists()


WRONG = {
    "name": 7,
    "dense": [],
    "slim.accuracy": 1.5,
    "slim.macs": "many",
    "slim.params": -1,
    "slim.files": {"slim.onnx": None, "slim.tflite": "x"},
    "slim.latency_ms": [3],
    "slim.latency_ms.onnxruntime": "fast",
    "slim.latency_ms.onnxruntime.p50": True,
    "slim.latency_ms.onnxruntime.notes": [1],
    "slim.latency_ms.onnxruntime.operators": [{"name": "a", "ms": "1"}],
    "slim.layers": {"conv": 1},
    "mask.groups": {"conv1": [30, 20]},
    "mask.digest": {},
    "mask.rule": ["median"],
    "budget.macs": {"limit": [], "slim": 1},
    "history": [3],
    "parity": {"slim.onnx": 1},
    "quantized": ["a"],
    "profile.board": 1,
    "data.test": "1000",
    "versions": {"torch": 2},
}


@pytest.mark.parametrize("path", WRONG)
def test_a_value_that_cannot_be_right_is_named(tmp_path, path):
    run = folder(tmp_path / "run", changed(result(), path, WRONG[path]))
    code, out, error = edgel0("report", run, "-o", tmp_path / "report.html")
    paragraph(error, "is damaged: ", path.split(".")[0], "Restore the file, or run the recipe again")
    assert (code, out) == (2, "")


@pytest.mark.parametrize("raw", ["", "[]", '{"samples": 3}', '{"samples": {"slim.onnx": {"ns": [1, "x"]}}}', "NaN"])
def test_raw_samples_are_checked_as_well(tmp_path, raw):
    run = folder(tmp_path / "run", result(), raw)
    code, _, error = edgel0("report", run, "-o", tmp_path / "report.html")
    paragraph(error, "samples.json", "damaged")
    assert code == 2


def test_folders_that_are_no_finished_run(tmp_path):
    (tmp_path / "runs" / ".killed.partial").mkdir(parents=True)
    folder(tmp_path / "runs" / "good", result())
    for name, told in (
        ("nowhere", "there is no run"),
        ("runs", f"did you mean {tmp_path / 'runs' / 'good'}?"),
        ("runs/killed", "was begun and is not finished"),
        ("runs/.killed.partial", "holds no result.json"),
    ):
        code, out, error = edgel0("report", tmp_path / name, "-o", tmp_path / "report.html")
        paragraph(error, told)
        assert (code, out) == (2, "")


def test_one_damaged_run_of_several_stops_the_report(tmp_path):
    good, bad = folder(tmp_path / "a", result()), folder(tmp_path / "b", GOOD[:99])
    code, _, error = edgel0("report", good, bad, "-o", tmp_path / "report.html")
    paragraph(error, str(bad))
    assert code == 2 and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("which", [None, "quantized", "parity", "budget", "mask", "profile", "data", "seed", "history"])
def test_what_is_missing_is_left_out(tmp_path, which):
    found = result() if which is None else changed(result(), which, None)
    texts = render([folder(tmp_path, found)])
    for text in texts.values():
        assert "tiny" in text and not re.search(r"\b(None|nan|inf)\b", text)


def test_a_result_with_nothing_but_names(tmp_path):
    texts = render([folder(tmp_path, {"schema": 1, "name": "bare", "dense": {}, "slim": {}})])
    assert "nothing of it was measured" in texts["--output"]
    assert "Not measured: MACs, size, latency and accuracy." in texts["--markdown"]


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


VALUES = [None, True, -1, 0, 1, 0.5, 1e308, 2**80, "", HOSTILE, [], {}, [[]], {"": {"": []}}, ["x"], {"a": 1}]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_changed_it_is_reported_or_refused(tmp_path, seed):
    rng, told = random.Random(seed), 0
    for n in range(60):
        found, raw = result(), samples(result())
        for _ in range(rng.randint(1, 3)):
            top = rng.choice([found, found, found, raw])
            *above, key = rng.choice([path for path in places(top) if path])
            inner = top
            for name in above:
                inner = inner[name]
            if rng.random() < 0.25 and isinstance(inner, dict):
                del inner[key]
            elif rng.random() < 0.2 and isinstance(inner, dict):
                inner[rng.choice([HOSTILE, "", "x" * 999])] = copy.deepcopy(inner[key])
            else:
                inner[key] = copy.deepcopy(rng.choice(VALUES))
        run = folder(tmp_path / str(n), found, raw)
        try:
            texts = render([run])
            told += 1
        except EdgeL0Error as error:
            assert error.exit_code == 2 and "\n" not in str(error) and "\x1b" not in str(error)
            continue
        for text in texts.values():
            text.encode()
            assert "<script" not in texts["--output"]
    assert 5 < told < 60  # both happen


def test_every_byte_may_be_the_last(tmp_path):
    text = json.dumps(result())
    for end in range(0, len(text), 37):
        with pytest.raises(EdgeL0Error):
            read_run(folder(tmp_path, text[:end]))
    assert read_run(folder(tmp_path, text)).name == "tiny"


def test_budgets_of_the_recipe_are_checked_again(tmp_path):
    recipe = '[[budget]]\nname = "slim"\npath = "slim.tflite"\nmax_size = "5 B"\nmax_macs = 9\n'
    run = folder(tmp_path / "run", result(), recipe=recipe)
    (run / "slim.tflite").write_bytes(bytes(10))
    page = render([run])["--output"]
    assert "2 of 3 limits are not kept: slim: size and slim: MACs." in page
    assert "2.0 × the limit" in page and "slim.tflite.json is missing" in page
    for broken in ('[[budget]]\npath = "../../x"\nmax_size = 1', "budget = 3", "[[budget", "budget\0", "# no budget"):
        page = render([folder(tmp_path / "run", result(), recipe=broken)])["--output"]
        assert str(tmp_path) not in page


def test_the_stored_run_is_whole():
    run = read_run(STORED)
    assert [timing.file for timing in run.dense.timings.values()] == ["dense.onnx", "dense.tflite"]
    assert all(timing.samples_ms for timing in run.slim.timings.values())
    assert run.groups == {"conv1": (5, 20), "conv2": (8, 50), "fc1": (343, 500)}
    assert sum(part.amount for part in run.slim.layers) == run.slim.costs["macs"]


def test_figures_too_small_to_be_any_are_no_figures(tmp_path):
    found = result(p50=1e-300)
    found["budget"]["macs"]["limit"] = 1e-300
    found["slim"]["accuracy"] = 1e-300
    texts = render([folder(tmp_path, found, samples(found))])
    assert "faster" not in texts["--output"].split("</h1>")[0]
    assert max(map(len, re.findall(r"[\d.,]+", re.sub(r"sha256-[^']*", "", texts["--markdown"])))) < 20


def test_a_name_that_is_no_text_is_told(tmp_path):
    place = tmp_path / "not-\udcff-utf8"
    code, _, error = edgel0("report", place, "-o", tmp_path / "report.html")
    paragraph(error, "there is no run")
    assert code == 2
