"""What does a person need who reads one sentence? How much less, how much faster, at which accuracy: as measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgel0.report.records import Run, Timing
from edgel0.report.wording import EMULATED, SAME, board_name, listed, percent, points, runtime_name, times


@dataclass(frozen=True)
class Claim:
    """One part of the sentence: a figure that catches the eye, and what it is of."""

    figure: str
    words: str

    def __str__(self) -> str:
        """Write both."""
        return f"{self.figure} {self.words}".strip()


def claims(run: Run) -> list[Claim]:
    """Return what can be said of a run; of a figure that is missing, nothing."""
    macs = _compared(run.dense.costs.get("macs"), run.slim.costs.get("macs"), MACS)
    return [*macs, *_size(run), *_speed(run), *_accuracy(run)]


def sentence(run: Run) -> str:
    """Return the sentence itself."""
    found = ", ".join(map(str, claims(run)))
    return f"{run.name}: {found or 'nothing of it was measured'}."


def conditions(run: Run) -> list[str]:
    """Say on what the sentence stands: which file, runtime, board and data, and what was not measured."""
    return [text for text in (_of_size(run), _of_speed(run), _of_accuracy(run), _missing(run)) if text]


def shared(run: Run) -> list[tuple[str, Timing, Timing]]:
    """Return (runtime, dense, slim) of each runtime that both were measured in."""
    both = run.dense.timings, run.slim.timings
    return [(runtime, dense, both[1][runtime]) for runtime, dense in both[0].items() if runtime in both[1]]


def files_of(run: Run) -> list[tuple[str, int, int]]:
    """Return (suffix, dense bytes, slim bytes) of each kind of file that both were written as."""
    found = [(name.removeprefix("dense"), size) for name, size in run.dense.files.items()]
    return [(suffix, size, after) for suffix, size in found if size and (after := run.slim.files.get(f"slim{suffix}"))]


def same_suffix(run: Run) -> tuple[str, int, int] | None:
    """Return the first of them, which the sentence is about."""
    return next(iter(files_of(run)), None)


def emulated(board: str | None) -> bool:
    """Tell whether times come from an emulator: they are no board's."""
    return (board or "").lower().startswith(EMULATED)


def _compared(dense: float | None, slim: float | None, words: tuple[str, str, str]) -> Iterator[Claim]:
    """Say how many times less, or more; a difference that a table would not show is none."""
    less, more, same = words
    if not dense or not slim:
        return
    big = max(dense, slim) / min(dense, slim)
    if big < 1.005:
        yield Claim("", same)
    elif big < 1.1:
        yield Claim(f"{abs(1 - slim / dense):.1%}", less if slim < dense else more)
    else:
        yield Claim(times(big), less if slim < dense else more)


def _size(run: Run) -> Iterator[Claim]:
    found = same_suffix(run)
    if found:
        yield from _compared(found[1], found[2], SIZE)
    else:
        yield from _compared(run.dense.costs.get("weight_bytes"), run.slim.costs.get("weight_bytes"), WEIGHTS)


def _speed(run: Run) -> Iterator[Claim]:
    rows = [] if emulated(run.board) else shared(run)
    where = f" on {board_name(run.board)}" if run.board else ""
    for at, (runtime, dense, slim) in enumerate(rows):
        inside = f" in {runtime_name(runtime)}" if len(rows) > 1 else ""
        end = where if at == len(rows) - 1 else ""
        change = dense.p50 / slim.p50
        if 1 / SAME <= change <= SAME:
            yield Claim("", f"as fast{inside}{end}")
        else:
            yield Claim(times(max(change, 1 / change)), f"{'faster' if change > 1 else 'slower'}{inside}{end}")


def _accuracy(run: Run) -> Iterator[Claim]:
    dense, slim = run.dense.accuracy, run.slim.accuracy
    if dense is None or slim is None:
        return
    if dense == slim:
        yield Claim("", "just as accurate")
    else:
        yield Claim(points(slim - dense), "more accurate" if slim > dense else "less accurate")


def _of_size(run: Run) -> str:
    found = same_suffix(run)
    if found is None:
        return "Size is that of the weights; no file was written." if "weight_bytes" in run.slim.costs else ""
    return f"Size is that of the {found[0]} file."


def _of_speed(run: Run) -> str:
    rows = shared(run)
    if not rows:
        return ""
    if emulated(run.board):
        return f"Times come from an emulator ({board_name(run.board)}) and say nothing of a board's."
    runtimes = listed([runtime_name(dense.runtime) for _, dense, _ in rows])
    threads = f" with {run.threads} thread{'s' * (run.threads != 1)}" if run.threads else ""
    place = f" on {board_name(run.board)}" if run.board else ""
    return f"Speed is the median time of one inference in {runtimes}{threads}{place}, dense and slim measured in turn."


def _of_accuracy(run: Run) -> str:
    dense, slim, tested = run.dense.accuracy, run.slim.accuracy, run.tested
    if dense is None or slim is None:
        return ""
    text = f"Accuracy is {percent(dense)} dense and {percent(slim)} slim"
    if not tested:
        return f"{text}."
    apart = round(abs(slim - dense) * tested)
    text += f" of {tested:,} test samples"
    return f"{text}, {apart:,} apart{': no more than chance explains' if apart and doubtful(run) else ''}."


def doubtful(run: Run) -> bool:
    """Tell whether chance alone explains the difference of both accuracies: its 95 % interval (Newcombe) holds zero.

    Both saw the same samples, so the true interval is narrower than that of independent ones: this errs towards doubt.
    """
    dense, slim = run.dense.accuracy, run.slim.accuracy
    if dense is None or slim is None or not run.tested:
        return False
    (low, _), (_, high) = sorted((chance(dense, run.tested), chance(slim, run.tested)), key=sum, reverse=True)
    return abs(dense - slim) <= math.hypot(max(dense, slim) - low, high - min(dense, slim))


def chance(accuracy: float, tested: int | None) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy on so many samples (Wilson); nothing but itself without their number."""
    if not tested:
        return accuracy, accuracy
    square = 1.96**2 / tested
    middle = (accuracy + square / 2) / (1 + square)
    half = math.sqrt(square * accuracy * (1 - accuracy) + square**2 / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def _missing(run: Run) -> str:
    sides = run.dense, run.slim
    found = {
        "MACs": all("macs" in side.costs for side in sides),
        "size": same_suffix(run) is not None or all("weight_bytes" in side.costs for side in sides),
        "latency": bool(shared(run)),
        "accuracy": all(side.accuracy is not None for side in sides),
    }
    names = [name for name, there in found.items() if not there]
    return f"Not measured: {listed(names)}." if names else ""


MACS = "fewer MACs", "more MACs", "as many MACs"
SIZE = "smaller", "larger", "as large"
WEIGHTS = "less weight", "more weight", "as much weight"
