"""Which units must stay because the user says so? A coupling with the channels of some modules pinned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from edgel0.errors import UsageError
from edgel0.naming import covers, module_of, refuse_unmatched
from edgel0.types import Coupling, Group, Labels, Pin, Reader

REASON = "excluded"


def excluded(coupling: Coupling, patterns: Sequence[str]) -> Coupling:
    """Return the coupling without the units of what ``patterns`` name: these are pinned, the others numbered anew.

    A pattern names modules or parameters (see :func:`edgel0.naming.covers`). The groups are pinned whose channels are
    made there, and those whose channels a parameter there carries: a batch norm's, a depthwise convolution's. What is
    only read there stays free.

    Raises:
        UsageError: a pattern matches nothing, or the patterns are one string.
    """
    if isinstance(patterns, str):
        raise UsageError(f"exclude is the string {patterns!r}; a list of names was expected: exclude=[{patterns!r}].")
    program = coupling.program
    names = [*program.state_dict, *program.constants]
    paths = [*names, *dict.fromkeys(module_of(node) for node in program.graph.nodes)]
    gone = np.zeros(coupling.units + 1, bool)
    pins = []
    for pattern in patterns:
        refuse_unmatched(pattern, paths, "exclude", "module or parameter")
        before = int(gone.sum())
        for group in coupling.groups:
            if not gone[group.start] and _made(coupling, group, pattern):
                gone[group.start : group.stop] = True
        if gone.sum() > before:
            pins.append(Pin("exclude", "", pattern, REASON, int(gone.sum()) - before))
    if not pins:
        return replace(coupling, excluded=tuple(patterns))
    return _without(replace(coupling, pins=(*pins, *coupling.pins), excluded=tuple(patterns)), gone)


def _made(coupling: Coupling, group: Group, pattern: str) -> bool:
    """Tell whether a group's channels are made or carried by something that a pattern covers."""
    if any(covers(pattern, writer) for writer in group.writers):
        return True
    read = {(reader.parameter, reader.axis) for reader in coupling.readers}
    return any(
        (name, labels.axis) not in read and ((labels.units >= group.start) & (labels.units < group.stop)).any()
        for name, cuts in coupling.tensors.items()
        if covers(pattern, name)
        for labels in cuts
    )


def _without(coupling: Coupling, gone: np.ndarray) -> Coupling:
    """Pin the units that are ``gone``, bool ``(units + 1,)``, whole groups of them."""
    number = np.where(gone, 0, np.cumsum(~gone) - 1)

    def left(cuts: Iterable[Labels]) -> tuple[Labels, ...]:
        return tuple(Labels(c.axis, number[c.units]) for c in cuts if number[c.units].any())

    groups, start = [], 1
    for group in coupling.groups:
        if not gone[group.start]:
            groups.append(Group(group.name, start, start + group.size, group.writers))
            start += group.size
    return replace(
        coupling,
        units=start - 1,
        groups=tuple(groups),
        activations={
            name: tuple(None if each is None else next(iter(left([each])), None) for each in outputs)
            for name, outputs in coupling.activations.items()
        },
        constants={name: left(cuts) for name, cuts in coupling.constants.items()},
        uses={use: left(cuts) for use, cuts in coupling.uses.items()},
        tensors={name: cut for name, cuts in coupling.tensors.items() if (cut := left(cuts))},
        readers=tuple(Reader(r.parameter, r.axis, number[r.units]) for r in coupling.readers if number[r.units].any()),
    )
