"""One case per row of FLOW: units by hand, masked == slim, and what closed units compute reaches nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import check
from torch import nn

from edgel0.flow import FLOW
from edgel0.types import Coupling

aten = torch.ops.aten

# The cases: writer -> operator -> reader.


class Between(nn.Module):
    """Run an operator between writers and a reader; ``wide`` is what the reader gets."""

    def __init__(
        self, operator: Callable[..., Any], make: Callable[[], nn.Module], reader: nn.Module, writers: int
    ) -> None:
        super().__init__()
        self.operator, self.reader = operator, reader
        self.writers = nn.ModuleList(make() for _ in range(writers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reader(self.operator(*(writer(x) for writer in self.writers)))


@dataclass(frozen=True)
class Case:
    """``kind`` is the template: image (batch, 6, 8, 8), tokens (batch, 4, 6), or signal and volume alike."""

    operator: Callable[..., Any]
    units: int = 6
    wide: int = 6
    kind: str = "image"
    writers: int = 1


EXAMPLES = {"image": (2, 3, 8, 8), "tokens": (2, 4, 5), "signal": (2, 3, 8), "volume": (2, 3, 4, 4, 4), "rows": (4, 5)}
CONVOLUTIONS = {"image": nn.Conv2d, "signal": nn.Conv1d, "volume": nn.Conv3d}


def build(case: Case) -> nn.Module:
    if case.kind in CONVOLUTIONS:
        convolution = CONVOLUTIONS[case.kind]
        return Between(
            case.operator, lambda: convolution(3, 6, 3, padding=1), convolution(case.wide, 4, 1), case.writers
        )
    return Between(case.operator, lambda: nn.Linear(5, 6), nn.Linear(case.wide, 3), case.writers)


def unit_interval(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x) * 0.8 + 0.1


def on_interval(function: Callable[..., Any]) -> Case:
    return Case(lambda x: function(unit_interval(x)))


def pair(function: Callable[..., Any]) -> Case:
    return Case(lambda x, y: function(unit_interval(x), unit_interval(y)).to(x.dtype), writers=2)


def test_of(function: Callable[..., Any]) -> Case:
    return Case(lambda x: x * function(x).to(x.dtype))


def tokens(function: Callable[..., Any], units: int = 6, wide: int = 6, writers: int = 1) -> Case:
    return Case(function, units, wide, "tokens", writers)


test_of.__test__ = False  # type: ignore[attr-defined]


def masked_with(function: Callable[..., Any]) -> Case:
    return Case(lambda x, y: x + 2 * function(x > 0, y > 0).to(x.dtype), writers=2)


def buffered_norm(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, :, 0] = 0  # a write through a view decomposes the whole graph
    return F.batch_norm(x, torch.zeros(6).double(), torch.ones(6).double())


def written(function: Callable[..., Any]) -> Callable[..., Any]:
    def operator(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, :, 0] = 0
        return function(x)

    return operator


def written_where(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[x < 0] = 0.7
    return x


def after(function: Callable[..., Any], first: Callable[..., Any], plus: float = 0) -> Callable[..., Any]:
    return lambda x: plus + function(first(x)).to(x.dtype)


def reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def operator(x: torch.Tensor) -> torch.Tensor:
        result = function(x, dim=3, keepdim=True)
        return x + (result if isinstance(result, torch.Tensor) else result[0]).to(x.dtype)

    return operator


def pooled(function: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    return function(x, 2)


CASES: dict[str, Case] = {
    # Element by element.
    **{
        name: on_interval(getattr(torch, name))
        for name in [
            "acos",
            "acosh",
            "asin",
            "asinh",
            "atan",
            "atanh",
            "cos",
            "cosh",
            "erf",
            "erfc",
            "exp",
            "exp2",
            "expm1",
            "log",
            "log10",
            "log1p",
            "log2",
            "logit",
            "reciprocal",
            "rsqrt",
            "sin",
            "sinh",
            "sqrt",
            "square",
            "tan",
            "tanh",
            "sigmoid",
            "frac",
        ]
    },
    "acosh": on_interval(lambda x: torch.acosh(1 + x)),
    **{
        name: Case(getattr(torch, name))
        for name in ["abs", "clone", "detach", "neg", "positive", "relu", "selu", "nan_to_num"]
    },
    **{
        name: Case(getattr(F, name))
        for name in [
            "celu",
            "elu",
            "gelu",
            "hardshrink",
            "hardsigmoid",
            "hardswish",
            "hardtanh",
            "leaky_relu",
            "mish",
            "relu6",
            "silu",
            "softplus",
            "softshrink",
        ]
    },
    **{
        name: Case(after(getattr(torch, name), lambda x: 3 * x)) for name in ["ceil", "floor", "round", "sign", "trunc"]
    },
    "isfinite": test_of(torch.isfinite),
    "logical_not": test_of(lambda x: torch.logical_not(x > 0)),
    **{name: test_of(after(getattr(torch, name), lambda x: x / 0, 1)) for name in ["isinf", "isnan"]},
    "alias": Case(lambda x: torch.ops.aten.alias(x)),
    "bitwise_not": test_of(lambda x: torch.bitwise_not(x > 0)),
    "clamp": Case(lambda x: torch.clamp(x, -0.3, 0.5)),
    "clamp_max": Case(lambda x: torch.clamp_max(x, 0.2)),
    "clamp_min": Case(lambda x: torch.clamp_min(x, 0.2)),
    "clip": Case(lambda x: torch.clip(x, -0.1, 0.4)),
    "contiguous": Case(lambda x: x.transpose(2, 3).contiguous()),
    "copy": Case(lambda x: torch.empty_like(x).copy_(x)),
    "fill": Case(lambda x: x + torch.empty_like(x).fill_(0.5) * x + x.abs().fill_(2.0)),
    "dropout": Case(lambda x: F.dropout(x, 0.5, training=False)),
    "alpha_dropout": Case(lambda x: F.alpha_dropout(x, 0.5, training=False)),
    "feature_alpha_dropout": Case(lambda x: F.feature_alpha_dropout(x, 0.5, training=False)),
    "feature_dropout": Case(lambda x: F.dropout2d(x, 0.5, training=False)),
    "rrelu": Case(lambda x: F.rrelu(x, training=False)),
    "log_sigmoid": Case(F.logsigmoid),
    "threshold": Case(lambda x: F.threshold(x, 0.1, 0.7)),
    "to": Case(lambda x: x.to(torch.float32).to(torch.float64) + x.to(torch.float64)),
    "_to_copy": Case(written(lambda x: x * (x > 0).to(torch.float64))),
    **{
        name: pair(getattr(torch, name))
        for name in [
            "add",
            "atan2",
            "div",
            "divide",
            "floor_divide",
            "float_power",
            "fmax",
            "fmin",
            "fmod",
            "ge",
            "gt",
            "hypot",
            "le",
            "logaddexp",
            "lt",
            "maximum",
            "minimum",
            "mul",
            "multiply",
            "ne",
            "pow",
            "remainder",
            "rsub",
            "sub",
            "subtract",
            "true_divide",
            "xlogy",
        ]
    },
    "eq": pair(lambda x, y: x + torch.eq(torch.round(4 * x), torch.round(4 * y))),
    "max.other": pair(lambda x, y: torch.max(x, y)),
    "min.other": pair(lambda x, y: torch.min(x, y)),
    "lerp": pair(lambda x, y: torch.lerp(x, y, 0.3)),
    "addcdiv": pair(lambda x, y: torch.addcdiv(x, x, y)),
    "addcmul": pair(lambda x, y: torch.addcmul(x, x, y, value=0.5)),
    "where": pair(lambda x, y: torch.where(x > y, x, 2 * y)),
    "masked_fill": pair(lambda x, y: x.masked_fill(x > y, 0.7)),
    "bitwise_and": masked_with(torch.bitwise_and),
    "bitwise_or": masked_with(torch.bitwise_or),
    "logical_and": masked_with(torch.logical_and),
    "logical_or": masked_with(torch.logical_or),
    "logical_xor": masked_with(torch.logical_xor),
    # Shapes.
    "flatten": Case(lambda x: x.flatten(2), kind="signal"),
    "reshape": Case(lambda x: x.reshape(2, 6, 4, 16)),
    "view": Case(lambda x: x.view(2, 6, 64).view(2, 6, 8, 8)),
    "_unsafe_view": tokens(written(lambda x: x.transpose(1, 2).reshape(2, 24).view(2, 6, 4).transpose(1, 2))),
    "squeeze": Case(lambda x: x[:, :, :1].squeeze(2).unsqueeze(3)),
    "unsqueeze": Case(lambda x: x.unsqueeze(2).squeeze(2)),
    "unflatten": Case(lambda x: x.unflatten(2, (2, 4)).flatten(2, 3)),
    "expand": Case(lambda x: x[:, :, :1].expand(2, 6, 5, 8)),
    "broadcast_to": Case(lambda x: x[:, :, :1].broadcast_to(2, 6, 5, 8)),
    # Moving data.
    "channel_shuffle": Case(lambda x: F.channel_shuffle(x, 2)),
    "chunk": Case(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "unsafe_chunk": Case(lambda x: torch.cat(x.unsafe_chunk(2, 1)[::-1], 1)),
    "split": Case(lambda x: torch.cat(x.split(2, 1)[::-1], 1)),
    "unsafe_split": Case(lambda x: torch.cat(x.unsafe_split(2, 1)[::-1], 1)),
    "split_with_sizes": Case(lambda x: torch.cat(x.split_with_sizes([1, 3, 2], 1)[::-1], 1)),
    "tensor_split": Case(lambda x: torch.cat(x.tensor_split(3, 1)[::-1], 1)),
    "unbind": Case(lambda x: torch.stack(x.unbind(1)[::-1], 1)),
    "diagonal": tokens(lambda x: x.unsqueeze(1).expand(2, 4, 4, 6).diagonal(0, 1, 2).transpose(1, 2)),
    "flip": Case(lambda x: x.flip(1)),
    "movedim": Case(lambda x: torch.movedim(x, 1, 3).movedim(3, 1)),
    "moveaxis": Case(lambda x: torch.moveaxis(x, 1, 3).moveaxis(3, 1)),
    "narrow": Case(lambda x: x.narrow(1, 1, 4), wide=4),
    "permute": Case(lambda x: x.permute(0, 1, 3, 2)),
    "pixel_unshuffle": Case(lambda x: F.pixel_unshuffle(x, 2), wide=24),
    "repeat": Case(lambda x: x.repeat(1, 2, 1, 1), wide=12),
    "repeat_interleave": Case(lambda x: x.repeat_interleave(2, 1), wide=12),
    "tile": Case(lambda x: x.tile(1, 2, 1, 1), wide=12),
    "roll": Case(lambda x: x.roll(2, 1)),
    "rot90": Case(lambda x: torch.rot90(x, 1, (2, 3))),
    "select": Case(lambda x: x * x.select(1, 2).unsqueeze(1), units=5),
    "slice": Case(lambda x: x[:, 1:5], wide=4),
    "swapaxes": Case(lambda x: x.swapaxes(2, 3)),
    "swapdims": Case(lambda x: x.swapdims(2, 3)),
    "transpose": Case(lambda x: x.transpose(2, 3)),
    "mT": Case(lambda x: x.mT),
    "numpy_T": Case(lambda x: (2 * x.T).T, kind="rows"),
    "t": Case(lambda x: torch.t(2 * torch.t(x)), kind="rows"),
    "unfold": Case(lambda x: x.unfold(2, 3, 2).sum(-1)),
    "index": Case(lambda x: x[:, [0, 2, 4, 5, 3, 1]]),
    "gather": Case(lambda x: x.gather(1, torch.tensor([3, 1, 0]).view(1, 3, 1, 1).expand(2, 3, 8, 8)), wide=3),
    "take_along_dim": Case(lambda x: torch.take_along_dim(x, torch.tensor([3, 1, 0]).view(1, 3, 1, 1), 1), wide=3),
    "index_put": Case(written_where),
    "im2col": Case(lambda x: F.unfold(x, 3, padding=1).unflatten(2, (8, 8)), wide=54),
    "col2im": Case(lambda x: F.fold(F.unfold(x, 2, stride=2).sin(), (8, 8), 2, stride=2)),
    "max_unpool2d": Case(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "max_pool3d_with_indices": Case(lambda x: F.max_pool3d(x, 2, return_indices=True)[0], kind="volume"),
    "max_unpool3d": Case(lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), kind="volume"),
    "index_select": Case(lambda x: x.index_select(1, torch.tensor([3, 1, 0])), wide=3),
    "cat": Case(lambda x, y: torch.cat([x, y], 1), units=12, wide=12, writers=2),
    "concat": Case(lambda x, y: torch.concat([x, y], 1), units=12, wide=12, writers=2),
    "concatenate": Case(lambda x, y: torch.concatenate([x, y], 1), units=12, wide=12, writers=2),
    "stack": Case(lambda x, y: torch.stack([x, y], 2).sum(2), writers=2),
    "pad": Case(lambda x: F.pad(x, (1, 2, 0, 1))),
    "constant_pad_nd": Case(lambda x: torch.constant_pad_nd(x, (1, 0), 0.5)),
    "glu": Case(lambda x: F.glu(x, 1), units=3, wide=3),
    "tril": tokens(lambda x: torch.tril(x.transpose(1, 2).unsqueeze(3).expand(2, 6, 4, 4)).sum(3).transpose(1, 2)),
    "triu": tokens(lambda x: torch.triu(x.transpose(1, 2).unsqueeze(3).expand(2, 6, 4, 4)).sum(3).transpose(1, 2)),
    # Reductions and normalisation over other axes.
    **{
        name: Case(reduced(getattr(torch, name)))
        for name in ["amax", "amin", "argmax", "argmin", "logsumexp", "mean", "prod", "std", "sum", "var"]
    },
    **{name: Case(reduced(getattr(torch, name))) for name in ["max", "median", "min", "std_mean", "var_mean"]},
    "all": Case(lambda x: x + torch.all(x > -1, dim=3, keepdim=True).to(x.dtype)),
    "any": Case(lambda x: x + torch.any(x > 0.9, dim=3, keepdim=True).to(x.dtype)),
    "count_nonzero": Case(lambda x: x + torch.count_nonzero(x > 0, dim=3).unsqueeze(3).to(x.dtype)),
    "linalg_norm": Case(lambda x: x + torch.linalg.norm(x, dim=3, keepdim=True)),
    "linalg_vector_norm": Case(lambda x: F.normalize(x, dim=3)),
    "softmax": Case(lambda x: torch.softmax(x, 3)),
    "log_softmax": Case(lambda x: torch.log_softmax(x, 3)),
    "cumsum": Case(lambda x: torch.cumsum(x, 3)),
    "cumprod": Case(lambda x: torch.cumprod(x, 3)),
    "sort": Case(lambda x: torch.sort(x, 3)[0]),
    "argsort": Case(lambda x: torch.argsort(x, 3).to(x.dtype)),
    "topk": Case(lambda x: torch.topk(x, 3, 2)[0]),
    # Pooling and resizing.
    **{
        f"{kind}_pool{n}d": Case(
            partial(pooled, getattr(F, f"{kind}_pool{n}d")), kind={1: "signal", 2: "image", 3: "volume"}[n]
        )
        for kind in ("avg", "max", "adaptive_avg", "adaptive_max")
        for n in (1, 2, 3)
    },
    "max_pool2d_with_indices": Case(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    **{
        f"upsample_{mode}{n}d": Case(
            lambda x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode),
            kind={1: "signal", 2: "image", 3: "volume"}[n],
        )
        for mode, n in (
            ("nearest", 1),
            ("nearest", 2),
            ("nearest", 3),
            ("linear", 1),
            ("bilinear", 2),
            ("bicubic", 2),
            ("trilinear", 3),
        )
    },
    "_upsample_nearest_exact2d": Case(lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact")),
}


def parameters(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


class Holding(nn.Module):
    """Between writer and reader, with parameters of its own."""

    def __init__(
        self, function: Callable[..., Any], writer: nn.Module, reader: nn.Module, *shapes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.function, self.writer, self.reader = function, writer, reader
        self.held = nn.ParameterList(parameters(*shape) for shape in shapes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reader(self.function(self.writer(x), *self.held))


def image(function: Callable[..., Any], *shapes: tuple[int, ...], wide: int = 6) -> nn.Module:
    return Holding(function, nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(wide, 4, 1), *shapes)


def line(function: Callable[..., Any], *shapes: tuple[int, ...], wide: int = 6) -> nn.Module:
    return Holding(function, nn.Linear(5, 6), nn.Linear(wide, 3), *shapes)


def convolving(n: int, transposed: bool = False) -> tuple[nn.Module, str, int]:
    kind = {1: "signal", 2: "image", 3: "volume"}[n]
    middle = getattr(nn, f"ConvTranspose{n}d" if transposed else f"Conv{n}d")(6, 8, 2)
    convolution = CONVOLUTIONS[kind]
    return nn.Sequential(convolution(3, 6, 1), middle, nn.ReLU(), convolution(8, 4, 1)), kind, 14


class Attention(nn.Module):
    """Three heads of width four, then a projection."""

    def __init__(self, product: Callable[..., Any]) -> None:
        super().__init__()
        self.product = product
        self.query, self.key, self.value = (nn.Linear(5, 12) for _ in range(3))
        self.out = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [each(x).view(2, 4, 3, 4).transpose(1, 2) for each in (self.query, self.key, self.value)]
        return self.out(self.product(*heads).transpose(1, 2).flatten(2))


def by_matmul(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-2, -1)) / 2, -1), v)


def by_bmm(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (t.reshape(6, 4, 4) for t in (q, k, v))
    return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(-2, -1)) / 2, -1), v).view(2, 3, 4, 4)


class Written(nn.Module):
    """A part of one writer's output is overwritten by another's."""

    def __init__(self, write: Callable[..., Any], channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(3, channels, 1)
        self.reader, self.write = nn.Conv2d(6, 4, 1), write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = self.first(x)
        self.write(base, self.second(x))
        return self.reader(base)


def write_slice(base: torch.Tensor, part: torch.Tensor) -> None:
    base[:, 1:4] = part


def write_index(base: torch.Tensor, part: torch.Tensor) -> None:
    base[:, 2] = part[:, 0]


class Words(nn.Module):
    def __init__(self, table: nn.Module | None = None) -> None:
        super().__init__()
        self.table, self.reader = table or nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reader(self.table(x))


class Recurrent(nn.Module):
    """Two layers, both directions, between a linear layer and a reader of the whole output."""

    def __init__(self, layer: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.before = nn.Linear(5, 6)
        self.layer = layer(6, 7, num_layers=2, bidirectional=True, batch_first=True, **options)
        self.reader, self.last = nn.Linear(14, 3), nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, state = self.layer(torch.tanh(self.before(x)))
        return self.reader(output), self.last(state[0] if isinstance(state, tuple) else state)


NETS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "conv1d": (lambda: convolving(1)[0], "signal", 14),
    "conv2d": (lambda: convolving(2)[0], "image", 14),
    "conv3d": (lambda: convolving(3)[0], "volume", 14),
    "conv_transpose1d": (lambda: convolving(1, True)[0], "signal", 14),
    "conv_transpose2d": (lambda: convolving(2, True)[0], "image", 14),
    "conv_transpose3d": (lambda: convolving(3, True)[0], "volume", 14),
    "convolution": (
        lambda: image(
            lambda x, w: torch.convolution(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 6), (6, 1, 3, 3)
        ),
        "image",
        6,
    ),
    "linear": (lambda: line(lambda x, w, b: F.linear(x, w, b), (7, 6), (7,), wide=7), "tokens", 13),
    "embedding": (Words, torch.tensor([[1, 4, 2], [7, 0, 8]]), 6),
    "embedding_bag": (lambda: Words(nn.EmbeddingBag(9, 6, mode="max")), torch.tensor([[1, 4, 2], [7, 0, 8]]), 6),
    "mm": (lambda: line(lambda x, w: torch.mm(x, w), (6, 7), wide=7), "rows", 13),
    "addmm": (lambda: line(lambda x, w, b: torch.addmm(b, x, w), (6, 7), (7,), wide=7), "rows", 13),
    "baddbmm": (lambda: line(lambda x: torch.baddbmm(x, x @ x.mT, x)), "tokens", 1),
    "matmul": (lambda: Attention(by_matmul), "tokens", 3),
    "bmm": (lambda: Attention(by_bmm), "tokens", 3),
    "scaled_dot_product_attention": (lambda: Attention(F.scaled_dot_product_attention), "tokens", 3),
    "lstm.input": (lambda: Recurrent(nn.LSTM), "tokens", 13),
    "gru.input": (lambda: Recurrent(nn.GRU), "tokens", 13),
    "rnn_tanh.input": (lambda: Recurrent(nn.RNN), "tokens", 13),
    "rnn_relu.input": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), "tokens", 13),
    "batch_norm": (
        lambda: Holding(lambda x: x, nn.Conv2d(3, 6, 1), nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))),
        "image",
        6,
    ),
    "_native_batch_norm_legit_no_training": (
        lambda: Holding(written(torch.abs), nn.Conv2d(3, 6, 1), nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))),
        "image",
        6,
    ),
    "_native_batch_norm_legit.no_stats": (
        lambda: Holding(
            written(torch.abs),
            nn.Conv2d(3, 6, 1),
            nn.Sequential(nn.BatchNorm2d(6, track_running_stats=False), nn.Conv2d(6, 4, 1)),
        ),
        "image",
        6,
    ),
    "prelu": (lambda: image(lambda x, w: F.prelu(x, w), (6,)), "image", 6),
    "instance_norm": (lambda: image(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), (6,), (6,)), "image", 6),
    "group_norm": (lambda: image(lambda x, w, b: F.group_norm(x, 3, w, b), (6,), (6,)), "image", 3),
    "layer_norm": (lambda: image(lambda x, w, b: F.layer_norm(x, (8, 8), w, b), (8, 8), (8, 8)), "image", 6),
    "native_layer_norm": (
        lambda: image(lambda x, w, b: torch.native_layer_norm(x, (8, 8), w, b, 1e-5)[0], (8, 8), (8, 8)),
        "image",
        6,
    ),
    "rms_norm": (lambda: image(lambda x, w: F.rms_norm(x, (8, 8), w), (8, 8)), "image", 6),
    "pixel_shuffle": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 4, 1)), "image", 2),
    "slice_scatter": (lambda: Written(write_slice, 3), "image", 6),
    "select_scatter": (lambda: Written(write_index, 1), "image", 6),
}


def row_of(name: str) -> Any:
    packet, _, overload = name.partition(".")
    found = getattr(aten, packet)
    return getattr(found, overload) if overload else found


def operators(coupling: Coupling) -> set[Any]:
    targets = {node.target for node in coupling.program.graph.nodes if node.op == "call_function"}
    return targets | {getattr(target, "overloadpacket", None) for target in targets}


@pytest.mark.parametrize("name", [*CASES, *NETS])
def test_row(name):
    torch.manual_seed(0)
    if name in CASES:
        case = CASES[name]
        model, example, units = build(case), torch.randn(EXAMPLES[case.kind]).double(), case.units
    else:
        make, kind, units = NETS[name]
        model, example = make(), kind if isinstance(kind, torch.Tensor) else torch.randn(EXAMPLES[kind]).double()
    coupling = check(model, example, units)
    assert row_of(name) in operators(coupling)


def test_bits_seen_as_another_type_are_pinned_and_told():
    case = Case(lambda x: x.view(torch.int32).view(torch.float64))
    check(build(case), torch.randn(EXAMPLES["image"]).double(), 0, unknown=("aten.view.dtype",))


def test_each_row_has_a_case_and_each_case_a_row():
    assert set(FLOW) == {row_of(name) for name in [*CASES, *NETS, "view.dtype"]}
