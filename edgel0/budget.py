"""How does training end at a size, not at some λ? Limits as constraints on the expected cost, one multiplier each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgel0.cost import Sum
from edgel0.errors import BudgetError
from edgel0.gates import LIMIT, Gates
from edgel0.limits import Limits


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
