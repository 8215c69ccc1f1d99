"""How do gates become a mask, and what does a mask do to a model? Zeros at the readers; nothing is removed yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgel0.attaching import detach
from edgel0.budget import Budget
from edgel0.capturing import Example, arguments, duplicate, evaluating, unwrap
from edgel0.closing import alike
from edgel0.concrete import mean_gate, median_gate, probability_open
from edgel0.errors import SlimError, TrainingError, UsageError
from edgel0.floors import hold
from edgel0.gates import NAME, Gates, gates_of, has_gates
from edgel0.limits import Limits
from edgel0.reaching import connected, essential, smallest, tidy
from edgel0.sharding import replicated, reshard, sharded, whole
from edgel0.types import Coupling, Group, Masks

RULE = "median"
REOPEN = 0.31  # P(z != 0) at which the paper's test-time gate becomes zero


def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a deep copy of ``model`` whose closed units are multiplied by zero at every reader.

    The copy has the shapes of the model; it is the reference that :func:`edgel0.slim` must equal. Gates that are
    attached to the model are left behind, their values folded into the weights.
    """
    model = unwrap(model)
    gathered(model)
    twin = duplicate(model)
    if has_gates(twin):
        detach(twin)
    weights = tensors(twin, masks.coupling)
    with torch.no_grad():
        for reader in masks.coupling.readers:
            closed = torch.from_numpy(np.flatnonzero(~masks.open[reader.units]))
            weights[reader.parameter].index_fill_(reader.axis, closed.to(weights[reader.parameter].device), 0)
    return twin


def gathered(model: nn.Module) -> None:
    """Refuse a model whose parameters are spread over ranks.

    Raises:
        UsageError: they are.
    """
    if any(map(sharded, model.parameters())):
        raise UsageError(
            f"the parameters of this {type(model).__name__} are spread over ranks by fully_shard, and each rank holds "
            "only its part. Gather them with torch.distributed.checkpoint.state_dict.get_model_state_dict "
            "(full_state_dict=True, cpu_offload=True) and load them into a model that was built and gated anew."
        )


def tensors(model: nn.Module, coupling: Coupling) -> dict[str, Tensor]:
    """Look up every parameter and buffer that the traced program names in ``model``; gated ones as gates make them.

    Raises:
        UsageError: the model is not the one that was traced.
    """
    gathered(model)
    found: dict[str, Tensor] = {}
    program = coupling.program
    with evaluating(model):
        for name, traced in (program.state_dict | program.constants).items():
            value: Any = model
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is None and name not in program.state_dict:
                continue  # a tensor that the forward writes out itself
            if not isinstance(traced, Tensor):
                continue
            if not isinstance(value, Tensor) or value.shape != traced.shape:
                shape = tuple(value.shape) if isinstance(value, Tensor) else "absent"
                raise UsageError(
                    f"{name!r} is {shape} in this {type(model).__name__}, but {tuple(traced.shape)} in the model that "
                    "was traced; trace this model again and make masks from that coupling."
                )
            if value.is_meta:
                raise UsageError(
                    f"{name!r} of this {type(model).__name__} is on the meta device and has no values; load them "
                    "first (model.to_empty(device=...) and load_state_dict)."
                )
            found[name] = value
    return found


def stabilize(
    model: nn.Module,
    budget: Budget | Limits | None = None,
    *,
    round_to: int | None = None,
    inputs: Example | None = None,
) -> Masks:
    """Turn the gates of ``model`` into a fixed mask that is within the budget, and fold what is left of them.

    A unit stays if P(z != 0) > 1/2 (rule ``median``). Over a limit the least probable open units close; where room is
    left the most probable closed ones open again, in groups of which nothing else is open only those with
    P(z != 0) > 0.31, for which the paper's test-time gate is not zero.
    With ``round_to`` (by default the budget's; 8 suits the kernels of most CPUs) the open channels of each group are
    brought to a multiple as far as the budget allows (to all of them in a group that is smaller than one multiple),
    never to none, nor below the budget's ``keep_at_least``, which is respected before what the gates say. The surviving
    gates' values are multiplied into the readers' weights, and from then on the model trains at the mask (*settles*).
    Stabilizing again closes further units and, unless multiples need it, opens none.

    ``Masks.report`` holds ``polarisation``, the share of gates with 0.05 < P < 0.95, and ``output_change``, the largest
    difference of the eval-mode output on ``inputs`` (default: the traced example) that stabilizing made, relative to
    the largest output.

    Raises:
        TrainingError: the gates hold values that are not numbers.
    """
    model = unwrap(model)
    reshard(model)
    gates, coupling = gates_of(model), gates_of(model).coupling
    limits = budget.limits if isinstance(budget, Budget) else budget
    log_alpha = whole(gates.log_alpha.detach()).cpu()
    if round_to is None:
        round_to = 1 if limits is None else limits.round_to
    if round_to < 1:
        raise UsageError(f"round_to is {round_to!r}; it must be a whole number from 1.")
    if bool(log_alpha.isnan().any()):
        raise TrainingError("the gates hold values that are not numbers; train again with a lower learning rate.")
    probability = np.concatenate([[1.0], probability_open(log_alpha, gates.temperature).double().numpy()])
    order = probability
    if bool(gates.fixed):
        order = np.where(np.append(True, gates.mask.cpu().numpy()), 0.5 + probability / 2, 0.0)
    opened = project(coupling, order, limits, fill=round_to == 1)
    if round_to > 1:
        opened = rounded(coupling, order, opened, limits, round_to)
    fractional = probability[1:][(probability[1:] > 0.05) & (probability[1:] < 0.95)]
    before = _outputs(model, coupling, inputs)
    _fold(model, gates, opened)
    after = _outputs(model, coupling, inputs)
    report = {
        "polarisation": fractional.size / coupling.units,
        "output_change": _difference(before, after),
    }
    return Masks(coupling, opened, RULE, probability, report)


def project(coupling: Coupling, probability: np.ndarray, limits: Limits | None, *, fill: bool = True) -> np.ndarray:
    """Return the mask of rule ``median`` that is connected and within ``limits``, ``(units + 1,)``.

    Without ``fill`` it leaves room under the limits where only improbable units could take it.
    """
    for protected in _protections(coupling, probability, limits):
        opened = _within(probability, (probability > 0.5) | protected, protected, limits)
        if opened is None:
            continue
        opened = tidy(coupling, opened)
        if connected(coupling, opened) and (limits is None or hold(coupling, limits.floors, opened)):
            return _refilled(coupling, probability, opened, limits, 0.0 if fill else REOPEN)
    raise SlimError("the gates closed every path from an input to an output; train longer or at a larger budget.")


def _protections(coupling: Coupling, probability: np.ndarray, limits: Limits | None) -> Iterator[np.ndarray]:
    """Yield sets of units that keep the network connected, the least restrictive first, as bool ``(units + 1,)``."""
    protected = np.zeros(coupling.units + 1, bool)
    protected[0] = True
    for units in essential(coupling):
        protected[units[np.argmax(probability[units])]] = True
    if limits is not None:
        protected |= limits.anchors(probability)
    yield protected.copy()
    for reader in coupling.readers:  # no single group is essential, but together these are
        protected[reader.units[np.argmax(probability[reader.units])]] = True
    yield protected
    yield smallest(coupling) if limits is None else limits.smallest  # the units that the gates prefer are too large


def _within(
    probability: np.ndarray, opened: np.ndarray, protected: np.ndarray, limits: Limits | None
) -> np.ndarray | None:
    """Close as few of the least probable open units as the limits need; None: the protected ones alone exceed them."""
    if limits is None or limits.fits(opened):
        return opened
    candidates = np.flatnonzero(opened & ~protected)
    candidates = candidates[np.argsort(probability[candidates], kind="stable")]

    def closed(count: int) -> np.ndarray:
        mask: np.ndarray = opened.copy()
        mask[candidates[:count]] = False
        return mask

    low, high = 0, len(candidates)  # closed(low) does not fit, closed(high) must
    if not limits.fits(closed(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if limits.fits(closed(middle)) else (middle, high)
    return closed(high)


def _refilled(
    coupling: Coupling, probability: np.ndarray, opened: np.ndarray, limits: Limits | None, least: float
) -> np.ndarray:
    """Open the most probable closed units again while they fit, up to the limits or down to P(z != 0) = ``least``.

    A group that is closed opens only for a likely unit. Where a unit does not fit, others like it are not tried.
    """
    if limits is None:
        return opened
    filled, full, kind = opened, set(), alike(coupling)
    group = np.append(-1, np.repeat(np.arange(len(coupling.groups)), [g.size for g in coupling.groups]))
    alive = np.array([opened[g.start : g.stop].any() for g in coupling.groups])
    closed = np.flatnonzero(~opened & (probability > least))
    closed = closed[alive[group[closed]] | (probability[closed] > REOPEN)]
    for unit in closed[np.argsort(-probability[closed], kind="stable")]:
        if kind[unit] in full:
            continue
        trial = filled.copy()
        trial[unit] = True
        if not limits.fits(trial):
            full.add(kind[unit])
        elif np.array_equal(tidy(coupling, trial), trial):
            filled = trial
    return filled if connected(coupling, filled) else opened


def rounded(
    coupling: Coupling, probability: np.ndarray, opened: np.ndarray, limits: Limits | None, multiple: int
) -> np.ndarray:
    """Bring each group's open channels to a multiple: down first, then up again, most probable first, while it fits.

    A unit that is many channels wide (a head) counts as so many. A group keeps at least one multiple, and its floor's
    next, or all its units where it has fewer; one that is closed stays closed. Where the limits do not pay for that,
    the groups that are smaller stay as they are.
    """
    ranked = np.where(opened, probability, -1.0)
    needed = np.zeros_like(opened) if limits is None else limits.anchors(ranked)
    for units in essential(coupling):
        needed[units[np.argmax(ranked[units])]] = True
    least, ragged = np.zeros_like(opened), np.zeros_like(opened)
    least[0] = ragged[0] = True
    blocks: list[tuple[bool, float, np.ndarray]] = []
    for group in coupling.groups:
        step = multiple // math.gcd(multiple, _width(coupling, group))
        units = np.arange(group.start, group.stop)
        units = units[np.lexsort((-probability[units], ~opened[units], ~needed[units]))]
        count = int(opened[units].sum())
        if not count:
            continue
        first = max(-(-int(needed[units].sum()) // step), 1) * step
        least[units[:first]] = True
        ragged[units[: min(first, count)]] = True
        for at in range(first, group.size - step + 1, step):
            block = units[at : at + step]
            down, up = at + step <= count, opened[block].any() if limits is None else True
            mean = float(probability[block].mean())
            if down or (up and mean > REOPEN):
                blocks.append((down, mean, block))
        if count < first:
            blocks.append((True, 1.0, units[:first]))
    result = least if limits is None or limits.fits(least) else ragged
    for _, _, block in sorted(blocks, key=lambda entry: entry[:2], reverse=True):
        trial = result.copy()
        trial[block] = True
        if limits is None or limits.fits(trial):
            result = trial
    if not connected(coupling, result) or (limits is not None and not hold(coupling, limits.floors, result)):
        raise SlimError(f"at multiples of {multiple} no path from an input to an output is left; choose a smaller one.")
    return result


def _width(coupling: Coupling, group: Group) -> int:
    """How many channels a unit of a group is: the rows that its writers give to each."""
    widths = [
        int((labels.units == group.start).sum())
        for writer in group.writers
        for labels in coupling.tensors.get(writer, ())
        if (labels.units == group.start).any()
    ]
    return min(widths, default=1)


def _fold(model: nn.Module, gates: Gates, opened: np.ndarray) -> None:
    """Multiply the surviving gates into the readers' raw weights and fix the mask."""
    log_alpha = whole(gates.log_alpha.detach())
    if not bool(gates.fixed) and not gates.held:
        median = median_gate(log_alpha, gates.temperature)
        z = torch.cat([median.new_ones(1), torch.where(median > 0, median, mean_gate(log_alpha))])
        kept = torch.from_numpy(opened).to(z.device)
        z = torch.where(kept & (z > 0), z, torch.ones_like(z))
        with torch.no_grad():
            for reader in gates.coupling.readers:
                owner, _, name = reader.parameter.rpartition(".")
                raw = model.get_submodule(f"{owner}.parametrizations.{name}".lstrip(".")).original
                assert isinstance(raw, Tensor)
                shape = [-1 if i == reader.axis else 1 for i in range(raw.dim())]
                factor = z[torch.from_numpy(reader.units).to(z.device)].reshape(shape).to(raw.dtype)
                raw.mul_(replicated(factor, raw))
    gates.fix(torch.from_numpy(opened[1:]))


def example_of(model: nn.Module, coupling: Coupling) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the traced example where the model is now, and in its type if the model has been cast since."""
    own = [p for name, p in model.named_parameters() if not name.startswith(f"{NAME}.") and p.is_floating_point()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    traced = next((t.dtype for t in coupling.program.state_dict.values() if t.is_floating_point()), None)
    cast = {} if traced in {p.dtype for p in own} or not own else {traced: own[0].dtype}
    moved: tuple[tuple[Any, ...], dict[str, Any]] = torch.utils._pytree.tree_map_only(
        Tensor, lambda t: t.to(device, cast.get(t.dtype, t.dtype)), coupling.program.example_inputs
    )
    return moved


def _outputs(model: nn.Module, coupling: Coupling, inputs: Example | None) -> list[Tensor]:
    args, kwargs = example_of(model, coupling) if inputs is None else arguments(inputs)
    with evaluating(model), torch.no_grad():
        result = model(*args, **kwargs)
    reshard(model)
    return [t.double() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    scale = max(float(t.abs().max()) for t in before)
    return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)) / (scale or 1.0)
