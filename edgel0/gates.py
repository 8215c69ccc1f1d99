"""Where does the network learn what it can do without? Hard-concrete gates (arXiv 1712.01312) at the readers' weights.

A gate multiplies the columns with which its unit is *read*, never the activation: whatever lies between the writer and
the reader (bias, normalisation, padding, sigmoid) keeps its value, and removing a closed unit is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgel0.capturing import unwrap
from edgel0.concrete import BETA, log_alpha_of, median_gate, probability_open, sample
from edgel0.errors import UsageError
from edgel0.noise import WORD, Ahead, uniform, uniform_once, words
from edgel0.sharding import whole
from edgel0.types import Coupling

NAME = "edgel0_gates"
REPEATS = 64  # a gate is repeated for up to so many elements behind its axis, a kernel's: long rows multiply faster


class Gates(nn.Module):
    """One gate per unit of a model, as its submodule ``edgel0_gates``.

    ``log_alpha`` has shape ``(units,)`` and is always float32. In training a gate is sampled once per forward of the
    model, in eval mode it follows :func:`median_gate`; once ``fixed``, it is what ``mask`` says. The noise is a
    function of ``seed`` and of the number of the draw (:mod:`edgel0.noise`), so checkpoints, the ranks of a distributed
    run and repeated forwards of gradient checkpointing have the same; ``noise`` scales it, 1 is the paper's.
    """

    log_alpha: nn.Parameter
    mask: Tensor
    fixed: Tensor
    seed: Tensor
    draws: Tensor
    words: Tensor
    order: Tensor
    waiting: Tensor
    noise: Tensor
    idle: bool  # in the present forward every gate is 1 and learns nothing

    def __init__(self, coupling: Coupling, open_probability: float, temperature: float = BETA) -> None:
        super().__init__()
        self.temperature = temperature
        start = torch.full((coupling.units,), log_alpha_of(open_probability, temperature), dtype=torch.float32)
        self.log_alpha = nn.Parameter(start)
        self.register_buffer("mask", torch.ones(coupling.units, dtype=torch.bool))
        self.register_buffer("fixed", torch.tensor(False))
        self.register_buffer("seed", torch.tensor(torch.initial_seed() & WORD))
        self.register_buffer("draws", torch.tensor(0))
        self.register_buffer("words", words(coupling.units), persistent=False)
        self.register_buffer("order", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("waiting", torch.tensor(False), persistent=False)
        self.register_buffer("noise", torch.tensor(1.0), persistent=False)
        self.sizes: list[int] = []  # of each reader's part of ``order``
        self.shapes: list[tuple[int, ...]] = []  # and what it is seen as, beside the reader's weight
        self.held = False
        self.coupling = coupling
        self._settled = False  # what ``fixed`` says, for a forward that must not wait for a device
        self._full = True  # and whether ``mask`` is True everywhere
        self._ahead = Ahead()
        self._drawn: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()  # of what was drawn, one per reader

    @property
    def held(self) -> bool:
        """Whether gates are open and do not learn yet."""
        return self._held

    @held.setter
    def held(self, held: bool) -> None:
        self._held, self.idle = held, False  # for a forward that must not wait for a device
        self.waiting.fill_(held)  # this reaches averages of the model

    def forward(self, x: Any) -> Any:
        """Return ``x``: a model that is an ``nn.Sequential`` runs its gates, too, as its last layer."""
        return x

    def probability(self) -> Tensor:
        """P(z != 0) per unit, of shape ``(units,)``, differentiable; whole where ``log_alpha`` is sharded."""
        return self.mask.float() if self._settled else probability_open(whole(self.log_alpha), self.temperature)

    def values(self) -> Tensor:
        """Present value of every gate with a leading 1 for the pinned rest, of shape ``(units + 1,)``."""
        if self.training and self._drawn is not None:
            return self._drawn
        return self._with_pinned(self._still())

    def values_at(self, reader: ReaderGate) -> Tensor:
        """Present values at one reader, of a shape that its weight's can be multiplied with."""
        if self.training and self._drawn is not None:
            return self._parts[reader.slot]
        return self.values().index_select(0, reader.index).view(-1, *[1] * len(reader.around))

    def seat(self, model: nn.Module) -> None:
        """See which gates the readers in ``model`` want, to hand out all of them by one operator."""
        readers: list[ReaderGate] = []
        for _, _, chain in gated_weights(model):
            for gate in chain:
                if isinstance(gate, ReaderGate):
                    gate.slot = len(readers)
                    within = chain.original.shape[gate.axis + 1 :]
                    gate.around = within if within.numel() <= REPEATS else torch.Size([1] * len(within))
                    readers.append(gate)
        orders = [gate.index.repeat_interleave(gate.around.numel()) for gate in readers]
        self.order = torch.cat([self.order[:0], *orders])  # units that only operators without weights read have none
        self.sizes = [order.numel() for order in orders]
        self.shapes = [(gate.index.numel(), *gate.around) for gate in readers]

    def draw(self) -> None:
        """Sample all gates for one forward, in training; shared by every reader of a unit."""
        connected = self.log_alpha.requires_grad and dist.is_available() and dist.is_initialized()
        self.idle = self.training and (self._full if self._settled else self.held) and not connected
        if not self.training or self.idle:
            self._drawn = None
        elif self._settled or self.held:
            still = self.mask.float() if self._settled else torch.ones_like(self.mask, dtype=torch.float32)
            if connected:
                still = still + 0 * whole(self.log_alpha)  # DistributedDataParallel waits for every gradient
            self._set(still)
        else:
            self._set(sample(whole(self.log_alpha, averaged=True), self._noise(), self.temperature, self.noise))

    def fix(self, mask: Tensor) -> None:
        """From now on gates are exactly ``mask``, a bool tensor of shape ``(units,)``."""
        self.mask.copy_(mask)
        self.fixed.fill_(True)
        self._settled, self._full, self.idle = True, bool(mask.all()), False
        self.log_alpha.requires_grad_(dist.is_available() and dist.is_initialized())
        self._drawn = None

    def follow(self, coupling: Coupling, model: nn.Module) -> None:
        """Belong to the smaller model that :func:`edgel0.shrink_` made."""
        self.coupling, self._drawn, self._full = coupling, None, bool(self.mask.all())
        self._ahead = Ahead()
        self.seat(model)

    def synchronize(self) -> None:
        """Take the noise of rank 0, in a distributed run; DistributedDataParallel does so by itself."""
        if dist.is_available() and dist.is_initialized():
            state = [int(self.seed), int(self.draws)]
            dist.broadcast_object_list(state, src=0)
            self.seed.fill_(state[0])
            self.draws.fill_(state[1])

    def parameter_groups(
        self, model: nn.Module, *, lr: float, gate_lr: float, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Optimizer groups: the model's weights, and the gates with their own rate and no weight decay."""
        weights = [p for p in model.parameters() if p is not self.log_alpha]
        return [
            {"params": weights, "lr": lr, "weight_decay": weight_decay},
            {"params": [self.log_alpha], "lr": gate_lr, "weight_decay": 0.0},
        ]

    def _still(self) -> Tensor:
        if self._settled:
            return self.mask.float()
        median = median_gate(whole(self.log_alpha), self.temperature)
        # An AveragedModel has the buffers of the model that it follows, and is told nothing else.
        median = torch.where(self.waiting, torch.ones_like(median), median)
        return torch.where(self.fixed, self.mask.float(), median)

    def _noise(self) -> Tensor:
        if torch.compiler.is_compiling():
            self.draws += 1
            once: Tensor = uniform_once(self.words, self.seed, self.draws)
            return once
        if torch._C._current_graph_task_id() == -1:
            self.draws += 1
        # else this forward is repeated in a backward, by gradient checkpointing, and has its noise again
        # What follows the question above, at which a graph ends, may be compiled by itself.
        if self.words.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._ahead.uniform(self.words, int(self.seed), int(self.draws))
        return uniform(self.words, self.seed, self.draws)

    def _set(self, z: Tensor) -> None:
        self._drawn = self._with_pinned(z)
        parts = torch.split(self._drawn.index_select(0, self.order), self.sizes)
        self._parts = tuple(
            part.view(shape) if len(shape) > 1 else part for part, shape in zip(parts, self.shapes, strict=True)
        )

    @staticmethod
    def _with_pinned(z: Tensor) -> Tensor:
        return torch.cat([z.new_ones(1), z])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._settled, self._full, self._drawn = bool(self.fixed), bool(self.mask.all()), None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Gates:
        """Follow ``model.to(device)``, but not ``model.half()``: gates stay float32."""

        def moved(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        self._drawn = None
        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Gates:
        """Copy parameters and buffers; the coupling, which is frozen, is shared."""
        twin = Gates.__new__(Gates)
        memo[id(self)] = twin
        nn.Module.__init__(twin)
        twin.log_alpha = nn.Parameter(self.log_alpha.detach().clone(), requires_grad=self.log_alpha.requires_grad)
        for name, buffer in self._buffers.items():
            assert buffer is not None
            twin.register_buffer(name, buffer.clone(), persistent=name not in self._non_persistent_buffers_set)
        twin.held, twin.coupling, twin.training = self.held, self.coupling, self.training
        twin.temperature, twin.sizes, twin.shapes, twin._ahead = self.temperature, self.sizes, self.shapes, Ahead()
        twin._settled, twin._full, twin._drawn, twin._parts = self._settled, self._full, None, ()
        return twin


class ReaderGate(nn.Module):
    """Multiply a reader's weight by its units' gates along one axis; ``index`` are the units' numbers along it."""

    index: Tensor

    def __init__(self, gates: Gates, axis: int, index: Tensor) -> None:
        super().__init__()
        self._gates = [gates]  # in a list: the gates belong to the model, not to each of their readers
        self.axis = axis
        self.register_buffer("index", index, persistent=False)
        self.slot, self.around = 0, torch.Size()  # both by Gates.seat; sizes behind the axis, for which gates repeat

    def forward(self, weight: Tensor) -> Tensor:
        """Return the gated weight, of the same shape."""
        gates = self._gates[0]
        if gates.training and gates.idle:
            return weight
        z = gates.values_at(self)
        return weight * (z if z.dtype == weight.dtype else z.to(weight.dtype))


def gated_weights(model: nn.Module) -> Iterator[tuple[nn.Module, str, parametrize.ParametrizationList]]:
    """Yield (module, attribute, what is done to the weight) wherever a gate stands."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for leaf, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
                if any(isinstance(step, ReaderGate) for step in chain):
                    yield module, leaf, chain


def draw(module: nn.Module, args: Any) -> None:
    """Forward pre-hook of the gated model."""
    gates_of(module).draw()


def gates_of(model: nn.Module) -> Gates:
    """Return the gates of a model.

    Raises:
        UsageError: none are attached.
    """
    found = getattr(unwrap(model), NAME, None)
    if not isinstance(found, Gates):
        raise UsageError(f"this {type(model).__name__} has no gates; call edgel0.attach(model, example) first.")
    return found


def has_gates(model: nn.Module) -> bool:
    """Tell whether gates are attached."""
    return isinstance(getattr(unwrap(model), NAME, None), Gates)
