"""Runs as their folders tell them, made small: what each test changes is all that differs from a good one."""

import copy
import json
from pathlib import Path

import numpy as np

STORED = Path(__file__).parents[2] / "docs" / "pictures" / "mnist-lenet5"  # a real run, its samples thinned
HOSTILE = "<script>alert(1)</script>'\"&|`</title>--> \x1b[31m\u202e\ud800 ${x} {{y}} [a](javascript:b) @all #1"


def timing(p50, **more):
    return {"p10": p50 * 0.95, "p50": p50, "p90": p50 * 1.1, "runs": 60, "threads": 1, "threads_observed": 1.0} | more


def side(which, accuracy, macs, p50):
    return {
        "accuracy": accuracy,
        "macs": macs,
        "params": macs // 5,
        "weight_bytes": macs * 4 // 5,
        "activation_bytes": 90_000,
        "files": {f"{which}.onnx": macs, f"{which}.tflite": macs + 2_000},
        "latency_ms": {"onnxruntime": timing(p50, runtime="onnxruntime 1.32.0", notes=[])},
        "layers": [{"name": n, "kind": "conv2d", "macs": macs // 2} for n in ("conv1", "conv2")],
    }


def epoch(phase, n, accuracy, cost, target):
    row = {"phase": phase, "epoch": n, "accuracy": accuracy, "loss": 0.5}
    return row | {"cost": {} if cost is None else {"macs": cost}, "target": {} if target is None else {"macs": target}}


def result(name="tiny", accuracy=0.97, macs=100_000, p50=0.5):
    """A good result.json: ten times fewer MACs, four times faster."""
    rows = [("dense", 1, 0.9, None, None), ("gating", 1, 0.95, 900_000.0, 1_000_000.0), ("gating", 2, 0.96, 2e5, 1e5)]
    return {
        "schema": 1,
        "name": name,
        "dense": side("dense", 0.98, 1_000_000, 2.0),
        "slim": side("slim", accuracy, macs, p50),
        "quantized": {
            "slim.static_wi8_ai8.onnx": {
                "precision": "static_wi8_ai8",
                "bytes": 30_000,
                "accuracy": 0.965,
                "latency_ms": timing(1.0, runtime="onnxruntime 1.32.0"),
                "float32_p50_ms": p50,
            }
        },
        "parity": {"slim.onnx": {"max_abs": 1e-6, "top1": 1.0, "samples": 100, "reference": "the masked model"}},
        "budget": {"macs": {"limit": 100_500.0, "dense": 1_000_000, "slim": macs}},
        "mask": {
            "rule": "median",
            "digest": "0123456789abcdef",
            "groups": {"conv1": [4, 20], "conv2": [25, 50]},
            "polarisation": 0.05,
            "output_change": 0.1,
        },
        "profile": {"board": "local: Some CPU", "threads": 1, "runtimes": {"onnxruntime": "1.32.0"}},
        "data": {"digest": "fedcba9876543210", "train": 4000, "test": 1000},
        "seed": 3,
        "shrunk": True,
        "history": [epoch(*row) for row in rows],
        "versions": {"edgel0": "0.1.0", "torch": "2.13.0"},
    }


def samples(found):
    """Raw latencies around each p50 of a result."""
    rng, rows = np.random.default_rng(0), {}
    for which in ("dense", "slim"):
        for file in found[which]["files"]:
            p50 = found[which]["latency_ms"]["onnxruntime"]["p50"]
            rows[file] = {"every": 1, "ns": [int(p50 * 1e6 * x) for x in rng.lognormal(0, 0.05, 60)]}
    return {"schema": 1, "samples": rows}


def changed(found, path, value):
    """A copy of a result in which one entry is another; the path is as ``slim.files``, None removes it."""
    found = copy.deepcopy(found)
    *above, key = path.split(".")
    inner = found
    for name in above:
        inner = inner[name]
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return found


def folder(place, found, raw=None, recipe=None):
    """Write a run's folder; a text is written as it is."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "result.json").write_text(found if isinstance(found, str) else json.dumps(found))
    if raw is not None:
        (place / "samples.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    if recipe is not None:
        (place / "recipe.toml").write_text(recipe)
    return place
