"""What can be removed from a model? Its groups, how much each would save, and what is pinned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgel0.capturing import Example
from edgel0.cost import cost_of, sums
from edgel0.errors import UsageError
from edgel0.importing import load_function, load_object
from edgel0.reaching import smallest
from edgel0.tracing import trace


def model_of(reference: str, folder: Path) -> nn.Module:
    """Import a model, or a function that makes one, as ``my_model.py:build`` names it.

    Raises:
        RecipeError: it cannot be imported or called.
        UsageError: it is, or makes, something else than a module.
    """
    found = load_object(reference, folder)
    made = found if isinstance(found, nn.Module) else load_function(reference, folder)()
    if not isinstance(made, nn.Module):
        raise UsageError(f"{reference!r} gives {type(made).__name__}; it must be or return a torch.nn.Module.")
    return made


def example_of(shapes: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, ...]:
    """Random float inputs of the given shapes.

    Raises:
        UsageError: there is no memory for them.
    """
    generator = torch.Generator().manual_seed(0)
    try:
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)
    except (RuntimeError, TypeError) as error:  # TypeError: a size beyond 64 bits
        raise UsageError(
            f"inputs of the shapes {', '.join(map(str, shapes))} cannot be made; give smaller ones."
        ) from error


def examine(model: nn.Module, example: Example) -> dict[str, Any]:
    """Trace a model and return its groups, costs and pins as plain JSON values; shares are of the dense model."""
    coupling = trace(model, example)
    costs = sums(coupling)
    cost = cost_of(coupling)
    everything = torch.ones(coupling.units + 1, dtype=torch.float64)

    def share(metric: str, alive: torch.Tensor) -> float:
        return float(costs[metric](alive)) / max(float(costs[metric](everything)), 1.0)

    groups = []
    for group in coupling.groups:
        alive = everything.clone()
        alive[group.start + 1 : group.stop] = 0
        saved = {metric: 1 - share(metric, alive) for metric in ("macs", "params")}
        groups.append({"name": group.name, "units": group.size, "writers": list(group.writers), **saved})
    least = torch.from_numpy(smallest(coupling).astype(np.float64))
    return {
        "schema": 1,
        "units": coupling.units,
        "cost": cost.as_dict(),
        "least": {metric: share(metric, least) for metric in ("macs", "params")},
        "unknown": list(coupling.unknown),
        "groups": groups,
        "pins": [{k: v for k, v in vars(pin).items() if k != "node"} for pin in coupling.pins],
    }
