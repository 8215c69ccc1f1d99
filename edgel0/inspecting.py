"""What can be removed from a model? Its stages and groups, how much each would save, and what is pinned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgel0.capturing import Example, arguments, unwrap
from edgel0.cost import cost_of, macs, sums, weights
from edgel0.errors import UsageError, nearest
from edgel0.importing import load_function, load_object
from edgel0.naming import module_of
from edgel0.reaching import smallest
from edgel0.totals import Product, compile_sum
from edgel0.tracing import trace
from edgel0.types import Coupling

ROWS = 20  # stages that a person can take in at once
COARSE = 0.4  # a stage with a larger share of the MACs is divided, while there are rows left
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
INPUT = r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>[1-9]\d*(?:x[1-9]\d*)*)(?::(?P<dtype>[a-z]+\d*)(?::(?P<below>\d+))?)?"


def model_of(reference: str, folder: Path) -> tuple[nn.Module, Example | None]:
    """Import a model, its class, or a function that makes one, as ``my_model.py:build`` names it.

    A function may return ``(model, example)`` as well; else the example is None.

    Raises:
        RecipeError: it cannot be imported or called.
        UsageError: it is, or makes, something else than a module.
    """
    found = load_object(reference, folder)
    made = found if isinstance(found, nn.Module) else load_function(reference, folder)()
    example = None
    if isinstance(made, tuple) and len(made) == 2:
        made, example = made
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"{reference!r} gives {type(made).__name__}; it must be or return a torch.nn.Module, or return the pair "
            "(module, example)."
        )
    return made, example


def example_of(texts: Sequence[str], model: nn.Module) -> Example:
    """Make inputs as ``[name=]shape[:dtype[:below]]`` says: ``1x3x224x224``, ``ids=1x12:int64:99``.

    Floats are normally distributed; the default dtype is that of the model's parameters. Whole numbers are zeros, which
    every embedding takes, or with ``below`` drawn from ``0 .. below - 1``; bools are True. Named inputs make a dict.

    Raises:
        UsageError: a text is malformed, some inputs are named and others are not, or there is no memory for them.
    """
    like = next((p for p in model.parameters() if p.is_floating_point() and not p.is_meta), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    made: list[tuple[str | None, torch.Tensor]] = []
    for text in texts:
        match = re.fullmatch(INPUT, text, re.ASCII)
        if match is None:
            raise UsageError(
                f"--input {text!r} is no shape; write sizes joined by x, and if need be a dtype and a bound for whole "
                "numbers: 1x3x224x224, 1x12:int64, or ids=1x12:int64:99 for an argument by name."
            )
        dtype = DTYPES.get(match["dtype"] or "", like.dtype)
        if match["dtype"] and match["dtype"] not in DTYPES:
            raise UsageError(
                f"--input {text!r} asks for the dtype {match['dtype']!r}; known are {', '.join(DTYPES)}"
                f"{nearest(match['dtype'], DTYPES)}."
            )
        below = int(match["below"]) if match["below"] else None
        if below is not None and (dtype.is_floating_point or dtype.is_complex or not 0 < below < 2**63):
            raise UsageError(f"--input {text!r} has a bound; one from 1 for whole numbers was expected: 1x12:int64:99.")
        shape = tuple(int(size) for size in match["shape"].split("x"))
        try:
            tensor = _filled(shape, dtype, below, generator).to(like.device)
        except (RuntimeError, TypeError) as error:  # TypeError: a size beyond 64 bits
            raise UsageError(f"an input of the shape {match['shape']} cannot be made; give a smaller one.") from error
        made.append((match["name"], tensor))
    named = {name: tensor for name, tensor in made if name}
    if named and len(named) < len(made):
        raise UsageError("some of the inputs have no name, or two the same; name each of them, or none.")
    return named or tuple(tensor for _, tensor in made)


def _filled(shape: tuple[int, ...], dtype: torch.dtype, below: int | None, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator).to(dtype)
    if below is not None:
        return torch.randint(below, shape, generator=generator).to(dtype)
    return torch.full(shape, dtype == torch.bool, dtype=dtype)


def examine(model: nn.Module, example: Example, *, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """Trace a model, but for what ``exclude`` keeps, and say what can be removed from it, as plain JSON values.

    * ``schema``: 1; ``model``: its class; ``inputs``: name (None by position), shape and dtype of each tensor.
    * ``units``: how many there are; ``cost``: of the dense model: ``macs``, ``params``, ``weight_bytes``,
      ``activation_bytes``. What follows are shares of it, from 0 to 1.
    * ``least``: what is left of ``macs`` and ``params`` when all units go but those without which no output is left.
    * ``stages``: the parts of the model, of about the same size. Each has its ``name`` (a module path, or ``a … b`` for
      neighbours), the ``units`` that it makes, its ``macs`` and ``params``, and under ``removable`` what of them goes
      in the least network.
    * ``groups``: each has its ``name``, ``units`` and ``writers``, and the ``macs`` and ``params`` of the whole model
      that go when all its units but one do.
    * ``pins``: each has the ``operator``, the ``module`` path it runs in, the ``reason``, the number of ``labels``
      (channels) that it pinned, the ``source`` line (or ""), and whether the operator is ``unknown``. ``unknown`` lists
      those operators.

    Raises:
        UsageError, TraceError: as :func:`edgel0.trace` does.
    """
    model = unwrap(model)
    coupling = trace(model, example, exclude=exclude)
    costs = sums(coupling)
    everything = torch.ones(coupling.units + 1, dtype=torch.float64)
    dense = {metric: max(float(costs[metric](everything)), 1.0) for metric in ("macs", "params")}
    least = torch.from_numpy(smallest(coupling).astype(np.float64))
    groups = []
    for group in coupling.groups:
        alive = everything.clone()
        alive[group.start + 1 : group.stop] = 0
        saved = {metric: 1 - float(costs[metric](alive)) / whole for metric, whole in dense.items()}
        groups.append({"name": group.name, "units": group.size, "writers": list(group.writers), **saved})
    args, kwargs = arguments(example)
    return {
        "schema": 1,
        "model": type(model).__name__,
        "inputs": [
            {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in [*((None, value) for value in args), *kwargs.items()]
            if isinstance(value, torch.Tensor)
        ],
        "units": coupling.units,
        "cost": cost_of(coupling).as_dict(),
        "least": {metric: float(costs[metric](least)) / whole for metric, whole in dense.items()},
        "unknown": list(coupling.unknown),
        "stages": _stages(coupling, dense, least),
        "groups": groups,
        "pins": [{k: v for k, v in vars(pin).items() if k != "node"} for pin in coupling.pins],
    }


def _stages(coupling: Coupling, dense: dict[str, float], least: torch.Tensor) -> list[dict[str, Any]]:
    """Divide the model by module paths and cost each part, dense and in the least network."""
    nodes = {node.name: node for node in coupling.program.graph.nodes}
    spent: dict[str, list[tuple[str, Product]]] = {"macs": [], "params": []}
    for name, products in macs(coupling).items():
        spent["macs"] += [(module_of(nodes[name]), product) for product in products]
    for name, (elements, _, learns) in weights(coupling).items():
        if learns:
            spent["params"].append((name.rpartition(".")[0], elements))
    everything = torch.ones_like(least)
    size = {path: 0.0 for path, _ in spent["params"] + spent["macs"]}  # parameters stand in the order of the modules
    for path, product in spent["macs"]:
        size[path] += float(compile_sum([product])(everything)) / dense["macs"]
    stages = []
    for name, paths in divide(size).items():
        stage: dict[str, Any] = {
            "name": name,
            "units": sum(g.size for g in coupling.groups if g.writers[0].rpartition(".")[0] in paths),
            "removable": {},
        }
        for metric, parts in spent.items():
            total = compile_sum([product for path, product in parts if path in paths])
            whole, left = float(total(everything)), float(total(least))
            stage[metric] = whole / dense[metric]
            stage["removable"][metric] = (whole - left) / dense[metric]
        stages.append(stage)
    return stages


def divide(size: dict[str, float]) -> dict[str, set[str]]:
    """Divide module paths, each with its share of the whole, into at most ``ROWS`` stages of neighbours.

    The largest stage is divided into its children again and again, until none has more than ``COARSE``. Children that
    are too many for the rows that are left are bundled.
    """
    stages: list[tuple[str, list[str]]] = [("", list(size))]
    settled: set[str] = set()
    while True:
        open_ones = [stage for stage in stages if stage[0] not in settled]
        if not open_ones:
            break
        largest = max(open_ones, key=lambda stage: sum(size[path] for path in stage[1]))
        settled.add(largest[0])
        if len(stages) > 1 and sum(size[path] for path in largest[1]) <= COARSE:
            break
        children = _children(*largest)
        if len(children) < 2 and [name for name, _ in children] == [largest[0]]:
            continue
        at, room = stages.index(largest), ROWS - len(stages) + 1
        if len(children) > room > 1 or (len(stages) == 1 and len(children) > ROWS):
            children = _bundled(children, room)
            settled |= {name for name, _ in children}
        if len(children) <= room:
            stages[at : at + 1] = children
    return {name or "(model)": set(paths) for name, paths in stages}


def _children(name: str, paths: list[str]) -> list[tuple[str, list[str]]]:
    """Sort the paths of one stage by the next part of the path; what the module does itself keeps its name."""
    found: dict[str, list[str]] = {}
    for path in paths:
        rest = path.removeprefix(name).removeprefix(".") if name else path
        child = f"{name}.{rest.partition('.')[0]}".strip(".") if rest else name
        found.setdefault(child, []).append(path)
    return list(found.items())


def _bundled(children: list[tuple[str, list[str]]], room: int) -> list[tuple[str, list[str]]]:
    """Join neighbours to ``room`` stages, named by the first and the last."""
    width = -(-len(children) // room)
    bundles = []
    for at in range(0, len(children), width):
        run = children[at : at + width]
        name = run[0][0] if len(run) == 1 else f"{run[0][0]} … {run[-1][0].rpartition('.')[2]}"
        bundles.append((name, [path for _, paths in run for path in paths]))
    return bundles
