"""The union-find against one in plain Python, label tensors against ones that are written out in full."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgel0.units import Labelled, Units

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True, database=None)


class Naive:
    def __init__(self, count):
        self.sets = {i: {i} for i in range(count)}

    def union(self, a, b):
        if self.sets[a] is not self.sets[b]:
            merged = self.sets[a] | self.sets[b]
            for member in merged:
                self.sets[member] = merged


@SETTINGS
@given(st.data(), st.integers(1, 40))
def test_union_find(data, count):
    units, naive = Units(), Naive(count + 1)
    units.fresh(count)
    for _ in range(data.draw(st.integers(0, 5))):
        size = data.draw(st.integers(1, 12))
        pairs = data.draw(
            st.lists(st.tuples(st.integers(0, count), st.integers(0, count)), min_size=size, max_size=size)
        )
        first, second = (np.array(side) for side in zip(*pairs, strict=True))
        units.union(first, second)
        for a, b in pairs:
            naive.union(a, b)
        found = units.find(np.arange(count + 1))
        assert found.tolist() == [min(naive.sets[i]) for i in range(count + 1)]


def test_union_broadcasts_and_the_pinned_label_wins():
    units = Units()
    labels = units.fresh(6).reshape(2, 3)
    units.union(labels, labels[:1])
    assert units.find(labels).tolist() == [[1, 2, 3], [1, 2, 3]]
    units.union(labels[1, 2:], 0)
    assert units.find(labels).tolist() == [[1, 2, 0], [1, 2, 0]]


def test_fresh_labels_remember_their_writer():
    units = Units()
    assert units.fresh(2, writer=5).tolist() == [1, 2]
    assert units.fresh(1).tolist() == [3]
    assert units.writers.tolist() == [-1, 5, 5, -1]
    assert len(units) == 4


@st.composite
def labelled(draw):
    """A tensor of which some axes vary."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    vary = [draw(st.booleans()) for _ in shape]
    units = Units()
    sizes = [n if v else 1 for n, v in zip(shape, vary, strict=True)]
    labels = units.fresh(int(np.prod(sizes))).reshape(sizes)
    for _ in range(draw(st.integers(0, 3))):
        units.union(*(np.array([draw(st.integers(0, labels.size))]) for _ in range(2)))
    return units, units.settle(Labelled(shape, labels))


def full(units, tensor):
    return np.broadcast_to(units.find(tensor.labels), tensor.shape)


def is_minimal(tensor):
    return all(
        size == 1 or (tensor.labels != tensor.labels.take([0], axis)).any()
        for axis, size in enumerate(tensor.labels.shape)
    )


@SETTINGS
@given(st.data(), labelled())
def test_reshape(data, given_tensor):
    units, tensor = given_tensor
    left = int(np.prod(tensor.shape))
    shape = []
    while left > 1 or data.draw(st.booleans()):
        size = data.draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0]))
        shape.append(size)
        left //= size
    got = units.reshape(tensor, shape)
    assert np.array_equal(full(units, got), full(units, tensor).reshape(shape))
    assert is_minimal(got)


@SETTINGS
@given(st.data(), labelled())
def test_lift_and_lower(data, given_tensor):
    units, tensor = given_tensor
    order = data.draw(st.permutations(range(len(tensor.shape))))
    got = units.lower(units.lift(tensor).permute(order))
    assert np.array_equal(full(units, got), full(units, tensor).transpose(order))
    assert is_minimal(got)
    assert np.array_equal(full(units, units.lower(units.lift(tensor).clone())), full(units, tensor))


@SETTINGS
@given(st.data(), labelled())
def test_tie(data, given_tensor):
    units, tensor = given_tensor
    keep = data.draw(st.sets(st.integers(0, len(tensor.shape) - 1)))
    naive = Naive(len(units))
    wanted = full(units, tensor)
    for place in np.ndindex(*tensor.shape):
        naive.union(wanted[place], wanted[tuple(i if axis in keep else 0 for axis, i in enumerate(place))])
    units.tie(tensor, tuple(keep))
    after = full(units, tensor)
    assert [min(naive.sets[label]) for label in wanted.ravel()] == after.ravel().tolist()
    assert set(units.settle(tensor).varying) <= keep


def test_join_elements_that_meet():
    units = Units()
    a, b = (Labelled((2, 3), units.fresh(3).reshape(1, 3)) for _ in range(2))
    joined = units.join(a, b, (2, 3))
    assert joined.labels.tolist() == [[1, 2, 3]]
    assert units.find(b.labels).tolist() == [[1, 2, 3]]


def test_join_pins_what_is_broadcast_over_units():
    units = Units()
    wide = Labelled((2, 3), units.fresh(3).reshape(1, 3))
    narrow = Labelled((2, 1), units.fresh(1).reshape(1, 1))
    assert units.join(narrow, wide, (2, 3)).labels.tolist() == [[1, 2, 3]]
    assert units.find(narrow.labels).tolist() == [[0]]


def test_join_of_an_outer_product_keeps_the_more_units():
    units = Units()
    rows, columns = Labelled((2, 1), units.fresh(2).reshape(2, 1)), Labelled((1, 3), units.fresh(3).reshape(1, 3))
    assert units.join(rows, columns, (2, 3)).labels.tolist() == [[3, 4, 5]]
    assert units.find(rows.labels).tolist() == [[0], [0]]


def test_labels_must_have_the_rank_of_the_shape():
    with pytest.raises(ValueError, match="do not broadcast"):
        Labelled((2, 3), np.zeros(3, np.int64))


def test_a_tensor_without_elements():
    units = Units()
    assert units.reshape(units.pinned((0, 3)), (3, 0)).shape == (3, 0)
    assert units.lift(units.pinned((2, 3))).shape == torch.Size([2, 3])
