"""How is a recipe trained? Three phases: dense, gating (the target moves), settling at the fixed mask.

Every epoch ends with a checkpoint, written beside its place and renamed; a run that was killed goes on from there.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgel0 import __version__
from edgel0.budget import Budget
from edgel0.capturing import evaluating
from edgel0.errors import SlimError, TrainingError, UsageError
from edgel0.gates import Gates, attach, detach
from edgel0.masks import masked, stabilize
from edgel0.recipe import Recipe
from edgel0.shrinking import restore_, shrunk
from edgel0.types import Masks

TEMPERATURE = 4.0  # of distillation; the usual value since Hinton et al., arXiv 1503.02531
PHASES = ("dense", "gating", "settle")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups, **kwargs: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **kwargs),
}


@dataclass(frozen=True)
class Data:
    """Training and test samples: ``x`` of shape (samples, ...), ``y`` class numbers of shape (samples,)."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def digest(self) -> str:
        """SHA-256 over all four, shortened to 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for tensor in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()[:16]


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


def as_data(loaded: Any) -> Data:
    """Check what a recipe's ``load`` returned: (x_train, y_train, x_test, y_test), arrays or tensors."""
    if not isinstance(loaded, tuple | list) or len(loaded) != 4:
        raise TrainingError(
            f"the recipe's load function returned {type(loaded).__name__}; it must return four arrays: x_train, "
            "y_train, x_test, y_test."
        )
    x_train, y_train, x_test, y_test = (torch.as_tensor(np.asarray(part)) for part in loaded)
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y) or not len(x):
            raise TrainingError(f"there are {len(x)} {name} samples and {len(y)} labels; equal numbers above 0 are needed.")
        if y.dim() != 1 or y.is_floating_point():
            raise TrainingError(f"the {name} labels are {tuple(y.shape)} {y.dtype}; one class number per sample is needed.")
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise TrainingError(f"the {name} samples hold values that are not finite numbers; clean them first.")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise TrainingError(f"train samples are {tuple(x_train.shape[1:])} and test samples {tuple(x_test.shape[1:])}.")
    kind = torch.float32 if x_train.is_floating_point() else torch.int64
    return Data(x_train.to(kind), y_train.long(), x_test.to(kind), y_test.long())


def check_labels(model: nn.Module, data: Data) -> None:
    """Compare labels with the model's outputs, before any training."""
    with evaluating(model), torch.no_grad():
        try:
            out = model(data.x_train[:1])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise UsageError(
                f"{type(model).__name__} does not run on a sample of shape {tuple(data.x_train[:1].shape)}: "
                f"{str(error).splitlines()[0]}. The data's and the model's shapes must fit."
            ) from error
    if not isinstance(out, Tensor) or out.dim() != 2:
        raise TrainingError("the model's output must be one tensor of shape (samples, classes).")
    for name, y in (("train", data.y_train), ("test", data.y_test)):
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= out.shape[1]:
            raise TrainingError(
                f"the {name} labels run from {low} to {high}, and the model has {out.shape[1]} outputs, for labels 0 to "
                f"{out.shape[1] - 1}. Give the model more outputs, or renumber the labels."
            )


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 500) -> float:
    """Share of right top-1 answers in eval mode."""
    with evaluating(model), torch.no_grad():
        right = sum(
            int((model(part).argmax(1) == labels).sum()) for part, labels in zip(x.split(batch), y.split(batch), strict=True)
        )
    return right / len(y)


def train(
    recipe: Recipe, model: nn.Module, data: Data, work: Path, progress: Callable[[Tick], None] = lambda tick: None
) -> Trained:
    """Train ``model`` as ``recipe`` says, with checkpoints in the folder ``work``; go on from one that fits.

    Raises:
        BudgetError: a limit cannot be reached; said before training begins.
        TrainingError: the loss is not a finite number; the last good checkpoint stays.
    """
    return _Run(recipe, model, data, work, progress).run()


class _Run:
    """One training run: what a checkpoint holds, and the three phases."""

    def __init__(self, recipe: Recipe, model: nn.Module, data: Data, work: Path, progress: Callable[[Tick], None]) -> None:
        self.recipe, self.model, self.data, self.progress = recipe, model, data, progress
        self.file = work / "checkpoint.pt"
        self.gates: Gates = attach(model, data.x_train[:1], open_probability=recipe.gates.open_probability)
        self.batches = math.ceil(len(data.x_train) / recipe.train.batch_size)
        self.budget = Budget(
            self.gates,
            macs=recipe.limits.macs,
            params=recipe.limits.params,
            size=recipe.limits.size,
            steps=self.batches * recipe.train.gating_epochs,
            warmup=recipe.gates.warmup,
        )
        self.key = hashlib.sha256(
            "\n".join([recipe.text, data.digest, __version__, str(torch.__version__)]).encode()
        ).hexdigest()
        self.history: list[dict[str, Any]] = []
        self.dense: dict[str, Tensor] = {}
        self.soft: Tensor | None = None
        self.masks: Masks | None = None

    def run(self) -> Trained:
        saved = self.load()
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
        weights = [p for p in self.model.parameters() if p is not self.gates.log_alpha]
        optimizer = self.optimizer(weights)
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
            opened = saved["mask"].numpy()
            self.masks = Masks(self.gates.coupling, opened, saved["rule"], saved["probability"].numpy(), saved["report"])
        assert self.masks is not None
        settled = masked(self.model, self.masks)
        try:
            small, shrank = shrunk(settled, self.masks), True
        except SlimError:  # its forward writes sizes out: train at the full size, masked
            small, shrank = self.model, False
        weights = [p for p in small.parameters() if p.requires_grad]
        optimizer = self.optimizer(weights)
        schedule = _cosine(optimizer, settings.settle_epochs * self.batches, floor=0.0)
        for epoch in self.epochs("settle", settings.settle_epochs, small, optimizer, schedule, saved):
            self.epoch("settle", epoch, settings.settle_epochs, small, optimizer, schedule)
        if shrank:
            restore_(settled, small, self.masks)
        else:
            settled = masked(self.model, self.masks)
        return settled, shrank

    # One epoch.

    def epoch(
        self, phase: str, number: int, epochs: int, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any
    ) -> None:
        data, settings, gating = self.data, self.recipe.train, phase == "gating"
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + PHASES.index(phase) * 10_007 + number)
        model.train()
        total = 0.0
        for i, batch in enumerate(torch.randperm(len(data.x_train), generator=generator).split(settings.batch_size)):
            logits = model(data.x_train[batch])
            loss = F.cross_entropy(logits, data.y_train[batch], label_smoothing=settings.label_smoothing)
            if self.soft is not None and phase != "dense":
                loss = (1 - settings.distill) * loss + settings.distill * _soft_loss(logits, self.soft[batch])
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} in {phase} epoch {number + 1}, batch {i + 1}. The last good state is kept "
                    f"in {self.file}. Lower train.learning_rate ({settings.learning_rate:g}), or look for samples that "
                    "are not normalised."
                )
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
        score = accuracy(model, data.x_test, data.y_test)
        tick = self.tick(phase, number, epochs, 1.0, total / self.batches, score)
        self.progress(tick)
        self.history.append({k: v for k, v in vars(tick).items() if k != "done"})

    def tick(
        self, phase: str, number: int, epochs: int, done: float, loss: float, score: float | None = None
    ) -> Tick:
        if phase == "dense":
            return Tick(phase, number + 1, epochs, done, loss, score)
        units = self.gates.coupling.units
        if phase == "settle":
            assert self.masks is not None
            cost = self.budget.limits.cost(self.masks.open)
            return Tick(phase, number + 1, epochs, done, loss, score, cost, dict(self.budget.limits.maximum), {},
                        int(self.masks.open[1:].sum()), units)
        with torch.no_grad():
            probability = self.gates.probability()
            cost = {metric: float(value) for metric, value in self.budget.expected().items()}
        return Tick(
            phase, number + 1, epochs, done, loss, score, cost, self.budget.targets(), dict(self.budget.multipliers),
            int((probability > 0.5).sum()), units,
        )

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
            "key": self.key,
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
            }
        beside = self.file.with_suffix(".partial")
        torch.save(state, beside)
        os.replace(beside, self.file)

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint, if there is one of this very recipe, data and version."""
        try:
            saved: dict[str, Any] = torch.load(self.file, weights_only=True)
        except FileNotFoundError:
            return None
        except (RuntimeError, EOFError, ValueError, OSError):  # written by another version, or damaged: begin anew
            return None
        if saved.get("key") != self.key:
            return None
        self.history, self.dense = saved["history"], saved["dense"]
        if saved["phase"] == "settle":
            self.model.load_state_dict(saved["gated"])
        return saved

    def plain(self, state: dict[str, Tensor]) -> nn.Module:
        """A copy of the model without gates, with the weights of a gated state in which every gate was open."""
        twin = copy.deepcopy(self.model)
        twin.load_state_dict(state)
        gates = next(m for m in twin.modules() if isinstance(m, Gates))
        gates.held = True
        return detach(twin)

    def logits(self, teacher: nn.Module) -> Tensor:
        with evaluating(teacher), torch.no_grad():
            return torch.cat([teacher(part) for part in self.data.x_train.split(500)])


def _soft_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """KL divergence to the teacher at a raised temperature, scaled to keep the gradient's size."""
    student, teacher = F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(soft / TEMPERATURE, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * TEMPERATURE**2


def _cosine(optimizer: torch.optim.Optimizer, steps: int, floor: float) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(at / max(steps, 1), 1.0)))
    )
