"""What may a network cost, and can it be reached? Absolute limits on the cost of what a mask leaves."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch

from edgel0.cost import Sum, sums
from edgel0.errors import BudgetError
from edgel0.quantities import Share, format_bytes, format_count, parse_limit
from edgel0.reaching import connected, smallest, tidy
from edgel0.types import Coupling

METRICS = {"macs": "count", "params": "count", "weight_bytes": "bytes"}


class Limits:
    """Absolute limits on the cost of a coupling, checked to be reachable.

    Give ``macs``, ``params`` or ``size`` (bytes of weights, as they are stored) as a number, a string such as "120 kB",
    or a share of the dense model ("25 %" or 0.25).

    Raises:
        BudgetError: no limit is given, one cannot be read, or one is below the smallest network that can be reached.
    """

    def __init__(
        self,
        coupling: Coupling,
        *,
        macs: str | float | None = None,
        params: str | float | None = None,
        size: str | float | None = None,
    ) -> None:
        given = {"macs": macs, "params": params, "weight_bytes": size}
        wanted = {metric: value for metric, value in given.items() if value is not None}
        if not wanted:
            raise BudgetError("a budget without a limit was given; name at least one of macs, params and size.")
        limits = {metric: parse_limit(value, METRICS[metric]) for metric, value in wanted.items()}  # type: ignore[arg-type]
        self._compile(coupling, tuple(limits))
        full = torch.ones(coupling.units + 1, dtype=torch.float64)
        self.dense = {m: float(s(full)) for m, s in self.costs.items()}
        self.maximum = {m: self.dense[m] * v if isinstance(v, Share) else float(v) for m, v in limits.items()}
        self._reach()

    def on(self, coupling: Coupling) -> Limits:
        """Return the same limits, shares still of the model they were given for, on what :func:`shrink_` left of it."""
        limits = copy.copy(self)
        limits._compile(coupling, tuple(self.maximum))
        limits._reach()
        return limits

    def _compile(self, coupling: Coupling, metrics: tuple[str, ...]) -> None:
        self.coupling = coupling
        self.costs: dict[str, Sum] = {m: s for m, s in sums(coupling).items() if m in metrics}

    def _reach(self) -> None:
        """Find a mask within all limits: the least."""
        masks = {metric: least(self.coupling, total) for metric, total in self.costs.items()}
        for metric, maximum in self.maximum.items():
            floor = self.cost(masks[metric])[metric]
            if floor > maximum:
                raise BudgetError(
                    f"the limit of {_say(metric, maximum)} cannot be reached: the smallest network that still connects "
                    f"this model's inputs to its outputs has {_say(metric, floor)} (dense: "
                    f"{_say(metric, self.dense[metric])}). Raise the limit to at least {floor:.0f}."
                )
        fitting = [mask for mask in masks.values() if self.fits(mask)]
        if not fitting:
            raise BudgetError(
                f"the limits {self.maximum} can be reached one by one, but not together: the smallest networks cost "
                f"{', '.join(str(self.cost(mask)) for mask in masks.values())}. Raise one of them."
            )
        self.smallest = fitting[0]

    def cost(self, opened: np.ndarray) -> dict[str, float]:
        """Cost per metric of a mask ``(units + 1,)``."""
        alive = torch.from_numpy(opened).double()
        return {metric: float(total(alive)) for metric, total in self.costs.items()}

    def fits(self, opened: np.ndarray) -> bool:
        """Tell whether a mask is within every limit."""
        return all(cost <= self.maximum[metric] for metric, cost in self.cost(opened).items())


def least(coupling: Coupling, total: Sum) -> np.ndarray:
    """Return the mask of least cost that keeps every output connected, as far as closing the costliest first finds it.

    Units that lie in the same places are alike: one of each kind is tried, the one whose loss saves most first.
    """

    def cost(opened: np.ndarray) -> float:
        return float(total(torch.from_numpy(opened).double()))

    live = [labels for outputs in coupling.activations.values() for labels in outputs if labels is not None]
    fixed = [labels for cuts in coupling.tensors.values() for labels in cuts]
    places = {labels.units.tobytes(): labels.units for labels in (*live, *fixed)}
    count = coupling.units + 1
    if not coupling.units:
        return np.ones(1, bool)
    _, kinds = np.unique([np.bincount(u, minlength=count) for u in places.values()], axis=1, return_index=True)
    opened = np.isin(np.arange(count), [0, *kinds])
    without = {int(unit): tidy(coupling, opened & (np.arange(count) != unit)) for unit in kinds if unit}
    for unit in sorted(without, key=lambda unit: cost(without[unit])):
        fewer = tidy(coupling, opened & (np.arange(count) != unit))
        if connected(coupling, fewer):
            opened = fewer
    return min(opened, smallest(coupling), key=lambda mask: cost(mask) if connected(coupling, mask) else math.inf)


def _say(metric: str, value: float) -> str:
    amount = format_bytes(round(value)) if metric == "weight_bytes" else format_count(round(value))
    return f"{amount} {'of weights' if metric == 'weight_bytes' else metric.upper() if metric == 'macs' else metric}"
