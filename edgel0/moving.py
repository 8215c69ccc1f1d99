"""Where do labels go when an operator moves data? Indexing, concatenating, padding, patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from edgel0.rules import Constant, Value, Walk, laid, operands, pointwise, shape_of, unknown
from edgel0.units import Labelled

MANY = 1 << 16  # copies of one value beyond which they are not told apart


def reshape(walk: Walk, node: Node, a: Any) -> Value:
    """Read the result's shape off the graph and lay the labels out anew."""
    return walk.units.reshape(operands(a, Labelled)[0], shape_of(node))


def expand(walk: Walk, node: Node, a: Any) -> Value:
    """Repeat along axes of size 1. Copies of what is pinned are free: each may go with what it meets later."""
    shape, x = shape_of(node), walk.units.settle(operands(a, Labelled)[0])
    lead = (1,) * (len(shape) - len(x.shape))
    sizes = [new if new > old else 1 for new, old in zip(shape, (*lead, *x.shape), strict=True)]
    if 1 < math.prod(sizes) <= MANY and not x.labels.any():
        return Labelled(shape, walk.units.fresh(math.prod(sizes)).reshape(sizes))
    return Labelled(shape, x.labels.reshape(lead + x.labels.shape))


def move(walk: Walk, node: Node, a: Any) -> Value:
    """Run a data-moving operator on the label tensor itself; it may have several outputs, and constants say whereto."""
    target, live = node.target, operands(a, Labelled)
    constants = {constant.node: constant for constant in operands(a, Constant)}
    if len(live) > 1 or node.args[0] in constants:
        return unknown(walk, node, a)

    def given(source: Node) -> torch.Tensor:
        return walk.value(constants[source]) if source in constants else walk.units.lift(live[0])

    moved = target(*torch.fx.map_arg(node.args, given), **torch.fx.map_arg(node.kwargs, given))  # type: ignore[operator]
    return walk.units.lower(moved) if isinstance(moved, torch.Tensor) else tuple(map(walk.units.lower, moved))


def index(walk: Walk, node: Node, a: Any) -> Value:
    """Index with constant tensors on the labels; indices that depend on an input pin what they choose among.

    What a list of positions takes from pinned data (the pixels that a network reads) is free: the list can be shorter.
    """
    positions = a.indices if hasattr(a, "indices") else [None] * (a.dim % len(a.self.shape)) + [a.index]
    if isinstance(a.self, Constant) or any(isinstance(p, Labelled) for p in positions):
        for tensor in operands(a, Labelled):
            walk.pin(node, tensor, "indexed by values of the input")
        return walk.units.pinned(shape_of(node))
    lists = [(axis, p) for axis, p in enumerate(positions) if p is not None]
    if len(lists) == 1 and len(lists[0][1].shape) == 1 and not walk.units.settle(a.self).labels.any():
        (axis, where), shape = lists[0], shape_of(node)
        if 1 < shape[axis] <= MANY and walk.value(where).dtype != torch.bool:
            labels = walk.write(where, shape[axis])
            walk.use(node, where, 0, labels)
            return Labelled(shape, laid(labels, axis, len(shape)))
    at = tuple(slice(None) if p is None else walk.value(p) for p in positions)
    return walk.units.lower(walk.units.lift(a.self)[at])


def cat(walk: Walk, node: Node, a: Any) -> Value:
    """Lay labels side by side. Constants take the others' labels where those agree, and free ones elsewhere."""
    shape = shape_of(node)
    parts = [t for t in a.tensors if tuple(t.shape) != (0,)]
    return _side_by_side(walk, node, parts, [t.shape for t in parts], a.dim % len(shape))


def stack(walk: Walk, node: Node, a: Any) -> Value:
    """Concatenate along a new axis."""
    shape = list(shape_of(node))
    shape[a.dim] = 1
    return _side_by_side(walk, node, a.tensors, [tuple(shape)] * len(a.tensors), a.dim % len(shape))


def _side_by_side(walk: Walk, node: Node, parts: Any, shapes: Sequence[tuple[int, ...]], dim: int) -> Labelled:
    units, shape = walk.units, shape_of(node)
    labels = [
        units.reshape(units.settle(part), wanted).labels if isinstance(part, Labelled) else None
        for part, wanted in zip(parts, shapes, strict=True)
    ]
    live = [each for each in labels if each is not None]
    wide = np.broadcast_shapes(*((*each.shape[:dim], 1, *each.shape[dim + 1 :]) for each in live))
    alike = all(each.shape[dim] == 1 and np.array_equal(each, live[0]) for each in live)
    rows = []
    for part, each, size in zip(parts, labels, (s[dim] for s in shapes), strict=True):
        row = live[0] if alike else each if each is not None else laid(units.fresh(size), dim, len(shape))
        if each is None:
            region = row if len(part.shape) == len(shape) else row.squeeze(dim)
            walk.follow(node, part, Labelled(part.shape, region))
        rows.append(np.broadcast_to(row, (*wide[:dim], size, *wide[dim + 1 :])))
    return units.settle(Labelled(shape, live[0] if alike else np.concatenate(rows, dim)))


def scatter(walk: Walk, node: Node, a: Any) -> Value:
    """Write one tensor over a part of another: labels of what is written and of what it replaces become one."""
    units, dim = walk.units, a.dim % len(shape_of(node))
    if isinstance(a.self, Labelled):
        labels = units.lift(units.settle(a.self))
    else:  # as in concatenation: as what is written where that does not vary along the axis, free elsewhere
        around = units.settle(a.src).labels
        around = np.expand_dims(around, dim) if hasattr(a, "index") else around
        if around.shape[dim] > 1:
            around = laid(units.fresh(a.self.shape[dim]), dim, around.ndim)
        labels = units.lift(Labelled(a.self.shape, around))
        walk.follow(node, a.self, Labelled(a.self.shape, around))
    part = labels.select(dim, a.index) if hasattr(a, "index") else labels[_range(a, dim)]
    region = units.lower(part)
    if isinstance(a.src, Constant):
        walk.follow(node, a.src, region)
    else:
        units.union(region.labels, units.settle(a.src).labels)
    return units.lower(labels)


def _range(a: Any, dim: int) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(a.start, a.end, a.step),)


def pad(walk: Walk, node: Node, a: Any) -> Value:
    """Pad with a constant: free labels where the padded axis varies, the neighbours' labels elsewhere."""
    x, rank = walk.units.settle(a.self), len(a.self.shape)
    if getattr(a, "mode", "constant") != "constant":
        axes = range(rank - len(a.pad) // 2, rank)
        return Labelled(shape_of(node), walk.pin(node, x, "padded across units", axes).labels)
    labels = x.labels
    for k in range(len(a.pad) // 2):
        axis = rank - 1 - k
        if labels.shape[axis] == 1:
            continue
        before, after = a.pad[2 * k], a.pad[2 * k + 1]
        labels = labels.take(range(max(-before, 0), labels.shape[axis] - max(-after, 0)), axis)
        edges = [
            np.broadcast_to(
                laid(walk.units.fresh(count), axis, rank),
                (*labels.shape[:axis], count, *labels.shape[axis + 1 :]),
            )
            for count in (max(before, 0), max(after, 0))
        ]
        labels = np.concatenate([edges[0], labels, edges[1]], axis)
    return Labelled(shape_of(node), labels)


def index_put(walk: Walk, node: Node, a: Any) -> Value:
    """Put one value wherever a condition on the elements themselves holds; anything else is unknown."""
    (where, *others) = a.indices
    alike = isinstance(where, Labelled) and isinstance(a.self, Labelled) and where.shape == a.self.shape
    single = isinstance(a.values, Labelled | Constant) and math.prod(a.values.shape) == 1
    if others or not alike or not single or node.args[1][0].meta["val"].dtype != torch.bool:  # type: ignore[index, union-attr]
        return unknown(walk, node, a)
    return pointwise(walk, node, SimpleNamespace(self=a.self, where=where, values=a.values))


def patches(walk: Walk, node: Node, a: Any) -> Value:
    """Lay the patches of each channel one below the other (``nn.Unfold``); what pads them is zero."""
    shape, axis = shape_of(node), len(a.self.shape) - 3
    x = walk.pin(node, a.self, "cut into patches across units", range(axis + 1, axis + 3))
    labels = np.repeat(walk.units.along(x, axis), math.prod(a.kernel_size))
    return Labelled(shape, laid(labels, axis, len(shape)))


def unpatch(walk: Walk, node: Node, a: Any) -> Value:
    """Add the patches of each channel up again (``nn.Fold``)."""
    shape, axis = shape_of(node), len(a.self.shape) - 2
    x = walk.pin(node, a.self, "patches added up across units", [axis + 1])
    labels = walk.units.along(x, axis).reshape(shape[axis], -1)
    walk.units.union(labels, labels[:, :1])
    return Labelled(shape, laid(labels[:, 0], axis, len(shape)))


def unpool(walk: Walk, node: Node, a: Any) -> Value:
    """Put values back to where pooling took them from."""
    if not isinstance(a.self, Labelled) or not isinstance(a.indices, Labelled):
        return unknown(walk, node, a)
    rank = len(a.self.shape)
    count = 2 if "2d" in str(node.target) else 3
    x = walk.units.join(a.self, a.indices, a.self.shape)
    x = walk.pin(node, x, "unpooled across units", range(rank - count, rank))
    return Labelled(shape_of(node), x.labels)


def glu(walk: Walk, node: Node, a: Any) -> Value:
    """Multiply one half by a function of the other: both halves' units become one."""
    first, second = (walk.units.lower(half) for half in walk.units.lift(a.self).chunk(2, a.dim))
    return walk.units.join(first, second, shape_of(node))
