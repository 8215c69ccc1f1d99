"""Which units go when no gates are trained? The least important, by weights or by gradients, down to the budget."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgel0.budget import Budget
from edgel0.capturing import unwrap
from edgel0.concrete import LIMIT, log_alpha_of
from edgel0.errors import UsageError, nearest
from edgel0.gates import Gates
from edgel0.limits import Limits
from edgel0.masks import gathered, masked, project, rounded, tensors
from edgel0.sharding import replicated
from edgel0.types import Coupling, Labels, Masks

PER = {"magnitude": "unit", "taylor": "cost"}  # criterion -> what its importance is compared per
ROUNDS = 8
Loss = Callable[[nn.Module], Tensor | Iterable[Tensor]]
Wanted = Budget | Limits | Mapping[str, Any] | str | float


def rank(
    coupling: Coupling,
    model: nn.Module,
    by: str = "magnitude",
    *,
    budget: Wanted,
    loss: Loss | Iterable[Loss] | None = None,
    start: Masks | None = None,
    per: str | None = None,
    rounds: int | None = None,
) -> Masks:
    """Close the least important units of ``model``, gated or not, until every limit holds; the model is left as it is.

    ``budget`` is a :class:`Budget`, :class:`Limits`, its keywords as a mapping (``{"macs": 0.25, "params": "60 k"}``),
    or one number or string: MACs. The mask is within every limit and keeps the outputs connected; what room is left is
    filled with the most important units that fit. ``by`` is a criterion of :func:`importance`, which ``loss`` is for.
    Ranking again with ``start=masks``, after training at that mask, closes further units only (with ``round_to`` it may
    open some to complete a multiple).

    ``per="unit"`` closes in the order of importance; ``per="cost"`` in that of importance over what closing the unit
    saves, in shares of the exceeded limits (the greedy order of the knapsack problem). The default is "cost" for
    ``taylor``, whose importance is an estimated rise of the loss that a price can be set against, and "unit" for
    ``magnitude``, as in the literature: its importance is relative to the unit's own group.

    In each of the ``rounds`` the limits come nearer by an equal factor and importance is found anew at the mask so far:
    to first order a unit knows nothing of what closes beside it. The default is 8 for ``taylor`` with a loss, else 1.

    Raises:
        BudgetError: the limits cannot be reached.
        UsageError: limits that units of ``start`` alone cannot reach, or wrong arguments (see :func:`importance`).
    """
    limits, allowed = _limits(coupling, budget), _start(coupling, start)
    per = _known("per", PER[_known("by", by, PER)] if per is None else per, ("unit", "cost"))
    stored = by == "taylor" and loss is None
    rounds = (1 if stored or by == "magnitude" else ROUNDS) if rounds is None else rounds
    if rounds < 1 or (stored and rounds > 1):
        raise UsageError(
            f"rounds is {rounds!r}; a whole number from 1 is needed, and 1 where stored gradients are used."
        )
    loss = loss if loss is None or callable(loss) else [*loss]
    opened, order = allowed, np.zeros(allowed.size)
    for at in range(rounds):
        score = importance(coupling, model, by, loss=loss, start=Masks(coupling, opened))
        if per == "cost":
            saved = _saved(limits, opened)
            score = np.divide(score, saved, out=np.full_like(score, np.inf), where=saved > 0)
        places = np.empty(score.size)
        places[np.argsort(score, kind="stable")] = np.arange(1, score.size + 1)
        order[opened] = (0.5 + 0.5 * places / places.size)[opened]  # all that is open wants to stay
        order[0] = 1.0
        result = project(coupling, order, _eased(limits, allowed, (at + 1) / rounds))
        filling = 0.4 + 0.1 * (at + order) / (rounds + 1)  # what room is left is for what closed last
        order = np.where(opened & ~result, filling, order)
        opened = result
    if (opened & ~allowed).any():
        raise UsageError(
            f"the limits {limits.maximum} cannot be reached by closing further units of the start, which has "
            f"{limits.cost(allowed)}; raise the limits, or rank without a start."
        )
    if limits.round_to > 1:
        opened = rounded(coupling, order, opened, limits, limits.round_to)
    return Masks(coupling, opened, "rank")


def importance(
    coupling: Coupling,
    model: nn.Module,
    by: str = "magnitude",
    *,
    loss: Loss | Iterable[Loss] | None = None,
    start: Masks | None = None,
) -> np.ndarray:
    """Return how much each unit matters, float64 of shape ``(units + 1,)``; entry 0, the pinned rest, is infinite.

    Units that ``start`` closes count 0, and with them their share in the weights of others.

    ``magnitude``: the L2 norm of all slices of parameters that belong to the unit, in whatever writes, normalises or
    reads it, over the mean of that norm in its group (group-level magnitude of arXiv 2301.12900). A group's layers
    differ in scale from another's for reasons that say nothing of use, so groups are brought to one mean.

    ``taylor``: ``|d loss / d gate|`` at a gate of 1, the loss's rise to first order when the unit closes (arXiv
    1906.10771, equation 8). Gates stand at the readers' weights, so it is exactly the sum of weight times gradient over
    the slices that *read* the unit; over several batches the root of the mean of its squares. ``loss(model)`` returns
    a scalar loss, or yields one per batch, of the model that it is given: a copy in eval mode, without gates and masked
    by ``start``, so that batch norm uses the statistics that are deployed and nothing of ``model`` changes. Several
    such callables can be given. Without ``loss`` the gradients stand in for it that ``model`` holds in ``.grad``.

    Raises:
        UsageError: weights or gradients that are not numbers, no gradients, or a loss that is no scalar of the model.
    """
    by, opened, model = _known("by", by, PER), _start(coupling, start), unwrap(model)
    gathered(model)
    if by == "magnitude":
        score = _magnitude(coupling, model, opened)
    elif loss is None:
        score = np.abs(_summed(coupling, _stored(coupling, model)))
    else:
        twin = masked(model, Masks(coupling, opened))
        squares = [_summed(coupling, products) ** 2 for products in _products(coupling, twin, loss)]
        if not squares:
            raise UsageError("the loss gave no batch; one scalar loss at least is needed to rank by taylor.")
        score = np.sqrt(np.mean(squares, axis=0))
    score[~opened] = 0.0
    score[0] = np.inf
    return score


def prefer_(gates: Gates, importance: np.ndarray, low: float = 0.9, high: float = 0.97) -> None:
    """Set the gates to a start that prefers what is important: P(z != 0) from ``low`` to ``high``, linear in the rank.

    ``importance`` has shape ``(units + 1,)``, as :func:`importance` returns it; equally important units start alike. A
    range near 1 still begins near the dense model: in eval mode a gate of P = 0.97 is 1, of 0.9 it is 0.75, and of 0.7
    only 0.19. All gates remain free to close or to open.

    Raises:
        UsageError: fixed gates, an importance of other units or that is no number, or no range in (0, 1).
    """
    if bool(gates.fixed):
        raise UsageError("the gates are fixed and have no start; attach them anew (edgel0.detach, edgel0.attach).")
    if importance.shape != (gates.coupling.units + 1,) or np.isnan(importance).any():
        raise UsageError(
            f"an importance of shape {importance.shape} with {int(np.isnan(importance).sum())} entries that are not "
            f"numbers was given; gates of {gates.coupling.units} units need shape ({gates.coupling.units + 1},)."
        )
    if not 0 < low <= high < 1:
        raise UsageError(f"the probabilities go from {low!r} to {high!r}; 0 < low <= high < 1 is needed.")
    levels, at = np.unique(importance[1:], return_inverse=True)
    probabilities = np.linspace(high, low, levels.size)[::-1]  # a single level is high
    start = torch.tensor([log_alpha_of(float(p), gates.temperature) for p in probabilities]).clamp(-LIMIT, LIMIT)
    with torch.no_grad():
        each = start[torch.from_numpy(at.reshape(-1))].to(gates.log_alpha.device)
        gates.log_alpha.copy_(replicated(each, gates.log_alpha))


# What is asked for.


def _known(name: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise UsageError(f"{name} is {value!r}; {' or '.join(map(repr, known))} is known{nearest(str(value), known)}.")
    return value


def _start(coupling: Coupling, start: Masks | None) -> np.ndarray:
    """Return which units the ranking may keep, ``(units + 1,)``."""
    if start is not None and start.coupling is not coupling:
        raise UsageError("the start is a mask of another coupling; make it from the coupling that is ranked.")
    return np.ones(coupling.units + 1, bool) if start is None else start.open


def _limits(coupling: Coupling, budget: Wanted) -> Limits:
    if isinstance(budget, Budget | Limits):
        limits = budget.limits if isinstance(budget, Budget) else budget
        return limits if limits.coupling is coupling else limits.on(coupling)
    if not isinstance(budget, Mapping):
        return Limits(coupling, macs=budget)
    known = list(inspect.signature(Limits).parameters)[1:]  # without the coupling
    for key in budget:
        if key not in known:
            raise UsageError(f"the budget names {key!r}; {', '.join(known)} are known{nearest(str(key), known)}.")
    return Limits(coupling, **budget)


def _eased(limits: Limits, opened: np.ndarray, done: float) -> Limits:
    """Return limits that are as far from the cost of ``opened`` as ``done`` says: at 0 that cost, at 1 the limits."""
    eased = copy.copy(limits)
    costs = limits.cost(opened)
    eased.maximum = {key: max(costs[key] / most, 1.0) ** (1 - done) * most for key, most in limits.maximum.items()}
    return eased


def _saved(limits: Limits, opened: np.ndarray) -> np.ndarray:
    """Return by what share of the exceeded limits the cost falls when one unit closes, ``(units + 1,)``."""
    exceeded = [metric for metric, cost in limits.cost(opened).items() if cost > limits.maximum[metric]]
    if not exceeded:
        return np.ones(opened.size)
    slopes = [limits.costs[metric].slope(opened.astype(float))[1] / limits.maximum[metric] for metric in exceeded]
    saved: np.ndarray = np.sum(slopes, axis=0)
    return saved


# What the model says.


def _magnitude(coupling: Coupling, model: nn.Module, opened: np.ndarray) -> np.ndarray:
    found, traced = tensors(model, coupling), coupling.program.state_dict
    squares = {}
    for name, cuts in coupling.tensors.items():
        if name not in found or not isinstance(traced.get(name), nn.Parameter):
            continue
        square = found[name].detach().abs().double().square()
        for labels in cuts:
            if labels.axis is not None:
                closed = torch.from_numpy(np.flatnonzero(~opened[labels.units])).to(square.device)
                square.index_fill_(labels.axis, closed, 0)
        squares[name] = square
    places = [(name, labels) for name in squares for labels in coupling.tensors[name]]
    norm: np.ndarray = np.sqrt(_per_unit(coupling, squares, places, "weights"))
    for group in coupling.groups:
        units = np.arange(group.start, group.stop)
        mean = norm[units[opened[units]]].mean() if opened[units].any() else 0.0
        norm[units] /= mean or 1.0
    return norm


def _summed(coupling: Coupling, products: Mapping[str, Tensor]) -> np.ndarray:
    """Sum weight times gradient over the slices that read each unit, ``(units + 1,)``."""
    places = [(r.parameter, Labels(r.axis, r.units)) for r in coupling.readers if r.parameter in products]
    return _per_unit(coupling, products, places, "weights or their gradients")


def _per_unit(
    coupling: Coupling, values: Mapping[str, Tensor], places: Iterable[tuple[str, Labels]], what: str
) -> np.ndarray:
    """Sum values over the slices of each unit, ``(units + 1,)``."""
    total = np.zeros(coupling.units + 1)
    for name, labels in places:
        value = values[name]
        each = value.sum().reshape(1)
        if labels.axis is not None:
            each = value.movedim(labels.axis, -1).reshape(-1, labels.units.size).sum(0)
        if not bool(each.isfinite().all()):
            raise UsageError(f"{name!r} holds {what} that are not finite; units cannot be ranked by them.")
        np.add.at(total, labels.units[: each.numel()], each.cpu().numpy())
    return total


def _stored(coupling: Coupling, model: nn.Module) -> dict[str, Tensor]:
    """Return weight times ``.grad`` of each reader, below its gates, of which the product is independent."""
    tensors(model, coupling)  # is it the model that was traced?
    readers = {reader.parameter: _leaf(model, reader.parameter) for reader in coupling.readers}
    held = {name: leaf for name, leaf in readers.items() if leaf.grad is not None}
    frozen = [name for name, leaf in readers.items() if not leaf.requires_grad]
    if not held or frozen:
        missing = f"{frozen[0]!r} is frozen and has" if frozen else f"the weights of this {type(model).__name__} have"
        raise UsageError(
            f"{missing} no gradients to rank by taylor; give loss=lambda model: ..., which returns a scalar loss of "
            "the model that it is given, or call backward() on all weights first."
        )
    return {n: t.detach().double() * t.grad.double() for n, t in held.items() if t.grad is not None}


def _leaf(model: nn.Module, name: str) -> Tensor:
    """Look up the tensor that an optimizer would hold: below a gate the weight that it multiplies."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    found = module.parametrizations[leaf].original if parametrize.is_parametrized(module, leaf) else None  # type: ignore[union-attr, index]
    found = getattr(module, leaf) if found is None else found
    assert isinstance(found, Tensor)
    return found


def _products(coupling: Coupling, twin: nn.Module, loss: Loss | Iterable[Loss]) -> Iterator[dict[str, Tensor]]:
    """Yield weight times gradient of each reader, batch by batch."""
    found = tensors(twin.eval().requires_grad_(False), coupling)
    readers = {r.parameter: found[r.parameter] for r in coupling.readers if found[r.parameter].is_floating_point()}
    for tensor in readers.values():
        tensor.requires_grad_()
    with torch.enable_grad():
        for value in _losses(twin, loss):
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                learns = " without a gradient" if isinstance(value, Tensor) and value.numel() == 1 else ""
                raise _no_loss(f"{shown}{learns}")
            slopes = torch.autograd.grad(value.sum(), list(readers.values()), allow_unused=True)
            if readers and all(slope is None for slope in slopes):
                raise _no_loss("what depends on no weight of that model, but perhaps on another's")
            yield {
                name: tensor.detach().double() * slope.double()
                for (name, tensor), slope in zip(readers.items(), slopes, strict=True)
                if slope is not None
            }


def _losses(twin: nn.Module, loss: Loss | Iterable[Loss]) -> Iterator[Any]:
    for each in (loss,) if callable(loss) else loss:
        value = each(twin)
        yield from (value,) if isinstance(value, Tensor) or not isinstance(value, Iterable) else value


def _no_loss(found: str) -> UsageError:
    return UsageError(
        f"loss(model) gave {found}; a scalar loss was expected, or one per batch, computed with the model that it is "
        "given: loss=lambda model: cross_entropy(model(x), y)."
    )
