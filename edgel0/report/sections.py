"""Which parts does a report of one run have? Each has a finding in words, a figure, and the table behind it."""

# ruff: noqa: RUF001 - typography for people

from __future__ import annotations

from edgel0.report.history import trade, training
from edgel0.report.limiting import budget
from edgel0.report.network import channels, equality, smaller, where
from edgel0.report.records import COSTS, Run
from edgel0.report.section import Section
from edgel0.report.sentence import files_of, shared
from edgel0.report.speed import latency
from edgel0.report.tables import Table
from edgel0.report.wording import (
    NOTHING,
    amount,
    compared,
    kind_of,
    percent,
    points,
    runtime_name,
    share,
    title_of,
)


def sections(run: Run) -> list[Section]:
    """Return the parts that a run has figures for."""
    found = [part(run) for part in (budget, channels, training, trade, latency, where, smaller, equality)]
    return [section for section in found if section is not None]


def key_figures(run: Run) -> tuple[Table, list[tuple[float, float] | None]]:
    """Return dense beside slim, and (dense, slim) of each row whose figures a bar can show."""
    rows: list[tuple[str, ...]] = []
    bars: list[tuple[float, float] | None] = []
    dense, slim = run.dense, run.slim
    if dense.accuracy is not None or slim.accuracy is not None:
        both = dense.accuracy is not None and slim.accuracy is not None
        change = (slim.accuracy or 0) - (dense.accuracy or 0)
        told = f"{'+' if change > 0 else '−'}{points(change)}" if both and change else "the same" if both else NOTHING
        rows.append(("accuracy", percent(dense.accuracy), percent(slim.accuracy), "", told))
        bars.append(None)
    figures = [(title_of(key), dense.costs.get(key), slim.costs.get(key), kind_of(key)) for key in COSTS]
    figures += [(f"{suffix} file", a, b, "bytes") for suffix, a, b in files_of(run)]
    for runtime, before, after in shared(run):
        figures.append((f"{runtime_name(runtime)} p50", before.p50, after.p50, "ms"))
        figures.append((f"{runtime_name(runtime)} p90", before.p90, after.p90, "ms"))
    for name, a, b, kind in figures:
        if a is not None or b is not None:
            rows.append((name, amount(a, kind), amount(b, kind), share(b / a) if a and b else "", compared(a, b)))
            bars.append((a, b) if a is not None and b is not None else None)
    columns = ("figure", "dense", "slim", "slim of dense", "change")
    return Table("Dense and slim, side by side", columns, tuple(rows), hidden=(3,)), bars
