"""When are gates open, when do they move, when is the mask fixed? Three phases, counted in steps of an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from edgel0.budget import Budget
from edgel0.capturing import unwrap
from edgel0.cost import sums
from edgel0.errors import SlimError, TrainingError, UsageError
from edgel0.masks import RULE, stabilize
from edgel0.redundancy import Redundancy
from edgel0.sharding import replicated, reshard, sharded, spread, whole
from edgel0.shrinking import closed_units, shrink_, spared
from edgel0.types import PHASES, SHARES, Masks

WORTH = 0.9  # shrinking takes the time of some steps: only when this share of the MACs or less would be left
RESERVE = 0.05  # of a limit, or a whole unit: closed units of so much cost stay while gates train
LOOKS = 100  # how often in the gating phase the closed units are counted


class Scaler(Protocol):
    """What of :class:`torch.amp.GradScaler` is needed."""

    def is_enabled(self) -> bool:
        """Tell whether losses are scaled at all."""

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the loss's scale."""

    def step(self, optimizer: Optimizer) -> Any:
        """Step unless a gradient is infinite."""


class Schedule:
    """Take a gated model through its phases: dense, gating, settle.

    *Dense*: gates are open and weights train. *Gating*: gates train with their own Adam, the budget's target moves to
    its limits; units whose gates stay closed are cut out of the model, its gates and the optimizer's state between two
    steps, and steps get faster. Then the gates become a mask within the budget, and at that the weights *settle*.

    Call :meth:`before_step` as soon as the gradients of the loss are there, before they are clipped or, by a
    ``GradScaler``, unscaled, and :meth:`after_step` after the optimizer's step. The optimizer may hold the gates among
    ``model.parameters()``: it never gets a gradient of theirs to see. :meth:`step` is both around a plain step.

    Args:
        model: a model with gates, as it is called; in a distributed run the wrapped one, which does not shrink.
        budget: limits on the gates of that model; its ``steps`` are set to those of the gating phase.
        optimizer: whose state shrinks with the model; needed if ``shrink``.
        steps: of the optimizer in all, or a tuple of three, one per phase.
        dense: share of the steps before gating; 0 for a model that is trained already.
        settle: share of the steps at the fixed mask.
        noise: of the first draw, as a share of the paper's; from there it falls to none at the end of the gating phase,
            so that what the mask is made of is what the weights have been trained with.
        redundancy: have a gate count for as much of what closing it costs as its fellows cannot learn to take over
            (:mod:`edgel0.redundancy`), not for all that it costs at once.
        gate_lr: learning rate of ``log_alpha``. The default, ``60 / gating steps`` within [0.01, 0.5], lets a gate
            cross the range from open to closed several times within its phase, whatever the weights' own rate is.
        shrink: cut closed units out while training. What cannot shrink trains at full size; ``refused`` says why.

    Raises:
        UsageError: the budget belongs to another model, or shares and steps leave no step for gating.
    """

    def __init__(
        self,
        model: nn.Module,
        budget: Budget,
        optimizer: Optimizer | None = None,
        *,
        steps: int | tuple[int, int, int],
        dense: float = SHARES[0],
        settle: float = SHARES[2],
        gate_lr: float | None = None,
        noise: float = 1.0,
        redundancy: bool = True,
        shrink: bool = True,
    ) -> None:
        self.model, self.budget, self.optimizer, self.gates = model, budget, optimizer, budget.gates
        if not any(module is self.gates for module in unwrap(model).modules()):
            raise UsageError(
                f"the budget was made for other gates than those of this {type(model).__name__}; make it from what "
                "attach(model, example) returned."
            )
        own = set(unwrap(model).parameters())
        if optimizer is not None and own.isdisjoint(p for group in optimizer.param_groups for p in group["params"]):
            raise UsageError(
                f"this {type(optimizer).__name__} holds none of the parameters of this {type(model).__name__}; make it "
                "from model.parameters() after attach and, in a sharded run, after fully_shard."
            )
        if not 0 < noise <= 1:
            raise UsageError(f"noise is {noise!r}; it must lie above 0, where gates would not part, and up to 1.")
        self.steps, self.noise = split(steps, dense, settle), noise
        self.budget.steps = self.steps[1]
        rate = min(max(60 / self.steps[1], 0.01), 0.5) if gate_lr is None else gate_lr
        self.gate_optimizer = torch.optim.Adam([self.gates.log_alpha], lr=rate, fused=True)
        self.at = 0
        self.refused = "" if shrink else "it was not asked for"
        self.original = self.gates.coupling
        self.left = np.arange(self.original.units + 1)  # the units of the model as it is now, by their first numbers
        self.report: dict[str, float] = {}
        self.probability: np.ndarray | None = None
        self.redundancy = Redundancy(unwrap(model), self.gates) if redundancy else None
        self.gates.synchronize()
        self._enter()

    @property
    def phase(self) -> str:
        """The phase that the next step belongs to."""
        return PHASES[int(self.at >= self.steps[0]) + int(self.at >= self.steps[0] + self.steps[1])]

    @property
    def masks(self) -> Masks:
        """The mask of the model as it is now; what has been cut out of it has no entry."""
        opened = np.append(True, self.gates.mask.cpu().numpy())
        return Masks(self.gates.coupling, opened, RULE, self.probability, dict(self.report))

    @property
    def masks_of_original(self) -> Masks:
        """The same mask for the model that the schedule began with."""
        now = self.masks
        opened, probability = np.zeros(self.original.units + 1, bool), np.zeros(self.original.units + 1)
        opened[self.left[now.open]] = True
        if self.probability is not None:
            probability[self.left] = self.probability
        return Masks(self.original, opened, RULE, probability, dict(self.report))

    def probability_of_original(self) -> np.ndarray:
        """P(z != 0) per unit of the model that the schedule began with, ``(units + 1,)``; 0 for what has been cut out.

        Entry 0, the pinned rest, is 1. Where gates are spread over ranks, all have to call this.
        """
        probability = np.zeros(self.original.units + 1)
        with torch.no_grad():
            probability[self.left] = np.append(1.0, self.gates.probability().cpu().double().numpy())
        return probability

    def figures(self) -> dict[str, float]:
        """Return what a training log shows of the schedule, by names that loggers take.

        ``phase`` (0 dense, 1 gating, 2 settle), ``open_units`` (P(z != 0) > 1/2), ``polarisation`` (the share of the
        present gates with 0.05 < P < 0.95) and, per limit, ``cost/...`` (expected), ``target/...``, ``multiplier/...``.
        Where gates are spread over ranks, all have to call this.
        """
        with torch.no_grad():
            probability, costs = self.gates.probability(), self.budget.expected()
        undecided = (probability > 0.05) & (probability < 0.95)
        found = {
            "phase": float(PHASES.index(self.phase)),
            "open_units": float((probability > 0.5).sum()),
            "polarisation": float(undecided.float().mean()),
        }
        targets = self.budget.targets()
        for limit, cost in costs.items():
            found[f"cost/{limit}"] = float(cost)
            found[f"target/{limit}"] = targets[limit]
            found[f"multiplier/{limit}"] = self.budget.multipliers[limit]
        return found

    def before_step(self, scaler: Scaler | None = None) -> None:
        """Step the gates, in their phase: the gradient of the loss is there, that of the budget is added.

        With a ``scaler`` the gates' gradient is unscaled here, once, and a step in which it is infinite is left out;
        the schedule counts it all the same.

        Raises:
            TrainingError: the gates' gradient is not finite, and there is no scaler to leave the step out.
            UsageError: the model is in eval mode, where gates have no noise, or the gates' parameter is another one
                than when the schedule was made.
        """
        log_alpha = self._log_alpha()
        if self.phase != "settle" and not self.gates.training:
            raise UsageError(
                f"the gates are in eval mode in step {self.at + 1}, where they have no noise and nearly no gradient; "
                "call model.train() before the forward. What has to stay in eval mode, as a batch norm that is kept "
                "frozen, can be put back by itself; the gates are in train mode after gates.train()."
            )
        if self.redundancy is not None:
            self.redundancy.watch()
        if self.phase == "gating":
            scaled = scaler if log_alpha.grad is not None and scaler is not None and scaler.is_enabled() else None
            if scaled is not None:
                scaled.unscale_(self.gate_optimizer)
            elif log_alpha.grad is not None:
                self._check(whole(log_alpha.grad))
            if log_alpha.grad is not None and self.redundancy is not None:
                log_alpha.grad *= replicated(self.redundancy.share, log_alpha.grad)
            pull = self.budget.pull()  # not through backward(), which would set off the hooks of distributed wrappers
            if pull is not None:
                log_alpha.grad = pull if log_alpha.grad is None else log_alpha.grad + pull
            if scaled is None:
                self.gate_optimizer.step()
            else:
                scaled.step(self.gate_optimizer)
        log_alpha.grad = None

    def _log_alpha(self) -> nn.Parameter:
        """Return the parameter that the gates' optimizer has, which must still be that of the gates."""
        own: nn.Parameter = self.gate_optimizer.param_groups[0]["params"][0]
        if self.gates.log_alpha is not own and sharded(own):
            reshard(unwrap(self.model))
        if self.gates.log_alpha is not own:
            raise UsageError(
                "the gates' parameter was replaced after the schedule was made, as fully_shard does; make the "
                "optimizer and the schedule after that."
            )
        return own

    def _check(self, gradient: Tensor) -> None:
        if math.isfinite(float(gradient.sum())):  # one operator, in each step, rather than five
            return
        wrong = int((~torch.isfinite(gradient)).sum())
        if wrong:
            raise TrainingError(
                f"the gradient of {wrong:,} of {gradient.numel():,} gates is not a finite number in step {self.at + 1} "
                f"({self.phase}); gates and weights are still those of the step before. Look at the loss of that step, "
                "lower the learning rate of the weights, or, if a GradScaler is in use, call before_step(scaler)."
            )

    def after_step(self) -> None:
        """Count a step; move the target, cut what is closed, or fix the mask where that is due."""
        if self.phase == "gating":
            self.budget.step()
        self.at += 1
        gated = self.at - self.steps[0]
        if self.phase == "gating" and gated and gated % max(self.steps[1] // LOOKS, 1) == 0:
            self._shrink_if_worth()
        if gated == self.steps[1]:
            masks = stabilize(self.model, self.budget)
            self.report, self.probability = masks.report, masks.probability
            self._shrink(masks)
        self._enter()

    def step(self) -> None:
        """Step gates and weights and set their gradients to None: what a plain loop needs after ``loss.backward()``.

        Raises:
            UsageError: the schedule was made without an optimizer.
        """
        if self.optimizer is None:
            raise UsageError("the schedule has no optimizer to step; give it one, or call before_step and after_step.")
        self.before_step()
        self.optimizer.step()
        self.after_step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model's and the optimizer's state, equal on every rank of a run.

        Under ``fully_shard`` all ranks have to call this.
        """
        return {
            "at": self.at,
            "steps": self.steps,
            "groups": [group.size for group in self.original.groups],
            "left": torch.from_numpy(self.left),
            "budget": self.budget.state_dict(),
            "redundancy": None if self.redundancy is None else self.redundancy.state_dict(),
            "gates": _each(lambda t: whole(t).clone(), self.gate_optimizer.state_dict()),
            "report": dict(self.report),
            "probability": None if self.probability is None else torch.from_numpy(self.probability),
            "refused": self.refused,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; call it *before* the model and the optimizer load theirs.

        The model may be as it was built: it is cut to the size that it had. A run on any number of ranks can go on from
        the state of one on another number; one that has shrunk is loaded before DistributedDataParallel wraps the
        model, which it does not let shrink.

        Raises:
            UsageError: the state is of another model or of a schedule of other steps.
        """
        groups = [group.size for group in self.original.groups]
        if list(state["groups"]) != groups or tuple(state["steps"]) != self.steps:
            raise UsageError(
                f"the state is of a schedule of {tuple(state['steps'])} steps on a model with groups of "
                f"{_few(state['groups'])} units; this one has {self.steps} steps and groups of {_few(groups)} units. "
                "Build the model and the schedule as they were when the checkpoint was written."
            )
        left = state["left"].numpy()
        if not np.isin(left, self.left).all():
            raise UsageError("the model has shrunk beyond the state that is loaded; build it anew, then load.")
        if left.size < self.left.size:
            opened = np.isin(self.left, left)
            shrink_(self.model, self.optimizer, Masks(self.gates.coupling, opened))
        self.at, self.left = int(state["at"]), left
        self.budget.load_state_dict(state["budget"])
        log_alpha = self._log_alpha()
        self.gate_optimizer.load_state_dict(_each(lambda t: spread(t, log_alpha) if t.dim() else t, state["gates"]))
        if self.redundancy is not None and state.get("redundancy") is not None:
            self.redundancy.load_state_dict(state["redundancy"])
        self.report, self.refused = dict(state["report"]), self.refused or str(state["refused"])
        self.probability = None if state["probability"] is None else state["probability"].numpy()
        self._enter()

    def _enter(self) -> None:
        self.gates.held = self.phase == "dense"
        if self.phase == "settle":
            self.redundancy = None  # its matrices would fill every checkpoint, for nothing
        if self.phase == "gating":
            self.gates.noise.fill_(self.noise * (1 - (self.at - self.steps[0]) / self.steps[1]))

    def _shrink_if_worth(self) -> None:
        masks = closed_units(self.gates)
        if self.refused or masks.open.all():
            return
        total = sums(self.gates.coupling)["macs"]
        now, then = (float(total(torch.from_numpy(m).double())) for m in (np.ones_like(masks.open), masks.open))
        if then > WORTH * now:
            return
        masks = self._with_reserve(masks)
        if float(total(torch.from_numpy(masks.open).double())) <= WORTH * now:
            self._shrink(masks)

    def _with_reserve(self, masks: Masks) -> Masks:
        """Keep of each group's closed units the most probable, enough of all groups' to fill a gap below a limit up.

        Stabilizing leaves such a gap where it closes a unit that costs much; what has been cut out could not fill it.
        """
        limits, opened = self.budget.limits, masks.open.copy()
        probability = np.append(1.0, self.gates.probability().detach().cpu().numpy())
        before, spare = limits.cost(opened), []
        for group in masks.coupling.groups:
            units = np.arange(group.start, group.stop)
            units = units[np.lexsort((-probability[units], masks.open[units]))]  # closed ones first, the likely ahead
            trial = masks.open.copy()
            trial[units[0]] = not trial[units[0]]
            prices = [abs(cost - before[key]) / limits.maximum[key] for key, cost in limits.cost(trial).items()]
            spare.append((max(prices), units[~masks.open[units]]))
        gap = max(RESERVE, *(price for price, _ in spare)) / len(spare)
        for price, closed in spare:
            opened[closed[: math.ceil(min(gap / price, closed.size))] if price else closed] = True
        return Masks(masks.coupling, opened, masks.rule, masks.probability)

    def _shrink(self, masks: Masks) -> None:
        """Cut the model down to ``masks``, or note why it cannot be."""
        masks = spared(masks)
        if self.refused or masks.open.all():
            return
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.refused = (
                f"the run is spread over {dist.get_world_size()} processes, and DistributedDataParallel and "
                "fully_shard keep buffers of the sizes that they began with; slim the model after training."
            )
            return
        if self.optimizer is None:
            self.refused = "the schedule was given no optimizer, whose state has to be cut with the model."
            return
        try:
            shrink_(self.model, [self.optimizer, self.gate_optimizer], masks)
        except (SlimError, UsageError) as error:
            self.refused = str(error)
            return
        self.left = self.left[masks.open]
        if self.redundancy is not None:
            self.redundancy.follow(masks.open)
        if self.probability is not None:
            self.probability = self.probability[masks.open]


def _each(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, change, state)


def _few(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes[:6])) + (f" and {len(sizes) - 6} more" if len(sizes) > 6 else "")


def split(steps: int | tuple[int, int, int], dense: float, settle: float) -> tuple[int, int, int]:
    """Share steps out over dense, gating and settle.

    Raises:
        UsageError: the shares leave no step for gating, or are none.
    """
    if isinstance(steps, int):
        if not (0 <= dense < 1 and 0 <= settle < 1 and dense + settle < 1):
            raise UsageError(f"the shares dense {dense!r}, settle {settle!r} must be at least 0, and below 1 together.")
        first, last = math.floor(dense * steps), math.floor(settle * steps)
        steps = (first, steps - first - last, last)
    found = tuple(int(count) for count in steps)
    if len(found) != 3 or min(found) < 0 or not found[1]:
        raise UsageError(f"{found} steps for dense, gating and settle were given; gating needs at least one.")
    return found[0], found[1], found[2]
