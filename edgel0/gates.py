"""Where does the network learn what it can do without? Hard-concrete gates (arXiv 1712.01312) at the readers' weights.

A gate multiplies the columns with which its unit is *read*, never the activation: whatever lies between the writer and
the reader (bias, normalisation, padding, sigmoid) keeps its value, and removing a closed unit is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgel0.capturing import Example, unwrap
from edgel0.errors import TraceError, UsageError
from edgel0.flow import FLOW
from edgel0.tracing import trace
from edgel0.types import Coupling

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
LIMIT = 10.0  # |log_alpha| beyond which P(z != 0) no longer moves in float32 training
NAME = "edgel0_gates"


def stretch(s: Tensor) -> Tensor:
    """Stretch a concrete sample to (gamma, zeta) and clip it to [0, 1] (equations 10 and 11)."""
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def sample(log_alpha: Tensor, u: Tensor) -> Tensor:
    """Draw z from uniform ``u`` in (0, 1), of the shape of ``log_alpha`` (equation 10)."""
    return stretch(torch.sigmoid((torch.log(u) - torch.log1p(-u) + log_alpha) / BETA))


def probability_open(log_alpha: Tensor) -> Tensor:
    """P(z != 0) (equation 12)."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def log_alpha_of(probability: float) -> float:
    """Return the ``log_alpha`` at which P(z != 0) is ``probability``."""
    return math.log(probability / (1 - probability)) + BETA * math.log(-GAMMA / ZETA)


def mean_gate(log_alpha: Tensor) -> Tensor:
    """Return the paper's test-time gate, without temperature (equation 13): zero iff P(z != 0) <= 0.31."""
    return stretch(torch.sigmoid(log_alpha))


def median_gate(log_alpha: Tensor) -> Tensor:
    """Return the gate at the median of its noise, u = 1/2: zero iff P(z != 0) <= 1/2."""
    return stretch(torch.sigmoid(log_alpha / BETA))


RULES = {"median": median_gate, "mean": mean_gate}


class Gates(nn.Module):
    """One gate per unit of a model, as its submodule ``edgel0_gates``.

    ``log_alpha`` has shape ``(units,)`` and is always float32. In training a gate is sampled once per forward of the
    model, in eval mode it follows :func:`median_gate`; once ``fixed``, it is what ``mask`` says.
    """

    log_alpha: nn.Parameter
    mask: Tensor
    fixed: Tensor

    def __init__(self, coupling: Coupling, open_probability: float) -> None:
        super().__init__()
        start = torch.full((coupling.units,), log_alpha_of(open_probability), dtype=torch.float32)
        self.log_alpha = nn.Parameter(start)
        self.register_buffer("mask", torch.ones(coupling.units, dtype=torch.bool))
        self.register_buffer("fixed", torch.tensor(False))
        self.held = False
        self.coupling = coupling
        self._drawn: Tensor | None = None

    def forward(self, x: Any) -> Any:
        """Return ``x``: a model that is an ``nn.Sequential`` runs its gates, too, as its last layer."""
        return x

    def probability(self) -> Tensor:
        """P(z != 0) per unit, of shape ``(units,)``, differentiable."""
        return self.mask.float() if bool(self.fixed) else probability_open(self.log_alpha)

    def values(self) -> Tensor:
        """Present value of every gate with a leading 1 for the pinned rest, of shape ``(units + 1,)``."""
        if self.training and self._drawn is not None:
            return self._drawn
        return self._with_pinned(self._still())

    def draw(self) -> None:
        """Sample all gates for one forward, in training; shared by every reader of a unit."""
        if not self.training or bool(self.fixed) or self.held:
            self._drawn = self._with_pinned(self._still()) if self.training else None
            return
        tiny = torch.finfo(torch.float32).tiny
        u = torch.rand_like(self.log_alpha).clamp(tiny, 1 - 1e-7)
        self._drawn = self._with_pinned(sample(self.log_alpha, u))

    def fix(self, mask: Tensor) -> None:
        """From now on gates are exactly ``mask``, a bool tensor of shape ``(units,)``."""
        self.mask.copy_(mask)
        self.fixed.fill_(True)
        self.log_alpha.requires_grad_(False)
        self._drawn = None

    def follow(self, coupling: Coupling) -> None:
        """Belong to the smaller model that :func:`edgel0.shrink_` made."""
        self.coupling, self._drawn = coupling, None

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
        if bool(self.fixed):
            return self.mask.float()
        return torch.ones_like(self.log_alpha) if self.held else median_gate(self.log_alpha)

    @staticmethod
    def _with_pinned(z: Tensor) -> Tensor:
        return torch.cat([z.new_ones(1), z])

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
        twin.register_buffer("mask", self.mask.clone())
        twin.register_buffer("fixed", self.fixed.clone())
        twin.held, twin.coupling, twin._drawn, twin.training = self.held, self.coupling, None, self.training
        return twin


class ReaderGate(nn.Module):
    """Multiply a reader's weight by its units' gates along one axis."""

    index: Tensor

    def __init__(self, gates: Gates, axis: int, index: Tensor) -> None:
        super().__init__()
        self._gates = [gates]  # in a list: the gates belong to the model, not to each of their readers
        self.axis = axis
        self.register_buffer("index", index, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the gated weight, of the same shape."""
        z = self._gates[0].values()[self.index].to(weight.dtype)
        return weight * z.reshape([-1 if i == self.axis else 1 for i in range(weight.dim())])


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
    model: nn.Module, example: Example, *, open_probability: float = 0.97, flow: Mapping[Any, Any] = FLOW
) -> Gates:
    """Find the units of ``model`` and put one gate on each; the model's forward is left alone.

    ``open_probability`` is P(z != 0) at the start. Near 1 training begins as the dense model; above 0.99 nearly all
    samples saturate at 1 and gates get no gradient from the loss.

    Raises:
        TraceError: nothing in the model can be removed.
        UsageError: gates are attached already, or the probability is out of (0, 1).
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise UsageError(
            "attach was given a DistributedDataParallel, which knows the parameters that it was made with and would "
            "not average the gates' gradients; attach gates to the module first, then wrap it."
        )
    model = unwrap(model)
    if has_gates(model):
        raise UsageError(f"this {type(model).__name__} has gates already; call edgel0.detach(model) to begin anew.")
    if not 0 < open_probability < 1:
        raise UsageError(f"open_probability is {open_probability!r}; it must lie between 0 and 1.")
    coupling = trace(model, example, flow=flow)
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
    gates = Gates(coupling, open_probability)
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
