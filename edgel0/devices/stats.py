"""What do raw samples say? Percentiles, how sure their median is, and whether they drifted while they were taken."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import median


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` percent lie, interpolated linearly as ``numpy.percentile`` does."""
    ranked = sorted(samples)
    position = (len(ranked) - 1) * share / 100
    low = math.floor(position)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (position - low)


def drift(samples: Sequence[float]) -> float:
    """Return how much slower the median of the last third is than that of the first: 0.1 means 10 % slower."""
    third = len(samples) // 3
    if not third:
        return 0.0
    return percentile(samples[-third:], 50) / percentile(samples[:third], 50) - 1


def bootstrap(values: Sequence[float], share: float = 0.95, repeats: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return the interval that holds ``share`` of the medians of ``repeats`` samples drawn from ``values``.

    Draws with replacement, as many as there are (Efron 1979, percentile method); the same seed gives the same interval.
    """
    rng, size = random.Random(seed), len(values)
    medians = [median(rng.choices(values, k=size)) for _ in range(repeats)]
    tail = (1 - share) / 2 * 100
    return percentile(medians, tail), percentile(medians, 100 - tail)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of the median of samples that were taken one after the other.

    Neighbours are alike, so stretches are drawn, not samples: the medians of at most ``STRETCHES`` equal parts. The
    interval holds the median itself.
    """
    size, parts = len(samples), min(STRETCHES, len(samples))
    middles = [median(samples[size * i // parts : size * (i + 1) // parts]) for i in range(parts)]
    low, high = bootstrap(middles)
    middle = percentile(samples, 50)
    return min(low, middle), max(high, middle)


STRETCHES = 50
