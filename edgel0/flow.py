"""How do labels flow through each ATen operator? FLOW: the file to edit for a new operator.

A rule gets the walk, the graph node and the operator's arguments by their schema names (``a.self``, ``a.weight`` …),
with each tensor already replaced by its :class:`~edgel0.units.Labelled` (a live tensor) or :class:`Constant` (computed
from parameters and buffers alone). It returns the labels of the output, or a tuple for several outputs. Rules are only
called where at least one argument is live; all others are constants.

A rule may be careful (pin more than it must) but never wrong: whatever a label's value can reach must carry that label,
be pinned, or be read through a parameter that a gate can close.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
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
MANY = 1 << 16  # copies of one value beyond which they are not told apart


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a node's single result."""
    return tuple(int(n) for n in node.meta["val"].shape)


def operands(args: Any, kind: type) -> list[Any]:
    """All arguments of one kind (``Labelled`` or ``Constant``), lists of tensors included, in schema order."""
    flat = (item for value in vars(args).values() for item in (value if isinstance(value, list | tuple) else (value,)))
    return [item for item in flat if isinstance(item, kind)]


def _axis_shape(labels: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Lay a vector of labels along one axis of a tensor of that rank."""
    return labels.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _like(node: Node, make: Callable[[tuple[int, ...]], Labelled]) -> Value:
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


def reduce(walk: Walk, node: Node, a: Any) -> Value:
    """Drop axes along which labels do not vary; pin where they do."""
    x = operands(a, Labelled)[0]
    rank, dim = len(x.shape), getattr(a, "dim", None)
    dims = [dim] if isinstance(dim, int) else list(dim) if dim else list(range(rank))
    axes = {d % rank for d in dims} if rank else set()
    x = walk.pin(node, x, "reduced across units", sorted(axes))
    kept = x.labels[tuple(slice(0, 1) if i in axes else slice(None) for i in range(rank))]
    dropped = kept.reshape([size for i, size in enumerate(kept.shape) if i not in axes])
    return _like(node, lambda shape: Labelled(shape, kept if len(shape) == rank else dropped))


def along_axis(walk: Walk, node: Node, a: Any) -> Value:
    """Softmax, cumulative sums, sorting: values along one axis meet and the others stay as they are."""
    x = operands(a, Labelled)[0]
    if x.shape:
        x = walk.pin(node, x, "combined across units", [getattr(a, "dim", -1) % len(x.shape)])
    return _like(node, lambda shape: Labelled(shape, x.labels))


def triangle(walk: Walk, node: Node, a: Any) -> Value:
    """Zero one side of the diagonal: where an element stands along the last two axes decides."""
    return walk.pin(node, a.self, "cut along a diagonal across units", range(len(a.self.shape) - 2, len(a.self.shape)))


def spatial(walk: Walk, node: Node, a: Any) -> Value:
    """Pooling, resizing, reflection: the last positions meet, channels do not."""
    x = operands(a, Labelled)[0]
    digits = re.search(r"(\d)d", str(node.target))
    count = int(digits.group(1)) if digits else len(x.shape) - 2
    x = walk.pin(node, x, "pooled or resized across units", range(len(x.shape) - count, len(x.shape)))
    return _like(node, lambda shape: Labelled(shape, x.labels))


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


# Moving data.


def index(walk: Walk, node: Node, a: Any) -> Value:
    """Index with constant tensors on the labels; indices that depend on an input pin what they choose among."""
    positions = a.indices if hasattr(a, "indices") else [None] * (a.dim % len(a.self.shape)) + [a.index]
    if isinstance(a.self, Constant) or any(isinstance(p, Labelled) for p in positions):
        for tensor in operands(a, Labelled):
            walk.pin(node, tensor, "indexed by values of the input")
        return walk.units.pinned(shape_of(node))
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
        row = live[0] if alike else each if each is not None else _axis_shape(units.fresh(size), dim, len(shape))
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
        like = units.settle(a.src).labels
        around = np.expand_dims(like, dim) if hasattr(a, "index") else like
        if around.shape[dim] > 1:
            around = _axis_shape(units.fresh(a.self.shape[dim]), dim, around.ndim)
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
                _axis_shape(walk.units.fresh(count), axis, rank),
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
    return Labelled(shape, _axis_shape(labels, axis, len(shape)))


def unpatch(walk: Walk, node: Node, a: Any) -> Value:
    """Add the patches of each channel up again (``nn.Fold``)."""
    shape, axis = shape_of(node), len(a.self.shape) - 2
    x = walk.pin(node, a.self, "patches added up across units", [axis + 1])
    labels = walk.units.along(x, axis).reshape(shape[axis], -1)
    walk.units.union(labels, labels[:, :1])
    return Labelled(shape, _axis_shape(labels[:, 0], axis, len(shape)))


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


# Writers and readers.


def convolution(walk: Walk, node: Node, a: Any) -> Value:
    """Read the input channels, write the output channels; in groups, equal places of all groups are one unit.

    A depthwise filter contracts nothing across channels: its input's labels pass through. The weight of a transposed
    convolution is laid out (in, out / groups, ...), of others (out, in / groups, ...).
    """
    if isinstance(a.input, Constant) or isinstance(a.weight, Labelled) or isinstance(a.bias, Labelled):
        return unknown(walk, node, a)
    shape, groups = shape_of(node), a.groups
    transposed = "transpose" in str(node.target) or getattr(a, "transposed", False)
    axis = len(shape) - len(a.weight.shape) + 1  # 0 where the input has no batch axis
    labels, outs = walk.units.along(a.input, axis), shape[axis]
    if groups > 1 and groups == len(labels):
        out = np.repeat(labels, outs // groups)
        walk.use(node, a.weight, 0, labels if transposed else out)
    else:
        columns = labels.reshape(groups, -1)
        walk.units.union(columns, columns[:1])
        rows = walk.write(a.weight, outs // groups)
        out = np.tile(rows, groups)
        walk.use(node, a.weight, 1 if transposed else 0, rows if transposed else out)
        walk.read(node, a.weight, 0 if transposed else 1, labels if transposed else columns[0])
    if isinstance(a.bias, Constant):
        walk.use(node, a.bias, 0, out)
    return Labelled(shape, _axis_shape(out, axis, len(shape)))


def linear(walk: Walk, node: Node, a: Any) -> Value:
    """Read the last axis through the weight's columns, write its rows."""
    if isinstance(a.input, Constant) or isinstance(a.weight, Labelled) or isinstance(a.bias, Labelled):
        return unknown(walk, node, a)
    shape = shape_of(node)
    if _beside(walk.units, a.input, -1):
        return Labelled(shape, _contract(walk, a.input, -1, len(shape)).labels)
    out = _through(walk, node, a.weight, walk.units.along(a.input, -1), contracted=-1)
    if isinstance(a.bias, Constant):
        walk.use(node, a.bias, 0, out)
    return Labelled(shape, _axis_shape(out, -1, len(shape)))


def _beside(units: Units, x: Labelled, axis: int) -> bool:
    """Tell whether units lie along other axes than the contracted one: they are not read here and go on."""
    x = units.settle(x)
    return axis % len(x.shape) not in x.varying and bool(x.varying) and bool(units.made(x.labels).any())


def _through(walk: Walk, node: Node, matrix: Constant, labels: np.ndarray, contracted: int) -> np.ndarray:
    """Read along one of the last two axes (-1 or -2) of a constant matrix, write along the other."""
    rank, written = len(matrix.shape), -3 - contracted
    walk.read(node, matrix, rank + contracted, labels)
    out = walk.write(matrix, matrix.shape[written])
    walk.use(node, matrix, rank + written, out)
    return out


def embedding(walk: Walk, node: Node, a: Any) -> Value:
    """Write the columns of the table, row by row or summed up; the indices are values of the input."""
    if isinstance(a.weight, Labelled):
        return unknown(walk, node, a)
    for tensor in operands(a, Labelled):
        walk.pin(node, tensor, "used as an index")
    out = walk.write(a.weight, a.weight.shape[1])
    walk.use(node, a.weight, 1, out)

    def columns(shape: tuple[int, ...]) -> Labelled:
        fits = len(shape) > 1 and shape[-1] == len(out)
        return Labelled(shape, _axis_shape(out, -1, len(shape))) if fits else walk.units.pinned(shape)

    return _like(node, columns)


def matmul(walk: Walk, node: Node, a: Any) -> Value:
    """Read through a constant matrix, or join two activations along the contracted axis and with each other."""
    first, second = [v for v in vars(a).values() if isinstance(v, Labelled | Constant)]
    return _product(walk, node, a, first, second)


def addmm(walk: Walk, node: Node, a: Any) -> Value:
    """``self + mat1 @ mat2``, as GPT-2 writes a linear layer; ``baddbmm`` alike."""
    addend, first, second = [v for v in vars(a).values() if isinstance(v, Labelled | Constant)]
    out = _product(walk, node, a, first, second)
    if isinstance(addend, Constant):
        walk.follow(node, addend, out)
        return out
    return walk.units.join(out, addend, shape_of(node))


def _product(walk: Walk, node: Node, a: Any, x: Value, y: Value) -> Value:
    shape, rank = shape_of(node), len(shape_of(node))
    if min(len(x.shape), len(y.shape)) < 2:
        return unknown(walk, node, a)
    if isinstance(y, Constant) and _single(y) and not _beside(walk.units, x, -1):
        return Labelled(shape, _axis_shape(_through(walk, node, y, walk.units.along(x, -1), -2), -1, rank))
    if isinstance(x, Constant) and _single(x) and not _beside(walk.units, y, -2):
        return Labelled(shape, _axis_shape(_through(walk, node, x, walk.units.along(y, -2), -1), -2, rank))
    if isinstance(x, Labelled) and isinstance(y, Labelled):
        return _meet(walk.units, _contract(walk, x, -1, rank), _contract(walk, y, -2, rank), shape)
    # No gate can stand on these constants: what they contract is pinned, everything else passes.
    live, constant, axis = (x, y, -1) if isinstance(x, Labelled) else (y, x, -2)
    live = walk.pin(node, live, "multiplied by a stack of constant matrices", [len(live.shape) + axis])
    out = _contract(walk, live, axis, rank)
    walk.follow(node, constant, Labelled((*shape[:-2], 1, 1), out.labels[..., :1, :1]))
    return Labelled(shape, out.labels)


def _single(matrix: Constant) -> bool:
    return set(matrix.shape[:-2]) <= {1}


def _contract(walk: Walk, tensor: Labelled, axis: int, rank: int) -> Labelled:
    """Tie along the contracted axis, make it size 1, and align to the product's rank."""
    size, axis = len(tensor.shape), axis % len(tensor.shape)
    tied = walk.units.tie(tensor, [i for i in range(size) if i != axis])
    lead = (1,) * (rank - size)
    shape = tuple(1 if i == axis else n for i, n in enumerate(tensor.shape))
    return Labelled(lead + shape, tied.labels.reshape(lead + tied.labels.shape))


def _meet(units: Units, x: Labelled, y: Labelled, shape: Sequence[int]) -> Labelled:
    """Multiply two activations: their units become one; what is pinned leaves the other's own axes alone."""
    for one, other in ((x, y), (y, x)):
        if not units.find(one.labels).any() and all(one.shape[i] == 1 for i in units.settle(other).varying):
            return units.settle(Labelled(tuple(shape), other.labels))
    units.union(x.labels, y.labels)
    return units.settle(Labelled(tuple(shape), np.broadcast_arrays(x.labels, y.labels)[0]))


def attention(walk: Walk, node: Node, a: Any) -> Value:
    """Treat ``softmax(q k^T + mask) v`` as the two products that it is; grouped queries share their key's unit."""
    if any(isinstance(t, Constant) for t in (a.query, a.key, a.value)):
        return unknown(walk, node, a)
    units, shape, rank = walk.units, shape_of(node), len(shape_of(node))
    key, value = a.key, a.value
    if a.enable_gqa:
        key, value = (
            units.lower(units.lift(t).repeat_interleave(a.query.shape[-3] // t.shape[-3], -3)) for t in (key, value)
        )
    query = _contract(walk, a.query, -1, rank)
    if a.is_causal:
        query = walk.pin(node, query, "a query's place decides what it attends to", [rank - 2])
    key = _contract(walk, _contract(walk, key, -1, rank), -2, rank)
    scores = _meet(units, query, key, (*shape[:-1], 1))
    if isinstance(a.attn_mask, Constant):
        walk.follow(node, a.attn_mask, scores)
    elif isinstance(a.attn_mask, Labelled):
        scores = units.join(scores, _contract(walk, a.attn_mask, -1, rank), scores.shape)
    return _meet(units, scores, _contract(walk, value, -2, rank), shape)


def recurrent(walk: Walk, node: Node, a: Any) -> Value:
    """Write hidden units and read them again at each step; all layers and directions of one call share them.

    One call has one hidden size, so place ``j`` of every layer and direction is one unit. A projection is pinned.
    """
    weights = a.params
    per_layer = 4 if a.has_biases else 2
    directions = 2 if a.bidirectional else 1
    if any(not isinstance(t, Constant) for t in weights) or isinstance(a.input, Constant):
        return unknown(walk, node, a)
    if len(weights) != per_layer * directions * a.num_layers:
        for tensor in operands(a, Labelled):
            walk.pin(node, tensor, "a recurrent layer with a projection")
        return _like(node, walk.units.pinned)
    size = weights[1].shape[1]
    hidden = walk.write(weights[0], size)
    gates = np.tile(hidden, weights[1].shape[0] // size)
    given = walk.units.along(a.input, -1)
    for at in range(0, len(weights), per_layer):
        layer = at // (per_layer * directions)
        walk.read(node, weights[at], 1, given if layer == 0 else np.tile(hidden, directions))
        walk.read(node, weights[at + 1], 1, hidden)
        for tensor in weights[at : at + per_layer]:
            walk.use(node, tensor, 0, gates)
    for state in a.hx if isinstance(a.hx, list | tuple) else [a.hx]:
        if isinstance(state, Labelled):
            walk.units.union(walk.units.along(state, -1), hidden)
        else:
            walk.use(node, state, len(state.shape) - 1, hidden)
    output = np.tile(hidden, directions)
    shapes = [tuple(int(n) for n in value.shape) for value in node.meta["val"]]
    labels = [output if i == 0 else hidden for i in range(len(shapes))]
    return tuple(Labelled(s, _axis_shape(u, -1, len(s))) for s, u in zip(shapes, labels, strict=True))


# Normalisation.


def channelwise(walk: Walk, node: Node, a: Any) -> Value:
    """Batch norm, PReLU and their like: one entry of each parameter per index of axis 1."""
    x = a.input if hasattr(a, "input") else a.self
    if isinstance(x, Constant) or len(operands(a, Labelled)) > 1:
        return unknown(walk, node, a)
    axis = min(1, len(x.shape) - 1)
    labels = walk.units.along(x, axis)
    for constant in operands(a, Constant):
        if constant.shape == (len(labels),) and len(labels) > 1:
            walk.use(node, constant, 0, labels)
    out = Labelled(x.shape, _axis_shape(labels, axis, len(x.shape)))
    return _like(node, lambda shape: out if shape == x.shape else walk.units.pinned(shape))


def instance_norm(walk: Walk, node: Node, a: Any) -> Value:
    """Take statistics per channel over space, along which labels must not vary."""
    if isinstance(a.input, Labelled):
        walk.pin(node, a.input, "normalised across units", range(2, len(a.input.shape)))
    return channelwise(walk, node, a)


def layer_norm(walk: Walk, node: Node, a: Any) -> Value:
    """Take statistics over the last axes: pinned where labels vary along them."""
    if len(operands(a, Labelled)) != 1 or isinstance(a.input, Constant):
        return unknown(walk, node, a)
    rank = len(a.input.shape)
    x = walk.pin(node, a.input, "normalised across units", range(rank - len(a.normalized_shape), rank))
    return _like(node, lambda shape: x if shape == x.shape else walk.units.pinned(shape))


def group_norm(walk: Walk, node: Node, a: Any) -> Value:
    """Take statistics over each group of channels: a group goes or stays as one; a single group is pinned."""
    if len(operands(a, Labelled)) != 1 or isinstance(a.input, Constant):
        return unknown(walk, node, a)
    rank = len(a.input.shape)
    walk.pin(node, a.input, "normalised across units", range(2 if a.num_groups > 1 else 1, rank))
    labels = walk.units.along(a.input, 1)
    groups = labels.reshape(a.num_groups, -1)
    walk.units.union(groups, groups[:, :1])
    for constant in operands(a, Constant):
        walk.use(node, constant, 0, labels)
    return Labelled(a.input.shape, _axis_shape(labels, 1, rank))


def _rows(rule: Rule, names: str) -> dict[Any, Rule]:
    """One row per operator; a name that torch does not have is an error at import."""
    return {getattr(aten, name): rule for name in names.split()}


FLOW: dict[Any, Rule] = {
    **_rows(
        pointwise,
        "abs acos acosh add addcdiv addcmul alias asin asinh atan atan2 atanh bitwise_and bitwise_not "
        "bitwise_or ceil celu clamp clamp_max clamp_min clip clone contiguous copy cos cosh detach div divide "
        "dropout elu eq erf erfc exp exp2 expm1 feature_dropout floor floor_divide fmax fmin fmod frac ge "
        "gelu gt hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp log log10 "
        "log1p log2 log_sigmoid logit logical_and logical_not logical_or logical_xor lt masked_fill maximum "
        "minimum mish mul multiply ne neg pow reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid "
        "sign silu sin sinh softplus softshrink sqrt square sub subtract tan tanh threshold to true_divide "
        "trunc where xlogy _to_copy float_power nan_to_num positive rrelu hypot logaddexp alpha_dropout fill "
        "feature_alpha_dropout",
    ),
    **_rows(reshape, "flatten reshape squeeze unflatten _unsafe_view unsqueeze view"),
    **_rows(expand, "broadcast_to expand"),
    **_rows(triangle, "tril triu"),
    **_rows(scatter, "select_scatter slice_scatter"),
    **_rows(
        move,
        "channel_shuffle chunk diagonal flip movedim moveaxis narrow permute pixel_shuffle pixel_unshuffle "
        "repeat repeat_interleave roll rot90 select slice split split_with_sizes swapaxes swapdims t "
        "tensor_split tile transpose unbind unfold unsafe_chunk unsafe_split mT numpy_T gather take_along_dim",
    ),
    **_rows(
        reduce,
        "all amax amin any argmax argmin linalg_vector_norm logsumexp max mean median min prod std std_mean "
        "sum var var_mean count_nonzero linalg_norm",
    ),
    **_rows(along_axis, "argsort cumprod cumsum log_softmax softmax sort topk"),
    **_rows(
        spatial,
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices "
        "max_pool3d max_pool3d_with_indices upsample_bicubic2d upsample_bilinear2d upsample_linear1d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact2d",
    ),
    **_rows(convolution, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"),
    **_rows(matmul, "bmm matmul mm"),
    **_rows(addmm, "addmm baddbmm"),
    **_rows(index, "index index_select"),
    aten.view.dtype: unknown,
    aten.max.other: pointwise,
    aten.min.other: pointwise,
    aten.linear: linear,
    aten.embedding: embedding,
    aten.embedding_bag: embedding,
    aten.scaled_dot_product_attention: attention,
    aten.lstm.input: recurrent,
    aten.gru.input: recurrent,
    aten.rnn_tanh.input: recurrent,
    aten.rnn_relu.input: recurrent,
    aten.cat: cat,
    aten.concat: cat,
    aten.concatenate: cat,
    aten.stack: stack,
    aten.pad: pad,
    aten.constant_pad_nd: pad,
    aten.glu: glu,
    aten.index_put: index_put,
    aten.im2col: patches,
    aten.col2im: unpatch,
    aten.max_unpool2d: unpool,
    aten.max_unpool3d: unpool,
    aten.batch_norm: channelwise,
    aten._native_batch_norm_legit.no_stats: channelwise,
    aten._native_batch_norm_legit_no_training: channelwise,
    aten.prelu: channelwise,
    aten.instance_norm: instance_norm,
    aten.layer_norm: layer_norm,
    aten.native_layer_norm: layer_norm,
    aten.rms_norm: layer_norm,
    aten.group_norm: group_norm,
}
