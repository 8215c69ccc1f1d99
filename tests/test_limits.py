"""Limits: what is limited, by hand; the smallest network against every mask there is; parts, floors, storage."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import seeded
from oracle import randomise
from torch import nn

from edgel0.attaching import attach
from edgel0.budget import Budget
from edgel0.closing import least
from edgel0.concrete import log_alpha_of
from edgel0.cost import STORAGE, cost_of, peak, sums
from edgel0.errors import BudgetError, UsageError
from edgel0.floors import foremost, hold, per_unit
from edgel0.gates import gates_of
from edgel0.limits import Limits
from edgel0.masks import project, rounded, stabilize
from edgel0.naming import covers
from edgel0.reaching import connected
from edgel0.recipe import Limits as Asked
from edgel0.shrinking import shrink_
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks

# Linear(3, 4) and Linear(4, 2): with s units open 5 s MACs, 6 s + 2 parameters, 4 bytes each.
DENSE = {"macs": 20.0, "params": 26.0, "weight_bytes": 104.0, "activation_bytes": 32.0}


def two_layers():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("given", "maximum"),
    [
        ({"macs": 0.5}, {"macs": 10.0}),
        ({"macs": "50 %"}, {"macs": 10.0}),
        ({"macs": "0.5"}, {"macs": 10.0}),
        ({"macs": 11}, {"macs": 11.0}),
        ({"params": "0.02 k"}, {"params": 20.0}),
        ({"params": 1.0}, {"params": 26.0}),
        ({"size": "80 B"}, {"weight_bytes": 80.0}),
        ({"size": "0.1 kB"}, {"weight_bytes": 100.0}),
        ({"size": 0.5}, {"weight_bytes": 52.0}),
        ({"activations": 20}, {"activation_bytes": 20.0}),
        ({"activations": "50 %"}, {"activation_bytes": 16.0}),
        ({"activations": "1 KiB"}, {"activation_bytes": 1024.0}),
        ({"macs": 0.25, "params": 20, "size": "80 B"}, {"macs": 5.0, "params": 20.0, "weight_bytes": 80.0}),
        ({"macs": "1 M"}, {"macs": 1e6}),
    ],
)
def test_limits_become_absolute(given, maximum):
    limits = Limits(trace(two_layers(), torch.zeros(1, 3)), **given)
    assert limits.maximum == maximum
    assert limits.dense == {metric: DENSE[metric] for metric in maximum}


def test_cost_and_fit_of_a_mask_by_hand():
    limits = Limits(trace(two_layers(), torch.zeros(1, 3)), macs=10, params=14, size=56, activations=20)
    for count in range(5):
        opened = np.arange(5) <= count
        assert limits.cost(opened) == {
            **{"macs": 5.0 * count, "params": 6.0 * count + 2, "weight_bytes": 24.0 * count + 8},
            "activation_bytes": 4.0 * max(3 + count, 2 * count, count + 2),  # beside the first layer, ReLU, the last
        }
        assert limits.fits(opened) is (count <= 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name at least one of macs, params, size and activations"),
        ({"macs": 0}, "nothing can keep"),
        ({"macs": math.inf}, "not a count"),
        ({"macs": math.nan}, "not a count"),
        ({"size": -3}, "not a size"),
        ({"macs": "12 apples"}, "apples"),
        ({"macs": "140 %"}, "not a share"),
        ({"macs": 4}, "the limit of 4 MACs cannot be reached.* has 5 MACs .dense: 20 MACs.. Raise .* at least 5"),
        ({"params": 7}, "the limit of 7 params .* has 8 params"),
        ({"size": "31 B"}, "the limit of 31 B of weights .* has 32 B of weights"),
        ({"macs": 0.9, "params": 7}, "the limit of 7 params"),
        (
            {"activations": 15},
            r"the limit of 15 B of activations .* has 16 B of activations \(dense: 32 B of activations",
        ),
        ({"activations": "2 M"}, "the unit 'M' in '2 M' is not a size"),
        ({"size": 0.5, "storage": "int4"}, "storage is 'int4'; float32, float16, int8 are known; did you mean 'int8'"),
        ({"macs": 0.5, "storage": "int8"}, "no size is limited"),
        ({"macs": 0.5, "round_to": 0}, "round_to is 0; it must be a whole number from 1"),
        ({"macs": 0.5, "round_to": 2.0}, "round_to is 2.0"),
        ({"within": {}}, "without a limit"),
    ],
)
def test_limits_that_cannot_be_are_refused(given, message):
    with pytest.raises(BudgetError, match=message):
        Limits(trace(two_layers(), torch.zeros(1, 3)), **given)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.a, self.b = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        h = F.relu(self.stem(x))
        return self.fc((h + self.b(F.relu(self.a(h)))).mean((2, 3)))


class Unlike(nn.Module):
    """Channels of unlike cost side by side."""

    def __init__(self):
        super().__init__()
        self.big, self.little, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(torch.cat([F.relu(self.big(x)), F.relu(self.little(x))], 1).mean((2, 3)))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.d, self.f, self.o = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 1), nn.Linear(8, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.o(F.relu(self.f(F.relu(self.d(F.relu(self.c(x)))).flatten(1))))


class Branches(nn.Module):
    """Either of two branches would do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.b(F.relu(self.a(x))) + self.d(F.relu(self.c(x)))


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.b(h), self.d(F.relu(self.c(h)))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 3, groups=3)
        self.c, self.o = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.o(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).mean((2, 3)))


class Halves(nn.Module):
    """Two halves of one layer with readers of unlike cost."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(2, 1), nn.Linear(4, 1)

    def forward(self, x):
        first, second = F.relu(self.a(x)).chunk(2, 1)
        return self.d(F.relu(self.b(first))) + self.c(second)


@pytest.mark.parametrize("metric", ["macs", "params", "weight_bytes"])
@pytest.mark.parametrize("make", [two_layers, Residual, Unlike, Flat, Branches, Outputs, Depthwise, Halves])
def test_the_smallest_reachable_network_against_all_masks(make, metric):
    example = torch.zeros(1, 1, 4, 4) if make in (Residual, Unlike, Flat, Depthwise) else torch.zeros(1, 3)
    coupling = trace(make(), example)
    total = sums(coupling)[metric]
    masks = (np.array([True, *bits]) for bits in itertools.product([False, True], repeat=coupling.units))
    floor = min(float(total(torch.from_numpy(m).double())) for m in masks if connected(coupling, m))
    assert float(total(torch.from_numpy(least(coupling, total)).double())) == floor
    name = "size" if metric == "weight_bytes" else metric
    Limits(coupling, **{name: int(floor)})
    with pytest.raises(BudgetError, match=f"Raise the limit to at least {floor:.0f}\\."):
        Limits(coupling, **{name: int(floor) - 1})


class Choice(nn.Module):
    """Any of three branches would do: they have (MACs, parameters) of (128, 2), (65, 65) and (80, 5)."""

    def __init__(self, middle):
        super().__init__()
        self.slow, self.fast = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(64, 1, bias=False)
        self.slow_out, self.fast_out = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.middle = nn.Conv2d(1, 1, 2, stride=2, bias=False) if middle else None
        self.middle_out = nn.Conv2d(1, 1, 1, bias=False) if middle else None

    def forward(self, x):
        found = self.slow_out(F.relu(self.slow(x))).mean((2, 3)) + self.fast_out(F.relu(self.fast(x.flatten(1))))
        return found if self.middle is None else found + self.middle_out(F.relu(self.middle(x))).mean((2, 3))


def test_limits_that_only_hold_one_by_one_are_refused():
    coupling = trace(Choice(middle=False), torch.zeros(1, 1, 8, 8))
    assert Limits(coupling, macs=65).cost(np.array([True, False, True])) == {"macs": 65.0}
    assert Limits(coupling, params=2).cost(np.array([True, True, False])) == {"params": 2.0}
    with pytest.raises(BudgetError, match="one by one, but not together") as caught:
        Limits(coupling, macs=70, params=6)
    assert "70 MACs (smallest 65 MACs); 6 params (smallest 2 params)" in str(caught.value)


def test_limits_that_only_a_compromise_holds_are_found():
    coupling = trace(Choice(middle=True), torch.zeros(1, 1, 8, 8))
    limits = Limits(coupling, macs=85, params=6)
    assert limits.cost(limits.smallest) == {"macs": 80.0, "params": 5.0}
    assert limits.reachable == {"macs": 65.0, "params": 2.0}  # one by one
    tight = Limits(coupling, macs=81, params=5)  # by the sum of shares the slow branch is smaller
    assert tight.cost(tight.smallest) == {"macs": 80.0, "params": 5.0}
    with pytest.raises(BudgetError, match=r"not together.*nearest network has 80 MACs, 5 params"):
        Limits(coupling, macs=79, params=5)


# Peak activations.


def test_the_smallest_peak_against_all_masks():
    for make in (two_layers, Residual, Branches, Outputs, Halves):
        coupling = trace(make(), torch.zeros(1, 1, 4, 4) if make is Residual else torch.zeros(1, 3))
        total = peak(coupling)
        masks = (np.array([True, *bits]) for bits in itertools.product([False, True], repeat=coupling.units))
        floor = min(float(total(torch.from_numpy(m).double())) for m in masks if connected(coupling, m))
        assert Limits(coupling, activations=1.0).reachable == {"activation_bytes": floor}


def test_peak_is_a_maximum_of_sums_and_its_gradient_that_of_the_largest():
    total = peak(trace(two_layers(), torch.zeros(1, 3)))
    value, slope = total.slope(np.array([1, 0.9, 0.8, 0.3, 0.2]))  # 2.2 units: 3 + 2.2 is most
    assert value == pytest.approx(4 * 5.2)
    assert slope[1:].tolist() == [4, 4, 4, 4]
    value, slope = total.slope(np.array([1, 0.9, 0.9, 0.9, 0.8]))  # 3.5: twice 3.5 is most
    assert value == pytest.approx(4 * 7)
    assert slope[1:].tolist() == [8, 8, 8, 8]


@pytest.mark.parametrize("seed", range(12))
def test_gradient_of_the_peak_is_the_difference(seed):
    drawn = seeded(seed)[1]
    coupling = trace(drawn.model.double(), drawn.example)
    total, rng = peak(coupling), np.random.default_rng(seed)
    p = torch.from_numpy(np.append(1.0, rng.uniform(0.2, 0.9, coupling.units)))
    value, slope = total.slope(p.numpy())
    for unit in range(1, coupling.units + 1):
        step = torch.zeros_like(p)
        step[unit] = 1e-6
        slopes = [float((total(p + way * step) - value) / (way * 1e-6)) for way in (1, -1)]
        low, high = min(slopes) - 1e-3, max(slopes) + 1e-3  # between both where points are equal
        assert low <= float(slope[unit]) <= high


@pytest.mark.parametrize("seed", range(12))
def test_slopes_are_those_of_automatic_differentiation(seed):
    drawn = seeded(seed)[1]
    coupling = trace(drawn.model.double(), drawn.example)
    rng = np.random.default_rng(seed)
    for total in (*sums(coupling).values(), peak(coupling)):
        for shares in (rng.uniform(0.2, 0.9, coupling.units), np.ones(coupling.units), np.zeros(coupling.units)):
            alive = torch.from_numpy(np.append(1.0, shares)).requires_grad_()
            value = total(alive) + 0 * alive.sum()  # what does not depend on any unit has no tape
            (wanted,) = torch.autograd.grad(value, alive)
            found, slope = total.slope(alive.detach().numpy())
            np.testing.assert_allclose(found, float(value.detach()), rtol=1e-12)
            np.testing.assert_allclose(slope, wanted.numpy(), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_at_certain_gates_every_cost_is_that_of_the_mask(seed):
    drawn = seeded(seed)[1]
    coupling = trace(drawn.model.double(), drawn.example)
    limits = {**sums(coupling), "activation_bytes": peak(coupling)}
    for share in (0.0, 0.3, 0.8):
        masks = Masks.random(coupling, share, seed)
        alive = torch.from_numpy(masks.open).double()
        assert {key: float(total(alive)) for key, total in limits.items()} == cost_of(coupling, masks).as_dict()


def test_a_peak_is_followed_in_training():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    gates = attach(net, torch.zeros(1, 3))
    gates.log_alpha.data.copy_(torch.tensor([log_alpha_of(p) for p in (0.9, 0.8, 0.7, 0.9)]))  # 3.3 units: 2 x 3.3
    budget = Budget(gates, activations=20, warmup=0.0, rate=0.1)
    assert budget.expected()["activation_bytes"].item() == pytest.approx(4 * 6.6)
    budget.penalty()
    budget.step()
    assert budget.multipliers["activation_bytes"] == pytest.approx(0.1 * (26.4 / 20 - 1))
    budget.penalty().backward()
    p = torch.tensor([0.9, 0.8, 0.7, 0.9])
    torch.testing.assert_close(gates.log_alpha.grad, 0.1 * (26.4 / 20 - 1) * 8 / 20 * p * (1 - p), rtol=1e-4, atol=0)
    masks = stabilize(net, budget)
    assert masks.open.tolist() == [True, True, False, False, True]  # 3 + 2 floats beside the first layer


# Storage.


@pytest.mark.parametrize(
    ("storage", "each", "rest"), [(None, 48, 16), ("float32", 24, 8), ("float16", 12, 4), ("int8", 9, 8)]
)
def test_bytes_by_storage_by_hand(storage, each, rest):
    coupling = trace(two_layers().double(), torch.zeros(1, 3).double())
    limits = Limits(coupling, size="100 %", storage=storage)
    for count in range(1, 5):  # int8: 5 weights of a byte and a bias of four to a unit; the last layer has two biases
        assert limits.cost(np.arange(5) <= count) == {"weight_bytes": each * count + rest}


def test_buffers_vectors_and_whole_numbers_by_storage():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
            self.register_buffer("table", torch.arange(3))

        def forward(self, x):
            return self.bn(self.conv(x)) * self.table.sum()

    coupling = trace(Net(), torch.zeros(1, 1, 2, 2))
    every = torch.ones(coupling.units + 1).double()
    found = {storage: float(sums(coupling, storage=storage)["weight_bytes"](every)) for storage in STORAGE}
    assert found == {"float32": 4 * 12 + 24, "float16": 2 * 12 + 24, "int8": 2 + 4 * 2 + 4 * 8 + 24}


def test_a_recipe_knows_the_same_types():
    assert Asked.__dataclass_fields__["storage"].metadata["choices"] == tuple(STORAGE)


# Parts.


class Parts(nn.Module):
    """With i and j units open: 3 i MACs in a, i j in b, 2 j in c."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 2)

    def forward(self, x):
        return self.c(self.b(F.relu(self.a(x))))


def parts(**limits):
    return Limits(trace(Parts(), torch.zeros(1, 3)), **limits)


def test_costs_of_parts_by_hand():
    limits = parts(
        macs=0.9,
        size="100 %",
        storage="int8",
        within={"b": {"macs": "50 %", "params": 20}, "c": {"size": 17}, "[ab]*": {"macs": 1.0}, "b.0": {"macs": 9}},
    )
    assert limits.maximum == {
        **{"macs": 0.9 * (12 + 20 + 10), "weight_bytes": 12 + 20 + 10 + 4 * 11},
        **{
            "macs of b": 10.0,
            "params of b": 20.0,
            "weight_bytes of c": 17.0,
            "macs of [ab]*": 32.0,
            "macs of b.0": 9.0,
        },
    }
    for i, j in itertools.product(range(1, 5), range(1, 6)):
        opened = np.concatenate([[True], np.arange(4) < i, np.arange(5) < j])
        assert limits.cost(opened) == {
            **{"macs": 3 * i + i * j + 2 * j, "weight_bytes": 3 * i + i * j + 2 * j + 4 * (i + j + 2)},
            **{"macs of b": i * j, "params of b": i * j + j, "weight_bytes of c": 2 * j + 8},
            **{"macs of [ab]*": 3 * i + i * j, "macs of b.0": i * j},
        }
    assert limits.fits(limits.smallest)
    assert limits.reachable["macs of b"] == 1


def test_a_part_is_reached_in_training_and_the_rest_left_alone():
    net = Parts()
    gates = attach(net, torch.zeros(1, 3))
    budget = Budget(gates, within={"c": {"params": 8}}, warmup=0.0)  # 2 j + 2: three units of b
    assert list(budget.targets()) == ["params of c"]
    budget.penalty()
    budget.step()
    budget.penalty().backward()
    assert not gates.log_alpha.grad[:4].any()
    assert (gates.log_alpha.grad[4:] > 0).all()
    assert stabilize(net, budget).kept == {"a": 4, "b.0": 3}


@pytest.mark.parametrize(
    ("within", "message"),
    [
        ({"bb": {"macs": 0.5}}, "within names 'bb', which is no module of this model; did you mean 'b'?"),
        ({"b.7": {"macs": 0.5}}, "within names 'b.7'.*did you mean 'b.[01]'"),
        ({"zzz*": {"macs": 0.5}}, "within names 'zzz.*there are, say, a, b, b.0"),
        ({"": {"macs": 0.5}}, "a module's name or a pattern"),
        ({"b": {"activations": 0.5}}, "within 'b' limits activations, which are alive across modules"),
        ({"b": {"mac": 0.5}}, "within 'b' limits 'mac'; macs, params and size are known; did you mean 'macs'"),
        ({"b": 0.5}, "within 'b' is 0.5; limits by name were expected"),
        ({"b": {}}, "limits by name were expected"),
        ({"b.1": {"macs": 0.5}}, "the macs of b.1 was given, but the part 'b.1' has none"),
        ({"a": {"macs": 2}}, "the limit of 2 MACs of a cannot be reached.*has 3 MACs of a .dense: 12 MACs of a"),
        ({"a": {"macs": "2 kB"}}, "the unit 'kB'"),
    ],
)
def test_parts_that_cannot_be_are_refused(within, message):
    with pytest.raises(BudgetError, match=message):
        parts(within=within)


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("layer1", "layer1", True),
        ("layer1", "layer1.0.conv.weight", True),
        ("layer1", "layer10", False),
        ("layer1", "top.layer1", False),
        ("layer1.*", "layer1.0.conv", True),
        ("layer1.*", "layer1", False),
        ("*.conv", "layer1.0.conv.weight", True),
        ("layer?.0", "layer2.0.bn", True),
        ("*", "anything.at.all", True),
        ("Layer1", "layer1", False),
    ],
)
def test_what_a_pattern_covers(pattern, path, covered):
    assert covers(pattern, path) is covered


# Floors.


@pytest.mark.parametrize(
    ("given", "floors"),
    [
        (None, {}),
        (1, {"a": 1, "b.0": 1}),
        (3, {"a": 3, "b.0": 3}),
        (9, {"a": 4, "b.0": 5}),
        ("50 %", {"a": 2, "b.0": 3}),
        (0.25, {"a": 1, "b.0": 2}),
        (1.0, {"a": 4, "b.0": 5}),
        ({"b": 2}, {"b.0": 2}),
        ({"b.0": "80 %", "*": 1}, {"a": 1, "b.0": 4}),
        ({"*": 3, "a.weight": 2}, {"a": 3, "b.0": 3}),
    ],
)
def test_floors_by_group(given, floors):
    assert parts(macs=1.0, keep_at_least=given).floors == floors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "keep_at_least cannot be read: 0 is a limit that nothing can keep"),
        ("110 %", "keep_at_least cannot be read: '110 %' is not a share"),
        ({"b": "many"}, "keep_at_least of 'b' cannot be read: 'many' is not a count"),
        (
            {"bb": 2},
            "keep_at_least names 'bb', which is no group or module with units of this model; did you mean 'b'?",
        ),
        ({"c": 2}, "keep_at_least names 'c'"),  # what it writes is the output
    ],
)
def test_floors_that_cannot_be_read_are_refused(given, message):
    with pytest.raises(BudgetError, match=message):
        parts(macs=1.0, keep_at_least=given)


def test_floors_raise_what_can_be_reached():
    assert parts(macs=1.0).reachable == {"macs": 3 + 1 + 2}
    limits = parts(macs=1.0, keep_at_least=2)
    assert limits.reachable == {"macs": 6 + 4 + 4}
    assert limits.smallest[1:5].sum() == limits.smallest[5:].sum() == 2
    assert parts(macs=1.0, keep_at_least={"b": 4}).reachable == {"macs": 3 + 4 + 8}
    with pytest.raises(
        BudgetError, match=r"limit of 14 MACs cannot be reached.*15 MACs.*by keep_at_least: 4 in 'b.0'; lo"
    ):
        parts(macs=14, keep_at_least={"b": 4})


@pytest.mark.parametrize("make", [Residual, Unlike, Flat, Branches, Outputs, Depthwise, Halves])
def test_the_smallest_network_above_floors_against_all_masks(make):
    coupling = trace(
        make(), torch.zeros(1, 1, 4, 4) if make in (Residual, Unlike, Flat, Depthwise) else torch.zeros(1, 3)
    )
    total, floors = sums(coupling)["macs"], {group.name: 2 for group in coupling.groups}
    masks = (np.array([True, *bits]) for bits in itertools.product([False, True], repeat=coupling.units))
    held = [m for m in masks if connected(coupling, m) and hold(coupling, floors, m)]
    found = least(coupling, total, floors)
    assert connected(coupling, found)
    assert hold(coupling, floors, found)
    assert float(total(torch.from_numpy(found).double())) == min(
        float(total(torch.from_numpy(m).double())) for m in held
    )


def test_the_foremost_of_each_group():
    p = np.array([0.1, 0.9, 0.5, 0.9, 0.2, 0.3, 0.4])
    group, floor = np.array([0, 0, 0, 1, 2, 2, 2]), np.array([2, 2, 2, 0, 1, 1, 1])
    assert foremost(p, group, floor).astype(int).tolist() == [0, 1, 1, 0, 0, 0, 1]


def test_the_constraint_does_not_push_below_a_floor():
    gates = attach(two_layers(), torch.zeros(1, 3))
    p = torch.tensor([0.3, 0.9, 0.1, 0.8])
    gates.log_alpha.data.copy_(torch.tensor([log_alpha_of(v) for v in p.tolist()]))
    budget = Budget(gates, macs=10, keep_at_least=2, warmup=0.0)
    budget.multipliers = {"macs": 2.0}
    assert budget.expected()["macs"].item() == pytest.approx(5 * 2.1)  # the value is that of all gates
    budget.penalty().backward()
    torch.testing.assert_close(gates.log_alpha.grad, 2.0 * 5 / 10 * p * (1 - p) * torch.tensor([1.0, 0, 1, 0]))


@pytest.mark.parametrize("multiple", [1, 2, 3, 4])
@pytest.mark.parametrize("floor", [2, "50 %", {"d": 3}, {"*": 1, "b": 5}])
@pytest.mark.parametrize("seed", range(3))
def test_floors_hold_after_stabilizing(seed, floor, multiple):
    net = nn.Sequential()
    for name, layer in zip("abcd", (nn.Linear(3, 6), nn.Linear(6, 9), nn.Linear(9, 5), nn.Linear(5, 4)), strict=True):
        net.add_module(name, layer)
        net.add_module(f"{name}_relu", nn.ReLU())
    net.add_module("e", nn.Linear(4, 2))
    gates = attach(net, torch.zeros(1, 3))
    gates.log_alpha.data.uniform_(-9, -1, generator=torch.Generator().manual_seed(seed))
    free = Limits(gates.coupling, macs=1.0, keep_at_least=floor)
    budget = Budget(gates, macs=int(1.5 * free.reachable["macs"]), keep_at_least=floor, round_to=multiple)
    assert budget.limits.floors == free.floors != {}
    masks = stabilize(net, budget)
    assert budget.limits.fits(masks.open)
    assert all(masks.kept[name] >= count for name, count in free.floors.items())
    assert slim(net, masks).cost.macs <= budget.limits.maximum["macs"]


class Deep(nn.Module):
    """Two ways: three layers of a, b and c with 4 and 3 units, or two of d and e with 2."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2)
        self.d, self.e = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x))))) + self.e(F.relu(self.d(x)))


@pytest.mark.parametrize(("floors", "shapes"), [({"a": 3}, ((3, 3), (1, 3))), ({"b": 2}, ((1, 3), (2, 1)))])
def test_a_branch_with_a_floor_is_there_after_slimming(floors, shapes):
    net = Deep().double()
    gates = attach(net, torch.zeros(1, 3).double())
    gates.log_alpha.data.fill_(-9.0)
    gates.log_alpha.data[-2:] = 5.0  # the other way is preferred
    free = Limits(gates.coupling, macs=1.0, keep_at_least=floors)
    for multiple, limits in (
        (1, Limits(gates.coupling, macs=int(free.reachable["macs"]), keep_at_least=floors)),
        (2, Limits(gates.coupling, macs=0.9, keep_at_least=floors)),
    ):
        twin = copy.deepcopy(net)
        state = slim(twin, stabilize(twin, limits, round_to=multiple)).program.state_dict
        found = [tuple(state[f"{name}.weight"].shape) for name in "ab"]
        if multiple == 1:
            assert found == [*shapes]
        else:
            assert all(
                rows >= wanted and rows in (2, 3, 4) for (rows, _), (wanted, _) in zip(found, shapes, strict=True)
            )


@pytest.mark.parametrize(
    ("floors", "smallest"), [({}, 5), ({"a": 3}, 9 + 3 + 2), ({"b": 2}, 3 + 2 + 4), ({"d": 2}, 10)]
)
def test_what_a_branch_with_a_floor_costs_at_least(floors, smallest):
    coupling = trace(Deep(), torch.zeros(1, 3))
    limits = Limits(coupling, macs=1.0, keep_at_least=floors or None)
    assert limits.reachable == {"macs": smallest}
    assert slim(Deep(), Masks(coupling, limits.smallest)).cost.macs == smallest


# All together.


@pytest.mark.parametrize("seed", range(40))
def test_masks_of_random_networks_are_within_all_limits(seed):
    drawn = seeded(seed)[1]
    coupling = trace(randomise(drawn.model), drawn.example)
    rng = np.random.default_rng(seed)
    paths = sorted({name.rpartition(".")[0] for name in coupling.tensors} - {""})
    if not paths or not coupling.units:
        return
    group = coupling.groups[seed % len(coupling.groups)].name.replace("[", "?")
    part, keep = str(rng.choice(paths)), [None, 1, "30 %", {group: 2}][seed % 4]
    asked = {"macs": 1.0, "params": 1.0, "size": 1.0, "activations": 1.0}
    try:
        free = Limits(coupling, **asked, storage="int8", within={part: {"params": 1.0}}, keep_at_least=keep)
    except BudgetError as error:
        assert "has none" in str(error)  # a network without products has no MACs
        return
    share = rng.uniform(0.3, 1)
    at = {key: math.ceil(low + share * (free.dense[key] - low)) for key, low in free.reachable.items()}
    limits = Limits(
        coupling,
        **{
            "macs": at["macs"],
            "params": at["params"],
            "size": at["weight_bytes"],
            "activations": at["activation_bytes"],
        },
        **{"storage": "int8", "within": {part: {"params": at[f"params of {part}"]}}, "keep_at_least": keep},
    )
    for _ in range(4):
        probability = np.append(1.0, rng.random(coupling.units) ** rng.choice([0.3, 1, 3]))
        opened = project(coupling, probability, limits)
        again = rounded(coupling, probability, opened, limits, 2)
        for mask in (opened, again):
            assert limits.fits(mask)
            assert connected(coupling, mask)
            assert hold(coupling, limits.floors, mask)
            cost = cost_of(coupling, Masks(coupling, mask))
            assert cost.macs <= at["macs"] and cost.activation_bytes <= at["activation_bytes"]


def test_what_can_be_reached_is_told_before_training():
    limits = parts(macs=21, size="64 B", storage="int8", within={"b": {"params": "60 %"}}, keep_at_least=1)
    assert limits.describe().splitlines() == [
        "macs 21 of 42 (50.0 %), smallest reachable 6",
        "weight_bytes 64 B of 86 B (74.4 %), smallest reachable 22 B",
        "params of b 15 of 25 (60.0 %), smallest reachable 2",
    ]
    assert limits.reachable == {"macs": 6, "weight_bytes": 6 + 4 * 4, "params of b": 2}


def test_limits_floors_and_parts_go_on_with_a_shrunk_model():
    net = Parts()
    gates = attach(net, torch.zeros(1, 3))
    budget = Budget(
        gates,
        macs=0.5,
        activations=0.9,
        within={"b": {"params": "60 %"}},
        keep_at_least={"b": "60 %", "a": 2},
        round_to=2,
    )
    before = budget.limits
    opened = np.array([True, *[True, True, True, False], *[True, False, True, False, False]])
    shrink_(net, None, Masks(gates.coupling, opened))
    after = budget.limits
    assert after is not before
    assert (after.maximum, after.dense, after.floors, after.round_to) == (
        *(before.maximum, before.dense, before.floors),
        2,
    )
    assert after.cost(np.ones(6, bool)) == {"macs": 9 + 6 + 4, "activation_bytes": 4 * 6, "params of b": 6 + 2}
    assert after.reachable["macs"] == 6 + 4 + 4  # two of a, and all that is left of the three of b
    group, floor = per_unit(after.coupling, after.floors)
    assert (group.tolist(), floor.tolist()) == ([0, 0, 0, 1, 1], [2, 2, 2, 2, 2])
    gates_of(net).log_alpha.data.fill_(-9.0)
    assert stabilize(net, budget).kept == {"a": 2, "b.0": 2}


def test_round_to_is_the_budgets_unless_it_is_given():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    gates = attach(net, torch.zeros(1, 3))
    gates.log_alpha.data.copy_(torch.tensor([log_alpha_of(p) for p in (0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1)]))
    kept = []
    for given in ({}, {"round_to": 1}, {"round_to": 3}):
        twin = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        attach(twin, torch.zeros(1, 3)).log_alpha.data.copy_(gates.log_alpha.data)
        kept.append(stabilize(twin, Limits(gates_of(twin).coupling, macs=25, round_to=4), **given).kept["0"])
    assert kept == [4, 5, 3]  # 5 MACs to a unit
    with pytest.raises(UsageError, match="round_to is 0"):
        stabilize(net, Limits(gates.coupling, macs=1.0, round_to=4), round_to=0)
