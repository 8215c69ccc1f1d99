"""Which indices belong together? A union-find over labels, and label tensors to run operators on.

A label is a number written on an index of a tensor: 0 is *pinned*, everything else may become a unit. Two labels that
meet become one. Label tensors stay *broadcast*: an axis along which the label does not change has size 1 in
``Labelled.labels``, whatever its size in the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

PINNED = 0


@dataclass(frozen=True)
class Labelled:
    """A tensor of the network with a label on every element.

    ``shape`` is the network's shape; ``labels`` has the same rank and size 1 along every axis that does not vary.
    """

    shape: tuple[int, ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Check that the labels broadcast to the shape."""
        if len(self.shape) != self.labels.ndim:
            raise ValueError(f"labels of shape {self.labels.shape} do not broadcast to {self.shape}")

    @property
    def varying(self) -> tuple[int, ...]:
        """Axes along which the label changes."""
        return tuple(i for i, size in enumerate(self.labels.shape) if size > 1)


class Units:
    """A union-find over labels, on whole arrays. The smallest label of a set names it, so 0 stays 0."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._writer = np.full(1, -1, np.int64)
        self._made = np.zeros(1, bool)
        self._used = 1
        self.lost = 0  # sets with a writer that have been pinned

    def __len__(self) -> int:
        return self._used

    def fresh(self, count: int, writer: int = -1) -> np.ndarray:
        """Return ``count`` new labels, made by writer number ``writer`` (-1: by no parameter)."""
        start, stop = self._used, self._used + count
        if stop > len(self._parent):
            room = max(stop, 2 * len(self._parent)) - len(self._parent)
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), len(self._parent) + room)])
            self._writer = np.concatenate([self._writer, np.full(room, -1, np.int64)])
            self._made = np.concatenate([self._made, np.zeros(room, bool)])
        self._writer[start:stop] = writer
        self._made[start:stop] = writer >= 0
        self._used = stop
        return np.arange(start, stop)

    @property
    def writers(self) -> np.ndarray:
        """Writer number of every label ever made, -1 where no parameter made it."""
        return self._writer[: self._used]

    def made(self, labels: np.ndarray) -> np.ndarray:
        """Tell of each label whether a parameter made any of its set, and nothing has pinned it."""
        roots = self.find(labels)
        found: np.ndarray = self._made[roots] & (roots != PINNED)
        return found

    def find(self, labels: np.ndarray) -> np.ndarray:
        """Return the name of each label's set."""
        root: np.ndarray = self._parent[labels]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[labels] = root
        return root

    def union(self, first: np.ndarray, second: np.ndarray | int) -> None:
        """Make each label of ``first`` one with its partner in ``second`` (broadcast against each other)."""
        left, right = np.broadcast_arrays(first, np.asarray(second))
        a, b = self.find(left).ravel(), self.find(right).ravel()
        while True:
            low, high = np.minimum(a, b), np.maximum(a, b)
            apart = low != high
            if not apart.any():
                return
            low, high = low[apart], high[apart]
            self.lost += np.unique(high[(low == PINNED) & self._made[high]]).size
            np.logical_or.at(self._made, low, self._made[high])
            np.minimum.at(self._parent, high, low)
            a, b = self.find(low), self.find(high)

    def pinned(self, shape: Sequence[int]) -> Labelled:
        """Return a tensor that is pinned all over."""
        return Labelled(tuple(shape), np.zeros((1,) * len(shape), np.int64))

    def settle(self, tensor: Labelled) -> Labelled:
        """Return the tensor with current labels, broadcast again where they no longer vary."""
        return Labelled(tensor.shape, self.squeeze(self.find(tensor.labels)))

    def tie(self, tensor: Labelled, keep: Sequence[int]) -> Labelled:
        """Make labels one along every axis but those in ``keep``."""
        labels = tensor.labels
        for axis in tensor.varying:
            if axis not in keep:
                self.union(labels, labels.take([0], axis))
                labels = labels.take([0], axis)
        return Labelled(tensor.shape, self.find(labels))

    def along(self, tensor: Labelled, axis: int) -> np.ndarray:
        """Tie along all axes but ``axis`` and return one label per index of it."""
        axis %= len(tensor.shape)
        labels = self.tie(tensor, keep=(axis,)).labels.reshape(-1)
        return np.broadcast_to(labels, (tensor.shape[axis],))

    def join(self, first: Labelled, second: Labelled, shape: Sequence[int]) -> Labelled:
        """Return the labels of an element-wise combination, broadcast to ``shape``.

        Elements that are combined get one label. An operand that is broadcast along an axis on which the other varies
        is not torn apart by it: it is pinned where it is no unit yet, and the other's labels go on.
        """
        a, b = self.settle(_align(first, len(shape))), self.settle(_align(second, len(shape)))
        a_wide, b_wide = _spread(a, b), _spread(b, a)
        if a_wide and b_wide:  # an outer product: the one with fewer units is held
            a_wide = np.unique(a.labels).size <= np.unique(b.labels).size
            b_wide = not a_wide
        if a_wide or b_wide:
            held, free = (a, b) if a_wide else (b, a)
            self.union(held.labels, PINNED)
            return Labelled(tuple(shape), free.labels)
        self.union(a.labels, b.labels)
        joined = np.broadcast_arrays(a.labels, b.labels)[0]
        return Labelled(tuple(shape), self.squeeze(self.find(joined)))

    def lift(self, tensor: Labelled) -> torch.Tensor:
        """Return the labels as an int64 tensor of the network's shape, stride 0 where they do not vary."""
        return torch.from_numpy(np.require(tensor.labels, requirements=["C", "W"])).expand(tensor.shape)

    def lower(self, labels: torch.Tensor) -> Labelled:
        """Return what an operator made of lifted labels."""
        if not labels.numel():
            return self.pinned(labels.shape)
        array = labels.numpy()
        still = tuple(slice(0, 1) if array.strides[i] == 0 else slice(None) for i in range(array.ndim))
        return Labelled(tuple(labels.shape), self.squeeze(self.find(array[still])))

    def reshape(self, tensor: Labelled, shape: Sequence[int]) -> Labelled:
        """Reshape labels without writing out the axes along which they do not vary."""
        if 0 in shape:
            return Labelled(tuple(shape), np.zeros((1,) * len(shape), np.int64))
        source: list[int] = []
        target: list[int] = []
        for ins, outs in _blocks(tensor.shape, shape):
            vary = any(tensor.labels.shape[i] > 1 for i in ins)
            source += [tensor.shape[i] if vary else 1 for i in ins]
            target += [shape[i] if vary else 1 for i in outs]
        labels = np.broadcast_to(tensor.labels, source).reshape(target)
        return Labelled(tuple(shape), self.squeeze(self.find(labels)))

    @staticmethod
    def squeeze(labels: np.ndarray) -> np.ndarray:
        """Give axes along which labels do not vary size 1."""
        for axis, size in enumerate(labels.shape):
            if size > 1:
                first = labels.take([0], axis)
                if (labels == first).all():
                    labels = first
        return labels


def _align(tensor: Labelled, rank: int) -> Labelled:
    """Add leading axes of size 1, as broadcasting does."""
    lead = (1,) * (rank - len(tensor.shape))
    return Labelled(lead + tensor.shape, tensor.labels.reshape(lead + tensor.labels.shape))


def _spread(narrow: Labelled, wide: Labelled) -> bool:
    """Tell whether ``narrow`` is broadcast along an axis on which ``wide`` varies and is more than pinned."""
    return any(narrow.shape[i] == 1 and wide.labels.shape[i] > 1 and wide.shape[i] > 1 for i in range(len(wide.shape)))


def _blocks(ins: Sequence[int], outs: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes of the same size into the smallest runs of axes with equal products."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(ins) or j < len(outs):
        left, right = ([i], [j]) if i < len(ins) and j < len(outs) else ([], [])
        if not left:  # only axes of size 1 are over
            blocks.append((list(range(i, len(ins))), list(range(j, len(outs)))))
            break
        a, b = ins[i], outs[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= ins[i]
                left.append(i)
                i += 1
            else:
                b *= outs[j]
                right.append(j)
                j += 1
        blocks.append((left, right))
    return blocks
