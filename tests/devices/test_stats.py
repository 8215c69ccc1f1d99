import numpy as np
import pytest

from edgel0.devices.stats import drift, percentile


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
