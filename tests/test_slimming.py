"""masked == slim on what real networks do: branches that vanish, constants, views, tied weights, inputs and outputs."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import agree, assert_equal, check, outputs, randomise
from torch import nn

from edgel0.cost import cost_of, program_cost
from edgel0.errors import SlimError, TraceError, UsageError
from edgel0.masks import masked
from edgel0.reaching import connected
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks

aten = torch.ops.aten
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
TOKENS = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(2)).double()


class Net(nn.Module):
    """Modules by name and a forward that uses them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            if isinstance(module, torch.Tensor) and not isinstance(module, nn.Parameter):
                self.register_buffer(name, module)
            else:
                setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def conv(i, o, k=3, **kwargs):
    return nn.Conv2d(i, o, k, padding=k // 2, **kwargs)


def image_net(middle, wide=6, **modules):
    """Convolution, then ``middle(net, x)``, then a reader."""
    return Net(
        lambda self, x: self.reader(middle(self, self.writer(x))), writer=conv(3, 6), reader=conv(wide, 4, 1), **modules
    )


def closing(coupling, *parameters):
    """Masks that close every unit which one of these parameters reads."""
    opened = np.ones(coupling.units + 1, bool)
    for reader in coupling.readers:
        if reader.parameter in parameters:
            opened[reader.units] = False
    return Masks(coupling, opened)


def count(program, *packets):
    return sum(getattr(n.target, "overloadpacket", None) in packets for n in program.graph.nodes)


class Residual(nn.Module):
    def __init__(self, channels=6, inner=5):
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            conv(inner, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


# Branches that vanish.


def test_a_residual_block_whose_inner_units_closed_disappears():
    model = randomise(nn.Sequential(conv(3, 6), Residual(), Residual(), conv(6, 4)))
    coupling = trace(model, IMAGE)
    masks = closing(coupling, "1.body.3.weight")
    agree(model, masks, IMAGE)
    program = slim(model, masks).program
    assert count(coupling.program, aten.conv2d) == 6
    assert count(program, aten.conv2d) == 4
    assert not any(name.startswith("1.body") for name in program.state_dict)


def test_closing_everything_names_the_group():
    model = randomise(nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 4)))
    masks = closing(trace(model, IMAGE), "2.weight")
    with pytest.raises(SlimError, match=r"no longer depends on the input: every unit is closed in 0\b"):
        slim(model, masks)


@pytest.mark.parametrize("reader", ["a", "b"])
def test_a_concatenated_branch_vanishes(reader):
    model = randomise(
        Net(
            lambda self, x: self.reader(F.relu(torch.cat([self.a2(self.a(x)), self.b2(self.b(x))], 1))),
            **{"a": conv(3, 4), "a2": conv(4, 5), "b": conv(3, 4), "b2": conv(4, 5), "reader": conv(10, 2)},
        )
    )
    coupling = trace(model, IMAGE)
    agree(model, closing(coupling, f"{reader}2.weight"), IMAGE)
    opened = np.ones(coupling.units + 1, bool)
    labels = next(r for r in coupling.readers if r.parameter == "reader.weight").units
    opened[labels[:5] if reader == "a" else labels[5:]] = False
    masks = Masks(coupling, opened)
    agree(model, masks, IMAGE)
    assert count(slim(model, masks).program, aten.cat) == 0


def vanished(combine, **modules):
    """A net of which one branch becomes constant, and the constant is combined with a branch that lives."""
    return Net(
        lambda self, x: self.reader(combine(self, self.first(x), self.last(F.relu(self.inner(x))))),
        first=conv(3, 6),
        inner=conv(3, 4),
        last=conv(4, 6, 1),
        reader=conv(6, 4, 1),
        **modules,
    )


CONSTANT_BRANCHES = {
    "add": lambda s, x, c: x + c,
    "mul by a narrow input": lambda s, x, c: x.mean(1, keepdim=True) * F.adaptive_avg_pool2d(c, 1),
    "where": lambda s, x, c: torch.where(x > c, x, c),
    "masked fill": lambda s, x, c: c.masked_fill(x > 0, 0.3),
    "cat": lambda s, x, c: torch.cat([x[:, :3], c[:, 3:]], 1),
    "stack": lambda s, x, c: torch.stack([x, c], 2).sum(2),
    "stack along units": lambda s, x, c: torch.stack([*x.unbind(1)[:3], *c.unbind(1)[3:]], 1),
    "matmul": lambda s, x, c: torch.matmul(torch.softmax(c, -1), x),
    "matmul from the right": lambda s, x, c: torch.matmul(x, c),
    "squeeze and excite": lambda s, x, c: x * torch.sigmoid(F.adaptive_avg_pool2d(c, 1)),
    "attention": lambda s, x, c: F.scaled_dot_product_attention(x, c, x),
    "attention mask": lambda s, x, c: F.scaled_dot_product_attention(x, x, x, attn_mask=c),
    "pool and interpolate": lambda s, x, c: x + F.interpolate(F.max_pool2d(c, 2), scale_factor=2),
    "flatten": lambda s, x, c: (x.flatten(2) + c.flatten(2)).view(2, 6, 8, 8),
    "copied over": lambda s, x, c: c.clone().copy_(x) + c,
    "written into": lambda s, x, c: torch.slice_scatter(x, c[:, :, :3], 2, 0, 3),
    "halves": lambda s, x, c: torch.cat([a + b for a, b in zip(x.chunk(2, 1), c.chunk(2, 1), strict=True)], 1),
    "max": lambda s, x, c: x + c.max(1, keepdim=True)[0],
    "batch norm": lambda s, x, c: x + F.batch_norm(c, torch.zeros(6).double(), torch.ones(6).double()),
}


@pytest.mark.parametrize("name", CONSTANT_BRANCHES)
def test_a_branch_becomes_constant(name):
    model = randomise(vanished(CONSTANT_BRANCHES[name]))
    coupling = trace(model, IMAGE)
    assert not coupling.unknown
    opened = closing(coupling, "last.weight").open
    assert not opened.all()
    agree(model, Masks(coupling, opened), IMAGE)
    for seed in range(3):
        masks = Masks(coupling, opened & Masks.random(coupling, 0.4, seed).open)
        if connected(coupling, masks.open):
            agree(model, masks, IMAGE)
    check(vanished(CONSTANT_BRANCHES[name]), IMAGE)


def test_addmm_goes_on_without_a_product_that_is_gone():
    def forward(self, x):
        inner = F.relu(self.inner(x))
        return self.reader(torch.addmm(self.outer(x), inner, self.matrix, beta=0.7))

    modules = {"inner": nn.Linear(5, 4), "outer": nn.Linear(5, 6), "reader": nn.Linear(6, 2)}
    model = randomise(Net(forward, **modules, matrix=nn.Parameter(torch.zeros(4, 6))))
    example = torch.randn(3, 5).double()
    coupling = check(model, example, 10)
    masks = closing(coupling, "matrix")
    agree(model, masks, example)
    assert count(slim(model, masks).program, aten.addmm) == 0


# Layers.


@pytest.mark.parametrize(
    ("middle", "wide", "units"),
    [
        (conv(6, 6, groups=6), 6, 6),
        (conv(6, 18, groups=6), 18, 6),
        (conv(6, 4, groups=2), 4, 5),
        (nn.ConvTranspose2d(6, 8, 2, stride=2), 8, 14),
        (nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2), 8, 7),
        (nn.ConvTranspose2d(6, 12, 2, groups=6), 12, 6),
        (nn.Sequential(nn.BatchNorm2d(6), nn.PReLU(6), nn.Sigmoid()), 6, 6),
        (nn.GroupNorm(6, 6), 6, 6),
        (nn.GroupNorm(1, 6), 6, 0),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.ReLU(), nn.PixelShuffle(2)), 6, 6),
        (nn.ChannelShuffle(3), 6, 6),
        (nn.ReflectionPad2d(1), 6, 6),
        (nn.ConstantPad2d(2, 0.3), 6, 6),
        (nn.Dropout2d(), 6, 6),
        (nn.Upsample(scale_factor=2), 6, 6),
        (nn.LocalResponseNorm(3), 6, 0),
    ],
    ids=str,
)
def test_layer(middle, wide, units):
    check(nn.Sequential(conv(3, 6), middle, conv(wide, 4, 1)), IMAGE, units)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_convolutions_of_other_ranks(n, groups):
    convolution = {1: nn.Conv1d, 3: nn.Conv3d}[n]
    transposed = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[n]
    model = nn.Sequential(
        convolution(3, 6, 1),
        convolution(6, 6, 1, groups=groups),
        transposed(6, 6, 2, groups=groups),
        convolution(6, 2, 1),
    )
    check(model, torch.randn(2, 3, *(4,) * n).double(), {1: 18, 2: 9, 6: 6}[groups])


@pytest.mark.parametrize(
    ("name", "middle", "wide", "units"),
    [
        ("cat constant", lambda s, x: torch.cat([x, s.held.expand(2, 2, 8, 8)], 1), 8, 6),
        ("cat constant row", lambda s, x: torch.cat([s.row.expand(2, -1, 1, 8), x], 2), 6, 6),
        ("option A", lambda s, x: F.pad(x, (0, 0, 0, 0, 1, 1)), 8, 6),
        ("option A residual", lambda s, x: s.wider(x) + F.pad(x[:, :, :, :], (0, 0, 0, 0, 1, 1)), 8, 8),
        ("crop", lambda s, x: F.pad(x, (0, 0, 0, 0, -1, -1)), 4, 6),
        ("chunk", lambda s, x: x.chunk(2, 1)[0] * 2 + x.chunk(2, 1)[1], 3, 3),
        ("pieces", lambda s, x: torch.cat([F.relu(p) for p in x.split(1, 1)], 1), 6, 6),
        ("unbind", lambda s, x: torch.stack([F.relu(p) for p in x.unbind(1)], 1), 6, 6),
        ("select", lambda s, x: torch.cat([x[:, 3:4], x[:, 5].unsqueeze(1), x[:, -1:], x], 1), 9, 6),
        ("squeeze", lambda s, x: x.flatten(2).unsqueeze(3).squeeze().view(2, 6, 8, 8), 6, 6),
        ("excite", lambda s, x: x * torch.sigmoid(s.up(F.relu(s.down(x.mean((2, 3), keepdim=True))))), 6, 10),
        ("roll", lambda s, x: x.roll(2, 1), 6, 6),
        ("flip", lambda s, x: x.flip(1), 6, 6),
        ("strided", lambda s, x: x[:, ::2], 3, 6),
        ("layer scale", lambda s, x: s.gamma[:, None, None] * x, 6, 6),
        ("buffer", lambda s, x: (x - s.mean) / s.std, 6, 6),
        ("scale from a chain", lambda s, x: x * (s.gamma * s.mean.flatten().softmax(0)).view(1, -1, 1, 1), 6, 6),
        ("permuted last", lambda s, x: F.linear(x.permute(0, 2, 3, 1), s.matrix).permute(0, 3, 1, 2), 6, 12),
        ("weight by hand", lambda s, x: F.conv2d(x, s.matrix[:, :, None, None] / s.matrix.norm()), 6, 6),
        ("einsum with a weight", lambda s, x: torch.einsum("bchw,cd->bdhw", x, s.matrix), 6, 12),
        ("a matrix as a convolution", lambda s, x: F.conv2d(x, s.matrix[:, :, None, None]), 6, 12),
        ("a matrix from the left", lambda s, x: (s.matrix @ x.flatten(2)).view(2, 6, 8, 8), 6, 12),
        ("a tensor that is no buffer", lambda s, x: F.conv2d(x, s.hidden[0]) + s.hidden[0][0, 0], 6, 6),
        ("no grad", lambda s, x: no_grad(x), 6, 6),
        ("no autocast", lambda s, x: no_autocast(x), 6, 6),
        ("zeroed", lambda s, x: zeroed(x), 6, 6),
        ("zeroed every second", lambda s, x: zeroed(x, 2), 6, 6),
        ("filled up", lambda s, x: filled(x), 6, 6),
        ("in place", lambda s, x: x.add_(1).relu_().mul_(s.mean), 6, 6),
        ("in place on a chunk", lambda s, x: in_place_on_a_chunk(x), 6, 6),
        ("in place on a view", lambda s, x: in_place_on_a_view(x), 6, 6),
        (
            "interval of itself",
            lambda s, x: x.type_as(s.mean).to(s.std) * torch.ones_like(x) + torch.full_like(x, 0.2),
            6,
            6,
        ),
        ("as another", lambda s, x: x.reshape(2, -1).view_as(x).expand_as(x).reshape_as(x), 6, 6),
        ("spatial attention", lambda s, x: x * torch.sigmoid(s.mix(torch.cat([x, x * 2], 1))), 6, 6),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_forward(name, middle, wide, units):
    held = {
        "held": nn.Parameter(torch.zeros(1, 2, 1, 1)),
        "row": nn.Parameter(torch.zeros(1, 6, 1, 8)),
        "gamma": nn.Parameter(torch.zeros(6)),
        "matrix": nn.Parameter(torch.zeros(6, 6)),
        "mean": torch.zeros(1, 6, 1, 1),
        "std": torch.zeros(6, 1, 1),
        "wider": conv(6, 8, 1),
        "down": conv(6, 4, 1),
        "up": conv(4, 6, 1),
        "mix": conv(12, 1, 1),
    }
    model = image_net(middle, wide, **held)
    model.hidden = [torch.ones(6, 6, 1, 1).double() * 0.1]
    check(model, IMAGE, units)


def no_grad(x):
    with torch.no_grad():
        y = torch.sigmoid(x)
    return x * y


def no_autocast(x):
    with torch.autocast("cpu", enabled=False):
        y = torch.sigmoid(x)
    return x * y


def zeroed(x, step=1):
    x = x.clone()
    x[:, 1:4:step] = 0
    return x


def filled(x):
    out = torch.zeros(2, 6, 8, 8, dtype=x.dtype)
    out[:, :3] = x[:, 3:]
    out[:, 3:] = x[:, :3] * 2
    return out


def in_place_on_a_chunk(x):
    with torch.no_grad():
        x = x.clone()
        first, _ = x.chunk(2, 1)
        first.relu_()
    return x


def in_place_on_a_view(x):
    y = x.clone()
    y.view(2, 6, 64).mul_(2)
    return y


def heads(x, n=3):
    return x.view(*x.shape[:2], n, -1).transpose(1, 2)


def attend(product):
    def forward(self, x):
        q, k, v = (heads(t) for t in self.qkv(x).chunk(3, -1))
        return self.out(product(self, q, k, v).transpose(1, 2).flatten(2))

    return Net(
        forward,
        qkv=nn.Linear(12, 36),
        out=nn.Linear(12, 5),
        bias=nn.Parameter(torch.zeros(3, 4, 4)),
        to_bias=nn.Linear(12, 3),
    )


@pytest.mark.parametrize(
    "product",
    [
        lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v),
        lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=s.bias),
        lambda s, q, k, v: torch.softmax(q @ k.transpose(-1, -2) + s.bias, -1) @ v,
        lambda s, q, k, v: torch.softmax((q @ k.mT).masked_fill(torch.ones(4, 4).triu(1).bool(), -1e9), -1) @ v,
        lambda s, q, k, v: torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v),
    ],
)
def test_heads_are_units(product):
    check(attend(product), TOKENS, 3)


def test_an_attention_mask_from_the_input_goes_with_its_heads():
    def forward(self, x):
        q, k, v = (heads(t) for t in self.qkv(x).chunk(3, -1))
        mask = self.to_bias(x).transpose(1, 2).unsqueeze(2).expand(2, 3, 4, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))

    check(Net(forward, qkv=nn.Linear(12, 36), out=nn.Linear(12, 5), to_bias=nn.Linear(12, 3)), TOKENS, 3)


def test_grouped_queries_share_a_unit():
    def forward(self, x):
        q, k, v = heads(self.q(x), 6), heads(self.k(x), 2), heads(self.v(x), 2)
        return self.out(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))

    check(Net(forward, q=nn.Linear(12, 24), k=nn.Linear(12, 8), v=nn.Linear(12, 8), out=nn.Linear(24, 5)), TOKENS, 2)


def test_multihead_attention_module():
    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0])

    check(Net(forward, attention=nn.MultiheadAttention(12, 3, batch_first=True), out=nn.Linear(12, 5)), TOKENS, 3 + 12)


def test_transformer_layer():
    model = nn.Sequential(nn.Linear(12, 12), nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), nn.Linear(12, 5))
    coupling = check(model, TOKENS)
    assert coupling.units == 3 + 20


def test_a_constant_in_a_concatenation_goes_with_the_group_it_is_normalised_in():
    def middle(self, x):
        return self.norm(torch.cat([x, self.own.expand(2, 2, 8, 8)], 1))

    model = randomise(image_net(middle, 8, own=nn.Parameter(torch.zeros(1, 2, 1, 1)), norm=nn.GroupNorm(2, 8)))
    coupling = trace(model, IMAGE)
    for closed in (1, 2):
        opened = np.ones(3, bool)
        opened[closed] = False
        agree(model, Masks(coupling, opened), IMAGE)


# Parameters in several roles.


def test_a_parameter_used_twice():
    model = Net(
        lambda self, x: self.reader(self.twice(self.twice(self.writer(x)))),
        writer=conv(3, 6),
        twice=conv(6, 6),
        reader=conv(6, 2),
    )
    check(model, IMAGE, 6)


def test_a_readers_weight_that_is_used_elsewhere_too():
    model = Net(
        lambda self, x: self.reader(F.relu(self.writer(x))) * self.reader.weight.abs().mean(),
        writer=conv(3, 6),
        reader=conv(6, 2),
    )
    check(model, IMAGE, 6)


def test_tied_embedding():
    model = Net(
        lambda self, i: self.out(F.gelu(self.mlp(self.table(i)))),
        table=nn.Embedding(9, 6),
        mlp=nn.Linear(6, 6),
        out=nn.Linear(6, 9, bias=False),
    )
    model.out.weight = model.table.weight
    check(model, torch.tensor([[1, 4, 2], [8, 0, 3]]), 6)


def test_frozen_parameters_stay_frozen():
    model = randomise(nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 4)))
    model[0].requires_grad_(False)
    program = slim(model, Masks.random(trace(model, IMAGE))).program
    assert {name: p.requires_grad for name, p in program.named_parameters()} == {
        "0.weight": False,
        "0.bias": False,
        "2.weight": True,
        "2.bias": True,
    }


# Inputs and outputs.


def test_dict_and_tuple_inputs_and_outputs():
    def forward(self, input, others, scale=1.0):
        y = self.a(input) + self.b(others["x"]) * others["y"][0]
        return {"first": self.c(F.relu(y)) * scale, "second": (self.d(y), y.mean(1))}

    model = Net(forward, a=conv(3, 6), b=conv(3, 6), c=conv(6, 2), d=conv(6, 3))
    example = {"input": IMAGE, "others": {"x": IMAGE + 1, "y": [IMAGE[:, :1]]}}
    check(model, example, 0)
    model.run = lambda self, **kwargs: forward(self, **kwargs) | {"second": self.d(self.a(kwargs["input"]))}
    check(model, example, 6)


def test_a_model_that_writes_to_its_input():
    check(nn.Sequential(nn.ReLU(inplace=True), conv(3, 6), nn.ReLU(inplace=True), conv(6, 4)), IMAGE, 6)


def test_a_model_that_writes_to_its_buffer_in_eval_mode_is_refused():
    def forward(self, x):
        self.calls.add_(1)
        return self.a(x) * self.calls

    with pytest.raises(TraceError, match=r"writes to 'calls' in eval mode"):
        trace(Net(forward, a=conv(3, 6), calls=torch.zeros(1)).double(), IMAGE)


def test_control_flow_operators_are_pinned_and_kept():
    def forward(self, x):
        y = torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t - 1, (self.a(x),))
        return self.c(F.relu(self.b(y)))

    coupling = check(Net(forward, a=conv(3, 6), b=conv(6, 5), c=conv(5, 2)), IMAGE, 5, unknown=("cond",))
    assert coupling.pins


# The program.


@pytest.fixture(scope="module")
def small():
    return randomise(nn.Sequential(conv(3, 6), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))


def test_all_open_is_the_model(small):
    coupling = trace(small, IMAGE)
    program = slim(small, Masks(coupling, np.ones(coupling.units + 1, bool))).program
    assert_equal(outputs(small, IMAGE), outputs(program.module(), IMAGE))
    assert {n: p.shape for n, p in program.state_dict.items()} == {
        n: p.shape for n, p in small.state_dict().items() if "num_batches" not in n
    }


def test_slimming_twice_changes_neither_model_nor_coupling(small):
    coupling = trace(small, IMAGE)
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    graph = str(coupling.program.graph)
    masks = [Masks.random(coupling, 0.5, seed) for seed in (0, 1)]
    first = [agree(small, m, IMAGE) for m in masks]
    for m, wanted in zip(reversed(masks), reversed(first), strict=True):
        assert_equal(wanted, agree(small, m, IMAGE))
    assert str(coupling.program.graph) == graph
    assert all(torch.equal(state[name], tensor) for name, tensor in small.state_dict().items())


def test_present_weights_are_used(small):
    coupling = trace(small, IMAGE)
    other = randomise(
        nn.Sequential(conv(3, 6), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)), seed=5
    )
    agree(other, Masks.random(coupling), IMAGE)


def test_saved_and_loaded(small):
    masks = Masks.random(trace(small, IMAGE))
    program = slim(small, masks).program
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert_equal(outputs(program.module(), IMAGE), outputs(loaded.module(), IMAGE))


def test_trains(small):
    module = slim(small, Masks.random(trace(small, IMAGE))).program.module()
    module(IMAGE).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_cost_of_the_mask_is_the_cost_of_the_program(small):
    coupling = trace(small, IMAGE)
    for seed in range(3):
        masks = Masks.random(coupling, 0.5, seed)
        slimmed = slim(small, masks)
        assert cost_of(coupling, masks) == slimmed.cost == program_cost(slimmed.program)
        assert slimmed.dense == cost_of(coupling)


def test_an_example_of_another_shape_traces_anew(small):
    coupling = trace(small, IMAGE)
    masks = Masks.random(coupling)
    other = torch.randn(1, 3, 16, 16).double()
    slimmed = slim(small, masks, other)
    assert_equal(outputs(masked(small, masks), other), outputs(slimmed.program.module(), other))
    assert slim(small, masks, IMAGE).cost == slim(small, masks).cost


def test_an_example_on_which_the_units_are_others_is_refused():
    model = randomise(
        Net(lambda self, x: self.b(self.a(x)) if x.shape[0] > 1 else self.a(x), a=conv(3, 6), b=conv(6, 4))
    )
    with pytest.raises(UsageError, match="has 0 units in other groups than the 6"):
        slim(model, Masks.random(trace(model, IMAGE)), IMAGE[:1])


# Heads that meet what cannot be cut.


def by_hand(q, k, v):
    return (q @ k.transpose(2, 3)).softmax(-1) @ v


@pytest.mark.parametrize("attend", [F.scaled_dot_product_attention, by_hand])
def test_a_query_that_is_pinned_pins_the_heads_of_its_keys(attend):
    """The query is an input, and its heads stay: so do those of keys and values."""

    def heads(x):
        return x.unflatten(-1, (3, 4)).transpose(1, 2)

    model = Net(
        lambda self, x, q: self.out(attend(heads(q), heads(self.k(x)), heads(self.v(x))).transpose(1, 2).flatten(2)),
        k=nn.Linear(5, 12),
        v=nn.Linear(5, 12),
        out=nn.Linear(12, 3),
    )
    check(model, (torch.randn(2, 4, 5).double(), torch.randn(2, 4, 12).double()))
