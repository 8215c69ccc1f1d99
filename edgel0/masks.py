"""How do gates become a mask, and what does a mask do to a model without removing anything?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgel0.budget import Budget, Limits
from edgel0.capturing import evaluating, unwrap
from edgel0.errors import BudgetError, SlimError, UsageError
from edgel0.gates import Gates, detach, gates_of, has_gates, mean_gate, median_gate, probability_open
from edgel0.reaching import connected, essential, tidy
from edgel0.types import Coupling, Masks

RULE = "median"


def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a deep copy of ``model`` whose closed units are multiplied by zero at every reader.

    The copy has the shapes of the model; it is the reference that :func:`edgel0.slim` must equal. Gates that are
    attached to the model are left behind, their values folded into the weights.
    """
    twin = copy.deepcopy(unwrap(model))
    if has_gates(twin):
        detach(twin)
    weights = tensors(twin, masks.coupling)
    with torch.no_grad():
        for reader in masks.coupling.readers:
            closed = torch.from_numpy(np.flatnonzero(~masks.open[reader.units]))
            weights[reader.parameter].index_fill_(reader.axis, closed.to(weights[reader.parameter].device), 0)
    return twin


def tensors(model: nn.Module, coupling: Coupling) -> dict[str, Tensor]:
    """Look up every parameter and buffer that the traced program names in ``model``; gated ones as gates make them.

    Raises:
        UsageError: the model is not the one that was traced.
    """
    found: dict[str, Tensor] = {}
    with evaluating(model):
        for name, traced in coupling.program.state_dict.items():
            value: Any = model
            for part in name.split("."):
                value = getattr(value, part, None)
            if not isinstance(value, Tensor) or value.shape != traced.shape:
                shape = tuple(value.shape) if isinstance(value, Tensor) else "absent"
                raise UsageError(
                    f"{name!r} is {shape} in this {type(model).__name__}, but {tuple(traced.shape)} in the model that "
                    "was traced; trace this model again and make masks from that coupling."
                )
            found[name] = value
    return found


def stabilize(
    model: nn.Module, budget: Budget | Limits | None = None, *, round_to: int = 1, inputs: Sequence[Any] | None = None
) -> Masks:
    """Turn the gates of ``model`` into a fixed mask that is within the budget, and fold what is left of them.

    A unit stays if P(z != 0) > 1/2 (rule ``median``). Over a limit the least probable open units close; where room is
    left the most probable closed ones (P(z != 0) > 0.31, so that the paper's test-time gate is not zero) open again.
    With ``round_to`` the open units of each group are brought to a multiple, within the budget. The surviving gates'
    values are multiplied into the readers' weights, and from then on the model trains at the mask (*settles*).

    ``Masks.report`` holds ``polarisation``, the share of gates with 0.05 < P < 0.95, and ``output_change``, the largest
    difference of the eval-mode output on ``inputs`` (default: the traced example) that stabilizing made, relative to
    the largest output.

    Raises:
        BudgetError: no mask of the wanted multiples is within the budget.
    """
    model = unwrap(model)
    gates, coupling = gates_of(model), gates_of(model).coupling
    limits = budget.limits if isinstance(budget, Budget) else budget
    log_alpha = gates.log_alpha.detach().cpu()
    probability = np.concatenate([[1.0], probability_open(log_alpha).double().numpy()])
    opened = project(coupling, probability, limits)
    if round_to > 1:
        opened = rounded(coupling, probability, opened, limits, round_to)
    fractional = probability[1:][(probability[1:] > 0.05) & (probability[1:] < 0.95)]
    before = _outputs(model, coupling, inputs)
    _fold(model, gates, opened)
    after = _outputs(model, coupling, inputs)
    report = {
        "polarisation": fractional.size / coupling.units,
        "output_change": _difference(before, after),
    }
    return Masks(coupling, opened, RULE, probability, report)


def project(coupling: Coupling, probability: np.ndarray, limits: Limits | None) -> np.ndarray:
    """Return the mask of rule ``median`` that is connected and within ``limits``, ``(units + 1,)``."""
    protected = np.zeros(coupling.units + 1, bool)
    protected[0] = True
    for units in essential(coupling):
        protected[units[np.argmax(probability[units])]] = True
    opened = (probability > 0.5) | protected
    for _ in range(2):
        opened = tidy(coupling, _within(coupling, probability, opened, protected, limits))
        if connected(coupling, opened):
            return _refilled(coupling, probability, opened, limits)
        for reader in coupling.readers:  # no single group is essential, but together these are
            protected[reader.units[np.argmax(probability[reader.units])]] = True
        opened |= protected
    raise SlimError("the gates closed every path from an input to an output; train longer or at a larger budget.")


def _within(
    coupling: Coupling, probability: np.ndarray, opened: np.ndarray, protected: np.ndarray, limits: Limits | None
) -> np.ndarray:
    """Close as few of the least probable open units as the limits need."""
    if limits is None or limits.fits(opened):
        return opened
    candidates = np.flatnonzero(opened & ~protected)
    candidates = candidates[np.argsort(probability[candidates], kind="stable")]

    def closed(count: int) -> np.ndarray:
        mask = opened.copy()
        mask[candidates[:count]] = False
        return mask

    low, high = 0, len(candidates)  # closed(low) does not fit, closed(high) must
    if not limits.fits(closed(high)):
        raise BudgetError(
            f"keeping one unit wherever the network needs one costs {limits.cost(closed(high))}, over the limits "
            f"{limits.maximum}: the units that the gates prefer are too large. Train longer, or raise the limit."
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if limits.fits(closed(middle)) else (middle, high)
    return closed(high)


def _refilled(coupling: Coupling, probability: np.ndarray, opened: np.ndarray, limits: Limits | None) -> np.ndarray:
    """Open the most probable closed units again while they fit."""
    if limits is None:
        return opened
    closed = np.flatnonzero(~opened & (probability > 0.31))
    for unit in closed[np.argsort(-probability[closed], kind="stable")]:
        trial = opened.copy()
        trial[unit] = True
        if limits.fits(trial) and np.array_equal(tidy(coupling, trial), trial):
            opened = trial
    return opened


def rounded(
    coupling: Coupling, probability: np.ndarray, opened: np.ndarray, limits: Limits | None, multiple: int
) -> np.ndarray:
    """Bring each group's open units to a multiple: down first, then up again, most probable first, while it fits."""
    opened = opened.copy()
    room: list[tuple[float, np.ndarray]] = []
    for group in coupling.groups:
        units = np.arange(group.start, group.stop)
        units = units[np.argsort(-probability[units], kind="stable")]
        count = int(opened[units].sum())
        if not count:
            continue
        least = min(max(count // multiple, 1) * multiple, group.size)
        opened[units] = False
        opened[units[:least]] = True
        room += [
            (float(probability[units[at : at + multiple]].mean()), units[at : at + multiple])
            for at in range(least, group.size - multiple + 1, multiple)
        ]
    if limits is not None and not limits.fits(opened):
        raise BudgetError(
            f"with every group rounded down to a multiple of {multiple} the network costs {limits.cost(opened)}, over "
            f"the limits {limits.maximum}; choose a smaller multiple or raise the limit."
        )
    for mean, block in sorted(room, key=lambda entry: -entry[0]):
        trial = opened.copy()
        trial[block] = True
        if mean > 0.31 and limits is not None and limits.fits(trial):
            opened = trial
    return opened


def _fold(model: nn.Module, gates: Gates, opened: np.ndarray) -> None:
    """Multiply the surviving gates into the readers' raw weights and fix the mask."""
    log_alpha = gates.log_alpha.detach()
    if not bool(gates.fixed) and not gates.held:
        median = median_gate(log_alpha)
        z = torch.cat([median.new_ones(1), torch.where(median > 0, median, mean_gate(log_alpha))])
        kept = torch.from_numpy(opened).to(z.device)
        z = torch.where(kept & (z > 0), z, torch.ones_like(z))
        with torch.no_grad():
            for reader in gates.coupling.readers:
                owner, _, name = reader.parameter.rpartition(".")
                raw = model.get_submodule(owner).parametrizations[name].original
                shape = [-1 if i == reader.axis else 1 for i in range(raw.dim())]
                raw.mul_(z[torch.from_numpy(reader.units).to(z.device)].reshape(shape).to(raw.dtype))
    gates.fix(torch.from_numpy(opened[1:]))


def _outputs(model: nn.Module, coupling: Coupling, inputs: Sequence[Any] | None) -> list[Tensor]:
    args, kwargs = coupling.program.example_inputs if inputs is None else (tuple(inputs), {})
    with evaluating(model), torch.no_grad():
        result = model(*args, **kwargs)
    return [t.double() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    scale = max(float(t.abs().max()) for t in before)
    return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)) / (scale or 1.0)
