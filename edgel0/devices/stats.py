"""What do raw samples say? Percentiles, and whether they drifted while they were taken."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
