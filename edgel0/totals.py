"""How is a cost evaluated on a mask or on probabilities? As a sum of products of live counts, or the peak of such sums.

A *live count* is how many units live on an axis. Whatever is evaluated takes ``alive``, float64 of shape ``(units +
1,)``: 1 or 0 per unit, or P(z != 0); entry 0 is the pinned rest and 1. With a mask it gives that mask's cost, with
probabilities an expectation. Gradients are worked out here, by NumPy: a training step asks for one, and a tape, or
torch's operators on a few hundred numbers, would take longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from edgel0.types import Labels


@dataclass(frozen=True)
class Product:
    """``scale`` times the live counts of some labelled axes."""

    scale: float
    axes: tuple[Labels, ...] = ()

    def times(self, other: Product) -> Product:
        """Multiply two products."""
        return Product(self.scale * other.scale, self.axes + other.axes)


class Total(Protocol):
    """One figure of a network, as a function of which units are alive."""

    def __call__(self, alive: torch.Tensor) -> torch.Tensor:
        """Evaluate for ``alive`` of shape ``(units + 1,)``; a scalar."""
        ...

    def slope(self, alive: np.ndarray) -> tuple[float, np.ndarray]:
        """Return what a call returns and its gradient, ``(units + 1,)``."""
        ...


@dataclass(frozen=True)
class Sum:
    """A sum of products over live counts, ready to be evaluated on many masks or probabilities.

    ``units`` and ``rows`` list (unit, row) pairs: row ``r`` of ``height`` is the live count of one axis. ``factors``,
    ``(width, products)``, holds the rows of each product, filled up with the last row, of the pinned rest alone.
    """

    units: torch.Tensor
    rows: torch.Tensor
    height: int
    scales: torch.Tensor
    factors: torch.Tensor

    def __call__(self, alive: torch.Tensor) -> torch.Tensor:
        """Evaluate for ``alive`` of shape ``(units + 1,)``: units of one product are sampled independently."""
        return self.each(alive).sum()

    def each(self, alive: torch.Tensor) -> torch.Tensor:
        """Evaluate every product, ``(products,)``."""
        counts = alive.new_zeros(self.height).index_add(0, self.rows, alive[self.units])
        value = self.scales
        for column in counts[self.factors].unbind():
            value = value * column
        return value

    def slope(self, alive: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """Return the sum and its gradient; the products may have ``weights``, ``(products,)``."""
        units, rows, factors, value = (t.numpy() for t in (self.units, self.rows, self.factors, self.scales))
        value = value if weights is None else value * weights
        columns = np.bincount(rows, alive[units], self.height)[factors]
        others = []  # of each factor: the product of all that stand before it, then of all others
        for column in columns:
            others.append(value)
            value = value * column
        behind = None
        for at in reversed(range(len(columns))):
            others[at] = others[at] if behind is None else others[at] * behind
            behind = columns[at] if behind is None else behind * columns[at]
        change = np.bincount(factors.ravel(), np.concatenate([*others, value[:0]]), self.height)
        return float(value.sum()), np.bincount(units, change[rows], alive.size)


@dataclass(frozen=True)
class Peak:
    """The largest sum of products that live at once: product ``i`` from point ``begins[i]`` to ``ends[i]``, included.

    ``length`` is the number of points. On probabilities it is the peak of the expected sums, which is at most the
    expected peak. Its gradient is that of the point of the peak, shared between points that are equal.
    """

    terms: Sum
    begins: torch.Tensor
    ends: torch.Tensor
    length: int

    def __call__(self, alive: torch.Tensor) -> torch.Tensor:
        """Evaluate for ``alive`` of shape ``(units + 1,)``."""
        values = self.terms.each(alive)
        change = values.new_zeros(self.length + 1).index_add(0, self.begins, values)
        change = change.index_add(0, self.ends + 1, -values)
        return change.cumsum(0).max()

    def slope(self, alive: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the peak and its gradient."""
        begins, ends = self.begins.numpy(), self.ends.numpy() + 1
        values = self.terms.each(torch.from_numpy(alive)).numpy()
        heights = (np.bincount(begins, values, self.length + 1) - np.bincount(ends, values, self.length + 1)).cumsum()
        highest = heights == heights.max()
        before = np.append(0, highest.cumsum())
        return float(heights.max()), self.terms.slope(alive, (before[ends] - before[begins]) / highest.sum())[1]


def compile_sum(products: Sequence[Product]) -> Sum:
    """Lay products out as index arrays."""
    rows: dict[Labels, int] = {}
    pairs: list[tuple[np.ndarray, int]] = []
    for labels in (labels for p in products for labels in p.axes):
        if labels not in rows:
            rows[labels] = len(rows)
            pairs.append((labels.units, rows[labels]))
    width = max((len(p.axes) for p in products), default=0)
    factors = [[rows[x] for x in p.axes] + [len(rows)] * (width - len(p.axes)) for p in products]
    pairs.append((np.zeros(1, np.int64), len(rows)))
    units = np.concatenate([u for u, _ in pairs])
    where = np.concatenate([np.full(u.size, r) for u, r in pairs])
    return Sum(
        torch.from_numpy(units.astype(np.int64)),
        torch.from_numpy(where.astype(np.int64)),
        len(rows) + 1,
        torch.tensor([p.scale for p in products], dtype=torch.float64),
        torch.tensor(factors, dtype=torch.int64).reshape(len(products), width).t().contiguous(),
    )


def compile_peak(spans: Sequence[tuple[Product, int, int]], length: int) -> Peak:
    """Lay (product, first point, last point) out as index arrays."""
    return Peak(
        compile_sum([product for product, _, _ in spans]),
        torch.tensor([begin for _, begin, _ in spans], dtype=torch.int64),
        torch.tensor([end for _, _, end in spans], dtype=torch.int64),
        length,
    )
