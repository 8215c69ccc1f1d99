"""In which numbers does a file hold weights and activations? Precisions, under the names that quantizers have for them.

``wi8`` are weights in 8-bit integers, one scale per channel; ``afp32`` are activations in float32, ``ai8`` in 8-bit
integers. *Dynamic* files find the scales of activations while they run, *static* ones bring them along, from real data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgel0.errors import UsageError, nearest

Samples = Sequence[dict[str, np.ndarray]]  # what is calibrated on; per sample: arrays by the name of their input


@dataclass(frozen=True)
class Precision:
    """How far outputs may be from the model's, as a share of their largest value, and what it takes to get there."""

    name: str
    tolerance: float
    calibrated: bool = False
    floor: float = 0.0  # outputs that are all smaller than this are measured by it


def precision_of(name: str) -> Precision:
    """Look a precision up.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UsageError(f"there is no precision {name!r}; it must be one of {known}{nearest(name, PRECISIONS)}.")
    return PRECISIONS[name]


PRECISIONS = {
    row.name: row
    for row in (
        Precision("float32", 1e-5, floor=1.0),
        Precision("float16", 0.01),
        Precision("weight_only_wi8_afp32", 0.1),
        Precision("dynamic_wi8_afp32", 0.15),
        Precision("static_wi8_ai8", 0.25, calibrated=True),
    )
}
SMALLER = tuple(name for name in PRECISIONS if name != "float32")
