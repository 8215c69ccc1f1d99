"""Small networks of everyday modules: the units of each by hand, masked == slim, and what is pinned is told."""

import pytest
import torch
import torch.nn.functional as F
from oracle import check, outputs, randomise
from test_slimming import Net, conv
from torch import nn
from torch.nn.utils import parametrizations

import edgel0


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).double()


IMAGE, ROWS, INDICES = drawn(2, 3, 8, 8), drawn(4, 5), torch.tensor([[1, 4, 2], [7, 0, 8]])
TOKENS, WIDE, OTHERS = drawn(2, 4, 5), drawn(2, 4, 12), drawn(2, 3, 7)
COMPUTED = "its weight is computed, so no gate can stand on it"
NORMED = "normalised across units"
MEETS = "meets what is pinned"


def between(middle, wide=6, **modules):
    """Six channels, ``middle(net, x)``, then a reader of ``wide`` channels."""
    return Net(
        lambda self, x: self.reader(middle(self, self.writer(x))), writer=conv(3, 6), reader=conv(wide, 4, 1), **modules
    )


def among(middle, wide=6, **modules):
    """Six features of each token, ``middle(net, x)``, then a reader of ``wide`` features."""
    return Net(
        lambda self, x: self.reader(middle(self, self.writer(x))),
        writer=nn.Linear(5, 6),
        reader=nn.Linear(wide, 3),
        **modules,
    )


def reasons(coupling):
    """Why something is pinned, but for what everything is: an output."""
    return {pin.reason for pin in coupling.pins} - {"an output of the model"}


# Attention modules. Heads are units; so are the rows of the output projection, where a plain linear layer reads them.


def self_attention(need_weights, use_weights=False, **options):
    """12 features, 3 heads of width 4, 12 rows of the output projection."""

    def forward(self, x):
        x = self.before(x)
        y, weights = self.attention(x, x, x, need_weights=need_weights, attn_mask=self.mask, **self.given)
        return (self.out(y), weights) if use_weights else self.out(y)

    net = Net(forward, before=nn.Linear(5, 12), out=nn.Linear(12, 3), mask=options.pop("mask", None))
    net.given = {"average_attn_weights": options.pop("average", True)}
    net.attention = nn.MultiheadAttention(12, 3, **options)
    return net


def cross_attention(need_weights, key, value, **options):
    """Queries of 12 features look at keys of ``key`` features and values of ``value``: 3 heads, 12 rows."""

    def forward(self, x, y):
        given = self.query(x), self.key(y), self.value(y)
        return self.out(self.attention(*given, need_weights=need_weights)[0])

    return Net(
        forward,
        query=nn.Linear(5, 12),
        key=nn.Linear(7, key),
        value=nn.Linear(7, value),
        attention=nn.MultiheadAttention(12, 3, kdim=key, vdim=value, **options),
        out=nn.Linear(12, 3),
    )


CAUSAL = torch.ones(4, 4).triu(1).bool()


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"batch_first": True, "bias": False},
        {"batch_first": True, "mask": CAUSAL},
        {"batch_first": True, "mask": torch.zeros(4, 4).double()},
        {"batch_first": True, "mask": torch.zeros(6, 4, 4).double()},
        {"batch_first": True, "add_zero_attn": True},
        {"batch_first": True, "dropout": 0.3},
    ],
    ids=lambda options: " ".join(options),
)
def test_self_attention(options, need_weights):
    check(self_attention(need_weights, **options), TOKENS, 12 + 3 + 12)


def test_self_attention_with_time_first():
    check(self_attention(False), TOKENS.transpose(0, 1).contiguous(), 12 + 3 + 12)


def test_self_attention_without_a_batch():
    """Query, key and value get a batch axis each, are no longer one tensor, and read a third of the weight each."""
    coupling = check(self_attention(False), TOKENS[0], 3 + 12)
    assert reasons(coupling) == {COMPUTED}


def test_extra_keys_and_values_that_are_parameters():
    check(self_attention(False, batch_first=True, add_bias_kv=True), TOKENS, 12 + 3 + 12)


@pytest.mark.parametrize(
    ("average", "reason"), [(True, {"reduced across units"}), (False, set())], ids=["mean of the heads", "each head"]
)
def test_attention_weights_that_are_an_output_pin_the_heads(average, reason):
    coupling = check(self_attention(True, True, average=average, batch_first=True), TOKENS, 12 + 12)
    assert reasons(coupling) == reason


def test_padding_of_keys_is_an_input_like_any_other():
    def forward(self, x, padding):
        x = self.before(x)
        return self.out(self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0])

    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    model = Net(forward, before=nn.Linear(5, 12), attention=attention, out=nn.Linear(12, 3))
    padding = torch.tensor([[False, False, False, True], [False, False, True, True]])
    check(model, (TOKENS, padding), 12 + 3 + 12)


@pytest.mark.parametrize("need_weights", [False, True])
def test_cross_attention_of_other_widths(need_weights):
    model = cross_attention(need_weights, 8, 10, batch_first=True)
    check(model, (TOKENS, OTHERS), 12 + 8 + 10 + 3 + 12)


def test_cross_attention_of_other_widths_with_time_first():
    example = tuple(t.transpose(0, 1).contiguous() for t in (TOKENS, OTHERS))
    check(cross_attention(False, 8, 10), example, 12 + 8 + 10 + 3 + 12)


@pytest.mark.parametrize("need_weights", [False, True])
def test_cross_attention_through_slices_of_the_packed_weight(need_weights):
    """Query, key and value each read a third of the packed rows: what they read is pinned, heads and rows go."""
    coupling = check(cross_attention(need_weights, 12, 12, batch_first=True), (TOKENS, OTHERS), 3 + 12)
    assert reasons(coupling) == {COMPUTED}
    assert {pin.module for pin in coupling.pins if pin.reason == COMPUTED} == {"attention"}


def encoder(layers, **options):
    return nn.Sequential(
        nn.Linear(5, 12),
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, **options), layers, enable_nested_tensor=False
        ),
        nn.Linear(12, 3),
    )


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["norm after", "norm first"])
@pytest.mark.parametrize("layers", [1, 2])
def test_transformer_encoder(layers, norm_first, activation):
    coupling = check(encoder(layers, norm_first=norm_first, activation=activation), TOKENS, layers * (4 + 20))
    assert reasons(coupling) == {NORMED, MEETS}


@pytest.mark.parametrize("layers", [1, 2])
def test_a_frozen_transformer_encoder(layers):
    """Without gradients torch would take a fused operator for a whole layer."""
    check(encoder(layers).requires_grad_(False), TOKENS, layers * (4 + 20))


def test_a_frozen_self_attention():
    attention = nn.MultiheadAttention(12, 4, batch_first=True)
    model = Net(
        lambda self, x: self.out(self.attention(x, x, x, need_weights=False)[0]),
        attention=attention,
        out=nn.Linear(12, 3),
    )
    check(model.requires_grad_(False), WIDE, 4 + 12)


def test_a_causal_transformer_encoder():
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True)
    model = Net(
        lambda self, x: self.reader(self.encoder(x, mask=self.mask, is_causal=True)),
        encoder=nn.TransformerEncoder(layer, 1, enable_nested_tensor=False),
        reader=nn.Linear(12, 3),
        mask=CAUSAL,
    )
    check(model, WIDE, 4 + 20)


@pytest.mark.parametrize("norm_first", [False, True], ids=["norm after", "norm first"])
def test_transformer_decoder_layer(norm_first):
    """Four heads that look at the layer's own input, four that look at the memory, 20 neurons."""
    model = Net(
        lambda self, x, memory: self.reader(self.decoder(self.first(x), self.before(memory))),
        first=nn.Linear(12, 12),
        decoder=nn.TransformerDecoderLayer(12, 4, 20, batch_first=True, norm_first=norm_first),
        before=nn.Linear(7, 12),
        reader=nn.Linear(12, 3),
    )
    coupling = check(model, (WIDE, OTHERS), 4 + 4 + 20)
    assert reasons(coupling) == {NORMED, COMPUTED, MEETS}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # nn.Transformer has no argument for it
@pytest.mark.parametrize("norm_first", [False, True], ids=["norm after", "norm first"])
def test_transformer(norm_first):
    """An encoder layer of 2 heads and 20 neurons, a decoder layer of 2 + 2 heads and 20 neurons."""
    transformer = nn.Transformer(12, 2, 1, 1, 20, batch_first=True, norm_first=norm_first)
    model = Net(
        lambda self, x, y: self.reader(self.transformer(x, y, tgt_mask=self.mask, tgt_is_causal=True)),
        transformer=transformer,
        reader=nn.Linear(12, 3),
        mask=CAUSAL,
    )
    check(model, (drawn(2, 3, 12), WIDE), (2 + 20) + (2 + 2 + 20))


# Convolutions, as far as their rows and the layers of test_slimming leave them out.

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", CONVOLUTIONS)
def test_depthwise_with_a_multiplier_and_its_transpose(n, bias):
    """The six channels of the first go through: thrice each, then each of the eighteen twice."""
    convolution, transposed = CONVOLUTIONS[n]
    model = nn.Sequential(
        convolution(3, 6, 1, bias=bias),
        convolution(6, 18, 2, groups=6, bias=bias),
        nn.ReLU(),
        transposed(18, 36, 2, groups=18, bias=bias),
        nn.ReLU(),
        convolution(36, 2, 1, bias=bias),
    )
    check(model, drawn(2, 3, *(4,) * n), 6)


@pytest.mark.parametrize("n", CONVOLUTIONS)
def test_a_grouped_transpose(n):
    """Two groups: equal places of both are one unit, so 3 of the 6 channels before and 5 of the 10 after."""
    convolution, transposed = CONVOLUTIONS[n]
    model = nn.Sequential(
        convolution(3, 6, 1), transposed(6, 10, 2, 2, groups=2, output_padding=1), nn.ReLU(), convolution(10, 2, 1)
    )
    check(model, drawn(2, 3, *(4,) * n), 3 + 5)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("n", CONVOLUTIONS)
def test_padding_modes(n, mode):
    convolution = CONVOLUTIONS[n][0]
    model = nn.Sequential(
        convolution(3, 6, 3, padding=1, padding_mode=mode),
        nn.ReLU(),
        convolution(6, 5, 3, padding=1, padding_mode=mode, stride=2),
        nn.ReLU(),
        convolution(5, 2, 1),
    )
    check(model, drawn(2, 3, *(4,) * n), 6 + 5)


class UNet(nn.Module):
    """Two levels down, two up: skips lie beside what comes from below."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottom = (self.twice(*c) for c in ((3, 4), (4, 6), (6, 8)))
        self.grow2, self.grow1 = nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 2, 2)
        self.up2, self.up1 = self.twice(12, 6), self.twice(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    @staticmethod
    def twice(i, o):
        return nn.Sequential(conv(i, o), nn.BatchNorm2d(o), nn.ReLU(inplace=True), conv(o, o), nn.ReLU(inplace=True))

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.up2(torch.cat([second, self.grow2(x)], 1))
        return self.out(self.up1(torch.cat([first, self.grow1(x)], 1)))


class Nested(nn.Module):
    """Containers in containers."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleDict({"body": nn.Sequential(conv(i, o), nn.ReLU()), "side": nn.ModuleList([conv(o, 4, 1)])})
            for i, o in ((3, 6), (6, 5))
        )
        self.scales = nn.ParameterDict({"one": torch.zeros(4, 1, 1), "two": torch.zeros(4, 1, 1)})
        self.reader = conv(4, 2, 1)

    def forward(self, x):
        total = 0
        for stage, scale in zip(self.stages, self.scales.values(), strict=True):
            x = stage["body"](x)
            for side in stage["side"]:
                total = total + scale * side(x)
        return self.reader(F.relu(total))


class Patches(nn.Module):
    """Tokens of an image with a class token and a place each; the trunk of six features has no norm."""

    def __init__(self):
        super().__init__()
        self.patch, self.reader = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3)
        self.first, self.places = nn.Parameter(torch.zeros(1, 1, 6)), nn.Parameter(torch.zeros(1, 5, 6))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
        return self.reader(F.gelu(x)[:, 0])


def changed(change):
    """Run a function that changes its argument in place on a copy, and return the copy."""

    def middle(self, x):
        x = x.clone()
        change(self, x)
        return x

    return middle


def add_to_a_part(self, x):
    x[:, 2:] += self.beside[:, 2:]


def add_a_part_to_a_part(self, x):
    x[:, 3:] += x[:, :3]


def scale_every_second(self, x):
    x[:, ::2] *= 2


def write_what_is_chosen(self, x):
    x[x < 0] = 0.1


PERM = torch.tensor([3, 0, 5, 1, 4, 2])

# Name: (network, example, units).
NETS = {
    # Levels of 4, 6 and 8 channels: each pair of convolutions makes two sets, each transposed convolution one.
    "u-net": (UNet, IMAGE, 2 * 4 + 2 * 6 + 2 * 8 + 6 + 2 * 6 + 4 + 2 * 4),
    "nested containers": (Nested, IMAGE, 6 + 5 + 4),
    # Pixels: four channels of the input of a pixel shuffle become one channel of its output.
    "super resolution": (
        lambda: nn.Sequential(conv(3, 6), nn.Tanh(), conv(6, 12), nn.PixelShuffle(2)),
        IMAGE,
        6,
    ),
    "shuffled pixels are read": (
        lambda: nn.Sequential(conv(3, 12), nn.PReLU(12), nn.PixelShuffle(2), conv(3, 4, 1)),
        IMAGE,
        3,
    ),
    "pixels of the input": (lambda: nn.Sequential(nn.PixelUnshuffle(2), conv(12, 6), nn.ReLU(), conv(6, 2)), IMAGE, 6),
    # Activations with parameters, and gates.
    "prelu of one parameter": (lambda: between(lambda s, x: s.act(x), act=nn.PReLU()), IMAGE, 6),
    "prelu of tokens": (lambda: among(lambda s, x: s.act(x.mT).mT, act=nn.PReLU(6)), TOKENS, 6),
    "glu": (lambda: nn.Sequential(nn.Linear(5, 12), nn.GLU(), nn.Linear(6, 3)), TOKENS, 6),
    "glu over places": (lambda: between(lambda s, x: F.glu(x, 2)), IMAGE, 6),
    "swiglu": (
        lambda: Net(
            lambda self, x: self.down(F.silu(self.gate(x)) * self.up(x)),
            gate=nn.Linear(5, 8),
            up=nn.Linear(5, 8),
            down=nn.Linear(8, 3),
        ),
        TOKENS,
        8,
    ),
    # Tables.
    "tied by hand": (
        lambda: Net(
            lambda self, i: F.gelu(self.mlp(self.table(i))) @ self.table.weight.T,
            table=nn.Embedding(9, 6, padding_idx=0),
            mlp=nn.Linear(6, 6),
        ),
        INDICES,
        6,
    ),
    "tied with a wider middle": (
        lambda: Net(
            lambda self, i: F.linear(self.table(i) + self.down(F.gelu(self.up(self.table(i)))), self.table.weight),
            table=nn.Embedding(9, 6),
            up=nn.Linear(6, 10),
            down=nn.Linear(10, 6),
        ),
        INDICES,
        6 + 10,
    ),
    **{
        f"bag of {mode}": (
            lambda mode=mode: nn.Sequential(nn.EmbeddingBag(9, 6, mode=mode), nn.Linear(6, 3)),
            INDICES,
            6,
        )
        for mode in ("sum", "mean", "max")
    },
    # Parameters and buffers in arithmetic.
    "places as parameters": (Patches, IMAGE, 6),
    "places as a buffer that is cut to length": (
        lambda: among(lambda s, x: x + s.places[:, : x.shape[1]], places=torch.zeros(1, 16, 6)),
        TOKENS,
        6,
    ),
    "layer scale in a residual block": (
        lambda: between(
            lambda s, x: x + s.gamma * s.out(F.relu(s.inner(x))),
            inner=conv(6, 5),
            out=conv(5, 6),
            gamma=nn.Parameter(torch.zeros(1, 6, 1, 1)),
        ),
        IMAGE,
        6 + 5,
    ),
    "a scalar parameter": (lambda: between(lambda s, x: x / s.t.exp(), t=nn.Parameter(torch.zeros(()))), IMAGE, 6),
    "a parameter used as weight and as bias": (
        lambda: among(lambda s, x: F.linear(x, torch.diag_embed(s.v)) + s.v, v=nn.Parameter(torch.zeros(6))),
        TOKENS,
        6,
    ),
    "a layer used at two depths": (
        lambda: Net(
            lambda self, x: self.reader(F.relu(self.twice(F.relu(self.twice(F.relu(self.writer(x)))) + 1))),
            writer=nn.Linear(5, 6),
            twice=nn.Linear(6, 6),
            reader=nn.Linear(6, 3),
        ),
        TOKENS,
        6,
    ),
    "a layer used on two inputs": (
        lambda: Net(
            lambda self, x, y: self.reader(torch.cat([F.relu(self.shared(x)), F.relu(self.shared(y))], -1)),
            shared=nn.Linear(5, 6),
            reader=nn.Linear(12, 3),
        ),
        (TOKENS, TOKENS + 1),
        6,
    ),
    # Operands that are broadcast along the units, from the input or from the features themselves, on either side.
    **{
        f"weighed by an input, {name}": (
            lambda combine=combine: Net(
                lambda self, x, m: self.reader(combine(self.writer(x), m)),
                writer=nn.Linear(5, 6),
                reader=nn.Linear(6, 3),
            ),
            (ROWS, ROWS[:, :1]),
            6,
        )
        for name, combine in {
            "last": lambda x, m: x * m,
            "first": lambda x, m: m * x,
            "as a condition": lambda x, m: torch.where(m > 0, x, 0.5),
            "filled": lambda x, m: x.masked_fill(m > 0, 0.5),
            "expanded": lambda x, m: x * m.expand(-1, 6),
            "expanded as the features": lambda x, m: x * m.expand_as(x),
        }.items()
    },
    "weighed by a score, last": (lambda: among(lambda s, x: x * s.score(x), score=nn.Linear(6, 1)), TOKENS, 6),
    "weighed by a score, first": (lambda: among(lambda s, x: s.score(x) * x, score=nn.Linear(6, 1)), TOKENS, 6),
    "pooled by softmax scores": (
        lambda: among(lambda s, x: (s.score(x).softmax(1) * x).sum(1), score=nn.Linear(6, 1)),
        TOKENS,
        6,
    ),
    # Linear layers over tokens (as in an MLP-mixer) move no feature: six features, or four rows, and six are more.
    "tokens mixed": (lambda: among(lambda s, x: s.mix(x.mT).mT, mix=nn.Linear(4, 4)), TOKENS, 6),
    "tokens mixed, residual": (lambda: among(lambda s, x: x + s.mix(x.mT).mT, mix=nn.Linear(4, 4)), TOKENS, 6),
    # Constant indices.
    "permuted": (lambda: between(lambda s, x: x[:, s.perm], perm=PERM), IMAGE, 6),
    "some twice, some not at all": (
        lambda: between(lambda s, x: x[:, s.at], 4, at=torch.tensor([5, 1, 1, 0])),
        IMAGE,
        6,
    ),
    "permuted residual": (
        lambda: between(lambda s, x: x + x[:, s.perm], perm=torch.tensor([1, 0, 3, 2, 5, 4])),
        IMAGE,
        3,
    ),
    "two indices": (
        lambda: between(lambda s, x: x[:, :, s.at, s.at].unsqueeze(3), at=torch.tensor([0, 7, 3])),
        IMAGE,
        6,
    ),
    "gathered": (
        lambda: between(lambda s, x: x.gather(1, s.at.expand(2, 6, 8, 8)), at=PERM.view(1, 6, 1, 1)),
        IMAGE,
        6,
    ),
    # In place.
    "relu_ and add_": (lambda: between(lambda s, x: x.relu_().add_(0.5).mul_(s.by), by=torch.zeros(6, 1, 1)), IMAGE, 6),
    "a part of the channels": (
        lambda: between(changed(add_to_a_part), beside=nn.Parameter(torch.zeros(1, 6, 1, 1))),
        IMAGE,
        6,
    ),
    # The last three channels get the first three.
    "a part of the channels to another": (lambda: between(changed(add_a_part_to_a_part)), IMAGE, 3),
    "every second channel": (lambda: between(changed(scale_every_second)), IMAGE, 6),
    "where a value says so": (lambda: between(changed(write_what_is_chosen)), IMAGE, 6),
    "an input": (
        lambda: Net(
            lambda self, x: self.reader(self.writer(x.relu_()).sigmoid_()), writer=conv(3, 6), reader=conv(6, 4)
        ),
        IMAGE,
        6,
    ),
    # Normalisation.
    "batch norm without statistics": (
        lambda: between(lambda s, x: s.norm(x), norm=nn.BatchNorm2d(6, track_running_stats=False)),
        IMAGE,
        6,
    ),
    "batch norm without parameters": (
        lambda: between(lambda s, x: s.norm(x), norm=nn.BatchNorm2d(6, affine=False)),
        IMAGE,
        6,
    ),
    "batch norm of rows": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
        ROWS,
        6,
    ),
    "batch norm of volumes": (
        lambda: nn.Sequential(nn.Conv3d(3, 6, 1), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 3, 1)),
        drawn(2, 3, 4, 4, 4),
        6,
    ),
    **{
        f"instance norm {options}": (
            lambda options=options: between(lambda s, x: s.norm(x), norm=nn.InstanceNorm2d(6, **options)),
            IMAGE,
            6,
        )
        for options in ({}, {"affine": True}, {"affine": True, "track_running_stats": True})
    },
    "group norm of pairs": (lambda: between(lambda s, x: s.norm(x), norm=nn.GroupNorm(3, 6)), IMAGE, 3),
    "layer norm over places": (lambda: between(lambda s, x: s.norm(x), norm=nn.LayerNorm(8)), IMAGE, 6),
    # Pooling and sizes.
    "pooled to 2 x 2 and flattened": (
        lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)),
        IMAGE,
        6,
    ),
    "maxima and where they are": (
        lambda: between(lambda s, x: torch.cat(F.adaptive_max_pool2d(x, 2, return_indices=True), 1), 12),
        IMAGE,
        6,
    ),
    "unflattened": (
        lambda: nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Unflatten(1, (6, 2, 2)), nn.ConvTranspose2d(6, 2, 2)),
        ROWS,
        6,
    ),
    "as large as a skip": (
        lambda: between(
            lambda s, x: x + F.interpolate(s.low(x), size=x.shape[-2:], mode="bilinear", align_corners=True),
            low=conv(6, 6, 3, stride=3),
        ),
        IMAGE,
        6,
    ),
    "unpooled": (
        lambda: between(lambda s, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
        IMAGE,
        6,
    ),
    "patches by unfold": (
        lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.Unfold(2, stride=2), nn.Conv1d(24, 3, 1)),
        IMAGE,
        6,
    ),
    # Sums over named axes.
    "einsum, a layer": (
        lambda: among(lambda s, x: torch.einsum("...d,ed->...e", x, s.w) + 1, 7, w=nn.Parameter(torch.zeros(7, 6))),
        TOKENS,
        6 + 7,
    ),
    "einsum, a scale": (
        lambda: among(lambda s, x: torch.einsum("btd,d->btd", x, s.by), by=nn.Parameter(torch.zeros(6))),
        TOKENS,
        6,
    ),
    "einsum, tokens mixed": (
        lambda: among(lambda s, x: torch.einsum("btd,ut->bud", x, s.mix), mix=nn.Parameter(torch.zeros(4, 4))),
        TOKENS,
        6,
    ),
    # A product of scores and values is an attention of one head, and a head is one unit.
    "einsum, tokens weighed": (
        lambda: among(lambda s, x: torch.einsum("bt,btd->bd", s.score(x)[..., 0].softmax(1), x), score=nn.Linear(6, 1)),
        TOKENS,
        1,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_net(name):
    build, example, units = NETS[name]
    check(build(), example, units)


ACTIVATIONS = [
    *(nn.CELU(), nn.ELU(inplace=True), nn.GELU("tanh"), nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardswish()),
    *(nn.Hardtanh(), nn.Identity(), nn.LeakyReLU(), nn.LogSigmoid(), nn.Mish(), nn.ReLU6(), nn.RReLU(), nn.SELU()),
    *(nn.SiLU(), nn.Softplus(), nn.Softshrink(), nn.Softsign(), nn.Tanhshrink(), nn.Threshold(0.1, 0.7)),
    *(nn.Softmin(3), nn.LogSoftmax(2), nn.ZeroPad2d(1), nn.ReplicationPad2d(1), nn.CircularPad2d(1), nn.LPPool2d(2, 2)),
    *(nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.UpsamplingNearest2d(scale_factor=2), nn.AdaptiveMaxPool2d(2)),
]


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_a_module_that_leaves_channels_alone(module):
    check(nn.Sequential(conv(3, 6), module, conv(6, 4, 1)), IMAGE, 6)


# What is pinned says why, and where.


def by_hand(forward):
    """Six features, ``forward`` with a weight of its own (4, 6) and a scale (1,), then four features and a reader."""
    return Net(
        lambda self, x: self.reader(F.relu(forward(self, F.relu(self.writer(x))))),
        writer=nn.Linear(5, 6),
        w=nn.Parameter(torch.zeros(4, 6)),
        scale=nn.Parameter(torch.zeros(1)),
        reader=nn.Linear(4, 3),
    )


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: F.linear(x, s.w * s.scale),
        lambda s, x: F.linear(x, s.w.tanh()),
        lambda s, x: x @ (s.w / s.w.norm(dim=1, keepdim=True)).T,
        lambda s, x: F.linear(x, torch.cat([s.w[:2], s.w[2:] * 2])),
    ],
    ids=["scaled", "squashed", "normalised", "in parts"],
)
def test_what_a_computed_weight_reads_is_pinned_and_told(forward):
    """The six units before are pinned; the four rows of the computed weight are units: its reader is plain."""
    coupling = check(by_hand(forward), TOKENS, 4)
    (pin,) = [pin for pin in coupling.pins if pin.reason == COMPUTED]
    assert pin.labels == 6


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrised_reader_is_pinned_and_told(norm):
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3))
    coupling = check(model, TOKENS, 4)
    assert [(pin.module, pin.reason, pin.labels) for pin in coupling.pins if pin.operator != "output"] == [
        ("2", COMPUTED, 6)
    ]


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrised_writer_is_no_hindrance(norm):
    coupling = check(nn.Sequential(norm(conv(3, 6)), nn.ReLU(), conv(6, 4)), IMAGE, 6)
    assert reasons(coupling) == set()


@pytest.mark.parametrize(
    ("build", "example", "name"),
    [
        (lambda: by_hand(lambda s, x: F.linear(x, s.w * s.scale)), TOKENS, "w"),
        (lambda: nn.Sequential(parametrizations.weight_norm(conv(3, 6)), nn.ReLU(), conv(6, 4)), IMAGE, "0"),
        (lambda: cross_attention(False, 12, 12, batch_first=True), (TOKENS, OTHERS), "attention.in_proj_weight"),
    ],
    ids=["by hand", "weight norm", "a part of a packed weight"],
)
def test_a_group_that_a_computed_weight_makes_is_named_by_its_parameters(build, example, name):
    coupling = edgel0.trace(build().double(), example)
    assert any(group.name.startswith(name) for group in coupling.groups)
    assert all(set(group.writers) <= set(coupling.program.state_dict) for group in coupling.groups)


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6), nn.GroupNorm(1, 6)], ids=str)
def test_statistics_across_units_pin_them(norm):
    rows = isinstance(norm, nn.GroupNorm)
    model = nn.Sequential(nn.Linear(5, 6), norm, nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    coupling = check(model, ROWS if rows else TOKENS, 8)
    assert [(pin.module, pin.reason, pin.labels) for pin in coupling.pins if pin.operator != "output"] == [
        ("1", NORMED, 6)
    ]


@pytest.mark.parametrize("middle", [nn.LocalResponseNorm(3), nn.Softmax2d()], ids=lambda m: type(m).__name__)
def test_what_mixes_channels_pins_them(middle):
    coupling = check(nn.Sequential(conv(3, 6), middle, conv(6, 5), nn.ReLU(), conv(5, 4)), IMAGE, 5)
    assert reasons(coupling)


def test_a_bilinear_layer_is_unknown_pinned_and_kept():
    model = Net(
        lambda self, x, y: self.reader(F.relu(self.both(self.a(x), self.b(y)))),
        a=nn.Linear(5, 6),
        b=nn.Linear(5, 4),
        both=nn.Bilinear(6, 4, 5),
        reader=nn.Linear(5, 3),
    )
    coupling = check(model, (ROWS, ROWS + 1), 0, unknown=("aten._trilinear.default",))
    assert {pin.module for pin in coupling.pins if pin.unknown} == {"both"}


def test_an_unknown_operator_right_at_the_input_is_told():
    model = nn.Sequential(Net(lambda self, x: torch.fft.fft(x).abs()), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    check(model, ROWS, 6, unknown=("aten._fft_r2c.default",))


def test_an_addition_to_the_input_pins_and_is_told():
    model = Net(lambda self, x: self.reader(F.relu(x + self.writer(x))), writer=nn.Linear(5, 5), reader=nn.Linear(5, 3))
    coupling = check(model, ROWS, 0)
    assert [(pin.operator, pin.labels) for pin in coupling.pins if pin.operator != "output"] == [("aten.add.Tensor", 5)]


# Frozen parameters, inputs and outputs.


@pytest.mark.parametrize("frozen", [("writer",), ("reader",), ("norm",), ("writer", "norm", "reader")], ids=" ".join)
def test_frozen_parameters(frozen):
    model = between(lambda s, x: F.relu(s.norm(x)), norm=nn.BatchNorm2d(6))
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    coupling = check(model, IMAGE, 6)
    program = edgel0.slim(model, edgel0.Masks.random(coupling)).program
    for name, parameter in program.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in frozen)


class Several(nn.Module):
    """Six channels, and whatever ``returned(self, x, y)`` makes of input and features."""

    def __init__(self, returned):
        super().__init__()
        self.writer, self.reader, self.other = conv(3, 6), conv(6, 4, 1), conv(6, 2, 1)
        self.temperature = nn.Parameter(torch.zeros(1, 2), requires_grad=False)
        self.returned = returned

    def forward(self, x):
        return self.returned(self, x, F.relu(self.writer(x)))


RETURNED = {
    "a list": lambda s, x, y: [s.reader(y), s.other(y)],
    "a dict of dicts": lambda s, x, y: {"a": {"b": s.reader(y)}, "c": [s.other(y), (s.other(y).mean((2, 3)),)]},
    "one tensor twice": lambda s, x, y: (s.reader(y),) * 2,
    "None beside a tensor": lambda s, x, y: (s.reader(y), None),
    "a number beside a tensor": lambda s, x, y: (s.reader(y), x.shape[0]),
    "the input": lambda s, x, y: (s.reader(y), x),
    "a parameter": lambda s, x, y: (s.reader(y), s.temperature),
    "what a parameter makes": lambda s, x, y: (s.reader(y), s.temperature.exp()),
    "a constant": lambda s, x, y: (s.reader(y), torch.ones(2, 3, dtype=x.dtype)),
    "a readers weight": lambda s, x, y: (s.reader(y), s.reader.weight.abs().sum()),
    "an arg-max": lambda s, x, y: (s.reader(y), s.reader(y).argmax(1)),
}


@pytest.mark.parametrize("name", RETURNED)
def test_outputs(name):
    check(Several(RETURNED[name]), IMAGE, 6)


def test_an_output_of_features_pins_them():
    check(Several(lambda s, x, y: (s.reader(y), y)), IMAGE, 0)


def test_outputs_keep_their_structure():
    model = randomise(Several(RETURNED["a dict of dicts"]))
    masks = edgel0.Masks.random(edgel0.trace(model, IMAGE))
    found = edgel0.slim(model, masks).program.module()(IMAGE)
    assert found["a"]["b"].shape == (2, 4, 8, 8)
    assert found["c"][1][0].shape == (2, 2)


def test_several_inputs_by_name_and_by_place():
    """Three inputs, one of them an integer index and one a mask; both writers' features are added: one set of six."""

    def forward(self, image, label, mask=None):
        y = self.writer(image) + self.table(label)[:, :, None, None]
        return self.reader(F.relu(y.masked_fill(mask, 0.2)))

    model = Net(forward, writer=conv(3, 6), table=nn.Embedding(9, 6), reader=conv(6, 4))
    label, mask = torch.tensor([1, 5]), drawn(2, 1, 8, 8) > 0
    check(model, (IMAGE, label, mask), 6)
    named = {"image": IMAGE, "label": label, "mask": mask}
    coupling = check(model, named, 6)
    assert len(outputs(edgel0.slim(model, edgel0.Masks.random(coupling)).program.module(), named)) == 1
