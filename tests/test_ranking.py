"""Ranking: importance against figures by hand and finite differences, masks within every limit, a model left alone."""

import copy
import itertools
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import EXPECTED, seeded
from oracle import agree, randomise
from torch import nn

import edgel0
from edgel0.attaching import attach
from edgel0.budget import Budget
from edgel0.errors import BudgetError, ExtraError, UsageError
from edgel0.gates import gates_of
from edgel0.limits import Limits
from edgel0.masks import masked, stabilize
from edgel0.ranking import importance, prefer_, rank
from edgel0.reaching import connected, tidy
from edgel0.shrinking import shrink_, shrunk
from edgel0.tracing import trace
from edgel0.types import Masks


class Residual(nn.Module):
    """A trunk of 6 channels that two layers write, an inner layer of 4, a flatten of 2 x 2 positions, 5 neurons."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.a, self.b = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.fc, self.out = nn.Linear(24, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = F.relu(self.bn(self.stem(x)))
        h = h + self.b(torch.sigmoid(self.a(h)))
        return self.out(F.gelu(self.fc(F.avg_pool2d(h, 2).flatten(1))))


class Branches(nn.Module):
    """Two ways to the output, of which either would do, and an LSTM whose hidden units read each other."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(4, 5), nn.Linear(4, 2)
        self.d, self.lstm, self.f = nn.Linear(5, 2), nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        first, second = F.relu(self.a(x)).chunk(2, -1)
        return self.d(F.relu(self.b(first))) + self.c(second) + self.f(self.lstm(x)[0])


class Heads(nn.Module):
    """Attention of four heads, and neurons."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.up, self.down = (
            *(nn.Linear(8, 48), nn.Linear(16, 8)),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
        )
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm(x))))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EXAMPLES = {Residual: noise(2, 1, 4, 4), Branches: noise(2, 5, 3), Heads: noise(2, 5, 8)}
BATCHES = {make: [noise(*example.shape, seed=seed) for seed in (1, 2, 3)] for make, example in EXAMPLES.items()}


def built(make):
    model = randomise(make())
    return model, trace(model, EXAMPLES[make])


def batches(make):
    """A loss of three batches that goes through every output with weights of its own."""

    def loss(model):
        for x in BATCHES[make]:
            y = model(x)
            yield (y.tanh() * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()

    return loss


def by_name(coupling, values):
    return {group.name: values[group.start : group.stop] for group in coupling.groups}


over_nets = pytest.mark.parametrize("make", EXAMPLES, ids=lambda make: make.__name__)
both = pytest.mark.parametrize("by", ["magnitude", "taylor"])


# Importance.


def test_magnitude_by_hand():
    net, coupling = built(Residual)
    value = {name: parameter.detach().numpy() for name, parameter in net.named_parameters()}
    trunk = [
        math.sqrt(
            (value["stem.weight"][c] ** 2).sum()
            + value["bn.weight"][c] ** 2
            + value["bn.bias"][c] ** 2
            + (value["a.weight"][:, c] ** 2).sum()
            + (value["b.weight"][c] ** 2).sum()
            + value["b.bias"][c] ** 2
            + (value["fc.weight"].reshape(5, 6, 4)[:, c] ** 2).sum()
        )
        for c in range(6)
    ]
    inner = [
        math.sqrt((value["a.weight"][c] ** 2).sum() + value["a.bias"][c] ** 2 + (value["b.weight"][:, c] ** 2).sum())
        for c in range(4)
    ]
    found = by_name(coupling, importance(coupling, net))
    np.testing.assert_allclose(found["stem"], np.divide(trunk, np.mean(trunk)), rtol=1e-12)
    np.testing.assert_allclose(found["a"], np.divide(inner, np.mean(inner)), rtol=1e-12)
    assert found["fc"].mean() == pytest.approx(1)


def test_magnitude_knows_no_scale_of_a_group_and_no_buffers():
    net, coupling = built(Residual)
    before = by_name(coupling, importance(coupling, net))
    with torch.no_grad():
        net.fc.weight.mul_(1)
        net.bn.running_mean.mul_(100)
        for tensor in (net.a.weight, net.a.bias, net.b.weight):
            tensor.mul_(10)
    after = by_name(coupling, importance(coupling, net))
    np.testing.assert_allclose(after["fc"], before["fc"], rtol=1e-12)
    np.testing.assert_allclose(after["a"], before["a"], rtol=1e-12)


def slopes(make, loss, masks=None, step=1e-5):
    """d loss / d gate of every unit by central differences of gates set by hand at every reader, ``(units,)``."""
    model, coupling = built(make)
    model = model if masks is None else masked(model, masks)
    readers = dict(model.named_parameters())

    def at(unit, z):
        twin = copy.deepcopy(model)
        weights = dict(twin.named_parameters())
        with torch.no_grad():
            for reader in coupling.readers:
                index = torch.from_numpy(np.flatnonzero(reader.units == unit))
                weights[reader.parameter].index_copy_(
                    reader.axis, index, weights[reader.parameter].index_select(reader.axis, index) * z
                )
            return np.array([float(value) for value in loss(twin)])

    assert {reader.parameter for reader in coupling.readers} <= set(readers)
    return np.array([(at(u, 1 + step) - at(u, 1 - step)) / (2 * step) for u in range(1, coupling.units + 1)])


@over_nets
def test_taylor_is_the_slope_of_the_loss_by_the_gates(make):
    model, coupling = built(make)
    loss = batches(make)
    wanted = slopes(make, loss)
    assert wanted.shape == (coupling.units, 3)
    assert (np.abs(wanted) > 1e-4).mean() > 0.9
    found = importance(coupling, model, "taylor", loss=loss)
    np.testing.assert_allclose(found[1:], np.sqrt((wanted**2).mean(1)), rtol=1e-5, atol=1e-8)
    assert found[0] == math.inf

    single = importance(coupling, model, "taylor", loss=lambda m: next(iter(loss(m))))
    np.testing.assert_allclose(single[1:], np.abs(wanted[:, 0]), rtol=1e-5, atol=1e-8)
    several = [lambda m, at=at: next(itertools.islice(loss(m), at, None)) for at in range(3)]
    np.testing.assert_allclose(importance(coupling, model, "taylor", loss=several), found, rtol=1e-12)


@over_nets
def test_taylor_from_a_mask_is_the_slope_at_that_mask(make):
    model, coupling = built(make)
    start = rank(coupling, model, budget=0.7)
    wanted = np.sqrt((slopes(make, batches(make), start) ** 2).mean(1))
    found = importance(coupling, model, "taylor", loss=batches(make), start=start)[1:]
    np.testing.assert_allclose(found[start.open[1:]], wanted[start.open[1:]], rtol=1e-5, atol=1e-8)
    assert not found[~start.open[1:]].any()


@over_nets
def test_stored_gradients_stand_in_for_a_loss(make):
    model, coupling = built(make)
    found = importance(coupling, model, "taylor", loss=lambda m: sum(batches(make)(m)))
    sum(batches(make)(model)).backward()
    np.testing.assert_allclose(importance(coupling, model, "taylor"), found, rtol=1e-9)
    gated = copy.deepcopy(model)
    attach(gated, EXAMPLES[make])
    gated.zero_grad()
    sum(batches(make)(gated.eval())).backward()
    np.testing.assert_allclose(importance(coupling, gated, "taylor"), found, rtol=1e-6)
    with torch.no_grad():  # what halves a weight below its gate doubles the gradient that it has
        gates_of(gated).log_alpha.zero_()
    assert gates_of(gated).values()[1:].tolist() == pytest.approx([0.5] * coupling.units)
    gated.zero_grad()
    sum(batches(make)(gated)).backward()
    by_loss = importance(coupling, gated, "taylor", loss=lambda m: sum(batches(make)(m)))
    np.testing.assert_allclose(importance(coupling, gated, "taylor"), by_loss, rtol=1e-6)
    assert not np.allclose(by_loss[1:], found[1:], rtol=0.05)


@both
@over_nets
def test_a_gated_model_ranks_as_the_plain_one(make, by):
    model, coupling = built(make)
    gated = copy.deepcopy(model)
    attach(gated, EXAMPLES[make])
    first, second = (importance(coupling, each, by, loss=batches(make)) for each in (model, gated.train()))
    np.testing.assert_allclose(second, first, rtol=1e-6)
    masks = [rank(gates_of(gated).coupling, each, by, budget=0.5, loss=batches(make)) for each in (model, gated)]
    np.testing.assert_array_equal(masks[0].open, masks[1].open)


@over_nets
def test_ranking_from_a_mask_is_ranking_the_smaller_model(make):
    model, coupling = built(make)
    start = rank(coupling, model, budget={"macs": 0.7, "keep_at_least": 1})
    small = shrunk(model, start)
    inner = trace(small, EXAMPLES[make])
    assert inner.units == start.open[1:].sum() < coupling.units
    for by in ("magnitude", "taylor"):
        whole = importance(coupling, model, by, loss=batches(make), start=start)
        np.testing.assert_allclose(whole[start.open], importance(inner, small, by, loss=batches(make)), rtol=1e-7)
        limit = 0.6 * Limits(inner, macs=1.0).dense["macs"]
        further = rank(coupling, model, by, budget=limit, loss=batches(make), start=start)
        np.testing.assert_array_equal(
            further.open[start.open], rank(inner, small, by, budget=limit, loss=batches(make)).open
        )


# Masks.


def useless(coupling, opened, unit):
    """What opens with this unit alone is closed again: nothing would read it."""
    trial = opened.copy()
    trial[unit] = True
    return not tidy(coupling, trial)[unit]


def assert_within(coupling, limits, masks):
    assert limits.fits(masks.open)
    assert connected(coupling, masks.open)
    for unit in np.flatnonzero(~masks.open):
        trial = masks.open.copy()
        trial[unit] = True
        assert not limits.fits(trial) or useless(coupling, masks.open, unit), "a unit that fits was left closed"


@pytest.mark.parametrize("per", ["unit", "cost"])
@both
@over_nets
def test_masks_are_within_every_limit_near_it_and_equal_to_what_slim_makes_of_them(make, by, per):
    model, coupling = built(make)
    dense = Limits(coupling, macs=1.0, params=1.0, size=1.0)
    floor = dense.reachable
    for share in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
        for names in (["macs"], ["params"], ["macs", "size"]):
            keys = {name: {"size": "weight_bytes"}.get(name, name) for name in names}
            budget = {n: math.ceil(max(1, floor[k] + share * (dense.dense[k] - floor[k]))) for n, k in keys.items()}
            try:
                limits = Limits(coupling, **budget)
            except BudgetError:
                assert len(names) > 1
                continue
            masks = rank(
                coupling, model, by, budget=budget, loss=batches(make), per=per, rounds=None if by == "taylor" else 2
            )
            assert masks.rule == "rank"
            assert_within(coupling, limits, masks)
            assert masks.open.all() == (share == 1)
            if share in (0.1, 0.6):
                agree(model, masks, EXAMPLES[make])


@pytest.mark.filterwarnings(*[f"ignore:{warning}" for warning in EXPECTED])
@pytest.mark.parametrize("seed", range(100, 120))
def test_random_networks(seed):
    _, drawn = seeded(seed)
    model = randomise(drawn.model)
    coupling = trace(model, drawn.example)
    if not coupling.units:
        pytest.skip("nothing can go")
    dense = Limits(coupling, params=1.0)
    params = math.ceil(dense.reachable["params"] + 0.4 * (dense.dense["params"] - dense.reachable["params"]))

    def loss(model):
        args = drawn.example if isinstance(drawn.example, tuple | list) else (drawn.example,)
        found = model(**drawn.example) if isinstance(drawn.example, dict) else model(*args)
        return sum(t.tanh().sum() for t in torch.utils._pytree.tree_leaves(found) if t.is_floating_point())

    for by in ("magnitude", "taylor"):
        masks = rank(coupling, model, by, budget={"params": params}, loss=loss, rounds=3)
        limits = Limits(coupling, params=params)
        assert limits.fits(masks.open)
        assert connected(coupling, masks.open)
        agree(model, masks, drawn.example)


def test_the_most_important_units_stay_and_the_least_go():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))  # 5 MACs per unit
    sizes = torch.tensor([0.3, 5.0, 0.1, 2.0, 0.2, 1.0])
    with torch.no_grad():
        net[0].weight.copy_(sizes[:, None].expand(6, 3))
        net[2].weight.copy_(sizes.expand(2, 6))
        net[0].bias.zero_()
    coupling = trace(net, torch.zeros(1, 3))
    for units, macs in enumerate((5, 10, 15, 20, 25), 1):
        for spare in (0, 4):
            masks = edgel0.Masks.rank(coupling, net, budget=macs + spare)
            np.testing.assert_array_equal(np.flatnonzero(masks.open[1:]), np.sort(sizes.argsort().numpy()[-units:]))


def test_per_cost_closes_what_is_dear_for_what_it_gives():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.dear, self.cheap, self.out = nn.Linear(9, 2, False), nn.Linear(1, 2, False), nn.Linear(4, 1, False)

        def forward(self, x):
            return self.out(torch.cat([self.dear(x), self.cheap(x[:, :1])], 1))

    net = Joined().double()
    with torch.no_grad():
        net.dear.weight.fill_(1 / 3)
        net.cheap.weight.fill_(1.0)
        net.out.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    x = torch.full((1, 9), 1 / 3, dtype=torch.float64)
    x[0, 0] = 1
    coupling = trace(net, x)  # MACs: 10, 10, 2, 2

    def opened(per, macs):
        masks = rank(coupling, net, "taylor", budget=macs, loss=lambda m: m(x).sum(), per=per, rounds=1)
        return {g.name: masks.open[g.start : g.stop].tolist() for g in coupling.groups}

    # d loss / d gate: 4 * (1/3 + 8/9) and 3 * (1/3 + 8/9) at 10 MACs, 2 and 1 at 2.
    found = importance(coupling, net, "taylor", loss=lambda m: m(x).sum())[1:]
    np.testing.assert_allclose(found, [44 / 9, 33 / 9, 2, 1], rtol=1e-12)
    assert opened("unit", 20) == {"dear": [True, True], "cheap": [False, False]}
    assert opened("cost", 20) == {"dear": [True, False], "cheap": [True, True]}
    default = rank(coupling, net, "taylor", budget=20, loss=lambda m: m(x).sum(), rounds=1)
    assert default.kept == {"dear": 1, "cheap": 2}


def test_rounds_see_what_closes_together():
    net = nn.Sequential(nn.Linear(1, 4, False), nn.ReLU(), nn.Linear(4, 2, False)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[2].weight.copy_(torch.tensor([[0.7, 0.8, 0.0, 0.0], [0.0, 0.0, 1.0, 0.9]]))
    x, target = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[1.0, 1.8]], dtype=torch.float64)
    coupling = trace(net, x)

    def loss(model):
        return (model(x) - target).square().sum()

    # Slopes of 0.7, 0.8, 0.2, 0.18: the last two are least, but once the last is gone the third has 1.6.
    np.testing.assert_allclose(importance(coupling, net, "taylor", loss=loss)[1:], [0.7, 0.8, 0.2, 0.18], rtol=1e-6)
    once, often = (rank(coupling, net, "taylor", budget=0.5, loss=loss, rounds=n) for n in (1, 4))
    assert once.open[1:].tolist() == [True, True, False, False]
    assert often.open[1:].tolist() == [False, True, True, False]
    np.testing.assert_array_equal(rank(coupling, net, "taylor", budget=0.5, loss=loss).open, often.open)


@pytest.mark.parametrize("kind", ["mapping", "limits", "budget", "string", "number"])
def test_a_budget_is_given_in_any_form(kind):
    model, coupling = built(Residual)
    limits = Limits(coupling, macs=0.4)
    gates = attach(copy.deepcopy(model), EXAMPLES[Residual])
    forms = {
        "mapping": {"macs": 0.4},
        "limits": limits,
        "budget": Budget(gates, macs=0.4),
        "string": "40 %",
        "number": 0.4,
    }
    np.testing.assert_array_equal(
        Masks.rank(coupling, model, budget=forms[kind]).open, rank(coupling, model, budget=limits).open
    )


def test_limits_follow_a_model_that_was_shrunk():
    model, coupling = built(Residual)
    limits = Limits(coupling, macs=0.4)
    smaller = shrink_(model, masks=rank(coupling, model, budget=0.6))
    masks = rank(smaller, model, budget=limits)
    assert_within(smaller, limits.on(smaller), masks)
    assert 0.3 * limits.dense["macs"] < limits.on(smaller).cost(masks.open)["macs"] <= 0.4 * limits.dense["macs"]


@both
@over_nets
def test_floors_and_multiples_hold(make, by):
    model, coupling = built(make)
    masks = rank(coupling, model, by, budget={"macs": 0.5, "keep_at_least": 2}, loss=batches(make))
    assert min(masks.kept.values()) >= 2
    budget = {"macs": 0.7, "round_to": 2}
    masks = rank(coupling, model, by, budget=budget, loss=batches(make))
    assert Limits(coupling, **budget).fits(masks.open)
    widths = {"qkv": 4}
    assert all(kept * widths.get(name, 1) % 2 == 0 for name, kept in masks.kept.items())


@both
@over_nets
def test_ranking_again_closes_further_units_only(make, by):
    model, coupling = built(make)
    loss, start = batches(make), None
    for share in (0.9, 0.7, 0.5, 0.4):
        masks = rank(
            coupling, model if start is None else masked(model, start), by, budget=share, loss=loss, start=start
        )
        if start is not None:
            assert not (masks.open & ~start.open).any()
            assert masks.open.sum() < start.open.sum()
        assert Limits(coupling, macs=share).fits(masks.open)
        start = masks


def test_ranking_after_settling_keeps_gates_and_mask_together():
    model, _ = built(Residual)
    gates = attach(model, EXAMPLES[Residual])
    prefer_(gates, importance(gates.coupling, model))
    first = stabilize(model, Limits(gates.coupling, macs=0.6))
    again = rank(gates.coupling, model, "taylor", budget=0.4, loss=batches(Residual), start=first)
    assert not (again.open & ~first.open).any()
    agree(model, again, EXAMPLES[Residual])


# What stays as it was.


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@both
@over_nets
def test_the_model_is_left_as_it_is(make, by, gated):
    model, coupling = built(make)
    if gated:
        coupling = attach(model, EXAMPLES[make]).coupling
    model.train()
    next(model.children()).eval()
    parameters = list(model.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[-1].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    with torch.no_grad():
        rank(coupling, model, by, budget=0.5, loss=batches(make))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert list(map(id, model.parameters())) == list(map(id, parameters))
    assert [p.requires_grad for p in parameters] == [True] * (len(parameters) - 1) + [False]
    assert torch.equal(parameters[0].grad, torch.ones_like(parameters[0]))
    assert all(p.grad is None for p in parameters[1:])
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_loss_sees_a_copy_in_eval_mode_with_statistics_of_its_own():
    model, coupling = built(Residual)
    seen = []

    def loss(twin):
        seen.append((twin is model, twin.training, twin.bn.training))
        return twin(EXAMPLES[Residual]).sum()

    rank(coupling, model.train(), "taylor", budget=0.5, loss=loss, rounds=2)
    assert seen == [(False, False, False)] * 2


# A start for gates.


def test_gates_start_in_the_order_of_importance_within_the_range():
    model, _ = built(Residual)
    gates = attach(model, EXAMPLES[Residual])
    score = importance(gates.coupling, model)
    prefer_(gates, score, low=0.85, high=0.98)
    probability = gates.probability().detach().numpy()
    np.testing.assert_array_equal(np.argsort(probability), np.argsort(score[1:]))
    assert probability.min() == pytest.approx(0.85, abs=1e-6)
    assert probability.max() == pytest.approx(0.98, abs=1e-6)
    middle = np.sort(probability)
    np.testing.assert_allclose(np.diff(middle), np.diff(middle).mean(), rtol=1e-3)
    assert gates.log_alpha.requires_grad


def test_equal_importance_starts_alike_and_a_single_level_is_high():
    model, _ = built(Residual)
    gates = attach(model, EXAMPLES[Residual], temperature=0.4)
    score = np.append(np.inf, np.arange(gates.coupling.units) // 5).astype(float)
    prefer_(gates, score)
    probability = gates.probability().detach().numpy()
    np.testing.assert_allclose(probability, np.linspace(0.9, 0.97, 3)[np.arange(len(probability)) // 5], atol=1e-6)
    prefer_(gates, np.ones(gates.coupling.units + 1))
    np.testing.assert_allclose(gates.probability().detach(), 0.97, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.9), (0.9, 1.0), (0.9, 0.8), (math.nan, 0.9)])
def test_a_start_out_of_range_is_refused(low, high):
    model, _ = built(Residual)
    gates = attach(model, EXAMPLES[Residual])
    with pytest.raises(UsageError, match="0 < low <= high < 1"):
        prefer_(gates, importance(gates.coupling, model), low, high)


def test_gates_that_are_fixed_and_importances_of_others_are_refused():
    model, _ = built(Residual)
    gates = attach(model, EXAMPLES[Residual])
    score = importance(gates.coupling, model)
    for wrong in (score[1:], np.where(score > 1, math.nan, score)):
        with pytest.raises(UsageError, match="an importance of shape"):
            prefer_(gates, wrong)
    stabilize(model)
    with pytest.raises(UsageError, match="gates are fixed"):
        prefer_(gates, score)


# What is refused.


def test_without_torch_the_extra_is_named(monkeypatch):
    model, coupling = built(Residual)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ExtraError, match=r'pip install "edgel0\[train\]"'):
        Masks.rank(coupling, model, budget=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "magnitud"}, r"by is 'magnitud'; 'magnitude' or 'taylor' is known; did you mean 'magnitude'\?"),
        ({"by": 3}, "by is 3;"),
        ({"per": "macs"}, "per is 'macs'; 'unit' or 'cost' is known"),
        ({"budget": {"mac": 0.5}}, r"the budget names 'mac'; macs, params, .* did you mean 'macs'\?"),
        ({"budget": {}}, "without a limit"),
        ({"budget": None}, "without a limit"),
        ({"budget": "a lot"}, "'a lot' is not a count"),
        ({"budget": 1}, "cannot be reached: the smallest network"),
        ({"by": "taylor"}, r"no gradients to rank by taylor; give loss=lambda model: .* or call backward\(\)"),
        ({"by": "taylor", "rounds": 2}, "1 where stored gradients are used"),
        ({"rounds": 0}, "rounds is 0; a whole number from 1"),
        ({"by": "taylor", "loss": lambda m: 3.0}, "gave float; a scalar loss was expected"),
        ({"by": "taylor", "loss": lambda m: m(EXAMPLES[Residual])}, r"gave a tensor of shape \(2, 3\); a scalar"),
        ({"by": "taylor", "loss": lambda m: m(EXAMPLES[Residual]).sum().detach()}, "without a gradient"),
        ({"by": "taylor", "loss": lambda m: torch.ones((), requires_grad=True) * 2}, "depends on no weight"),
        ({"by": "taylor", "loss": lambda m: ()}, "gave no batch"),
        ({"by": "taylor", "loss": []}, "gave no batch"),
        ({"by": "taylor", "loss": lambda m: m(EXAMPLES[Residual]).sum() * math.nan}, "gradients that are not finite"),
    ],
)
def test_wrong_arguments_are_told(options, message):
    model, coupling = built(Residual)
    with pytest.raises(UsageError, match=message):
        rank(coupling, model, **({"budget": 0.5} | options))


def test_a_budget_out_of_reach_is_an_error_of_budgets():
    model, coupling = built(Residual)
    least = Limits(coupling, params=1.0).reachable["params"]
    with pytest.raises(BudgetError, match="Raise the limit"):
        rank(coupling, model, budget={"params": int(least) - 1})
    assert Limits(coupling, params=int(least)).fits(rank(coupling, model, budget={"params": int(least)}).open)


@both
def test_weights_that_are_no_numbers_are_named(by):
    model, coupling = built(Residual)
    with torch.no_grad():
        model.b.weight[2, 1, 0, 0] = math.nan
    with pytest.raises(UsageError, match=r"'\w+\.\w+' holds weights.* not finite"):
        rank(coupling, model, by, budget=0.5, loss=batches(Residual))


def test_a_frozen_reader_has_no_gradient_to_go_by():
    model, coupling = built(Residual)
    model.fc.weight.requires_grad_(False)
    model(EXAMPLES[Residual]).sum().backward()
    with pytest.raises(UsageError, match=r"'fc.weight' is frozen and has no gradients"):
        rank(coupling, model, "taylor", budget=0.5)
    assert rank(coupling, model, "taylor", budget=0.5, loss=batches(Residual))


def test_a_start_or_a_model_of_another_trace_is_refused():
    model, coupling = built(Residual)
    other = trace(model, EXAMPLES[Residual])
    with pytest.raises(UsageError, match="mask of another coupling"):
        rank(coupling, model, budget=0.5, start=Masks.random(other))
    with pytest.raises(UsageError, match="trace this model again"):
        rank(coupling, built(Heads)[0], budget=0.5)


def test_a_start_that_cannot_come_within_the_limits_is_refused():
    model, coupling = built(Residual)
    start = rank(coupling, model, budget={"macs": 0.3})
    assert min(start.kept.values()) < 3
    with pytest.raises(UsageError, match="by closing further units of the start"):
        rank(coupling, model, budget={"macs": 0.9, "keep_at_least": 3}, start=start)
