"""What does a recipe ask for? One TOML file: a model, data, how to train, what to reach, what to write and check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.checks.config import read_limits
from edgel0.checks.paths import chosen
from edgel0.checks.source import Source, read_source
from edgel0.errors import BudgetError, nearest
from edgel0.exporters.precision import SMALLER
from edgel0.importing import load_function
from edgel0.quantities import Kind, parse_limit
from edgel0.types import SHARES, Limit

SCHEMA = 1


def _bounded(default: Any, least: float, most: float = 1e9, above: bool = False) -> Any:
    """Declare a number with bounds; ``above`` excludes the lower one."""
    return field(default=default, metadata={"least": least, "most": most, "above": above})


@dataclass(frozen=True)
class Training:
    """How weights are trained; epochs of each phase, one epoch is the training set once.

    ``epochs`` alone is enough: what a phase is not given is its share of them. ``dense_epochs`` 0 begins with a trained
    model. ``schedule`` "phases" anneals the learning rate in the dense phase and, to zero, in settling, and keeps it in
    between, so that weights follow the gates; "cosine" anneals it once, over the whole run. ``distill`` has the dense
    model teach from then on, unless ``teacher`` (``module:function``) returns another one; its share of the loss is
    ``distill_weight``. ``accumulate`` batches make a step, ``clip`` is the largest norm of its gradient (0: any), and
    ``ema`` the decay of an average of the weights while settling (0: none).
    """

    optimizer: str = field(default="adam", metadata={"choices": ("adam", "adamw", "sgd")})
    learning_rate: float = _bounded(1e-3, 0, above=True)
    schedule: str = field(default="phases", metadata={"choices": ("phases", "cosine")})
    weight_decay: float = _bounded(0.0, 0)
    batch_size: int = _bounded(100, 1)
    accumulate: int = _bounded(1, 1)
    clip: float = _bounded(0.0, 0)
    precision: str = field(default="float32", metadata={"choices": ("float32", "bfloat16")})
    epochs: int = _bounded(35, 1)
    dense_epochs: int | None = _bounded(None, 0)
    gating_epochs: int | None = _bounded(None, 1)
    settle_epochs: int | None = _bounded(None, 0)
    label_smoothing: float = _bounded(0.0, 0, 0.9)
    distill: bool = False
    distill_weight: float = _bounded(0.9, 0, 1, above=True)
    distill_temperature: float = _bounded(4.0, 0, 1000, above=True)
    teacher: str = field(default="", metadata={"reference": True})
    ema: float = _bounded(0.0, 0, 0.99999)
    shrink: bool = True
    threads: int = _bounded(2, 1, 1024)

    @property
    def phases(self) -> tuple[int, int, int]:
        """Epochs of the dense, the gating and the settle phase."""
        first, last = round(self.epochs * SHARES[0]), round(self.epochs * SHARES[2])
        usual = (first, max(self.epochs - first - last, 1), last)
        given = (self.dense_epochs, self.gating_epochs, self.settle_epochs)
        dense, gating, settle = (n if own is None else own for own, n in zip(given, usual, strict=True))
        return dense, gating, settle


@dataclass(frozen=True)
class Gating:
    """How gates are trained: see :class:`~edgel0.scheduling.Schedule`, :class:`~edgel0.budget.Budget`, ``attach``.

    ``learning_rate`` and ``multiplier_rate`` 0 choose one by the number of steps. ``warmup`` is the share of the gating
    phase in which the target moves: one that arrives early overshoots, for closed gates rarely open again. ``noise`` is
    that of the first draw; it falls to none.
    """

    learning_rate: float = _bounded(0.0, 0)
    multiplier_rate: float = _bounded(0.0, 0)
    open_probability: float = _bounded(0.99, 0, 0.9999, above=True)
    temperature: float = _bounded(2 / 3, 0, 0.9999, above=True)
    noise: float = _bounded(1.0, 0, 1, above=True)
    redundancy: bool = True
    clamp: float = _bounded(10.0, 3, 80)
    warmup: float = _bounded(0.8, 0, 1)


@dataclass(frozen=True)
class Limits:
    """What the network may cost: numbers, quantities ("140 k", "120 kB") or shares of the dense model ("25 %").

    ``within`` limits parts by a module's name or pattern, each as a table of its own; ``exclude`` names what must stay
    whole, ``keep_at_least`` says how many units each group keeps, one number or a table of them by pattern. See
    :class:`edgel0.limits.Limits` and :func:`edgel0.trace`.
    """

    macs: str | float | None = field(default=None, metadata={"kind": "count"})
    params: str | float | None = field(default=None, metadata={"kind": "count"})
    size: str | float | None = field(default=None, metadata={"kind": "bytes"})
    activations: str | float | None = field(default=None, metadata={"kind": "bytes"})
    storage: str | None = field(default=None, metadata={"choices": ("float32", "float16", "int8")})
    round_to: int = _bounded(1, 1)
    exclude: tuple[str, ...] = ()
    keep_at_least: str | float | dict[str, str | float] | None = None
    within: dict[str, dict[str, str | float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Exports:
    """Which files to write for the dense and for the slim model, by suffix, and for the slim one in which precisions.

    ``verify`` is the number of test samples that they are compared on, ``calibrate`` that of the training samples that
    integer activations get their ranges from. ``max_accuracy_drop`` is by how much a file may be less accurate than the
    slim network; layers of integer files stay in float32 until that holds on the training samples, the most sensitive
    first, or those that ``keep_float`` names by pattern. Before that, where an integer file loses more, the network is
    trained on for ``qat_epochs`` with the rounding of integers, at ``qat_learning_rate`` (0: a tenth of the training's)
    annealed to zero. ``interpreters`` are other Pythons, by path or name, in whose runtimes the slim files must answer
    alike.
    """

    formats: tuple[str, ...] = field(default=("onnx", "tflite"), metadata={"choices": ("onnx", "tflite", "pt2", "pte")})
    layout: str = field(default="nchw", metadata={"choices": ("nchw", "nhwc")})
    verify: int = _bounded(1000, 1)
    quantize: tuple[str, ...] = field(default=(), metadata={"choices": SMALLER})
    calibrate: int = _bounded(256, 1)
    max_accuracy_drop: float = _bounded(1.0, 0, 1)
    keep_float: tuple[str, ...] = ()
    qat_epochs: int = _bounded(0, 0)
    qat_learning_rate: float = _bounded(0.0, 0)
    interpreters: tuple[str, ...] = ()

    @property
    def kept(self) -> str | tuple[str, ...]:
        """Which layers of integer files stay in float32: patterns, "auto", or none."""
        return self.keep_float or ("auto" if self.max_accuracy_drop < 1 else ())

    def quantized(self) -> list[tuple[str, str]]:
        """Return (name of the slim file, precision) of each file beside those in float32."""
        kinds = [kind for kind in self.formats if kind in ("onnx", "tflite")]
        return [(f"slim.{precision}.{kind}", precision) for kind in kinds for precision in self.quantize]


@dataclass(frozen=True)
class Profile:
    """How the written files are measured on this computer."""

    threads: int = _bounded(1, 1, 1024)
    num_runs: int = _bounded(50, 1)
    min_secs: float = _bounded(1.0, 0, 150)


@dataclass(frozen=True)
class Recipe:
    """A whole run; ``text`` is the file itself, ``build``, ``load`` and ``augment`` ("" for none) ``module:function``.

    ``augment(x, generator)`` returns a changed batch of training samples, drawing from the generator alone.
    """

    path: Path
    text: str
    name: str
    seed: int
    build: str
    load: str
    augment: str
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
    for table, keys in (("model", ("build",)), ("data", ("load", "augment"))):
        if isinstance(document.get(table), dict):
            source.refuse_unknown(document[table], keys, f"{table}.")
    recipe = Recipe(
        path=path,
        text=path.read_text(encoding="utf-8-sig"),
        name=name,
        seed=_number(source, "seed", document.get("seed", 0), int, 0, 2**32 - 1, above=False),
        build=_reference(source, "model", "build"),
        load=_reference(source, "data", "load"),
        augment=_function(source, "data.augment", document["data"]["augment"]) if "augment" in document["data"] else "",
        budgets=tuple(read_limits(path, strict=False)) if "budget" in document else (),
        **{key: _table(source, key, kind) for key, kind in TABLES.items()},
    )
    kinds = [f.name for f in dataclasses.fields(Limits) if "kind" in f.metadata]
    if not recipe.limits.within and all(getattr(recipe.limits, name) is None for name in kinds):
        raise source.error("limits", f"no limit was found; write [limits] with one of {', '.join(kinds)}, or within")
    made = [f"{which}.{kind}" for which in ("dense", "slim") for kind in recipe.export.formats]
    made += [name for name, _ in recipe.export.quantized()]
    for limit in recipe.budgets:
        if not chosen(made, limit.patterns or (limit.path,)):
            text = f"this run does not make {limit.path!r}; it makes {', '.join(made)}{nearest(limit.path, made)}"
            raise source.error(f"budget[{_entry(source, limit)}].path", text)
    return recipe


def _entry(source: Source, limit: Limit) -> int:
    """Return the number of the budget that a limit stands in; names are unique."""
    entries = source.document["budget"]
    return next(n for n, entry in enumerate(entries) if entry.get("name", limit.path) == limit.name)


def _reference(source: Source, table: str, key: str) -> str:
    entry = source.document.get(table)
    if not isinstance(entry, dict):
        raise source.error(table, f'a table [{table}] with {key} = "module:function" is needed')
    return _function(source, f"{table}.{key}", entry.get(key, ""))


def _function(source: Source, address: str, value: Any) -> str:
    value = _value(source, address, value, str)
    module, colon, function = value.rpartition(":")
    if not (module and colon and function.isidentifier()):
        raise source.error(address, f'{value!r} was found where "module:function" is needed')
    return str(value)


def _switch(source: Source, address: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise source.error(address, f"{value!r} is {type(value).__name__}, and true or false is needed")
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
        if "kind" in spec.metadata:
            values[name] = _limit(source, address, value, spec.metadata["kind"])
        elif name in READERS:
            values[name] = READERS[name](source, address, value)
        elif isinstance(spec.default, tuple):
            values[name] = _choices(source, address, value, spec.metadata["choices"], none=not spec.default)
        elif isinstance(spec.default, bool):
            values[name] = _switch(source, address, value)
        elif "reference" in spec.metadata:
            values[name] = _function(source, address, value) if value != "" else ""
        elif "choices" in spec.metadata:
            values[name] = _choices(source, address, [value], spec.metadata["choices"])[0]
        else:
            number = int if spec.default is None else type(spec.default)
            values[name] = _number(source, address, value, number, **spec.metadata)
    return kind(**values)


def _limit(source: Source, address: str, value: Any, kind: Kind) -> Any:
    try:
        parse_limit(_value(source, address, value, (str, int, float)), kind)
    except BudgetError as error:
        raise source.error(address, str(error).rstrip(".")) from error
    return value


def _names(source: Source, address: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise source.error(address, f"{value!r} was found where a list of names or patterns is needed")
    return tuple(dict.fromkeys(value))


def _floors(source: Source, address: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {pattern: _limit(source, f"{address}.{pattern}", each, "count") for pattern, each in value.items()}
    return _limit(source, address, value, "count")


def _within(source: Source, address: str, value: Any) -> dict[str, dict[str, str | float]]:
    if not isinstance(value, dict):
        raise source.error(address, f'{value!r} was found where a table [{address}."module"] of limits is needed')
    kinds = {f.name: f.metadata["kind"] for f in dataclasses.fields(Limits) if "kind" in f.metadata}
    del kinds["activations"]  # they are alive across modules
    for pattern, wanted in value.items():
        place = f"{address}.{pattern}"
        if not isinstance(wanted, dict) or not wanted:
            text = f"{wanted!r} was found where a table with one of {', '.join(kinds)} is needed"
            raise source.error(place, text)
        if "activations" in wanted:
            text = "activations are alive across modules, so they can be limited in [limits] alone"
            raise source.error(f"{place}.activations", text)
        source.refuse_unknown(wanted, tuple(kinds), f"{place}.")
        for name, limit in wanted.items():
            _limit(source, f"{place}.{name}", limit, kinds[name])
    return value


# Keys that are no plain value.
READERS: dict[str, Callable[[Source, str, Any], Any]] = {
    "exclude": _names,
    "keep_float": _names,
    "interpreters": _names,
    "keep_at_least": _floors,
    "within": _within,
}


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


def _choices(source: Source, address: str, value: Any, known: tuple[str, ...], none: bool = False) -> tuple[str, ...]:
    if not isinstance(value, list) or not (value or none):
        raise source.error(address, f"{value!r} was found where a list of {', '.join(known)} is needed")
    for item in value:
        if item not in known:
            hint = nearest(str(item), known)
            raise source.error(address, f"{item!r} was found; known are {', '.join(known)}{hint}")
    return tuple(dict.fromkeys(value))
