"""What a baseline records of today's artefacts, how it is written, and what an update raised and lowered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgel0.checks.baseline import SCHEMA, Baseline, Figures, Layers, read_baseline
from edgel0.checks.figures import Subject, figure
from edgel0.checks.paths import matches
from edgel0.checks.publishing import publish
from edgel0.errors import BudgetError
from edgel0.quantities import METRICS, format_amount, format_percent
from edgel0.types import Limit

ALWAYS = ("size", "weight_bytes", "macs", "params", "activation_bytes", "operators", "transposes")


def record(limits: Iterable[Limit], folder: Path, names: Mapping[str, list[Limit]] | None = None) -> Baseline:
    """Take the figures of all artefacts that limits are about: what limits ask for, and what files tell anyway."""
    wanted = names if names is not None else by_artifact(limits, folder)
    figures: dict[str, Figures] = {}
    layers: dict[str, Layers] = {}
    for name, about in sorted(wanted.items()):
        subject = Subject(folder, name)
        found = {metric: figure(subject, metric, {}) for metric in ALWAYS}
        rows: dict[str, float | str] = {key: value for value, key in found.values() if not isinstance(value, str)}
        for limit in about:
            value, key = figure(subject, limit.metric, {**limit.qualifiers, "absolute": False})
            if not isinstance(value, str) or limit.bound not in ("max", "min") or subject.trouble:
                rows[key] = value
        figures[name], layers[name] = rows, subject.layers
    return Baseline(figures, layers)


def by_artifact(limits: Iterable[Limit], folder: Path) -> dict[str, list[Limit]]:
    """Return the limits of each artefact, by its path below the folder; those of level ``off`` are left out."""
    found: dict[str, list[Limit]] = {}
    for limit in limits:
        if limit.level != "off":
            for name in matches(folder, limit.patterns or (limit.path,)):
                found.setdefault(name, []).append(limit)
    return found


def update(path: Path, limits: Iterable[Limit], folder: Path) -> list[str]:
    """Write the baseline of today's artefacts and say, line by line, what it raised, lowered, added and dropped.

    Raises:
        BudgetError: a figure that a limit asks for is missing; the file is left as it was.
    """
    before = read_baseline(path) if path.exists() or path.is_symlink() else Baseline({})
    after = record(limits, folder)
    for name, figures in after.figures.items():
        for key, value in figures.items():
            if isinstance(value, str):
                raise BudgetError(f"{path} is left as it was: {key} of {name!r} is unknown: {value}.")
    if not after.figures:
        raise BudgetError(f"{path} is left as it was: no file fits the budgets' paths.")
    publish(path, dumped(after).rstrip("\n"))
    return changes(before, after)


def changes(before: Baseline, after: Baseline) -> list[str]:
    """Say what differs, in the order of files and metrics."""
    lines = []
    for name in sorted({*before.figures, *after.figures}):
        if name not in after.figures:
            lines.append(f"dropped  {name}")
            continue
        old, new = before.figures.get(name, {}), after.figures[name]
        if name not in before.figures:
            lines.append(f"added    {name}")
        for key in sorted({*old, *new}, key=_place):
            lines += _change(f"{name}: {key}", old.get(key), new.get(key))
    return lines


def dumped(baseline: Baseline) -> str:
    """Return the content of a baseline file; one line for each figure and each layer."""
    entries = []
    for name, figures in sorted(baseline.figures.items()):
        ordered = sorted(figures.items(), key=lambda item: _place(item[0]))
        rows = [f"        {json.dumps(key)}: {json.dumps(value)}" for key, value in ordered]
        layers = [
            f"        {json.dumps(layer)}: {json.dumps(dict(row))}"
            for layer, row in baseline.layers.get(name, {}).items()
        ]
        parts = [f'      "figures": {_braced(rows)}', f'      "layers": {_braced(layers)}']
        entries.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(parts) + "\n    }")
    inner = "{\n" + ",\n".join(entries) + "\n  }" if entries else "{}"
    return f'{{\n  "schema": {SCHEMA},\n  "artifacts": {inner}\n}}\n'


def _braced(rows: list[str]) -> str:
    return "{\n" + ",\n".join(rows) + "\n      }" if rows else "{}"


def _change(what: str, old: float | str | None, new: float | str | None) -> list[str]:
    """Say how one figure has moved."""
    kind = METRICS[what.rpartition(": ")[2].split(" ")[0]]
    if isinstance(new, str) or new == old or (old is None and new is None):
        return []
    if new is None:
        return [f"dropped  {what}"]
    if old is None or isinstance(old, str):
        return [f"new      {what} {format_amount(new, kind)}"]
    share = f" ({'+' if new > old else ''}{format_percent(new / old - 1)})" if old else ""
    verb = "raised " if new > old else "lowered"
    return [f"{verb}  {what} {format_amount(old, kind)} -> {format_amount(new, kind)}{share}"]


def _place(key: str) -> tuple[int, str]:
    """Sort keys of figures in the order of metrics."""
    return list(METRICS).index(key.split(" ")[0]), key
