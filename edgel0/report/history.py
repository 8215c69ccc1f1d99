"""Which parts tell how a run went? Its cost on the way to the target, and what that did to its accuracy."""

from __future__ import annotations

from edgel0.report.course import course, keys_of, spans
from edgel0.report.records import COSTS, Run
from edgel0.report.scatter import Point, scatter
from edgel0.report.section import Section, clipped
from edgel0.report.sentence import chance
from edgel0.report.tables import Table
from edgel0.report.wording import (
    amount,
    brief,
    kind_of,
    listed,
    percent,
    plural,
    points,
    title_of,
)


def training(run: Run) -> Section | None:
    """Follow the cost to its target."""
    keys = keys_of(run)
    if not keys:
        return None
    counts = [f"{last - first + 1} {phase}".strip() for phase, first, last in spans(run.history)]
    finding = f"{plural(len(run.history), 'epoch')}: {listed(counts)}. "
    for spent in run.budget[:1]:
        kind = kind_of(spent.metric)
        finding += (
            f"The target sinks to the limit of {brief(spent.limit, kind)} {clipped(title_of(spent.metric))}; the slim "
            f"network takes {brief(spent.slim, kind)}."
        )
    columns = ["epoch", "phase", "accuracy"]
    for key in keys:
        columns += [f"{title_of(key)}, expected", f"{title_of(key)}, target"]
    rows = []
    for at, row in enumerate(run.history, 1):
        costs = [amount(side.get(key), kind_of(key)) for key in keys for side in (row.cost, row.target)]
        rows.append((str(at), row.phase, percent(row.accuracy), *costs))
    return Section(
        "training",
        "Training to the budget",
        finding.strip(),
        Table("Cost and target per epoch", tuple(columns), tuple(rows), words=(1,)),
        lambda width: course(run, width),
        f"Lines over {plural(len(run.history), 'epoch')}: the expected cost follows its target to the limit.",
    )


def trade(run: Run) -> Section | None:
    """Set accuracy against the cost that was limited, dense and slim, and the epochs between."""
    limited = [row.metric for row in run.budget if row.metric in COSTS]
    key = next((key for key in (*limited, *COSTS) if run.dense.costs.get(key) and run.slim.costs.get(key)), None)
    if key is None or run.dense.accuracy is None or run.slim.accuracy is None:
        return None
    kind, found = kind_of(key), []
    for name, side in (("dense", run.dense), ("slim", run.slim)):
        assert side.accuracy is not None
        ends = chance(side.accuracy, run.tested)
        found.append(Point(f"{name} {percent(side.accuracy)}", side.costs[key], side.accuracy, name, ends))
    way = [(row.cost[key], row.accuracy) for row in run.history if row.accuracy is not None and row.cost.get(key)]
    change = run.slim.accuracy - run.dense.accuracy
    before, after = (brief(point.cost, kind) for point in found)
    told = f"{points(change)} {'more' if change > 0 else 'less'} accurate" if change else "just as accurate"
    finding = f"From {before} to {after} {title_of(key)}, and {told}."
    finding += " Small dots are the epochs between." if len(way) > 1 else ""
    if run.tested:
        finding += f" A vertical line spans what chance does to {run.tested:,} test samples (95%)."
    rows = [(p.kind, amount(p.cost, kind), percent(p.accuracy)) for p in found]
    rows += [(f"epoch on the way, {at}", amount(x, kind), percent(y)) for at, (x, y) in enumerate(way, 1)]
    return Section(
        "trade",
        "Accuracy and cost",
        finding,
        Table(f"Accuracy and {title_of(key)}", ("network", title_of(key), "accuracy"), tuple(rows)),
        lambda width: scatter(found, width, kind, title_of(key), way),
        f"Points: {', '.join(f'{p.name} at {brief(p.cost, kind)}' for p in found)}.",
    )
