"""Which limits a TOML file sets: its ``[[budget]]`` entries, checked key by key.

Every mistake is a :class:`~edgel0.errors.RecipeError` of one paragraph that begins with file and line.
"""

from __future__ import annotations

import reprlib
from pathlib import Path, PureWindowsPath
from typing import Any

from edgel0.checks.source import Source, read_source
from edgel0.errors import BudgetError, RecipeError, nearest
from edgel0.quantities import METRICS, Share, parse_limit
from edgel0.types import Limit

OURS = ("edgel0.toml", "pyproject.toml")
LIMITS = {"max_size": "size", "max_macs": "macs", "max_params": "params", "latency": "latency"}
STATS = ("p10", "p50", "p90")


def find_config(folder: Path) -> Path:
    """Return the ``edgel0.toml`` of a folder, or else its ``pyproject.toml``."""
    for name in OURS:
        if (folder / name).is_file():
            return folder / name
    raise RecipeError(f"there is no {' or '.join(OURS)} in '{folder}'; name a TOML file that holds [[budget]].")


def read_limits(path: Path | str, strict: bool | None = None) -> list[Limit]:
    """Read the limits of every ``[[budget]]``; in ``pyproject.toml`` of every ``[[tool.edgel0.budget]]``.

    ``strict`` refuses what stands beside ``budget``; by default where the place is ours alone: all of ``edgel0.toml``,
    ``tool.edgel0`` of ``pyproject.toml``. ``Limit.qualifiers`` holds ``config``, the file, and for latency ``stat``
    and, where one was named, ``runtime``.
    """
    source = read_source(Path(path))
    table, prefix = source.document, ""
    if source.path.name == "pyproject.toml":
        table, prefix = _inner(_inner(table, "tool"), "edgel0"), "tool.edgel0."
    entries = table.get("budget")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        found = "a budget that is not a list of tables" if "budget" in table else "no budget"
        hint = "" if "budget" in table else _alike(table)
        raise source.error(f"{prefix}budget", f"found {found}; write [[{prefix}budget]] with a path and a limit{hint}")
    if strict or (strict is None and source.path.name in OURS):
        source.refuse_unknown(table, ("budget",), prefix)
    limits: list[Limit] = []
    for number, entry in enumerate(entries):
        address = f"{prefix}budget[{number}]"
        found_here = _limits(source, address, entry)
        if any(limit.name == found_here[0].name for limit in limits):
            text = f"two budgets are called {found_here[0].name!r}; give each a name of its own"
            raise source.error(f"{address}.name", text)
        limits += found_here
    return limits


def _limits(source: Source, address: str, entry: dict[str, Any]) -> list[Limit]:
    """Read one entry: at least one limit, in the order of ``LIMITS``."""
    source.refuse_unknown(entry, ("name", "path", *LIMITS), f"{address}.")
    if "path" not in entry:
        raise source.error(address, 'a budget without a path; write path = "…", the artefact it watches')
    path = _text(source, f"{address}.path", entry["path"])
    _stay_inside(source, f"{address}.path", path)
    name = _text(source, f"{address}.name", entry.get("name", path))
    limits = []
    for key in (key for key in LIMITS if key in entry):
        at = f"{address}.{key}"
        amount, qualifiers = _latency(source, at, entry[key]) if key == "latency" else (entry[key], {})
        maximum = _maximum(source, at, amount, LIMITS[key])
        qualifiers = {"config": str(source.path), **qualifiers}
        limits.append(Limit(name, path, LIMITS[key], maximum, str(amount).strip(), qualifiers, source.line(at)))
    if not limits:
        raise source.error(address, f"the budget {name!r} sets no limit; write one of {', '.join(LIMITS)}")
    return limits


def _maximum(source: Source, address: str, amount: Any, metric: str) -> float:
    """Read an absolute amount; a share would need a model to be a share of."""
    try:
        maximum = parse_limit(amount, METRICS[metric])
    except BudgetError as error:
        raise RecipeError(f"{source.where(address)}: {address.rpartition('.')[2]}: {error}") from error
    if isinstance(maximum, Share):
        raise source.error(
            address, f"{amount!r} is a share, and a check knows no dense model; write an absolute amount"
        )
    return maximum


def _latency(source: Source, address: str, value: Any) -> tuple[str, dict[str, str]]:
    """Read ``"5 ms"`` or ``{max = "5 ms", stat = "p50", runtime = "onnxruntime"}``."""
    table = value if isinstance(value, dict) else {"max": value}
    source.refuse_unknown(table, ("max", "stat", "runtime"), f"{address}.")
    if "max" not in table:
        raise source.error(address, 'a latency without a limit; write max = "5 ms"')
    amount = _text(source, f"{address}.max" if isinstance(value, dict) else address, table["max"], 'such as "5 ms"')
    stat = _text(source, f"{address}.stat", table.get("stat", "p50"))
    if stat not in STATS:
        text = f"unknown statistic {stat!r}; known are {', '.join(STATS)}{nearest(stat, STATS)}"
        raise source.error(f"{address}.stat", text)
    qualifiers = {"stat": stat}
    if "runtime" in table:
        qualifiers["runtime"] = _text(source, f"{address}.runtime", table["runtime"])
    return amount, qualifiers


def _text(source: Source, address: str, value: Any, such: str = "on one line, not empty") -> str:
    """Accept a string that can be shown in a table."""
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    found = reprlib.repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
    raise source.error(address, f"{address.rpartition('.')[2]} is {found}; write a string {such}")


def _stay_inside(source: Source, address: str, path: str) -> None:
    """Refuse a path that leaves the folder of the TOML file, on any system and through any symbolic link."""
    folder = source.path.parent.resolve()
    parts = PureWindowsPath(path)  # knows both slashes, drives and shares
    try:
        place = (folder / path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise source.error(address, f"the path {path!r} leads nowhere ({error}); name a file") from error
    if parts.anchor or ".." in parts.parts or place == folder or not place.is_relative_to(folder):
        text = f"the path {path!r} is not inside the folder of this file; write a relative path to a file below it"
        raise source.error(address, text)


def _inner(table: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table of a table, empty when there is none."""
    inner = table.get(key, {})
    return inner if isinstance(inner, dict) else {}


def _alike(table: dict[str, Any]) -> str:
    """Say which key was perhaps meant to be ``budget``."""
    return next((f"; did you mean that by {key!r}?" for key in table if nearest(key, ("budget",))), "")
