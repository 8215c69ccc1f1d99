"""What do a runner's answers say? Which rounds count, and the one row that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.devices.base import Job, Session
from edgel0.devices.disturbances import marks
from edgel0.devices.sizes import planned
from edgel0.devices.stats import drift, median_interval, percentile
from edgel0.errors import DeviceError
from edgel0.types import Measurement, OperatorTime, Round

DRIFT, THREADS_OFF = 0.10, 0.25  # what deserves a note


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
    broken: bool = False

    def ask(self, event: str, do: str, **details: Any) -> dict[str, Any]:
        """Send its runner a command and return the answer."""
        if self.session is None:
            raise DeviceError(f"{self.subject.path.name} was never loaded, so its runner cannot {do}.")
        return self.session.ask(event, do, **details)

    def run(self, turn: int, share: Mapping[str, float]) -> None:
        """Let the runner take its batch of a turn."""
        heard = self.ask("samples", "run", **share)
        disturbed = marks(heard.get("before"), heard.get("after"))
        self.batches.append(heard | {"turn": turn, "disturbed": disturbed})

    @property
    def quiet(self) -> list[dict[str, Any]]:
        """The batches that nothing disturbed."""
        return [batch for batch in self.batches if not batch["disturbed"]]

    @property
    def wall_secs(self) -> float:
        """Seconds that its batches took."""
        return sum(float(batch["wall_ms"]) for batch in self.batches) / 1e3


def row(part: Part, num_runs: int, rounds: int) -> Measurement:
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
        notes=(*_notes(part, samples, num_runs, observed), *_disturbed(part, reasons, rounds)),
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


def _notes(part: Part, samples: Sequence[float], num_runs: int, observed: float) -> list[str]:
    """Say what a reader of the figures should know."""
    notes, threads, governor = [], part.subject.job.threads, part.ready["board"]["governor"]
    if part.broken:
        notes.append(f"cut short after {len(samples)} runs")
    elif len(samples) < num_runs and len(part.quiet) in (0, len(part.batches)):
        notes.append(f"stopped at max_secs after {len(samples)} of {num_runs} runs")
    if not part.warm.get("stable", True):
        notes.append("the warm-up ended while inferences were still getting faster")
    if abs(observed / threads - 1) > THREADS_OFF:
        notes.append(f"observed {observed:.1f} threads, asked {threads}")
    if abs(drift(samples)) > DRIFT:
        notes.append(f"drifted: the last third took {drift(samples):+.0%} against the first")
    if governor not in (None, "performance"):
        notes.append(f"frequency governor {governor}")
    if part.profile.get("reason"):
        notes.append(part.profile["reason"])
    return notes


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
