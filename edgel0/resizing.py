"""Which sizes does an operator carry, and what are they once units are gone? RESIZE: operator -> new arguments.

Operators without a row carry no size along a labelled axis and are copied as they are. A row returns the new node, or
None to copy. Data-moving operators are checked: the new call must move the kept positions to where the old one did, or
a gather takes its place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from edgel0.flow import FLOW
from edgel0.moving import expand, index, move, reshape
from edgel0.tracing import bind
from edgel0.types import Labels

if TYPE_CHECKING:
    from edgel0.slimming import Rewrite

aten = torch.ops.aten


@dataclass(frozen=True)
class Resized:
    """An operator of several outputs of which some are gone: the new node of each old output."""

    pieces: dict[int, Node]


def _names(node: Node) -> Any:
    return bind(node, lambda given: given)


def _count(kept: np.ndarray, start: int, stop: int) -> int:
    return int(np.searchsorted(kept, stop) - np.searchsorted(kept, start))


def to_shape(rewrite: Rewrite, node: Node) -> Node | None:
    """Write the whole new shape out."""
    source = node.all_input_nodes[0]
    if not rewrite.resizes(node):
        return None
    return rewrite.call(node, aten.reshape.default, rewrite.argument(node, source), list(rewrite.shape(node)))


def to_size(rewrite: Rewrite, node: Node) -> Node | None:
    """Write the whole expanded shape out."""
    source = node.all_input_nodes[0]
    if not rewrite.resizes(node):
        return None
    return rewrite.call(node, aten.expand.default, rewrite.argument(node, source), list(rewrite.shape(node)))


def groups(rewrite: Rewrite, node: Node) -> Node | None:
    """Depthwise: as many groups as channels are left."""
    a = _names(node)
    channels = a.input.meta["val"].shape[-(a.weight.meta["val"].dim() - 1)]
    if a.groups == 1 or a.groups != channels:
        return None
    new = rewrite.shape(a.input)
    return rewrite.copy(node, groups=new[-(a.weight.meta["val"].dim() - 1)])


def norm_groups(rewrite: Rewrite, node: Node) -> Node | None:
    """Keep the channels of a group together and count the groups that are left."""
    a = _names(node)
    per_group = a.input.meta["val"].shape[1] // a.num_groups
    return rewrite.copy(node, num_groups=rewrite.shape(a.input)[1] // per_group)


def side_by_side(rewrite: Rewrite, node: Node) -> Node:
    """Leave out the operands of which nothing is kept."""
    a, labels = _names(node), rewrite.labels(node)
    shape, stacked = node.meta["val"].shape, rewrite.packet(node) is aten.stack
    dim, start, parts = a.dim % len(shape), 0, []
    for part in a.tensors:
        size = 1 if stacked else part.meta["val"].shape[dim] if part.meta["val"].dim() == len(shape) else 0
        kept = size if labels is None or labels.axis != dim else _count(rewrite.kept(labels), start, start + size)
        if kept:
            parts.append(part)
        start += size
    if len(parts) == 1 and not stacked:
        made = rewrite.argument(node, parts[0])
        assert isinstance(made, Node)
        return made
    return rewrite.copy(node, tensors=[rewrite.argument(node, part) for part in parts])


def written(rewrite: Rewrite, node: Node) -> Node | None:
    """Write to the kept positions of the range that was written to, if there are any."""
    a, labels = _names(node), rewrite.labels(node)
    if a.src in rewrite.absent:
        return rewrite.argument(node, a.self)  # type: ignore[no-any-return]
    rank = len(node.meta["val"].shape)
    if labels is None or labels.axis != a.dim % rank:
        return None
    places = np.arange(labels.units.size)
    places = places[[a.index]] if hasattr(a, "index") else places[slice(a.start, a.end, a.step)]
    at = np.flatnonzero(np.isin(rewrite.kept(labels), places))
    if at.size == 0:
        return rewrite.argument(node, a.self)  # type: ignore[no-any-return]
    if hasattr(a, "index"):
        return rewrite.copy(node, index=int(at[0]))
    changed = sliced(a, labels, rewrite.kept(labels))
    if changed is not None:
        return rewrite.copy(node, **changed)
    where = rewrite.place((node.name, "written"), torch.from_numpy(at))
    return rewrite.call(
        node, aten.index_copy.default, rewrite.argument(node, a.self), a.dim, where, rewrite.argument(node, a.src)
    )


def addend(rewrite: Rewrite, node: Node) -> Node | None:
    """Leave out the product of a matrix of which nothing is kept."""
    first, *matrices = (v for v in vars(_names(node)).values() if isinstance(v, Node))
    if not any(matrix in rewrite.absent for matrix in matrices):
        return None
    scaled = rewrite.call(node, aten.mul.Scalar, rewrite.argument(node, first), _names(node).beta)
    return rewrite.call(node, aten.expand.default, scaled, list(rewrite.shape(node)))


def padding(rewrite: Rewrite, node: Node) -> Node | None:
    """Count what is kept of the padded margins."""
    a, labels = _names(node), rewrite.labels(node)
    if labels is None or labels.axis is None:
        return None
    rank = len(node.meta["val"].shape)
    k = rank - 1 - labels.axis
    if k >= len(a.pad) // 2:
        return None
    before, after, kept = a.pad[2 * k], a.pad[2 * k + 1], rewrite.kept(labels)
    if before < 0 or after < 0:
        return None if not rewrite.changes((labels,)) else gather(rewrite, node)
    sizes = list(a.pad)
    sizes[2 * k] = _count(kept, 0, before)
    sizes[2 * k + 1] = _count(kept, labels.units.size - after, labels.units.size)
    return rewrite.copy(node, pad=sizes)


# Moving data along a labelled axis.


def moving(rewrite: Rewrite, node: Node) -> Any:
    """Adapt a data-moving operator, prove that it moves what is kept to the right places, or gather instead."""
    source = node.all_input_nodes[0]
    cuts = rewrite.changes(rewrite.cut(source, node))
    if not cuts:
        return None
    if isinstance(node.meta["val"], list | tuple):
        return pieces(rewrite, node, cuts)
    adapted = MOVES.get(rewrite.packet(node)) if len(cuts) == 1 else None
    changed = adapted(_names(node), cuts[0], rewrite.kept(cuts[0])) if adapted else {}
    if changed is not None and _moves_alike(rewrite, node, cuts, changed):
        return rewrite.copy(node, **changed)
    return gather(rewrite, node)


def sliced(a: Any, labels: Labels, kept: np.ndarray) -> dict[str, Any] | None:
    """Count the kept positions before the bounds of a slice."""
    size = labels.units.size
    rank_dim = a.dim
    if labels.axis is None or rank_dim % _rank(a) != labels.axis:
        return {}
    start, end, step = a.start or 0, size if a.end is None else a.end, a.step
    start, end = (min(max(b + size if b < 0 else b, 0), size) for b in (start, end))
    return None if step != 1 else {"start": _count(kept, 0, start), "end": _count(kept, 0, end)}


def narrowed(a: Any, labels: Labels, kept: np.ndarray) -> dict[str, Any] | None:
    """Count the kept positions inside a narrowed range."""
    if labels.axis is None or a.dim % _rank(a) != labels.axis:
        return {}
    start = a.start % labels.units.size
    return {"start": _count(kept, 0, start), "length": _count(kept, start, start + a.length)}


def selected(a: Any, labels: Labels, kept: np.ndarray) -> dict[str, Any] | None:
    """Find the kept position of a selected index."""
    if labels.axis is None or a.dim % _rank(a) != labels.axis:
        return {}
    return {"index": _count(kept, 0, a.index % labels.units.size)}


def _rank(a: Any) -> int:
    return len((a.self if hasattr(a, "self") else a.input).meta["val"].shape)


def pieces(rewrite: Rewrite, node: Node, cuts: Sequence[Labels]) -> Any:
    """Split what is kept; pieces of which nothing is left are left out."""
    source = node.all_input_nodes[0]
    rank = len(source.meta["val"].shape)
    dim = _names(node).dim % rank
    labels = next((labels for labels in cuts if labels.axis == dim), None)
    if labels is None:
        return None
    open_ = torch.from_numpy(rewrite.masks.open[labels.units])
    parts: Any = _call(rewrite, node, open_.reshape([-1 if i == dim else 1 for i in range(rank)]))
    sizes = [int(part.sum()) for part in parts]
    left = [i for i, size in enumerate(sizes) if size]
    if rewrite.packet(node) is aten.unbind:
        split = rewrite.copy(node)
    elif len(left) == 1:
        return Resized({left[0]: rewrite.argument(node, source)})
    else:
        kept = [sizes[i] for i in left]
        split = rewrite.call(node, aten.split_with_sizes.default, rewrite.argument(node, source), kept, dim)
    return Resized({old: rewrite.call(node, operator.getitem, split, new) for new, old in enumerate(left)})


def _positions(shape: torch.Size, cuts: Sequence[Labels]) -> torch.Tensor:
    """Return each element's index along the labelled axes, broadcast over the others."""
    axes = [labels.axis for labels in cuts]
    sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    return torch.arange(int(np.prod(sizes))).reshape(sizes).expand(shape)


def _moves_alike(rewrite: Rewrite, node: Node, cuts: Sequence[Labels], changed: dict[str, Any]) -> bool:
    """Tell whether the changed call moves the kept positions to where the traced one moved them."""
    places = _positions(node.all_input_nodes[0].meta["val"].shape, cuts)
    wanted = rewrite.select(_call(rewrite, node, places), rewrite.cut(node, node))
    try:
        got = _call(rewrite, node, rewrite.select(places, cuts), changed)
    except (RuntimeError, IndexError):
        return False
    return got.shape == wanted.shape and bool((got == wanted).all())


def _call(rewrite: Rewrite, node: Node, value: torch.Tensor, changed: dict[str, Any] | None = None) -> torch.Tensor:
    args, kwargs = rewrite.replaced(node, (value, *node.args[1:]), node.kwargs, changed or {})
    result: torch.Tensor = node.target(  # type: ignore[operator]
        *torch.fx.map_arg(args, rewrite.value), **torch.fx.map_arg(kwargs, rewrite.value)
    )
    return result


def gather(rewrite: Rewrite, node: Node) -> Node:
    """Take each kept output element from where the old operator took it."""
    source = node.all_input_nodes[0]
    full = source.meta["val"].shape
    places = torch.arange(int(np.prod(full))).reshape(full)
    known = rewrite.select(places, rewrite.cut(source, node)).reshape(-1)
    wanted = rewrite.select(_call(rewrite, node, places), rewrite.cut(node, node))
    at = torch.searchsorted(known, wanted.reshape(-1).contiguous())
    flat = rewrite.call(node, aten.reshape.default, rewrite.argument(node, source), [-1])
    where = rewrite.place((node.name, "gather"), at)
    chosen = rewrite.call(node, aten.index_select.default, flat, 0, where)
    return rewrite.call(node, aten.reshape.default, chosen, list(wanted.shape))


MOVES: dict[Any, Callable[[Any, Labels, np.ndarray], dict[str, Any] | None]] = {
    aten.slice: sliced,
    aten.narrow: narrowed,
    aten.select: selected,
}

RESIZE: dict[Any, Callable[[Rewrite, Node], Any]] = {
    **{packet: to_shape for packet, rule in FLOW.items() if rule is reshape},
    **{packet: to_size for packet, rule in FLOW.items() if rule is expand},
    **{packet: moving for packet, rule in FLOW.items() if rule is move},
    **{packet: moving for packet, rule in FLOW.items() if rule is index},
    aten.cat: side_by_side,
    aten.concat: side_by_side,
    aten.concatenate: side_by_side,
    aten.stack: side_by_side,
    aten.select_scatter: written,
    aten.slice_scatter: written,
    aten.addmm: addend,
    aten.baddbmm: addend,
    aten.pad: padding,
    aten.constant_pad_nd: padding,
    aten.group_norm: norm_groups,
    aten.conv1d: groups,
    aten.conv2d: groups,
    aten.conv3d: groups,
    aten.conv_transpose1d: groups,
    aten.conv_transpose2d: groups,
    aten.conv_transpose3d: groups,
    aten.convolution: groups,
}
