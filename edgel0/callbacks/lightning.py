"""How does a schedule run inside Lightning's Trainer? ``Trainer(callbacks=[L0Pruning(example, macs=0.25)])``."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from edgel0.callbacks.run import Plan, Run
from edgel0.callbacks.tensorboard import groups
from edgel0.capturing import Example
from edgel0.errors import UsageError, need
from edgel0.scheduling import Schedule
from edgel0.types import SHARES, Masks, Slimmed

need("lightning.pytorch", "lightning")

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402  need names the extra
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy  # noqa: E402


class L0Pruning(Callback):
    """Prune the LightningModule of a ``Trainer.fit`` to a budget, over all its optimizer steps.

    Gates are attached in ``setup``, so before ``configure_optimizers``; the optimizer may be given
    ``self.parameters()``, the gates' is taken out of it, for they have an Adam of their own. They step at
    ``on_before_optimizer_step``: after the gradients are accumulated and, by ``precision="16-mixed"``, unscaled, before
    ``gradient_clip_val`` clips them. Steps of the optimizer are counted, not batches. With logging on,
    ``l0/...`` shows the figures of :meth:`edgel0.Schedule.figures` every ``log_every_n_steps``, and a TensorBoardLogger
    the groups' histograms.

    Checkpoints hold the schedule among the module's weights, for Lightning loads those before it turns to callbacks;
    ``fit(ckpt_path=...)`` on a module as it was built cuts it to the size that it had and goes on, in any phase. A
    checkpoint of a larger size than the module has by now is refused, also by ``test(ckpt_path="best")``.

    Args:
        example: for :func:`edgel0.attach`; the default is the module's ``example_input_array``.
        module: the submodule to put gates on, by name; default the LightningModule itself, whose own ``forward`` is
            captured then. ``training_step`` has to *call* it: ``self(x)``, or ``self.net(x)`` with ``module="net"``.
        dense: share of the steps before gating.
        settle: share of the steps at the fixed mask.
        gate_lr: learning rate of the gates, see :class:`edgel0.Schedule`.
        noise: of the gates' first draw, as a share of the paper's.
        redundancy: have a gate count for what its fellows cannot take over, not for all that closing it costs at once.
        shrink: cut closed units out while training, on one device.
        limits: those of :class:`edgel0.Budget`, as ``macs=0.25``.

    Raises:
        UsageError: in ``fit``, if there are several optimizers, an LBFGS, manual optimization, an unknown number of
            steps, or a strategy other than one device or DDP.
    """

    def __init__(
        self,
        example: Example | None = None,
        *,
        module: str = "",
        dense: float = SHARES[0],
        settle: float = SHARES[2],
        gate_lr: float | None = None,
        noise: float = 1.0,
        redundancy: bool = True,
        shrink: bool = True,
        **limits: Any,
    ) -> None:
        self.example, self.module = example, module
        self.plan = Plan(dense, settle, gate_lr, noise, redundancy, shrink, limits)
        self.run: Run | None = None
        self._due = False

    @property
    def schedule(self) -> Schedule:
        """The schedule of the run."""
        return self._run().going()

    @property
    def masks(self) -> Masks:
        """The mask for the module as it is after training."""
        return self._run().masks()

    def slim(self, example: Example | None = None) -> Slimmed:
        """Return the smaller program, as :func:`edgel0.slim` does."""
        return self._run().slim(example)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach gates, before optimizers are made and weights are loaded."""
        if stage != "fit":
            return
        name = type(pl_module).__name__
        if not pl_module.automatic_optimization:
            raise UsageError(
                f"{name} optimizes manually, where Lightning does not say when gradients are whole; use "
                "edgel0.Schedule in its training_step, or automatic_optimization = True."
            )
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise UsageError(
                f"the strategy is {type(trainer.strategy).__name__}, which replaces or spreads the parameters; "
                "L0Pruning runs on one device and with DDP. Use edgel0.Schedule in a loop of your own for others."
            )
        target = pl_module.get_submodule(self.module)
        if self.run is None:
            example = pl_module.example_input_array if self.example is None and not self.module else self.example
            self.run = Run(target, example, self.plan)
        elif self.run.model is not target:
            raise UsageError(
                f"this L0Pruning has put its gates on another {type(self.run.model).__name__} already; make a new "
                "callback for each model."
            )
        pl_module.to(trainer.strategy.root_device)  # where a schedule that is loaded with the weights has to be made

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the gates out of the optimizer, before its state is loaded: no scaler has to unscale them twice."""
        kinds = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        if len(kinds) != 1 or isinstance(trainer.optimizers[0], torch.optim.LBFGS):
            raise UsageError(
                f"configure_optimizers of {type(pl_module).__name__} made {', '.join(kinds) or 'no optimizer'}; "
                "L0Pruning follows the steps of exactly one, which takes one gradient per step (so no LBFGS)."
            )
        for group in trainer.optimizers[0].param_groups:
            group["params"] = [p for p in group["params"] if p is not self._run().gates.log_alpha]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Share the trainer's steps out over the phases, or go on."""
        self._due = False
        self._run().begin(trainer.estimated_stepping_batches, trainer.global_step, trainer.optimizers[0])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Step the gates."""
        self._run().before_step(getattr(trainer.precision_plugin, "scaler", None))
        self._due = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the optimizer's step, if this batch made one."""
        if not self._due:
            return
        self._due = False
        self._run().after_step()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set from outside its class
        if trainer.loggers and every and trainer.global_step % every == 0:
            pl_module.log_dict({f"l0/{name}": value for name, value in self.schedule.figures().items()})
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):  # whose steps count from 0
                    groups(logger.experiment, self.schedule, trainer.global_step - 1)

    def _run(self) -> Run:
        if self.run is None:
            raise UsageError("L0Pruning has no model yet; pass it to a Trainer and fit.")
        return self.run
