"""How are networks trained that edgel0 is compared with? As a recipe says: its batches, rates, phases and losses.

The batches of an epoch are those of :func:`edgel0.training.train` to the bit, augmentation included, and so is the rate
of each step. As there, every phase begins with a new optimizer; so does what was pruned, for its parameters are new.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgel0.distilling import Teacher
from edgel0.errors import RecipeError
from edgel0.recipe import Recipe, Training
from edgel0.samples import Data
from edgel0.training import OPTIMIZERS, batch_count, batches_of
from edgel0.types import PHASES
from export.cifar10 import augment

Change = Callable[[nn.Module], nn.Module]
ALIKE = ("accumulate", "clip", "ema", "schedule", "teacher")  # what :func:`trained` takes in one way only


def check(recipe: Recipe) -> None:
    """Refuse a recipe of which the others would not get the same.

    Raises:
        RecipeError: it sets what :func:`trained` does not follow.
    """
    plain = Training(schedule="cosine")
    for name in ALIKE:
        value, same = getattr(recipe.train, name), getattr(plain, name)
        if value != same:
            raise RecipeError(
                f"train.{name} is {value!r}; only {same!r} is the same for every method of this benchmark."
            )


def steps_of(recipe: Recipe, data: Data) -> dict[str, int]:
    """Count the steps of each phase."""
    each = batch_count(len(data.x_train), recipe.train.batch_size)
    return {phase: n * each for phase, n in zip(PHASES, recipe.train.phases, strict=True)}


def batches(recipe: Recipe, data: Data, phase: str, number: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield augmented samples, labels and sample numbers of one epoch of a phase."""
    order, generator = batches_of(recipe, len(data.x_train), phase, number)
    for batch in order:
        yield augment(data.x_train[batch], generator), data.y_train[batch], batch


def trained(
    model: nn.Module,
    recipe: Recipe,
    data: Data,
    phases: tuple[str, ...] = PHASES,
    *,
    teacher: nn.Module | None = None,
    changes: Mapping[int, Change] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """Train some phases and return the model; ``changes`` by step of the whole run replace it just before that step."""
    settings, steps = recipe.train, steps_of(recipe, data)
    whole, each = sum(steps.values()), batch_count(len(data.x_train), settings.batch_size)
    lesson = teacher and _lesson(teacher, model, recipe, data)
    reduced = torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16")
    for phase in phases:
        at = sum(steps[before] for before in PHASES[: PHASES.index(phase)])
        optimizer = _optimizer(model, settings)
        for number in range(steps[phase] // each):
            model.train()
            total = 0.0
            for x, y, batch in batches(recipe, data, phase, number):
                if changes and at in changes:
                    model = changes[at](model).train()
                    optimizer = _optimizer(model, settings)
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * at / whole))
                with reduced:
                    logits = model(x).float()
                loss = F.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
                if lesson:
                    loss = lesson.loss(loss, logits, x, batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += float(loss.detach())
                at += 1
            say(f"{phase} {number + 1}/{steps[phase] // each} loss {total / each:.4f}")
    return model


def _optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    return OPTIMIZERS[settings.optimizer](
        list(model.parameters()), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def _lesson(teacher: nn.Module, model: nn.Module, recipe: Recipe, data: Data) -> Any:
    temperature, weight = recipe.train.distill_temperature, recipe.train.distill_weight
    return Teacher(teacher, model, data, temperature=temperature, weight=weight, augmented=True)
