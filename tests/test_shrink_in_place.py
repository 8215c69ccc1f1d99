"""shrink_: closed units leave the user's own module, its gates and its optimizer between two steps of training."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_shrinking import MAKES, Counted, Fixed, Heads, Literal, X
from torch import nn

import edgel0
from edgel0.attaching import attach, detach
from edgel0.cost import cost_of
from edgel0.errors import SlimError, UsageError
from edgel0.gates import gates_of
from edgel0.masks import masked, stabilize
from edgel0.shrinking import shrink_
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.01),
    "foreach": lambda params: torch.optim.Adam(params, lr=0.01, foreach=True),
}


class Attention(nn.Module):
    """Heads as many libraries write them: by sizes that the module keeps."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads, self.head_dim, self.width = heads, width // heads, width
        self.kept = (heads, width // heads)
        self.classes = width // heads  # equal by chance, and not read by the forward
        self.qkv, self.proj = nn.Linear(6, 3 * width), nn.Linear(width, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, *self.kept).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(out.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.head_dim))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.a, self.b, self.o = nn.Linear(3, 6), Attention(), Attention(), nn.Linear(6, 4)

    def forward(self, x):
        return self.o(self.b(self.a(self.into(x.flatten(2).transpose(1, 2)))).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.rnn, self.o = kind(3, 7, batch_first=True, **options), nn.LazyLinear(4)

    def forward(self, x):
        return self.o(self.rnn(x.flatten(2).transpose(1, 2))[0].mean(1))


def recurrent(*args, **options):
    net = Recurrent(*args, **options)
    net(X.float())
    return net


NETS = {make.__name__: make for make in MAKES} | {
    "Transformer": Transformer,
    "LSTM": recurrent,
    "GRU": lambda: recurrent(nn.GRU, num_layers=2, bidirectional=True),
    "RNN": lambda: recurrent(nn.RNN, bias=False),
}


def made(name):
    torch.manual_seed(0)
    net = NETS[name]().double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return net


def outputs(net, x=X):
    training = net.training
    with torch.no_grad():
        result = net.eval()(x)
    net.train(training)
    return result


def same(first, second, atol=1e-12):
    torch.testing.assert_close(outputs(first), outputs(second), rtol=0, atol=atol)


def train(net, optimizer, first, count=3):
    net.train()
    for seed in range(first, first + count):
        x = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        optimizer.zero_grad()
        out = net(x)
        (out.square().mean() + out.mean()).backward()
        optimizer.step()


def everything(net, optimizer=None):
    """All that must be untouched by a refusal, as plain comparable values."""
    found = {f"state {k}": v.clone() for k, v in net.state_dict().items()}
    found |= {f"gradient {n}": p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    for name, module in net.named_modules():
        found |= {f"{name}.{k}": v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple)}
    if optimizer is not None:
        for at, state in enumerate(optimizer.state.values()):
            found |= {f"optimizer {at} {key}": copy.deepcopy(value) for key, value in state.items()}
    return found


def assert_untouched(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
        else:
            assert repr(value) == repr(after[key]), key


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NETS)
def test_a_shrunken_model_equals_the_masked_one(name, seed):
    net = made(name)
    coupling = trace(net, X)
    masks = Masks.random(coupling, 0.5, seed)
    reference, held = masked(net, masks), dict(net.named_parameters())
    left = shrink_(net, masks=masks)
    same(net, reference)
    assert all(held[n] is p for n, p in net.named_parameters())
    assert left.units == masks.open[1:].sum() < coupling.units
    again = trace(net, X)
    assert cost_of(again) == cost_of(left) == cost_of(coupling, masks)
    further = Masks.random(left, 0.3, seed)
    reference = masked(net, further)
    slimmed = slim(net, further).program.module()(X).detach()
    torch.testing.assert_close(outputs(reference), slimmed, rtol=0, atol=1e-12)
    shrink_(net, masks=further)
    same(net, reference)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["ConvBn", "Depthwise", "Grouped", "Tied", "Transformer", "GRU"])
def test_training_goes_on_as_if_nothing_had_been_removed(name, optimizer):
    """The same steps with fixed gates at full size and at the smaller size: the same weights."""
    net = made(name)
    gates = attach(net, X)
    opened = Masks.random(gates.coupling, 0.4, 1).open[1:]
    gates.log_alpha.data.copy_(torch.where(torch.from_numpy(opened), 3.0, -3.0))
    stabilize(net)
    made_by = OPTIMIZERS[optimizer]([p for p in net.parameters() if p.requires_grad])
    train(net, made_by, first=0)
    big, big_optimizer = copy.deepcopy((net, made_by))
    before = dict(net.named_parameters())
    shrink_(net, made_by)
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in big.parameters())
    same(net, big)
    for one, other in ((net, made_by), (big, big_optimizer)):
        train(one, other, first=10)
    assert all(before[n] is p for n, p in net.named_parameters())
    for (name, small), full in zip(net.named_parameters(), big.parameters(), strict=True):
        assert small.requires_grad == full.requires_grad, name
    same(net, big, atol=1e-9)  # steps divided by the root of small second moments enlarge rounding
    assert gates_of(net).coupling.units == int(opened.sum())
    assert bool(gates_of(net).mask.all())


def test_live_gates_go_on_with_their_values_and_moments():
    net = made("ConvBn")
    gates = attach(net, X)
    budget = edgel0.Budget(gates, macs=0.5, params=0.6, steps=20)
    optimizer = torch.optim.Adam(gates.parameter_groups(net, lr=1e-3, gate_lr=1e-2))
    train(net, optimizer, 0)
    with torch.no_grad():
        gates.log_alpha[1::3] = -9.0
    old, moments = gates.log_alpha.detach().clone(), optimizer.state[gates.log_alpha]["exp_avg"].clone()
    dense, expected = dict(budget.limits.dense), {k: v.item() for k, v in budget.expected().items()}
    maximum = dict(budget.limits.maximum)
    opened = torch.ones(len(old), dtype=torch.bool)
    opened[1::3] = False
    before = outputs(net)
    coupling = shrink_(net, optimizer)
    torch.testing.assert_close(outputs(net), before, rtol=0, atol=1e-12)
    assert gates.coupling is coupling
    assert coupling.units == len(gates.log_alpha) == int(opened.sum())
    assert torch.equal(gates.log_alpha.detach(), old[opened])
    assert torch.equal(optimizer.state[gates.log_alpha]["exp_avg"], moments[opened])
    assert [g.size for g in coupling.groups] == [5, 4]
    assert (budget.limits.dense, budget.limits.maximum) == (dense, maximum)
    for metric, value in budget.expected().items():  # what is missing was expected to be open with P(z != 0) = 6e-4
        assert value.item() == pytest.approx(expected[metric], rel=2e-3)
    alive = np.ones(coupling.units + 1, bool)
    assert budget.limits.cost(alive)["macs"] == cost_of(coupling).macs < dense["macs"]
    for _ in range(3):
        optimizer.zero_grad()
        (net(X).square().mean() + budget.penalty()).backward()
        optimizer.step()
        budget.step()
    masks = stabilize(net, budget)
    assert cost_of(coupling, masks).macs <= 0.5 * dense["macs"]
    assert cost_of(coupling, masks).params <= 0.6 * dense["params"]
    slimmed = slim(net, masks).program.module()(X).detach()
    torch.testing.assert_close(outputs(net), slimmed, rtol=0, atol=1e-12)
    shrink_(net, optimizer)
    torch.testing.assert_close(outputs(detach(net)), slimmed, rtol=0, atol=1e-12)


def test_the_last_unit_of_a_layer_stays():
    net = made("Residual")
    gates = attach(net, X)
    with torch.no_grad():
        gates.log_alpha.copy_(torch.linspace(-9, -8, len(gates.log_alpha)))
    before = outputs(net)
    coupling = shrink_(net)
    assert [g.size for g in coupling.groups] == [1, 1]
    torch.testing.assert_close(outputs(net), before, rtol=0, atol=1e-12)


def test_nothing_closed_changes_nothing():
    net = made("ConvBn")
    gates = attach(net, X)
    before = everything(net)
    assert shrink_(net) is gates.coupling
    assert_untouched(before, everything(net))


def test_gradients_are_cut_with_their_parameters():
    net = made("ConvBn")
    masks = Masks.random(trace(net, X), 0.5, 3)
    small = edgel0.shrunk(net, masks)
    for one in (net, small):
        one.eval()
    full = masked(net, masks)
    full(X).sum().backward()
    for p, q in zip(net.parameters(), full.parameters(), strict=True):
        p.grad = q.grad
    shrink_(net, masks=masks)
    small(X).sum().backward()
    for p, q in zip(net.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_sizes_that_a_module_keeps_follow_where_the_forward_reads_them():
    net = made("Transformer")
    coupling = trace(net, X)
    opened = np.ones(coupling.units + 1, bool)
    for group in coupling.groups:
        if group.name.startswith("b."):
            opened[group.start] = False
    shrink_(net, masks=Masks(coupling, opened))
    assert (net.a.heads, net.a.head_dim, net.a.kept) == (2, 4, (2, 4))
    left = net.b.heads * net.b.head_dim
    assert left == net.b.proj.in_features == net.b.proj.weight.shape[1] < 8
    assert net.b.kept == (net.b.heads, net.b.head_dim)
    assert net.b.qkv.out_features == 3 * left
    assert (net.b.classes, net.b.width) == (4, 8)


def test_a_compiled_model_is_shrunk_inside():
    net = made("ConvBn")
    masks = Masks.random(trace(net, X), 0.5, 3)
    reference = masked(net, masks)
    shrink_(torch.compile(net, backend="eager"), masks=masks)
    same(net, reference)


# Refusals: one paragraph, and everything as it was.


def closing_first(net, x=X):
    coupling = trace(net, x)
    opened = np.ones(coupling.units + 1, bool)
    opened[1] = False
    return Masks(coupling, opened)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Fixed, r"cannot shrink 'Fixed': its forward does not run"),
        (Heads, "cannot shrink 'heads': its forward does not run"),
        (Literal, "cannot shrink 'Literal': its forward does not run"),
        (Counted, "cannot shrink 'Counted': at the smaller size its forward gives another result"),
    ],
)
def test_a_size_that_is_written_out_is_refused(make, message):
    torch.manual_seed(0)
    net = make().double()
    masks = closing_first(net)
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer, 0)
    before = everything(net, optimizer)
    with pytest.raises(SlimError, match=message):
        shrink_(net, optimizer, masks)
    assert_untouched(before, everything(net, optimizer))


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.o = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x):
        h = self.into(x.mean((2, 3)))
        return self.o(torch.stack([torch.tanh(c) for c in h.unbind(1)], 1))


def test_a_loop_over_channels_is_refused():
    net = Loop().double()
    masks, before = closing_first(net), everything(net)
    with pytest.raises(SlimError, match="its forward runs other operators"):
        shrink_(net, masks=masks)
    assert_untouched(before, everything(net))


def test_an_optimizer_without_a_state_per_element_is_refused():
    net = made("ConvBn")
    masks = closing_first(net)
    optimizer = torch.optim.LBFGS(net.parameters())

    def closure():
        optimizer.zero_grad()
        loss = net.eval()(X).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    before = everything(net, optimizer)
    with pytest.raises(UsageError, match=r"cannot shrink the state '\w+' of LBFGS"):
        shrink_(net, optimizer, masks)
    assert_untouched(before, everything(net, optimizer))


def test_adafactor_keeps_rows_and_columns_and_is_refused():
    net = made("ConvBn")
    masks = closing_first(net)
    optimizer = torch.optim.Adafactor(net.parameters())
    train(net, optimizer, 0)
    before = everything(net, optimizer)
    with pytest.raises(UsageError, match=r"of Adafactor: it is not kept per element"):
        shrink_(net, optimizer, masks)
    assert_untouched(before, everything(net, optimizer))


def test_masks_of_before_are_refused():
    net = made("ConvBn")
    masks = closing_first(net)
    shrink_(net, masks=masks)
    with pytest.raises(UsageError, match="trace this model again"):
        shrink_(net, masks=masks)
    gates = attach(net, X)
    with pytest.raises(UsageError, match="made for another coupling than the gates"):
        shrink_(net, masks=closing_first(made("ConvBn")))
    assert gates.coupling.units == 13


def test_without_gates_and_masks_there_is_nothing_to_go_by():
    with pytest.raises(UsageError, match="no gates"):
        shrink_(made("ConvBn"))


def test_data_parallel_is_refused_by_name():
    net = made("ConvBn")
    masks = closing_first(net)
    with pytest.raises(UsageError, match=r"DataParallel.*model\.module"):
        shrink_(nn.DataParallel(net), masks=masks)
