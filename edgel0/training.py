"""How is a recipe trained? Three phases: dense, gating (the target moves), settling at the fixed mask.

Every epoch ends with a checkpoint, written beside its place and renamed; a run that was killed goes on from there, and
ends with the very weights that it would have had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgel0 import __version__, checkpoints
from edgel0.attaching import attach, detach
from edgel0.budget import Budget
from edgel0.capturing import duplicate
from edgel0.distilling import Teacher
from edgel0.errors import RecipeError, TrainingError
from edgel0.gates import gates_of
from edgel0.importing import theirs
from edgel0.limits import Limits
from edgel0.masks import masked
from edgel0.recipe import Recipe
from edgel0.samples import Data, accuracy
from edgel0.scheduling import Schedule
from edgel0.shrinking import restore_
from edgel0.staging import CHECKPOINT
from edgel0.types import PHASES, Masks

TIMED = 50  # the step time that is shown is the median of so many
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups, **kwargs: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **kwargs),
}


@dataclass(frozen=True)
class Tick:
    """Where training is: what a progress bar shows.

    ``groups`` are the open units per group, ``polarisation`` is the share of gates with 0.05 < P(z != 0) < 0.95, and
    ``step_ms`` the median time of the last steps in milliseconds.
    """

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
    groups: dict[str, int] = field(default_factory=dict)
    polarisation: float | None = None
    step_ms: float | None = None


@dataclass(frozen=True)
class Trained:
    """What training leaves: the dense model, the settled one (dense shapes, no gates), its mask and the history.

    ``timings`` has an entry per epoch, as ``history``, with the times it took on this machine. ``refused`` says why the
    model did not shrink while it trained; "" if it did.
    """

    dense: nn.Module
    model: nn.Module
    masks: Masks
    history: tuple[dict[str, Any], ...]
    timings: tuple[dict[str, Any], ...]
    limits: Limits
    refused: str


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
        self.settings = recipe.train
        start = _digest(model.state_dict())
        self.gates = attach(
            model,
            data.x_train[:1],
            open_probability=recipe.gates.open_probability,
            temperature=recipe.gates.temperature,
            exclude=recipe.limits.exclude,
        )
        self.frame = duplicate(model)  # of the full size, whatever becomes of the model
        self.batches = batch_count(len(data.x_train), self.settings.batch_size)
        self.epochs = dict(zip(PHASES, self.settings.phases, strict=True))
        steps = math.ceil(self.batches / self.settings.accumulate)
        self.steps = {phase: epochs * steps for phase, epochs in self.epochs.items()}
        budget = Budget(
            self.gates,
            macs=recipe.limits.macs,
            params=recipe.limits.params,
            size=recipe.limits.size,
            activations=recipe.limits.activations,
            storage=recipe.limits.storage,
            within=recipe.limits.within,
            keep_at_least=recipe.limits.keep_at_least,
            round_to=recipe.limits.round_to,
            warmup=recipe.gates.warmup,
            rate=recipe.gates.multiplier_rate or None,
            steps=self.steps["gating"],
            clamp=recipe.gates.clamp,
        )
        self.schedule = Schedule(
            model,
            budget,
            steps=(self.steps["dense"], self.steps["gating"], self.steps["settle"]),
            gate_lr=recipe.gates.learning_rate or None,
            noise=recipe.gates.noise,
            redundancy=recipe.gates.redundancy,
            shrink=self.settings.shrink,
        )
        self.augment = recipe.function(recipe.augment) if recipe.augment else None
        graph = str(self.gates.coupling.program.graph)
        identity = [recipe.text, data.digest, start, graph, __version__, str(torch.__version__)]
        self.key = hashlib.sha256("\0".join(identity).encode()).digest()
        self.history: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []
        self.dense: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}
        self.teacher = self.taught_by(_built(recipe)) if self.settings.teacher else None
        self.last: deque[float] = deque(maxlen=TIMED)

    def run(self, say: Callable[[str], None]) -> Trained:
        found = checkpoints.load(self.file, self.key)
        saved = None if isinstance(found, str) else found
        if saved:
            say(f"going on after {saved['phase']} epoch {saved['epoch']}")
            self.history, self.timings, self.dense = saved["history"], saved["timings"], saved["dense"]
        elif found:
            say(str(found))
        else:
            for line in self.schedule.budget.limits.describe().splitlines():
                say(f"limit: {line}")
        first = PHASES.index(saved["phase"]) if saved else 0
        for phase in PHASES[first:]:
            if phase != "dense" and self.settings.distill and self.teacher is None:
                self.teacher = self.taught_by(self.plain(self.dense))
            self.phase(phase, saved if saved and saved["phase"] == phase else None)
            if phase == "dense":
                self.dense = {k: v.clone() for k, v in self.model.state_dict().items()}
        settled, masks = self.settled()
        if self.settings.shrink and self.schedule.refused:
            say(f"trained at full size: {self.schedule.refused}")
        return Trained(
            self.plain(self.dense),
            settled,
            masks,
            tuple(self.history),
            tuple(self.timings),
            self.schedule.budget.limits,
            self.schedule.refused,
        )

    def phase(self, phase: str, saved: dict[str, Any] | None) -> None:
        """Train the epochs of a phase that are left, with a checkpoint after each."""
        weights = [p for p in self.model.parameters() if p.requires_grad and p is not self.gates.log_alpha]
        settings = self.settings
        optimizer = OPTIMIZERS[settings.optimizer](
            weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, self.annealed(phase))
        self.schedule.optimizer = optimizer
        if saved:
            self.schedule.load_state_dict(saved["schedule"])
            self.model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            rates.load_state_dict(saved["rates"])
            torch.set_rng_state(saved["rng"])
            self.average = saved["average"]
        for number in range(saved["epoch"] if saved else 0, self.epochs[phase]):
            self.epoch(phase, number, optimizer, rates)
            self.save(phase, number + 1, optimizer, rates)

    # One epoch.

    def epoch(self, phase: str, number: int, optimizer: torch.optim.Optimizer, rates: Any) -> None:
        settings, total, began = self.settings, 0.0, time.perf_counter()
        self.model.train()
        last = began
        for i, loss in enumerate(self.losses(phase, number)):
            group = min(settings.accumulate, self.batches - i // settings.accumulate * settings.accumulate)
            (loss / group).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            if (i + 1) % settings.accumulate == 0 or i + 1 == self.batches:
                self.step(phase, optimizer, rates)
                last, before = time.perf_counter(), last
                self.last.append(1e3 * (last - before))
            self.progress(self.tick(phase, number, (i + 1) / self.batches, total / (i + 1)))
        for name, weight in self.model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise self.diverged(f"{name} holds values that are not finite numbers after {phase} epoch {number + 1}")
        seconds = time.perf_counter() - began
        with self.averaged():
            score = accuracy(self.model, self.data.x_test, self.data.y_test)
        tick = self.tick(phase, number, 1.0, total / self.batches, score)
        self.progress(tick)
        entry = vars(tick)
        self.timings.append({k: entry[k] for k in ("phase", "epoch", "step_ms")} | {"seconds": seconds})
        self.history.append({k: v for k, v in entry.items() if k not in ("done", "step_ms")})

    def losses(self, phase: str, number: int) -> Iterator[Tensor]:
        """Yield the loss of each batch, in an order that the seed, the phase and the epoch decide."""
        data, settings = self.data, self.settings
        order, generator = batches_of(self.recipe, len(data.x_train), phase, number)
        reduced = torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16")
        for i, batch in enumerate(order):
            where = f"{phase} epoch {number + 1}, batch {i + 1}"
            x, y = data.x_train[batch], data.y_train[batch]
            if self.augment is not None:
                x = self.augment(x, generator)
            with theirs(f"the forward of {type(self.model).__name__} in {where}", self.recipe.path.parent), reduced:
                logits = self.model(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=settings.label_smoothing)
            if self.teacher is not None and (phase != "dense" or settings.teacher):
                loss = self.teacher.loss(loss, logits.float(), x, batch)
            if not math.isfinite(float(loss.detach())):
                raise self.diverged(f"the loss became {float(loss.detach())} in {where}")
            yield loss

    def step(self, phase: str, optimizer: torch.optim.Optimizer, rates: Any) -> None:
        """Step gates, weights, learning rate and, while settling, the average of the weights."""
        try:
            self.schedule.before_step()
        except TrainingError as error:
            raise self.diverged(str(error).partition(";")[0].rstrip(".")) from error
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        optimizer.step()
        self.schedule.after_step()
        optimizer.zero_grad(set_to_none=True)
        rates.step()
        if phase == "settle" and self.settings.ema:
            self.average = self.average or {k: v.clone() for k, v in _floats(self.model)}
            for name, value in _floats(self.model):
                self.average[name].lerp_(value, 1 - self.settings.ema)

    def annealed(self, phase: str) -> Callable[[int], float]:
        """Return the factor of the learning rate by step of a phase."""
        steps, dense, whole = max(self.steps[phase], 1), self.steps["dense"], sum(self.steps.values())
        past = {"dense": 0, "gating": dense, "settle": dense + self.steps["gating"]}[phase]
        if self.settings.schedule == "cosine":
            return lambda at: _cosine((past + at) / whole)
        floors = {"dense": 0.1, "gating": 1.0, "settle": 0.0}
        return lambda at: floors[phase] + (1 - floors[phase]) * _cosine(at / steps)

    def diverged(self, found: str) -> TrainingError:
        kept = f" The last good state is kept in {self.file}." if self.file.exists() else ""
        return TrainingError(
            f"{found}.{kept} Lower train.learning_rate ({self.settings.learning_rate:g}), or look for samples that "
            "are not normalised."
        )

    def tick(self, phase: str, number: int, done: float, loss: float, score: float | None = None) -> Tick:
        tick = Tick(phase, number + 1, self.epochs[phase], done, loss, score, step_ms=median(self.last or (0.0,)))
        if phase == "dense":
            return tick
        budget, original = self.schedule.budget, self.schedule.original
        probability = self.schedule.probability_of_original()
        opened = probability > 0.5
        with torch.no_grad():
            cost = {name: float(value) for name, value in budget.expected().items()}
        return dataclasses.replace(
            tick,
            cost=cost,
            target=budget.targets() if phase == "gating" else dict(budget.limits.maximum),
            multiplier=dict(budget.multipliers) if phase == "gating" else {},
            open_units=int(opened[1:].sum()),
            units=original.units,
            groups={group.name: int(opened[group.start : group.stop].sum()) for group in original.groups},
            polarisation=float(((probability > 0.05) & (probability < 0.95)).sum()) / original.units,
        )

    # State.

    def save(self, phase: str, epoch: int, optimizer: torch.optim.Optimizer, rates: Any) -> None:
        state = {
            "phase": phase,
            "epoch": epoch,
            "schedule": self.schedule.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rates": rates.state_dict(),
            "rng": torch.get_rng_state(),
            "average": self.average,
            "dense": self.dense,
            "history": self.history,
            "timings": self.timings,
        }
        checkpoints.save(self.file, self.key, state)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the average of the weights in their place, where there is one."""
        own = {name: value.clone() for name, value in _floats(self.model)} if self.average else {}
        for source, place in ((self.average, "in"), (own, "out")):
            for name, value in _floats(self.model) if source else ():
                value.copy_(source[name])
            if place == "in":
                yield

    def settled(self) -> tuple[nn.Module, Masks]:
        """Return the model as it is now in its first shapes, without gates, and its mask."""
        schedule, masks = self.schedule, self.schedule.masks_of_original
        with self.averaged():
            small = masked(self.model, schedule.masks)
        model = masked(self.frame, masks)
        left = np.isin(np.arange(schedule.original.units + 1), schedule.left)
        restore_(model, small, Masks(schedule.original, left))
        return model, masks

    def plain(self, state: dict[str, Tensor]) -> nn.Module:
        """Return a copy of the model without gates, with the weights of a gated state in which every gate was open."""
        twin = duplicate(self.frame)
        twin.load_state_dict(state)
        gates_of(twin).held = True
        return detach(twin)

    def taught_by(self, teacher: nn.Module) -> Teacher:
        """Return the teacher of this run."""
        settings = self.settings
        return Teacher(
            teacher,
            self.frame,
            self.data,
            temperature=settings.distill_temperature,
            weight=settings.distill_weight,
            augmented=self.augment is not None,
        )


def batch_count(samples: int, size: int) -> int:
    """Return the batches of an epoch. A last one of one sample is left out: batch normalisation cannot train on it."""
    return math.ceil(samples / size) - (1 < size < samples and samples % size == 1)


def batches_of(recipe: Recipe, samples: int, phase: str, number: int) -> tuple[tuple[Tensor, ...], torch.Generator]:
    """Return the sample numbers of each batch of an epoch, and the generator that its augmentation draws from."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + PHASES.index(phase) * 10_007 + number)
    order = torch.split(torch.randperm(samples, generator=generator), recipe.train.batch_size)
    return order[: batch_count(samples, recipe.train.batch_size)], generator


def _built(recipe: Recipe) -> nn.Module:
    """Call the recipe's ``teacher``."""
    teacher = recipe.function(recipe.train.teacher)()
    if not isinstance(teacher, nn.Module):
        raise RecipeError(
            f"{recipe.train.teacher!r} returned {type(teacher).__name__}; a teacher must be a torch.nn.Module."
        )
    return teacher


def _floats(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what of a model's state can be averaged."""
    return ((name, value) for name, value in model.state_dict().items() if value.is_floating_point())


def _digest(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):  # a module's own extra state
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def _cosine(done: float) -> float:
    """Fall from 1 to 0 over a half wave."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
