"""What if integers cost more accuracy than a recipe allows? The slim network is trained on, with their rounding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from edgel0.distilling import soft_loss
from edgel0.errors import TrainingError
from edgel0.exporters.rehearsing import hold_ranges, learned, rehearsal
from edgel0.recipe import Recipe
from edgel0.samples import Data
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.training import OPTIMIZERS, Trained, batches_of
from edgel0.types import Masks, Slimmed

AFTER = 1_000  # epochs of the settle phase are counted from 0, these from here: they have orders of their own
MOVING = 0.5  # of the steps; then the ranges of activations are held, so that weights can fit them


def retrained(
    recipe: Recipe, trained: Trained, slimmed: Slimmed, data: Data, say: Callable[[str], None] = lambda text: None
) -> Slimmed:
    """Return the slim network after ``export.qat_epochs`` more epochs, in which it rounds as its integer file will.

    Its teacher is itself: the loss is the recipe's, and the distance to the logits that ``slimmed`` has for a sample.

    Raises:
        TrainingError: the loss is not a finite number, or there are fewer samples than a batch.
    """
    settings, epochs = recipe.train, recipe.export.qat_epochs
    size = min(settings.batch_size, len(data.x_train))
    coupling = trace(trained.model, data.x_train[:size], exclude=recipe.limits.exclude)
    wide = slim(trained.model, Masks(coupling, trained.masks.open)).program
    module, plain = rehearsal(wide), wide.module(check_guards=False)
    rate = recipe.export.qat_learning_rate or 0.1 * settings.learning_rate
    optimizer = OPTIMIZERS[settings.optimizer](module.parameters(), lr=rate, weight_decay=settings.weight_decay)
    steps = max(epochs * (len(data.x_train) // size), 1)
    at = 0
    for number in range(epochs):
        total = count = 0.0
        for x, y in _batches(recipe, data, number, size):
            if at == int(MOVING * steps):
                hold_ranges(module)
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * at / steps))
            with torch.no_grad():
                soft = plain(x)
            loss = _loss(module(x)[0], soft, y, settings.label_smoothing)
            if not math.isfinite(float(loss.detach())):
                raise TrainingError(
                    f"the loss became {float(loss.detach())} in epoch {number + 1} with the rounding of integers; "
                    f"lower export.qat_learning_rate ({rate:g})."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, count, at = total + float(loss.detach()), count + 1, at + 1
        say(f"training with integers' rounding: epoch {number + 1}/{epochs}, loss {total / max(count, 1):.4f}")
    told = {"epochs": epochs, "learning_rate": rate, "steps": at}
    provenance = slimmed.provenance | {"quantization_aware_training": told}
    return dataclasses.replace(slimmed, program=learned(slimmed.program, module), provenance=provenance)


def _batches(recipe: Recipe, data: Data, number: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the full batches of an epoch; the traced program takes no smaller ones."""
    augment = recipe.function(recipe.augment) if recipe.augment else None
    order, generator = batches_of(recipe, len(data.x_train), "settle", AFTER + number)
    for batch in order:
        if len(batch) == size:
            x = data.x_train[batch]
            yield (x if augment is None else augment(x, generator)), data.y_train[batch]


def _loss(logits: Tensor, soft: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Half of what the labels say, half of what the network without rounding does."""
    labels = F.cross_entropy(logits, y, label_smoothing=smoothing)
    return 0.5 * labels + 0.5 * soft_loss(logits, soft, 1.0)
