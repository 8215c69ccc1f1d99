# ruff: noqa: RUF001 - the sentence is typeset
"""The sentence that a report opens with says what was measured, in both directions, and nothing else."""

import math

import pytest

from edgel0.report.reading import read_run
from edgel0.report.sentence import chance, conditions, doubtful, sentence
from report.runs import STORED, changed, folder, result


def told(tmp_path, *changes, **figures):
    found = result(**figures)
    for path, value in changes:
        found = changed(found, path, value)
    return sentence(read_run(folder(tmp_path, found)))


def test_the_stored_run():
    run = read_run(STORED)
    assert sentence(run).startswith("mnist-lenet5: 12.5 × fewer MACs, 8.7 × smaller, ")
    assert sentence(run).endswith(" in LiteRT on Intel(R) Xeon(R) Processor, 0.1 points more accurate.")
    assert "98.10% dense and 98.20% slim of 1,000 test samples, 1 apart: no more than chance explains." in " ".join(
        conditions(run)
    )


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, "tiny: 10.0 × fewer MACs, 10.0 × smaller, 4.0 × faster on Some CPU, 1 point less accurate."),
        ({"accuracy": 0.98}, "4.0 × faster on Some CPU, just as accurate."),
        ({"accuracy": 0.9805}, "0.05 points more accurate."),
        ({"accuracy": 0.98000001}, "less than 0.01 points more accurate."),
        ({"p50": 2.05}, "10.0 × smaller, as fast on Some CPU, 1 point"),
        ({"p50": 3.0}, "10.0 × smaller, 1.5 × slower on Some CPU, 1 point"),
        ({"macs": 3_000_000}, "tiny: 3.0 × more MACs, 3.0 × larger, "),
        ({"macs": 1_000_000}, "tiny: as many MACs, as large, "),
        ({"macs": 950_000}, "tiny: 5.0% fewer MACs, 5.0% smaller, "),
        ({"macs": 1_050_000}, "tiny: 5.0% more MACs, 5.0% larger, "),
        ({"macs": 1_000}, "tiny: 1,000 × fewer MACs, "),
    ],
)
def test_it_says_what_was_measured(tmp_path, figures, expected):
    assert expected in told(tmp_path, **figures)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("slim.latency_ms", None)], "tiny: 10.0 × fewer MACs, 10.0 × smaller, 1 point less accurate."),
        ([("slim.accuracy", None)], "tiny: 10.0 × fewer MACs, 10.0 × smaller, 4.0 × faster on Some CPU."),
        ([("slim.files", None)], "tiny: 10.0 × fewer MACs, 10.0 × less weight, 4.0 × faster"),
        ([("slim.macs", None)], "tiny: 10.0 × smaller, 4.0 × faster"),
        ([("slim", {}), ("dense", {})], "tiny: nothing of it was measured."),
        ([("slim.latency_ms.onnxruntime.p50", 0)], "10.0 × smaller, 1 point less accurate."),
        ([("profile.board", "qemu: cortex-a76")], "10.0 × smaller, 1 point less accurate."),
        ([("profile", None)], "4.0 × faster, 1 point"),
    ],
)
def test_it_is_silent_about_what_was_not(tmp_path, changes, expected):
    assert expected in told(tmp_path, *changes)


def test_two_runtimes_that_disagree_are_both_told(tmp_path):
    found = result()
    for which, p50 in (("dense", 1.0), ("slim", 1.5)):
        found[which]["latency_ms"]["litert"] = found[which]["latency_ms"]["onnxruntime"] | {"p50": p50}
    text = sentence(read_run(folder(tmp_path, found)))
    assert "4.0 × faster in ONNX Runtime, 1.5 × slower in LiteRT on Some CPU, " in text


def test_what_is_missing_is_named(tmp_path):
    found = changed(changed(result(), "slim.latency_ms", None), "slim.accuracy", None)
    assert conditions(read_run(folder(tmp_path, found)))[-1] == "Not measured: latency and accuracy."
    found = changed(result(), "profile.board", "qemu: cortex-a76")
    assert "emulator (qemu: cortex-a76) and say nothing" in " ".join(conditions(read_run(folder(tmp_path, found))))


def test_chance_is_wilsons_interval():
    assert chance(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert chance(0.98, 1000) == pytest.approx((0.9693, 0.9870), abs=1e-4)
    assert chance(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert chance(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert chance(0.9, None) == (0.9, 0.9)


def test_a_difference_is_doubtful_where_newcombes_interval_holds_zero(tmp_path):
    # Newcombe (1998), method 10, for 56 of 70 and 48 of 80: from 0.0524 to 0.3339.
    low = 0.2 - math.hypot(0.8 - chance(0.8, 70)[0], chance(0.6, 80)[1] - 0.6)
    assert low == pytest.approx(0.0524, abs=1e-4)
    for n, (one, other, size, expected) in enumerate(
        [(0.8, 0.6, 75, False), (0.98, 0.97, 1000, True), (1.0, 0.95, 20, True), (1.0, 0.5, 20, False)]
    ):
        found = changed(changed(result(accuracy=other), "dense.accuracy", one), "data.test", size)
        assert doubtful(read_run(folder(tmp_path / str(n), found))) is expected
        swapped = changed(changed(found, "dense.accuracy", other), "slim.accuracy", one)
        assert doubtful(read_run(folder(tmp_path / f"{n}s", swapped))) is expected


def test_more_than_chance_is_not_called_chance(tmp_path):
    assert "apart." in " ".join(conditions(read_run(folder(tmp_path, result(accuracy=0.9)))))
    assert "no more than chance" in " ".join(conditions(read_run(folder(tmp_path, result(accuracy=0.975)))))
