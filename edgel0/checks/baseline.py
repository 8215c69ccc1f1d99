"""What artefacts cost when somebody last agreed to it: ``edgel0-baseline.json``, committed beside the configuration.

Sorted, whole bytes, and no time, host or folder in it: the same artefacts give the same file anywhere. ``figures`` are
by metric and all that they depend on (``instructions on cortex-a72, onnxruntime 1.32.0``), so that a figure of another
runtime is not comparable instead of wrong. ``layers`` say which layer has grown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.errors import RecipeError, nearest
from edgel0.quantities import METRICS

NAME = "edgel0-baseline.json"
SCHEMA = 1
REVISION = "revision"  # what the origin of one that is taken from git begins with
LAYERS = ("weight_bytes", "macs", "params")

Layers = Mapping[str, Mapping[str, int]]
Figures = Mapping[str, float | str]  # str: why it is missing


@dataclass(frozen=True)
class Baseline:
    """Figures and layers by artefact; ``origin`` names where they are from, a file or a revision of git.

    ``absent`` says of artefacts without figures why they can have none.
    """

    figures: Mapping[str, Figures]
    layers: Mapping[str, Layers] = field(default_factory=dict)
    origin: str = NAME
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def revision(self) -> bool:
        """Tell whether it was taken from git, not from a file."""
        return self.origin.startswith(REVISION)

    def of(self, name: str, key: str) -> float | str:
        """Return the figure of an artefact, or why there is none to compare with."""
        if name in self.absent:
            return self.absent[name]
        if name not in self.figures:
            return f"{self.origin} has no entry for this file; add it with  edgel0 baseline update  and commit that"
        held = self.figures[name]
        if key in held:
            found = held[key]
            return f"{found} (in {self.origin})" if isinstance(found, str) else found
        alike = sorted(other for other in held if other.split(" ")[0] == key.split(" ")[0])
        if alike:
            there = ", ".join(map(repr, alike))
            return f"not comparable: {self.origin} holds {there}, and this is {key!r}; run  edgel0 baseline update"
        return f"{self.origin} holds no {key} of this file; add it with  edgel0 baseline update  and commit that"


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        RecipeError: it is missing, cannot be read, or something in it is not as ``write`` writes it.
    """
    if path.is_symlink():
        raise RecipeError(f"{path}: this is a symbolic link, which leads out of what is committed. {AGAIN}")
    try:
        text = path.read_bytes().decode("utf-8")
        document = json.loads(text, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8. {AGAIN}") from error
    except json.JSONDecodeError as error:
        conflict = " It holds the marks of a merge." if "<<<<<<<" in text else ""
        raise RecipeError(
            f"{path}:{error.lineno}:{error.colno}: this is not JSON: {error.msg}.{conflict} {AGAIN}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: this is not a baseline: {str(error) or 'nested too deeply'}. {AGAIN}") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}). {AGAIN}") from error
    table = _table(path, "the file", document, ("schema", "artifacts"))
    if type(table.get("schema")) is not int or table["schema"] != SCHEMA:
        raise RecipeError(f"{path}: schema {table.get('schema')!r:.40} was found and {SCHEMA} is what is read. {AGAIN}")
    entries = _table(path, "artifacts", table.get("artifacts"), None)
    held = {name: _table(path, repr(name), entry, ("figures", "layers")) for name, entry in entries.items()}
    return Baseline(
        {name: _figures(path, name, entry.get("figures")) for name, entry in held.items()},
        {name: _layers(path, name, entry.get("layers", {})) for name, entry in held.items()},
        path.name,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: one of the two would be lost silently."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.80} stands twice")
        found[key] = value
    return found


def _table(path: Path, what: str, value: Any, known: tuple[str, ...] | None) -> dict[str, Any]:
    """Accept an object with known keys, and keys that can be shown."""
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: {what} is {_kind(value)}, and an object is needed. {AGAIN}")
    for key in value:
        if not key or not key.isprintable():
            raise RecipeError(f"{path}: {what} holds the key {key!r:.80}, which cannot be shown. {AGAIN}")
        if known is not None and key not in known:
            hint = nearest(key, known)
            raise RecipeError(f"{path}: unknown key {key!r:.80} in {what}; known are {', '.join(known)}{hint}. {AGAIN}")
    return value


def _figures(path: Path, name: str, value: Any) -> dict[str, float]:
    table = _table(path, f"figures of {name!r}", value, None)
    for key, figure_there in table.items():
        metric = key.split(" ")[0]
        if metric not in METRICS:
            text = (
                f"unknown metric {metric!r:.80} of {name!r}; known are {', '.join(METRICS)}{nearest(metric, METRICS)}"
            )
            raise RecipeError(f"{path}: {text}. {AGAIN}")
        _number(path, f"{key} of {name!r}", figure_there, whole=METRICS[metric] in ("bytes", "count"))
    return table


def _layers(path: Path, name: str, value: Any) -> dict[str, dict[str, int]]:
    table = _table(path, f"layers of {name!r}", value, None)
    for layer, row in table.items():
        for key, amount in _table(path, f"layer {layer!r} of {name!r}", row, LAYERS).items():
            _number(path, f"{key} of layer {layer!r}", amount, whole=True)
    return table


def _number(path: Path, what: str, value: Any, whole: bool) -> None:
    """Accept a number from 0 to 2**63; nan and infinity are outside."""
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not 0 <= value < 2**63:
        shown = "an enormous number" if isinstance(value, int) and abs(value) >= 2**63 else _kind(value)
        wanted = "a whole number" if whole else "a number"
        raise RecipeError(f"{path}: {what} is {shown}, and {wanted} from 0 to 2^63 is needed. {AGAIN}")


def _kind(value: Any) -> str:
    return f"{value!r:.40}" if value is None or isinstance(value, (bool, float, int)) else type(value).__name__


AGAIN = "Take it from git again, or delete it and write it anew with  edgel0 baseline update."
