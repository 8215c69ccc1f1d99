"""What may a network cost, and can it be reached? Absolute limits on the cost of what a mask leaves."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch

from edgel0.closing import compromises, least
from edgel0.cost import STORAGE, peak, sums, weights
from edgel0.errors import BudgetError, nearest
from edgel0.excluding import REASON
from edgel0.floors import Floor, anchors, read_floors
from edgel0.naming import covers, module_of, refuse_unmatched
from edgel0.quantities import Kind, Share, format_amount, format_percent, parse_limit
from edgel0.totals import Total
from edgel0.types import Coupling, Masks

Quantity = str | float


class Limits:
    """Absolute limits on the cost of a coupling, checked to be reachable.

    Give ``macs``, ``params``, ``size`` (bytes of weights) or ``activations`` (peak bytes of activations that are alive
    at once, for the example that was traced) as a number, a string such as "120 kB", or a share of the dense model
    ("25 %" or 0.25). ``storage``, a key of ``STORAGE`` in :mod:`edgel0.cost`, counts ``size`` as exported at that type;
    by default weights count as they are in the model. ``within`` limits parts: ``{"layer1": {"macs": "50 %"}}``, a
    module's name or pattern (see :func:`edgel0.naming.covers`) to limits on what it computes and holds, shares of its
    own dense cost. ``keep_at_least`` is a number or share of units that each group keeps (see
    :func:`edgel0.floors.read_floors`), ``round_to`` the multiple that :func:`edgel0.stabilize` brings channels to.

    What the limits say is told by key: "macs", "params", "weight_bytes", "activation_bytes", "macs of layer1".
    ``maximum`` is each limit in its own unit, ``dense`` the cost of the model that they were given for, ``reachable``
    the smallest cost found, ``smallest`` a mask within all limits, ``floors`` the units to keep by group.

    Raises:
        BudgetError: no limit is given, one cannot be read or names no module, or one is below the smallest network
            that can be reached.
    """

    def __init__(
        self,
        coupling: Coupling,
        *,
        macs: Quantity | None = None,
        params: Quantity | None = None,
        size: Quantity | None = None,
        activations: Quantity | None = None,
        storage: str | None = None,
        within: Mapping[str, Mapping[str, Quantity]] | None = None,
        keep_at_least: Floor | Mapping[str, Floor] | None = None,
        round_to: int = 1,
    ) -> None:
        given = {"macs": macs, "params": params, "size": size, "activations": activations}
        limits = {("", METRICS[name]): (value, name) for name, value in given.items() if value is not None}
        for pattern, wanted in (within or {}).items():
            limits |= {(pattern, METRICS[name]): (value, name) for name, value in _part(pattern, wanted).items()}
        if not limits:
            raise BudgetError(
                f"a budget without a limit was given; name at least one of {_list([*METRICS])}, or a part under within."
            )
        if storage is not None and storage not in STORAGE:
            hint = nearest(str(storage), STORAGE)
            raise BudgetError(f"storage is {storage!r}; {', '.join(STORAGE)} are known{hint or '.'}")
        if storage is not None and not any(metric == "weight_bytes" for _, metric in limits):
            raise BudgetError(f"storage is {storage!r}, but no size is limited; limit the size, or leave storage out.")
        if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
            raise BudgetError(f"round_to is {round_to!r}; it must be a whole number from 1.")
        read = {_key(*place): parse_limit(value, KINDS[place[1]]) for place, (value, _) in limits.items()}
        self.storage, self.round_to = storage, round_to
        self.floors = read_floors(coupling, keep_at_least)
        self._places = tuple(limits)
        self._compile(coupling)
        full = torch.ones(coupling.units + 1, dtype=torch.float64)
        self.dense = {key: float(total(full)) for key, total in self.costs.items()}
        for (pattern, _), (key, dense) in zip(self._places, self.dense.items(), strict=True):
            if not dense:
                where = f"the part {pattern!r}" if pattern else "this model"
                raise BudgetError(f"a limit on the {key} was given, but {where} has none; leave that limit out.")
        self.maximum = {key: self.dense[key] * v if isinstance(v, Share) else float(v) for key, v in read.items()}
        self._reach()

    def on(self, coupling: Coupling) -> Limits:
        """Return the same limits, shares still of the model they were given for, on what :func:`shrink_` left of it.

        Floors are the numbers of units that they were; a group that has become smaller keeps all that it has.
        """
        limits = copy.copy(self)
        limits._compile(coupling)
        limits._reach()
        return limits

    def _compile(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.costs: dict[str, Total] = {}
        parts = {pattern: _sums(coupling, self.storage, pattern) for pattern, _ in self._places}
        for pattern, metric in self._places:
            self.costs[_key(pattern, metric)] = parts[pattern][metric] if metric in parts[pattern] else peak(coupling)

    def _reach(self) -> None:
        """Find a mask within all limits: the least by one of them, or else by all of them together."""
        masks = [least(self.coupling, total, self.floors) for total in self.costs.values()]
        self._found(masks)
        for key, maximum in self.maximum.items():
            if self.reachable[key] > maximum:
                raise BudgetError(self._unreachable(key))
        fitting = next(filter(self.fits, masks), None)
        if fitting is None:
            for mask in compromises(self.coupling, self.costs, self.maximum, self.floors):
                masks.append(mask)
                if self.fits(mask):
                    fitting = mask
                    break
        self._found(masks)
        if fitting is None:
            each = "; ".join(f"{_say(k, v)} (smallest {_say(k, self.reachable[k])})" for k, v in self.maximum.items())
            raise BudgetError(
                f"the limits can be reached one by one, but not together, as far as a search finds: {each}. The "
                f"nearest network has {', '.join(_say(k, v) for k, v in self.cost(self._nearest(masks)).items())}. "
                f"Raise one of them.{self._kept()}"
            )
        self.smallest: np.ndarray = fitting

    def _found(self, masks: list[np.ndarray]) -> None:
        costs = [self.cost(mask) for mask in masks]
        self.reachable = {key: min(cost[key] for cost in costs) for key in self.costs}

    def _nearest(self, masks: list[np.ndarray]) -> np.ndarray:
        return min(masks, key=lambda mask: max(cost / self.maximum[key] for key, cost in self.cost(mask).items()))

    def _unreachable(self, key: str) -> str:
        smallest = self.reachable[key]
        return (
            f"the limit of {_say(key, self.maximum[key])} cannot be reached: the smallest network that still connects "
            f"this model's inputs to its outputs has {_say(key, smallest)} (dense: {_say(key, self.dense[key])}). "
            f"Raise the limit to at least {smallest:.0f}.{self._kept()}"
        )

    def _kept(self) -> str:
        """Say what keeps the smallest network from being smaller."""
        names = [pin.module for pin in self.coupling.pins if pin.reason == REASON]
        whole = f" What is excluded stays whole: {', '.join(map(repr, names))}." if names else ""
        floors = list(self.floors.items())
        some = ", ".join(f"{count} in {name!r}" for name, count in floors[:5]) + (", …" if len(floors) > 5 else "")
        return whole + (f" So many units stay by keep_at_least: {some}; lower it." if floors else "")

    def cost(self, opened: np.ndarray) -> dict[str, float]:
        """Cost by key of a mask ``(units + 1,)``."""
        alive = torch.from_numpy(opened).double()
        return {key: float(total(alive)) for key, total in self.costs.items()}

    def spent(self, masks: Masks) -> dict[str, dict[str, float]]:
        """Return "limit", "dense" and "slim" by key, for masks of any coupling of the model, shrunk or not."""
        limits = copy.copy(self)
        limits._compile(masks.coupling)
        cost = limits.cost(masks.open)
        return {
            key: {"limit": maximum, "dense": round(self.dense[key]), "slim": round(cost[key])}
            for key, maximum in self.maximum.items()
        }

    def fits(self, opened: np.ndarray) -> bool:
        """Tell whether a mask is within every limit; of floors it says nothing."""
        return all(cost <= self.maximum[key] for key, cost in self.cost(opened).items())

    def anchors(self, probability: np.ndarray) -> np.ndarray:
        """Return the most probable units that keep the floors, bool ``(units + 1,)``; entry 0 is True."""
        return anchors(self.coupling, self.floors, probability)

    def describe(self) -> str:
        """Return a line per limit: what of what, and the smallest that was found."""
        return "\n".join(
            f"{key} {_amount(key, maximum)} of {_amount(key, self.dense[key])} "
            f"({format_percent(maximum / self.dense[key])}), smallest reachable {_amount(key, self.reachable[key])}"
            for key, maximum in self.maximum.items()
        )


def _part(pattern: str, wanted: Mapping[str, Quantity]) -> Mapping[str, Quantity]:
    """Check the limits on one part."""
    if not isinstance(pattern, str) or not pattern:
        raise BudgetError(f"within names {pattern!r}; a module's name or a pattern such as 'layer1.*' was expected.")
    if not isinstance(wanted, Mapping) or not wanted:
        raise BudgetError(f"within {pattern!r} is {wanted!r}; limits by name were expected, as {{'macs': '50 %'}}.")
    for name in wanted:
        if name == "activations":
            raise BudgetError(
                f"within {pattern!r} limits activations, which are alive across modules; limit the activations of the "
                "whole model, or macs, params or size here."
            )
        if name not in METRICS:
            known = [known for known in METRICS if known != "activations"]
            hint = nearest(str(name), known)
            raise BudgetError(f"within {pattern!r} limits {name!r}; {_list(known)} are known{hint or '.'}")
    return wanted


def _sums(coupling: Coupling, storage: str | None, pattern: str) -> Mapping[str, Total]:
    """Compile the costs of the whole model (""), or of the modules that a pattern covers."""
    if not pattern:
        return sums(coupling, storage=storage)
    paths = {module_of(node) for node in coupling.program.graph.nodes}
    paths |= {name.rpartition(".")[0] for name in weights(coupling)}
    refuse_unmatched(pattern, sorted(paths), "within", "module", BudgetError)
    return sums(coupling, storage=storage, inside=lambda path: covers(pattern, path))


def _key(pattern: str, metric: str) -> str:
    return f"{metric} of {pattern}" if pattern else metric


def _list(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _amount(key: str, value: float) -> str:
    return format_amount(round(value), KINDS[key.partition(" ")[0]])


def _say(key: str, value: float) -> str:
    metric, _, part = key.partition(" ")
    return f"{_amount(key, value)} {NOUNS[metric]}{f' {part}' if part else ''}"


METRICS = {"macs": "macs", "params": "params", "size": "weight_bytes", "activations": "activation_bytes"}
KINDS: dict[str, Kind] = {"macs": "count", "params": "count", "weight_bytes": "bytes", "activation_bytes": "bytes"}
NOUNS = {"macs": "MACs", "params": "params", "weight_bytes": "of weights", "activation_bytes": "of activations"}
