"""How fast are these files on this board? All of them in turns, so that whatever changes meanwhile hits each alike."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from edgel0.devices import local
from edgel0.devices.base import Job, Session
from edgel0.devices.stats import drift, percentile
from edgel0.errors import DeviceError, EdgeL0Error, UsageError, nearest
from edgel0.types import Artifact, Measurement

WARMUP = {"runs": 5, "seconds": 0.5}
GRACE_SECS = 60.0  # beyond max_secs: a runner that says nothing for longer hangs
DRIFT, THREADS_OFF = 0.10, 0.25  # what deserves a note


@dataclass(frozen=True)
class Runtime:
    """What runs a kind of file: import names in the order they are tried, and the extra that brings the first."""

    modules: tuple[str, ...]
    extra: str


def measure(
    artifacts: Sequence[Artifact | Path | str],
    *,
    threads: int = 1,
    num_runs: int = 50,
    min_secs: float = 1.0,
    max_secs: float = 150.0,
    rounds: int = 5,
    progress: Callable[[str, float], None] | None = None,
    start: Callable[[Job, float], Session] = local.start,
    failed: Callable[[Path, EdgeL0Error], None] | None = None,
) -> list[Measurement]:
    """Measure files in turns and return one row per file, in the order given.

    Each file gets its own runner process. All are loaded and warmed up (at least 5 runs and 0.5 s), then come
    ``rounds`` of batches whose order turns round every time (A B, B A, ...). A file is done after ``num_runs``
    inferences *and* ``min_secs`` seconds of them, or at ``max_secs``; its warm-up has the same upper limit. Only one
    runner computes at any moment. ``progress`` hears what comes next and the share of steps done; ``start`` is the
    transport. With ``failed``, a file whose runner fails is told there, keeps the samples it has, and the others go on;
    without, the first failure is raised.

    ``load_ms`` excludes importing the runtime, ``first_ms`` is the inference before the warm-up, ``peak_rss_bytes``
    is the whole runner (Python and the runtime included), ``threads_observed`` is CPU time over wall time. What
    exactly one sample times is said in ``runner.open_onnx`` and ``runner.open_tflite``.

    Raises UsageError (arguments, a missing file, an unknown kind), ExtraError (no runtime) and DeviceError.
    """
    _check(threads, num_runs, min_secs, max_secs, rounds)
    subjects = [_subject(artifact, threads) for artifact in artifacts]
    steps, done = len(subjects) * (rounds + 2), count()

    def tell(what: str, subject: Subject) -> None:
        if progress:
            progress(f"{what} {subject.path.name}", next(done) / steps)

    share = {"runs": math.ceil(num_runs / rounds), "seconds": min_secs / rounds, "limit": max_secs / rounds}
    with ExitStack() as stack:
        parts = [Part(subject) for subject in subjects]

        def turn_of(part: Part, what: str, step: Callable[[Part], None]) -> None:
            if part.broken:
                return
            if what:
                tell(what, part.subject)
            try:
                step(part)
            except EdgeL0Error as error:
                if not failed:
                    raise
                part.broken = True
                failed(part.subject.path, error)

        def load(part: Part) -> None:
            part.session = stack.enter_context(start(part.subject.job, max_secs + GRACE_SECS))
            part.ready = part.session.hear("ready")

        for part in parts:
            turn_of(part, "load", load)
        for part in parts:
            turn_of(
                part, "warm up", lambda part: part.warm.update(part.ask("warm", "warmup", **WARMUP, limit=max_secs))
            )
        for turn in range(rounds):
            for part in parts[:: -1 if turn % 2 else 1]:
                turn_of(part, "run", lambda part: part.batches.append(part.ask("samples", "run", **share)))
        for part in parts:
            turn_of(part, "", lambda part: part.end.update(part.ask("end", "end")))
    if progress and parts:
        progress("measured", 1.0)
    return [_row(part, num_runs) for part in parts if part.batches]


@dataclass(frozen=True)
class Subject:
    """A file as it was when its measurement began."""

    path: Path
    bytes: int
    sha256: str
    job: Job


@dataclass
class Part:
    """One file's share of the conversation: its runner and what that answered so far."""

    subject: Subject
    session: Session | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    warm: dict[str, Any] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    broken: bool = False

    def ask(self, event: str, do: str, **details: Any) -> dict[str, Any]:
        """Send its runner a command and return the answer."""
        assert self.session, "a part is asked after it was loaded"
        return self.session.ask(event, do, **details)


def _check(threads: int, num_runs: int, min_secs: float, max_secs: float, rounds: int) -> None:
    """Refuse figures that cannot be measured with."""
    for name, value in (("threads", threads), ("num_runs", num_runs), ("rounds", rounds)):
        if value < 1:
            raise UsageError(f"{name} is {value!r}; it must be at least 1.")
    if not 0 <= min_secs <= max_secs:
        raise UsageError(
            f"min_secs is {min_secs!r} and max_secs is {max_secs!r}; both are seconds, and 0 <= min_secs <= max_secs "
            f"must hold."
        )


def _subject(artifact: Artifact | Path | str, threads: int) -> Subject:
    """Read the file and choose its runtimes by its suffix."""
    path = Path(artifact.path if isinstance(artifact, Artifact) else artifact)
    runtime = RUNTIMES.get(path.suffix.lower())
    if runtime is None:
        raise UsageError(
            f"no runtime is known for {path.name!r}: its suffix is {path.suffix!r}, expected one of "
            f"{', '.join(RUNTIMES)}; export the model first, or correct the suffix"
            f"{nearest(path.suffix, RUNTIMES) or '.'}"
        )
    if not path.is_file():
        raise UsageError(
            f"there is no file {path.as_posix()!r} to measure; export the model first, or correct the path."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"cannot read {path.as_posix()!r} ({error}); correct its permissions or copy it.") from error
    job = Job(str(path), runtime.modules, runtime.extra, threads)
    return Subject(path, len(content), hashlib.sha256(content).hexdigest(), job)


def _row(part: Part, num_runs: int) -> Measurement:
    """Sum up what one runner answered."""
    subject, ready, board = part.subject, part.ready, part.ready["board"]
    samples = [ms for batch in part.batches for ms in batch["samples_ms"]]
    observed = sum(b["cpu_ms"] for b in part.batches) / sum(b["wall_ms"] for b in part.batches)
    return Measurement(
        artifact=subject.path.as_posix(),
        sha256=subject.sha256,
        board=f"{part.session.transport if part.session else ''}: {board['board'] or board['cpu'] or board['machine']}",
        runtime=ready["runtime"],
        threads=subject.job.threads,
        threads_observed=observed,
        load_ms=ready["load_ms"],
        first_ms=ready["first_ms"],
        samples_ms=tuple(samples),
        p10_ms=percentile(samples, 10),
        p50_ms=percentile(samples, 50),
        p90_ms=percentile(samples, 90),
        warmup_runs=part.warm["runs"],
        file_bytes=subject.bytes,
        peak_rss_bytes=part.end.get("peak_rss_bytes"),
        notes=_notes(samples, num_runs, subject.job.threads, observed, board["governor"], part.broken),
    )


def _notes(
    samples: Sequence[float], num_runs: int, threads: int, observed: float, governor: str | None, broken: bool
) -> tuple[str, ...]:
    """Say what a reader of the figures should know."""
    notes = []
    if broken:
        notes.append(f"cut short after {len(samples)} runs")
    elif len(samples) < num_runs:
        notes.append(f"stopped at max_secs after {len(samples)} of {num_runs} runs")
    if abs(observed / threads - 1) > THREADS_OFF:
        notes.append(f"observed {observed:.1f} threads, asked {threads}")
    if abs(drift(samples)) > DRIFT:
        notes.append(f"drifted: the last third took {drift(samples):+.0%} against the first")
    if governor:
        notes.append(f"frequency governor {governor}")
    return tuple(notes)


RUNTIMES = {
    ".onnx": Runtime(("onnxruntime",), "onnx"),
    ".tflite": Runtime(("ai_edge_litert", "tflite_runtime"), "tflite"),
}
