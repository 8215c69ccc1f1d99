"""What still reaches an output under a mask? Which operators are gone, which became constant, what must stay."""

from __future__ import annotations

from enum import Enum

import numpy as np
import torch
from torch.fx import Node

from edgel0.errors import SlimError
from edgel0.types import Coupling

aten = torch.ops.aten
# These go on with the operands that are left.
JOINING = {
    *(aten.cat, aten.concat, aten.concatenate, aten.stack),
    *(aten.select_scatter, aten.slice_scatter),
    *(aten.addmm, aten.baddbmm),
}


class Fate(Enum):
    """What a mask makes of an operator that depends on an input of the model."""

    GONE = "nothing of its output is kept"
    CONSTANT = "its output no longer depends on an input"


def fates(coupling: Coupling, opened: np.ndarray) -> dict[Node, Fate]:
    """Return the fate of every operator that does not simply live on, in program order.

    An operator that reads nothing but closed units is a constant: what it computes from zeros.

    Raises:
        SlimError: an operator keeps some operands and loses others, and no rule says what remains.
    """
    found: dict[Node, Fate] = {}
    live = coupling.activations
    for node in coupling.program.graph.nodes:
        if node.op != "call_function" or node.name not in live:
            continue
        outputs = live[node.name]
        if all(labels is not None and not opened[labels.units].any() for labels in outputs):
            found[node] = Fate.GONE
            continue
        sources = [s for s in node.all_input_nodes if s.name in live]
        packet = getattr(node.target, "overloadpacket", node.target)
        left = [s for s in sources if found.get(s) is not Fate.GONE]
        if len(left) < len(sources) and packet not in JOINING and any(s not in found for s in left):
            raise SlimError(
                f"every unit that {node.name!r} ({node.target}) reads is closed while another of its inputs lives, and "
                "no rule says what remains; keep at least one unit of each of its groups open."
            )
        if all(s in found for s in sources):
            found[node] = Fate.CONSTANT
    return found


def ends(coupling: Coupling) -> list[Node]:
    """Return the nodes that are outputs of the model."""
    return list(coupling.program.graph.output_node().all_input_nodes)


def connected(coupling: Coupling, opened: np.ndarray) -> bool:
    """Tell whether every output of the model still depends on an input."""
    try:
        lost = fates(coupling, opened)
    except SlimError:
        return False
    return not any(node in lost for node in ends(coupling))


def tidy(coupling: Coupling, opened: np.ndarray) -> np.ndarray:
    """Close, too, the units that only readers with nothing left to write would read."""
    opened = opened.copy()
    read = np.zeros(coupling.units + 1, bool)
    for reader in coupling.readers:
        read[reader.units] = True
    while True:
        needed = ~read
        for reader in coupling.readers:
            others = [x for x in coupling.tensors.get(reader.parameter, ()) if x.axis != reader.axis]
            if all(opened[x.units].any() for x in others):
                needed[reader.units] = True
        needed[0] = True
        if not (opened & ~needed).any():
            return opened
        opened &= needed


def essential(coupling: Coupling) -> list[np.ndarray]:
    """Return sets of units of which one must stay: without them some output would no longer depend on an input."""
    everything = np.ones(coupling.units + 1, bool)
    sets = {tuple(np.unique(r.units)): r.units for r in coupling.readers if r.units.all()}
    found = []
    for units in sets.values():
        opened = everything.copy()
        opened[units] = False
        if not connected(coupling, opened):
            found.append(np.unique(units))
    return found


def smallest(coupling: Coupling) -> np.ndarray:
    """Return the least mask ``(units + 1,)`` that keeps every output connected, as far as a greedy search finds it."""
    for keep in (essential(coupling), [np.unique(r.units) for r in coupling.readers if r.units.all()]):
        opened = np.zeros(coupling.units + 1, bool)
        opened[0] = True
        wanted = np.bincount(np.concatenate(keep), minlength=coupling.units + 1) if keep else opened
        for units in keep:
            if not opened[units].any():
                opened[units[np.argmax(wanted[units])]] = True
        opened = tidy(coupling, opened)
        if connected(coupling, opened):
            return opened
    return np.ones(coupling.units + 1, bool)
