"""Which limits hold: every limit gets one verdict, and a missing figure is a failure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgel0.checks.figures import figure, read_sidecar
from edgel0.errors import BudgetError
from edgel0.quantities import METRICS, format_amount, format_percent
from edgel0.types import Limit, Verdict


def check(limits: Iterable[Limit]) -> list[Verdict]:
    """Hold every limit against the figure of its artefact: at most the maximum passes.

    Paths are relative to the folder of ``qualifiers["config"]``, the working folder without one.
    """
    limits = list(limits)
    if not limits:
        raise BudgetError("there is no limit to check; a check of nothing would always pass.")
    for unknown in {limit.metric for limit in limits} - set(METRICS):
        raise BudgetError(f"a limit names the metric {unknown!r}; known are {', '.join(METRICS)}.")
    sidecars = {path: read_sidecar(path) for path in {_place(limit) for limit in limits if limit.metric != "size"}}
    verdicts = []
    for limit in limits:
        path = _place(limit)
        found = figure(path, limit.metric, limit.qualifiers, sidecars.get(path, ""))
        if isinstance(found, str):
            verdicts.append(Verdict(limit, None, False, f"{label(limit)} is unknown: {found}"))
        else:
            passed = found <= limit.maximum
            verdicts.append(Verdict(limit, found, passed, "" if passed else _excess(limit, found)))
    return verdicts


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return 0 when every limit holds, else 1."""
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def label(limit: Limit) -> str:
    """Name the metric as a person would: ``size``, ``MACs``, ``latency p50 (onnxruntime)``."""
    if limit.metric != "latency":
        return {"macs": "MACs"}.get(limit.metric, limit.metric)
    runtime = limit.qualifiers.get("runtime")
    return f"latency {limit.qualifiers.get('stat', 'p50')}" + (f" ({runtime})" if runtime else "")


def _place(limit: Limit) -> Path:
    """Find the artefact from the folder of the configuration file."""
    return Path(limit.qualifiers.get("config", "")).parent / limit.path


def _excess(limit: Limit, value: float) -> str:
    """Say by how much, in units and in percent."""
    kind = METRICS[limit.metric]
    over = value - limit.maximum
    share = f" or {format_percent(over / limit.maximum)}" if limit.maximum else ""
    return (
        f"{label(limit)}: {format_amount(value, kind)} exceeds the limit of {format_amount(limit.maximum, kind)} "
        f"by {format_amount(over, kind)}{share}"
    )
