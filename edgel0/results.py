"""What does ``result.json`` say of a run? Figures of the dense and the slim network, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edgel0 import __version__
from edgel0.cost import program_layers
from edgel0.recipe import Recipe
from edgel0.samples import Data
from edgel0.training import Trained
from edgel0.types import Artifact, Measurement, Parity, Slimmed

SCHEMA = 1
MOST_SAMPLES = 20_000  # of one file; more would be most of what is in the folder
RUNTIME_NAMES = {".onnx": "onnxruntime", ".tflite": "litert"}


def result_of(
    recipe: Recipe,
    trained: Trained,
    data: Data,
    programs: Mapping[str, Slimmed],
    scores: Mapping[str, float],
    artifacts: Mapping[str, Sequence[Artifact]],
    parity: Mapping[str, Parity],
    measured: Mapping[str, Measurement],
) -> dict[str, Any]:
    """Return the content of ``result.json``, plain JSON values; mappings are by ``dense`` and ``slim``.

    ``artifacts`` has ``quantized``, too; ``parity`` and ``measured`` are by file name. No time of day and no path of
    this machine is in it.
    """
    smaller = programs["slim"]
    return {
        "schema": SCHEMA,
        "name": recipe.name,
        **{which: _side(programs[which], scores[which], artifacts[which], measured) for which in ("dense", "slim")},
        "quantized": {a.path.name: _quantized(a, measured) for a in artifacts["quantized"]},
        "parity": {name: _parity(row) for name, row in parity.items()},
        "budget": _budget(trained, smaller),
        "mask": {
            "rule": trained.masks.rule,
            "digest": trained.masks.digest,
            "groups": smaller.provenance["groups"],
            **trained.masks.report,
        },
        "profile": _profile(recipe, measured),
        "data": {"digest": data.digest, "train": len(data.x_train), "test": len(data.x_test)},
        "seed": recipe.seed,
        "shrunk": not trained.refused,
        "history": list(trained.history),
        "versions": _versions([*artifacts["slim"], *artifacts["quantized"]]),
    }


def as_json(value: Any) -> bytes:
    """Return a file's content; a value that JSON does not know (nan) is a ``ValueError``."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def timed(row: Measurement) -> dict[str, Any]:
    """Return what a check reads from the JSON beside a file: the three figures, and on what they were measured."""
    return {
        **latency(row),
        "board": row.board,
        "threads": row.threads,
        "pinned": row.facts.get("governor") == "performance",
        "throttled": bool({"throttled", "frequency", "hot"}.intersection(row.marks)),
    }


def latency(row: Measurement) -> dict[str, float]:
    """Return the three figures that are told of a file's times."""
    return {"p10": row.p10_ms, "p50": row.p50_ms, "p90": row.p90_ms}


def samples_of(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return the content of ``samples.json``: raw latencies by file name, whole nanoseconds in the order they came.

    Of more than ``MOST_SAMPLES`` every n-th is kept, and ``every`` says n; the percentiles are those of all.
    """
    found = {}
    for name, row in measured.items():
        every = -(-len(row.samples_ms) // MOST_SAMPLES) or 1
        found[name] = {"every": every, "ns": [round(ms * 1e6) for ms in row.samples_ms[::every]]}
    return {"schema": SCHEMA, "samples": found}


def _side(
    program: Slimmed, score: float, artifacts: Sequence[Artifact], measured: Mapping[str, Measurement]
) -> dict[str, Any]:
    rows = {RUNTIME_NAMES[a.path.suffix]: measured[a.path.name] for a in artifacts if a.path.name in measured}
    return {
        "accuracy": score,
        **program.cost.as_dict(),
        "files": {a.path.name: a.bytes for a in artifacts},
        "latency_ms": {name: _timing(row) for name, row in rows.items()},
        "layers": program_layers(program.program),
    }


def _quantized(artifact: Artifact, measured: Mapping[str, Measurement]) -> dict[str, Any]:
    told = artifact.provenance.get(artifact.format, {})
    row, twin = measured.get(artifact.path.name), measured.get(f"slim{artifact.path.suffix}")
    return {
        "precision": artifact.precision,
        "bytes": artifact.bytes,
        "accuracy": artifact.parity.accuracy if artifact.parity else None,
        "latency_ms": _timing(row) if row else None,
        "float32_p50_ms": twin.p50_ms if twin else None,
        **{key: told.get(key) for key in ("partitions", "outside", "kept_float", "kept_layers")},
    }


def _timing(row: Measurement) -> dict[str, Any]:
    return {
        **timed(row),
        "runs": len(row.samples_ms),
        "load": row.load_ms,
        "first": row.first_ms,
        "threads": row.threads,
        "threads_observed": row.threads_observed,
        "peak_rss_bytes": row.peak_rss_bytes,
        "runtime": row.runtime,
        "notes": list(row.notes),
    }


def _parity(row: Parity) -> dict[str, Any]:
    return {
        "max_abs": row.max_abs,
        "mean_abs": row.mean_abs,
        "relative": row.relative,
        "top1": row.top1,
        "samples": row.samples,
        "reference": row.reference,
        "runtime": row.runtime,
        "tolerance": row.tolerance,
        "accuracy": row.accuracy,
    }


def _budget(trained: Trained, smaller: Slimmed) -> dict[str, Any]:
    slim, dense = smaller.cost.as_dict(), smaller.dense.as_dict()
    rows = trained.limits.spent(trained.masks)
    for key in rows:
        if key in slim and (key != "weight_bytes" or trained.limits.storage is None):
            rows[key] |= {"dense": dense[key], "slim": slim[key]}  # of the program, where branches may have folded away
    return rows


def _profile(recipe: Recipe, measured: Mapping[str, Measurement]) -> dict[str, Any]:
    rows = list(measured.values())
    return {
        "board": rows[0].board if rows else "not measured",
        "threads": recipe.profile.threads,
        "runtimes": {r.runtime.rpartition(" ")[0]: r.runtime.rpartition(" ")[2] for r in rows},
    }


def _versions(artifacts: Sequence[Artifact]) -> dict[str, str]:
    versions = {"edgel0": __version__, "numpy": np.__version__, "torch": str(torch.__version__)}
    for artifact in artifacts:
        sidecar = json.loads(artifact.path.with_name(f"{artifact.path.name}.json").read_text(encoding="utf-8"))
        versions |= sidecar["versions"]
    return dict(sorted(versions.items()))
