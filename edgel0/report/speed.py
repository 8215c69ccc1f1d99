"""Which part tells how fast the files are? The spread of their latencies, and what the measurement noted."""

from __future__ import annotations

from edgel0.report.records import Run, Timing
from edgel0.report.ridges import ridges
from edgel0.report.section import Section, some
from edgel0.report.sentence import emulated, shared
from edgel0.report.tables import Table
from edgel0.report.wording import (
    NOTHING,
    SAME,
    amount,
    brief,
    listed,
    runtime_name,
    times,
)


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
    finding += RIDGES if raw else LINES
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
    notes += ["These times come from an emulator and say nothing of a board's."] * emulated(run.board)
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
        some([f"{t.file} p50 {brief(t.p50, 'ms')}" for _, t in rows]),
        (*notes, *every),
    )


RIDGES = " A ridge is the spread of single inferences; the line under it spans p10 to p90."
LINES = " Raw samples were not kept: a line spans p10 to p90."
