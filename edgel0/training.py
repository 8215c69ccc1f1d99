"""How is a recipe trained? Three phases: dense, gating (the target moves), settling at the fixed mask.

Every epoch ends with a checkpoint, written beside its place and renamed; a run that was killed goes on from there, and
ends with the very weights that it would have had.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgel0 import __version__, checkpoints
from edgel0.budget import Budget
from edgel0.capturing import duplicate, evaluating
from edgel0.errors import SlimError, TrainingError
from edgel0.gates import attach, detach, gates_of
from edgel0.importing import theirs
from edgel0.masks import masked, stabilize
from edgel0.recipe import Recipe
from edgel0.samples import Data, accuracy
from edgel0.shrinking import restore_, shrunk
from edgel0.staging import CHECKPOINT
from edgel0.types import Masks

TEMPERATURE = 4.0  # of distillation; the usual value since Hinton et al., arXiv 1503.02531
PHASES = ("dense", "gating", "settle")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups, **kwargs: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **kwargs),
}


@dataclass(frozen=True)
class Tick:
    """Where training is: what a progress bar shows."""

    phase: str
    epoch: int
    epochs: int
    done: float
    loss: float
    accuracy: float | None = None
    cost: dict[str, float] = field(default_factory=dict)
    target: dict[str, float] = field(default_factory=dict)
    multiplier: dict[str, float] = field(default_factory=dict)
    open_units: int | None = None
    units: int | None = None


@dataclass(frozen=True)
class Trained:
    """What training leaves: the dense model, the settled model (dense shapes, no gates), its mask and the history."""

    dense: nn.Module
    model: nn.Module
    masks: Masks
    history: tuple[dict[str, Any], ...]
    limits: dict[str, float]
    shrunk: bool


def train(
    recipe: Recipe,
    model: nn.Module,
    data: Data,
    work: Path,
    progress: Callable[[Tick], None] = lambda tick: None,
    say: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Train ``model`` as ``recipe`` says, with checkpoints in the folder ``work``; go on from one that fits.

    Raises:
        BudgetError: a limit cannot be reached; said before training begins.
        TrainingError: the loss or a weight is not a finite number; the last good checkpoint stays.
    """
    return _Run(recipe, model, data, work / CHECKPOINT, progress).run(say)


class _Run:
    """One training run: what a checkpoint holds, and the three phases."""

    def __init__(
        self, recipe: Recipe, model: nn.Module, data: Data, file: Path, progress: Callable[[Tick], None]
    ) -> None:
        self.recipe, self.model, self.data, self.file, self.progress = recipe, model, data, file, progress
        start = _digest(model.state_dict())
        self.gates = attach(model, data.x_train[:1], open_probability=recipe.gates.open_probability)
        # A last batch of one sample is left out: batch normalisation cannot train on it.
        size, count = recipe.train.batch_size, len(data.x_train)
        self.batches = math.ceil(count / size) - (1 < size < count and count % size == 1)
        self.budget = Budget(
            self.gates,
            macs=recipe.limits.macs,
            params=recipe.limits.params,
            size=recipe.limits.size,
            steps=self.batches * recipe.train.gating_epochs,
            warmup=recipe.gates.warmup,
        )
        graph = str(self.gates.coupling.program.graph)
        identity = [recipe.text, data.digest, start, graph, __version__, str(torch.__version__)]
        self.key = hashlib.sha256("\0".join(identity).encode()).digest()
        self.history: list[dict[str, Any]] = []
        self.dense: dict[str, Tensor] = {}
        self.soft: Tensor | None = None
        self.masks: Masks | None = None

    def run(self, say: Callable[[str], None]) -> Trained:
        found = checkpoints.load(self.file, self.key)
        saved = None if isinstance(found, str) else found
        if saved:
            say(f"going on after {saved['phase']} epoch {saved['epoch']}")
            self.history, self.dense = saved["history"], saved["dense"]
        elif found:
            say(str(found))
        first = PHASES.index(saved["phase"]) if saved else 0
        if first == 0:
            self.phase_dense(saved)
        dense = self.plain(self.dense)
        if self.recipe.train.distill:
            self.soft = self.logits(dense)
        if first <= 1:
            self.phase_gating(saved if first == 1 else None)
        settled, shrank = self.phase_settle(saved if first == 2 else None)
        assert self.masks is not None
        return Trained(dense, settled, self.masks, tuple(self.history), dict(self.budget.limits.maximum), shrank)

    # Phases.

    def phase_dense(self, saved: dict[str, Any] | None) -> None:
        self.gates.held = True
        settings = self.recipe.train
        optimizer = self.optimizer([p for p in self.model.parameters() if p is not self.gates.log_alpha])
        schedule = _cosine(optimizer, settings.dense_epochs * self.batches, floor=0.1)
        for epoch in self.epochs("dense", settings.dense_epochs, self.model, optimizer, schedule, saved):
            self.epoch("dense", epoch, settings.dense_epochs, self.model, optimizer, schedule)
        self.gates.held = False
        self.dense = {k: v.clone() for k, v in self.model.state_dict().items()}

    def phase_gating(self, saved: dict[str, Any] | None) -> None:
        settings = self.recipe.train
        steps = settings.gating_epochs * self.batches
        gate_lr = self.recipe.gates.learning_rate or min(max(60 / steps, 0.01), 0.1)
        groups = self.gates.parameter_groups(
            self.model, lr=settings.learning_rate, gate_lr=gate_lr, weight_decay=settings.weight_decay
        )
        optimizer = self.optimizer(groups)
        for epoch in self.epochs("gating", settings.gating_epochs, self.model, optimizer, None, saved):
            self.epoch("gating", epoch, settings.gating_epochs, self.model, optimizer, None)
        self.masks = stabilize(self.model, self.budget, round_to=self.recipe.gates.round_to)

    def phase_settle(self, saved: dict[str, Any] | None) -> tuple[nn.Module, bool]:
        settings = self.recipe.train
        if saved:
            self.model.load_state_dict(saved["gated"])
            opened = saved["mask"].numpy()
            self.masks = Masks(
                self.gates.coupling, opened, saved["rule"], saved["probability"].numpy(), saved["report"]
            )
        assert self.masks is not None
        settled = masked(self.model, self.masks)
        small = None if saved and not saved["shrank"] else self.small(settled)
        trained = self.model if small is None else small
        optimizer = self.optimizer(
            [p for p in trained.parameters() if p.requires_grad and p is not self.gates.log_alpha]
        )
        schedule = _cosine(optimizer, settings.settle_epochs * self.batches, floor=0.0)
        for epoch in self.epochs("settle", settings.settle_epochs, trained, optimizer, schedule, saved):
            self.epoch("settle", epoch, settings.settle_epochs, trained, optimizer, schedule)
        if small is None:
            return masked(self.model, self.masks), False
        restore_(settled, small, self.masks)
        return settled, True

    def small(self, settled: nn.Module) -> nn.Module | None:
        """Return the model at its smaller size, or None where its forward writes sizes out."""
        assert self.masks is not None
        try:
            return shrunk(settled, self.masks)
        except SlimError:
            return None

    # One epoch.

    def epoch(
        self, phase: str, number: int, epochs: int, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any
    ) -> None:
        data, settings, gating = self.data, self.recipe.train, phase == "gating"
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + PHASES.index(phase) * 10_007 + number)
        order = torch.randperm(len(data.x_train), generator=generator)
        model.train()
        total = 0.0
        for i, batch in enumerate(torch.split(order, settings.batch_size)[: self.batches]):
            where = f"{phase} epoch {number + 1}, batch {i + 1}"
            with theirs(f"the forward of {type(model).__name__} in {where}", self.recipe.path.parent):
                logits = model(data.x_train[batch])
            loss = F.cross_entropy(logits, data.y_train[batch], label_smoothing=settings.label_smoothing)
            if self.soft is not None and phase != "dense":
                loss = (1 - settings.distill) * loss + settings.distill * _soft_loss(logits, self.soft[batch])
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self.diverged(f"the loss became {value} in {where}")
            if gating:
                loss = loss + self.budget.penalty()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if gating:
                self.budget.step()
            if schedule is not None:
                schedule.step()
            total += value
            self.progress(self.tick(phase, number, epochs, (i + 1) / self.batches, total / (i + 1)))
        for name, weight in model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise self.diverged(f"{name} holds values that are not finite numbers after {phase} epoch {number + 1}")
        score = accuracy(model, data.x_test, data.y_test)
        tick = self.tick(phase, number, epochs, 1.0, total / self.batches, score)
        self.progress(tick)
        self.history.append({k: v for k, v in vars(tick).items() if k != "done"})

    def diverged(self, found: str) -> TrainingError:
        kept = f" The last good state is kept in {self.file}." if self.file.exists() else ""
        return TrainingError(
            f"{found}.{kept} Lower train.learning_rate ({self.recipe.train.learning_rate:g}), or look for samples that "
            "are not normalised."
        )

    def tick(self, phase: str, number: int, epochs: int, done: float, loss: float, score: float | None = None) -> Tick:
        if phase == "dense":
            return Tick(phase, number + 1, epochs, done, loss, score)
        limits, units = self.budget.limits, self.gates.coupling.units
        if phase == "settle":
            assert self.masks is not None
            cost, opened = limits.cost(self.masks.open), int(self.masks.open[1:].sum())
            return Tick(phase, number + 1, epochs, done, loss, score, cost, dict(limits.maximum), {}, opened, units)
        with torch.no_grad():
            opened = int((self.gates.probability() > 0.5).sum())
            cost = {metric: float(value) for metric, value in self.budget.expected().items()}
        multipliers = dict(self.budget.multipliers)
        targets = self.budget.targets()
        return Tick(phase, number + 1, epochs, done, loss, score, cost, targets, multipliers, opened, units)

    # State.

    def optimizer(self, groups: Any) -> torch.optim.Optimizer:
        settings = self.recipe.train
        return OPTIMIZERS[settings.optimizer](groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def epochs(
        self, phase: str, count: int, model: nn.Module, optimizer: Any, schedule: Any, saved: dict[str, Any] | None
    ) -> Iterator[int]:
        """Restore a checkpoint of this phase, then yield epoch numbers and save after each."""
        begin = 0
        if saved:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            if schedule is not None:
                schedule.load_state_dict(saved["schedule"])
            self.budget.load_state_dict(saved["budget"])
            torch.set_rng_state(saved["rng"])
            begin = saved["epoch"]
        for epoch in range(begin, count):
            yield epoch
            self.save(phase, epoch + 1, model, optimizer, schedule)

    def save(self, phase: str, epoch: int, model: nn.Module, optimizer: Any, schedule: Any) -> None:
        state = {
            "phase": phase,
            "epoch": epoch,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict() if schedule is not None else {},
            "budget": self.budget.state_dict(),
            "rng": torch.get_rng_state(),
            "dense": self.dense,
            "history": self.history,
        }
        if phase == "settle":
            assert self.masks is not None and self.masks.probability is not None
            state |= {
                "mask": torch.from_numpy(self.masks.open),
                "rule": self.masks.rule,
                "probability": torch.from_numpy(self.masks.probability),
                "report": self.masks.report,
                "gated": self.model.state_dict(),
                "shrank": model is not self.model,
            }
        checkpoints.save(self.file, self.key, state)

    def plain(self, state: dict[str, Tensor]) -> nn.Module:
        """Return a copy of the model without gates, with the weights of a gated state in which every gate was open."""
        twin = duplicate(self.model)
        twin.load_state_dict(state)
        gates_of(twin).held = True
        return detach(twin)

    def logits(self, teacher: nn.Module) -> Tensor:
        with evaluating(teacher), torch.no_grad():
            return torch.cat([teacher(part) for part in torch.split(self.data.x_train, 500)])


def _digest(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):  # a module's own extra state
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def _soft_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """KL divergence to the teacher at a raised temperature, scaled to keep the gradient's size."""
    student, teacher = F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(soft / TEMPERATURE, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * TEMPERATURE**2


def _cosine(optimizer: torch.optim.Optimizer, steps: int, floor: float) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(at / max(steps, 1), 1.0)))
    )
