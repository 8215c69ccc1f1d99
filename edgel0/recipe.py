"""What does a recipe ask for? One TOML file: a model, data, how to train, what to reach, what to write and check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.checks.config import read_limits
from edgel0.checks.source import Source, read_source
from edgel0.errors import BudgetError, nearest
from edgel0.importing import load_function
from edgel0.quantities import Kind, parse_limit
from edgel0.types import Limit

SCHEMA = 1


def _bounded(default: Any, least: float, most: float = 1e9, above: bool = False) -> Any:
    """Declare a number with bounds; ``above`` excludes the lower one."""
    return field(default=default, metadata={"least": least, "most": most, "above": above})


@dataclass(frozen=True)
class Training:
    """How weights are trained; epochs of each phase, one epoch is the training set once."""

    optimizer: str = field(default="adam", metadata={"choices": ("adam", "adamw", "sgd")})
    learning_rate: float = _bounded(1e-3, 0, above=True)
    weight_decay: float = _bounded(0.0, 0)
    batch_size: int = _bounded(100, 1)
    dense_epochs: int = _bounded(10, 0)
    gating_epochs: int = _bounded(15, 1)
    settle_epochs: int = _bounded(10, 0)
    label_smoothing: float = _bounded(0.0, 0, 0.9)
    distill: float = _bounded(0.0, 0, 1)
    threads: int = _bounded(2, 1, 1024)


@dataclass(frozen=True)
class Gating:
    """How gates are trained; ``learning_rate`` 0 chooses one by the number of steps."""

    learning_rate: float = _bounded(0.0, 0)
    open_probability: float = _bounded(0.97, 0, 0.9999, above=True)
    warmup: float = _bounded(0.8, 0, 1)
    round_to: int = _bounded(1, 1)


@dataclass(frozen=True)
class Limits:
    """What the network may cost: numbers, quantities ("140 k", "120 kB") or shares of the dense model ("25 %")."""

    macs: str | float | None = field(default=None, metadata={"kind": "count"})
    params: str | float | None = field(default=None, metadata={"kind": "count"})
    size: str | float | None = field(default=None, metadata={"kind": "bytes"})


@dataclass(frozen=True)
class Exports:
    """Which files to write for the dense and for the slim model, by suffix."""

    formats: tuple[str, ...] = field(default=("onnx", "tflite"), metadata={"choices": ("onnx", "tflite", "pt2")})
    layout: str = field(default="nchw", metadata={"choices": ("nchw", "nhwc")})
    verify: int = _bounded(1000, 1)


@dataclass(frozen=True)
class Profile:
    """How the written files are measured on this computer."""

    threads: int = _bounded(1, 1, 1024)
    num_runs: int = _bounded(50, 1)
    min_secs: float = _bounded(1.0, 0, 150)


@dataclass(frozen=True)
class Recipe:
    """A whole run; ``text`` is the file itself, ``build`` and ``load`` are ``module:function``."""

    path: Path
    text: str
    name: str
    seed: int
    build: str
    load: str
    train: Training
    gates: Gating
    limits: Limits
    export: Exports
    profile: Profile
    budgets: tuple[Limit, ...]

    def function(self, reference: str) -> Callable[..., Any]:
        """Import ``build`` or ``load``; what it raises when called is a :class:`~edgel0.errors.RecipeError`, too.

        Raises:
            RecipeError: the module or the function is not there.
        """
        return load_function(reference, self.path.parent)


TABLES = {"train": Training, "gates": Gating, "limits": Limits, "export": Exports, "profile": Profile}


def read_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: with file and line: a key that is unknown, missing or of the wrong type, or a value out of range.
    """
    path = Path(path)
    source = read_source(path)
    document = source.document
    source.refuse_unknown(document, ("schema", "name", "seed", "model", "data", *TABLES, "budget"))
    if _value(source, "schema", document.get("schema", SCHEMA), int) != SCHEMA:
        raise source.error("schema", f"schema {document['schema']!r} was found and {SCHEMA} is what this version reads")
    name = _value(source, "name", document.get("name", path.stem), str)
    if not name.strip() or name.startswith(".") or not name.isprintable() or any(c in name for c in "/\\:"):
        raise source.error("name", f"name {name!r} cannot be a folder's name; use letters, digits, - and _")
    recipe = Recipe(
        path=path,
        text=path.read_text(encoding="utf-8-sig"),
        name=name,
        seed=_number(source, "seed", document.get("seed", 0), int, 0, 2**32 - 1, above=False),
        build=_reference(source, "model", "build"),
        load=_reference(source, "data", "load"),
        budgets=tuple(read_limits(path, strict=False)) if "budget" in document else (),
        **{key: _table(source, key, kind) for key, kind in TABLES.items()},
    )
    if recipe.limits == Limits():
        raise source.error("limits", f"no limit was found; write [limits] with one of {', '.join(vars(Limits()))}")
    made = [f"{which}.{kind}" for which in ("dense", "slim") for kind in recipe.export.formats]
    for number, limit in enumerate(recipe.budgets):
        if limit.path not in made:
            text = f"this run does not make {limit.path!r}; it makes {', '.join(made)}{nearest(limit.path, made)}"
            raise source.error(f"budget[{number}].path", text)
    return recipe


def _reference(source: Source, table: str, key: str) -> str:
    entry = source.document.get(table)
    if not isinstance(entry, dict):
        raise source.error(table, f'a table [{table}] with {key} = "module:function" is needed')
    source.refuse_unknown(entry, (key,), f"{table}.")
    value: str = _value(source, f"{table}.{key}", entry.get(key, ""), str)
    module, colon, function = value.rpartition(":")
    if not (module and colon and function.isidentifier()):
        raise source.error(f"{table}.{key}", f'{value!r} was found where "module:function" is needed')
    return value


def _table(source: Source, key: str, kind: Any) -> Any:
    entry = source.document.get(key, {})
    if not isinstance(entry, dict):
        raise source.error(key, f"[{key}] must be a table")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    source.refuse_unknown(entry, tuple(fields), f"{key}.")
    values: dict[str, Any] = {}
    for name, value in entry.items():
        address, spec = f"{key}.{name}", fields[name]
        if kind is Limits:
            values[name] = _limit(source, address, value, spec.metadata["kind"])
        elif isinstance(spec.default, tuple):
            values[name] = _choices(source, address, value, spec.metadata["choices"])
        elif "choices" in spec.metadata:
            values[name] = _choices(source, address, [value], spec.metadata["choices"])[0]
        else:
            values[name] = _number(source, address, value, type(spec.default), **spec.metadata)
    return kind(**values)


def _limit(source: Source, address: str, value: Any, kind: Kind) -> Any:
    try:
        parse_limit(_value(source, address, value, (str, int, float)), kind)
    except BudgetError as error:
        raise source.error(address, str(error).rstrip(".")) from error
    return value


def _value(source: Source, address: str, value: Any, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise source.error(address, f"{value!r} is {type(value).__name__}, and {kinds} is needed")
    return value


def _number(source: Source, address: str, value: Any, kind: type, least: float, most: float, above: bool) -> Any:
    value = _value(source, address, value, (int, float) if kind is float else int)
    if not (least < value if above else least <= value) or not value <= most:  # false for nan, too
        bounds = f"{'above' if above else 'at least'} {least:,g} and at most {most:,.10g}"
        raise source.error(address, f"{value!r} was found and a number {bounds} is needed")
    return kind(value)


def _choices(source: Source, address: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise source.error(address, f"{value!r} was found where a list of {', '.join(known)} is needed")
    for item in value:
        if item not in known:
            hint = nearest(str(item), known)
            raise source.error(address, f"{item!r} was found; known are {', '.join(known)}{hint}")
    return tuple(dict.fromkeys(value))
