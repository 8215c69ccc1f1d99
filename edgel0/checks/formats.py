"""How verdicts are shown: a table for people, JSON for programs.

A format is a function from verdicts to a ``str``, to be written as it is, or to something that a rich console prints.
A new one is a function and a row in ``FORMATS``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgel0.checks.verdict import label
from edgel0.quantities import METRICS, format_amount, format_percent
from edgel0.types import Limit, Verdict

SCHEMA = 1


def as_text(verdicts: Sequence[Verdict]) -> RenderableType:
    """Return a table of all limits, then one line for each failure with what to do about it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for title in ("Artefact", "Metric"):  # names fold, numbers never
        table.add_column(title, overflow="fold", min_width=9)
    for title in ("Value", "Limit", "Headroom"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Status", no_wrap=True)
    for verdict in verdicts:
        table.add_row(*map(Text, _row(verdict)), style=None if verdict.passed else "red")
    failed = [verdict for verdict in verdicts if not verdict.passed]
    lines = [Text(f"{verdict.limit.name}: {_advice(verdict)}") for verdict in failed]
    kept = Text(f"{len(verdicts) - len(failed)} of {len(verdicts)} limits kept.")
    return Group(table, *lines, kept)


def as_json(verdicts: Sequence[Verdict]) -> str:
    """Return one object per check in a stable order; bytes and counts are integers, times are milliseconds."""
    checks = [
        {
            "name": verdict.limit.name,
            "path": verdict.limit.path,
            "metric": verdict.limit.metric,
            "value": _plain(verdict.limit, verdict.value),
            "limit": _plain(verdict.limit, verdict.limit.maximum),
            "headroom": _plain(verdict.limit, None if verdict.value is None else verdict.limit.maximum - verdict.value),
            "passed": verdict.passed,
            "reason": verdict.reason,
        }
        for verdict in verdicts
    ]
    passed = all(verdict.passed for verdict in verdicts)
    return json.dumps({"schema": SCHEMA, "passed": passed, "checks": checks}, indent=2, allow_nan=False)


def _row(verdict: Verdict) -> tuple[str, ...]:
    """Return the cells of one verdict; a size takes two lines, so that six columns fit 80 characters."""
    limit, kind = verdict.limit, METRICS[verdict.limit.metric]
    value, headroom = "missing", ""
    if verdict.value is not None:
        value = format_amount(verdict.value, kind).replace(" (", "\n(")
        headroom = format_percent((limit.maximum - verdict.value) / limit.maximum) if limit.maximum else ""
    maximum = format_amount(limit.maximum, kind).replace(" (", "\n(")
    return limit.name, label(limit), value, maximum, headroom, "ok" if verdict.passed else "FAIL"


def _advice(verdict: Verdict) -> str:
    """Say what failed and the two ways out."""
    limit = verdict.limit
    place = limit.qualifiers.get("config", "the configuration") + (f":{limit.line}" if limit.line else "")
    if verdict.value is None:
        return f"{verdict.reason}. Restore the figure, or remove the limit in {place}."
    return f"{verdict.reason}. Shrink the model, or raise the limit in {place}."


def _plain(limit: Limit, number: float | None) -> int | float | None:
    """Return integers for bytes and counts, and milliseconds without the noise of a subtraction."""
    if number is None:
        return None
    return round(number, 6) if METRICS[limit.metric] == "ms" else int(number)


FORMATS: dict[str, Callable[[Sequence[Verdict]], RenderableType]] = {"text": as_text, "json": as_json}
