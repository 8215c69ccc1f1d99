"""How does a schedule run inside Hugging Face's Trainer? ``Trainer(..., callbacks=[L0Pruning(model, ...)])``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgel0.callbacks.run import Plan, Run
from edgel0.callbacks.tensorboard import log
from edgel0.capturing import Example, unwrap
from edgel0.errors import UsageError, need
from edgel0.scheduling import Schedule
from edgel0.types import SHARES, Masks, Slimmed

need("transformers", "transformers")
need("accelerate", "transformers")

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402  need names it
from transformers.training_args import ParallelMode  # noqa: E402

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class L0Pruning(TrainerCallback):
    """Prune the model of a ``transformers.Trainer`` to a budget, over all its optimizer steps.

    Gates are attached when the callback is made: make it *before* the Trainer is run or given an optimizer. The gates'
    gradient is set aside as soon as it is there, for the Trainer clips all others, and in a run by float16 unscales
    them, before it turns to callbacks. Figures of :meth:`edgel0.Schedule.figures` join each entry of the log as
    ``l0/...``; Trainer's own reporters have read it by then, so a ``writer`` takes them to TensorBoard.

    Checkpoints hold the schedule among the model's weights, for the Trainer loads those first of all.
    ``train(resume_from_checkpoint=...)`` with a model as it was built cuts it to the size that it had and goes on, in
    any phase, with ``shrink`` or without. In a distributed run gates are clipped with the weights.

    Args:
        model: the one that the Trainer gets.
        example: for :func:`edgel0.attach`: a batch as a dict without labels, or tensors; not for a model with gates.
        dense: share of the steps before gating; 0 for a model that is trained already.
        settle: share of the steps at the fixed mask.
        gate_lr: learning rate of the gates, see :class:`edgel0.Schedule`.
        noise: of the gates' first draw, as a share of the paper's.
        redundancy: have a gate count for what its fellows cannot take over, not for all that closing it costs at once.
        shrink: cut closed units out while training, in one process.
        writer: what the Trainer logs, with histograms of the gates, is written to this ``SummaryWriter``, too.
        limits: those of :class:`edgel0.Budget`, as ``macs=0.25``.

    Raises:
        UsageError: in ``train``, if the Trainer has another model, would load its best one at the end, or spreads the
            model over devices by other means than DistributedDataParallel.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example | None = None,
        *,
        dense: float = SHARES[0],
        settle: float = SHARES[2],
        gate_lr: float | None = None,
        noise: float = 1.0,
        redundancy: bool = True,
        shrink: bool = True,
        writer: SummaryWriter | None = None,
        **limits: Any,
    ) -> None:
        self.run = Run(unwrap(model), example, Plan(dense, settle, gate_lr, noise, redundancy, shrink, limits))
        self.writer = writer
        self._aside: Tensor | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule of the run."""
        return self.run.going()

    @property
    def masks(self) -> Masks:
        """The mask for the model as it is after training."""
        return self.run.masks()

    def slim(self, example: Example | None = None) -> Slimmed:
        """Return the smaller program, as :func:`edgel0.slim` does."""
        with as_traced(self.run.model):
            return self.run.slim(example)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Share the trainer's steps out over the phases, or go on."""
        refuse(args, kwargs["model"], self.run.model)
        self.run.begin(
            state.max_steps, state.global_step, getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        )
        self._aside = None
        alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        if alone and self._hook is None:
            log_alpha = self.run.gates.log_alpha
            self._hook = log_alpha.register_post_accumulate_grad_hook(self._set_aside)  # type: ignore[no-untyped-call]

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Step the gates."""
        if self._aside is not None:
            self.run.gates.log_alpha.grad, self._aside = self._aside, None
        self.run.before_step(getattr(kwargs["optimizer"], "scaler", None))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the optimizer's step."""
        with as_traced(self.run.model):
            self.run.after_step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the figures to the log."""
        if self.run.schedule is None:
            return
        figures = {f"l0/{name}": value for name, value in self.schedule.figures().items()}
        for entry in (logs, state.log_history[-1] if state.log_history else None):
            if entry is not None:
                entry.update(figures)
        if self.writer is not None:
            log(self.writer, self.schedule, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the gates as they were found."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _set_aside(self, log_alpha: Tensor) -> None:
        assert log_alpha.grad is not None
        self._aside = log_alpha.grad if self._aside is None else self._aside + log_alpha.grad
        log_alpha.grad = None


@contextlib.contextmanager
def as_traced(model: nn.Module) -> Iterator[None]:
    """Put aside what Accelerate's mixed precision wraps around ``forward``: it is no part of the traced graph."""
    own = vars(model)
    wrapped = own.get("forward") if "_original_forward" in own else None
    if wrapped is not None:
        own["forward"] = own["_original_forward"]
    try:
        yield
    finally:
        if wrapped is not None:
            own["forward"] = wrapped


def refuse(args: TrainingArguments, model: nn.Module, own: nn.Module) -> None:
    """Raise a UsageError for what a Trainer is set to do and the callback cannot follow."""
    if unwrap(model) is not own:
        name = type(unwrap(model)).__name__
        raise UsageError(
            f"this L0Pruning has put its gates on another model than the Trainer's {name}; make it with the model that "
            "the Trainer gets."
        )
    if args.load_best_model_at_end:
        raise UsageError(
            "load_best_model_at_end is set, and the best checkpoint may be one of before the mask, of a larger "
            "network; set it to False. The weights at the end are those that settled at the mask."
        )
    spread = [name for name in ("deepspeed", "fsdp") if getattr(args, name, None)]
    if args.parallel_mode is ParallelMode.NOT_DISTRIBUTED:
        spread.append("DataParallel")
    if args.fp16 and args.parallel_mode is ParallelMode.DISTRIBUTED:
        spread.append("fp16 in several processes (take bf16)")
    if spread:
        raise UsageError(
            f"the Trainer is set to use {', '.join(spread)}; L0Pruning runs on one device and with "
            "DistributedDataParallel. Use edgel0.Schedule in a loop of your own for others."
        )
