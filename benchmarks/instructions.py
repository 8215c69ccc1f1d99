"""What does an inference take on Cortex cores? Instructions, dense and with half of the MACs, in float and int8.

``python -m benchmarks.instructions`` slims the recipes' networks (fresh weights: instructions do not depend on their
values) to 50 % of their MACs by ``Masks.rank``, exports both to ONNX and TFLite in float32 and static int8, and counts
each file on three emulated cores: a JSON line and a row of a table each. Given files, it counts those. ``--store
FILE.md`` writes the table; ``--again`` counts a second time in a second emulator, built elsewhere, and says whether the
figures are the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgel0.devices.emulator.building import setup
from edgel0.devices.emulator.cores import CORES
from edgel0.devices.qemu import count
from edgel0.types import Count

PRECISIONS = {"float32": "float32", "int8": "static_wi8_ai8"}
SUFFIXES = ("onnx", "tflite")
SHARE = 0.5
NETWORKS = {  # module of export/, what builds the network, its input
    "LeNet-5": ("mnist_lenet5", "build", (1, 1, 28, 28)),
    "ResNet-8": ("resnet8", "build", (1, 3, 32, 32)),
    "DS-CNN": ("spoken_digits", "build_dscnn", (1, 1, 49, 20)),
    "transformer": ("spoken_digits", "build_transformer", (1, 49, 20)),
    "EfficientNet-Lite0": ("efficientnet_lite0", "EfficientNetLite0", (1, 3, 96, 96)),
}
CLASSES = {"EfficientNet-Lite0": (10,)}  # without the package that has its weights
LOOSE = 1e6  # int8 of random weights may differ by much


def main() -> None:
    """Make the files, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="ONNX and TFLite files instead of the networks")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="default: all")
    parser.add_argument("--core", action="append", choices=CORES, help="default: all")
    parser.add_argument("--again", action="store_true", help="count in a second emulator, too, built in another place")
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    setup()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        files = options.files or made(Path(folder), options.network or list(NETWORKS))
        cores = options.core or list(CORES)
        again = None
        if options.again:
            elsewhere = Path(folder, "a second emulator, in a place with a longer name")
            setup(elsewhere)
            again = pool.submit(counted, files, cores, elsewhere)
        rows = counted(files, cores, None, lambda row: print(json.dumps(dataclasses.asdict(row)), flush=True))
        other = again.result() if again else None
    text = report(rows, other, table(rows) if options.files else pairs(rows))
    print(text)
    if options.store:
        options.store.write_text(text, encoding="utf-8")


def counted(
    files: Sequence[Path], cores: Sequence[str], cache: Path | None, say: Callable[[Count], None] = lambda row: None
) -> list[Count]:
    """Count every file on every core."""
    rows = []
    for file in files:
        for core in cores:
            rows += count([file], core, cache=cache)
            say(rows[-1])
    return rows


def made(folder: Path, names: Sequence[str]) -> list[Path]:
    """Export the networks, dense and slimmed, in all formats and precisions: NAME-WHICH-PRECISION.SUFFIX."""
    import torch

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
    import numpy as np
    import torch

    import edgel0

    example = torch.randn(shape)
    coupling = edgel0.trace(model, example)
    dense = edgel0.Masks(coupling, np.ones(coupling.units + 1, bool), "dense")
    half = edgel0.Masks.rank(coupling, model, budget={"macs": SHARE})
    return {which: edgel0.slim(model, masks, example) for which, masks in (("dense", dense), ("slim", half))}


def exported(slimmed: Any, path: Path, precision: str, samples: Sequence[tuple[Any, ...]]) -> None:
    """Write a file, which must answer as the program does."""
    import edgel0

    calibrate = None if precision == "float32" else samples
    loose = None if precision == "float32" else LOOSE
    artifact = edgel0.export(
        slimmed, path, precision=precision, calibrate=calibrate, inputs=samples[:4], tolerance=loose
    )
    print(json.dumps({"file": path.name, "macs": slimmed.cost.macs, "bytes": artifact.bytes}), flush=True)


def pairs(rows: Sequence[Count]) -> list[str]:
    """Return a table of dense beside slim."""
    found = {(Path(row.artifact).name, row.core): row for row in rows}
    lines = [
        "| network | file | core | dense | slim | slim / dense | accesses, slim / dense |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for (file, core), dense in found.items():
        if ".dense." in file:
            slim = found[file.replace(".dense.", ".slim."), core]
            name, _, precision, suffix = file.split(".")
            lines.append(
                f"| {name} | {suffix} {precision} | {core} | {dense.instructions:,} | {slim.instructions:,} | "
                f"{slim.instructions / dense.instructions:.3f} | {slim.accesses / dense.accesses:.3f} |"
            )
    return lines


def table(rows: Sequence[Count]) -> list[str]:
    """Return a table of files as they come."""
    lines = ["| file | core | instructions | accesses |", "|---|---|--:|--:|"]
    return lines + [
        f"| {Path(row.artifact).name} | {row.core} | {row.instructions:,} | {row.accesses:,} |" for row in rows
    ]


def report(rows: Sequence[Count], other: Sequence[Count] | None, lines: Sequence[str]) -> str:
    """Return the Markdown text."""
    runtimes = ", ".join(sorted({row.runtime for row in rows}))
    spread = max(row.spread for row in rows)
    text = [
        "# Instructions per inference",
        "",
        "Made by `python -m benchmarks.instructions`; fresh weights, slimmed to half of the MACs; "
        f"{runtimes}, one thread, {rows[0].system}; the least of "
        f"{len(rows[0].samples)} inferences, whose range was at most {spread:.4%}. Instructions are not milliseconds.",
        "",
        *lines,
        "",
    ]
    if other is not None:
        text += [agreement(rows, other), ""]
    return "\n".join(text)


def agreement(rows: Sequence[Count], other: Sequence[Count]) -> str:
    """Say in how many rows the two emulators agree, and by how much the others differ."""
    apart: dict[str, list[float]] = {}
    for one, two in zip(rows, other, strict=True):
        share = abs(one.instructions - two.instructions) / one.instructions
        apart.setdefault(one.runtime, []).append(share + (one.accesses != two.accesses) * 1e-12)
    words = [
        f"{sum(share == 0 for share in shares)} of {len(shares)} figures of {runtime} are the same"
        + (f" (the others within {max(shares):.5%})" if any(shares) else "")
        for runtime, shares in sorted(apart.items())
    ]
    return f"Counted again in a second emulator, built in another place: {', '.join(words)}."


if __name__ == "__main__":
    main()
