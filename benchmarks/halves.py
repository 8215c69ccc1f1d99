"""Which files stand for dense and slim? The recipes' networks, whole and with half of their MACs, exported each way."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgel0

PRECISIONS = {"float32": "float32", "int8": "static_wi8_ai8"}
SUFFIXES = ("onnx", "tflite")
SHARE = 0.5
CLASSES = {"EfficientNet-Lite0": (10,)}  # without the package that has its weights
LOOSE = 1e6  # int8 of random weights may differ by much


def made(folder: Path, names: Sequence[str]) -> list[Path]:
    """Export the networks, dense and slimmed, in all formats and precisions: NAME.WHICH.PRECISION.SUFFIX."""
    if unknown := set(names) - set(NETWORKS):
        raise SystemExit(f"no network is called {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}.")
    files = []
    for name, (module, build, shape) in ((name, NETWORKS[name]) for name in names):
        torch.manual_seed(0)
        model = getattr(importlib.import_module(f"export.{module}"), build)(*CLASSES.get(name, ())).eval()
        for which, slimmed in slims(model, shape).items():
            samples = [(torch.randn(shape),) for _ in range(32)]
            for precision, asked in PRECISIONS.items():
                for suffix in SUFFIXES:
                    path = folder / f"{name}.{which}.{precision}.{suffix}"
                    exported(slimmed, path, asked, samples)
                    files.append(path)
    return files


def slims(model: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the model as it is and with half of its MACs."""
    example = torch.randn(shape)
    coupling = edgel0.trace(model, example)
    dense = edgel0.Masks(coupling, np.ones(coupling.units + 1, bool), "dense")
    half = edgel0.Masks.rank(coupling, model, budget={"macs": SHARE})
    return {which: edgel0.slim(model, masks, example) for which, masks in (("dense", dense), ("slim", half))}


def exported(slimmed: Any, path: Path, precision: str, samples: Sequence[tuple[Any, ...]]) -> None:
    """Write a file, which must answer as the program does."""
    calibrate = None if precision == "float32" else samples
    loose = None if precision == "float32" else LOOSE
    artifact = edgel0.export(
        slimmed, path, precision=precision, calibrate=calibrate, inputs=samples[:4], tolerance=loose
    )
    print(json.dumps({"file": path.name, "macs": slimmed.cost.macs, "bytes": artifact.bytes}), flush=True)


NETWORKS = {  # module of export/, what builds the network, its input
    "LeNet-5": ("mnist_lenet5", "build", (1, 1, 28, 28)),
    "ResNet-8": ("resnet8", "build", (1, 3, 32, 32)),
    "DS-CNN": ("spoken_digits", "build_dscnn", (1, 1, 49, 20)),
    "transformer": ("spoken_digits", "build_transformer", (1, 49, 20)),
    "EfficientNet-Lite0": ("efficientnet_lite0", "EfficientNetLite0", (1, 3, 96, 96)),
}
