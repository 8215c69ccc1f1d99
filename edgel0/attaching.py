"""Where do gates stand? One on every unit of a model, at the weights that read it, put on and taken off again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgel0.capturing import Example, unwrap
from edgel0.concrete import BETA
from edgel0.errors import TraceError, UsageError
from edgel0.flow import FLOW
from edgel0.gates import NAME, Gates, ReaderGate, draw, gated_weights, gates_of, has_gates
from edgel0.sharding import sharded
from edgel0.tracing import trace


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


class Chain(parametrize.ParametrizationList):
    """What is done to one gated weight: what torch's own list does, without asking for the name of each next step."""

    def forward(self) -> Tensor:
        """Return the gated weight."""
        weight: Tensor = self.original
        for gate in self._modules.values():
            assert gate is not None
            weight = gate(weight)
        return weight


def attach(
    model: nn.Module,
    example: Example,
    *,
    open_probability: float = 0.99,
    temperature: float = BETA,
    flow: Mapping[Any, Any] = FLOW,
    exclude: Sequence[str] = (),
) -> Gates:
    """Find the units of ``model`` and put one gate on each; the model's forward is left alone.

    ``open_probability`` is P(z != 0) at the start. Near 1 training begins as the dense model: at 0.97 43 % of the
    samples are below 1, noise that costs accuracy, at 0.99 20 %; far above, nearly all samples saturate at 1 and gates
    get no gradient from the loss. ``temperature`` is the paper's beta: below 1 the density of a gate has its modes at
    both ends; nearer 0 samples are more often exactly 0 or 1, and gradients rarer. ``flow`` and ``exclude`` are those
    of :func:`edgel0.trace`.

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
            module.parametrizations[leaf].__class__ = Chain  # type: ignore[index]
    gates.seat(model)
    for module, kept in lists.items():
        if kept.places:
            kept.empty(module)
            module.register_forward_pre_hook(kept.fill)
            module.register_forward_hook(kept.empty, always_call=True)
    model.register_forward_pre_hook(draw, prepend=True)
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
    for module, leaf, chain in list(gated_weights(model)):
        kind = type(module)  # a deep copy shares this class, from which torch is about to delete the tensor's name
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=id(chain.original) not in multiplied)
        multiplied.add(id(chain.original))
        prefix = places[id(module)]
        for name in sorted(module._parameters, key=lambda name: order.get(f"{prefix}.{name}".lstrip("."), -1)):
            module._parameters[name] = module._parameters.pop(name)  # the order by which an optimizer's state counts
    delattr(model, NAME)
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if hook is draw or isinstance(getattr(hook, "__self__", None), Lists):
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
