"""Which runs is nothing better than? The front of accuracy against a cost, among runs that can be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edgel0.errors import UsageError, nearest
from edgel0.report.records import COSTS, Run
from edgel0.report.sentence import emulated, same_suffix, shared


@dataclass(frozen=True)
class Entry:
    """A run in a comparison: its label, the cost that is compared, and whoever is better; "" for nobody."""

    run: Run
    label: str
    cost: float | None
    dense_cost: float | None
    conditions: tuple[str, ...]
    dominated_by: str = ""

    @property
    def known(self) -> bool:
        """Tell whether both figures are there."""
        return bool(self.cost) and self.run.slim.accuracy is not None


def compare(runs: Sequence[Run], metric: str = "macs") -> list[Entry]:
    """Return an entry per run, the cheapest first, each with a run of the front that dominates it, if there is one.

    A run dominates another if it is no less accurate and costs no more, and is better in one of both; only where both
    were tested on the same data and, for a latency, measured on the same board with the same runtime and threads.

    Raises:
        UsageError: ``metric`` is none of ``METRICS``.
    """
    if metric not in METRICS:
        raise UsageError(f"--cost {metric!r} is not known; known are {', '.join(METRICS)}{nearest(metric, METRICS)}.")
    entries = [
        Entry(run, label, *_cost(run, metric), _conditions(run, metric))
        for run, label in zip(runs, labels(runs), strict=True)
    ]
    entries.sort(key=lambda entry: (not entry.known, entry.cost or 0.0))
    best = [e for e in entries if not any(_dominates(o, e) for o in entries)]
    dominated_by = [next((o.label for o in best if _dominates(o, e)), "") for e in entries]
    return [dataclasses.replace(e, dominated_by=name) for e, name in zip(entries, dominated_by, strict=True)]


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run that no other has: its own, with its folder or a number where that is needed."""
    found: list[str] = []
    for run in runs:
        same = sum(other.name == run.name for other in runs) > 1
        label = f"{run.name} ({run.folder})" if same and run.folder != run.name else run.name
        number = sum(one == label or one.startswith(f"{label} #") for one in found) + 1
        found.append(label if number == 1 else f"{label} #{number}")
    return found


def _cost(run: Run, metric: str) -> tuple[float | None, float | None]:
    """Return what the slim network costs, and the dense one."""
    if metric == "size":
        files = same_suffix(run)
        return (None, None) if files is None else (float(files[2]), float(files[1]))
    if metric == "latency":
        rows = [] if emulated(run.board) else shared(run)
        return (rows[0][2].p50, rows[0][1].p50) if rows else (None, None)
    return run.slim.costs.get(metric), run.dense.costs.get(metric)


def _conditions(run: Run, metric: str) -> tuple[str, ...]:
    """Return what must be equal in two runs for their figures to be compared."""
    same = (run.digest or "",)
    if metric == "size":
        files = same_suffix(run)
        return (*same, files[0] if files else "")
    if metric == "latency":
        rows = shared(run)
        return (*same, run.board or "", str(run.threads), rows[0][2].runtime if rows else "")
    return same


def _dominates(one: Entry, other: Entry) -> bool:
    if one is other or not one.known or not other.known or one.conditions != other.conditions:
        return False
    assert one.cost and other.cost and one.run.slim.accuracy is not None and other.run.slim.accuracy is not None
    cheaper, better = one.cost - other.cost, one.run.slim.accuracy - other.run.slim.accuracy
    return cheaper <= 0 and better >= 0 and (cheaper < 0 or better > 0)


METRICS = (*COSTS, "size", "latency")
