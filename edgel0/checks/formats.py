"""How verdicts are shown: ``FORMATS``, a table for people, and what programs and CI services read.

A format is a function from verdicts to a ``str``, to be written as it is, or to something that a rich console prints.
A new one is a function and a row in ``FORMATS``. Names and reasons may be foreign: each format escapes them in its way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgel0.checks.annotations import as_benchmark, as_github
from edgel0.checks.junit import as_junit
from edgel0.checks.markdown import as_markdown
from edgel0.checks.sarif import as_sarif
from edgel0.checks.wording import advice, amount, drift, headroom, label, limit_of, percentages, plain, summary
from edgel0.types import Verdict

SCHEMA = 1


def as_text(verdicts: Sequence[Verdict]) -> RenderableType:
    """Return a table of all limits, then one line for each failure with what to do about it."""
    moved = any(verdict.baseline is not None for verdict in verdicts)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for title, width in (("Artefact", 7), ("Metric", 6)):  # names fold, numbers never
        table.add_column(title, overflow="fold", min_width=width if moved else 9)
    for title in ("Value", "Limit", "Headroom", *(["Drift"] if moved else [])):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Status", no_wrap=True)
    for verdict in verdicts:
        cells = _row(verdict)
        table.add_row(*map(Text, cells if moved else [*cells[:5], cells[6]]), style=STYLES[verdict.status])
    lines = [Text(f"{verdict.limit.name}: {advice(verdict)}") for verdict in verdicts if not verdict.passed]
    new = [
        Text(f"{verdict.limit.name}: {verdict.reason}.")
        for verdict in verdicts
        if verdict.passed and verdict.value and verdict.reason
    ]
    return Group(table, *lines, *new, Text(summary(verdicts)))


def as_json(verdicts: Sequence[Verdict]) -> str:
    """Return one object per check in a stable order; bytes and counts are integers, times are milliseconds.

    ``schema.json`` beside this module is its JSON schema.
    """
    passed = all(verdict.status != "FAIL" for verdict in verdicts)
    document = {"schema": SCHEMA, "passed": passed, "checks": [_check(verdict) for verdict in verdicts]}
    return json.dumps(document, indent=2, allow_nan=False)


def _check(verdict: Verdict) -> dict[str, object]:
    """Return one verdict as plain values."""
    limit = verdict.limit
    about: dict[str, object] = {
        key: limit.qualifiers[key] for key in ("stat", "board", "core", "runtime") if key in limit.qualifiers
    }
    return {
        "name": limit.name,
        "path": limit.path,
        "metric": limit.metric,
        **about,
        "bound": limit.bound.rstrip("%"),
        "value": plain(limit, verdict.value),
        "limit": plain(limit, limit_of(verdict)),
        "headroom": plain(limit, None if verdict.value is None else headroom(verdict)),
        "baseline": plain(limit, verdict.baseline),
        "drift": None if drift(verdict) is None else round(drift(verdict) or 0, 6),
        "against": verdict.against or None,
        "level": limit.level,
        "status": verdict.status.lower(),
        "passed": verdict.passed,
        "reason": verdict.reason,
        "message": limit.message,
        "config": limit.qualifiers.get("config"),
        "line": limit.line,
        "largest": [{"layer": layer, "value": value, "growth": growth} for layer, value, growth in verdict.largest],
    }


def _row(verdict: Verdict) -> list[str]:
    """Return the cells of one verdict; a size takes two lines, so that all columns fit 80 characters."""
    value, maximum = "" if verdict.status == "off" else "missing", ""
    if verdict.value is not None:
        value = amount(verdict.limit, verdict.value).replace(" (", "\n(")
    if limit_of(verdict) is not None:
        maximum = amount(verdict.limit, limit_of(verdict) or 0).replace(" (", "\n(")
    return [verdict.limit.name, label(verdict.limit), value, maximum, *percentages(verdict), verdict.status]


STYLES = {"ok": None, "off": "dim", "warn": "yellow", "FAIL": "red"}

FORMATS: dict[str, Callable[[Sequence[Verdict]], RenderableType]] = {
    "text": as_text,
    "json": as_json,
    "markdown": as_markdown,
    "github": as_github,
    "junit": as_junit,
    "sarif": as_sarif,
    "github-action-benchmark": as_benchmark,
}
