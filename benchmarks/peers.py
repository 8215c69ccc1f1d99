"""What does Torch-Pruning make of the same network? Its criteria, its global ranking, our count of MACs.

Settings are those that its documentation recommends: ``global_pruning``, importance normalised by the mean of a group,
the classifier ignored. The ratio is searched on copies: the fewest channels that bring the MACs below the limit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.resnets import macs_of, widths_of

CRITERIA = ("l1", "bn", "taylor")
GRADIENTS = 10  # batches whose gradients the Taylor criterion adds up, as in Torch-Pruning's own benchmarks
SEARCH = 16  # steps of the coarse search, before bisection

Batches = Iterable[tuple[Tensor, Tensor, Tensor]]


def importance(criterion: str) -> Any:
    """Return Torch-Pruning's importance of a name of ``CRITERIA``."""
    import torch_pruning as tp

    return {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1, normalizer="mean"),
        "bn": lambda: tp.importance.BNScaleImportance(normalizer="mean"),
        "taylor": lambda: tp.importance.GroupTaylorImportance(normalizer="mean"),
    }[criterion]()


def pruned(model: nn.Module, criterion: str, limit: float, batches: Batches) -> nn.Module:
    """Return a pruned copy of a :class:`ResNet8` with at most ``limit`` MACs and as many of them as may be.

    ``batches`` are what the Taylor criterion's gradients are made on; the first ``GRADIENTS`` of them.

    Raises:
        ValueError: no ratio leaves so few MACs.
    """
    model = copy.deepcopy(model).eval()
    if macs_of(widths_of(model)) <= limit:
        return model
    gradients = _gradients(model, batches) if criterion == "taylor" else {}
    channels = sum(widths_of(model))

    def cut(count: int) -> nn.Module:
        return _cut(model, criterion, count / channels, gradients)

    def fits(count: int) -> bool:
        return macs_of(widths_of(cut(count))) <= limit

    # A ratio that would empty a group leaves it whole: MACs fall with the ratio up to there only, so the search for one
    # that fits begins below.
    low, step = 0, -(-channels // SEARCH)
    high = next((count for count in range(step, channels, step) if fits(count)), None)
    if high is None:
        raise ValueError(f"Torch-Pruning leaves more than {limit:,.0f} MACs at every ratio")
    low = high - step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return cut(high)


def _gradients(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    for (x, y, _), _ in zip(batches, range(GRADIENTS), strict=False):
        F.cross_entropy(model(x), y).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _cut(model: nn.Module, criterion: str, ratio: float, gradients: dict[str, Tensor]) -> nn.Module:
    """Prune a copy once by a ratio of all its channels, ranked together."""
    import torch_pruning as tp

    twin = copy.deepcopy(model)
    for name, parameter in twin.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    pruner = tp.pruner.BasePruner(
        twin,
        torch.zeros(1, 3, 32, 32),
        importance=importance(criterion),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[twin.fc],
    )
    pruner.step()
    twin.zero_grad(set_to_none=True)
    return twin


def in_steps(
    criterion: str, dense: int, limit: float, places: list[int], batches: Callable[[], Batches]
) -> dict[int, Callable[[nn.Module], nn.Module]]:
    """Return a change per place, in steps of training, that lead from ``dense`` to ``limit`` MACs in equal parts."""

    def change(target: float) -> Callable[[nn.Module], nn.Module]:
        return lambda model: pruned(model, criterion, target, batches())

    count = len(places)  # of places that coincide, in a very short run, the last one counts
    return {place: change(dense - (dense - limit) * (i + 1) / count) for i, place in enumerate(places)}
