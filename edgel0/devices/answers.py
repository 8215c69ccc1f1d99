"""What do a runner's answers say? Which rounds count, and the one row that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.devices.base import Job, Session
from edgel0.devices.cooling import Heat, Pause
from edgel0.devices.disturbances import marks
from edgel0.devices.sizes import planned
from edgel0.devices.stats import drift, median_interval, percentile
from edgel0.errors import DeviceError
from edgel0.types import Measurement, OperatorTime, Round

DRIFT, THREADS_OFF = 0.10, 0.25  # what deserves a note
TELLING_MS = 100.0  # a scheduler takes a processor away for milliseconds at a time
NEARLY = 1 - 1e-6  # seconds are a sum of floats
FIRMWARE = "Raspberry Pi"  # boards whose firmware tells what it throttles


@dataclass(frozen=True)
class Subject:
    """A file as it was when its measurement began; ``bytes`` counts its external data."""

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
    profile: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    pauses: list[Pause] = field(default_factory=list)
    broken: bool = False

    def ask(self, event: str, do: str, **details: Any) -> dict[str, Any]:
        """Send its runner a command and return the answer."""
        if self.session is None:
            raise DeviceError(f"{self.subject.path.name} was never loaded, so its runner cannot {do}.")
        return self.session.ask(event, do, **details)

    def cool(self, heat: Heat, tell: Callable[[str], None]) -> None:
        """Let the board cool down before its next batch, where it is hot."""
        pause = heat.pause(lambda: dict(self.ask("look", "look")["after"]), tell)
        self.pauses += [pause] if pause else []

    def run(self, turn: int, share: Mapping[str, float]) -> None:
        """Let the runner take its batch of a turn; what it told before it failed is kept."""
        try:
            heard = self.ask("samples", "run", **share)
        except DeviceError:
            if self.session and self.session.some:
                self.batches.append(_joined(self.session.some) | {"turn": turn, "disturbed": {}})
            raise
        disturbed = marks(heard.get("before"), heard.get("after"))
        self.batches.append(heard | {"turn": turn, "disturbed": disturbed})

    def left(self, max_secs: float) -> float:
        """Return the seconds that its next batch may take, one inference that ends late included."""
        slowest = max((max(batch["samples_ms"]) for batch in self.batches), default=self.ready["first_ms"])
        return float(max_secs - self.wall_secs - slowest / 1e3)

    @property
    def quiet(self) -> list[dict[str, Any]]:
        """The batches that nothing disturbed."""
        return [batch for batch in self.batches if not batch["disturbed"]]

    @property
    def wall_secs(self) -> float:
        """Seconds that its batches took."""
        return sum(float(batch["wall_ms"]) for batch in self.batches) / 1e3


def _joined(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the parts of a batch as one."""
    times = [ms for part in some for ms in part["samples_ms"]]
    return {"samples_ms": times, **{key: sum(part[key] for part in some) for key in ("cpu_ms", "wall_ms")}}


def row(part: Part, num_runs: int, min_secs: float, rounds: int) -> Measurement:
    """Sum up what one runner answered: quiet rounds alone, or all of them under a mark where none was quiet."""
    subject, ready, board = part.subject, part.ready, part.ready["board"]
    kept = part.quiet or part.batches
    samples = [ms for batch in kept for ms in batch["samples_ms"]]
    observed = sum(batch["cpu_ms"] for batch in kept) / sum(batch["wall_ms"] for batch in kept)
    reasons = {} if len(part.quiet) >= rounds else {k: v for b in part.batches for k, v in b["disturbed"].items()}
    weight_bytes, activation_bytes = planned(subject.path)
    return Measurement(
        artifact=subject.path.as_posix(),
        sha256=subject.sha256,
        board=f"{part.session.transport if part.session else ''}: {board['board'] or board['cpu'] or board['machine']}",
        runtime=ready["runtime"],
        threads=subject.job.threads,
        threads_observed=observed,
        load_ms=ready["load_ms"],
        first_ms=ready["first_ms"],
        **figures(samples),
        warmup_runs=part.warm["runs"],
        file_bytes=subject.bytes,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        base_rss_bytes=ready.get("memory", {}).get("before_load_bytes"),
        peak_rss_bytes=part.end.get("peak_rss_bytes"),
        notes=(
            *_lacking(part, samples, num_runs, min_secs),
            *_notes(part, samples),
            *_threads(kept, subject.job.threads),
            *_disturbed(part, reasons, rounds),
            *_paused(part.pauses),
        ),
        marks=tuple(reasons),
        cores=(part.session.job if part.session else subject.job).cores,
        operators=tuple(OperatorTime(*each) for each in part.profile.get("operators", ())),
        rounds=tuple(_round(batch, batch in kept) for batch in part.batches),
        facts=board | {"memory": ready.get("memory")},
    )


def figures(samples: Sequence[float]) -> dict[str, Any]:
    """Return the samples and the figures made of them, by the names of :class:`~edgel0.types.Measurement`."""
    return {
        "samples_ms": tuple(samples),
        **{f"p{share}_ms": percentile(samples, share) for share in (10, 50, 90, 99)},
        "mean_ms": sum(samples) / len(samples),
        "interval_ms": median_interval(samples),
    }


def _paused(pauses: Sequence[Pause]) -> list[str]:
    """Say how long the board was let cool down, and whether that was enough."""
    if not pauses:
        return []
    secs, times = sum(pause.secs for pause in pauses), "" if len(pauses) == 1 else f" in {len(pauses)} pauses"
    still = "" if pauses[-1].cool else ", and was still hot"
    return [f"the board cooled down for {secs:.0f} s{times}{still} ({pauses[0].reason})"]


def _round(batch: Mapping[str, Any], kept: bool) -> Round:
    return Round(
        turn=batch["turn"],
        runs=len(batch["samples_ms"]),
        p50_ms=percentile(batch["samples_ms"], 50),
        cpu_ms=batch["cpu_ms"],
        wall_ms=batch["wall_ms"],
        kept=kept,
        disturbed=batch["disturbed"],
        samples_ms=() if kept else tuple(batch["samples_ms"]),
        before=batch.get("before") or {},
        after=batch.get("after") or {},
    )


def _lacking(part: Part, samples: Sequence[float], num_runs: int, min_secs: float) -> list[str]:
    """Say how many runs and seconds the figures are of, and why, where they are fewer than asked."""
    secs = sum(samples) / 1e3
    if part.broken:
        return [f"cut short after {len(samples)} runs"]
    if len(samples) >= num_runs and secs >= min_secs * NEARLY:
        return []
    few = 0 < len(part.quiet) < len(part.batches)
    why = "too few rounds were undisturbed" if few else "stopped at max_secs"
    return [f"{why}: the figures are of {len(samples)} of {num_runs} runs and {round(secs, 2):g} of {min_secs:g} s"]


def _notes(part: Part, samples: Sequence[float]) -> list[str]:
    """Say what a reader of the figures should know."""
    notes, board = [], part.ready["board"]
    if not part.warm.get("stable", True):
        notes.append("the warm-up ended while inferences were still getting faster")
    if abs(drift(samples)) > DRIFT:
        notes.append(f"drifted: the last third took {drift(samples):+.0%} against the first")
    if board["governor"] not in (None, "performance"):
        notes.append(f"frequency governor {board['governor']}")
    speeds = board.get("capacities") or {}
    if len(set(speeds.values())) > 1 and not part.subject.job.cores:
        fast = ",".join(cpu for cpu, speed in speeds.items() if speed == max(speeds.values()))
        notes.append(f"the processors differ and any was taken; --cores {fast} stays on the fastest")
    if (board["board"] or "").startswith(FIRMWARE) and part.batches[-1].get("after", {}).get("throttled") is None:
        notes.append("the firmware's throttle flags cannot be read: add the user to the group video, then log in again")
    if part.profile.get("reason"):
        notes.append(part.profile["reason"])
    return notes


def _threads(batches: Sequence[Mapping[str, Any]], asked: int) -> list[str]:
    """Say where as many threads as asked did not compute, or that this could not be told.

    CPU time over wall time is threads only while nobody takes the processors away, and only over many slices of the
    scheduler. More than asked is a finding in any case, and one thread cannot be fewer.
    """
    cpu_ms, wall_ms = (sum(batch[key] for batch in batches) for key in ("cpu_ms", "wall_ms"))
    observed = cpu_ms / wall_ms
    if wall_ms < TELLING_MS:
        return [f"threads not verified: {wall_ms:.2g} ms of inferences are too few"]
    if observed > asked * (1 + THREADS_OFF):
        return [f"observed {observed:.1f} threads, asked {asked}"]
    if observed >= asked * (1 - THREADS_OFF):
        return []
    if asked == 1:
        return [f"the runner had a processor for {observed:.0%} of the time only"]
    if any("busy" in batch["disturbed"] for batch in batches):
        return [f"threads not verified: others took the processors, {observed:.1f} of {asked} were left"]
    return [f"observed {observed:.1f} threads, asked {asked}"]


def _disturbed(part: Part, reasons: Mapping[str, str], rounds: int) -> list[str]:
    """Say what disturbed the figures, or that what did was measured again."""
    aside, quiet = len(part.batches) - len(part.quiet), len(part.quiet)
    told = "; ".join(f"{mark}: {reason}" for mark, reason in reasons.items())
    if not aside:
        return []
    if not reasons:
        return [f"{aside} disturbed round(s) set aside and repeated"]
    if not quiet:
        return [f"disturbed in all of {aside} rounds, repeats included ({told})"]
    return [f"only {quiet} of {rounds} rounds undisturbed, the figures are theirs ({told})"]
