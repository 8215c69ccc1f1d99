"""Which parts does a report of one run have? Each has a finding in words, a figure, and the table behind it."""

# ruff: noqa: RUF001 - typography for people

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgel0.checks.verdict import label
from edgel0.quantities import METRICS
from edgel0.report.bars import Limited, Pair, kept, limits, pairs
from edgel0.report.course import course, keys_of, spans
from edgel0.report.lettering import short
from edgel0.report.plot import Draw
from edgel0.report.reading import COSTS, Part, Run, Timing
from edgel0.report.ridges import ridges
from edgel0.report.scatter import Point, scatter
from edgel0.report.sentence import chance, same_suffix, shared
from edgel0.report.tables import Table
from edgel0.report.wording import (
    NOTHING,
    SAME,
    amount,
    brief,
    compared,
    kib,
    kind_of,
    listed,
    percent,
    plural,
    points,
    runtime_name,
    share,
    times,
    title_of,
)

TOP = 12  # layers or operators that are drawn; all are in the table


@dataclass(frozen=True)
class Section:
    """A part of a report; ``draw`` draws its figure, ``told`` says in words what the figure shows."""

    ident: str
    title: str
    finding: str
    table: Table
    draw: Draw | None = None
    told: str = ""
    notes: tuple[str, ...] = ()


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
    figures += [(f"{suffix} file", a, b, "bytes") for suffix, a, b in _files(run)]
    for runtime, before, after in shared(run):
        figures.append((f"{runtime_name(runtime)} p50", before.p50, after.p50, "ms"))
        figures.append((f"{runtime_name(runtime)} p90", before.p90, after.p90, "ms"))
    for name, a, b, kind in figures:
        if a is not None or b is not None:
            rows.append((name, amount(a, kind), amount(b, kind), share(b / a) if a and b else "", compared(a, b)))
            bars.append((a, b) if a is not None and b is not None else None)
    columns = ("figure", "dense", "slim", "slim of dense", "change")
    return Table("Dense and slim, side by side", columns, tuple(rows), hidden=(3,)), bars


def _files(run: Run) -> list[tuple[str, int, int]]:
    names = [name.removeprefix("dense") for name in run.dense.files]
    pairs = [
        (suffix, run.dense.files[f"dense{suffix}"], run.slim.files.get(f"slim{suffix}"))
        for suffix in names
        if f"dense{suffix}" in run.dense.files
    ]
    return [(suffix, before, after) for suffix, before, after in pairs if after is not None]


# Budgets.


def limited(run: Run) -> list[Limited]:
    """Return every limit: those that training kept to, then the recipe's own budgets."""
    rows = []
    for spent in run.budget:
        kind = kind_of(spent.metric)
        told = f"{amount(spent.slim, kind)} of {amount(spent.limit, kind)}, the limit of training"
        rows.append(_limited(title_of(spent.metric), spent.slim / spent.limit, told))
    for verdict in run.verdicts:
        limit, value = verdict.limit, verdict.value
        name = f"{limit.name}: {label(limit)}"
        kind = METRICS[limit.metric]
        if value is None:
            rows.append(Limited(name, None, "missing", verdict.reason))
        elif limit.maximum:
            told = f"{amount(value, kind)} of {amount(limit.maximum, kind)}, a budget of recipe.toml"
            rows.append(_limited(name, value / limit.maximum, told))
    return rows


def _limited(name: str, taken: float, told: str) -> Limited:
    over = f"exceeded by {share(taken - 1)}" if taken < 2 else f"{times(taken)} the limit"
    status = f"kept, {share(1 - taken)} left" if taken <= 1 else over
    return Limited(name, taken, status, told)


def budget(run: Run) -> Section | None:
    """Hold each limit against what is taken of it."""
    rows = limited(run)
    notes = (f"The budgets of recipe.toml could not be checked: {run.unchecked}",) if run.unchecked else ()
    if not rows:
        empty = Table("Limits and what is taken of them", ("limit",), ())
        return Section("budget", "Budget", "No limit is known.", empty, notes=notes) if notes else None
    broken = [row.name for row in rows if row.share is None or row.share > 1]
    if broken:
        finding = f"{len(broken)} of {plural(len(rows), 'limit')} {'is' if len(broken) == 1 else 'are'} not kept: "
        finding += f"{_first(broken)}."
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


# What is kept.


def channels(run: Run) -> Section | None:
    """Tell what is left of each group of units."""
    groups = {name: pair for name, pair in run.groups.items() if pair[1]}
    if not groups:
        return None
    now, size = (sum(pair[at] for pair in groups.values()) for at in (0, 1))
    gone = [name for name, (left, _) in groups.items() if not left]
    least = min(groups, key=lambda name: groups[name][0] / groups[name][1])
    finding = f"{now:,} of {size:,} units stay ({now / size:.0%}). "
    if gone:
        finding += f"Nothing is left of {_first(gone)}."
    elif len(groups) > 1 and now < size:
        left, whole = groups[least]
        finding += f"{_brief(least)} gave most: {left:,} of its {whole:,} stay."
    rows = tuple((name, f"{size:,}", f"{left:,}", f"{left / size:.1%}") for name, (left, size) in groups.items())
    return Section(
        "kept",
        "What is kept",
        finding + " A unit is a channel, a neuron or an attention head.",
        Table("Units per group, before and after", ("group", "dense", "slim", "kept"), rows),
        lambda width: kept(groups, width),
        _some([f"{name} {left} of {size}" for name, (left, size) in groups.items()]),
    )


def _first(names: list[str]) -> str:
    """Name three, and say how many more there are."""
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return listed([*map(_brief, names[:3]), *more])


def _brief(name: str) -> str:
    """Return as much of a name as a sentence bears."""
    return short(name, 36)


def _some(parts: list[str]) -> str:
    """Say the first dozen in words; the table has all."""
    return ", ".join(parts[:12]) + (f" and {len(parts) - 12} more, in the table." if len(parts) > 12 else ".")


# Training.


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
            f"The target sinks to the limit of {brief(spent.limit, kind)} {_brief(title_of(spent.metric))}; the slim "
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


# Accuracy against cost.


def trade(run: Run) -> Section | None:
    """Set accuracy against the cost that was limited, dense and slim, and the epochs between."""
    limited = [row.metric for row in run.budget if row.metric in COSTS]
    key = next((key for key in (*limited, *COSTS) if run.dense.costs.get(key) and run.slim.costs.get(key)), None)
    if key is None or run.dense.accuracy is None or run.slim.accuracy is None:
        return None
    kind, found = kind_of(key), []
    for name, side in (("dense", run.dense), ("slim", run.slim)):
        assert side.accuracy is not None
        spread = chance(side.accuracy, run.tested)
        found.append(Point(f"{name} {percent(side.accuracy)}", side.costs[key], side.accuracy, name, spread))
    way = [(row.cost[key], row.accuracy) for row in run.history if row.accuracy is not None and row.cost.get(key)]
    change = run.slim.accuracy - run.dense.accuracy
    ends = [brief(point.cost, kind) for point in found]
    told = f"{points(change)} {'more' if change > 0 else 'less'} accurate" if change else "just as accurate"
    finding = f"From {ends[0]} to {ends[1]} {title_of(key)}, and {told}."
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


# Latency.


def timed(run: Run) -> list[tuple[str, Timing]]:
    """Return (kind, timing) of every measured file, those of one runtime together."""
    rows: list[tuple[str, Timing]] = []
    for runtime in dict.fromkeys([*run.dense.timings, *run.slim.timings]):
        rows += [("dense", run.dense.timings[runtime])] if runtime in run.dense.timings else []
        rows += [("slim", run.slim.timings[runtime])] if runtime in run.slim.timings else []
        suffix = rows[-1][1].file.rpartition(".")[2]
        rows += [("small", s.timing) for s in run.small if s.timing and s.name.rpartition(".")[2] == suffix]
    rows += [("small", s.timing) for s in run.small if s.timing and all(t is not s.timing for _, t in rows)]
    return rows


def latency(run: Run) -> Section | None:
    """Show how the times of single inferences are spread."""
    rows = timed(run)
    if not rows:
        return None
    found = []
    for runtime, dense, slim in shared(run):
        change = dense.p50 / slim.p50
        word = "as fast" if 1 / SAME <= change <= SAME else f"{times(max(change, 1 / change))} "
        word += "" if word == "as fast" else "faster" if change > 1 else "slower"
        found.append(f"{word} in {runtime_name(runtime)} ({brief(dense.p50, 'ms')} to {brief(slim.p50, 'ms')})")
    finding = f"Slim is {listed(found)}." if found else "Only one of dense and slim was measured."
    raw = any(timing.samples_ms for _, timing in rows)
    finding += (
        " A ridge is the spread of single inferences; the line under it spans p10 to p90."
        if raw
        else (" Raw samples were not kept: a line spans p10 to p90.")
    )
    table = tuple(
        (
            t.file,
            runtime_name(t.runtime),
            *(amount(value, "ms") for value in (t.p10, t.p50, t.p90)),
            NOTHING if t.runs is None else f"{t.runs:,}",
            NOTHING if t.threads_observed is None else f"{t.threads_observed:.2f} of {t.threads or 1}",
        )
        for _, t in rows
    )
    thinned = any(t.every > 1 for _, t in rows)
    every = ["Of more than 20,000 samples of a file every n-th is drawn; the percentiles are those of all."] * thinned
    notes = [f"{t.file}: {note}." for _, t in rows for note in t.notes]
    return Section(
        "latency",
        "Latency",
        finding,
        Table(
            "Times of one inference",
            ("file", "runtime", "p10", "p50", "p90", "runs", "threads observed"),
            table,
            words=(1,),
        ),
        lambda width: ridges(rows, width),
        _some([f"{t.file} p50 {brief(t.p50, 'ms')}" for _, t in rows]),
        (*notes, *every),
    )


# Where it goes.


def where(run: Run) -> Section | None:
    """Tell which operators take the time, or, as long as nobody profiled them, which layers take the MACs."""
    for runtime, dense, slim in shared(run):
        if dense.operators and slim.operators:
            title = f"Time per operator in {runtime_name(runtime)}"
            return _where("Where the time goes", title, dense.operators, slim.operators, "ms", "time")
    if not run.dense.layers or not run.slim.layers:
        return None
    note = "These are multiply-accumulates, not time: no runtime's operators were profiled in this run."
    return _where("Where the MACs go", "MACs per layer", run.dense.layers, run.slim.layers, "count", "MACs", note)


def _where(
    title: str, caption: str, dense: Sequence[Part], slim: Sequence[Part], kind: str, noun: str, note: str = ""
) -> Section | None:
    before, after = _summed(dense), _summed(slim)
    totals = sum(before.values()), sum(after.values())
    if not totals[0] or not totals[1]:
        return None
    names = [*before, *(name for name in after if name not in before)]
    drawn = sorted(names, key=lambda name: -max(before.get(name, 0), after.get(name, 0)))[:TOP]
    rows = [
        Pair(
            name,
            before.get(name),
            after.get(name),
            f"{_or_gone(before.get(name), kind)} → {_or_gone(after.get(name), kind)}",
        )
        for name in names
        if name in drawn
    ]
    most = max(after, key=lambda name: after[name])
    finding = f"{_brief(most)} takes {after[most] / totals[1]:.0%} of the slim network's {noun}"
    finding += f", and took {before[most] / totals[0]:.0%} of the dense one's." if most in before else "."
    if len(names) > len(drawn):
        finding += f" The {len(drawn)} largest of {len(names)} are drawn."
    table = tuple(
        (
            name,
            amount(before.get(name), kind),
            f"{before.get(name, 0) / totals[0]:.1%}",
            amount(after.get(name), kind),
            f"{after.get(name, 0) / totals[1]:.1%}",
        )
        for name in names
    )
    return Section(
        "where",
        title,
        f"{finding} Grey is dense, blue below it is slim.",
        Table(caption, ("name", "dense", "share of dense", "slim", "share of slim"), table),
        lambda width: pairs(rows, width),
        _some([f"{row.name} {row.told}" for row in rows]),
        (note,) if note else (),
    )


def _or_gone(value: float | None, kind: str) -> str:
    return "gone" if value is None else brief(value, kind)


def _summed(parts: Sequence[Part]) -> dict[str, float]:
    """Add what bears one name; layers of several operators, or an operator that is run in pieces."""
    found: dict[str, float] = {}
    for part in parts:
        found[part.name] = found.get(part.name, 0.0) + part.amount
    return found


# Fewer bits, and equality.


def smaller(run: Run) -> Section | None:
    """Set the files in fewer bits beside their float32 twins."""
    if not run.small:
        return None
    rows, fastest = [], 0
    for small in run.small:
        p50 = small.timing.p50 if small.timing else None
        taken = p50 / small.float32_p50 if p50 and small.float32_p50 else None
        fastest += taken is not None and taken < 1 / SAME
        rows.append(
            (
                small.name.removeprefix("slim."),
                amount(small.bytes, "bytes"),
                percent(small.accuracy),
                amount(p50, "ms"),
                NOTHING if taken is None else f"{taken:.2f} ×",
            )
        )
    least = min((small.bytes for small in run.small if small.bytes), default=None)
    found = same_suffix(run)
    finding = f"{plural(len(rows), 'file')} of the slim network in fewer bits"
    if least is not None:
        finding += f", the smallest of {kib(least)}"
        finding += f", {times(found[1] / least)} smaller than the dense {found[0]} file" if found else ""
    finding += f". {fastest} of {len(rows)} {'is' if fastest == 1 else 'are'} faster than float32 here."
    columns = ("file", "size", "accuracy", "p50", "of float32")
    return Section("bits", "In fewer bits", finding, Table("Files in fewer bits", columns, tuple(rows), hidden=(3,)))


def equality(run: Run) -> Section | None:
    """Tell how far each file is from the model that it was made of."""
    if not run.parity:
        return None
    table = tuple(
        (
            row.name,
            row.reference,
            NOTHING if row.max_abs is None else f"{row.max_abs:.1e}",
            NOTHING if row.top1 is None else f"{row.top1:.1%}",
            NOTHING if row.samples is None else f"{row.samples:,}",
        )
        for row in run.parity
    )
    fewer = {small.name for small in run.small}
    exact = [row.max_abs for row in run.parity if row.max_abs is not None and row.name not in fewer]
    tops = [row.top1 for row in run.parity if row.top1 is not None]
    finding = "Each was run on the same samples as the model that it came from. "
    finding += f"In float32 no output differs by more than {max(exact):.1e}. " if exact else ""
    if tops:
        finding += f"The same class comes first on {'all' if min(tops) == 1 else f'at least {min(tops):.1%}'} of them."
    finding += " Fewer bits round, so their outputs do differ." if fewer else ""
    columns = ("what", "compared with", "largest difference", "same top-1", "samples")
    shown = Table("Differences", columns, table, words=(1,), hidden=(1, 4))
    return Section("equality", "Compared at every step", finding.strip(), shown)
