"""What does a run's folder say? ``result.json`` and what stands beside it, checked value by value, whoever wrote it.

A figure that is missing is None, and the report is silent about it or says so. A value that cannot be right (a text for
a number, a number that is not finite, a truncated file) is a :class:`~edgel0.errors.UsageError` that names it: a page
that shows half of what was damaged would look like a whole one.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgel0.checks.config import read_limits
from edgel0.checks.verdict import check
from edgel0.errors import EdgeL0Error, UsageError
from edgel0.report.lettering import clean
from edgel0.staging import RESULT, SAMPLES
from edgel0.types import Verdict

SCHEMA = 1
LARGEST = 256 * 2**20  # bytes of a file that is read; a real one has some 100 kB
LONGEST = 200  # letters of a name
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


def read_run(path: str | Path) -> Run:
    """Read the folder of a finished run, or its ``result.json``.

    Raises:
        UsageError: there is none, or it is damaged, or of another schema; the paragraph says where.
    """
    path = Path(path)
    file = _find(path)
    root = Value(_load(file), "", file)
    if not isinstance(root.value, dict):
        raise root.wrong("an object with the figures of a run was expected")
    schema = root.value.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise UsageError(
            f"{file} has the schema {reprlib.repr(schema)}, and this version of edgel0 reads {SCHEMA}: another version "
            "or another program wrote it. Run the recipe again with this version."
        )
    for key in ("name", "dense", "slim"):
        if root.find(key) is None:
            raise UsageError(
                f"{file} holds no {key!r}, so it is no finished run's result; name the folder of one, as in "
                "runs/mnist-lenet5."
            )
    return _run(root, file)


def _find(path: Path) -> Path:
    """Return the ``result.json`` that is meant, or say why there is none."""
    file = path / RESULT if path.is_dir() else path
    if file.is_file():
        return file
    if path.is_dir():
        inside = sorted(one.parent.name for one in path.glob(f"*/{RESULT}"))
        hint = f"; did you mean {path / inside[0]}?" if inside else "; name the folder that edgel0 run left."
        raise UsageError(f"{path} holds no {RESULT}, so it is no finished run{hint}")
    begun = path.with_name(f".{path.name}.partial")
    if begun.is_dir():
        raise UsageError(
            f"the run {path} was begun and is not finished: {begun.name} beside it holds its checkpoint. Start "
            "edgel0 run again, which goes on from there, and report then."
        )
    raise UsageError(f"there is no run {path}; name the folder that edgel0 run left, as in runs/mnist-lenet5.")


def _load(file: Path) -> Any:
    """Parse a JSON file of any content."""
    try:
        if file.stat().st_size > LARGEST:
            raise UsageError(f"{file} is larger than {LARGEST // 2**20} MiB, so no run wrote it; name another folder.")
        return json.loads(file.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        where = f"line {error.lineno}, {error.msg.lower()}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UsageError(
            f"{file} is damaged: {shown(where)}; it may have been cut off. Restore it, or run the recipe again."
        ) from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); correct its permissions or copy it.") from error


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


@dataclass(frozen=True)
class Value:
    """A value of a JSON file that knows where it stands; every access checks what it finds."""

    value: Any
    where: str
    file: Path

    def wrong(self, expected: str) -> UsageError:
        """Make the error that names this place."""
        return UsageError(
            f"{self.file} is damaged: {self.where or 'all of it'} is {clean(reprlib.repr(self.value))}; {expected}. "
            "Restore the file, or run the recipe again."
        )

    def find(self, key: str) -> Value | None:
        """Return an entry of an object, None when it is missing or null."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object was expected")
        found = self.value.get(key)
        return None if found is None else Value(found, f"{self.where}.{key}".lstrip("."), self.file)

    def entries(self, key: str) -> Iterator[tuple[str, Value]]:
        """Yield (name, value) of an object in an object, none when it is missing; names are fit to be shown."""
        inner = self.find(key)
        if inner is None:
            return
        if not isinstance(inner.value, dict):
            raise inner.wrong("an object was expected")
        for name, value in inner.value.items():
            if value is not None:
                yield shown(name), Value(value, f"{inner.where}.{shown(name)}", self.file)

    def rows(self, key: str) -> Iterator[Value]:
        """Yield what a list in an object holds, nothing when it is missing."""
        inner = self.find(key)
        if inner is None:
            return
        if not isinstance(inner.value, list):
            raise inner.wrong("a list was expected")
        for at, value in enumerate(inner.value):
            yield Value(value, f"{inner.where}[{at}]", self.file)

    def number(self, most: float = 2.0**63) -> float:
        """Return a finite number from 0 to ``most``."""
        found = self.value
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= most:
            raise self.wrong(f"a number from 0 to {'1' if most == 1 else '2^63'} was expected")
        return float(found)

    def text(self) -> str:
        """Return a text that is fit to be shown."""
        if not isinstance(self.value, str):
            raise self.wrong("a text was expected")
        return shown(self.value)

    def number_at(self, key: str, most: float = 2.0**63) -> float | None:
        """Return a number of an object, None when it is missing."""
        found = self.find(key)
        return None if found is None else found.number(most)

    def count_at(self, key: str) -> int | None:
        """Return a number of things, None when it is missing."""
        found = self.number_at(key)
        return None if found is None else int(found)

    def text_at(self, key: str) -> str:
        """Return a text of an object, "" when it is missing."""
        found = self.find(key)
        return "" if found is None else found.text()


def shown(text: str) -> str:
    """Return a foreign text without what no page can show, and not endless."""
    text = clean(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _run(root: Value, file: Path) -> Run:
    empty = Value({}, "", file)
    mask, profile, data = (root.find(key) or empty for key in ("mask", "profile", "data"))
    samples = _samples(file.with_name(SAMPLES))
    verdicts, unchecked = _verdicts(file.with_name("recipe.toml"))
    return Run(
        name=root.text_at("name") or "unnamed",
        folder=shown(file.resolve().parent.name),
        dense=_side(root, "dense", samples),
        slim=_side(root, "slim", samples),
        small=tuple(_small(name, value, samples) for name, value in root.entries("quantized")),
        budget=tuple(spent for name, value in root.entries("budget") if (spent := _spent(name, value))),
        groups=dict(_groups(mask)),
        history=tuple(_epoch(row) for row in root.rows("history")),
        parity=tuple(_same(name, value) for name, value in root.entries("parity")),
        board=_board(profile),
        threads=profile.count_at("threads"),
        digest=data.text_at("digest") or None,
        tested=data.count_at("test"),
        facts=tuple(_facts(root, mask, profile, data)),
        versions=tuple((name, version.text()) for name, version in root.entries("versions")),
        verdicts=verdicts,
        unchecked=unchecked,
    )


def _board(profile: Value) -> str | None:
    board = profile.text_at("board")
    return None if board in ("", "not measured") else board


def _side(root: Value, which: str, samples: dict[str, Samples]) -> Side:
    side = root.find(which)
    assert side is not None  # read_run has looked
    files = {name: int(value.number()) for name, value in side.entries("files")}
    timings = {}
    for runtime, row in side.entries("latency_ms"):
        file = next((name for name in files if name.endswith(SUFFIXES.get(runtime, "\0"))), f"{which} ({runtime})")
        timing = _timing(row, file, runtime, samples)
        if timing is not None:
            timings[runtime] = timing
    costs = {key: value for key in COSTS if (value := side.number_at(key)) is not None}
    layers = tuple(_part(row, "macs") for row in side.rows("layers"))
    return Side(side.number_at("accuracy", 1.0), costs, files, timings, layers)


@dataclass(frozen=True)
class Samples:
    """Raw samples of one file, every ``every``-th of those that were taken."""

    ms: tuple[float, ...]
    every: int


def _samples(file: Path) -> dict[str, Samples]:
    """Read the raw samples beside a result, by file name; none where there is no such file."""
    if not file.is_file():
        return {}
    root = Value(_load(file), "", file)
    found = {}
    for name, row in root.entries("samples"):
        every = row.count_at("every") or 1
        found[name] = Samples(tuple(one.number() / 1e6 for one in row.rows("ns")), every)
    return found


def _timing(row: Value, file: str, runtime: str, samples: dict[str, Samples]) -> Timing | None:
    p50 = row.number_at("p50")
    if not p50:  # missing, or a zero that nothing can be compared with
        return None
    raw = samples.get(file, Samples((), 1))
    return Timing(
        file,
        row.text_at("runtime") or runtime,
        row.number_at("p10"),
        p50,
        row.number_at("p90"),
        row.count_at("runs"),
        row.count_at("threads"),
        row.number_at("threads_observed"),
        tuple(note.text() for note in row.rows("notes")),
        tuple(_part(one, "ms") for one in row.rows("operators")),
        tuple(ms for ms in raw.ms if ms > 0),
        raw.every,
    )


def _part(row: Value, key: str) -> Part:
    return Part(row.text_at("name") or "unnamed", row.text_at("kind"), row.number_at(key) or 0.0)


def _small(name: str, row: Value, samples: dict[str, Samples]) -> Small:
    latency = row.find("latency_ms")
    timing = None if latency is None else _timing(latency, name, "", samples)
    return Small(
        name,
        row.text_at("precision"),
        row.count_at("bytes"),
        row.number_at("accuracy", 1.0),
        timing,
        row.number_at("float32_p50_ms"),
    )


def _spent(name: str, row: Value) -> Spent | None:
    limit, slim = row.number_at("limit"), row.number_at("slim")
    return None if not limit or slim is None else Spent(name, limit, slim, row.number_at("dense"))


def _groups(mask: Value) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, pair in mask.entries("groups"):
        if not isinstance(pair.value, list) or len(pair.value) != 2:
            raise pair.wrong("[kept, size] was expected")
        kept, size = (Value(one, pair.where, pair.file).number() for one in pair.value)
        if kept > size:
            raise pair.wrong("no more can be kept than there is")
        yield name, (int(kept), int(size))


def _epoch(row: Value) -> Epoch:
    return Epoch(
        row.text_at("phase"),
        row.number_at("accuracy", 1.0),
        {name: value.number() for name, value in row.entries("cost")},
        {name: value.number() for name, value in row.entries("target")},
    )


def _same(name: str, row: Value) -> Same:
    return Same(
        name,
        row.text_at("reference") or "its reference",
        row.number_at("max_abs"),
        row.number_at("top1", 1.0),
        row.count_at("samples"),
    )


def _facts(root: Value, mask: Value, profile: Value, data: Value) -> Iterator[tuple[str, str]]:
    """Yield the provenance: what made the mask, on which data, what measured where, with which versions."""
    rule, digest = mask.text_at("rule"), mask.text_at("digest")
    if rule or digest:
        yield "mask", ", ".join(text for text in (rule and f"rule {rule}", digest and f"digest {digest}") if text)
    for key, name in (
        ("polarisation", "gates left undecided"),
        ("output_change", "change of the output by stabilizing"),
    ):
        value = mask.find(key)
        if value is not None and isinstance(value.value, float) and math.isfinite(value.value):
            yield name, f"{value.value:.3g}"
    if data.text_at("digest"):
        train, test = data.count_at("train"), data.count_at("test")
        counts = "" if train is None or test is None else f", {train:,} to train and {test:,} to test"
        yield "data", f"digest {data.text_at('digest')}{counts}"
    if root.count_at("seed") is not None:
        yield "seed", str(root.count_at("seed"))
    yield "board", _board(profile) or "nothing was measured"
    if _board(profile) and profile.count_at("threads") is not None:
        yield "threads", str(profile.count_at("threads"))


def _verdicts(recipe: Path) -> tuple[tuple[Verdict, ...], str]:
    """Check the recipe's own ``[[budget]]`` again, or say why that cannot be done."""
    if not recipe.is_file():
        return (), ""
    try:
        if recipe.stat().st_size > LARGEST or "budget" not in recipe.read_text("utf-8", "replace"):
            return (), ""
        return tuple(check(read_limits(recipe, strict=False))), ""
    except EdgeL0Error as error:
        # Most recipes without [[budget]] hold the word somewhere.
        return (), "" if "found no budget" in str(error) else shown(str(error).replace(str(recipe), recipe.name))
    except OSError as error:
        return (), f"recipe.toml cannot be read ({error.strerror})"


SUFFIXES = {"onnxruntime": ".onnx", "litert": ".tflite"}
