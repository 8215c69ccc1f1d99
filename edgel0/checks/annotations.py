"""Verdicts as GitHub reads them: workflow commands that mark a budget's line, and points of a chart over time."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgel0.checks.wording import advice, file_of, label, limit_of, percentages, plain, summary
from edgel0.quantities import METRICS
from edgel0.types import Verdict


def as_github(verdicts: Sequence[Verdict]) -> str:
    """Return a ``::error`` or ``::warning`` for each limit that does not hold, then the summary.

    The escapes are those of actions/toolkit (``packages/core/src/command.ts``).
    """
    lines = []
    for verdict in verdicts:
        if not verdict.passed:
            limit = verdict.limit
            place = {"file": file_of(limit), "line": str(limit.line or 1)}
            title = {"title": f"{limit.name}: {label(limit)}"}
            options = ",".join(f"{key}={_option(value)}" for key, value in ({**place, **title}).items())
            lines.append(f"::{COMMANDS[verdict.status]} {options}::{_data(advice(verdict))}")
    # A line that begins with two colons would be a command: the summary begins with a number.
    return "\n".join([*lines, summary(verdicts)])


def as_benchmark(verdicts: Sequence[Verdict]) -> str:
    """Return what github-action-benchmark draws: ``customSmallerIsBetter``, one point for each figure.

    Accuracies, of which more is better, are drawn as errors; figures that are missing are left out.
    """
    points: dict[str, dict[str, object]] = {}
    for verdict in verdicts:
        limit, kind = verdict.limit, METRICS[verdict.limit.metric]
        if verdict.value is None:
            continue
        name = f"{limit.name}: {'error' if kind == 'share' else label(limit) if limit.bound == 'max' else limit.metric}"
        value = 1 - verdict.value if kind == "share" else verdict.value
        bound = limit_of(verdict)
        room = f"headroom {percentages(verdict)[0]}" if bound is not None else ""
        point: dict[str, object] = {"name": name, "unit": UNITS[kind], "value": plain(limit, value), "extra": room}
        points.setdefault(name, point)
    return json.dumps(list(points.values()), indent=2, allow_nan=False)


def _data(text: str) -> str:
    """Escape the text of a workflow command, and what a terminal would obey."""
    shown = "".join(letter if letter.isprintable() or letter in "\r\n" else f"\\x{ord(letter):02x}" for letter in text)
    return shown.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _option(text: str) -> str:
    """Escape the value of an option of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


COMMANDS = {"FAIL": "error", "warn": "warning"}
UNITS = {"bytes": "B", "count": "count", "ms": "ms", "share": "share"}
