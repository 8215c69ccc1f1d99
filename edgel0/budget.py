"""How does training end at a size, not at some λ? Limits as constraints on the expected cost, one multiplier each."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgel0.cost import Sum, sums
from edgel0.errors import BudgetError
from edgel0.gates import LIMIT, Gates
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


class Budget:
    """Constraints on the expected cost of a gated model: add :meth:`penalty` to the loss, call :meth:`step` after it.

    Each limit's target moves linearly from the dense cost to the limit over the first ``warmup`` share of ``steps``
    calls of :meth:`step`, and stays there. Its multiplier grows by ``rate`` times the relative violation at each step
    that exceeds the target and restarts at zero as soon as it does not, so nothing is won by being smaller than asked.
    ``rate`` defaults to ``100 / steps`` within [0.005, 0.5].
    """

    def __init__(
        self,
        gates: Gates,
        *,
        macs: str | float | None = None,
        params: str | float | None = None,
        size: str | float | None = None,
        steps: int = 2000,
        warmup: float = 0.8,
        rate: float | None = None,
    ) -> None:
        self.gates = gates
        self._limits = Limits(gates.coupling, macs=macs, params=params, size=size)
        self._costs = self._compiled()
        if not steps >= 1 or not 0 <= warmup <= 1 or (rate is not None and not 0 < rate < math.inf):
            raise BudgetError(
                f"steps is {steps!r}, warmup {warmup!r} and rate {rate!r}; steps >= 1, 0 <= warmup <= 1 and a "
                "finite rate > 0 are needed."
            )
        self.steps, self.warmup = steps, warmup
        self.rate = min(max(100 / steps, 0.005), 0.5) if rate is None else rate
        self.at = 0
        self.multipliers = dict.fromkeys(self._limits.maximum, 0.0)
        self._violations = dict.fromkeys(self._limits.maximum, 0.0)

    @property
    def limits(self) -> Limits:
        """The limits, on what the gates belong to now: a model that :func:`edgel0.shrink_` made smaller, say."""
        self._follow()
        return self._limits

    def _follow(self) -> None:
        if self._limits.coupling is not self.gates.coupling:
            self._limits = self._limits.on(self.gates.coupling)
            self._costs = self._compiled()

    def _compiled(self) -> dict[str, Sum]:
        return {metric: total.to(self.gates.log_alpha.device) for metric, total in self._limits.costs.items()}

    def targets(self) -> dict[str, float]:
        """Present target of each limit, in its own unit."""
        done = 1.0 if self.warmup == 0 else min(1.0, self.at / (self.warmup * self.steps))
        return {m: d + done * (min(self.limits.maximum[m], d) - d) for m, d in self.limits.dense.items()}

    def expected(self) -> dict[str, Tensor]:
        """Return the expected cost of each limited metric under P(z != 0), differentiable."""
        probability = self.gates.probability()
        alive = torch.cat([probability.new_ones(1), probability]).double()
        self._follow()
        return {metric: total(alive) for metric, total in self._costs.items()}

    def penalty(self) -> Tensor:
        """Sum of multiplier times relative violation, to be added to the loss."""
        targets = self.targets()
        total = self.gates.log_alpha.new_zeros(())
        for metric, cost in self.expected().items():
            violation = cost / targets[metric] - 1
            self._violations[metric] = float(violation.detach())
            if self.multipliers[metric]:
                total = total + (self.multipliers[metric] * violation).float()
        return total

    def step(self) -> None:
        """Move multipliers and target by one step, and keep ``log_alpha`` within its range."""
        for metric, violation in self._violations.items():
            if not math.isfinite(violation):
                raise BudgetError(f"the expected {metric} is {violation}; the gates hold values that are not numbers.")
        self.at += 1
        for metric, violation in self._violations.items():
            self.multipliers[metric] = self.multipliers[metric] + self.rate * violation if violation > 0 else 0.0
        with torch.no_grad():
            self.gates.log_alpha.clamp_(-LIMIT, LIMIT)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model's and the optimizer's state."""
        return {"at": self.at, "multipliers": dict(self.multipliers), "violations": dict(self._violations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.at = int(state["at"])
        self.multipliers = {metric: float(state["multipliers"][metric]) for metric in self.multipliers}
        self._violations = {metric: float(state["violations"][metric]) for metric in self._violations}
