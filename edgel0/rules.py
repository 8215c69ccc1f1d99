"""How does a rule say what becomes of labels? What rules get and give, and the rules that many operators share.

A rule gets the walk, the graph node and the operator's arguments by their schema names (``a.self``, ``a.weight`` …),
with each tensor already replaced by its :class:`~edgel0.units.Labelled` (a live tensor) or :class:`Constant` (computed
from parameters and buffers alone). It returns the labels of the output, or a tuple for several outputs. Rules are only
called where at least one argument is live; all others are constants.

A rule may be careful (pin more than it must) but never wrong: whatever a label's value can reach must carry that label,
be pinned, or be read through a parameter that a gate can close.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.fx import Node

from edgel0.units import Labelled, Units

aten = torch.ops.aten


@dataclass(frozen=True)
class Constant:
    """A tensor that depends on no input of the model.

    ``parameter`` names the parameter or buffer that it is, if it is one as it stands or with its axes permuted and
    axes of size 1 added or dropped; axis ``i`` is then axis ``order[i]`` of that parameter (-1: of size 1).
    """

    shape: tuple[int, ...]
    node: Node
    parameter: str | None = None
    order: tuple[int, ...] = ()


class Walk(Protocol):
    """What a rule may ask of the walk over the graph."""

    units: Units

    def write(self, weight: Constant, count: int) -> np.ndarray:
        """Return fresh labels for ``count`` indices that ``weight`` makes."""

    def read(self, node: Node, weight: Constant, axis: int, labels: np.ndarray) -> None:
        """Record that ``weight`` contracts ``labels`` along ``axis``; they are pinned if no gate can stand there."""

    def use(self, node: Node, constant: Constant, axis: int, labels: np.ndarray) -> None:
        """Record that a constant's ``axis`` is cut as ``labels`` are; a parameter is cut alike wherever it is used."""

    def follow(self, node: Node, constant: Constant, region: Labelled) -> None:
        """Record that a constant is cut as ``region`` of the output is, aligned as broadcasting aligns."""

    def pin(self, node: Node, tensor: Labelled, reason: str, axes: Sequence[int] | None = None) -> Labelled:
        """Pin what varies along ``axes`` (None: everything), note the reason, and return the labels after it."""

    def value(self, constant: Constant) -> torch.Tensor:
        """Compute a constant's value."""


Value = Any
Rule = Callable[[Walk, Node, Any], Value]
UNKNOWN = "no rule for this operator"


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a node's single result."""
    return tuple(int(n) for n in node.meta["val"].shape)


def operands(args: Any, kind: type) -> list[Any]:
    """All arguments of one kind (``Labelled`` or ``Constant``), lists of tensors included, in schema order."""
    flat = (item for value in vars(args).values() for item in (value if isinstance(value, list | tuple) else (value,)))
    return [item for item in flat if isinstance(item, kind)]


def laid(labels: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Lay a vector of labels along one axis of a tensor of that rank."""
    return labels.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def each_output(node: Node, make: Callable[[tuple[int, ...]], Labelled]) -> Value:
    """Apply ``make`` to the shape of each output, in the structure that the node has."""
    value = node.meta["val"]
    if isinstance(value, tuple | list):
        return tuple(make(tuple(int(n) for n in v.shape)) if v is not None else None for v in value)
    return make(tuple(int(n) for n in value.shape))


# Rules that many operators share.


def pointwise(walk: Walk, node: Node, a: Any) -> Value:
    """Join the labels of all live operands; constants are cut as the result is."""
    out, *others = operands(a, Labelled)
    for other in others:
        out = walk.units.join(out, other, np.broadcast_shapes(out.shape, other.shape))
    out = walk.units.join(out, out, shape_of(node))
    for constant in operands(a, Constant):
        walk.follow(node, constant, out)
    return out


def reduce(walk: Walk, node: Node, a: Any) -> Value:
    """Drop axes along which labels do not vary; pin where they do."""
    x = operands(a, Labelled)[0]
    rank, dim = len(x.shape), getattr(a, "dim", None)
    dims = [dim] if isinstance(dim, int) else list(dim) if dim else list(range(rank))
    axes = {d % rank for d in dims} if rank else set()
    x = walk.pin(node, x, "reduced across units", sorted(axes))
    kept = x.labels[tuple(slice(0, 1) if i in axes else slice(None) for i in range(rank))]
    dropped = kept.reshape([size for i, size in enumerate(kept.shape) if i not in axes])
    return each_output(node, lambda shape: Labelled(shape, kept if len(shape) == rank else dropped))


def along_axis(walk: Walk, node: Node, a: Any) -> Value:
    """Softmax, cumulative sums, sorting: values along one axis meet and the others stay as they are."""
    x = operands(a, Labelled)[0]
    if x.shape:
        x = walk.pin(node, x, "combined across units", [getattr(a, "dim", -1) % len(x.shape)])
    return each_output(node, lambda shape: Labelled(shape, x.labels))


def triangle(walk: Walk, node: Node, a: Any) -> Value:
    """Zero one side of the diagonal: where an element stands along the last two axes decides."""
    return walk.pin(node, a.self, "cut along a diagonal across units", range(len(a.self.shape) - 2, len(a.self.shape)))


def spatial(walk: Walk, node: Node, a: Any) -> Value:
    """Pooling, resizing, reflection: the last positions meet, channels do not."""
    x = operands(a, Labelled)[0]
    digits = re.search(r"(\d)d", str(node.target))
    count = int(digits.group(1)) if digits else len(x.shape) - 2
    x = walk.pin(node, x, "pooled or resized across units", range(len(x.shape) - count, len(x.shape)))
    return each_output(node, lambda shape: Labelled(shape, x.labels))


def unknown(walk: Walk, node: Node, a: Any) -> Value:
    """Pin everything that is touched, and say so."""
    for tensor in operands(a, Labelled):
        walk.pin(node, tensor, UNKNOWN)
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return walk.units.pinned(value.shape)
    if isinstance(value, tuple | list):
        return tuple(walk.units.pinned(v.shape) if isinstance(v, torch.Tensor) else None for v in value)
    return None
