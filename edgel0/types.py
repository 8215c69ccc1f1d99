"""What flows between the stages? The frozen dataclasses: one noun between two verbs.

Nothing here imports torch: a board file, a budget check or a report can be made where no torch is.
1 MAC = 1 multiply-accumulate = 2 FLOPs, everywhere. Sizes are bytes, times are milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgel0.errors import UsageError, need

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

PHASES = ("dense", "gating", "settle")
# What each phase gets of a run. A dense phase that ends early leaves weights that gates can tell little from, a gating
# phase that ends late leaves the mask too few steps; and the sooner the network is small, the sooner the run is over.
SHARES = (1 / 4, 1 / 3, 5 / 12)


@dataclass(frozen=True)
class Group:
    """Units that live and are counted together: the channels of one residual stage, say.

    Units ``start:stop`` belong to it; unit numbers begin at 1. ``writers`` are the parameters whose rows make them.
    """

    name: str
    start: int
    stop: int
    writers: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of units in the group."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Labels:
    """Where the units lie in one tensor: along ``axis``, index ``i`` belongs to unit ``units[i]``.

    0 = pinned. ``axis is None`` means that the whole tensor belongs to the single unit ``units[0]``.
    """

    axis: int | None
    units: np.ndarray

    def __eq__(self, other: object) -> bool:
        """Compare axis and units by value."""
        return isinstance(other, Labels) and self.axis == other.axis and np.array_equal(self.units, other.units)

    def __hash__(self) -> int:
        """Hash what :meth:`__eq__` compares."""
        return hash((self.axis, self.units.tobytes()))


@dataclass(frozen=True)
class Reader:
    """A parameter that contracts labelled indices: ``units`` label ``parameter`` along ``axis``."""

    parameter: str
    axis: int
    units: np.ndarray


@dataclass(frozen=True)
class Pin:
    """Why some units cannot go: what pinned them, where, and how many channels it met."""

    operator: str
    node: str
    module: str
    reason: str
    labels: int
    source: str = ""
    unknown: bool = False


@dataclass(frozen=True)
class Origin:
    """What a model that has shrunk was before: its dense cost, and the units of each group."""

    cost: Cost
    groups: dict[str, int]


@dataclass(frozen=True)
class Coupling:
    """What a trace found: the units of a model, where they lie, who reads them, and what is pinned.

    ``activations`` maps a node of the program that depends on an input to the :class:`Labels` of its outputs (one entry
    per output, None where nothing can go). ``constants`` maps a node that depends on parameters alone to the labels
    along which it is cut wherever it is used, ``uses`` a pair (user, constant) to those along which that user needs it,
    where it needs any. ``tensors`` is ``constants`` by the name of the parameter or buffer. ``flow`` is the table of
    rules that the trace went by, ``excluded`` what it was told to pin, ``origin`` what the model was before
    :func:`edgel0.shrink_` made it smaller.
    """

    program: ExportedProgram = field(repr=False)
    units: int
    groups: tuple[Group, ...] = field(repr=False)
    activations: dict[str, tuple[Labels | None, ...]] = field(repr=False)
    constants: dict[str, tuple[Labels, ...]] = field(repr=False)
    uses: dict[tuple[str, str], tuple[Labels, ...]] = field(repr=False)
    tensors: dict[str, tuple[Labels, ...]] = field(repr=False)
    readers: tuple[Reader, ...] = field(repr=False)
    pins: tuple[Pin, ...] = field(repr=False)
    flow: Mapping[Any, Any] = field(repr=False)
    excluded: tuple[str, ...] = ()
    origin: Origin | None = field(default=None, repr=False)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the operators that have no row in ``FLOW``, each once, sorted."""
        return tuple(sorted({pin.operator for pin in self.pins if pin.unknown}))

    @property
    def digest(self) -> str:
        """A short digest of groups and readers: equal for equal models, whatever their weights."""
        text = repr([(g.name, g.size) for g in self.groups] + [(r.parameter, r.axis) for r in self.readers])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Masks:
    """Which units stay: ``open[u]`` for unit ``u``; ``open[0]`` is True, the pinned rest.

    ``rule`` says how the mask was made (``median``, ``random``, ``rank``); ``probability`` is P(z != 0) per unit where
    gates made it; ``report`` is what stabilizing found (see :func:`edgel0.stabilize`).
    """

    coupling: Coupling = field(repr=False)
    open: np.ndarray = field(repr=False)
    rule: str = "given"
    probability: np.ndarray | None = field(default=None, repr=False)
    report: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shape ``(units + 1,)`` and that the pinned entry is open."""
        if self.open.shape != (self.coupling.units + 1,) or self.open.dtype != np.bool_:
            raise UsageError(
                f"a mask of shape {self.open.shape} and type {self.open.dtype} was given for a model of "
                f"{self.coupling.units} units; it needs one bool per unit and a leading True for the pinned rest, "
                f"shape ({self.coupling.units + 1},)."
            )
        if not self.open[0]:
            raise UsageError("the mask closes entry 0, the pinned rest of the model; entry 0 must be True.")

    @staticmethod
    def random(coupling: Coupling, share: float = 0.5, seed: int = 0) -> Masks:
        """Close each unit with probability ``share``; every group keeps at least one, and so does every reader."""
        if not 0 <= share <= 1:
            raise UsageError(f"the share of units to close is {share!r}; it must lie between 0 and 1.")
        rng = np.random.default_rng(seed)
        opened = rng.random(coupling.units + 1) >= share
        opened[0] = True
        ranges = [np.arange(group.start, group.stop) for group in coupling.groups]
        for units in [*ranges, *(reader.units for reader in coupling.readers)]:
            if not opened[units].any():
                opened[rng.choice(units)] = True
        return Masks(coupling, opened, rule="random")

    @staticmethod
    def rank(coupling: Coupling, model: nn.Module, by: str = "magnitude", *, budget: Any, **options: Any) -> Masks:
        """Close the least important units by ``by``, "magnitude" or "taylor", until ``budget`` holds, without gates.

        ``options`` are ``loss``, ``start`` and ``per``; :func:`edgel0.ranking.rank` says what each may be.

        Raises:
            ExtraError: torch is not installed.
        """
        need("torch", "train")
        from edgel0.ranking import rank  # the one import against the order: a way to make masks belongs to Masks

        return rank(coupling, model, by, budget=budget, **options)

    @property
    def kept(self) -> dict[str, int]:
        """Open units per group."""
        return {g.name: int(self.open[g.start : g.stop].sum()) for g in self.coupling.groups}

    @property
    def digest(self) -> str:
        """SHA-256 of the packed mask, shortened to 16 hexadecimal digits."""
        return hashlib.sha256(np.packbits(self.open).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Cost:
    """What one inference of one example costs.

    MACs, parameters, bytes of weights (parameters and buffers), and the peak bytes of live activations when operators
    run in program order (inputs and outputs of the running operator included, scratch memory excluded).
    """

    macs: int
    params: int
    weight_bytes: int
    activation_bytes: int

    def as_dict(self) -> dict[str, int]:
        """Return the four figures by name."""
        return {
            "macs": self.macs,
            "params": self.params,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
        }


@dataclass(frozen=True)
class Slimmed:
    """A physically smaller network: a program, its cost, and where it came from.

    ``provenance`` holds plain JSON values: gate rule, mask digest, units per group before and after, versions.
    """

    program: ExportedProgram = field(repr=False)
    cost: Cost
    dense: Cost
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of an artefact: its name, shape and NumPy type name.

    An integer ``q`` of a quantized one stands for ``scale * (q - zero_point)``; elsewhere ``scale`` is None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Parity:
    """How far an artefact is from its reference on real inputs.

    ``max_abs`` and ``mean_abs`` are absolute differences, ``relative`` is ``max_abs`` over the reference's largest
    absolute output, ``top1`` the share of samples with the same arg-max over the last axis. ``tolerance`` is the share
    of the largest absolute output by which an artefact may differ. ``accuracy`` is the artefact's own, where the
    samples' classes are known.
    """

    reference: str
    runtime: str
    samples: int
    max_abs: float
    mean_abs: float
    relative: float
    top1: float
    tolerance: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Artifact:
    """A file that a runtime can run, its digest and what is known of it; ``elsewhere`` are other runtimes' answers."""

    path: Path
    format: str
    precision: str
    bytes: int
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    cost: Cost | None = None
    parity: Parity | None = None
    elsewhere: tuple[Parity, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """One of the rounds in which a file's samples were taken, with the board before and after it.

    ``disturbed`` is the reason by mark, empty for a quiet round. A round that was set aside keeps its own
    ``samples_ms``; those of a ``kept`` one are among the measurement's.
    """

    turn: int
    runs: int
    p50_ms: float
    cpu_ms: float
    wall_ms: float
    kept: bool = True
    disturbed: dict[str, str] = field(default_factory=dict)
    samples_ms: tuple[float, ...] = field(default=(), repr=False)
    before: dict[str, Any] = field(default_factory=dict, repr=False)
    after: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class OperatorTime:
    """The median time of one operator in the runtime's own profile, which disturbs what it measures."""

    name: str
    kind: str
    ms: float


@dataclass(frozen=True)
class Measurement:
    """Timings of one artefact in one runtime on one board; ``samples_ms`` are raw, in the order they were taken.

    ``interval_ms`` holds the median with 95 % confidence. ``marks`` say what disturbed the figures ("throttled",
    "frequency", "hot", "busy"); where it is empty, no sample was taken while anything did. Memory is four figures:
    ``file_bytes`` (external data included), ``weight_bytes``, ``activation_bytes`` (planned, the peak of live
    activations; both None where unknown) and ``peak_rss_bytes`` of a fresh process from loading on, which held
    ``base_rss_bytes`` (Python and the runtime) before it loaded the model.
    """

    artifact: str
    sha256: str
    board: str
    runtime: str
    threads: int
    threads_observed: float
    load_ms: float
    first_ms: float
    samples_ms: tuple[float, ...] = field(repr=False)
    p10_ms: float = 0.0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    warmup_runs: int = 0
    file_bytes: int = 0
    peak_rss_bytes: int | None = None
    notes: tuple[str, ...] = ()
    p99_ms: float = 0.0
    mean_ms: float = 0.0
    interval_ms: tuple[float, float] | None = None
    marks: tuple[str, ...] = ()
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    base_rss_bytes: int | None = None
    cores: tuple[int, ...] = ()
    operators: tuple[OperatorTime, ...] = field(default=(), repr=False)
    rounds: tuple[Round, ...] = field(default=(), repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Comparison:
    """Two artefacts measured in turns: ``ratio`` is B's time over A's, with 95 % confidence within ``interval``.

    ``difference`` is "none" when the interval holds 1 or the ratio is within ``threshold`` of it, else what B is
    beside A: "faster" or "slower". ``ratios`` are those of the single pairs of rounds, one tuple per fresh start.
    """

    a: Measurement
    b: Measurement
    ratio: float
    interval: tuple[float, float]
    pairs: int
    threshold: float
    difference: str
    ratios: tuple[tuple[float, ...], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Count:
    """What one inference of an artefact executes on an emulated core, one thread: the least of ``samples``.

    ``instructions`` and ``accesses`` (reads and writes of memory) are without the cost of counting; ``samples`` are the
    instructions of each measured inference, ``spread`` is their range over the least. ``system`` is what the runtime
    ran on: the C library and Python of the root file system, and the emulator.
    """

    artifact: str
    sha256: str
    core: str
    runtime: str
    instructions: int
    accesses: int
    spread: float
    samples: tuple[int, ...] = field(repr=False)
    threads: int = 1
    system: str = ""


@dataclass(frozen=True)
class Limit:
    """One promise about one artefact: a bound on ``metric`` of ``path`` (bytes, counts, ms, or a share of accuracy).

    ``bound`` says what ``maximum`` is: ``max`` and ``min`` are the amount itself; ``increase`` and ``decrease`` are
    how far the figure may move from the baseline's, as an amount, or as a share of it where ``bound`` ends in "%".
    ``patterns`` are the globs of the artefacts, "!" before those to leave out; none: ``path`` is the only one. A limit
    of level ``warn`` is told and fails nothing, one of ``off`` is not looked at. ``line`` is where it stands in its
    configuration file, for editors and CI, ``message`` what its author wants said when it is exceeded.
    """

    name: str
    path: str
    metric: str
    maximum: float
    text: str
    qualifiers: dict[str, Any] = field(default_factory=dict)
    line: int | None = None
    bound: str = "max"
    level: str = "error"
    message: str = ""
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a check found: ``value`` against ``limit``; ``value is None`` means that the figure is missing.

    ``allowed`` is the bound in the unit of the value, ``baseline`` the figure that it is compared with and ``against``
    where that is from; None and "" where there is none. ``largest`` names what the value is made of, or has grown by:
    (layer, amount, growth or None).
    """

    limit: Limit
    value: float | None
    passed: bool
    reason: str = ""
    baseline: float | None = None
    allowed: float | None = None
    largest: tuple[tuple[str, float, float | None], ...] = ()
    against: str = ""

    @property
    def status(self) -> str:
        """``ok``, ``off``, ``warn`` or ``FAIL``."""
        if self.limit.level == "off":
            return "off"
        return "ok" if self.passed else "warn" if self.limit.level == "warn" else "FAIL"
