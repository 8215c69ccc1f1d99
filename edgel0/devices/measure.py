"""How fast are these files on this board? All of them in turns, so that whatever changes meanwhile hits each alike."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgel0.devices import local
from edgel0.devices.answers import Part, Subject, row
from edgel0.devices.base import Job, Session
from edgel0.devices.cooling import COOL_SECS, Heat
from edgel0.devices.sizes import file_bytes
from edgel0.errors import DeviceError, EdgeL0Error, UsageError, nearest
from edgel0.types import Artifact, Measurement

WARMUP = {"runs": 5, "seconds": 0.5}
GRACE_SECS = 60.0  # beyond max_secs: a runner that says nothing for longer hangs
PROFILED_RUNS = 20


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
    cores: Sequence[int] = (),
    operators: bool = False,
    together: bool = False,
    cool_secs: float = COOL_SECS,
    progress: Callable[[str, float], None] | None = None,
    start: Callable[[Job, float], Session] = local.start,
    failed: Callable[[Path, EdgeL0Error], None] | None = None,
) -> list[Measurement]:
    """Measure files in turns and return one row per file, in the order given.

    Each file gets its own runner process. All are loaded and warmed up (at least 5 runs and 0.5 s, until inferences
    stop getting faster), then come ``rounds`` of batches whose order turns round every time (A B, B A, ...). A file is
    done after ``num_runs`` inferences *and* ``min_secs`` seconds of them, or before ``max_secs``; its warm-up has the
    same upper limit. Only one runner computes at any moment. A round in which the board throttled, changed its clock,
    passed a trip point or was busy is set aside and repeated, at most ``rounds`` times for a file; ``together`` repeats
    it for all files, so that each has the same turns. Where too few rounds are quiet even then, the figures are those
    of the quiet ones alone, fewer than ``num_runs`` it may be, and where none is, of all; the row's ``marks`` say so.
    A board that heat slows down is let cool before the next batch, ``cool_secs`` in all at most; ``notes`` say so.
    ``cores`` are the processors to stay on, () for any; ``operators`` asks for the time of each operator in a pass of
    its own. ``progress`` hears what comes next and the share of steps done; ``start`` is the transport. With
    ``failed``, a file whose runner fails is told there, keeps the samples it has, and the others go on; without, the
    first failure is raised.

    ``load_ms`` excludes importing the runtime, ``first_ms`` is the inference before the warm-up, ``peak_rss_bytes``
    is the whole runner (Python and the runtime included), ``threads_observed`` is CPU time over wall time. What
    exactly one sample times is said in ``runner.open_onnx`` and ``runner.open_tflite``.

    Raises UsageError (arguments, a missing file, an unknown kind), ExtraError (no runtime) and DeviceError.
    """
    _check(threads, num_runs, min_secs, max_secs, rounds)
    subjects = [_subject(artifact, threads, cores) for artifact in artifacts]
    steps, step = len(subjects) * (rounds + 2), 0

    def tell(what: str, subject: Subject, begun: int = 1) -> None:
        nonlocal step
        if progress:
            progress(f"{what} {subject.path.name}", min(1.0, step / steps))
        step += begun

    share = {"runs": math.ceil(num_runs / rounds), "seconds": min_secs / rounds, "limit": max_secs / rounds}
    heat = Heat(cool_secs)
    with ExitStack() as stack:
        parts = [Part(subject) for subject in subjects]

        def turn_of(part: Part, what: str, take: Callable[[Part], None]) -> None:
            if part.broken:
                return
            if what:
                tell(what, part.subject)
            try:
                take(part)
            except EdgeL0Error as error:
                if not failed:
                    raise
                part.broken = True
                failed(part.subject.path, error)

        def load(part: Part) -> None:
            part.session = stack.enter_context(start(part.subject.job, max_secs + GRACE_SECS))
            part.ready = part.session.hear("ready")

        def warm(part: Part) -> None:
            part.warm = part.ask("warm", "warmup", **WARMUP, limit=max_secs)
            heat.see(part.warm.get("after"))

        def run(part: Part, turn: int) -> None:
            part.cool(heat, lambda what: tell(what, part.subject, 0))
            part.run(turn, share | {"limit": max(0.0, min(share["limit"], part.left(max_secs)))})
            heat.see(part.batches[-1].get("after"), part.batches[-1]["disturbed"])

        def profile(part: Part) -> None:
            part.profile = part.ask("operators", "operators", runs=PROFILED_RUNS)

        for part in parts:
            turn_of(part, "load", load)
        for part in parts:
            turn_of(part, "warm up", warm)
        for turn in range(2 * rounds):
            sound = [part for part in parts if not part.broken]
            if turn < rounds:
                waiting = [part for part in sound if not part.batches or part.left(max_secs) > 0]
            else:
                waiting = _unquiet(sound, rounds, max_secs, together)
            for part in waiting[:: -1 if turn % 2 else 1]:
                turn_of(part, "run" if turn < rounds else "repeat", partial(run, turn=turn))
        for part in parts:
            if operators:
                turn_of(part, "profile", profile)
            turn_of(part, "", lambda part: part.end.update(part.ask("end", "end")))
    if progress and parts:
        progress("measured", 1.0)
    return [row(part, num_runs, min_secs, rounds) for part in parts if part.batches]


def _unquiet(parts: list[Part], rounds: int, max_secs: float, together: bool) -> list[Part]:
    """Return the parts that lack quiet rounds and have time for another."""
    timely = [part for part in parts if part.wall_secs + part.batches[-1]["wall_ms"] / 1e3 <= max_secs]
    found = [part for part in timely if len(part.quiet) < rounds]
    return parts if together and found and len(timely) == len(parts) else [] if together else found


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


def _subject(artifact: Artifact | Path | str, threads: int, cores: Sequence[int]) -> Subject:
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
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the name {path.as_posix()!r} is no UTF-8, and runtimes open no other; rename it, or its folder."
        ) from None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"cannot read {path.as_posix()!r} ({error}); correct its permissions or copy it.") from error
    job = Job(str(path), runtime.modules, runtime.extra, threads, cores=tuple(cores))
    return Subject(path, file_bytes(path, content), hashlib.sha256(content).hexdigest(), job)


RUNTIMES = {
    ".onnx": Runtime(("onnxruntime",), "onnx"),
    ".tflite": Runtime(("ai_edge_litert", "tflite_runtime"), "tflite"),
}
