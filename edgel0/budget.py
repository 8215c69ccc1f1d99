"""How does training end at a size, not at some λ? Limits as constraints on the expected cost, one multiplier each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgel0.concrete import LIMIT
from edgel0.errors import BudgetError
from edgel0.floors import Floor, foremost, per_unit
from edgel0.gates import Gates
from edgel0.limits import Limits, Quantity
from edgel0.sharding import spread


class Budget:
    """Constraints on the expected cost of a gated model: add :meth:`penalty` to the loss, call :meth:`step` after it.

    Each limit's target falls from the dense cost to the limit over the first ``warmup`` share of ``steps`` calls of
    :meth:`step`, at each by the same factor, and stays there. (Falling by equal amounts it would lose half of itself in
    the last few steps before a small limit, where gates overshoot.) Its multiplier grows by ``rate`` times the relative
    violation at each step that exceeds the target and restarts at zero as soon as it does not, so nothing is won by
    being smaller than asked. What may be limited and how is said by :class:`~edgel0.limits.Limits`, whose keywords are
    taken here, too. ``rate`` defaults to ``100 / steps`` within [0.005, 0.5]. ``log_alpha`` is kept within ``clamp`` of
    zero.
    """

    def __init__(
        self,
        gates: Gates,
        *,
        macs: Quantity | None = None,
        params: Quantity | None = None,
        size: Quantity | None = None,
        activations: Quantity | None = None,
        storage: str | None = None,
        within: Mapping[str, Mapping[str, Quantity]] | None = None,
        keep_at_least: Floor | Mapping[str, Floor] | None = None,
        round_to: int = 1,
        steps: int = 2000,
        warmup: float = 0.8,
        rate: float | None = None,
        clamp: float = LIMIT,
    ) -> None:
        self.gates = gates
        self._limits = Limits(
            gates.coupling,
            macs=macs,
            params=params,
            size=size,
            activations=activations,
            storage=storage,
            within=within,
            keep_at_least=keep_at_least,
            round_to=round_to,
        )
        self._compile()
        if not steps >= 1 or not 0 <= warmup <= 1 or (rate is not None and not 0 < rate < math.inf):
            raise BudgetError(
                f"steps is {steps!r}, warmup {warmup!r} and rate {rate!r}; steps >= 1, 0 <= warmup <= 1 and a "
                "finite rate > 0 are needed."
            )
        self.steps, self.warmup, self.clamp = steps, warmup, clamp
        self._rate = rate
        self.at = 0
        self.multipliers = dict.fromkeys(self._limits.maximum, 0.0)
        self._violations = dict.fromkeys(self._limits.maximum, 0.0)

    @property
    def rate(self) -> float:
        """By how much a multiplier grows per step and relative violation."""
        return min(max(100 / self.steps, 0.005), 0.5) if self._rate is None else self._rate

    @property
    def limits(self) -> Limits:
        """The limits, on what the gates belong to now: a model that :func:`edgel0.shrink_` made smaller, say."""
        self._follow()
        return self._limits

    def _follow(self) -> None:
        if self._limits.coupling is not self.gates.coupling:
            self._limits = self._limits.on(self.gates.coupling)
            self._compile()

    def _compile(self) -> None:
        """Lay out what every step evaluates."""
        limits = self._limits
        self._floor = per_unit(limits.coupling, limits.floors) if limits.floors else None

    def targets(self) -> dict[str, float]:
        """Present target of each limit, in its own unit."""
        done = 1.0 if self.warmup == 0 else min(1.0, self.at / (self.warmup * self.steps))
        return {m: d * min(self.limits.maximum[m] / d, 1.0) ** done for m, d in self.limits.dense.items()}

    def expected(self) -> dict[str, Tensor]:
        """Return the expected cost of each limited metric under P(z != 0)."""
        probability = self.gates.probability()
        alive = torch.cat([probability.new_ones(1), probability]).cpu().double()  # 1: the pinned rest
        return {metric: total(alive) for metric, total in self.limits.costs.items()}

    def penalty(self) -> Tensor:
        """Sum of multiplier times relative violation, to be added to the loss.

        Of a group with a floor so many gates, the most probable, get no gradient: what must stay is not pushed to
        close.
        """
        probability = self.gates.probability()
        value, slope = self._evaluate(_array(probability))
        penalty = torch.tensor(value, dtype=torch.float32, device=probability.device)
        if slope is None:
            return penalty
        return penalty + (torch.from_numpy(slope).to(probability) * (probability - probability.detach())).sum()

    def pull(self) -> Tensor | None:
        """Return the gradient of :meth:`penalty` with respect to ``log_alpha``, None where nothing pulls."""
        probability = _array(self.gates.probability())
        _, slope = self._evaluate(probability)
        if slope is None:
            return None
        log_alpha = self.gates.log_alpha
        pull = torch.from_numpy(slope * probability * (1 - probability))
        return spread(pull.to(log_alpha.device, torch.float32), log_alpha)

    def _evaluate(self, probability: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Return the penalty, and its gradient with respect to P(z != 0), ``(units,)``; note the violations."""
        costs, targets, alive = self.limits.costs, self.targets(), np.append(1.0, probability)
        penalty, pull = 0.0, None
        for metric, total in costs.items():
            multiplier = self.multipliers[metric]
            cost, slope = total.slope(alive)
            violation = cost / targets[metric] - 1
            self._violations[metric] = violation
            if multiplier:
                penalty += multiplier * violation
                slope = slope[1:] * (multiplier / targets[metric])
                pull = slope if pull is None else pull + slope
        if pull is not None and self._floor is not None:
            pull[foremost(probability, *self._floor)] = 0
        return penalty, pull

    def step(self) -> None:
        """Move multipliers and target by one step, and keep ``log_alpha`` within its range."""
        for metric, violation in self._violations.items():
            if not math.isfinite(violation):
                raise BudgetError(f"the expected {metric} is {violation}; the gates hold values that are not numbers.")
        self.at += 1
        for metric, violation in self._violations.items():
            self.multipliers[metric] = self.multipliers[metric] + self.rate * violation if violation > 0 else 0.0
        with torch.no_grad():
            self.gates.log_alpha.clamp_(-self.clamp, self.clamp)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model's and the optimizer's state."""
        return {"at": self.at, "multipliers": dict(self.multipliers), "violations": dict(self._violations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.at = int(state["at"])
        self.multipliers = {metric: float(state["multipliers"][metric]) for metric in self.multipliers}
        self._violations = {metric: float(state["violations"][metric]) for metric in self._violations}


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
