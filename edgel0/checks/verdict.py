"""Which limits hold: every limit gets one verdict for each of its files, and a missing figure is a failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path

from edgel0.checks.baseline import NAME, Baseline, read_baseline
from edgel0.checks.figures import Subject, figure
from edgel0.checks.paths import chosen, matches, plain, printable
from edgel0.checks.wording import excess, label
from edgel0.errors import BudgetError
from edgel0.quantities import METRICS
from edgel0.types import Limit, Verdict

SHOWN = 3  # of the layers that are largest or have grown most


def check(limits: Iterable[Limit], baseline: Baseline | None = None) -> list[Verdict]:
    """Hold every limit against the figure of its artefacts, and of ``baseline`` where it is relative.

    Paths are relative to the folder of ``qualifiers["config"]``, the working folder without one. Without a baseline
    the ``edgel0-baseline.json`` of that folder is read, if there is one.

    Raises:
        BudgetError: there is nothing to check, or a limit names an unknown metric.
        RecipeError: the baseline cannot be read.
    """
    limits = list(limits)
    if not limits:
        raise BudgetError("there is no limit to check; a check of nothing would always pass.")
    for unknown in {limit.metric for limit in limits} - set(METRICS):
        raise BudgetError(f"a limit names the metric {unknown!r}; known are {', '.join(METRICS)}.")
    subjects: dict[tuple[Path, str], Subject] = {}
    held = {folder: baseline or _committed(folder) for folder in {home(limit) for limit in limits}}
    verdicts = []
    for limit in _spread(limits, held):
        folder = home(limit)
        subject = subjects.setdefault((folder, limit.path), Subject(folder, limit.path))
        verdicts.append(_judge(limit, subject, held[folder]))
    return verdicts


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return 0 when every limit of level ``error`` holds, else 1."""
    return 1 if any(verdict.status == "FAIL" for verdict in verdicts) else 0


def home(limit: Limit) -> Path:
    """Return the folder that a limit's paths are relative to."""
    return Path(limit.qualifiers.get("config", "")).parent


def _committed(folder: Path) -> Baseline | None:
    return read_baseline(folder / NAME) if (folder / NAME).exists() or (folder / NAME).is_symlink() else None


def _spread(limits: list[Limit], held: Mapping[Path, Baseline | None]) -> Iterator[Limit]:
    """Yield each limit once for each file that it is about, file by file; a glob of nothing stays itself."""
    for (_, _, patterns), group in groupby(limits, key=lambda limit: (limit.name, home(limit), _patterns(limit))):
        about = list(group)
        names, baseline = matches(home(about[0]), patterns), held[home(about[0])]
        if baseline is not None and not baseline.revision:
            names += sorted(set(chosen(baseline.figures, patterns)) - set(names))  # recorded, and gone
        for name in names or patterns[:1]:
            for limit in about:
                yield replace(limit, name=_named(limit, name, patterns), path=name)


def _patterns(limit: Limit) -> tuple[str, ...]:
    return limit.patterns or (limit.path,)


def _named(limit: Limit, name: str, patterns: tuple[str, ...]) -> str:
    """Return the name of a limit on one file, which says the file where the pattern may mean several."""
    if name in (patterns[0], plain(patterns[0])) and len(patterns) == 1:
        return limit.name
    return printable(name if limit.name == patterns[0] else f"{limit.name}: {name}")


def _judge(limit: Limit, subject: Subject, baseline: Baseline | None) -> Verdict:
    """Compare one figure with one limit."""
    if limit.level == "off":
        return Verdict(limit, None, True, "off")
    value, key = figure(subject, limit.metric, limit.qualifiers)
    if isinstance(value, str):
        if set("*?[") & set(limit.path) and not subject.path.exists():
            value = f"no file fits the pattern {limit.path!r}"
        return Verdict(limit, None, False, f"{label(limit)} is unknown: {value}")
    before = baseline.of(subject.name, key) if baseline else NOTHING
    known = None if isinstance(before, str) else before
    if limit.bound in ("max", "min"):
        allowed: float = limit.maximum
    elif known is None:
        if baseline and baseline.revision and subject.name not in {*baseline.figures, *baseline.absent}:
            return Verdict(limit, value, True, f"{label(limit)}: new, for {baseline.origin} has no such file")
        return Verdict(limit, value, False, f"{label(limit)} cannot be compared: {before}")
    else:
        allowed = _allowed(limit, known)
    against = baseline.origin if baseline and known is not None else ""
    passed = value >= allowed if limit.bound in ("min", "decrease") else value <= allowed
    if passed:
        return Verdict(limit, value, True, "", known, allowed, (), against)
    parts = _largest(limit.metric, subject, baseline)
    return Verdict(limit, value, False, excess(limit, value, allowed, known), known, allowed, parts, against)


def _allowed(limit: Limit, base: float) -> float:
    """Return the figure that a relative limit just allows; bytes and counts are whole."""
    moved = BOUNDS[limit.bound](Fraction(base), Fraction(limit.maximum).limit_denominator(10**9))
    return math.floor(moved) if METRICS[limit.metric] in ("bytes", "count") else round(float(moved), 12)


def _largest(metric: str, subject: Subject, baseline: Baseline | None) -> tuple[tuple[str, float, float | None], ...]:
    """Return the layers that have grown most since the baseline, or that are largest where none has grown."""
    part = PARTS.get(metric, metric)
    rows = {layer: row[part] for layer, row in subject.layers.items() if row.get(part)}
    before = baseline.layers.get(subject.name) if baseline else None
    if before:
        grown = {layer: size - before.get(layer, {}).get(part, 0) for layer, size in rows.items()}
        most = sorted((layer for layer in grown if grown[layer] > 0), key=lambda layer: -grown[layer])
        if most:
            return tuple((layer, rows[layer], grown[layer]) for layer in most[:SHOWN])
    return tuple((layer, rows[layer], None) for layer in sorted(rows, key=lambda layer: -rows[layer])[:SHOWN])


NOTHING = f"there is no {NAME}; write it with  edgel0 baseline update  and commit it"

# Metric of a file -> the metric of its layers that explains it.
PARTS = {"size": "weight_bytes", "compressed": "weight_bytes"}

# Relative bound -> the figure that is just allowed, from the baseline's and the limit.
BOUNDS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "increase": lambda base, limit: base + limit,
    "increase%": lambda base, limit: base * (1 + limit),
    "decrease": lambda base, limit: base - limit,
}
