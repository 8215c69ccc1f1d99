"""How each key of a budget is read: ``LIMITS``, from ``max_size = "120 kB"`` to ``max_increase = "1 %"``.

What the keys of a budget have in common (its path, its name) is read in ``config``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgel0.checks.paths import leaves
from edgel0.checks.sidecar import STATS
from edgel0.checks.source import Source
from edgel0.errors import BudgetError, nearest
from edgel0.quantities import METRICS, Share, parse_accuracy, parse_change, parse_count, parse_limit

OURS = ("edgel0.toml", "pyproject.toml")
NONE_ALLOWED = ("operators", "transposes", "partitions")  # metrics of which 0 is a limit one can keep
GROWTH = ("size", "weight_bytes", "macs", "params", "activation_bytes")  # what max_increase means by itself


@dataclass(frozen=True)
class Entry:
    """One ``[[budget]]``: the file it stands in, its address there, and its content."""

    source: Source
    address: str
    table: Mapping[str, Any]

    def at(self, key: str) -> str:
        """Return the address of a key."""
        return f"{self.address}.{key}"


@dataclass(frozen=True)
class Rule:
    """One promise before it has the name and the files of its budget."""

    key: str
    metric: str
    bound: str
    maximum: float
    text: str
    qualifiers: Mapping[str, Any]


def _plain(metric: str) -> Callable[[Entry, str], Iterator[Rule]]:
    """Make the reader of a key that holds an absolute amount."""

    def read(entry: Entry, key: str) -> Iterator[Rule]:
        amount = entry.table[key]
        yield Rule(key, metric, "max", _maximum(entry.source, entry.at(key), amount, metric), str(amount).strip(), {})

    return read


def _maximum(source: Source, address: str, amount: Any, metric: str) -> float:
    """Read an absolute amount; a share would need a model to be a share of."""
    none = metric in NONE_ALLOWED and amount in (0, "0")
    maximum = _read(source, address, lambda: parse_count(amount) if none else parse_limit(amount, METRICS[metric]))
    if isinstance(maximum, Share):
        text = f"{amount!r} is a share, and a check knows no dense model; write an absolute amount"
        raise source.error(address, text)
    return float(maximum) if METRICS[metric] == "ms" else int(maximum)


def _instructions(entry: Entry, key: str) -> Iterator[Rule]:
    """Read ``{max = "4 M", core = "cortex-a72", runtime = "onnxruntime 1.32.0"}``."""
    at, table = _table(entry, key, ("max", "core", "runtime"), 'such as {max = "4 M", core = "cortex-a72"}')
    if "core" not in table:
        raise entry.source.error(at, 'instructions without a core; write core = "cortex-a72", where they are counted')
    yield from _bound(entry, key, table, "max", _texts(entry, at, table, "max"))


def _latency(entry: Entry, key: str) -> Iterator[Rule]:
    """Read ``{max = "5 ms", board = "rpi4", stat = "p50", runtime = "onnxruntime"}``."""
    source, value = entry.source, entry.table[key]
    if isinstance(value, str):
        text = f'a time without a board says nothing; write {key} = {{max = "{value}", board = "…"}}, where it is kept'
        raise source.error(entry.at(key), text)
    at, table = _table(entry, key, ("max", "board", "stat", "runtime"), 'such as {max = "5 ms", board = "rpi4"}')
    if "max" in table and "board" not in table:
        raise source.error(at, 'a latency without a board; write board = "…", the one on which the limit is kept')
    qualifiers = {"stat": "p50", **_texts(entry, at, table, "max")}
    stat = qualifiers["stat"]
    if stat not in STATS:
        text = f"unknown statistic {stat!r}; known are {', '.join(STATS)}{nearest(stat, STATS)}"
        raise source.error(f"{at}.stat", text)
    if "max" in table:
        text_of(source, f"{at}.max", table["max"], 'such as "5 ms"')
    yield from _bound(entry, key, table, "max", qualifiers)


def _accuracy(entry: Entry, key: str) -> Iterator[Rule]:
    """Read ``"98 %"`` or ``{min = "98 %", result = "runs/NAME/result.json", of = "slim.onnx"}``."""
    value = entry.table[key]
    if not isinstance(value, dict):
        yield from _bound(entry, key, {"min": value}, "min", {})
        return
    at, table = _table(entry, key, ("min", "result", "of"), 'such as "98 %"')
    if "result" in table:
        stay_inside(entry.source, f"{at}.result", table["result"])
    yield from _bound(entry, key, table, "min", _texts(entry, at, table, "min"))


def _bound(
    entry: Entry, key: str, table: Mapping[str, Any], bound: str, qualifiers: Mapping[str, Any]
) -> Iterator[Rule]:
    """Yield the absolute limit of a table; without one it only says what a relative limit is about."""
    metric, source = METRIC_OF[key], entry.source
    at = f"{entry.at(key)}.{bound}" if isinstance(entry.table[key], dict) else entry.at(key)
    if bound in table:
        if bound == "min":
            maximum = _read(source, at, lambda: parse_accuracy(table[bound]))
        else:
            maximum = _maximum(source, at, table[bound], metric)
        told = {**qualifiers, "absolute": True} if metric == "latency" else qualifiers
        yield Rule(key, metric, bound, maximum, str(table[bound]).strip(), told)
    elif metric not in _moving(entry):
        relative = RELATIVE[bound]
        text = f'{key} without a limit; write {bound} = "…", or {relative} = {{{metric} = "1 %"}} beside it'
        raise source.error(entry.at(key), text)


def _relative(entry: Entry, key: str) -> Iterator[Rule]:
    """Read ``"1 %"`` or a table of such by metric: how far a figure may move from the baseline's."""
    source, value, bound = entry.source, entry.table[key], BOUNDS[key]
    if source.path.name not in OURS and set(source.document) - {"budget"}:
        text = f"a recipe's run has no baseline to compare with; put {key} into {OURS[0]}"
        raise source.error(entry.at(key), text)
    if not isinstance(value, dict):
        if not isinstance(value, str) or not (value.strip().endswith("%") or value.strip() == "0"):
            text = f'{key} is {reprlib.repr(value)}; write a percentage such as "1 %", or a table: {{size = "500 B"}}'
            raise source.error(entry.at(key), text)
        value = dict.fromkeys(_moving(entry), value)
    else:
        source.refuse_unknown(value, MOVING[key], f"{entry.at(key)}.")
        if not value:
            raise source.error(entry.at(key), f'{key} is empty; write {{{MOVING[key][0]} = "1 %"}}')
    for metric in (metric for metric in METRICS if metric in value):
        at = f"{entry.at(key)}.{metric}" if isinstance(entry.table[key], dict) else entry.at(key)
        amount = value[metric]
        maximum, share = _read(source, at, lambda: parse_change(amount, METRICS[metric]))  # noqa: B023  called here
        qualifiers = _told(entry, key, metric)
        yield Rule(key, metric, f"{bound}%" if share else bound, maximum, str(amount).strip(), qualifiers)


def _told(entry: Entry, key: str, metric: str) -> dict[str, Any]:
    """Return what another key of the entry says about a metric: on which core, board or in which runtime."""
    home = next((name for name, about in METRIC_OF.items() if about == metric), "")
    about = entry.table.get(home)
    if metric == "instructions" and not isinstance(about, dict):
        raise entry.source.error(
            entry.at(key), 'instructions of which core? write instructions = {core = "cortex-a72"} beside it'
        )
    told = {k: v for k, v in about.items() if k not in ("max", "min")} if isinstance(about, dict) else {}
    return {"stat": "p50", **told} if metric == "latency" else told


def _moving(entry: Entry) -> list[str]:
    """Return the metrics that ``max_increase`` or ``max_decrease`` of an entry is about.

    Without a table: those that the entry limits absolutely, or, where it limits none, ``GROWTH``. Never times and
    accuracies, which are limited relatively by name only.
    """
    found: list[str] = []
    for key, bound in BOUNDS.items():
        value = entry.table.get(key)
        if isinstance(value, dict):
            found += value
        elif value is not None and bound == "increase":
            named = [metric for name, metric in METRIC_OF.items() if name in entry.table]
            found += [metric for metric in named if metric not in ("latency", "accuracy")] or GROWTH
    return found


def _table(entry: Entry, key: str, known: tuple[str, ...], such: str) -> tuple[str, dict[str, Any]]:
    """Return the address and the content of an inline table."""
    value = entry.table[key]
    if not isinstance(value, dict) or not value:
        found = reprlib.repr(value) if isinstance(value, (str, dict)) else type(value).__name__
        raise entry.source.error(entry.at(key), f"{key} is {found}; write a table {such}")
    entry.source.refuse_unknown(value, known, f"{entry.at(key)}.")
    return entry.at(key), value


def _read(source: Source, address: str, read: Callable[[], Any]) -> Any:
    """Read a quantity; what is wrong with it is told with its place."""
    try:
        return read()
    except BudgetError as error:
        raise source.error(address, f"{address.rpartition('.')[2]}: {error}") from error


def _texts(entry: Entry, address: str, table: Mapping[str, Any], but: str) -> dict[str, Any]:
    """Return all of a table but its limit: what the figure depends on, in words."""
    return {key: text_of(entry.source, f"{address}.{key}", value) for key, value in table.items() if key != but}


def text_of(source: Source, address: str, value: Any, such: str = "on one line, not empty") -> str:
    """Accept a string that can be shown in a table."""
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    found = reprlib.repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
    raise source.error(address, f"{address.rpartition('.')[2]} is {found}; write a string {such}")


def stay_inside(source: Source, address: str, path: str) -> None:
    """Refuse a path that leaves the folder of the TOML file, on any system and through any symbolic link."""
    try:
        outside = leaves(source.path.parent, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise source.error(address, f"the path {path!r} leads nowhere ({error}); name a file") from error
    if outside:
        text = f"the path {path!r} is not inside the folder of this file; write a relative path to a file below it"
        raise source.error(address, text)


BOUNDS = {"max_increase": "increase", "max_decrease": "decrease"}
RELATIVE = {"max": "max_increase", "min": "max_decrease"}
MOVING = {
    "max_increase": tuple(metric for metric in METRICS if metric != "accuracy"),
    "max_decrease": ("accuracy",),
}

METRIC_OF = {
    "max_size": "size",
    "max_compressed": "compressed",
    "max_weight_bytes": "weight_bytes",
    "max_macs": "macs",
    "max_params": "params",
    "max_activation_bytes": "activation_bytes",
    "max_operators": "operators",
    "max_transposes": "transposes",
    "max_partitions": "partitions",
    "instructions": "instructions",
    "min_accuracy": "accuracy",
    "latency": "latency",
}

# Key of a budget -> what reads its limits.
LIMITS: dict[str, Callable[[Entry, str], Iterator[Rule]]] = {
    **{key: _plain(metric) for key, metric in METRIC_OF.items() if key.startswith("max_")},
    "instructions": _instructions,
    "min_accuracy": _accuracy,
    "latency": _latency,
    "max_increase": _relative,
    "max_decrease": _relative,
}
