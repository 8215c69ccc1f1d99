"""Does removing equal masking, and does what closed units compute reach nothing? What all tests of networks ask."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from edgel0.capturing import arguments
from edgel0.masks import masked, tensors
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Coupling, Masks

TOLERANCE = 1e-9  # of the largest output


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model in float64 and eval mode with no tensor zero or tiny."""
    model = model.double().eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
            elif tensor.dim() < 2:
                tensor.copy_(
                    torch.randn(tensor.shape, generator=random).sign()
                    * (torch.rand(tensor.shape, generator=random) + 0.3)
                )
            else:
                fan_in = max(tensor[0].numel(), 1)
                tensor.copy_(torch.randn(tensor.shape, generator=random) * 1.4 / fan_in**0.5)
    return model


def outputs(run: Callable[..., Any], example: Any) -> list[torch.Tensor]:
    args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, arguments(example))
    with torch.no_grad():
        result = run(*args, **kwargs)
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def difference(wanted: list[torch.Tensor], got: list[torch.Tensor]) -> float:
    """Return the largest difference relative to the largest output; shapes and types must be the same."""
    assert [(t.shape, t.dtype) for t in wanted] == [(t.shape, t.dtype) for t in got]
    scale = max(float(t.double().abs().max()) for t in wanted)
    assert np.isfinite(scale)
    apart = max(float((a.double() - b.double()).abs().max()) for a, b in zip(wanted, got, strict=True))
    return apart / scale if apart else 0.0


def assert_equal(wanted: list[torch.Tensor], got: list[torch.Tensor]) -> None:
    assert max(float(t.double().abs().max()) for t in wanted) > 0
    assert difference(wanted, got) <= TOLERANCE


class Noted(torch.fx.Interpreter):
    """Runs a program node by node and compares each result with the shape and type that the graph notes of it."""

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor):
            noted = n.meta["val"]
            assert (noted.shape, noted.dtype) == (result.shape, result.dtype), n.format_node()
            assert result.numel(), f"{n.format_node()} is of size zero"
        return result


def run_noted(program: torch.export.ExportedProgram, example: Any) -> list[torch.Tensor]:
    """Run a program on an example; every shape that it notes is asserted."""
    held = [s.target for s in program.graph_signature.input_specs if s.kind is not InputKind.USER_INPUT]
    weights = [program.state_dict[name] for name in held]

    def run(*args: Any, **kwargs: Any) -> Any:
        return Noted(program.graph_module).run(*weights, *torch.utils._pytree.tree_leaves((args, kwargs)))

    return outputs(run, example)


def agree(model: nn.Module, masks: Masks, example: Any) -> list[torch.Tensor]:
    """Assert that masking and removing give the same, and return it."""
    wanted = outputs(masked(model, masks), example)
    slimmed = slim(model, masks)
    assert_equal(wanted, outputs(slimmed.program.module(), example))
    assert_equal(wanted, run_noted(slimmed.program, example))
    return wanted


def scrambled(model: nn.Module, masks: Masks) -> nn.Module:
    """Return the masked model with other values in all rows, biases and statistics of closed units."""
    twin = masked(model, masks)
    found, read = tensors(twin, masks.coupling), {(r.parameter, r.axis) for r in masks.coupling.readers}
    with torch.no_grad():
        for name, cuts in masks.coupling.tensors.items():
            for labels in cuts:
                written_out = name not in found  # by the forward itself: a list of positions, say
                if labels.axis is not None and (name, labels.axis) not in read and not written_out:
                    closed = torch.from_numpy(np.flatnonzero(~masks.open[labels.units]))
                    part = found[name].index_select(labels.axis, closed)
                    if part.is_floating_point():
                        other = torch.rand_like(part) + 0.5
                    elif part.dtype == torch.bool:
                        other = ~part
                    else:  # positions of something: others of the list, which exist
                        other = found[name].flip(labels.axis).index_select(labels.axis, closed)
                    found[name].index_copy_(labels.axis, closed, other)
    return twin


def check(
    model: nn.Module, example: Any, units: int | None = None, *, seeds: int = 3, unknown: tuple[str, ...] = ()
) -> Coupling:
    """Assert the contract on random masks, and the number of units where it is given."""
    model = randomise(model)
    coupling = trace(model, example)
    assert coupling.unknown == unknown
    assert units is None or coupling.units == units
    dense = outputs(model, example)
    assert max(float(t.double().std()) for t in dense if t.numel() > 1) > 0
    for seed in range(seeds):
        masks = Masks.random(coupling, 0.5, seed)
        if masks.open.all():
            masks = Masks.random(coupling, 0.8, seed)
        wanted = agree(model, masks, example)
        if not masks.open.all():
            assert any(float((a.double() - b.double()).abs().max()) > 1e-6 for a, b in zip(wanted, dense, strict=True))
            assert_equal(wanted, outputs(scrambled(model, masks), example))
    assert_equal(dense, outputs(model, example))
    return coupling
