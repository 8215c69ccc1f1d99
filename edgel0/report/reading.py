"""What does a run's folder say? ``result.json`` and what stands beside it, checked value by value, whoever wrote it.

A figure that is missing is None, and the report is silent about it or says so. A value that cannot be right (a text for
a number, a number that is not finite, a truncated file) is a :class:`~edgel0.errors.UsageError` that names it: a page
that shows half of what was damaged would look like a whole one.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgel0.checks.config import read_limits
from edgel0.checks.verdict import check
from edgel0.errors import EdgeL0Error, UsageError
from edgel0.report.records import COSTS, Epoch, Part, Run, Same, Side, Small, Spent, Timing
from edgel0.report.values import LARGEST, Value, load, shown
from edgel0.staging import RESULT, SAMPLES
from edgel0.types import Verdict

SCHEMA = 1
LEAST = 1e-9  # of a limit, or of a time in milliseconds: what is less is nothing that could be compared with


def read_run(path: str | Path) -> Run:
    """Read the folder of a finished run, or its ``result.json``.

    Raises:
        UsageError: there is none, or it is damaged, or of another schema; the paragraph says where.
    """
    path = Path(path)
    file = _find(path)
    root = Value(load(file), "", file)
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
    root = Value(load(file), "", file)
    found = {}
    for name, row in root.entries("samples"):
        every = row.count_at("every") or 1
        found[name] = Samples(tuple(one.number() / 1e6 for one in row.rows("ns")), every)
    return found


def _timing(row: Value, file: str, runtime: str, samples: dict[str, Samples]) -> Timing | None:
    p10, p50, p90 = (_some(row, key) for key in ("p10", "p50", "p90"))
    if p50 is None:
        return None
    raw = samples.get(file, Samples((), 1))
    return Timing(
        file,
        row.text_at("runtime") or runtime,
        *(p10, p50, p90),
        row.count_at("runs"),
        row.count_at("threads"),
        row.number_at("threads_observed"),
        tuple(note.text() for note in row.rows("notes")),
        tuple(_part(one, "ms") for one in row.rows("operators")),
        tuple(ms for ms in raw.ms if ms >= LEAST),
        raw.every,
    )


def _some(row: Value, key: str) -> float | None:
    """Return a number of an object that others can be compared with."""
    found = row.number_at(key)
    return None if found is None or found < LEAST else found


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
        _some(row, "float32_p50_ms"),
    )


def _spent(name: str, row: Value) -> Spent | None:
    limit, slim = _some(row, "limit"), row.number_at("slim")
    return None if limit is None or slim is None else Spent(name, limit, slim, row.number_at("dense"))


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
