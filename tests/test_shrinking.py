"""Shrinking: the user's own module at the smaller size equals the masked one, trains, and is written back."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgel0.attaching import attach, detach
from edgel0.cost import cost_of
from edgel0.errors import SlimError, UsageError
from edgel0.gates import gates_of
from edgel0.masks import masked, stabilize
from edgel0.shrinking import restore_, shrunk
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks


class ConvBn(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c2, self.n2 = nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.act = nn.PReLU(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.n1(self.c1(x)))
        return self.fc(self.act(self.n2(self.c2(x))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.n = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 5, 3, padding=1), nn.Conv2d(5, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        h = self.n(self.stem(x))
        return self.fc((h + self.b(torch.sigmoid(self.a(h)))).amax((2, 3)))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 12, 3, groups=6)  # two outputs per channel
        self.c = nn.ConvTranspose2d(12, 5, 2)
        self.d = nn.ConvTranspose2d(5, 10, 2, groups=5)
        self.fc = nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.n(self.a(x)))))
        return self.fc(F.relu(self.d(F.relu(self.c(x)))).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 3, groups=2)
        self.n = nn.GroupNorm(4, 8)
        self.c = nn.ConvTranspose2d(8, 6, 2, groups=2)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(F.relu(self.c(F.relu(self.n(self.b(F.relu(self.a(x))))))).mean((2, 3)))


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv2d(3, 6, 3), nn.Linear(6 * 16, 10)
        self.n, self.o = nn.BatchNorm1d(10), nn.Linear(10, 4)

    def forward(self, x):
        return self.o(F.relu(self.n(self.f(F.max_pool2d(F.relu(self.c(x)), 1).flatten(1)))))


class Trunk(nn.Module):
    """A layer-normalised trunk, which is pinned, with prunable feed-forward layers."""

    def __init__(self):
        super().__init__()
        self.n1, self.u1, self.d1 = nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.n2, self.u2, self.d2 = nn.LayerNorm(6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.o = nn.Linear(6, 4)

    def forward(self, x):
        x = x.flatten(2).mean(2)
        x = torch.cat([x, x], 1)
        x = x + self.d1(F.gelu(self.u1(self.n1(x))))
        return self.o(x + self.d2(F.gelu(self.u2(self.n2(x)))))


class Tied(nn.Module):
    """Two modules hold one parameter."""

    def __init__(self):
        super().__init__()
        self.into, self.a, self.b, self.o = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.o(F.relu(self.b(F.relu(self.a(F.relu(self.into(x.mean((2, 3)))))))))


class Kernels(nn.Module):
    """Weights in a list, in a buffer and on the model itself; a layer whose sizes have a layout of its own."""

    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 7, 5
            self.weight = nn.Parameter(torch.randn(7, 5))

        def forward(self, x):
            return x @ self.weight

    def __init__(self):
        super().__init__()
        self.ws = nn.ParameterList([torch.randn(6, 3), torch.randn(7, 6)])
        self.layer = self.Transposed()
        self.register_buffer("frozen", torch.randn(6, 5), persistent=False)
        self.last = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        x = F.relu(F.linear(x.mean((2, 3)), self.ws[0]))
        x = F.relu(self.layer(F.relu(F.linear(x, self.ws[1]))))
        return F.linear(F.relu(F.linear(x, self.frozen)), self.last)


MAKES = [ConvBn, Residual, Depthwise, Grouped, Flattened, Trunk, Tied, Kernels]
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    found = {}
    for make in MAKES:
        net = make().double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        found[make] = net, trace(net, X)
    return found


@pytest.fixture
def case(nets, request):
    """A copy of the model and its coupling."""
    net, coupling = nets[request.param]
    return copy.deepcopy(net), coupling


over_nets = pytest.mark.parametrize("case", MAKES, indirect=True, ids=lambda make: make.__name__)


def largest_difference(first, second, x=X):
    with torch.no_grad():
        return float((first(x) - second(x)).abs().max())


def steps(net, count=3):
    """Train for some steps; gradients of every parameter are made."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    net.train()
    for seed in range(count):
        x = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        loss = net(x).square().sum() + net(x).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("seed", range(3))
@over_nets
def test_shrunk_equals_masked_and_slim(case, seed):
    net, coupling = case
    masks = Masks.random(coupling, 0.5, seed)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    small, reference = shrunk(net.eval(), masks), masked(net, masks)
    assert type(small) is type(net)
    assert largest_difference(small, reference) < 1e-12
    assert largest_difference(small, slim(net, masks, X).program.module()) < 1e-12
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@over_nets
def test_sizes_are_those_of_the_kept_units(case):
    net, coupling = case
    masks = Masks.random(coupling, 0.4, 7)
    assert not masks.open.all()
    small = shrunk(net, masks)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    buffers = {id(b): b.numel() for b in small.buffers() if b.is_floating_point()}
    held = sum(p.numel() for p in small.parameters()) + sum(buffers.values())
    cost = cost_of(coupling, masks)
    counters = sum(1 for name in net.state_dict() if name.endswith("num_batches_tracked"))
    assert cost.weight_bytes in (8 * held, 8 * held + 8 * counters)
    retraced = cost_of(trace(small, X))  # what its own sizes say
    assert (retraced.macs, retraced.params) == (cost.macs, cost.params)


def test_attributes_repeat_the_new_sizes(nets):
    def small(make, **kept):
        net, coupling = nets[make]
        opened = np.ones(coupling.units + 1, bool)
        for group in coupling.groups:
            opened[group.start + kept[group.name] : group.stop] = False
        return shrunk(net, Masks(coupling, opened))

    net = small(ConvBn, c1=3, c2=4)
    assert (net.c1.in_channels, net.c1.out_channels, net.c1.groups) == (3, 3, 1)
    assert (net.c2.in_channels, net.c2.out_channels) == (3, 4)
    assert (net.n1.num_features, net.n2.num_features, net.act.num_parameters) == (3, 4, 4)
    assert (net.fc.in_features, net.fc.out_features) == (4, 4)

    net = small(Depthwise, a=2, c=3)
    assert (net.b.in_channels, net.b.out_channels, net.b.groups) == (2, 4, 2)
    assert (net.c.in_channels, net.c.out_channels, net.c.groups) == (4, 3, 1)
    assert (net.d.in_channels, net.d.out_channels, net.d.groups) == (3, 6, 3)
    assert net.fc.in_features == 6

    net = small(Flattened, c=2, f=7)
    assert (net.f.in_features, net.f.out_features, net.n.num_features) == (32, 7, 7)

    net, coupling = nets[Grouped]
    masks = Masks.random(coupling, 0.5, 1)
    net = shrunk(net, masks)
    assert net.b.groups == net.c.groups == 2
    assert (net.b.in_channels, net.b.out_channels) == (net.a.out_channels, net.n.num_channels)
    assert net.n.num_channels == net.n.num_groups * 2
    assert (net.c.in_channels, net.c.out_channels) == (net.n.num_channels, net.fc.in_features)

    net, coupling = nets[Kernels]
    net = shrunk(net, Masks.random(coupling, 0.5, 1))
    assert (net.layer.in_features, net.layer.out_features) == (7, 5)  # not what the table says: left as they are

    net, coupling = nets[Tied]
    net = shrunk(net, Masks.random(coupling, 0.5, 1))
    assert net.b.weight is net.a.weight


@over_nets
def test_restored_after_training_equals_the_small_model(case):
    net, coupling = case
    masks = Masks.random(coupling, 0.5, 2)
    settled = masked(net, masks).train()
    small = shrunk(settled, masks)
    before = copy.deepcopy(small)
    steps(small)
    assert all(p.grad is not None for p in small.parameters())
    assert largest_difference(small.eval(), before.eval()) > 1e-3
    restore_(settled, small, masks)
    assert largest_difference(settled.eval(), small) < 1e-12
    assert largest_difference(slim(settled, masks, X).program.module(), small) < 1e-12
    for name, value in small.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(value) == int(settled.get_buffer(name)) == 6


def test_statistics_are_written_to_the_places_of_the_kept_units(nets):
    net, coupling = nets[ConvBn]
    masks = Masks.random(coupling, 0.5, 4)
    settled = masked(net, masks)
    small = steps(shrunk(settled, masks))
    restore_(settled, small, masks)
    group = next(g for g in coupling.groups if g.name == "c1")
    kept = torch.from_numpy(masks.open[group.start : group.stop])
    assert 0 < int(kept.sum()) < 8
    for name in ("running_mean", "running_var"):
        written, learned, old = (getattr(m.n1, name) for m in (settled, small, net))
        torch.testing.assert_close(written[kept], learned, rtol=0, atol=0)
        torch.testing.assert_close(written[~kept], old[~kept], rtol=0, atol=0)
        assert float((learned - old[kept]).abs().min()) > 0


def test_training_small_is_training_masked(nets):
    """The small model's steps are those of the gated model at its fixed mask."""
    net = copy.deepcopy(nets[ConvBn][0])
    gates = attach(net, X)
    gates.log_alpha.data.uniform_(-4, 4, generator=torch.Generator().manual_seed(2))
    masks = stabilize(net)
    assert 0 < masks.open[1:].sum() < gates.coupling.units
    small = shrunk(net, masks)
    for model in (net, small):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        model.train()
        for seed in range(3):
            x = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert largest_difference(net.eval(), small.eval()) < 1e-12


@over_nets
def test_gates_are_folded_and_left_behind(case):
    net, _ = case
    gates = attach(net, X)
    gates.log_alpha.data.uniform_(-3, 3, generator=torch.Generator().manual_seed(5))
    masks = stabilize(net)
    small = shrunk(net.eval(), masks)
    assert not hasattr(small, "edgel0_gates")
    assert gates_of(net) is gates
    assert largest_difference(small, net) < 1e-12
    assert largest_difference(small, masked(detach(net), masks)) < 1e-12


def test_frozen_parameters_stay_frozen(nets):
    net, coupling = nets[ConvBn]
    net = copy.deepcopy(net)
    net.c1.weight.requires_grad_(False)
    small = shrunk(net, Masks.random(coupling, 0.5, 1))
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["c1.weight"]


# Refusals.


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.head = nn.Conv2d(3, 6, 3), nn.Linear(96, 4)

    def forward(self, x):
        return self.head(F.relu(self.c(x)).reshape(-1, 96))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.heads, self.o = nn.Linear(3, 8), nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        h = self.into(x.flatten(2).transpose(1, 2))
        return self.o((h + self.heads(h, h, h, need_weights=False)[0]).mean(1))


class Literal(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.o = nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, x):
        return self.o(self.into(x.mean((2, 3))) * torch.tensor([1.0, 2.0, 3.0]))


class Counted(nn.Module):
    """Runs at any width, but with another result."""

    def __init__(self):
        super().__init__()
        self.into, self.o = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x):
        h = F.relu(self.into(x.mean((2, 3))))
        return self.o(h / h.shape[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Fixed, r"cannot shrink 'Fixed': its forward does not run at the smaller size .*96.*use slim.*flatten\(1\)"),
        (Heads, "cannot shrink 'heads': its forward does not run"),
        (Literal, "cannot shrink 'Literal': its forward does not run"),
        (Counted, "cannot shrink 'Counted': at the smaller size its forward gives another result.*use slim"),
    ],
)
def test_sizes_that_are_written_out_are_refused_and_slim_can(make, message):
    torch.manual_seed(0)
    net, x = make().eval(), X.float()
    coupling = trace(net, x)
    opened = np.ones(coupling.units + 1, bool)
    opened[1] = False
    masks = Masks(coupling, opened)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(SlimError, match=message):
        shrunk(net, masks)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert largest_difference(slim(net, masks, x).program.module(), masked(net, masks), x) < 1e-5


@pytest.mark.parametrize(("name", "module"), [("a", "a"), ("stem", "stem")])
def test_an_empty_group_is_refused(nets, name, module):
    net, coupling = nets[Residual]
    opened = np.ones(coupling.units + 1, bool)
    group = next(g for g in coupling.groups if g.name == name)
    opened[group.start : group.stop] = False
    with pytest.raises(SlimError, match=r"cannot shrink '\w+': nothing would be left of its \w+\. Use slim"):
        shrunk(net, Masks(coupling, opened))


def test_writing_back_into_a_gated_model_is_refused(nets):
    net, coupling = copy.deepcopy(nets[ConvBn][0]), nets[ConvBn][1]
    masks = Masks.random(coupling, 0.5, 1)
    small = shrunk(net, masks)
    attach(net, X)
    with pytest.raises(UsageError, match="has gates; write into masked"):
        restore_(net, small, masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_comparison_knows_the_precision(nets, dtype):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(300, 500), nn.Tanh(), nn.Linear(500, 400), nn.Tanh(), nn.Linear(400, 10)).to(dtype)
    x = torch.randn(8, 300).to(dtype)
    masks = Masks.random(trace(net, x), 0.5, 1)
    assert largest_difference(shrunk(net, masks), masked(net, masks), x) < 0.02
