"""The benchmarks that count and that compare with others' tools: what is kept, taken up again and told."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import agreement, instructions  # noqa: E402 - they are no package that is installed
from benchmarks.agreement import Timing  # noqa: E402
from edgel0.devices.emulator.place import Emulator  # noqa: E402
from edgel0.errors import DeviceError  # noqa: E402
from edgel0.types import Count  # noqa: E402

CORES = ["cortex-a53", "cortex-a76"]


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """Two runs with a file each: 1000 on the first core, 990 on the second, one more where ONNX is counted again."""
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "result.json").write_text(json.dumps({"name": f"recipe-{name}"}))
        (tmp_path / "runs" / name / "notes.txt").touch()
    (tmp_path / "runs/a/slim.onnx").write_text("onnx")
    (tmp_path / "runs/b/slim.tflite").write_text("tflite")
    counted = []

    def count(paths, core, cache, max_secs):
        (path,) = paths
        counted.append((path.name, core, cache))
        if path.read_text() == "too much":
            raise DeviceError("took too long")
        onnx = path.suffix == ".onnx"
        least = 1000 - 10 * CORES.index(core) + (onnx and cache is not None)
        runtime = "onnxruntime 1" if onnx else "ai-edge-litert 2"
        return [Count(str(path), "", core, runtime, least, 7, 0.0, (least,), system="libc 2")]

    def setup(cache):
        return Emulator("qemu", "7", Path("emulator-1"), {}), False

    monkeypatch.setattr(instructions, "count", count)
    monkeypatch.setattr(instructions, "setup", setup)
    return tmp_path, counted


def rows_of(folder, places=2):
    caches = dict(zip(instructions.PLACES[:places], (None, folder / "elsewhere"), strict=False))
    files = instructions.run_files(folder / "runs")
    return list(instructions.counted(files, CORES, caches, folder / "lines.jsonl", 9.0))


def test_what_is_counted_is_kept_and_not_counted_again(counting):
    folder, counted = counting
    first = rows_of(folder)
    assert len(counted) == len(first) == 8
    lines = (folder / "lines.jsonl").read_text().splitlines(True)
    assert str(folder) not in "".join(lines)  # the results of a machine tell nothing of its folders
    (folder / "lines.jsonl").write_text("".join(lines[:5]) + lines[5][:20])  # killed while writing
    del counted[:]
    again = rows_of(folder)
    assert [{**row, "secs": 0} for row in again] == [{**row, "secs": 0} for row in first]
    assert rows_of(folder) == again
    assert len(counted) == 3
    (folder / "runs/a/slim.onnx").write_text("another")
    rows_of(folder)
    assert len(counted) == 3 + 4


def test_tables_tell_which_counts_are_the_same_and_what_was_left_out(counting):
    folder, _ = counting
    (folder / "runs/b/dense.onnx").write_text("too much")
    text = instructions.report(rows_of(folder))
    assert "| recipe | file | cortex-a53 | cortex-a76 |" in text
    assert "| recipe-a | slim.onnx | 1,000 | 990 |" in text and "| recipe-b | slim.tflite | 1,000 | 990 |" in text
    assert "- ai-edge-litert 2: 2 of 2 are the same to the last instruction and access." in text
    assert (
        "- onnxruntime 1: 0 of 2 are the same to the last instruction and access; the others differ by at most" in text
    )
    assert text.count("recipe-b dense.onnx on cortex-a76: took too long") == 1
    assert "nothing is left out" not in text and not any(
        "error" in row for row in instructions.read(folder / "lines.jsonl")
    )


def test_dense_stands_beside_slim():
    sizes = {"Net.dense.int8.onnx": 400, "Net.slim.int8.onnx": 100, "Net.dense.float32.tflite": 300}
    rows = [
        {"of": "Net", "file": file, "core": "cortex-a72", "instructions": size, "accesses": size // 2}
        for file, size in sizes.items()
    ]
    assert instructions.pairs(rows)[2:] == ["| Net | onnx int8 | cortex-a72 | 400 | 100 | 0.250 | 0.250 |"]


def test_a_folder_without_runs_is_told(tmp_path):
    with pytest.raises(SystemExit, match=r"no result\.json"):
        instructions.run_files(tmp_path)


def block(ours, theirs, marks=()):
    return [[Timing(0.9 * ms, ms, marks) for ms in ours], [Timing(0.9 * ms, ms) for ms in theirs]]


def test_an_even_drift_cancels_in_a_block_and_shows_beside_it():
    blocks = [block((1.0, 1.1**3), (1.1, 1.1**2)), block((1.1, 1.1**2), (1.0, 1.1**3), ("busy",))]
    found = agreement.judged(blocks)
    assert found["ratio"] == pytest.approx(1) and found["interval"] == pytest.approx([1, 1])
    assert found["itself"] == pytest.approx([(0.1 + 0.331) / 2, 0.331])
    assert (found["blocks"], found["disturbed"]) == (2, 1)


def test_a_way_that_is_slower_is_not_hidden():
    found = agreement.judged([block((1.06, 1.06), (1.0, 1.0))] * 3)
    assert found["ratio"] == pytest.approx(1.06)
    near = agreement.judged([block((0.96, 0.96), (1.0, 1.0))] * 3)
    call = agreement.judged([block((0.0005, 0.0005), (0.002, 0.002))])
    rows = [{"file": f"{name}.tflite", **row} for name, row in (("far", found), ("near", near), ("nothing", call))]
    text = agreement.table(rows)
    assert "| far.tflite | 0.954 / 1.06 | 0.9 / 1 | 1.060 | 1.060 to 1.060 | no | 0.0% / 0.0% | 0 of 3 |" in text
    assert "1 of 2 files are within 5%." in text and "0.50 and 2.00 µs (nothing.tflite)" in text
    assert math.isclose(rows[0]["ours_ms"][0], 0.9 * 1.06) and dataclasses.is_dataclass(Timing)
