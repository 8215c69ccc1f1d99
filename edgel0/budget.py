"""How does training end at a size, not at some λ? Limits as constraints on the expected cost, one multiplier each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
        """Lay out what every step evaluates, on the device of the gates."""
        limits, device = self._limits, self.gates.log_alpha.device
        self._costs = {key: total.to(device) for key, total in limits.costs.items()}
        group, floor = (torch.from_numpy(each).to(device) for each in per_unit(limits.coupling, limits.floors))
        self._floor = (group, floor) if limits.floors else None

    def targets(self) -> dict[str, float]:
        """Present target of each limit, in its own unit."""
        done = 1.0 if self.warmup == 0 else min(1.0, self.at / (self.warmup * self.steps))
        return {m: d * min(self.limits.maximum[m] / d, 1.0) ** done for m, d in self.limits.dense.items()}

    def expected(self) -> dict[str, Tensor]:
        """Return the expected cost of each limited metric under P(z != 0)."""
        self._follow()
        alive = _alive(self.gates.probability())
        return {metric: total(alive) for metric, total in self._costs.items()}

    def penalty(self) -> Tensor:
        """Sum of multiplier times relative violation, to be added to the loss.

        Of a group with a floor so many gates, the most probable, get no gradient: what must stay is not pushed to
        close.
        """
        probability = self.gates.probability()
        value, slope = self._evaluate(probability.detach())
        penalty = torch.tensor(value, dtype=torch.float32, device=probability.device)
        return penalty if slope is None else penalty + (slope * (probability - probability.detach())).sum()

    def pull(self) -> Tensor | None:
        """Return the gradient of :meth:`penalty` with respect to ``log_alpha``, None where nothing pulls."""
        with torch.no_grad():
            probability = self.gates.probability()
            _, slope = self._evaluate(probability)
            if slope is None:
                return None
            return spread(slope * probability * (1 - probability), self.gates.log_alpha)

    def _evaluate(self, probability: Tensor) -> tuple[float, Tensor | None]:
        """Return the penalty, and its gradient with respect to P(z != 0), ``(units,)``; note the violations."""
        self._follow()
        targets, alive = self.targets(), _alive(probability)
        penalty, pull = 0.0, None
        for metric, total in self._costs.items():
            multiplier = self.multipliers[metric]
            cost, slope = total.slope(alive) if multiplier else (total(alive), None)
            violation = float(cost) / targets[metric] - 1
            self._violations[metric] = violation
            if slope is not None:
                penalty += multiplier * violation
                slope = slope[1:] * (multiplier / targets[metric])
                pull = slope if pull is None else pull + slope
        if pull is not None and self._floor is not None:
            pull = pull.masked_fill(foremost(probability, *self._floor), 0)
        return penalty, None if pull is None else pull.float()

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


def _alive(probability: Tensor) -> Tensor:
    """Put the pinned rest, which is there for certain, before the units' probabilities."""
    return torch.cat([probability.new_ones(1), probability]).double()
