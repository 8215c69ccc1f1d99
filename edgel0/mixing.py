"""What becomes of labels where operators read units and write new ones? Layers, products, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from edgel0.rules import Constant, Value, Walk, each_output, laid, operands, shape_of, unknown
from edgel0.units import Labelled, Units


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
    return Labelled(shape, laid(out, axis, len(shape)))


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
    return Labelled(shape, laid(out, -1, len(shape)))


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
        return Labelled(shape, laid(out, -1, len(shape))) if fits else walk.units.pinned(shape)

    return each_output(node, columns)


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
        return Labelled(shape, laid(_through(walk, node, y, walk.units.along(x, -1), -2), -1, rank))
    if isinstance(x, Constant) and _single(x) and not _beside(walk.units, y, -2):
        return Labelled(shape, laid(_through(walk, node, x, walk.units.along(y, -2), -1), -2, rank))
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
        return each_output(node, walk.units.pinned)
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
    return tuple(Labelled(s, laid(u, -1, len(s))) for s, u in zip(shapes, labels, strict=True))


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
    out = Labelled(x.shape, laid(labels, axis, len(x.shape)))
    return each_output(node, lambda shape: out if shape == x.shape else walk.units.pinned(shape))


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
    return each_output(node, lambda shape: x if shape == x.shape else walk.units.pinned(shape))


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
    return Labelled(a.input.shape, laid(labels, 1, rank))
