"""What does a recipe ask for? One TOML file: a model, data, how to train, what to reach, what to write and check."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.checks.config import read_limits
from edgel0.checks.source import Source, read_source
from edgel0.errors import RecipeError, nearest
from edgel0.types import Limit

SCHEMA = 1


def _bounded(default: Any, least: float, most: float = float("inf"), above: bool = False) -> Any:
    """A number with bounds; ``above`` excludes the lower one."""
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

    macs: str | float | None = None
    params: str | float | None = None
    size: str | float | None = None


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
    min_secs: float = _bounded(1.0, 0)


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
        """Import ``module:function``; the module is a file beside the recipe, or one that Python can import.

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
    if document.get("schema", SCHEMA) != SCHEMA:
        raise source.error("schema", f"schema {document['schema']!r} was found and {SCHEMA} is what this version reads")
    name = _value(source, "name", document.get("name", path.stem), str)
    if not name or name.startswith(".") or any(c in name for c in "/\\:\0\n"):
        raise source.error("name", f"name {name!r} cannot be a folder's name; use letters, digits, - and _")
    return Recipe(
        path=path,
        text=path.read_text(encoding="utf-8-sig"),
        name=name,
        seed=_value(source, "seed", document.get("seed", 0), int),
        build=_reference(source, "model", "build"),
        load=_reference(source, "data", "load"),
        budgets=tuple(read_limits(path, strict=False)) if "budget" in document else (),
        **{key: _table(source, key, kind) for key, kind in TABLES.items()},
    )


def load_function(reference: str, folder: Path) -> Callable[..., Any]:
    """Import ``module:function`` or ``path/file.py:function`` (see :meth:`Recipe.function`)."""
    module_name, _, function_name = reference.rpartition(":")
    file = folder / (module_name if module_name.endswith(".py") else module_name.replace(".", "/") + ".py")
    try:
        if file.is_file():
            spec = importlib.util.spec_from_file_location(file.stem, file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(file.stem, module)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, ValueError) as error:
        raise RecipeError(
            f"{reference!r} cannot be imported: {error}. Neither {file} nor a Python module {module_name!r} gives it; "
            "write module:function with the module's file beside the recipe."
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        hint = nearest(function_name, vars(module))
        raise RecipeError(f"{reference!r}: {file.name} has no function {function_name!r}{hint}.")
    return found  # type: ignore[no-any-return]


def _reference(source: Source, table: str, key: str) -> str:
    entry = source.document.get(table)
    if not isinstance(entry, dict):
        raise source.error(table, f'a table [{table}] with {key} = "module:function" is needed')
    source.refuse_unknown(entry, (key,), f"{table}.")
    value = _value(source, f"{table}.{key}", entry.get(key, ""), str)
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
    values = {}
    for name, value in entry.items():
        address, spec = f"{key}.{name}", fields[name]
        if kind is Limits:
            values[name] = _value(source, address, value, (str, int, float))
        elif isinstance(spec.default, tuple):
            values[name] = _choices(source, address, value, spec.metadata["choices"])
        elif "choices" in spec.metadata:
            values[name] = _choices(source, address, [value], spec.metadata["choices"])[0]
        else:
            values[name] = _number(source, address, value, type(spec.default), **spec.metadata)
    return kind(**values)


def _value(source: Source, address: str, value: Any, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise source.error(address, f"{value!r} is {type(value).__name__}, and {kinds} is needed")
    return value


def _number(source: Source, address: str, value: Any, kind: type, least: float, most: float, above: bool) -> Any:
    value = _value(source, address, value, (int, float) if kind is float else int)
    if not (least < value if above else least <= value) or not value <= most:
        bounds = f"{'above' if above else 'at least'} {least:g}" + (f" and at most {most:g}" if most < 1e300 else "")
        raise source.error(address, f"{value!r} was found and a number {bounds} is needed")
    return kind(value)


def _choices(source: Source, address: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise source.error(address, f"{value!r} was found where a list of {', '.join(known)} is needed")
    for item in value:
        if item not in known:
            hint = nearest(str(item), known)
            raise source.error(address, f"{item!r} was found; known are {', '.join(known)}{hint}")
    return tuple(value)
