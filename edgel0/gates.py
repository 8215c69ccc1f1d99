"""Where does the network learn what it can do without? Hard-concrete gates (arXiv 1712.01312) at the readers' weights.

A gate multiplies the columns with which its unit is *read*, never the activation: whatever lies between the writer and
the reader (bias, normalisation, padding, sigmoid) keeps its value, and removing a closed unit is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgel0.capturing import Example, unwrap
from edgel0.errors import TraceError, UsageError
from edgel0.flow import FLOW
from edgel0.noise import WORD, uniform, uniform_once, words
from edgel0.tracing import trace
from edgel0.types import Coupling

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
LIMIT = 10.0  # clamp of |log_alpha|: at the reference code's ln 100 a closed gate still counts as 5 % of a unit
NAME = "edgel0_gates"


def stretch(s: Tensor) -> Tensor:
    """Stretch a concrete sample to (gamma, zeta) and clip it to [0, 1] (equations 10 and 11)."""
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def sample(log_alpha: Tensor, u: Tensor, beta: float = BETA) -> Tensor:
    """Draw z from uniform ``u`` in (0, 1), of the shape of ``log_alpha`` (equation 10)."""
    return stretch(torch.sigmoid((torch.log(u) - torch.log1p(-u) + log_alpha) / beta))


def probability_open(log_alpha: Tensor, beta: float = BETA) -> Tensor:
    """P(z != 0) (equation 12)."""
    return torch.sigmoid(log_alpha - beta * math.log(-GAMMA / ZETA))


def log_alpha_of(probability: float, beta: float = BETA) -> float:
    """Return the ``log_alpha`` at which P(z != 0) is ``probability``."""
    return math.log(probability / (1 - probability)) + beta * math.log(-GAMMA / ZETA)


def mean_gate(log_alpha: Tensor) -> Tensor:
    """Return the paper's test-time gate, without temperature (equation 13): zero iff P(z != 0) <= 0.31."""
    return stretch(torch.sigmoid(log_alpha))


def median_gate(log_alpha: Tensor, beta: float = BETA) -> Tensor:
    """Return the gate at the median of its noise, u = 1/2: zero iff P(z != 0) <= 1/2."""
    return stretch(torch.sigmoid(log_alpha / beta))


RULES = {"median": median_gate, "mean": mean_gate}


class Gates(nn.Module):
    """One gate per unit of a model, as its submodule ``edgel0_gates``.

    ``log_alpha`` has shape ``(units,)`` and is always float32. In training a gate is sampled once per forward of the
    model, in eval mode it follows :func:`median_gate`; once ``fixed``, it is what ``mask`` says. The noise is a
    function of ``seed`` and of the number of the draw (:mod:`edgel0.noise`), so checkpoints, the ranks of a distributed
    run and repeated forwards of gradient checkpointing have the same.
    """

    log_alpha: nn.Parameter
    mask: Tensor
    fixed: Tensor
    seed: Tensor
    draws: Tensor
    words: Tensor
    waiting: Tensor
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
        self.register_buffer("waiting", torch.tensor(False), persistent=False)
        self.held = False
        self.coupling = coupling
        self._settled = False  # what ``fixed`` says, for a forward that must not wait for a device
        self._full = True  # and whether ``mask`` is True everywhere
        self._drawn: Tensor | None = None

    @property
    def held(self) -> bool:
        """Whether gates are open and do not learn yet."""
        return self._held

    @held.setter
    def held(self, held: bool) -> None:
        self._held, self.idle = (
            held,
            False,
        )  # for a forward that must not wait for a device; the buffer reaches averages of the model
        self.waiting.fill_(held)  # reaches averages of the model

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
            self._drawn = self._with_pinned(still)
        else:
            if torch.compiler.is_compiling():
                self.draws += 1
                u = uniform_once(self.words, self.seed, self.draws)
            else:
                if torch._C._current_graph_task_id() == -1:
                    self.draws += 1
                # else this forward is repeated in a backward, by gradient checkpointing, and has its noise again
                u = uniform(self.words, self.seed, self.draws)
            self._drawn = self._with_pinned(sample(whole(self.log_alpha, averaged=True), u, self.temperature))

    def fix(self, mask: Tensor) -> None:
        """From now on gates are exactly ``mask``, a bool tensor of shape ``(units,)``."""
        self.mask.copy_(mask)
        self.fixed.fill_(True)
        self._settled, self._full, self.idle = True, bool(mask.all()), False
        self.log_alpha.requires_grad_(dist.is_available() and dist.is_initialized())
        self._drawn = None

    def follow(self, coupling: Coupling) -> None:
        """Belong to the smaller model that :func:`edgel0.shrink_` made."""
        self.coupling, self._drawn, self._full = coupling, None, bool(self.mask.all())

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
        twin.temperature = self.temperature
        twin._settled, twin._full, twin._drawn = self._settled, self._full, None
        return twin


def whole(tensor: Tensor, *, averaged: bool = False) -> Tensor:
    """Return a tensor that ``fully_shard`` has spread over ranks as one plain tensor, differentiably; others as is.

    Its gradient is taken to be the same on every rank, or is ``averaged`` over them. All ranks have to call this.
    """
    if not sharded(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    placements = [Partial("avg")] * tensor.device_mesh.ndim if averaged else None  # type: ignore[attr-defined]
    full: Tensor = tensor.full_tensor(grad_placements=placements)  # type: ignore[attr-defined]
    return full


def sharded(tensor: Tensor) -> bool:
    """Tell whether ``fully_shard`` has spread a tensor over ranks."""
    return hasattr(tensor, "full_tensor")


def reshard(model: nn.Module) -> None:
    """Have ``fully_shard`` put back the parameters that a forward without a backward, an evaluation, left gathered.

    What is written to gathered parameters is lost, and no optimizer knows them.
    """
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def replicated(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor``, equal on every rank, as what can be combined with ``like`` where that is spread over ranks."""
    if not sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor``, equal on every rank, spread over them as ``like`` is."""
    if not sharded(like):
        return tensor
    made: Tensor = replicated(tensor, like).redistribute(like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return made


class ReaderGate(nn.Module):
    """Multiply a reader's weight by its units' gates along one axis; ``index`` are the units' numbers along it."""

    index: Tensor

    def __init__(self, gates: Gates, axis: int, index: Tensor) -> None:
        super().__init__()
        self._gates = [gates]  # in a list: the gates belong to the model, not to each of their readers
        self.axis = axis
        self.register_buffer("index", index, persistent=False)
        self.look()

    def look(self) -> None:
        """See whether ``index`` is a range, of which the gates are a slice: that costs less than choosing them."""
        numbers = self.index.cpu()
        first, count = int(numbers[0]), numbers.numel()
        self.range = (first, count) if torch.equal(numbers, torch.arange(first, first + count)) else None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the gated weight, of the same shape."""
        gates = self._gates[0]
        if gates.training and gates.idle:
            return weight
        z = gates.values()
        z = z.index_select(0, self.index) if self.range is None else z.narrow(0, *self.range)
        return weight * z.to(weight.dtype).reshape([-1 if i == self.axis else 1 for i in range(weight.dim())])


class Lists:
    """Gated weights that a module keeps in lists as well, as recurrent layers do: ``(attribute, index, weight)``.

    While the module runs its lists hold what the gates made of the weights, at other times the weights themselves.
    """

    def __init__(self, module: nn.Module, leaves: list[str]) -> None:
        self.places = [
            (attribute, at, leaf)
            for attribute, kept in vars(module).items()
            if isinstance(kept, list)
            for at, tensor in enumerate(kept)
            for leaf in leaves
            if tensor is module._parameters.get(leaf, self)
        ]

    def fill(self, module: nn.Module, args: Any) -> None:
        """Forward pre-hook."""
        for attribute, at, leaf in self.places:
            getattr(module, attribute)[at] = getattr(module, leaf)

    def empty(self, module: nn.Module, args: Any = None, output: Any = None) -> None:
        """Forward hook."""
        for attribute, at, leaf in self.places:
            getattr(module, attribute)[at] = module.parametrizations[leaf].original  # type: ignore[union-attr, index]


def _draw(module: nn.Module, args: Any) -> None:
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


def attach(
    model: nn.Module,
    example: Example,
    *,
    open_probability: float = 0.97,
    temperature: float = BETA,
    flow: Mapping[Any, Any] = FLOW,
    exclude: Sequence[str] = (),
) -> Gates:
    """Find the units of ``model`` and put one gate on each; the model's forward is left alone.

    ``open_probability`` is P(z != 0) at the start. Near 1 training begins as the dense model; above 0.99 nearly all
    samples saturate at 1 and gates get no gradient from the loss. ``temperature`` is the paper's beta: below 1 the
    density of a gate has its modes at both ends; nearer 0 samples are more often exactly 0 or 1, and gradients rarer.
    ``flow`` and ``exclude`` are those of :func:`edgel0.trace`.

    Raises:
        TraceError: nothing in the model can be removed.
        UsageError: gates are attached already, or the probability or the temperature is out of (0, 1).
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise UsageError(
            "attach was given a DistributedDataParallel, which knows the parameters that it was made with and would "
            "not average the gates' gradients; attach gates to the module first, then wrap it."
        )
    model = unwrap(model)
    if any(map(sharded, model.parameters())):
        raise UsageError(
            f"attach was given a {type(model).__name__} whose parameters fully_shard has spread over ranks, and cannot "
            "trace it; attach gates first, then call fully_shard on the parts and on the whole."
        )
    if has_gates(model):
        raise UsageError(f"this {type(model).__name__} has gates already; call edgel0.detach(model) to begin anew.")
    if not 0 < open_probability < 1:
        raise UsageError(f"open_probability is {open_probability!r}; it must lie between 0 and 1.")
    if not 0 < temperature < 1:
        raise UsageError(f"temperature is {temperature!r}; it must lie between 0 and 1 (the paper's is 2/3).")
    coupling = trace(model, example, flow=flow, exclude=exclude)
    if not coupling.units:
        reasons = "; ".join(f"{p.reason} ({p.operator} in {p.module or 'the model'})" for p in coupling.pins[:3])
        raise TraceError(
            f"nothing in {type(model).__name__} can be removed: {reasons or 'no operator creates units'}. Gates need "
            "at least one layer whose outputs are read by another layer of the model."
        )
    places = {reader.parameter: holders(model, reader.parameter) for reader in coupling.readers}
    gated: dict[nn.Module, list[str]] = {}
    for module, leaf in {place: None for found in places.values() for place in found}:
        gated.setdefault(module, []).append(leaf)
    lists = {module: Lists(module, leaves) for module, leaves in gated.items()}
    gates = Gates(coupling, open_probability, temperature)
    model.add_module(NAME, gates)
    for reader in coupling.readers:
        for module, leaf in places[reader.parameter]:
            weight = getattr(module, leaf)
            gates.to(weight.device)
            gate = ReaderGate(gates, reader.axis, torch.from_numpy(reader.units).to(weight.device))
            parametrize.register_parametrization(module, leaf, gate, unsafe=True)
    for module, kept in lists.items():
        if kept.places:
            kept.empty(module)
            module.register_forward_pre_hook(kept.fill)
            module.register_forward_hook(kept.empty, always_call=True)
    model.register_forward_pre_hook(_draw, prepend=True)
    gates.train(model.training)
    return gates


def detach(model: nn.Module) -> nn.Module:
    """Remove the gates from ``model``, in place, leaving in each weight what the gates made of it in eval mode."""
    model = unwrap(model)
    gates = gates_of(model)
    gates.eval()
    places = {id(module): prefix for prefix, module in model.named_modules()}
    order = {name: at for at, name in enumerate(gates.coupling.program.state_dict)}
    multiplied: set[int] = set()  # a weight that several modules share is multiplied once
    for module, leaf, weight in list(_gated(model)):
        kind = type(module)  # a deep copy shares this class, from which torch is about to delete the tensor's name
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=id(weight) not in multiplied)
        multiplied.add(id(weight))
        prefix = places[id(module)]
        for name in sorted(module._parameters, key=lambda name: order.get(f"{prefix}.{name}".lstrip("."), -1)):
            module._parameters[name] = module._parameters.pop(name)  # the order by which an optimizer's state counts
    delattr(model, NAME)
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if hook is _draw or isinstance(getattr(hook, "__self__", None), Lists):
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)
    return model


def holders(model: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Return every (module, attribute) that holds the parameter or buffer ``name``; tied weights have several."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    wanted = module._parameters.get(leaf, module._buffers.get(leaf))
    return [
        (holder, key)
        for holder in model.modules()
        for key, tensor in (*holder._parameters.items(), *holder._buffers.items())
        if tensor is wanted and tensor is not None
    ]


def _gated(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield (module, attribute, raw weight) wherever a gate stands."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for leaf, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
                if any(isinstance(step, ReaderGate) for step in chain):
                    yield module, leaf, chain.original
