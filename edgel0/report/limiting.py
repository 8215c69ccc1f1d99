"""Which part tells of budgets? Every limit, and what the slim network takes of it."""

from __future__ import annotations

from edgel0.checks.wording import label
from edgel0.quantities import METRICS
from edgel0.report.bars import Limited, limits
from edgel0.report.records import Run
from edgel0.report.section import Section, first
from edgel0.report.tables import Table
from edgel0.report.wording import (
    NOTHING,
    amount,
    kind_of,
    plural,
    share,
    times,
    title_of,
)


def limited(run: Run) -> list[Limited]:
    """Return every limit: those that training kept to, then the recipe's own budgets."""
    rows = []
    for spent in run.budget:
        kind = kind_of(spent.metric)
        told = f"{amount(spent.slim, kind)} of {amount(spent.limit, kind)}, the limit of training"
        taken = spent.slim / spent.limit
        rows.append(_limited(title_of(spent.metric), taken, taken <= 1, told))
    for verdict in run.verdicts:
        limit, value = verdict.limit, verdict.value
        name = f"{limit.name}: {label(limit)}"
        kind = METRICS.get(limit.metric, "count")
        if value is None:
            rows.append(Limited(name, None, False, "missing", verdict.reason))
        elif limit.maximum:
            told = f"{amount(value, kind)} of {amount(limit.maximum, kind)}, a budget of recipe.toml"
            rows.append(_limited(name, value / limit.maximum, verdict.passed, told))
    return rows


def _limited(name: str, taken: float, kept: bool, told: str) -> Limited:
    if kept:
        status = f"kept, {share(1 - taken)} left" if taken <= 1 else "kept"
    else:
        status = (
            "not kept" if taken <= 1 else f"exceeded by {share(taken - 1)}" if taken < 2 else OVER.format(times(taken))
        )
    return Limited(name, taken, kept, status, told)


def budget(run: Run) -> Section | None:
    """Hold each limit against what is taken of it."""
    rows = limited(run)
    notes = (f"The budgets of recipe.toml could not be checked: {run.unchecked}",) if run.unchecked else ()
    if not rows:
        empty = Table("Limits and what is taken of them", ("limit",), ())
        return Section("budget", "Budget", "No limit is known.", empty, notes=notes) if notes else None
    broken = [row.name for row in rows if not row.kept]
    if broken:
        finding = f"{len(broken)} of {plural(len(rows), 'limit')} {'is' if len(broken) == 1 else 'are'} not kept: "
        finding += f"{first(broken)}."
    else:
        finding = "The one limit is kept." if len(rows) == 1 else f"All {len(rows)} limits are kept."
    table = tuple(
        (row.name, NOTHING if row.share is None else f"{row.share:.1%}", row.status, row.told) for row in rows
    )
    return Section(
        "budget",
        "Budget",
        finding,
        Table("Limits and what is taken of them", ("limit", "taken", "status", "figures"), table, words=(2, 3)),
        lambda width: limits(rows, width),
        "Bars: " + "; ".join(f"{row.name} {row.status}" for row in rows) + ".",
        notes,
    )


OVER = "{} the limit"
