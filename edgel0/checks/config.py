"""Which limits a TOML file sets: its ``[[budget]]`` entries, checked key by key.

Every mistake is a :class:`~edgel0.errors.RecipeError` of one paragraph that begins with file and line.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from edgel0.checks.rules import LIMITS, OURS, Entry, stay_inside, text_of
from edgel0.checks.source import read_source
from edgel0.errors import RecipeError, nearest
from edgel0.types import Limit

LEVELS = ("error", "warn", "off")


def find_config(folder: Path) -> Path:
    """Return the ``edgel0.toml`` of a folder, or else its ``pyproject.toml``."""
    for name in OURS:
        if (folder / name).is_file():
            return folder / name
    raise RecipeError(
        f"there is no {' or '.join(OURS)} in '{folder}'; name a TOML file that holds [[budget]], or write a first one "
        "with  edgel0 init."
    )


def read_limits(path: Path | str, strict: bool | None = None) -> list[Limit]:
    """Read the limits of every ``[[budget]]``; in ``pyproject.toml`` of every ``[[tool.edgel0.budget]]``.

    ``strict`` refuses what stands beside ``budget``; by default where the place is ours alone: all of ``edgel0.toml``,
    ``tool.edgel0`` of ``pyproject.toml``. ``Limit.qualifiers`` holds ``config``, the file, and what else a figure
    depends on: ``stat``, ``runtime``, ``board``, ``core``, ``result``, ``of``.
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
    for number, content in enumerate(entries):
        entry = Entry(source, f"{prefix}budget[{number}]", content)
        found_here = _limits(entry)
        if any(limit.name == found_here[0].name for limit in limits):
            text = f"two budgets are called {found_here[0].name!r}; give each a name of its own"
            raise source.error(entry.at("name"), text)
        limits += found_here
    return limits


def _limits(entry: Entry) -> list[Limit]:
    """Read one entry: at least one limit, in the order of ``LIMITS``."""
    source = entry.source
    source.refuse_unknown(entry.table, ("name", "path", *LIMITS, "level", "message"), f"{entry.address}.")
    if "path" not in entry.table:
        raise source.error(entry.address, 'a budget without a path; write path = "…", the artefact it watches')
    patterns = _patterns(entry)
    name = text_of(source, entry.at("name"), entry.table.get("name", patterns[0]))
    level = text_of(source, entry.at("level"), entry.table.get("level", "error"))
    if level not in LEVELS:
        text = f"unknown level {level!r}; known are {', '.join(LEVELS)}{nearest(level, LEVELS)}"
        raise source.error(entry.at("level"), text)
    message = text_of(source, entry.at("message"), entry.table["message"]) if "message" in entry.table else ""
    rules = [rule for key, read in LIMITS.items() if key in entry.table for rule in read(entry, key)]
    if not rules:
        raise source.error(entry.address, f"the budget {name!r} sets no limit; write one of {', '.join(LIMITS)}")
    return [
        Limit(
            name,
            patterns[0],
            rule.metric,
            rule.maximum,
            rule.text,
            {"config": str(source.path), **rule.qualifiers},
            source.line(entry.at(rule.key)),
            rule.bound,
            level,
            message,
            patterns if len(patterns) > 1 else (),
        )
        for rule in rules
    ]


def _patterns(entry: Entry) -> tuple[str, ...]:
    """Read a path, or a list of paths and patterns, "!" before those to leave out."""
    address, value = entry.at("path"), entry.table["path"]
    items = value if isinstance(value, list) else [value]
    if all(isinstance(item, str) and item.startswith("!") for item in items):
        raise entry.source.error(address, f"path is {reprlib.repr(value)}; write a string, or a list with one at least")
    patterns = [text_of(entry.source, address, item) for item in items]
    for pattern in patterns:
        stay_inside(entry.source, address, pattern.removeprefix("!"))
    return tuple(sorted(patterns, key=lambda pattern: pattern.startswith("!")))


def _inner(table: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table of a table, empty when there is none."""
    inner = table.get(key, {})
    return inner if isinstance(inner, dict) else {}


def _alike(table: dict[str, Any]) -> str:
    """Say which key was perhaps meant to be ``budget``."""
    return next((f"; did you mean that by {key!r}?" for key in table if nearest(key, ("budget",))), "")
