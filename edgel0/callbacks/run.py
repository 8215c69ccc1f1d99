"""What do callbacks have in common? A schedule that begins when the steps are known and travels with the weights."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edgel0.attaching import attach
from edgel0.budget import Budget
from edgel0.capturing import Example
from edgel0.errors import UsageError
from edgel0.gates import NAME, gates_of, has_gates
from edgel0.scheduling import Scaler, Schedule, split
from edgel0.slimming import slim
from edgel0.types import Masks, Slimmed

KEY = "edgel0_schedule"


@dataclass(frozen=True)
class Plan:
    """What of a :class:`~edgel0.scheduling.Schedule` and a :class:`~edgel0.budget.Budget` can be said before training.

    ``limits`` are keywords of ``Budget``: ``macs``, ``params``, ``size`` and so on.
    """

    dense: float
    settle: float
    gate_lr: float | None
    noise: float
    redundancy: bool
    shrink: bool
    limits: Mapping[str, Any]


class Run:
    """The schedule of one gated model, in a loop that makes the optimizer and counts the steps itself.

    Its state lies in the ``state_dict`` of the model, packed in the bytes ``edgel0_schedule``: trainers load weights
    before they turn to their callbacks, and weights of a model that has shrunk fit only once the schedule has cut the
    new one. So every checkpoint that holds the model resumes, and a state of a model without gates is refused by name.

    Args:
        model: gets gates unless it has them.
        example: as for :func:`edgel0.attach`; not needed for a model with gates.
        plan: limits are checked at once.
    """

    def __init__(self, model: nn.Module, example: Example | None, plan: Plan) -> None:
        if not has_gates(model) and example is None:
            raise UsageError(
                f"this {type(model).__name__} has no gates; give the callback an example input to trace it on, or call "
                "edgel0.attach(model, example) first."
            )
        self.gates = gates_of(model) if has_gates(model) else attach(model, example)
        self.model, self.plan = model, plan
        self.schedule: Schedule | None = None
        Budget(self.gates, **plan.limits)
        split(1000, plan.dense, plan.settle)
        self._carry()

    def begin(self, steps: float, at: int, optimizer: Optimizer) -> Schedule:
        """Make the schedule, or go on with the one that was loaded with the weights.

        Args:
            steps: of the optimizer in the whole run.
            at: how many of them are done.
            optimizer: of the model's weights.

        Raises:
            UsageError: the trainer does not know its steps, or is at others than the schedule.
        """
        if not math.isfinite(steps) or steps < 1:
            raise UsageError(
                f"the trainer expects {steps} optimizer steps, and a schedule is shared out over a known number; set "
                "max_steps, or max_epochs with a loader that has a length."
            )
        wanted = split(int(steps), self.plan.dense, self.plan.settle)
        if self.schedule is None:
            self.schedule = self._made(wanted, optimizer)
        schedule, schedule.optimizer = self.schedule, optimizer
        if schedule.at == at - 1:  # interrupted after the optimizer's step, before the schedule counted it
            schedule.after_step()
        if (schedule.steps, schedule.at) != (wanted, at):
            raise UsageError(
                f"the schedule has done {schedule.at} of {schedule.steps} steps (dense, gating, settle), the trainer "
                f"{at} of {wanted}; go on from a checkpoint of this very run, with the same number of steps and the "
                "same shares, or begin with a model, a callback and a trainer that are new."
            )
        return schedule

    def before_step(self, scaler: Scaler | None = None) -> None:
        """Step the gates; gradients are neither clipped nor, if there is a ``scaler``, is that of the gates unscaled.

        Raises:
            UsageError: the gates had no part in the forward.
        """
        if self.gates.training and self.gates._drawn is None and not self.gates.idle:
            name = type(self.model).__name__
            raise UsageError(
                f"gates stand in {name}, and the training step did not call it: gates are drawn when a module is "
                f"called as module(x), not when its parts or its forward are. Call this {name}, or put the gates on "
                "the part that is called (module='net' of the Lightning callback)."
            )
        self.going().before_step(scaler)

    def after_step(self) -> None:
        """Count a step of the optimizer."""
        self.going().after_step()

    def going(self) -> Schedule:
        """Return the schedule, once there is one.

        Raises:
            UsageError: training has not begun.
        """
        if self.schedule is None:
            raise UsageError("training has not begun, so there is no schedule yet; run the trainer first.")
        return self.schedule

    def masks(self) -> Masks:
        """Return the mask that training came to, for the model as it is now.

        Raises:
            UsageError: it did not come to one yet.
        """
        schedule = self.going()
        if schedule.phase != "settle":
            raise UsageError(
                f"training stopped at step {schedule.at} of {sum(schedule.steps)}, in the phase {schedule.phase!r}, "
                "before there was a mask; resume it from a checkpoint, or take out what stops it early."
            )
        return schedule.masks

    def slim(self, example: Example | None = None) -> Slimmed:
        """Return the smaller program, as :func:`edgel0.slim` does."""
        return slim(self.model, self.masks(), example)

    def _made(self, steps: tuple[int, int, int], optimizer: Optimizer | None = None) -> Schedule:
        budget = Budget(self.gates, **self.plan.limits)
        plan = self.plan
        return Schedule(
            self.model,
            budget,
            optimizer,
            steps=steps,
            gate_lr=plan.gate_lr,
            noise=plan.noise,
            redundancy=plan.redundancy,
            shrink=plan.shrink,
        )

    def _carry(self) -> None:
        """Let the schedule's state travel with the model's; copies of the model carry nothing."""

        def save(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
            if module is self.model and has_gates(module) and self.schedule is not None:
                state[prefix + KEY] = packed(self.schedule.state_dict())

        def load(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
            if module is self.model and has_gates(module):
                self._load(state, prefix)

        self.model.register_state_dict_post_hook(save)  # type: ignore[no-untyped-call]
        self.model.register_load_state_dict_pre_hook(load)  # type: ignore[no-untyped-call]

    def _load(self, state: dict[str, Any], prefix: str) -> None:
        if f"{prefix}{NAME}.log_alpha" not in state:
            raise UsageError(
                f"the weights to load into this {type(self.model).__name__} were saved without gates (or are one of "
                "several shards); load a dense checkpoint before gates are attached, and resume from none."
            )
        if (data := state.pop(prefix + KEY, None)) is None:
            return  # saved before training began
        found = unpacked(data)
        if self.schedule is None:
            self.schedule = self._made(tuple(found["steps"]))
        self.schedule.load_state_dict(found)


def packed(state: dict[str, Any]) -> Tensor:
    """Return a state as bytes in a tensor, which any format of checkpoints takes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def unpacked(data: Tensor) -> dict[str, Any]:
    """Return what :func:`packed` was given; nothing but tensors and plain values is accepted."""
    found: dict[str, Any] = torch.load(io.BytesIO(data.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)
    return found
