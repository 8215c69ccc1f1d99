"""Which parts tell what became of the network? What is kept, where its cost goes, its files in fewer bits."""

# ruff: noqa: RUF001 - typography for people

from __future__ import annotations

from collections.abc import Sequence

from edgel0.report.bars import Pair, kept, pairs
from edgel0.report.records import Part, Run
from edgel0.report.section import Section, clipped, first, some
from edgel0.report.sentence import same_suffix, shared
from edgel0.report.tables import Table
from edgel0.report.wording import (
    NOTHING,
    SAME,
    amount,
    brief,
    kib,
    percent,
    plural,
    runtime_name,
    share,
    times,
)

TOP = 12  # layers or operators that are drawn; all are in the table


def channels(run: Run) -> Section | None:
    """Tell what is left of each group of units."""
    groups = {name: pair for name, pair in run.groups.items() if pair[1]}
    if not groups:
        return None
    now, size = (sum(pair[at] for pair in groups.values()) for at in (0, 1))
    gone = [name for name, (left, _) in groups.items() if not left]
    least = min(groups, key=lambda name: groups[name][0] / groups[name][1])
    finding = f"{now:,} of {size:,} units stay ({share(now / size)}). "
    if gone:
        finding += f"Nothing is left of {first(gone)}."
    elif len(groups) > 1 and now < size:
        left, whole = groups[least]
        finding += f"{clipped(least)} gave most: {left:,} of its {whole:,} stay."
    rows = tuple((name, f"{size:,}", f"{left:,}", f"{left / size:.1%}") for name, (left, size) in groups.items())
    return Section(
        "kept",
        "What is kept",
        finding + " A unit is a channel, a neuron or an attention head.",
        Table("Units per group, before and after", ("group", "dense", "slim", "kept"), rows),
        lambda width: kept(groups, width),
        some([f"{name} {left} of {size}" for name, (left, size) in groups.items()]),
    )


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
    finding = f"{clipped(most)} takes {after[most] / totals[1]:.0%} of the slim network's {noun}"
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
        f"{finding} The upper bar is dense, the lower one slim.",
        Table(caption, ("name", "dense", "share of dense", "slim", "share of slim"), table),
        lambda width: pairs(rows, width),
        some([f"{row.name} {row.told}" for row in rows]),
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


def smaller(run: Run) -> Section | None:
    """Set the files in fewer bits beside their float32 twins."""
    if not run.small:
        return None
    rows, shares = [], []
    for small in run.small:
        p50 = small.timing.p50 if small.timing else None
        taken = p50 / small.float32_p50 if p50 and small.float32_p50 else None
        shares += [] if taken is None else [taken]
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
    fastest = sum(taken < 1 / SAME for taken in shares)
    faster = (
        f" {fastest} of {len(shares)} {'is' if fastest == 1 else 'are'} faster than float32 here." if shares else ""
    )
    columns = ("file", "size", "accuracy", "p50", "of float32")
    return Section(
        "bits", "In fewer bits", f"{finding}.{faster}", Table("Files in fewer bits", columns, tuple(rows), hidden=(3,))
    )


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
