"""The gates' noise: uniform, independent of unit, draw and seed, and a function of them alone."""

import pytest
import torch

from edgel0.noise import uniform, words

UNITS, DRAWS = 200, 4000


def drawn(vary):
    """Noise of shape (DRAWS, UNITS), scaled to mean 0 and variance 1."""
    numbers = torch.tensor([0, 7])
    rows = []
    for at in range(DRAWS):
        seed, draw = (numbers[1], numbers[0] + at) if vary == "draw" else (numbers[0] + at, numbers[1])
        rows.append(uniform(words(UNITS), seed, draw))
    return (torch.stack(rows).double() - 0.5) * 12**0.5


@pytest.fixture(scope="module", params=["draw", "seed"])
def noise(request):
    return drawn(request.param)


def test_it_is_uniform(noise):
    """Chi-squared over 1,000 bins: 999 with a standard deviation of 45."""
    u = (noise / 12**0.5 + 0.5).float()
    assert 0 < float(u.min()) < 1e-5
    assert 1 - 1e-5 < float(u.max()) < 1
    counts = torch.histc(u, 1000, 0, 1)
    expected = u.numel() / 1000
    assert float(((counts - expected) ** 2 / expected).sum()) == pytest.approx(999, abs=4 * 45)


def test_units_and_draws_are_uncorrelated(noise):
    """The largest of n correlations of N normal numbers stays below sqrt(2 ln n / N), or a little above it."""
    for table in (noise, noise.T):
        table = (table - table.mean(0)) / table.std(0)
        correlation = table.T @ table / len(table)
        correlation.fill_diagonal_(0)
        assert float(correlation.abs().max()) < 6.5 / len(table) ** 0.5
    for lag in (1, 2, 64):
        for a, b in ((noise[lag:], noise[:-lag]), (noise[:, lag:], noise[:, :-lag])):
            assert abs(float((a * b).mean())) < 4.5 / a.numel() ** 0.5


def test_it_depends_on_its_arguments_alone():
    seed, draw = torch.tensor(3), torch.tensor(11)
    first = uniform(words(50), seed, draw)
    torch.manual_seed(99)
    assert torch.equal(uniform(words(50), seed, draw), first)
    assert torch.equal(uniform(words(80), seed, draw)[:50], first)  # a unit's noise, whatever else there is
    assert not torch.equal(uniform(words(50), draw, seed), first)
    assert len(set(words(100_000).tolist())) == 100_000
