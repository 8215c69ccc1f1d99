"""The data that flow: what their constructors refuse and what their properties say."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from edgel0.errors import UsageError
from edgel0.tracing import trace
from edgel0.types import Cost, Coupling, Group, Labels, Masks, Pin, Reader


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return trace(net, torch.zeros(1, 3))


def small(units=3, readers=(), groups=(), pins=()):
    return Coupling(None, units, tuple(groups), {}, {}, {}, {}, tuple(readers), tuple(pins), {})


def test_labels_compare_and_hash_by_value():
    first, same = Labels(1, np.array([1, 2])), Labels(1, np.array([1, 2]))
    assert first == same
    assert hash(first) == hash(same)
    assert first != Labels(0, np.array([1, 2]))
    assert first != Labels(1, np.array([1, 3]))
    assert Labels(None, np.array([4])) != Labels(0, np.array([4]))
    assert first != "labels"


def test_group_size():
    assert Group("conv", 3, 11, ("conv.weight",)).size == 8


def test_unknown_operators_are_named_once_and_sorted():
    def pin(operator, unknown):
        return Pin(operator, "node", "module", "reason", 1, unknown=unknown)

    coupling = small(pins=[pin("b", True), pin("a", True), pin("b", True), pin("c", False)])
    assert coupling.unknown == ("a", "b")


def test_the_digest_of_a_coupling_ignores_weights_and_sees_sizes(coupling):
    def digest(width):
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        return trace(net, torch.zeros(1, 3)).digest

    assert digest(6) == coupling.digest
    assert digest(7) != coupling.digest
    assert len(coupling.digest) == 16


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (np.ones(10, bool), r"shape \(10,\).*model of 10 units.*shape \(11,\)"),
        (np.ones((11, 1), bool), r"shape \(11, 1\)"),
        (np.ones(11), "type float64"),
        (np.array([False] + [True] * 10), "entry 0"),
    ],
)
def test_masks_that_do_not_fit_are_refused(coupling, opened, message):
    with pytest.raises(UsageError, match=message):
        Masks(coupling, opened)


def test_masks_are_frozen_and_count_by_group(coupling):
    opened = np.array([True, True, False, False, True] + [True] * 5 + [False])
    masks = Masks(coupling, opened)
    assert masks.rule == "given"
    assert masks.kept == {"0": 2, "2": 5}
    with pytest.raises(dataclasses.FrozenInstanceError):
        masks.rule = "other"


def test_the_digest_of_a_mask_is_of_its_bits(coupling):
    opened = np.ones(11, bool)
    other = opened.copy()
    other[7] = False
    assert Masks(coupling, opened).digest == Masks(coupling, opened.copy(), rule="rank").digest
    assert Masks(coupling, opened).digest != Masks(coupling, other).digest


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_random_masks_keep_one_of_every_group_and_reader(coupling, share, seed):
    masks = Masks.random(coupling, share, seed)
    assert masks.open[0]
    assert all(masks.kept.values())
    assert all(masks.open[reader.units].any() for reader in coupling.readers)
    np.testing.assert_array_equal(masks.open, Masks.random(coupling, share, seed).open)
    if share == 0:
        assert masks.open.all()
    if share == 1:
        assert sum(masks.kept.values()) == len(masks.kept)


def test_random_masks_close_about_their_share():
    masks = Masks.random(small(units=10_000), 0.3, seed=1)
    closed = 1 - masks.open[1:].mean()
    assert abs(closed - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 10_000)


def test_random_masks_keep_every_reader_alive_though_its_group_lives():
    halves = [Reader("left", 1, np.array([1, 2])), Reader("right", 1, np.array([3, 4]))]
    coupling = small(units=4, readers=halves, groups=[Group("a", 1, 5, ("a.weight",))])
    for seed in range(20):
        opened = Masks.random(coupling, 1.0, seed).open
        assert opened[[1, 2]].any()
        assert opened[[3, 4]].any()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(coupling, share):
    with pytest.raises(UsageError, match="between 0 and 1"):
        Masks.random(coupling, share)


def test_cost_by_name():
    assert Cost(1, 2, 3, 4).as_dict() == {"macs": 1, "params": 2, "weight_bytes": 3, "activation_bytes": 4}
