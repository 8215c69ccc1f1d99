import numpy as np
import pytest

from edgel0.devices.stats import bootstrap, drift, median_interval, percentile


@pytest.mark.parametrize("size", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("share", [0, 10, 50, 90, 99, 100])
def test_percentile_is_numpys(size, share):
    samples = np.random.default_rng(size).lognormal(size=size).tolist()
    assert percentile(samples, share) == pytest.approx(np.percentile(samples, share), rel=1e-12)


def test_drift_compares_the_last_third_with_the_first():
    assert drift([10.0] * 30) == 0.0
    assert drift([10.0] * 10 + [99.0] * 10 + [12.0] * 10) == pytest.approx(0.2)
    assert drift([10.0] * 10 + [99.0] * 11 + [8.0] * 10) == pytest.approx(-0.2)


def test_too_few_samples_do_not_drift():
    assert drift([1.0, 5.0]) == 0.0


def test_bootstrap_is_deterministic_and_as_wide_as_theory_says():
    samples = np.random.default_rng(0).normal(10, 1, 400).tolist()
    low, high = bootstrap(samples)
    assert bootstrap(samples) == (low, high) != bootstrap(samples, seed=1)
    assert low < np.median(samples) < high
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 / 20, rel=0.3)  # of the median of 400 normal samples


def test_the_interval_of_a_median_covers_what_drifts():
    rng = np.random.default_rng(0)
    steady = rng.normal(10, 0.1, 5000).tolist()
    drifting = (rng.normal(10, 0.1, 5000) + np.linspace(0, 2, 5000)).tolist()
    (low, high), (first, last) = median_interval(steady), median_interval(drifting)
    assert low < 10.01 and high > 9.99 and high - low < 0.03
    assert last - first > 10 * (high - low)  # single samples, drawn as if they were independent, would hide it


@pytest.mark.parametrize("samples", [[3.0], [3.0, 3.0], [1.0, 2.0, 9.0]])
def test_the_interval_of_few_samples_holds_their_median(samples):
    low, high = median_interval(samples)
    assert low <= np.median(samples) <= high


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = [low <= 10 <= high for low, high in (median_interval(rng.normal(10, 1, 300).tolist()) for _ in range(60))]
    assert 0.85 <= np.mean(hits) <= 1
