"""How do several runs compare? One page: the front of accuracy against a cost, who is dominated by whom, each run."""

from __future__ import annotations

from collections.abc import Sequence

from edgel0.report.markup import Markup, joined, tag
from edgel0.report.page import document, provenance, section_html
from edgel0.report.pareto import Entry
from edgel0.report.records import Run
from edgel0.report.scatter import Point, scatter
from edgel0.report.section import Section
from edgel0.report.sentence import chance, conditions, same_suffix, sentence, shared
from edgel0.report.tables import Table, html_table
from edgel0.report.wording import amount, brief, kind_of, listed, percent, plural, points, runtime_name, title_of


def comparison_page(entries: Sequence[Entry], metric: str) -> str:
    """Return the page that compares runs by accuracy and ``metric``."""
    head = tag(
        "header",
        tag("p", "edgel0 report", class_="kicker"),
        tag("h1", *(_whole(word) for word in verdict(entries, metric).split(" "))),
        tag("p", " ".join(terms(entries, metric)), class_="terms"),
    )
    front = front_section(entries, metric)
    parts = [section_html(front)] if front else []
    table = html_table(figures_table(entries, metric))
    parts += [tag("section", tag("h2", "In figures", id="figures"), table, class_="figures"), _each(entries)]
    foot = provenance([entry.run for entry in entries], [entry.label for entry in entries])
    return document(verdict(entries, metric), [head, *parts, foot])


def _whole(word: str) -> Markup:
    """Keep a name that has hyphens on one line, where it fits on one."""
    return joined([tag("span", word, class_="whole") if "-" in word else word, " "])


def verdict(entries: Sequence[Entry], metric: str) -> str:
    """Say in a sentence which runs are on the front and which are dominated."""
    best = [entry.label for entry in entries if entry.known and not entry.dominated_by]
    dominated = [entry for entry in entries if entry.dominated_by]
    name = title_of(metric)
    if not best:
        return f"{plural(len(entries), 'run')}: accuracy and {name} are not known of any, so none can be compared."
    on = listed([*best[:4], *([f"{len(best) - 4} more"] if len(best) > 4 else [])])
    text = f"{plural(len(entries), 'run')}, {len(best):,} on the Pareto front of accuracy against {name}: {on}."
    if not dominated:
        return f"{text} None dominates another."
    more = [f"{len(dominated) - 3} more {'is' if len(dominated) == 4 else 'are'}, too"] if len(dominated) > 3 else []
    return f"{text} {listed([*(f'{e.label} is dominated by {e.dominated_by}' for e in dominated[:3]), *more])}."


def terms(entries: Sequence[Entry], metric: str) -> list[str]:
    """Say what stands on the front means, and what cannot be compared."""
    found = [
        f"A run is dominated if another is no less accurate and takes no more {title_of(metric)}, and is better in one "
        "of both."
    ]
    known = [entry for entry in entries if entry.known]
    missing = [entry.label for entry in entries if not entry.known]
    if len({entry.conditions[0] for entry in known}) > 1:
        found.append("These runs were tested on different data; only those with the same are compared.")
    elif len({entry.conditions for entry in known}) > 1:
        found.append("They differ in what they were measured as or on; only those with the same are compared.")
    unsaid = [entry.label for entry in known if not entry.run.digest]
    if unsaid:
        found.append(f"On which data {listed(unsaid)} {'was' if len(unsaid) == 1 else 'were'} tested is not known.")
    most = max((_moved(entry.run) for entry in known), default=0.0)
    if most:
        found.append(f"Chance alone moves these accuracies up or down by as much as {points(most)}.")
    runtimes = [*dict.fromkeys(runtime_name(shared(e.run)[0][2].runtime) for e in entries if shared(e.run))]
    if runtimes:
        found.append(f"Latency is p50 in {listed(runtimes)}.")
    if missing:
        found.append(f"Not measured, and so not compared: {listed(missing)}.")
    return found


def _moved(run: Run) -> float:
    """Return how far chance moves an accuracy, up or down."""
    low, high = chance(run.slim.accuracy or 0.0, run.tested)
    return (high - low) / 2


def front_section(entries: Sequence[Entry], metric: str) -> Section | None:
    """Draw the runs over their cost, the front, and the dense networks they came from."""
    known = [entry for entry in entries if entry.known]
    if not known:
        return None
    kind, found = kind_of(metric), []
    dense: dict[Point, None] = {}  # runs of one seed come from one dense network
    for entry in known:
        assert entry.cost and entry.run.slim.accuracy is not None
        found.append(
            Point(entry.label, entry.cost, entry.run.slim.accuracy, "dominated" if entry.dominated_by else "slim")
        )
        if entry.dense_cost and entry.run.dense.accuracy is not None:
            point = Point("dense", entry.dense_cost, entry.run.dense.accuracy, "dense")
            dense[point] = None
    alike = len({entry.conditions for entry in known}) == 1
    front = [(p.cost, p.accuracy) for p in found if p.kind == "slim"] if alike else []
    words = "Filled points are on the front, crosses are dominated, hollow squares are dense networks."
    return Section(
        "front",
        "Accuracy and cost",
        words + (" No run lies above the line." if front else ""),
        _ends(entries, metric),
        lambda width: scatter([*found, *dense], width, kind, title_of(metric), front=front),
        "Points: "
        + "; ".join(f"{e.label} {percent(e.run.slim.accuracy)} at {brief(e.cost or 0, kind)}" for e in known),
    )


def _ends(entries: Sequence[Entry], metric: str) -> Table:
    """Set each run's dense network beside its slim one."""
    kind, name, rows = kind_of(metric), title_of(metric), []
    for e in entries:
        dense = amount(e.dense_cost, kind), percent(e.run.dense.accuracy)
        rows.append((e.label, *dense, amount(e.cost, kind), percent(e.run.slim.accuracy)))
    columns = ("run", f"dense {name}", "dense accuracy", f"slim {name}", "slim accuracy")
    return Table("Dense and slim networks", columns, tuple(rows))


def figures_table(entries: Sequence[Entry], metric: str) -> Table:
    """Set the runs' slim networks below one another."""
    others = [key for key in ("macs", "size", "latency") if key != metric]
    rows = []
    for entry in entries:
        status = (
            f"dominated by {entry.dominated_by}"
            if entry.dominated_by
            else "on the front"
            if entry.known
            else "not measured"
        )
        rest = [amount(_figure(entry, key), kind_of(key)) for key in others]
        rows.append((entry.label, percent(entry.run.slim.accuracy), amount(entry.cost, kind_of(metric)), *rest, status))
    columns = ("run", "accuracy", title_of(metric), *(title_of(key) for key in others), "front")
    marked = tuple(at for at, entry in enumerate(entries) if entry.dominated_by)
    last = len(columns) - 1
    return Table("The slim networks", columns, tuple(rows), (last,), marked, tuple(range(3, last)))


def _figure(entry: Entry, key: str) -> float | None:
    run = entry.run
    if key == "size":
        files = same_suffix(run)
        return files[2] if files else None
    if key == "latency":
        rows = shared(run)
        return rows[0][2].p50 if rows else None
    return run.slim.costs.get(key)


def _each(entries: Sequence[Entry]) -> Markup:
    """Tell each run in its own sentence, and on what that stands."""
    parts = [
        tag(
            "div",
            tag("h3", entry.label),
            tag("p", sentence(entry.run)),
            tag("p", " ".join(conditions(entry.run)), class_="terms"),
        )
        for entry in entries
    ]
    words = tag("div", tag("h2", "Each run", id="runs"), class_="words")
    return tag("section", words, tag("div", *parts), class_="runs", aria_labelledby="runs")
