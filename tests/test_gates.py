"""Gates: the paper's formulas by numbers computed another way, and what attaching does and does not do to a model."""

import copy
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgel0.attaching import attach, detach
from edgel0.concrete import LIMIT, log_alpha_of, mean_gate, median_gate, probability_open, sample
from edgel0.errors import TraceError, UsageError
from edgel0.gates import NAME, Gates, gates_of, has_gates
from edgel0.noise import uniform, words

# The grid of midpoints that integrates over u ~ U(0, 1).
GRID = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000


class Convs(nn.Module):
    """Two gated layers; the first batch norm stands before any gate, the second behind one."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


class Fork(nn.Module):
    """One layer that two others read."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 7)
        self.left = nn.Linear(7, 3)
        self.right = nn.Linear(7, 3)

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        return self.left(h) + self.right(h).square()


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder transposed: one parameter, read along both axes."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(3, 6)
        self.weight = nn.Parameter(torch.randn(4, 6) / 2)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        code = F.relu(F.linear(F.relu(self.into(x)), self.weight))
        return self.out(F.relu(F.linear(code, self.weight.t())))


class Shared(nn.Module):
    """Two modules that hold one parameter, as a language model's embedding and head do."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(F.relu(self.middle(self.table(tokens))))


def images(count=2):
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(7))


def gated(net, example, spread=2.0, seed=3, **kwargs):
    """A gated model with weights and gates all over their range."""
    gates = attach(net, example, **kwargs)
    with torch.no_grad():
        gates.log_alpha.copy_((torch.rand(gates.log_alpha.shape, generator=generator(seed)) * 2 - 1) * spread)
    return gates


def generator(seed):
    return torch.Generator().manual_seed(seed)


# The gate.


@pytest.mark.parametrize("log_alpha", [-6.0, -2.5, -1.6, 0.0, 0.7, 2.4, 5.0])
def test_sample_is_the_papers_formula(log_alpha):
    u = np.array([1e-6, 0.01, 0.3, 0.5, 0.77, 0.999])
    s = 1 / (1 + np.exp(-(np.log(u / (1 - u)) + log_alpha) / (2 / 3)))
    expected = np.clip(s * 1.2 - 0.1, 0, 1)
    got = sample(torch.full((6,), log_alpha, dtype=torch.float64), torch.from_numpy(u))
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("log_alpha", [-6.0, -1.5986, -0.3, 1.0, 4.0])
def test_probabilities_are_what_sampling_gives(log_alpha):
    z = sample(torch.full_like(GRID, log_alpha), GRID)
    assert float((z > 0).double().mean()) == pytest.approx(float(probability_open(torch.tensor(log_alpha))), abs=1e-5)
    # P(z = 1) mirrors P(z = 0): the stretched interval is symmetric.
    shut = 1 - float(probability_open(torch.tensor(-log_alpha, dtype=torch.float64)))
    assert float((z == 1).double().mean()) == pytest.approx(shut, abs=1e-5)


def test_the_offset_is_the_constants():
    assert float(torch.logit(probability_open(torch.zeros(1, dtype=torch.float64)))) == pytest.approx(1.5986, abs=5e-5)


@pytest.mark.parametrize(
    ("delta", "probability"), [(0.5, 0.832), (0.3, 0.920), (0.2, 0.952), (0.05, 0.989), (0.01, 0.998)]
)
def test_start_probability_by_dropout_rate(delta, probability):
    start = torch.tensor(math.log(1 - delta) - math.log(delta))
    assert float(probability_open(start)) == pytest.approx(probability, abs=5e-4)


@pytest.mark.parametrize("probability", [1e-6, 0.1, 0.5, 0.97, 0.9999])
def test_log_alpha_of_inverts_probability(probability):
    assert float(probability_open(torch.tensor(log_alpha_of(probability), dtype=torch.float64))) == pytest.approx(
        probability, rel=1e-9
    )


def test_borders_of_the_test_time_gates():
    at = torch.linspace(-4, 4, 800_001, dtype=torch.float64)
    for rule, zero, one, probability in ((mean_gate, -2.398, 2.398, 0.310), (median_gate, -1.599, 1.599, 0.5)):
        z = rule(at)
        assert float(at[z == 0].max()) == pytest.approx(zero, abs=1e-3)
        assert float(at[z == 1].min()) == pytest.approx(one, abs=1e-3)
        assert float(probability_open(at[z == 0].max())) == pytest.approx(probability, abs=5e-4)


def test_median_gate_is_the_median_sample():
    log_alpha = torch.linspace(-3, 3, 25, dtype=torch.float64)
    z = sample(log_alpha[:, None].expand(-1, 20_001), ((torch.arange(20_001) + 0.5) / 20_001).double())
    torch.testing.assert_close(median_gate(log_alpha), z.median(1).values, rtol=0, atol=1e-9)


def test_mean_gate_by_hand():
    assert float(mean_gate(torch.tensor(1.0, dtype=torch.float64))) == pytest.approx(0.7310585786 * 1.2 - 0.1, abs=1e-9)


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.3])
def test_gradient_of_a_sample_against_finite_differences(log_alpha):
    u, step = GRID[::100], 1e-4
    a = torch.full_like(u, log_alpha, requires_grad=True)
    (gradient,) = torch.autograd.grad(sample(a, u).sum(), a)
    up, down = (sample(torch.full_like(u, log_alpha + d), u) for d in (step, -step))
    smooth = ((up > 0) & (down > 0) & (up < 1) & (down < 1)) | (up == down)  # away from the two kinks
    assert float(smooth.double().mean()) > 0.99
    torch.testing.assert_close(gradient[smooth], ((up - down) / (2 * step))[smooth], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.3])
def test_gradient_of_the_mean_is_unbiased(log_alpha):
    a = torch.full_like(GRID, log_alpha, requires_grad=True)
    (gradient,) = torch.autograd.grad(sample(a, GRID).sum(), a)
    means = [float(sample(torch.full_like(GRID, log_alpha + d), GRID).mean()) for d in (1e-3, -1e-3)]
    assert float(gradient.mean()) == pytest.approx((means[0] - means[1]) / 2e-3, rel=1e-4)


def test_gradient_of_the_probability_is_p_times_one_minus_p():
    a = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    p = probability_open(a)
    (gradient,) = torch.autograd.grad(p.sum(), a)
    torch.testing.assert_close(gradient, p * (1 - p))


@pytest.mark.parametrize("log_alpha", [-LIMIT, LIMIT, -1e4, 1e4])
@pytest.mark.parametrize("u", [torch.finfo(torch.float32).tiny, 1 - 1e-7])
def test_extremes_give_finite_values_and_gradients(log_alpha, u):
    a = torch.tensor(log_alpha, requires_grad=True)
    z = sample(a, torch.tensor(u))
    z.backward()
    assert 0 <= float(z.detach()) <= 1
    assert math.isfinite(float(a.grad))


def test_the_models_own_draws_open_as_often_as_they_should():
    net = Convs()
    gates = gated(net, images())
    net.train()
    draws = 3000
    opened = torch.zeros(gates.coupling.units)
    for _ in range(draws):
        gates.draw()
        opened += gates.values()[1:] > 0
    p = gates.probability().detach()
    error = (p * (1 - p) / draws).sqrt()
    assert float(((opened / draws - p) / error).abs().max()) < 4.5  # standard errors, 14 gates: one in 10,000 runs


# Attaching.


def test_one_float32_gate_per_unit_in_the_state_dict():
    net = Convs()
    before = set(net.state_dict())
    gates = attach(net, images())
    assert gates.coupling.units == 14
    assert gates.log_alpha.shape == (14,)
    assert gates.log_alpha.dtype == torch.float32
    torch.testing.assert_close(gates.probability(), torch.full((14,), 0.99))
    state = net.state_dict()
    assert state[f"{NAME}.log_alpha"].shape == (14,)
    raw = {key.replace("parametrizations.", "").removesuffix(".original") for key in state}
    assert raw == before | {f"{NAME}.{name}" for name in ("log_alpha", "mask", "fixed", "seed", "draws")}
    assert gates_of(net) is gates


def test_readers_of_a_unit_share_one_sample_and_every_forward_draws_anew():
    net = Fork()
    gated(net, torch.randn(2, 4))
    net.train()
    seen = []
    for _ in range(5):
        net(torch.randn(2, 4))
        ratio = [
            (layer.weight / layer.parametrizations.weight.original).mean(0).detach() for layer in (net.left, net.right)
        ]
        torch.testing.assert_close(ratio[0], ratio[1])
        seen.append(ratio[0])
    assert len({tuple(z.tolist()) for z in seen}) == 5


def test_eval_is_the_median_gate_and_deterministic():
    net, x = Fork().eval(), torch.randn(3, 4)
    plain = copy.deepcopy(net)
    gates = gated(net, x)
    assert not gates.training
    torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)
    z = np.clip(1.2 / (1 + np.exp(-gates.log_alpha.detach().double().numpy() / (2 / 3))) - 0.1, 0, 1)
    h = torch.tanh(plain.stem(x)) * torch.from_numpy(z).float()
    torch.testing.assert_close(net(x), plain.left(h) + plain.right(h).square())


def test_gating_weights_is_gating_what_is_read_and_so_are_its_gradients():
    net, x = Fork().double(), torch.randn(6, 4, dtype=torch.float64)
    plain = copy.deepcopy(net)
    gates = gated(net, x)
    net.train()
    net(x).square().sum().backward()

    u = uniform(words(7), gates.seed, gates.draws)
    log_alpha = gates.log_alpha.detach().double().requires_grad_()
    s = torch.sigmoid((torch.log(u.double() / (1 - u.double())) + log_alpha) / (2 / 3))
    z = (1.2 * s - 0.1).clamp(0, 1)
    h = torch.tanh(plain.stem(x)) * z
    (plain.left(h) + plain.right(h).square()).square().sum().backward()

    assert float(log_alpha.grad.abs().max()) > 1e-3
    torch.testing.assert_close(gates.log_alpha.grad.double(), log_alpha.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.stem.weight.grad, plain.stem.weight.grad, rtol=1e-5, atol=1e-6)
    raw = net.left.parametrizations.weight.original
    torch.testing.assert_close(raw.grad, plain.left.weight.grad, rtol=1e-5, atol=1e-6)


def test_gradient_of_log_alpha_against_finite_differences_with_the_same_noise():
    net, x = Fork().double(), torch.randn(6, 4, dtype=torch.float64)
    gates = gated(net, x, spread=0.5)
    net.train()

    def loss():
        gates.draws.fill_(5)
        return net(x).square().sum()

    loss().backward()
    step = 1e-2
    for unit in range(7):
        with torch.no_grad():
            start = gates.log_alpha[unit].clone()
            values = []
            for d in (step, -step):
                gates.log_alpha[unit] = start + d
                values.append(float(loss()))
            gates.log_alpha[unit] = start
        assert float(gates.log_alpha.grad[unit]) == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=2e-3, abs=2e-3
        )


def test_batch_norm_before_a_reader_never_sees_its_gates():
    net = Convs()
    plain = copy.deepcopy(net).train()
    gated(net, images(8), spread=3.0)
    net.train()
    for seed in range(3):
        x = torch.randn(8, 3, 4, 4, generator=generator(seed))
        net(x)
        plain(x)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(net.bn1, name), getattr(plain.bn1, name), rtol=0, atol=0)


@pytest.mark.parametrize("training", [False, True])
def test_open_gates_leave_the_output_as_it_was(training):
    net, x = Convs().train(training), images()
    expected = copy.deepcopy(net)(x)
    attach(net, x, open_probability=1 - 1e-12)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


def test_held_gates_are_open_in_both_modes():
    net, x = Fork(), torch.randn(3, 4)
    expected = net(x)
    gates = gated(net, x)
    gates.held = True
    torch.testing.assert_close(net.train()(x), expected)
    torch.testing.assert_close(net.eval()(x), expected)


def test_the_users_forward_and_class_stay():
    net = Convs()
    forward = type(net).forward
    attach(net, images())
    assert type(net) is Convs
    assert type(net).forward is forward
    assert "forward" not in vars(net)


def test_a_sequential_runs_with_its_gates():
    net, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(3, 4)
    expected = net(x)
    gates = attach(net, x, open_probability=1 - 1e-12)
    torch.testing.assert_close(net(x), expected)
    gates.log_alpha.data.fill_(-LIMIT)
    torch.testing.assert_close(net.eval()(x), net[2].bias.expand(3, 2))


def test_every_parameter_is_in_one_group_and_gates_do_not_decay():
    net = Convs()
    gates = attach(net, images())
    weights, own = gates.parameter_groups(net, lr=0.1, gate_lr=3.0, weight_decay=5e-4)
    listed = [id(p) for p in (*weights["params"], *own["params"])]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())
    assert own["params"] == [gates.log_alpha]
    assert (weights["lr"], weights["weight_decay"]) == (0.1, 5e-4)
    assert (own["lr"], own["weight_decay"]) == (3.0, 0.0)
    before = gates.log_alpha.detach().clone()
    optimizer = torch.optim.SGD([weights, own])
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(gates.log_alpha.detach(), before, rtol=0, atol=0)


# Detaching.


@pytest.mark.parametrize(
    ("make", "example"),
    [(Convs, images()), (Fork, torch.randn(2, 4)), (Tied, torch.randn(2, 3)), (Shared, torch.tensor([[0, 3], [5, 8]]))],
)
@pytest.mark.parametrize("training", [False, True])
def test_detach_gives_back_a_plain_module_with_the_effective_weights(make, example, training):
    net = make().train(training)
    plain = copy.deepcopy(net)
    gates = gated(net, example)
    net.eval()
    expected = net(example)
    net.train(training)
    gates.draw()  # a sample that a training forward left behind
    assert detach(net) is net
    assert not has_gates(net)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert all(type(a) is type(b) for a, b in zip(net.modules(), plain.modules(), strict=True))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    assert all(p.is_leaf and p.requires_grad for p in net.parameters())
    assert net.training is training
    torch.testing.assert_close(net.eval()(example), expected, rtol=0, atol=0)
    assert gates.coupling.units > 0
    attach(net, example)  # and it can begin anew


def test_a_tied_weight_read_on_both_axes_is_gated_on_both():
    net, x = Tied().eval(), torch.randn(5, 3)
    plain = copy.deepcopy(net)
    gates = gated(net, x)
    assert [(r.parameter, r.axis) for r in gates.coupling.readers[:2]] == [("weight", 1), ("weight", 0)]
    z = median_gate(gates.log_alpha.detach())
    by_name = {(r.parameter, r.axis): z[torch.from_numpy(r.units) - 1] for r in gates.coupling.readers}
    w = plain.weight * by_name["weight", 1] * by_name["weight", 0][:, None]
    h = F.relu(F.linear(F.relu(F.linear(F.relu(plain.into(x)), w)), w.t()))
    torch.testing.assert_close(net(x), F.linear(h, plain.out.weight * by_name["out.weight", 1], plain.out.bias))


def test_a_weight_that_two_modules_share_is_gated_in_both():
    net, tokens = Shared().eval(), torch.tensor([[0, 3], [5, 8]])
    gates = gated(net, tokens)
    torch.testing.assert_close(net.table.weight, net.head.weight, rtol=0, atol=0)
    assert len(list(net.parameters())) == 4  # table, middle (2), gates
    gates.log_alpha.data.fill_(-LIMIT)
    assert float(net(tokens).detach().abs().max()) == 0
    detach(net)
    assert net.head.weight is net.table.weight


def test_weights_may_be_buffers_in_a_model_without_parameters():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("first", torch.randn(6, 4))
            self.register_buffer("second", torch.randn(5, 6))
            self.register_buffer("third", torch.randn(2, 5))

        def forward(self, x):
            return F.linear(F.relu(F.linear(F.relu(F.linear(x, self.first)), self.second)), self.third)

    net, x = Frozen().eval(), torch.randn(3, 4)
    gates = gated(net, x)
    assert gates.coupling.units == 11
    expected = net(x)
    detach(net)
    assert list(net.state_dict()) == ["first", "second", "third"]
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


def test_detaching_a_copy_leaves_the_original_gated():
    net, x = Convs().eval(), images()
    gated(net, x)
    expected = net(x)
    detach(copy.deepcopy(net))
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


# Refusals.


def test_attaching_twice_is_refused():
    net = Fork()
    attach(net, torch.randn(2, 4))
    with pytest.raises(UsageError, match=r"Fork has gates already; call edgel0\.detach"):
        attach(net, torch.randn(2, 4))


def test_a_model_without_gates_is_told_to_attach():
    with pytest.raises(UsageError, match=r"this Fork has no gates; call edgel0\.attach"):
        gates_of(Fork())


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_probability_outside_the_open_interval_is_refused(probability):
    net = Fork()
    with pytest.raises(UsageError, match="between 0 and 1"):
        attach(net, torch.randn(2, 4), open_probability=probability)
    assert not has_gates(net)


class Cut(nn.Module):
    """Nobody reads the first output of the layer, so it may go; the others are the model's own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x):
        return self.layer(x)[:, 1:]


def test_units_that_no_weight_reads_need_no_gate_anywhere():
    net, x = Cut(), torch.randn(2, 5)
    wanted = net(x)
    gates = attach(net, x)
    assert (gates.coupling.units, gates.coupling.readers) == (1, ())
    for training in (True, False):
        net.train(training)
        assert torch.equal(net(x), wanted)
    detach(net)
    assert torch.equal(net(x), wanted)


def test_nothing_removable_says_why():
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(TraceError, match="nothing in Sequential can be removed: an output of the model"):
        attach(net, torch.randn(2, 4))
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


def test_a_weight_that_is_a_plain_attribute_is_refused_and_nothing_is_half_done():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.last = torch.randn(2, 6)

        def forward(self, x):
            return F.linear(F.relu(self.first(x)), self.last)

    net = Plain()
    with pytest.raises(TraceError, match="no gate can stand on it"):
        attach(net, torch.randn(3, 4))
    assert not has_gates(net)
    assert list(net.state_dict()) == ["first.weight", "first.bias"]


# Copies, checkpoints, precision.


def test_a_deep_copy_is_independent():
    net, x = Fork().eval(), torch.randn(3, 4)
    gates = gated(net, x)
    expected = net(x)
    net.train()(x)  # leaves a sample with its graph behind, which cannot be copied
    twin = copy.deepcopy(net).eval()
    net.eval()
    torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
    assert gates_of(twin) is not gates
    assert gates_of(twin).coupling is gates.coupling
    gates_of(twin).log_alpha.data.fill_(-LIMIT)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(twin(x), (twin.left.bias + twin.right.bias.square()).expand(3, 3))
    twin.train()(x).sum().backward()
    assert gates.log_alpha.grad is None


@pytest.mark.parametrize("fixed", [False, True])
def test_a_state_dict_loads_into_a_freshly_attached_model(fixed):
    x = images()
    net = Convs()
    gates = gated(net, x)
    net.train()(x)
    if fixed:
        gates.fix(torch.arange(14) % 2 == 0)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = Convs()
    attach(other, x)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other.eval()(x), net.eval()(x), rtol=0, atol=0)
    torch.testing.assert_close(gates_of(other).probability(), gates.probability(), rtol=0, atol=0)


class Checkpointed(nn.Module):
    def __init__(self, recompute):
        super().__init__()
        self.recompute = recompute
        self.into = nn.Linear(4, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 8))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        h = self.into(x)
        h = h + (checkpoint(self.body, h, use_reentrant=False) if self.recompute and self.training else self.body(h))
        return self.out(h)


@pytest.mark.parametrize("whole", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(whole):
    x = torch.randn(5, 4)
    net = Checkpointed(recompute=False)
    gates = gated(net, x)
    net.train()
    twin = copy.deepcopy(net)
    twin.recompute = not whole
    torch.manual_seed(1)
    net(x).square().sum().backward()
    torch.manual_seed(1)
    out = checkpoint(twin, x, use_reentrant=False) if whole else twin(x)
    out.square().sum().backward()
    assert float(gates.log_alpha.grad.abs().max()) > 0
    for (name, a), b in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_bfloat16_autocast_keeps_gates_in_float32():
    net, x = Convs(), images(4)
    gates = gated(net, x)
    net.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
        assert out.dtype == torch.bfloat16
        assert gates.values().dtype == gates.probability().dtype == torch.float32
        loss = out.float().square().sum()
    loss.backward()
    assert gates.log_alpha.grad.dtype == torch.float32
    assert float(gates.log_alpha.grad.abs().max()) > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gates_stay_float32_when_the_model_is_cast(dtype):
    net = Fork()
    gates = gated(net, torch.randn(2, 4))
    before = gates.log_alpha.detach().clone()
    net.to(dtype).train()
    assert gates.log_alpha.dtype == torch.float32
    torch.testing.assert_close(gates.log_alpha.detach(), before, rtol=0, atol=0)
    out = net(torch.randn(2, 4, dtype=dtype))
    assert out.dtype == dtype
    out.float().sum().backward()
    assert gates.log_alpha.grad.dtype == torch.float32


def test_a_float64_model_has_float32_gates_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        net, x = Fork(), torch.randn(2, 4)
        gates = attach(net, x)
        assert net(x).dtype == torch.float64
        assert gates.log_alpha.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_wrappers_are_looked_through():
    net, x = Fork(), torch.randn(2, 4)
    wrapped = nn.DataParallel(net)
    gates = attach(wrapped, x)
    assert isinstance(getattr(net, NAME), Gates)
    assert gates_of(wrapped) is gates
    assert detach(wrapped) is net


def test_fixed_gates_are_their_mask_and_learn_no_more():
    net, x = Fork(), torch.randn(3, 4)
    plain = copy.deepcopy(net)
    gates = gated(net, x)
    mask = torch.tensor([True, False, True, True, False, False, True])
    gates.fix(mask)
    h = torch.tanh(plain.stem(x)) * mask
    for training in (True, False):
        torch.testing.assert_close(net.train(training)(x), plain.left(h) + plain.right(h).square())
    net.train()(x).sum().backward()
    assert gates.log_alpha.grad is None
    assert net.left.parametrizations.weight.original.grad is not None
    torch.testing.assert_close(gates.probability(), mask.float())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_gates_reach_weights_that_a_module_keeps_in_lists_as_well(kind):
    """Recurrent layers compute with a list of their weights; a gate on the weight alone would be without effect."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.o = kind(3, 6, batch_first=True, bidirectional=True), nn.Linear(12, 4)

        def forward(self, x):
            return self.o(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    net, x = Net().double(), torch.randn(2, 5, 3, dtype=torch.float64)
    gates = attach(net, x)
    only = [r for r in gates.coupling.readers if r.parameter.startswith("rnn.weight_hh")]
    assert only
    net.train()(x).square().sum().backward()
    with torch.no_grad():
        gates.log_alpha.copy_(torch.linspace(-2, 2, 6))
        gates.eval()
        wanted = gates.values()[1:]
        assert 0 < int((wanted == 0).sum()) < 6
    copy.deepcopy(net)  # nothing that autograd made stays behind in the list
    got = net.eval()(x)
    plain = detach(copy.deepcopy(net))
    assert not plain.rnn._forward_hooks
    assert not plain.rnn._forward_pre_hooks
    torch.testing.assert_close(got, plain(x), rtol=0, atol=1e-12)
    z = torch.from_numpy(only[0].units)
    torch.testing.assert_close(
        plain.rnn.weight_hh_l0, net.rnn.parametrizations.weight_hh_l0.original * gates.values()[z], rtol=0, atol=0
    )
    net.zero_grad()
    net.eval().rnn.o = None
    out = net.rnn(x)[0]
    out.sum().backward()
    assert float(gates.log_alpha.grad.abs().sum()) > 0  # through the recurrent weights alone


def test_a_model_that_is_wrapped_for_distributed_training_gets_its_gates_first(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
        with pytest.raises(UsageError, match=r"DistributedDataParallel.*attach gates to the module first"):
            attach(wrapped, torch.randn(1, 3))
    finally:
        torch.distributed.destroy_process_group()
