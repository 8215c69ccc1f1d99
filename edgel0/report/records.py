"""What is known of a run? Plain figures, each of them None or absent where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgel0.types import Verdict

COSTS = ("macs", "params", "weight_bytes", "activation_bytes")


@dataclass(frozen=True)
class Part:
    """A layer or an operator, and what it takes of the whole: MACs, or milliseconds."""

    name: str
    kind: str
    amount: float


@dataclass(frozen=True)
class Timing:
    """How fast one file was; ``samples_ms`` is every ``every``-th one of its ``runs``, in the order they were taken."""

    file: str
    runtime: str
    p10: float | None
    p50: float
    p90: float | None
    runs: int | None = None
    threads: int | None = None
    threads_observed: float | None = None
    notes: tuple[str, ...] = ()
    operators: tuple[Part, ...] = ()
    samples_ms: tuple[float, ...] = field(default=(), repr=False)
    every: int = 1


@dataclass(frozen=True)
class Side:
    """The dense network or the slim one; ``costs`` has those of ``COSTS`` that are known, ``timings`` is by runtime."""

    accuracy: float | None
    costs: dict[str, float]
    files: dict[str, int]
    timings: dict[str, Timing]
    layers: tuple[Part, ...]


@dataclass(frozen=True)
class Small:
    """A file in fewer bits than float32."""

    name: str
    precision: str
    bytes: int | None
    accuracy: float | None
    timing: Timing | None
    float32_p50: float | None


@dataclass(frozen=True)
class Spent:
    """A limit of training and what the slim network takes of it."""

    metric: str
    limit: float
    slim: float
    dense: float | None


@dataclass(frozen=True)
class Epoch:
    """One epoch: expected cost and target by limit, test accuracy."""

    phase: str
    accuracy: float | None
    cost: dict[str, float]
    target: dict[str, float]


@dataclass(frozen=True)
class Same:
    """How far a file is from the model it came from."""

    name: str
    reference: str
    max_abs: float | None
    top1: float | None
    samples: int | None


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it; ``facts`` and ``versions`` are (name, text), ``digest`` is that of its data."""

    name: str
    folder: str
    dense: Side
    slim: Side
    small: tuple[Small, ...]
    budget: tuple[Spent, ...]
    groups: dict[str, tuple[int, int]]
    history: tuple[Epoch, ...]
    parity: tuple[Same, ...]
    board: str | None
    threads: int | None
    digest: str | None
    tested: int | None
    facts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    unchecked: str = ""
