import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgel0.devices import local
from edgel0.devices.comparing import STARTS, compare, interval, judged, pair_ratios
from edgel0.types import Measurement, Round

FAKE = partial(local.start, script=Path(__file__).with_name("fake_runner.py"))


def row(medians, kept=None):
    rounds = tuple(
        Round(turn, 5, ms, ms, ms, kept=kept is None or turn in kept) for turn, ms in enumerate(medians) if ms
    )
    return Measurement("a.onnx", "", "b", "r 1", 1, 1.0, 1.0, 1.0, tuple(medians), rounds=rounds, notes=("seen 3",))


def starts(ratio, seed=0, noise=0.05, between=0.0):
    """Three starts of eight pairs: common noise per turn, and a factor of its own for each start."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(STARTS):
        weather, own = rng.lognormal(0, 0.5, 8), np.exp(rng.normal(0, between))
        a, b = (weather * rng.lognormal(0, noise, 8) for _ in range(2))
        made.append([row(a.tolist()), row((ratio * own * b).tolist())])
    return made


@pytest.mark.parametrize(("ratio", "difference"), [(0.5, "faster"), (1.0, "none"), (2.0, "slower")])
def test_intervals_hold_the_truth_as_often_as_they_say(ratio, difference):
    """Of 25 comparisons, in weather that hits both files and with a factor of its own for each start."""
    found = [judged(starts(ratio, seed, between=0.02)) for seed in range(25)]
    assert sum(each.interval[0] <= ratio <= each.interval[1] for each in found) >= 23
    assert sum(each.difference == difference for each in found) >= 24
    assert all(each.ratio == pytest.approx(ratio, rel=0.1) for each in found)
    assert (found[0].pairs, len(found[0].ratios)) == (24, 3)


def test_a_tenth_is_seen_through_noise_and_within_the_threshold_there_is_no_difference():
    assert all(judged(starts(0.9, seed, noise=0.02)).difference == "faster" for seed in range(10))
    assert judged(starts(0.9, noise=0.02), threshold=0.2).difference == "none"
    assert judged(starts(0.98, noise=0.001)).difference == "none"  # certain, and below 3 %


def test_the_interval_turns_round_with_the_order():
    ratios = [[0.5, 0.6, 0.7], [0.4, 0.5, 0.9]]
    low, high = interval(ratios)
    assert interval([[1 / ratio for ratio in each] for each in ratios]) == pytest.approx((1 / high, 1 / low), rel=0.02)
    assert interval(ratios) == (low, high)


def test_only_turns_that_were_quiet_for_both_are_pairs():
    a, b = row([1.0, 2.0, 4.0], kept={0, 2}), row([3.0, 3.0, 2.0], kept={0, 1, 2})
    assert pair_ratios(a, b) == [3.0, 0.5]
    assert pair_ratios(row([1.0, 2.0], kept={0}), row([1.0, 3.0], kept={1})) == [1.0, 1.5]  # the rows bear the marks


@pytest.fixture
def files(tmp_path):
    for name in ("plain.onnx", "busy-all.tflite"):
        (tmp_path / name).touch()
    return [tmp_path / "plain.onnx", tmp_path / "busy-all.tflite"]


def test_the_conversation_alternates_who_is_loaded_first(files):
    heard = []
    found = compare(*files, start=FAKE, min_secs=0.2, progress=lambda what, share: heard.append((what, share)))
    assert [what for what, _ in heard if what.startswith("load")] == [
        f"load {name}" for name in ("plain.onnx", "busy-all.tflite", "busy-all.tflite", "plain.onnx")
    ] + ["load plain.onnx", "load busy-all.tflite"]
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    assert (found.ratio, found.interval, found.difference) == (2.0, (2.0, 2.0), "slower")
    assert (found.b.marks, found.a.marks) == (("throttled",), ())
    assert len({each.turn for each in found.a.rounds}) == len(found.a.rounds) == 48
    assert [note.split()[0] for note in found.b.notes] == ["disturbed"]


def test_real_files_of_two_formats(large_onnx_file, tflite_file):
    found = compare(large_onnx_file, tflite_file, min_secs=0.0)
    assert (found.difference, found.ratio < 0.5) == ("faster", True)  # a 130,000th of the work
    assert found.interval[0] <= found.ratio <= found.interval[1]
    assert found.a.runtime.startswith("onnxruntime") and found.b.runtime.startswith("ai-edge-litert")
    assert min(len(found.a.samples_ms), len(found.b.samples_ms)) >= 21  # a quiet round of each start, at least
    json.dumps(found.ratios, allow_nan=False)
