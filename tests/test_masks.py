"""Masks: exactly within the budget, always connected, folded without a change, and equal to what slim makes of them."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgel0.attaching import attach, detach
from edgel0.budget import Budget
from edgel0.concrete import log_alpha_of, mean_gate, median_gate
from edgel0.cost import sums
from edgel0.errors import TrainingError, UsageError
from edgel0.gates import gates_of
from edgel0.limits import Limits
from edgel0.masks import masked, project, rounded, stabilize, tensors
from edgel0.reaching import connected
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks


class Residual(nn.Module):
    """A residual trunk, a depthwise layer, a flatten: 8 + 6 + 4 + 10 units."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.depthwise, self.point = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)
        self.fc, self.out = nn.Linear(16, 10), nn.Linear(10, 3)

    def forward(self, x):
        h = F.relu(self.bn(self.stem(x)))
        h = h + self.b(F.relu(self.a(h)))
        h = F.relu(self.point(torch.sigmoid(self.depthwise(h)))).flatten(1)
        return self.out(F.relu(self.fc(h)))


class Branches(nn.Module):
    """Two ways to the output, of which either would do, and halves of one layer with readers of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(4, 5), nn.Linear(4, 2)
        self.d, self.e, self.f = nn.Linear(5, 2), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        first, second = F.relu(self.a(x)).chunk(2, 1)
        return self.d(F.relu(self.b(first))) + self.c(second) + self.f(torch.tanh(self.e(x)))


class Joined(nn.Module):
    """Channels of unlike cost side by side, normalised, then attended by squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.big, self.little = nn.Conv2d(1, 5, 5, padding=2), nn.Conv2d(1, 7, 1)
        self.bn = nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Linear(12, 4), nn.Linear(4, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        h = F.relu(self.bn(torch.cat([self.big(x), self.little(x)], 1)))
        h = h * torch.sigmoid(self.excite(F.relu(self.squeeze(h.mean((2, 3))))))[:, :, None, None]
        return self.out(h.mean((2, 3)))


EXAMPLES = {
    Residual: torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)),
    Branches: torch.randn(2, 3, generator=torch.Generator().manual_seed(2)),
    Joined: torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3)),
}
MAKES = list(EXAMPLES)


def settled_statistics(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


@pytest.fixture(scope="module")
def nets():
    """Class -> (plain model, gated model), in eval mode."""
    torch.manual_seed(0)
    found = {}
    for make, example in EXAMPLES.items():
        net = settled_statistics(make()).eval()
        gated = copy.deepcopy(net)
        attach(gated, example)
        found[make] = net, gated
    return found


@pytest.fixture
def net(nets, request):
    return copy.deepcopy(nets[request.param][1])


def set_gates(net, log_alpha):
    gates_of(net).log_alpha.data.copy_(torch.as_tensor(log_alpha, dtype=torch.float32))
    return net


def spread(net, seed, span=4.0):
    rng = np.random.default_rng(seed)
    return set_gates(net, rng.uniform(-span, span, gates_of(net).coupling.units))


def every_unit(coupling):
    return np.ones(coupling.units + 1, bool)


def largest_difference(first, second, x):
    with torch.no_grad():
        return float((first(x) - second(x)).abs().max())


over_nets = pytest.mark.parametrize("net", MAKES, indirect=True, ids=lambda make: make.__name__)


# stabilize: the rule.


@over_nets
def test_rule_median_keeps_what_is_more_likely_open_than_not(net):
    coupling = gates_of(net).coupling
    rng = np.random.default_rng(0)
    wanted = rng.random(coupling.units) < 0.7
    set_gates(net, np.where(wanted, log_alpha_of(0.5 + 1e-4), log_alpha_of(0.5 - 1e-4)))
    masks = stabilize(net)
    assert masks.rule == "median"
    np.testing.assert_array_equal(masks.open[1:], wanted)
    np.testing.assert_array_equal(gates_of(net).mask.numpy(), wanted)
    assert bool(gates_of(net).fixed)


@over_nets
def test_closing_everything_leaves_the_most_probable_path(net):
    gates = gates_of(net)
    set_gates(net, np.linspace(-9, -8, gates.coupling.units))
    masks = stabilize(net)
    assert connected(gates.coupling, masks.open)
    assert masks.open[1:].sum() <= len(gates.coupling.readers)


@over_nets
def test_probabilities_and_polarisation_are_reported(net):
    coupling = gates_of(net).coupling
    p = np.full(coupling.units, 0.999)
    p[:3] = 0.9, 0.6, 0.2
    p[3] = 0.04
    set_gates(net, [log_alpha_of(v) for v in p])
    masks = stabilize(net)
    np.testing.assert_allclose(masks.probability, [1.0, *p], atol=1e-6)
    assert masks.report["polarisation"] == pytest.approx(3 / coupling.units)


# stabilize: the budget.


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_budget_is_met_exactly_and_nothing_is_disconnected(nets, make, data):
    coupling = gates_of(nets[make][1]).coupling
    log_alpha = data.draw(
        st.lists(st.floats(-10, 10, width=32), min_size=coupling.units, max_size=coupling.units), label="log_alpha"
    )
    probability = np.array([1.0, *(1 / (1 + np.exp(-np.array(log_alpha) - 1.5986)))])
    names = data.draw(st.lists(st.sampled_from(["macs", "params", "size"]), min_size=1, max_size=3, unique=True))
    free = Limits(coupling, **dict.fromkeys(names, 1.0))
    floor, dense = free.cost(free.smallest), free.dense
    given = {}
    for name in names:
        metric = "weight_bytes" if name == "size" else name
        share = data.draw(st.floats(0, 1), label=name)
        given[name] = math.ceil(floor[metric] + share * (dense[metric] - floor[metric]))
    limits = Limits(coupling, **given)
    opened = project(coupling, probability, limits)
    assert opened[0]
    assert limits.fits(opened)
    assert connected(coupling, opened)
    one_more = [u for u in np.flatnonzero(~opened & (probability > 0.5)) if within_with(limits, opened, u)]
    assert all(useless(coupling, opened, u) for u in one_more), "a probable unit that fits was left closed"


def within_with(limits, opened, unit):
    trial = opened.copy()
    trial[unit] = True
    return limits.fits(trial)


def useless(coupling, opened, unit):
    """Nothing reads the unit that still writes something that is read."""
    readers = [r for r in coupling.readers if unit in r.units]
    for reader in readers:
        writes = [x for x in coupling.tensors.get(reader.parameter, ()) if x.axis != reader.axis]
        if all(opened[x.units].any() for x in writes):
            return False
    return bool(readers)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
@over_nets
def test_stabilized_models_are_within_and_slim_agrees(net, seed, share):
    x, coupling = EXAMPLES[type(net)], gates_of(net).coupling
    spread(net, seed)
    limits = Limits(coupling, macs=max(share, 1.01 * floor_share(coupling)))
    masks = stabilize(net, limits)
    cost = float(sums(coupling)["macs"](torch.from_numpy(masks.open).double()))
    assert cost <= limits.maximum["macs"]
    slimmed = slim(net, masks, x)
    assert slimmed.cost.macs <= cost
    assert largest_difference(slimmed.program.module(), masked(net, masks), x) < 1e-5
    assert largest_difference(net, masked(net, masks), x) == 0


def floor_share(coupling):
    limits = Limits(coupling, macs=1.0)
    return limits.cost(limits.smallest)["macs"] / limits.dense["macs"]


@over_nets
def test_the_smallest_network_can_be_had(net):
    coupling = gates_of(net).coupling
    limits = Limits(coupling, params=1.0)
    least = limits.cost(limits.smallest)["params"]
    # The gates prefer every unit but those of the smallest network.
    set_gates(net, np.where(limits.smallest[1:], -5.0, 5.0))
    masks = stabilize(net, Limits(coupling, params=int(least)))
    np.testing.assert_array_equal(limits.cost(masks.open)["params"], least)
    assert connected(coupling, masks.open)


def test_over_a_limit_the_least_probable_units_close():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))  # 5 MACs per unit
    gates = attach(net, torch.zeros(1, 3))
    p = [0.9, 0.6, 0.99, 0.7, 0.55, 0.95]
    set_gates(net, [log_alpha_of(v) for v in p])
    masks = stabilize(net, Budget(gates, macs=19))
    assert masks.open.tolist() == [True, True, False, True, False, False, True]


def test_room_is_filled_by_the_most_probable():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    gates = attach(net, torch.zeros(1, 3))
    p = [0.9, 0.45, 0.30, 0.4, 0.1, 0.48]
    for macs, expected in ((15, [1, 1, 0, 0, 0, 1]), (27, [1, 1, 1, 1, 0, 1])):
        twin = copy.deepcopy(net)
        set_gates(twin, [log_alpha_of(v) for v in p])
        masks = stabilize(twin, Limits(gates.coupling, macs=macs))
        assert masks.open[1:].astype(int).tolist() == expected
        z = mean_gate(gates_of(twin).log_alpha)
        weight = twin[2].weight / net[2].parametrizations.weight.original
        assert weight[0, 1].item() == pytest.approx(z[1].item(), rel=1e-5)
        if macs == 27:  # where the paper's gate would be 0, the weight stays
            assert weight[0, 2].item() == 1
        assert weight[0, 0].item() == pytest.approx(median_gate(gates_of(twin).log_alpha)[0].item(), rel=1e-5)


# round_to.


@pytest.mark.parametrize("multiple", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [None, 0.6, 0.9])
@over_nets
def test_multiples_within_the_budget(net, seed, multiple, share):
    coupling = gates_of(net).coupling
    spread(net, seed)
    limits = None if share is None else Limits(coupling, macs=share)
    masks = stabilize(net, limits, round_to=multiple)
    for group in coupling.groups:
        kept = masks.kept[group.name]
        assert kept % multiple == 0 or kept == group.size < multiple
    assert limits is None or limits.fits(masks.open)
    assert connected(coupling, masks.open)


@over_nets
def test_without_a_budget_rounding_loses_no_unit_that_a_multiple_can_hold(net):
    coupling = gates_of(net).coupling
    spread(net, 5)
    before = project(coupling, np.append(1.0, gates_of(net).probability().detach().numpy()), None)
    masks = stabilize(net, round_to=2)
    for group in coupling.groups:
        units = slice(group.start, group.stop)
        assert masks.open[units].sum() >= min(before[units].sum(), group.size // 2 * 2)
        assert masks.open[units].sum() <= before[units].sum() + 1


def test_rounding_goes_below_what_was_open_when_the_budget_needs_it():
    # Two layers of 8; three units open in each: rounding up to 4 and 4 exceeds the limit, 4 and ... must give way.
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    gates = attach(net, torch.zeros(1, 2))
    p = np.tile([0.9, 0.8, 0.7, 0.6, 0.55, 0.1, 0.1, 0.1], 2)
    set_gates(net, [log_alpha_of(v) for v in p])
    limits = Limits(gates.coupling, macs=2 * 4 + 4 * 4 + 4 * 2)  # 32: four and four
    masks = stabilize(net, limits, round_to=4)
    assert masks.kept == {"0": 4, "2": 4}


def test_where_the_budget_does_not_pay_for_a_multiple_small_groups_stay_as_they_are():
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    gates = attach(net, torch.zeros(1, 2))
    set_gates(net, [log_alpha_of(v) for v in np.tile([0.9, 0.8, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1], 2)])
    limits = Limits(gates.coupling, macs=31)  # four and four have 32
    masks = stabilize(net, limits, round_to=4)
    assert limits.fits(masks.open)
    assert sorted(masks.kept.values()) == [2, 4]


def test_a_head_is_as_many_channels_as_its_writer_has_rows_for_it():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out, self.up = nn.Linear(8, 3 * 24), nn.Linear(24, 8), nn.Linear(8, 20)
            self.norm, self.down = nn.LayerNorm(8), nn.Linear(20, 8)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 6, 4)).permute(2, 0, 3, 1, 4)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return x + self.down(self.up(self.norm(x)).relu())

    net = Heads()
    gates = attach(net, torch.randn(1, 5, 8))
    heads, neurons = gates.coupling.groups
    assert (heads.size, neurons.size) == (6, 20)
    set_gates(net, [log_alpha_of(0.9 if at % 3 else 0.2) for at in range(26)])
    masks = stabilize(net, round_to=8)
    assert masks.kept == {"qkv": 4, "up": 16}  # 3 x 4 rows to a head: two heads are a multiple of 8


def test_rounding_never_closes_the_only_way():
    net = Branches()
    gates = attach(net, EXAMPLES[Branches])
    probability = np.full(gates.coupling.units + 1, 0.9)
    probability[0] = 1.0
    group = next(g for g in gates.coupling.groups if g.name == "a")
    opened = every_unit(gates.coupling)
    for other in gates.coupling.groups:
        if other.name in ("b", "e"):
            opened[other.start : other.stop] = False
    opened[group.start : group.stop] = [True] * 4 + [True, False, False, False]  # "second" hangs on its first unit
    probability[group.start + 4] = 0.6
    result = rounded(gates.coupling, probability, opened, None, 4)
    assert connected(gates.coupling, result)


@pytest.mark.parametrize("wrong", [0, -8])
def test_a_multiple_below_one_is_refused(nets, wrong):
    with pytest.raises(UsageError, match="round_to is"):
        stabilize(copy.deepcopy(nets[Branches][1]), round_to=wrong)


# Folding.


@over_nets
def test_folding_changes_nothing_where_the_budget_changes_nothing(net):
    x, coupling = EXAMPLES[type(net)], gates_of(net).coupling
    rng = np.random.default_rng(4)
    p = rng.choice([0.02, 0.2, 0.6, 0.75, 0.9, 0.99], coupling.units, p=[0.1, 0.1, 0.2, 0.2, 0.2, 0.2])
    set_gates(net, [log_alpha_of(v) for v in p])
    with torch.no_grad():
        before = net(x)
    masks = stabilize(net)
    np.testing.assert_array_equal(masks.open[1:], p > 0.5)
    with torch.no_grad():
        after = net(x)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert masks.report["output_change"] < 1e-6
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), detach(copy.deepcopy(net))(x), rtol=0, atol=0)


def test_fractional_survivors_are_in_the_weights():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    gates = attach(net, torch.zeros(1, 3))
    raw = net[2].parametrizations.weight.original
    before = raw.detach().clone()
    set_gates(net, [log_alpha_of(v) for v in (0.6, 0.999, 0.3, 0.8)])
    z = median_gate(gates.log_alpha.detach())
    assert 0 < z[0] < z[3] < 1
    stabilize(net)
    torch.testing.assert_close(raw.detach(), before * torch.tensor([z[0], 1.0, 1.0, z[3]]))
    torch.testing.assert_close(net[2].weight, raw * torch.tensor([1.0, 1.0, 0.0, 1.0]))


def test_output_change_is_relative_to_the_largest_output_of_the_inputs_given():
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        net[1].weight.copy_(torch.tensor([[1.0, 1.0]]))
    gates = attach(net, torch.ones(1, 1))
    set_gates(net, [8.0, 7.0])
    limits = Limits(gates.coupling, macs=2)  # keeps the first unit: outputs 4 x become x
    for inputs in (None, torch.tensor([[1.0], [5.0]]), (torch.tensor([[2.0]]),)):
        masks = stabilize(copy.deepcopy(net), limits, inputs=inputs)
        assert masks.report["output_change"] == pytest.approx(0.75)


@over_nets
def test_stabilizing_keeps_the_mode_and_training_goes_on_at_the_mask(net):
    x = EXAMPLES[type(net)]
    spread(net, 1)
    net.train()
    masks = stabilize(net)
    assert net.training
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(x).square().sum().backward()
    optimizer.step()
    net.eval()
    assert largest_difference(net, masked(net, masks), x) == 0
    assert largest_difference(slim(net, masks, x).program.module(), masked(net, masks), x) < 1e-5


@over_nets
def test_stabilizing_again_keeps_the_mask_and_closes_more_for_less(net):
    x, coupling = EXAMPLES[type(net)], gates_of(net).coupling
    spread(net, 2)
    first = stabilize(net, Limits(coupling, params=0.6))
    with torch.no_grad():
        before = net(x)
    again = stabilize(net)
    np.testing.assert_array_equal(again.open, first.open)
    with torch.no_grad():
        torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    less = Limits(coupling, params=0.4)
    second = stabilize(net, less)
    assert less.fits(second.open)
    assert not (second.open & ~first.open).any()


def test_gates_that_are_no_numbers_are_told(nets):
    net = copy.deepcopy(nets[Branches][1])
    gates_of(net).log_alpha.data[2] = math.nan
    with pytest.raises(TrainingError, match="not numbers"):
        stabilize(net)
    assert not bool(gates_of(net).fixed)


class BothAxes(nn.Module):
    """One parameter, read along its columns and, transposed, along its rows."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(3, 6), nn.Linear(6, 2)
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        code = F.relu(F.linear(F.relu(self.into(x)), self.weight))
        return self.out(F.relu(F.linear(code, self.weight.t())))


class TwoHolders(nn.Module):
    """One parameter in two modules."""

    def __init__(self):
        super().__init__()
        self.into, self.a, self.b, self.out = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(torch.tanh(self.b(torch.tanh(self.a(torch.tanh(self.into(x)))))))


@pytest.mark.parametrize("make", [BothAxes, TwoHolders])
def test_a_tied_weight_is_folded_once(make):
    torch.manual_seed(1)
    net, x = make().eval(), EXAMPLES[Branches]
    gates = attach(net, x)
    p = np.resize([0.7, 0.9, 0.2, 0.999], gates.coupling.units)
    set_gates(net, [log_alpha_of(v) for v in p])
    with torch.no_grad():
        before = net(x)
    masks = stabilize(net)
    with torch.no_grad():
        torch.testing.assert_close(net(x), before, rtol=0, atol=1e-6)
    assert largest_difference(net, masked(net, masks), x) == 0
    assert largest_difference(slim(net, masks, x).program.module(), masked(net, masks), x) < 1e-6


# masked.


@over_nets
def test_masked_is_zero_columns_and_leaves_the_model_alone(net, nets):
    plain, x = nets[type(net)][0], EXAMPLES[type(net)]
    coupling = gates_of(net).coupling
    masks = Masks.random(coupling, 0.5, seed=3)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    twin = masked(plain, masks)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    by_hand = copy.deepcopy(plain)
    for reader in coupling.readers:
        weight = by_hand.get_parameter(reader.parameter)
        keep = torch.from_numpy(masks.open[reader.units]).float()
        weight.data = weight.data * keep.reshape([-1 if i == reader.axis else 1 for i in range(weight.dim())])
    for a, b in zip(twin.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert largest_difference(twin, by_hand, x) == 0
    assert largest_difference(slim(plain, masks, x).program.module(), twin, x) < 1e-5


@over_nets
def test_masked_gated_equals_masked_detached(net):
    x = EXAMPLES[type(net)]
    spread(net, 6)
    masks = Masks.random(gates_of(net).coupling, 0.4, seed=1)
    with torch.no_grad():
        before = net(x)
    twin = masked(net, masks)
    assert not hasattr(twin, "edgel0_gates")
    with torch.no_grad():
        torch.testing.assert_close(net(x), before, rtol=0, atol=0)  # the model has its gates still
    assert largest_difference(twin, masked(detach(copy.deepcopy(net)), masks), x) == 0


@over_nets
def test_the_open_mask_changes_nothing(net, nets):
    plain = nets[type(net)][0]
    masks = Masks(gates_of(net).coupling, every_unit(gates_of(net).coupling))
    assert largest_difference(masked(plain, masks), plain, EXAMPLES[type(net)]) == 0


def test_a_weight_in_a_buffer_is_masked():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.register_buffer("last", torch.randn(2, 6))

        def forward(self, x):
            return F.linear(F.relu(self.first(x)), self.last)

    net, x = Frozen().eval(), torch.randn(3, 4)
    masks = Masks.random(trace(net, x), 0.5)
    twin = masked(net, masks)
    torch.testing.assert_close(twin.last, net.last * torch.from_numpy(masks.open[1:]))
    assert largest_difference(slim(net, masks, x).program.module(), twin, x) < 1e-6


def test_a_buffer_outside_the_state_dict_has_its_present_value():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
            self.register_buffer("scale", torch.ones(6), persistent=False)

        def forward(self, x):
            return self.last(self.first(x) * self.scale)

    net, x = Scaled().eval(), torch.randn(3, 4)
    masks = Masks.random(trace(net, x), 0.5)
    net.scale.copy_(torch.arange(1.0, 7.0))
    assert largest_difference(slim(net, masks).program.module(), masked(net, masks), x) < 1e-6


def test_a_literal_in_the_forward_is_no_obstacle():
    class Literal(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.last(F.relu(self.first(x)) * torch.tensor([1.0, 2.0, 3.0]))

    net, x = Literal().eval(), torch.randn(3, 4)
    masks = Masks(trace(net, x), np.array([True, True, False, True]))
    assert largest_difference(slim(net, masks, x).program.module(), masked(net, masks), x) < 1e-6


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), r"'0.weight' is \(5, 3\) .* but \(4, 3\)"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "'2.weight' is absent in this Sequential"),
        (lambda: nn.Linear(3, 4), "'0.weight' is absent in this Linear"),
    ],
)
def test_another_model_is_refused(other, message):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = Masks.random(trace(net, torch.zeros(1, 3)))
    for use in (masked, slim):
        with pytest.raises(UsageError, match=message):
            use(other(), masks)


@over_nets
def test_tensors_of_a_gated_model_are_the_effective_weights(net):
    coupling = gates_of(net).coupling
    spread(net, 8)
    net.train()
    found = tensors(net, coupling)
    assert net.training
    plain = detach(copy.deepcopy(net))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name].detach(), value, rtol=0, atol=0)


# Models that are not plain.


def test_weights_without_values_are_refused():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = Masks.random(trace(net, torch.randn(1, 3)))
    with pytest.raises(UsageError, match=r"'0\.weight' of this Sequential is on the meta device"):
        slim(net.to("meta"), masks)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_older_weight_norm_keeps_what_autograd_made_and_can_be_masked():
    net = nn.Sequential(nn.Linear(3, 4), nn.utils.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(2, 3)
    net(x)
    masks = Masks.random(trace(net, x), 0.5, 1)
    assert not masks.open.all()
    torch.testing.assert_close(slim(net, masks).program.module()(x), masked(net, masks)(x))
