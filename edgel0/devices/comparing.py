"""Which of two files is faster here, and is it at all? Pairs of rounds in several fresh starts, and an interval."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from edgel0.devices import local
from edgel0.devices.answers import figures
from edgel0.devices.base import Job, Session
from edgel0.devices.measure import measure
from edgel0.devices.stats import percentile
from edgel0.types import Artifact, Comparison, Measurement

STARTS, ROUNDS = 3, 8
THRESHOLD = 0.03  # two starts of one and the same file differ by as much: where its memory came to lie
DRAWS = 2000


def compare(
    a: Artifact | Path | str,
    b: Artifact | Path | str,
    *,
    threads: int = 1,
    num_runs: int = 50,
    min_secs: float = 1.0,
    max_secs: float = 150.0,
    threshold: float = THRESHOLD,
    cores: Sequence[int] = (),
    progress: Callable[[str, float], None] | None = None,
    start: Callable[[Job, float], Session] = local.start,
) -> Comparison:
    """Measure two files in turns, in ``STARTS`` fresh pairs of processes, and return the ratio of their medians.

    ``num_runs`` and ``min_secs`` hold for each file in each start. A pair is the two batches of one turn, one right
    after the other; a disturbed turn is repeated for both. The interval is a bootstrap over starts and over the pairs
    in them, for two starts of one file differ by more than chance within one. Formats may differ.

    Raises what :func:`edgel0.measure` raises.
    """
    starts: list[list[Measurement]] = []
    for number in range(STARTS):
        files = [a, b] if number % 2 == 0 else [b, a]  # who is loaded first

        def tell(what: str, share: float, number: int = number) -> None:
            if progress:
                progress(what, (number + share) / STARTS)

        rows = measure(
            files,
            threads=threads,
            num_runs=num_runs,
            min_secs=min_secs,
            max_secs=max_secs,
            rounds=ROUNDS,
            cores=cores,
            together=True,
            progress=tell,
            start=start,
        )
        starts.append(rows if number % 2 == 0 else rows[::-1])
    return judged(starts, threshold)


def judged(starts: Sequence[Sequence[Measurement]], threshold: float = THRESHOLD) -> Comparison:
    """Return what pairs of rows say, one pair per start."""
    ratios = [pair_ratios(*pair) for pair in starts]
    low, high = interval(ratios)
    middle = median(ratio for each in ratios for ratio in each)
    same = low <= 1 <= high or abs(middle - 1) <= threshold
    return Comparison(
        a=pooled([pair[0] for pair in starts]),
        b=pooled([pair[1] for pair in starts]),
        ratio=middle,
        interval=(low, high),
        pairs=sum(map(len, ratios)),
        threshold=threshold,
        difference="none" if same else "faster" if middle < 1 else "slower",
        ratios=tuple(map(tuple, ratios)),
    )


def pair_ratios(a: Measurement, b: Measurement) -> list[float]:
    """Return B over A for each turn that counts for both; for all turns where there is none."""
    first, second = ({each.turn: each for each in row.rounds} for row in (a, b))
    turns = [turn for turn in first if turn in second]
    quiet = [turn for turn in turns if first[turn].kept and second[turn].kept]
    return [second[turn].p50_ms / first[turn].p50_ms for turn in quiet or turns]


def interval(ratios: Sequence[Sequence[float]], share: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of the median ratio: starts are drawn, then pairs within each.

    Drawn as logarithms, so that A over B gives the same answer as B over A. Of so few starts a bootstrap says too
    little, so the interval also holds the median of each.
    """
    rng = random.Random(seed)
    logs = [[math.log(ratio) for ratio in each] for each in ratios]
    middles = []
    for _ in range(DRAWS):
        drawn = rng.choices(logs, k=len(logs))
        middles.append(median(value for each in drawn for value in rng.choices(each, k=len(each))))
    tail, own = (1 - share) / 2 * 100, [median(each) for each in logs]
    low, high = min(percentile(middles, tail), *own), max(percentile(middles, 100 - tail), *own)
    return math.exp(low), math.exp(high)


def pooled(rows: Sequence[Measurement]) -> Measurement:
    """Return one row for several starts of one file: all their samples, rounds, marks and notes."""
    first = rows[0]
    rounds = [
        dataclasses.replace(each, turn=each.turn + 2 * ROUNDS * number)
        for number, row in enumerate(rows)
        for each in row.rounds
    ]
    peaks = [row.peak_rss_bytes for row in rows if row.peak_rss_bytes is not None]
    return dataclasses.replace(
        first,
        **figures([ms for row in rows for ms in row.samples_ms]),
        load_ms=median(row.load_ms for row in rows),
        first_ms=median(row.first_ms for row in rows),
        threads_observed=median(row.threads_observed for row in rows),
        peak_rss_bytes=max(peaks, default=None),
        warmup_runs=sum(row.warmup_runs for row in rows),
        notes=tuple({re.split(r"\d", note)[0]: note for row in rows for note in row.notes}.values()),  # each kind once
        marks=tuple(dict.fromkeys(mark for row in rows for mark in row.marks)),
        rounds=tuple(rounds),
    )
