"""How little can a network cost? Units closed greedily, as long as every output stays connected and floors hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from edgel0.floors import anchors, hold, of_group
from edgel0.reaching import connected, smallest, tidy
from edgel0.totals import Total
from edgel0.types import Coupling

ROUNDS = 8  # of weighing several limits against each other
Figure = Callable[[torch.Tensor], torch.Tensor]


def least(coupling: Coupling, total: Figure, floors: Mapping[str, int] | None = None) -> np.ndarray:
    """Return the mask of least cost that keeps every output connected, as far as closing the costliest first finds it.

    Units that lie in the same places are alike: of each kind so many are tried as its group must keep by ``floors``,
    one where it need keep none; the kind whose loss saves most is closed first, as far as it can be.
    """
    floors = floors or {}

    def cost(opened: np.ndarray) -> float:
        return float(total(torch.from_numpy(opened).double()))

    if not coupling.units:
        return np.ones(1, bool)
    kinds = _kinds(coupling, floors)
    opened = np.zeros(coupling.units + 1, bool)
    opened[[0, *(unit for kind, _ in kinds for unit in kind)]] = True
    every = [kind for kind, _ in kinds]
    without = [cost(tidy(coupling, _closed(opened, kind))) for kind in every]
    for at in sorted(range(len(kinds)), key=without.__getitem__):
        kind, (group, floor) = kinds[at]
        spare = int(opened[group].sum()) - floor
        for count in dict.fromkeys([min(len(kind), spare), min(len(kind) - 1, spare)]):
            fewer = tidy(coupling, _closed(opened, kind[len(kind) - max(count, 0) :]))
            if count > 0 and connected(coupling, fewer) and hold(coupling, floors, fewer):
                opened = fewer
                break
    fallback = smallest(coupling) | anchors(coupling, floors, np.ones(coupling.units + 1))

    def order(mask: np.ndarray) -> float:
        return cost(mask) if connected(coupling, mask) and hold(coupling, floors, mask) else math.inf

    return min(opened, fallback, key=order)


def alike(coupling: Coupling) -> np.ndarray:
    """Return a number per unit, ``(units + 1,)``: the same for units that lie in the same places, and cost the same."""
    live = [labels for outputs in coupling.activations.values() for labels in outputs if labels is not None]
    fixed = [labels for cuts in coupling.tensors.values() for labels in cuts]
    places = {labels.units.tobytes(): labels.units for labels in (*live, *fixed)}
    counts = np.array([np.bincount(units, minlength=coupling.units + 1) for units in places.values()])
    kinds: np.ndarray = np.unique(counts, axis=1, return_inverse=True)[1].reshape(-1)
    return kinds


def _kinds(coupling: Coupling, floors: Mapping[str, int]) -> list[tuple[np.ndarray, tuple[slice, int]]]:
    """Sort the units by the places where they lie: so many of each kind as may be needed, their group and its floor."""
    kinds, found = alike(coupling), []
    for group in coupling.groups:
        mine, floor = slice(group.start, group.stop), of_group(floors, group)
        for kind in dict.fromkeys(kinds[mine].tolist()):
            units = group.start + np.flatnonzero(kinds[mine] == kind)
            found.append((units[: max(floor, 1)], (mine, floor)))
    return found


def _closed(opened: np.ndarray, units: np.ndarray) -> np.ndarray:
    mask: np.ndarray = opened.copy()
    mask[units] = False
    return mask


def compromises(
    coupling: Coupling, totals: Mapping[str, Total], maximum: Mapping[str, float], floors: Mapping[str, int]
) -> Iterator[np.ndarray]:
    """Yield masks that are small by several figures at once: by the largest share of its limit, then by all shares.

    The shares are summed with weights, which grow round by round by the share that the last mask has of each limit, as
    multipliers do.
    """
    figures, bounds = [*totals.values()], torch.tensor([maximum[key] for key in totals], dtype=torch.float64)
    weight = torch.ones_like(bounds)

    def shares(alive: torch.Tensor) -> torch.Tensor:
        return torch.stack([total(alive) for total in figures]) / bounds

    def weighed(alive: torch.Tensor) -> torch.Tensor:
        return shares(alive) @ weight

    yield least(coupling, lambda alive: shares(alive).max(), floors)
    for _ in range(ROUNDS):
        mask = least(coupling, weighed, floors)
        yield mask
        weight = weight * shares(torch.from_numpy(mask).double())
