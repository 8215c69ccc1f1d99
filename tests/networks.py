"""Random networks, made by one source of choices: hypothesis draws them in the tests, a seeded generator in the soak.

A *place* is where a network has come to: the shape of its tensor and the axis along which its units lie. A *block* is a
row of ``BLOCKS``: where it fits, and a function that makes a step from choices and a place. What comes after a step is
seen by running it on zeros, so a block says nothing of the shape that it makes, unless units lie elsewhere afterwards.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from oracle import TOLERANCE, difference, outputs, randomise, run_noted, scrambled
from torch import nn

from edgel0.attaching import attach
from edgel0.cost import cost_of, program_cost, weights
from edgel0.errors import SlimError
from edgel0.masks import masked, stabilize
from edgel0.reaching import connected, fates
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Coupling, Masks

WIDEST, LARGEST, DEEPEST = 16, 2048, 2  # channels, elements of an activation, blocks inside of blocks
EXPECTED = (  # what torch itself warns of
    "LSTM with projections is not supported with oneDNN",
    "Using padding='same' with even kernel lengths",
)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Pick:
    """The source of choices: ``integer(low, high)``, both included. What is offered first is the simplest."""

    def __init__(self, integer: Callable[[int, int], int]):
        self.integer, self.depth = integer, 0

    def choose(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def sometimes(self, of: int = 3) -> bool:
        """True once in ``of`` times."""
        return self.integer(0, of - 1) == of - 1

    def wide(self) -> int:
        return self.integer(2, 8)

    def order(self, count: int) -> list[int]:
        """A permutation of ``range(count)``."""
        left = list(range(count))
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(count)]

    def divisor(self, *numbers: int) -> int:
        """A number that divides all of these."""
        return self.choose([n for n in range(1, min(numbers) + 1) if not any(number % n for number in numbers)])

    def cuts(self, size: int) -> list[int]:
        """Sizes of two or three uneven pieces (one, where there is nothing to cut)."""
        sizes = []
        while len(sizes) < 2 and size > 1:
            sizes.append(self.integer(1, size - 1))
            size -= sizes[-1]
        return [*sizes, size]


@dataclass(frozen=True)
class Place:
    """Where a network has come to; axis 0 is the batch."""

    shape: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def space(self) -> tuple[int, ...]:
        """Sizes of what is neither batch nor units."""
        return tuple(size for i, size in enumerate(self.shape) if i not in (0, self.axis))

    def along(self, size: int | None = None) -> tuple[int, ...]:
        """The shape of a parameter that lies along the units."""
        return (size or self.channels, *(1,) * (self.rank - 1 - self.axis))

    def around(self) -> tuple[int, ...]:
        """The free axes."""
        return tuple(i for i in range(1, self.rank) if i != self.axis)


def anywhere(at: Place) -> bool:
    return True


def maps(at: Place) -> bool:
    return at.axis == 1 and at.rank > 2


def images(at: Place) -> bool:
    return at.axis == 1 and at.rank == 4


def tokens(at: Place) -> bool:
    return at.axis == 2 and at.rank == 3


def last(at: Place) -> bool:
    return at.axis == at.rank - 1


def rows(at: Place) -> bool:
    return at.rank == 2


def second(at: Place) -> bool:
    return at.axis == 1


def spacious(at: Place) -> bool:
    return maps(at) and min(at.space) > 1


def even(fits: Callable[[Place], bool], by: int = 2) -> Callable[[Place], bool]:
    return lambda at: fits(at) and at.channels % by == 0


class Step(nn.Module):
    """``run(self, x)`` with the modules, parameters and buffers that it holds; ``axis``: where units lie afterwards."""

    def __init__(self, run: Callable[..., Any], axis: int | None = None, **held: Any):
        super().__init__()
        self.run, self.axis, self.name = run, axis, ""
        for name, each in held.items():
            if isinstance(each, torch.Tensor) and not isinstance(each, nn.Parameter):
                self.register_buffer(name, each)
            else:
                setattr(self, name, each)

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return self.run(self, *x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def after(step: Step, at: Place) -> Place:
    """Where a step leads."""
    with torch.no_grad():
        shape = step.eval()(torch.zeros(at.shape)).shape
    return Place(tuple(shape), at.axis if step.axis is None else step.axis)


def told(module: nn.Module) -> str:
    """The names of the blocks that a network is made of."""
    inner = ", ".join(filter(None, map(told, module.children())))
    name = getattr(module, "name", "")
    return f"{name}({inner})" if name and inner else name or inner


# Layers.


def pointwise(pick: Pick, at: Place, wide: int) -> nn.Module:
    """A layer that reads all units of a place and writes ``wide``."""
    bias = not pick.sometimes(4)
    if last(at):
        return nn.Linear(at.channels, wide, bias)
    return CONVOLUTIONS[at.rank - 3](at.channels, wide, 1, bias=bias)


def layer(pick, at):
    return Step(lambda s, x: s.inner(x), inner=pointwise(pick, at, pick.wide()))


def convolution(pick, at):
    kernel = pick.choose([3, 1, 2])
    dilation = pick.choose([1, 1, 2])
    reach = dilation * (kernel - 1)
    modes = ["zeros", "replicate", *(["reflect", "circular"] if min(at.space) > reach else [])]
    padding = pick.choose([reach // 2, "same", *([0] if min(at.space) > reach else [])])
    if padding != "same" and min(at.space) + 2 * padding <= reach:
        padding = reach
    groups = pick.divisor(at.channels)
    return Step(
        lambda s, x: s.inner(x),
        inner=CONVOLUTIONS[at.rank - 3](
            at.channels,
            groups * pick.integer(1, max(8 // groups, 1)),
            kernel,
            stride=1 if padding == "same" else pick.choose([1, 1, 2]),
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=not pick.sometimes(),
            padding_mode=pick.choose(modes),
        ),
    )


def depthwise(pick, at):
    made = at.channels * pick.choose([1, 1, 2])
    kernel = CONVOLUTIONS[at.rank - 3](
        at.channels, made, 3, padding=1, groups=at.channels, bias=not pick.sometimes(), stride=pick.choose([1, 1, 2])
    )
    return Step(lambda s, x: s.inner(x), inner=kernel)


def transposed(pick, at):
    groups = pick.choose([pick.divisor(at.channels), at.channels])
    stride = pick.choose([1, 2])
    return Step(
        lambda s, x: s.inner(x),
        inner=TRANSPOSED[at.rank - 3](
            at.channels,
            groups * pick.integer(1, max(8 // groups, 1)),
            pick.choose([1, 2, 3]) if stride == 1 else 2,
            stride=stride,
            groups=groups,
            bias=not pick.sometimes(),
            output_padding=pick.integer(0, stride - 1),
        ),
    )


def computed_kernel(pick, at):
    """A weight that is computed: no gate can stand on it."""
    runs = [
        lambda s, x: F.conv2d(x, s.by[:, :, None, None] / s.by.norm()),
        lambda s, x: F.conv2d(x, (s.by - s.by.mean(1, keepdim=True))[:, :, None, None], s.offset),
        lambda s, x: F.conv2d(x, s.by[:, :, None, None], s.offset),
        lambda s, x: F.conv2d(x, s.by.t()[:, :, None, None].contiguous()),
    ]
    run = pick.choose(runs)
    wide = at.channels if run is runs[3] else pick.wide()
    return Step(run, by=parameter(wide, at.channels), offset=parameter(wide))


def matrix(pick, at):
    """A parameter as a matrix, from the right or from the left, plain or with an addend."""
    wide = pick.wide()
    if last(at):
        runs = [
            lambda s, x: x @ s.by,
            lambda s, x: torch.matmul(x, s.by) + s.offset,
            lambda s, x: F.linear(x, s.by.mT, s.offset),
            lambda s, x: torch.addmm(s.offset, x.reshape(-1, x.shape[-1]), s.by).reshape(*x.shape[:-1], -1),
            lambda s, x: torch.einsum("...c,cd->...d", x, s.by),
            lambda s, x: (s.by.mT @ x.mT).mT if x.dim() > 2 else x @ s.by,
        ]
        return Step(pick.choose(runs), by=parameter(at.channels, wide), offset=parameter(wide))
    space = at.space
    runs = [
        lambda s, x: (s.by @ x.flatten(2)).unflatten(2, space),
        lambda s, x: torch.einsum("bcx,dc->bdx", x.flatten(2), s.by).unflatten(2, space),
        lambda s, x: torch.tensordot(x, s.by, ([1], [1])).movedim(-1, 1),
        lambda s, x: (x.movedim(1, -1) @ s.by.t()).movedim(-1, 1),
    ]
    return Step(pick.choose(runs), by=parameter(wide, at.channels))


def tied(pick, at):
    """One layer, used twice."""
    between = pick.choose([torch.relu, torch.sigmoid, lambda x: x])
    inner = pointwise(pick, at, at.channels)
    return Step(lambda s, x: s.inner(between(s.inner(x))), inner=inner)


def bottleneck(pick, at):
    """A small perceptron, back to as many channels."""
    wide, bend = pick.wide(), pick.choose(ACTIVATIONS)
    inner = Place(tuple(wide if i == at.axis else size for i, size in enumerate(at.shape)), at.axis)
    down, up = pointwise(pick, at, wide), pointwise(pick, inner, at.channels)
    return Step(lambda s, x: x + s.up(bend(s.down(x))), down=down, up=up)


def mixing(pick, at):
    """A perceptron along a free axis, as MLP-Mixer has it."""
    axis = pick.choose(at.around())
    size = at.shape[axis]
    made = nn.Linear(size, pick.choose([size, pick.wide()]))
    return Step(lambda s, x: s.inner(x.transpose(axis, -1)).transpose(axis, -1), inner=made)


# Normalisation.


def batch_norm(pick, at):
    norm = BATCH_NORMS[max(at.rank - 3, 0)](at.channels, affine=not pick.sometimes())
    return Step(lambda s, x: s.inner(x), inner=norm)


def instance_norm(pick, at):
    norm = INSTANCE_NORMS[at.rank - 3](at.channels, affine=pick.sometimes(2), track_running_stats=pick.sometimes())
    return Step(lambda s, x: s.inner(x), inner=norm)


def group_norm(pick, at):
    return Step(lambda s, x: s.inner(x), inner=nn.GroupNorm(pick.divisor(at.channels), at.channels))


def layer_norm(pick, at):
    """Over the last axes: over units in tokens, over space in maps."""
    shape = at.shape[pick.integer(1, at.rank - 1) :]
    norm = pick.choose([nn.LayerNorm, nn.RMSNorm])
    return Step(lambda s, x: s.inner(x), inner=norm(shape, eps=1e-3, elementwise_affine=not pick.sometimes(4)))


def channels_last_norm(pick, at):
    return Step(lambda s, x: s.inner(x.movedim(1, -1)).movedim(-1, 1), inner=nn.LayerNorm(at.channels, eps=1e-3))


def by_length(pick, at):
    axes = pick.choose([pick.choose(range(1, at.rank)), at.around() or at.axis])
    runs = [
        lambda s, x: F.normalize(x, dim=axes, eps=0.1),
        lambda s, x: x / (1 + x.square().mean(axes, keepdim=True).sqrt()),
    ]
    return Step(pick.choose(runs))


# Element by element.

ACTIVATIONS = [
    *(torch.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardtanh, F.selu, F.celu),
    *(torch.tanh, torch.abs, torch.sin, F.softsign, torch.square, F.tanhshrink, torch.nan_to_num, torch.clone),
    # From here on nothing stays zero.
    *(torch.sigmoid, F.hardsigmoid, F.softplus, torch.cos, F.logsigmoid),
    lambda x: x.clamp(-2, 2).exp(),
    lambda x: x + 0.5,
    lambda x: 1 - x,
    lambda x: 1 / (1 + x * x),
    lambda x: torch.sqrt(x.abs() + 0.1),
    lambda x: torch.log1p(x.abs()) + 0.3,
    lambda x: x.clamp_min(0.2),
    lambda x: F.threshold(x, 0.1, 0.1),
    lambda x: F.dropout(x, 0.5, training=False) + torch.ones_like(x),
    lambda x: torch.full_like(x, 0.3) - x,
]
IN_PLACE = [
    lambda x: x.relu_(),
    lambda x: x.add_(1).mul_(0.5),
    lambda x: F.silu(x, inplace=True),
    lambda x: x.clamp_(-1, 1).sigmoid_(),
    lambda x: x.sub_(x.detach().mean(0, keepdim=True)),
]


def activation(pick, at):
    function = pick.choose(ACTIVATIONS)
    return Step(lambda s, x: function(x))


def in_place(pick, at):
    function = pick.choose(IN_PLACE)
    return Step(lambda s, x: function(x.clone()))


def in_place_on_a_view(pick, at):
    axis, half, function = at.axis, at.channels // 2, pick.choose(IN_PLACE[:4])

    def run(s, x):
        x = x.clone()
        function(x.narrow(axis, 0, half))
        return x

    return Step(run)


def prelu(pick, at):
    return Step(lambda s, x: s.inner(x), inner=nn.PReLU(pick.choose([at.channels, 1])))


PARAMETRIC = [
    lambda x, by: x + by,
    lambda x, by: x * by,
    lambda x, by: x - torch.sigmoid(by),
    lambda x, by: by.clamp(-1, 1).exp() * x,
    lambda x, by: torch.maximum(x, by),
    lambda x, by: x / (1 + by * by),
    lambda x, by: torch.lerp(x, by.expand_as(x), 0.3),
    lambda x, by: torch.where(by > 0, x, 0.2),
]


def shift(pick, at):
    """A parameter or buffer of any shape that broadcasts, along units or not."""
    function = pick.choose(PARAMETRIC)
    shape = [pick.choose([size, 1]) if i else 1 for i, size in enumerate(at.shape)][pick.integer(0, at.axis) :]
    return Step(lambda s, x: function(x, s.by), by=pick.choose([parameter(*shape), torch.zeros(shape)]))


def layer_scale(pick, at):
    function, shape = pick.choose(PARAMETRIC), at.along()
    options = [
        lambda by: by.view(shape),
        lambda by: by[(..., *(None,) * (len(shape) - 1))],
        lambda by: by.softmax(0).view(shape) * 4,
        lambda by: (by * by.mean()).reshape(shape),
        lambda by: by.flip(0).view(shape),
    ]
    given = pick.choose(options)
    return Step(lambda s, x: function(x, given(s.by)), by=parameter(at.channels))


def chosen_where(pick, at):
    """Take units from one of two layers by a constant mask."""
    mask = torch.tensor([pick.sometimes(2) for _ in range(at.channels)]).view(at.along())
    other = pointwise(pick, at, at.channels)
    runs = [
        lambda s, x: torch.where(s.mask, x, s.other(x)),
        lambda s, x: x.masked_fill(s.mask, 0.3) + s.other(x),
        lambda s, x: torch.where(s.mask, x, 0.2),
    ]
    return Step(pick.choose(runs), mask=mask, other=other)


def two_ways(pick, at):
    """Two layers, element by element."""
    options = [
        torch.add,
        torch.mul,
        torch.maximum,
        lambda a, b: a * torch.sigmoid(b),
        lambda a, b: torch.lerp(a, b, 0.3),
        lambda a, b: torch.stack([a, b], 1).softmax(1).sum(1),
        lambda a, b: torch.stack([a, b]).amax(0),
        lambda a, b: torch.stack([a, b], -1).flatten(-2)[..., ::2],
    ]
    function = pick.choose(options)
    one, other = pointwise(pick, at, at.channels), pick.choose([pointwise(pick, at, at.channels), nn.Identity()])
    return Step(lambda s, x: function(s.one(x), s.other(x)), one=one, other=other)


# Moving units about.


def flipped(pick, at):
    axes = [at.axis, *([pick.choose(at.around())] if at.around() and pick.sometimes() else [])]
    return Step(lambda s, x: x.flip(axes))


def rolled(pick, at):
    axis, by = at.axis, pick.integer(1, 5)
    return Step(pick.choose([lambda s, x: x.roll(by, axis), lambda s, x: torch.cat([x, x], axis).roll(by, axis)]))


def chosen(pick, at):
    """A constant choice of units, with repetitions."""
    axis, which = at.axis, [pick.integer(0, at.channels - 1) for _ in range(pick.wide())]
    where = (slice(None),) * axis
    runs = [
        lambda s, x: x.index_select(axis, s.which),
        lambda s, x: x[(*where, which)],
        lambda s, x: x[(*where, s.which)],
        lambda s, x: torch.stack([x.select(axis, i) for i in which], axis),
    ]
    return Step(pick.choose(runs), which=torch.tensor(which))


def sliced(pick, at):
    axis, start = at.axis, pick.integer(0, at.channels - 1)
    stop = pick.integer(start + 1, at.channels)
    where, step = (slice(None),) * axis, pick.choose([1, 2])
    runs = [
        lambda s, x: x[(*where, slice(start, stop))],
        lambda s, x: x[(*where, slice(start, None, step))],
        lambda s, x: x.narrow(axis, start, stop - start),
        lambda s, x: torch.cat([x.narrow(axis, start, stop - start), x], axis),
    ]
    return Step(pick.choose(runs))


def repeated(pick, at):
    axis, wider = at.axis, (*at.shape[: at.axis + 1], 2, *at.shape[at.axis + 1 :])
    times = [2 if i == axis else 1 for i in range(at.rank)]
    runs = [
        lambda s, x: x.repeat(times),
        lambda s, x: x.tile(times),
        lambda s, x: x.repeat_interleave(2, axis),
        lambda s, x: torch.cat([x, -x], axis),
        lambda s, x: torch.stack([x, x.sigmoid()], axis + 1).flatten(axis, axis + 1),
        lambda s, x: x.unsqueeze(axis + 1).expand(wider).flatten(axis, axis + 1),
    ]
    return Step(pick.choose(runs))


def unbound(pick, at):
    axis, order = at.axis, pick.order(at.channels)
    runs = [
        lambda s, x: torch.stack([x.unbind(axis)[i] for i in order], axis),
        lambda s, x: torch.cat([torch.tanh(each) for each in x.split(1, axis)], axis),
        lambda s, x: torch.stack([each * (1 + i) for i, each in enumerate(x.unbind(axis))], axis),
        lambda s, x: torch.cat(x.tensor_split(3, axis)[::-1], axis),
    ]
    return Step(pick.choose(runs))


def split_up(pick, at):
    """Uneven pieces, each treated differently, put together again in another order."""
    sizes = pick.cuts(at.channels)
    axis, functions, order = at.axis, [pick.choose(ACTIVATIONS) for _ in sizes], pick.order(len(sizes))

    def run(s, x):
        pieces = [function(piece) for function, piece in zip(functions, x.split(sizes, axis), strict=True)]
        return torch.cat([pieces[i] for i in order], axis)

    return Step(run)


def halves(pick, at):
    axis, half = at.axis, at.channels // 2
    options = [
        torch.add,
        lambda a, b: a * torch.sigmoid(b),
        torch.maximum,
        lambda a, b: torch.cat([b, a], axis),
        lambda a, b: torch.cat([a, a * b], axis),
        lambda a, b: a,
    ]
    function = pick.choose(options)
    options = [
        lambda x: x.chunk(2, axis),
        lambda x: (x.narrow(axis, 0, half), x.narrow(axis, half, half)),
        lambda x: x.unflatten(axis, (2, half)).unbind(axis),
        lambda x: x.unflatten(axis, (half, 2)).unbind(axis + 1),
    ]
    pieces = pick.choose(options)
    return Step(lambda s, x: function(*pieces(x)))


def glu(pick, at):
    axis = at.axis
    return Step(
        pick.choose([lambda s, x: F.glu(x, axis), lambda s, x: x.chunk(2, axis)[0] * F.gelu(x.chunk(2, axis)[1])])
    )


def shuffled(pick, at):
    axis, groups = at.axis, pick.divisor(at.channels)
    runs = [lambda s, x: x.unflatten(axis, (groups, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)]
    if maps(at):
        runs.append(lambda s, x: F.channel_shuffle(x, groups))
    return Step(pick.choose(runs))


def within_groups(pick, at):
    """Units seen as groups of units, something along one of the two axes, and seen as units again."""
    axis, groups = at.axis, pick.divisor(at.channels)
    along = axis + pick.integer(0, 1)
    options = [
        lambda x: x.amax(along, keepdim=True),
        lambda x: x.mean(along, keepdim=True),
        lambda x: x.softmax(along),
        lambda x: x - x.sum(along, keepdim=True),
        lambda x: x.flip(along),
        lambda x: x.cumsum(along),
    ]
    function = pick.choose(options)
    return Step(lambda s, x: function(x.unflatten(axis, (groups, -1))).flatten(axis, axis + 1))


def padded(pick, at):
    """Zeros or a value beside the units."""
    before, behind, value = pick.integer(0, 2), pick.integer(0, 2), pick.choose([0.0, 0.3])
    pad = (0, 0) * (at.rank - 1 - at.axis) + (before, behind)
    return Step(
        pick.choose([lambda s, x: F.pad(x, pad, value=value), lambda s, x: F.pad(x, pad, value=value).sigmoid()])
    )


def own_rows(pick, at):
    """Constants of the network's own beside the units."""
    count = pick.integer(1, 3)
    shape = tuple(count if i == at.axis else size for i, size in enumerate(at.shape))
    flat = (1,) * at.axis + at.along(count)
    axis, order = at.axis, pick.choose([1, -1])
    options = [
        lambda x, own: torch.cat([x, own.expand(shape)][::order], axis),
        lambda x, own: torch.cat([x, own.sigmoid().expand(shape), x.narrow(axis, 0, 1)][::order], axis),
        lambda x, own: torch.cat([x, x.new_zeros(shape)][::order], axis) + 0 * own.sum(),
    ]
    function = pick.choose(options)
    return Step(lambda s, x: function(x, s.own), own=parameter(*flat))


def grown(pick, at):
    """What there was and what a layer makes of it, side by side."""
    axis = at.axis
    new = pointwise(pick, at, pick.integer(1, 4))
    function = pick.choose([lambda a, b: [a, b], lambda a, b: [b, a], lambda a, b: [a, b, a]])
    return Step(lambda s, x: torch.cat(function(x, torch.relu(s.new(x))), axis), new=new)


def written(pick, at):
    """Something written over a part of the units."""
    axis, start = at.axis, pick.integer(0, at.channels - 1)
    stop = pick.integer(start + 1, at.channels)
    where = ((slice(None),) * axis, slice(start, stop, pick.choose([1, 2])))
    where = (*where[0], where[1])

    def constant(s, x):
        x = x.clone()
        x[where] = 0.4
        return x

    def own(s, x):
        x = x.clone()
        x[where] = s.own
        return x

    def other(s, x):
        x = x.clone()
        x[where] = s.other(x)[where].tanh()
        return x

    def product(s, x):
        x = x.clone()
        x[where] *= 2
        return x

    def filled(s, x):
        out = torch.zeros_like(x)
        out[where] = x[where]
        return out + 0.1

    def one(s, x):
        x = x.clone()
        x.select(axis, start).copy_(s.other(x).select(axis, 0))
        return x

    runs = [constant, own, other, product, filled, one]
    return Step(pick.choose(runs), own=parameter(1), other=pointwise(pick, at, at.channels))


def there_and_back(pick, at):
    """Seen in another shape, bent, and seen as before."""
    shape, axis = at.shape, at.axis
    bend = pick.choose(ACTIVATIONS)
    runs = [
        lambda s, x: bend(x.flatten(1)).view(shape),
        lambda s, x: bend(x.movedim(axis, 0)).movedim(0, axis),
        lambda s, x: bend(x.reshape(-1, shape[-1])).reshape(shape),
        lambda s, x: bend(x.unsqueeze(axis)).squeeze(axis),
        lambda s, x: bend(x.transpose(0, axis)).transpose(0, axis).contiguous(),
        lambda s, x: bend(x.flatten()).unflatten(0, shape),
    ]
    return Step(pick.choose(runs))


# What meets along an axis.


def statistic(pick, at):
    """A statistic over some axes, along units or not, and back to every element."""
    dims = pick.choose([*((i,) for i in range(1, at.rank)), at.around() or (at.axis,)])
    options = [
        lambda x: x.mean(dims, keepdim=True),
        lambda x: x.amax(dims, keepdim=True),
        lambda x: x.sum(dims, keepdim=True),
        lambda x: torch.sqrt(x.var(dims, keepdim=True, correction=0) + 0.1),
        lambda x: torch.logsumexp(x, dims, keepdim=True),
        lambda x: x.abs().amin(dims, keepdim=True),
        lambda x: torch.linalg.vector_norm(x + 0.1, dim=dims, keepdim=True),
    ]
    reduce = pick.choose(options)
    function = pick.choose([torch.add, torch.sub, lambda x, y: x * torch.sigmoid(y), torch.maximum])
    return Step(lambda s, x: function(x, reduce(x)))


def cumulative(pick, at):
    axis = pick.choose(range(1, at.rank))
    runs = [
        lambda s, x: x.softmax(axis),
        lambda s, x: x.cumsum(axis),
        lambda s, x: x.log_softmax(axis),
        lambda s, x: x.tanh().cumprod(axis),
        lambda s, x: x.sort(axis)[0],
        lambda s, x: x * x.softmax(axis),
    ]
    return Step(pick.choose(runs))


def gram(pick, at):
    """Units against units."""
    axis, wide = at.axis, pick.wide()
    options = [
        lambda x: x @ x.mT,
        lambda x: torch.einsum("bct,bdt->bcd", x, x),
        lambda x: torch.bmm(x, x.transpose(1, 2)).softmax(-1),
        lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5),
    ]
    function = pick.choose(options)
    reader = nn.Linear(at.channels**2, wide)
    return Step(lambda s, x: s.reader(function(x.movedim(axis, 1).flatten(2)).flatten(1)), 1, reader=reader)


def channel_attention(pick, at):
    """Attention whose positions are units (XCiT)."""
    space = at.space
    options = [
        lambda x: torch.softmax(x @ x.mT / 4, -1) @ x,
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: torch.softmax(unit(x) @ unit(x).mT, -1) @ x,
    ]
    function = pick.choose(options)
    return Step(lambda s, x: x + function(x.flatten(2)).unflatten(2, space))


def spatial_attention(pick, at):
    """Attention of an image's positions (non-local block)."""
    space, wide = at.space, pick.integer(1, 4)
    query, key = pointwise(pick, at, wide), pointwise(pick, at, wide)

    def run(s, x):
        scores = s.query(x).flatten(2).mT @ s.key(x).flatten(2)
        return x + (s.value(x).flatten(2) @ scores.softmax(-1).mT).unflatten(2, space)

    return Step(run, query=query, key=key, value=pointwise(pick, at, at.channels))


def excited(pick, at):
    """Squeeze and excite."""
    wide, gate = pick.integer(1, 4), pick.choose([torch.sigmoid, F.hardsigmoid, torch.tanh])
    one = Place((at.shape[0], wide, *(1 for _ in at.space)), 1)
    dims, flat = at.around(), pick.sometimes()
    down, up = (
        (nn.Linear(at.channels, wide), nn.Linear(wide, at.channels))
        if flat
        else (pointwise(pick, at, wide), pointwise(pick, one, at.channels))
    )
    shape = (1,) * len(dims)
    return Step(
        lambda s, x: (
            x * gate(s.up(F.silu(s.down(x.mean(dims, keepdim=not flat))))).unflatten(1, (-1, *(shape if flat else ())))
        ),
        down=down,
        up=up,
    )


def spatially_gated(pick, at):
    """A gate per position, from a layer or from statistics over units."""
    options = [
        lambda s, x: s.one(x),
        lambda s, x: s.two(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)),
        lambda s, x: s.one(x).flatten(1).softmax(1).view(x.shape[0], 1, *x.shape[2:]),
    ]
    function = pick.choose(options)
    two = CONVOLUTIONS[at.rank - 3](2, 1, 3, padding=1)
    return Step(lambda s, x: x * torch.sigmoid(function(s, x)), one=pointwise(pick, at, 1), two=two)


# Space.


def pooled(pick, at):
    n, ceil = at.rank - 2, pick.sometimes(2)
    kind = pick.choose(["avg", "max"])
    pool = getattr(F, f"{kind}_pool{n}d")
    adaptive = getattr(F, f"adaptive_{kind}_pool{n}d")
    runs = [
        lambda s, x: pool(x, 2),
        *([lambda s, x: pool(x, 3, 1, padding=1)] if min(at.space) > 2 else []),
        lambda s, x: pool(x, 2, ceil_mode=ceil),
        lambda s, x: adaptive(x, 2),
        lambda s, x: x + adaptive(x, 1),
        lambda s, x: x - F.interpolate(adaptive(x, 2), x.shape[2:]),
    ]
    return Step(pick.choose(runs))


def resized(pick, at):
    mode = pick.choose(["nearest", {1: "linear", 2: "bilinear", 3: "trilinear"}[at.rank - 2]])
    runs = [
        lambda s, x: F.interpolate(x, scale_factor=2, mode=mode),
        lambda s, x: F.interpolate(x, [size + 1 for size in x.shape[2:]], mode=mode),
    ]
    return Step(pick.choose(runs))


def framed(pick, at):
    """A frame around space."""
    n = at.rank - 2
    mode = pick.choose(["constant", "replicate", *(["reflect", "circular"] if min(at.space) > 1 else [])])
    value = 0.3 if mode == "constant" else None
    return Step(lambda s, x: F.pad(x, (1, 0) * n, mode=mode, value=value))


def unshuffled(pick, at):
    runs = [
        lambda s, x: F.pixel_unshuffle(x, 2),
        lambda s, x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
        lambda s, x: x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 3, 5, 1, 2, 4).flatten(1, 3),
        lambda s, x: F.pixel_shuffle(F.pixel_unshuffle(x, 2).sigmoid(), 2),
    ]
    return Step(pick.choose(runs))


def pixel_shuffled(pick, at):
    return Step(lambda s, x: F.pixel_shuffle(x, 2))


def neighbours(pick, at):
    """Units of the position beside, as shift networks and temporal shift modules have them."""
    axis, along = at.axis, pick.choose(at.around())
    sizes = [at.channels // 2, at.channels - at.channels // 2]

    def run(s, x):
        moved, still = x.split(sizes, axis)
        return torch.cat([moved.roll(1, along), still], axis)

    return Step(run)


# Going elsewhere.


def to_tokens(pick, at):
    runs = [
        lambda s, x: x.flatten(2).transpose(1, 2),
        lambda s, x: x.flatten(2).permute(0, 2, 1) + s.place,
        lambda s, x: torch.cat([s.token.expand(x.shape[0], -1, -1), x.flatten(2).mT], 1),
    ]
    count = torch.Size(at.space).numel()
    return Step(pick.choose(runs), 2, place=parameter(1, count, at.channels), token=parameter(1, 1, at.channels))


def to_channels_last(pick, at):
    return Step(lambda s, x: x.movedim(1, -1), at.rank - 1)


def to_maps(pick, at):
    shape = pick.choose([at.space, *([(2, at.space[0] // 2)] if len(at.space) == 1 and at.space[0] % 2 == 0 else [])])
    return Step(lambda s, x: x.movedim(-1, 1).flatten(2).unflatten(2, shape), 1)


def to_rows(pick, at):
    """Away with space: a mean, a maximum, one position, or all of it in one row that is read."""
    dims, axis = at.around(), at.axis
    count = torch.Size(at.shape[1:]).numel()
    runs = [
        lambda s, x: x.mean(dims),
        lambda s, x: x.amax(dims),
        lambda s, x: x.movedim(axis, -1).flatten(1, -2)[:, 0],
        lambda s, x: s.reader(x.flatten(1)),
        lambda s, x: s.reader(x.reshape(x.shape[0], -1).sigmoid()),
        lambda s, x: torch.cat([x.mean(dims), x.amax(dims)], 1),
    ]
    return Step(pick.choose(runs), 1, reader=nn.Linear(count, pick.wide()))


def from_rows(pick, at):
    """A row seen as an image, a signal or tokens."""
    wide = pick.wide()
    shape, axis = pick.choose([((wide, 2, 2), 1), ((wide, 4), 1), ((4, wide), 2)])
    return Step(
        lambda s, x: s.inner(x).unflatten(1, shape), axis, inner=nn.Linear(at.channels, torch.Size(shape).numel())
    )


# Tokens.


def attention(pick, at):
    """Attention by hand: how heads are cut, what scores are made of, and who shares keys."""
    heads, width, count = pick.choose([2, 1, 3, 4]), pick.integer(1, 3), at.shape[1]
    groups = pick.choose([heads, heads, pick.divisor(heads)])
    q, kv = heads * width, groups * width
    out, residual = pick.choose([at.channels, pick.wide()]), pick.sometimes(2)
    cut = pick.choose(CUTS if groups == heads else CUTS[:2])
    product = pick.choose(PRODUCTS)
    options = [
        lambda t: t.repeat_interleave(heads // groups, 1),
        lambda t: t[:, :, None].expand(-1, -1, heads // groups, -1, -1).flatten(1, 2),
    ]
    share = pick.choose(options)

    def run(s, x):
        query, key, value = cut(s, x, heads, groups)
        if groups < heads and product is grouped:
            y = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        else:
            y = product(s, query, share(key) if groups < heads else key, share(value) if groups < heads else value)
        y = s.out(y.transpose(1, 2).flatten(2))
        return x + y if residual and y.shape == x.shape else y

    return Step(
        run,
        packed=nn.Linear(at.channels, q + 2 * kv, bias=not pick.sometimes()),
        query=nn.Linear(at.channels, q),
        key=nn.Linear(at.channels, kv),
        value=nn.Linear(at.channels, kv),
        out=nn.Linear(q, out),
        table=parameter(heads, count, count),
        place=parameter(heads, 1, width),
        strength=parameter(heads, 1, 1),
        mixing=parameter(heads, heads),
        before=torch.ones(count, count).triu(1).bool(),
    )


def into_heads(x, n):
    return x.unflatten(2, (n, -1)).transpose(1, 2)


CUTS = [
    lambda s, x, h, g: (into_heads(s.query(x), h), into_heads(s.key(x), g), into_heads(s.value(x), g)),
    lambda s, x, h, g: tuple(
        map(
            into_heads,
            s.packed(x).split([s.query.out_features, s.key.out_features, s.value.out_features], 2),
            (h, g, g),
        )
    ),
    lambda s, x, h, g: tuple(into_heads(t, h) for t in s.packed(x).chunk(3, -1)),
    lambda s, x, h, g: s.packed(x).unflatten(2, (3, h, -1)).permute(2, 0, 3, 1, 4).unbind(0),
    lambda s, x, h, g: into_heads(s.packed(x), h).chunk(3, -1),
]


def unit(x):
    return F.normalize(x, dim=-1, eps=0.1)


def grouped(s, q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def talking(s, q, k, v):
    return torch.einsum("bhqk,hg->bgqk", q @ k.mT, s.mixing).softmax(-1) @ v


PRODUCTS = [
    grouped,
    lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=s.table),
    lambda s, q, k, v: torch.softmax(q @ k.transpose(-2, -1) / 2 + s.table, -1) @ v,
    lambda s, q, k, v: torch.softmax((q @ k.mT).masked_fill(s.before, -1e9), -1) @ v,
    lambda s, q, k, v: torch.softmax((q + s.place) @ k.mT, -1) @ v,
    lambda s, q, k, v: torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v),
    lambda s, q, k, v: (torch.softmax(q @ k.mT, -1) @ v) * s.strength,
    lambda s, q, k, v: torch.softmax(unit(q) @ unit(k).mT * s.strength, -1) @ v,
    lambda s, q, k, v: F.elu(q) @ ((F.elu(k) + 1).mT @ v) / 4,
    lambda s, q, k, v: q.softmax(-1) @ (k.softmax(-2).mT @ v),
    lambda s, q, k, v: torch.bmm(torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).softmax(-1), v.flatten(0, 1)).view_as(
        v
    ),
    talking,
]


def multihead(pick, at):
    heads = pick.divisor(at.channels)
    inner = nn.MultiheadAttention(
        at.channels, heads, batch_first=True, bias=not pick.sometimes(), add_bias_kv=pick.sometimes(4)
    )
    runs = [
        lambda s, x: s.inner(x, x, x, need_weights=False)[0],
        lambda s, x: x + s.inner(x, x, x)[0],
        lambda s, x: s.inner(x, x[:, :1], x[:, :1], need_weights=False)[0],
    ]
    return Step(pick.choose(runs), inner=inner)


def encoder(pick, at):
    """A transformer layer as torch has it."""
    inner = nn.TransformerEncoderLayer(
        at.channels, pick.divisor(at.channels), pick.wide(), batch_first=True, norm_first=pick.sometimes(2)
    )
    return Step(lambda s, x: s.inner(x), inner=inner)


def recurrent(pick, at):
    kind, wide, both = pick.choose([nn.GRU, nn.LSTM, nn.RNN]), pick.integer(1, 4), pick.sometimes(2)
    options = {"nonlinearity": pick.choose(["tanh", "relu"])} if kind is nn.RNN else {}
    if kind is nn.LSTM and pick.sometimes(4) and wide > 1:
        options = {"proj_size": 1}
    layers = pick.integer(1, 2)
    made = kind(at.channels, wide, layers, bias=not pick.sometimes(4), batch_first=True, bidirectional=both, **options)
    state = parameter(layers * (2 if both else 1), at.shape[0], wide)
    runs = [lambda s, x: s.inner(x)[0], lambda s, x: s.inner(x)[0][:, -1:]]
    if kind is not nn.LSTM:
        runs.append(lambda s, x: s.inner(x, s.state)[0])
        runs.append(lambda s, x: s.inner(x, torch.tanh(s.begin(x[:, 0])).expand(s.state.shape))[0])
        runs.append(lambda s, x: torch.cat([s.inner(x)[0], s.inner(x)[1][-1][:, None].expand(-1, x.shape[1], -1)], 2))
    return Step(pick.choose(runs), inner=made, state=state, begin=nn.Linear(at.channels, wide))


def unrolled(pick, at):
    """A recurrence by hand: the same two layers at every position."""
    wide = pick.integer(2, 4)

    def run(s, x):
        state, states = torch.tanh(s.given(x[:, 0])), []
        for each in x.unbind(1)[:4]:
            state = torch.tanh(s.given(each) + s.again(state))
            states.append(state)
        return torch.stack(states, 1)

    return Step(run, given=nn.Linear(at.channels, wide), again=nn.Linear(wide, wide))


def class_token(pick, at):
    shape = (at.shape[0], 1, at.channels)
    runs = [
        lambda s, x: torch.cat([s.token.expand(shape), x], 1) + s.place,
        lambda s, x: x[:, :1] * x,
        lambda s, x: torch.cat([x[:, :1], x[:, 1:].relu()], 1),
        lambda s, x: torch.cat([s.token.expand(shape), x], 1)[:, 1:],
    ]
    return Step(pick.choose(runs), token=parameter(1, 1, at.channels), place=parameter(1, at.shape[1] + 1, at.channels))


def windows(pick, at):
    """Windows of two positions, mixed within, and back."""
    shape, wide = at.shape, pick.wide()
    options = [
        lambda s, x: s.up(F.gelu(s.down(x))),
        lambda s, x: F.scaled_dot_product_attention(s.down(x), s.down(x), s.up(s.down(x))),
        lambda s, x: x + s.up(s.down(x.mean(1, keepdim=True))),
    ]
    inner = pick.choose(options)
    return Step(
        lambda s, x: inner(s, x.roll(1, 1).reshape(-1, 2, shape[2])).reshape(shape).roll(-1, 1),
        down=nn.Linear(at.channels, wide),
        up=nn.Linear(wide, at.channels),
    )


def merged(pick, at):
    """Two positions beside each other become one (Swin)."""
    wide = pick.wide()
    runs = [
        lambda s, x: s.inner(torch.cat([x[:, 0::2], x[:, 1::2]], -1)),
        lambda s, x: s.inner(x.unflatten(1, (-1, 2)).flatten(2)),
    ]
    return Step(pick.choose(runs), inner=nn.Linear(2 * at.channels, wide))


# Blocks of blocks.


def chain(pick: Pick, at: Place, count: int, keep: bool = True) -> tuple[nn.Sequential, Place]:
    """Blocks one after the other; ``keep``: they change nothing but the number of units."""
    steps = nn.Sequential()
    for _ in range(count):
        names = [
            name for name, block in BLOCKS.items() if block.fits(at) and not (block.nests and pick.depth >= DEEPEST)
        ]
        special = [name for name in names if name in SOMEWHERE]
        step, then = placed(pick, at, pick.choose(special if special and pick.sometimes(2) else names), keep)
        if step is not None:
            steps.append(step)
            at = then
    return steps, at


def placed(pick: Pick, at: Place, name: str, keep: bool = False) -> tuple[Step | None, Place]:
    """Make a block, or none where what comes out of it is too large or not what is wanted."""
    pick.depth += 1
    step = BLOCKS[name].make(pick, at)
    pick.depth -= 1
    then = after(step, at)
    alike = then.axis == at.axis and then.rank == at.rank and then.space == at.space
    if then.channels > WIDEST or torch.Size(then.shape).numel() > LARGEST or (keep and not alike):
        return None, at
    step.name = f"{name} {'x'.join(map(str, then.shape[1:]))}"
    return step, then


def fitted(pick: Pick, at: Place, wide: int, count: int = 2) -> nn.Sequential:
    """A chain that ends in ``wide`` channels."""
    steps, then = chain(pick, at, pick.integer(1, count))
    if then.channels != wide or not len(steps):
        steps.append(pointwise(pick, then, wide))
    return steps


def residual(pick, at):
    """``f(x) + x``, or with a layer on the way around."""
    wide = pick.choose([at.channels, pick.wide()])
    around = nn.Identity() if wide == at.channels and not pick.sometimes(4) else pointwise(pick, at, wide)
    function = pick.choose([torch.add, torch.add, torch.mul, torch.maximum, lambda a, b: (a + b).relu_()])
    return Step(lambda s, x: function(s.around(x), s.body(x)), around=around, body=fitted(pick, at, wide))


def dense(pick, at):
    axis = at.axis
    new = fitted(pick, at, pick.integer(1, 4))
    return Step(lambda s, x: torch.cat([x, s.new(x)], axis), new=new)


def branches(pick, at):
    """Branches side by side, as Inception has them."""
    axis = at.axis
    each = [fitted(pick, at, pick.integer(1, 4)) for _ in range(pick.integer(2, 3))]
    return Step(lambda s, x: torch.cat([one(x) for one in s.each], axis), each=nn.ModuleList(each))


def pieces(pick, at):
    """Units split unevenly, each piece on a way of its own, and side by side again."""
    axis, sizes = at.axis, pick.cuts(at.channels)
    order = pick.order(len(sizes))
    ways = [
        nn.Identity()
        if pick.sometimes(4)
        else fitted(pick, Place(tuple(size if i == axis else n for i, n in enumerate(at.shape)), axis), size, 1)
        for size in sizes
    ]

    def run(s, x):
        parts = [way(part) for way, part in zip(s.ways, x.split(sizes, axis), strict=True)]
        return torch.cat([parts[i] for i in order], axis)

    return Step(run, ways=nn.ModuleList(ways))


def gated(pick, at):
    """A way that is multiplied by a function of another."""
    gate = pick.choose([torch.sigmoid, torch.tanh, lambda x: x.softmax(-1), lambda x: 1 - x])
    one, other = fitted(pick, at, at.channels, 1), fitted(pick, at, at.channels, 1)
    return Step(lambda s, x: s.one(x) * gate(s.other(x)), one=one, other=other)


def again(pick, at):
    """The same blocks twice."""
    return Step(lambda s, x: s.body(s.body(x)), body=fitted(pick, at, at.channels))


def highway(pick, at):
    one, other = fitted(pick, at, at.channels, 1), pointwise(pick, at, at.channels)

    def run(s, x):
        share = torch.sigmoid(s.other(x))
        return share * x + (1 - share) * s.one(x)

    return Step(run, one=one, other=other)


@dataclass(frozen=True)
class Block:
    """Makes a step where it fits; ``nests``: it is made of other blocks."""

    make: Callable[[Pick, Place], Step]
    fits: Callable[[Place], bool] = anywhere
    nests: bool = False


def at_least(fits, units=1, positions=1):
    return lambda at: fits(at) and at.channels >= units and all(size >= positions for size in at.space)


EVERYWHERE = {
    "layer": Block(layer),
    "activation": Block(activation),
    "in place": Block(in_place),
    "in place on a view": Block(in_place_on_a_view, at_least(anywhere, 2)),
    "shift": Block(shift),
    "layer scale": Block(layer_scale),
    "matrix": Block(matrix),
    "tied": Block(tied),
    "bottleneck": Block(bottleneck),
    "two ways": Block(two_ways),
    "where": Block(chosen_where),
    "flip": Block(flipped),
    "roll": Block(rolled),
    "chosen": Block(chosen),
    "slice": Block(sliced),
    "repeat": Block(repeated),
    "unbind": Block(unbound, at_least(anywhere, 3)),
    "split": Block(split_up),
    "halves": Block(halves, even(anywhere)),
    "glu": Block(glu, even(anywhere)),
    "shuffle": Block(shuffled),
    "groups": Block(within_groups),
    "pad": Block(padded),
    "own rows": Block(own_rows),
    "grow": Block(grown),
    "write": Block(written),
    "there and back": Block(there_and_back),
    "statistic": Block(statistic),
    "cumulative": Block(cumulative),
    "by length": Block(by_length),
    "layer norm": Block(layer_norm),
    "residual": Block(residual, nests=True),
    "dense": Block(dense, nests=True),
    "branches": Block(branches, nests=True),
    "pieces": Block(pieces, nests=True),
    "gated": Block(gated, nests=True),
    "again": Block(again, nests=True),
    "highway": Block(highway, nests=True),
}
SOMEWHERE = {
    "batch norm": Block(batch_norm, second),
    "group norm": Block(group_norm, lambda at: second(at) and torch.Size(at.shape).numel() > at.channels),
    "prelu": Block(prelu, second),
    # Maps: signals, images, volumes.
    "conv": Block(convolution, maps),
    "depthwise": Block(depthwise, maps),
    "transposed": Block(transposed, maps),
    "computed kernel": Block(computed_kernel, images),
    "instance norm": Block(instance_norm, spacious),
    "norm of channels last": Block(channels_last_norm, maps),
    "mixing": Block(mixing, at_least(lambda at: at.rank > 2, 1, 2)),
    "gram": Block(gram, lambda at: at.rank > 2 and at.channels < 7),
    "channel attention": Block(channel_attention, maps),
    "spatial attention": Block(spatial_attention, maps),
    "excite": Block(excited, maps),
    "spatial gate": Block(spatially_gated, maps),
    "pool": Block(pooled, spacious),
    "resize": Block(resized, maps),
    "frame": Block(framed, maps),
    "pixel unshuffle": Block(unshuffled, lambda at: images(at) and not any(size % 2 for size in at.space)),
    "pixel shuffle": Block(pixel_shuffled, even(images, 4)),
    "neighbours": Block(neighbours, at_least(lambda at: at.rank > 2, 2)),
    # Elsewhere.
    "to tokens": Block(to_tokens, maps),
    "to channels last": Block(to_channels_last, maps),
    "to maps": Block(to_maps, lambda at: last(at) and at.rank > 2),
    "to rows": Block(to_rows, lambda at: at.rank > 2),
    "from rows": Block(from_rows, rows),
    # Tokens.
    "attention": Block(attention, tokens),
    "multi-head attention": Block(multihead, tokens),
    "transformer layer": Block(encoder, tokens),
    "recurrent": Block(recurrent, tokens),
    "unrolled": Block(unrolled, tokens),
    "class token": Block(class_token, tokens),
    "windows": Block(windows, lambda at: tokens(at) and at.shape[1] % 2 == 0),
    "merge": Block(merged, lambda at: tokens(at) and at.shape[1] % 2 == 0),
}
BLOCKS: dict[str, Block] = EVERYWHERE | SOMEWHERE

# Whole networks.

# Kind: the shape of an input behind the batch, and a block that every such network holds.
KINDS: dict[str, tuple[Callable[[Pick], tuple[int, ...]], str | None]] = {
    "image": (lambda pick: (3, pick.choose([4, 6]), pick.choose([4, 6, 5])), None),
    "signal": (lambda pick: (3, pick.choose([8, 5])), None),
    "volume": (lambda pick: (2, 3, 4, pick.choose([2, 3])), None),
    "tokens": (lambda pick: (pick.choose([4, 3]), 5), None),
    "words": (lambda pick: (pick.choose([4, 3]),), None),
    "rows": (lambda pick: (5,), None),
    "mixed": (lambda pick: (3, 4, pick.choose([4, 2])), "to tokens"),
    "recurrent": (lambda pick: (pick.choose([4, 3]), 5), "recurrent"),
}
WORDS = 7
JOINS = [torch.add, torch.mul, lambda x, y: torch.cat([x, y], 1), lambda x, y: x + torch.sigmoid(y)]


class Network(nn.Module):
    """Inputs through stems, joined, through steps; every head reads what comes after one of the steps."""

    def __init__(self, stems, join, steps, heads, form):
        super().__init__()
        self.stems, self.steps, self.join, self.form = nn.ModuleList(stems), steps, join, form
        self.heads, self.taps = nn.ModuleList(head for _, head in heads), [tap for tap, _ in heads]

    def forward(self, *args, **kwargs):
        x = [stem(each) for stem, each in zip(self.stems, (*args, *kwargs.values()), strict=True)]
        x = [self.join(*x) if len(x) > 1 else x[0]]
        for step in self.steps:
            x.append(step(x[-1]))
        return self.form([head(x[tap]) for tap, head in zip(self.taps, self.heads, strict=True)])


@dataclass
class Drawn:
    """A random network, an example for it, what it is in words, and the names of its blocks, nested ones too."""

    kind: str
    model: nn.Module
    example: Any
    text: str
    blocks: tuple[str, ...]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis shows of it."""
        printer.text(self.text)


def network(pick: Pick, kind: str) -> Drawn:
    """Draw a network of one kind."""
    torch.manual_seed(0)
    shape, must = KINDS[kind]
    shape = (pick.choose([2, 1]), *shape(pick))
    count = pick.choose([1, 1, 1, 2])
    given = [torch.randint(WORDS, shape) if kind == "words" else torch.randn(shape).double() for _ in range(count)]
    stems, at = stems_for(pick, kind, shape, count)
    join = pick.choose(JOINS)
    if count > 1:
        at = Place(tuple(join(torch.zeros(at.shape), torch.zeros(at.shape)).shape), at.axis)
    places, steps = [at], nn.Sequential()
    length = pick.integer(1, 6)
    when = pick.integer(0, length - 1) if must else None
    for i in range(length):
        if i == when and BLOCKS[must].fits(at):
            step, at = placed(pick, at, must)
            made = [step] if step is not None else []
        else:
            made, at = chain(pick, at, 1, keep=False)
        for step in made:
            steps.append(step)
            places.append(at)
    taps = [len(places) - 1, *([pick.integer(0, len(places) - 1)] if pick.sometimes(4) else [])]
    heads = [(tap, head(pick, places[tap], raw=i > 0)) for i, tap in enumerate(taps)]
    form = pick.choose([tuple, lambda y: dict(zip("abc", y, strict=False)), list]) if len(taps) > 1 else lambda y: y[0]
    model = Network(stems, join, steps, heads, form)
    named = count > 1 and pick.sometimes(2)
    example = dict(zip(("x", "y"), given, strict=True)) if named else tuple(given)
    text = f"{kind} {count}x{'x'.join(map(str, shape))}: {told(steps)}"
    blocks = tuple(m.name.rsplit(" ", 1)[0] for m in model.modules() if isinstance(m, Step) and m.name)
    return Drawn(kind, model, example, text, blocks)


def seeded(seed: int) -> tuple[Pick, Drawn]:
    """The network of a seed, and the choices that go on behind it."""
    pick = Pick(random.Random(seed).randint)
    return pick, network(pick, pick.choose(list(KINDS)))


def stems_for(pick: Pick, kind: str, shape: tuple[int, ...], count: int) -> tuple[list[nn.Module], Place]:
    """The layers that read the inputs, and where they lead."""
    wide = pick.wide()
    if kind == "words":
        return [nn.Embedding(WORDS, wide) for _ in range(count)], Place((*shape, wide), len(shape))
    if len(shape) == 2 or kind in ("tokens", "recurrent"):
        return [nn.Linear(shape[-1], wide) for _ in range(count)], Place((*shape[:-1], wide), len(shape) - 1)
    convolution = CONVOLUTIONS[len(shape) - 3]
    made = [convolution(shape[1], wide, 3, padding=1) for _ in range(count)]
    return made, Place((shape[0], wide, *shape[2:]), 1)


def head(pick: Pick, at: Place, raw: bool) -> nn.Module:
    """What makes an output: a layer, a layer behind a mean, or (``raw``, sometimes) nothing, which pins."""
    if raw and pick.sometimes(4):
        return nn.Identity()
    if at.rank > 2 and pick.sometimes(2):
        dims, flat = at.around(), Place((at.shape[0], at.channels), 1)
        return Step(lambda s, x: s.inner(x.mean(dims)), inner=pointwise(pick, flat, 3))
    return pointwise(pick, at, 3)


# What must hold.


@dataclass
class Examined:
    """What the examination of one network counted; ``difference`` is relative to the largest output."""

    units: int = 0
    masks: int = 0
    closed: int = 0
    refused: int = 0
    gated: int = 0
    difference: float = 0.0


def examine(pick: Pick, drawn: Drawn) -> Examined:
    """Assert on random masks that removing equals masking, that closed units reach nothing, and what is left costs."""
    model, example = randomise(drawn.model, pick.integer(0, 999)), drawn.example
    coupling = trace(model, example)
    assert not coupling.unknown, f"unknown operators: {coupling.unknown}"
    dense, found = outputs(model, example), Examined(coupling.units)
    for masks in random_masks(pick, coupling):
        same(model, masks, example, found)
    assert difference(dense, outputs(model, example)) == 0, "the model has changed"
    if coupling.units and pick.sometimes(8):
        gates = attach(model, example)
        with torch.no_grad():
            gates.log_alpha.normal_(std=3)
        masks = stabilize(model)
        same(model, masks, example, found)
        found.gated += 1
        assert difference(outputs(masked(model, masks), example), outputs(model, example)) <= TOLERANCE, "gates differ"
    return found


def random_masks(pick: Pick, coupling: Coupling) -> Iterator[Masks]:
    """Masks that leave something everywhere, and one that closes whole groups or all that some layers read."""
    seed = pick.integer(0, 999)
    yield Masks.random(coupling, pick.choose([0.5, 0.2, 0.8]), seed)
    if coupling.units:
        opened = Masks.random(coupling, pick.choose([0.2, 0.0, 0.5]), seed).open.copy()
        whole = [*(reader.units for reader in coupling.readers), *(range(g.start, g.stop) for g in coupling.groups)]
        for _ in range(pick.choose([1, 2, 4])):
            trial = opened.copy()
            trial[list(pick.choose(whole))] = False
            trial[0] = True
            if connected(coupling, trial) or pick.sometimes(8):
                opened = trial
        yield Masks(coupling, opened)


def same(model: nn.Module, masks: Masks, example: Any, found: Examined) -> None:
    """Assert that masking, removing and scrambling give the same, or that there is nothing left to compute."""
    wanted = outputs(masked(model, masks), example)
    found.masks += 1
    try:
        slimmed = slim(model, masks)
    except SlimError as refusal:
        found.refused += 1
        other = outputs(masked(model, masks), torch.utils._pytree.tree_map(another, example))
        apart = [difference([a], [b]) for a, b in zip(wanted, other, strict=True)]
        assert min(apart) <= TOLERANCE, f"refused, though all outputs depend on the input: {refusal}"
        return
    for name, got in (
        ("slim", outputs(slimmed.program.module(), example)),
        ("slim, noted shapes asserted,", run_noted(slimmed.program, example)),
        ("scrambled", outputs(scrambled(model, masks), example)),
    ):
        apart = difference(wanted, got)
        assert apart <= TOLERANCE, f"{name} differs by {apart:.3g} of the largest output"
        found.difference = max(found.difference, apart)
    found.closed += int((~masks.open).sum())
    predicted, cost = cost_of(masks.coupling, masks), slimmed.cost
    assert cost == program_cost(slimmed.program)
    assert cost.macs <= predicted.macs
    assert cost.params <= predicted.params
    if not fates(masks.coupling, masks.open):  # no branch has become a constant
        assert cost.macs == predicted.macs, f"{cost} is not {predicted}"
        if set(slimmed.program.state_dict) == set(weights(masks.coupling)):  # nor has a parameter
            assert cost.params == predicted.params, f"{cost} is not {predicted}"


def another(given: torch.Tensor) -> torch.Tensor:
    """Another input of the same kind."""
    return 0.3 - 1.7 * given if given.is_floating_point() else (given + 1) % WORDS
