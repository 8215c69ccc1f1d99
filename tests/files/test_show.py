"""What ``edgel0 show`` tells: the table fits a terminal, the page needs no network, the node data their format."""

import json
import re
import subprocess
import sys

import pytest

from edgel0.files.counting import figures
from edgel0.files.reading import read
from tests.files.test_reading import MACS, files, slim  # noqa: F401  fixtures


@pytest.fixture(params=["a.onnx", "a.tflite"])
def file(request, files):  # noqa: F811
    return files / request.param


def show(*arguments):
    code = "import sys; from edgel0.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    command = [sys.executable, "-W", "error", "-c", code, "show", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_fits_80_columns_and_tells_the_totals(file):
    shown = show(file, "--sort", "share")
    assert max(map(len, shown.splitlines())) <= 80
    found = figures(read(file))
    for number in (found.macs, found.params, found.weight_bytes, found.activation_bytes):
        assert f"{number:,}" in shown
    rows = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+)\s+[\d.]+ %", shown)]
    assert rows == sorted(MACS, reverse=True)
    assert re.search(r"^rule +median *$", shown, re.MULTILINE)


def test_json_has_every_layer_and_agrees_with_the_reader(file):
    told = json.loads(show(file, "--json"))
    found = figures(read(file))
    assert told["schema"] == 1
    assert told["bytes"] == file.stat().st_size
    assert told["totals"]["macs"] == found.macs == sum(row["macs"] for row in told["layers"])
    assert sum(row["weight_bytes"] for row in told["layers"]) == found.weight_bytes
    assert sum(row["share"] for row in told["layers"]) == pytest.approx(1)
    assert told["provenance"]["rule"] == "median"


def test_the_page_holds_every_layer_and_nothing_from_elsewhere(file, tmp_path):
    show(file, "--html", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert not re.search(r"https?:|src=|url\(|@import|<script|<link", page)
    assert "prefers-color-scheme:dark" in page
    assert page.count("<tr>") == 1 + len(read(file).operators)
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_node_data_are_keyed_by_output_tensors(file, tmp_path):
    show(file, "--model-explorer", tmp_path / "a.json")
    data, graph = json.loads((tmp_path / "a.json").read_text()), read(file)
    assert sorted(value["value"] for value in data["results"].values() if value["value"]) == sorted(MACS)
    assert set(data["results"]) <= set(graph.tensors)
    assert [step["stop"] for step in data["gradient"]] == [0, 1]
