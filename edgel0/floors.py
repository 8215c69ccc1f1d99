"""How many units must every group keep, and what must stay with them? Floors under groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgel0.errors import BudgetError, SlimError
from edgel0.naming import covers, refuse_unmatched
from edgel0.quantities import Share, parse_limit
from edgel0.reaching import fates, tidy
from edgel0.types import Coupling, Group

Floor = str | float


def read_floors(coupling: Coupling, wanted: Floor | Mapping[str, Floor] | None) -> dict[str, int]:
    """Return how many units each group must keep, by its name, of those that must keep any.

    ``wanted`` is a number of units (a whole number from 1) or a share of a group's ("25 %" or 0.25, rounded up), for
    every group, or such numbers by pattern: of a group's name, or of a parameter or module that makes its units. Of
    several patterns that match the largest number counts. A group that is smaller keeps all its units.

    Raises:
        BudgetError: a number cannot be read, or a pattern matches no group.
    """
    if wanted is None:
        return {}
    given = wanted if isinstance(wanted, Mapping) else {"": wanted}
    floors: dict[str, int] = {}
    for pattern, value in given.items():
        floor = _read(value, f"keep_at_least of {pattern!r}" if isinstance(wanted, Mapping) else "keep_at_least")
        if isinstance(wanted, Mapping):
            makers = [path for group in coupling.groups for path in (group.name, *group.writers)]
            refuse_unmatched(pattern, makers, "keep_at_least", "group or module with units", BudgetError)
        for group in coupling.groups:
            if not isinstance(wanted, Mapping) or any(covers(pattern, p) for p in (group.name, *group.writers)):
                count = math.ceil(floor * group.size - 1e-9) if isinstance(floor, Share) else int(floor)
                floors[group.name] = max(floors.get(group.name, 0), min(count, group.size))
    return floors


def _read(value: Any, what: str) -> int | float | Share:
    try:
        return parse_limit(value, "count")
    except BudgetError as error:
        raise BudgetError(f"{what} cannot be read: {error}") from error


def of_group(floors: Mapping[str, int], group: Group) -> int:
    """Units that a group must keep; all of it where it has become smaller than its floor."""
    return min(floors.get(group.name, 0), group.size)


def per_unit(coupling: Coupling, floors: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return each unit's group, by number, and that group's floor, both ``(units,)``."""
    sizes = [group.size for group in coupling.groups]
    counts = [of_group(floors, group) for group in coupling.groups]
    return np.repeat(np.arange(len(sizes)), sizes), np.repeat(np.array(counts, np.int64), sizes)


def foremost(probability: np.ndarray, group: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Tell of each unit whether it is among the most probable ``floor`` of its group; all of shape ``(units,)``.

    ``group`` numbers the groups in the order in which the units lie, without a gap.
    """
    order = np.lexsort((-probability, group))  # group by group, the most probable first
    size = np.bincount(group)
    rank = np.arange(len(order)) - (size.cumsum() - size)[group[order]]
    chosen = np.zeros(len(order), bool)
    chosen[order] = rank < floor[order]
    return chosen


def hold(coupling: Coupling, floors: Mapping[str, int], opened: np.ndarray) -> bool:
    """Tell whether a mask ``(units + 1,)`` keeps each group's floor.

    Only units count that something reads, and that lie in an operator which depends on an input under this mask.
    """
    if not floors:
        return True
    live = tidy(coupling, opened)
    try:
        lost = {node.name for node in fates(coupling, live)}
    except SlimError:
        return False
    carried = np.zeros_like(live)
    for name, outputs in coupling.activations.items():
        for labels in outputs:
            if labels is not None and name not in lost:
                carried[labels.units] = True
    return all((live & carried)[g.start : g.stop].sum() >= of_group(floors, g) for g in coupling.groups)


def anchors(coupling: Coupling, floors: Mapping[str, int], probability: np.ndarray) -> np.ndarray:
    """Return the most probable units that keep the floors, bool ``(units + 1,)``; entry 0 is True.

    Whether something reads them and writes to them is another question; see :func:`hold`.
    """
    kept = np.zeros(coupling.units + 1, bool)
    kept[0] = True
    if floors:
        kept[1:] = foremost(probability[1:], *per_unit(coupling, floors))
    return kept
