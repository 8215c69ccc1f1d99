"""What does a teacher add to the loss? The distance to its logits, softened by a temperature (arXiv 1503.02531)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgel0.capturing import evaluating
from edgel0.errors import TrainingError
from edgel0.samples import Data


class Teacher:
    """A model in eval mode whose logits a student learns beside the labels.

    ``weight`` is the share of the loss that the teacher has, ``temperature`` divides both sides' logits. Logits of the
    training samples are computed once, unless the samples change with every epoch (``augmented``).

    Raises:
        TrainingError: the teacher's outputs are not of the student's shape.
    """

    def __init__(
        self, model: nn.Module, student: nn.Module, data: Data, *, temperature: float, weight: float, augmented: bool
    ) -> None:
        self.model, self.temperature, self.weight = model, temperature, weight
        some = data.x_train[:2]
        with evaluating(student), torch.no_grad():
            expected = student(some)
        found = self.logits(some)
        if not isinstance(found, Tensor) or found.shape != expected.shape:
            kind = f"outputs of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TrainingError(
                f"the teacher {type(model).__name__} gives {kind} for two samples and the model {tuple(expected.shape)}"
                "; a teacher must have the model's own outputs: logits of the same classes."
            )
        self.known = None if augmented else torch.cat([self.logits(part) for part in torch.split(data.x_train, 500)])

    def logits(self, x: Tensor) -> Tensor:
        """Return the teacher's logits of a batch, without gradient."""
        with evaluating(self.model), torch.no_grad():
            found: Tensor = self.model(x)
        return found

    def loss(self, loss: Tensor, logits: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        """Mix the student's ``loss`` with the distance of its ``logits`` for samples ``x``, numbers ``batch``."""
        soft = self.logits(x) if self.known is None else self.known[batch]
        return (1 - self.weight) * loss + self.weight * soft_loss(logits, soft, self.temperature)


def soft_loss(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """KL divergence to the teacher at a temperature, times its square, which keeps the gradient's size."""
    student, teacher = F.log_softmax(logits / temperature, 1), F.log_softmax(soft / temperature, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
