"""Are our files as good as those of the best converter? The same slim networks through each, measured in turn.

``python -m benchmarks.export`` slims the recipes' networks to half their multiply-accumulates (by magnitude; nothing is
trained, for times do not depend on values) and writes each as float32 ONNX and TFLite: by edgel0, by plain
``torch.onnx.export``, by plain litert-torch, with inputs as they are and channels-last, and by onnx2tf where
``--onnx2tf PYTHON`` names an environment that has it. It prints one JSON line per file and a table; ``--store FILE``
keeps that. ``--conversion`` measures seconds and memory of converting resnet50 instead, each in its own process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgel0 import __version__, export, slim, trace
from edgel0.devices.measure import measure
from edgel0.exporters.foreign import silently
from edgel0.exporters.signature import channels_last
from edgel0.types import Masks, Slimmed
from export import efficientnet_lite0, mnist_lenet5, resnet8, spoken_digits

# Name: how it is built, and the shape of its input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-5": (mnist_lenet5.build, (1, 1, 28, 28)),
    "ResNet-8": (resnet8.build, (1, 3, 32, 32)),
    "DS-CNN": (spoken_digits.build_dscnn, (1, 1, 49, 20)),
    "EfficientNet-Lite0": (lambda: efficientnet_lite0.EfficientNetLite0(10), (1, 3, 96, 96)),
    "transformer": (spoken_digits.build_transformer, (1, 49, 20)),
}
SHARE = 0.5
NOISE = 1.10  # times the best p10 that is still level: repeats of one file differ by as much on a shared machine


def main() -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--onnx2tf", metavar="PYTHON", help="the python of an environment with onnx2tf")
    parser.add_argument("--min-secs", type=float, default=2.0)
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    parser.add_argument("--conversion", action="store_true", help="seconds and memory of converting resnet50")
    parser.add_argument("--one", nargs=2, metavar=("WRITER", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        converted(*options.one)
        return
    rows = []
    for row in conversions() if options.conversion else files(options):
        rows.append(row)
        print(json.dumps(row), flush=True)
    text = conversion_table(rows) if options.conversion else table(rows)
    print(text)
    if options.store:
        options.store.write_text(text, encoding="utf-8")


def files(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row per file; those of one network and format are measured in one interleaved run."""
    for network in options.networks:
        small, example = slimmed(network)
        with tempfile.TemporaryDirectory() as folder:
            written = list(writers(small, example, Path(folder), options.onnx2tf))
            for suffix in (".onnx", ".tflite"):
                here = [(writer, layout, file) for writer, layout, file in written if file.suffix == suffix]
                times = measure([file for *_, file in here], min_secs=options.min_secs)
                for (writer, layout, file), row in zip(here, times, strict=True):
                    kinds = operators(file)
                    yield {
                        "benchmark": "export",
                        "network": network,
                        "format": suffix[1:],
                        "inputs": layout,
                        "writer": writer,
                        "operators": sum(kinds.values()),
                        "transposes": kinds["Transpose"] + kinds["TRANSPOSE"],
                        "bytes": file.stat().st_size,
                        "p10_ms": row.p10_ms,
                        "p50_ms": row.p50_ms,
                        "runtime": row.runtime,
                    }


def slimmed(network: str) -> tuple[Slimmed, torch.Tensor]:
    """Return a network at half its cost, and an example."""
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    model, example = build().eval(), torch.randn(shape)
    coupling = trace(model, (example,))
    masks = Masks.rank(coupling, model, budget={"macs": SHARE})
    return slim(model, masks), example


def writers(
    small: Slimmed, example: torch.Tensor, folder: Path, onnx2tf: str | None
) -> Iterator[tuple[str, str, Path]]:
    """Yield (writer, layout of the inputs, file) for each way to write a network."""
    plain, ours = folder / "plain.onnx", folder / "ours.onnx"
    export(small, ours)
    yield "edgel0", "as they are", ours
    plain_onnx(small, example, plain)
    yield "torch.onnx", "as they are", plain
    for layout in ("nchw", "nhwc") if example.ndim == 4 else ("nchw",):
        told = "channels-last" if layout == "nhwc" else "as they are"
        export(small, folder / f"ours.{layout}.tflite", layout=layout)
        yield "edgel0", told, folder / f"ours.{layout}.tflite"
        plain_tflite(small, example, folder / f"plain.{layout}.tflite", layout)
        yield "litert-torch", told, folder / f"plain.{layout}.tflite"
    if onnx2tf:
        made = by_onnx2tf(onnx2tf, plain, folder)
        if made is not None:
            yield "onnx2tf", "channels-last" if example.ndim == 4 else "as they are", made


def plain_onnx(small: Slimmed, example: torch.Tensor, file: Path) -> None:
    """Write as torch does by default, weights inside."""
    with silently():
        torch.onnx.export(small.program.module(), (example,), file, external_data=False, verbose=False)


def plain_tflite(small: Slimmed, example: torch.Tensor, file: Path, layout: str) -> None:
    """Write as litert-torch does, with its own wrapper for channels-last inputs."""
    with silently():
        import litert_torch

        module: nn.Module = small.program.module()
        if layout == "nhwc":
            module, example = litert_torch.to_channel_last_io(module, args=[0]), channels_last(example)
        litert_torch.convert(module, (example,)).export(str(file))


def by_onnx2tf(python: str, given: Path, folder: Path) -> Path | None:
    """Convert an ONNX file; None where onnx2tf fails. It wants pictures of its own, which random ones stand in for."""
    work = folder / "onnx2tf"
    work.mkdir()
    pictures = np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)
    np.save(work / "calibration_image_sample_data_20x128x128x3_float32.npy", pictures)
    copy = work / "given.onnx"  # it overwrites its input
    copy.write_bytes(given.read_bytes())
    command = [python, "-m", "onnx2tf", "-i", copy.name, "-o", "made", "-n"]
    done = subprocess.run(command, cwd=work, capture_output=True, check=False)
    made = work / "made" / "given_float32.tflite"
    if done.returncode or not made.is_file():
        print(f"onnx2tf failed: {done.stderr.decode(errors='replace').strip()[-300:]}", file=sys.stderr)
        return None
    return made


def operators(file: Path) -> Counter[str]:
    """Count the operators of a file by kind."""
    if file.suffix == ".onnx":
        import onnx

        return Counter(node.op_type for node in onnx.load(file).graph.node if node.op_type != "Constant")
    with silently():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file), num_threads=1)
        interpreter.allocate_tensors()
    names = (operator["op_name"] for operator in interpreter._get_ops_details())
    return Counter(name for name in names if name != "DELEGATE")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown; a cell of ours that is worse than the best other one is bold."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print("# Files beside those of other converters\n")
        print(
            f"Made by `python -m benchmarks.export` with edgel0 {__version__}, torch {torch.__version__}, onnx "
            f"{version('onnx')}, litert-torch {version('litert-torch')} on {platform.machine()}, one thread. Networks "
            f"slimmed to {SHARE:.0%} of their MACs by magnitude; files of one network and format measured in turn. "
            f"A cell of edgel0's is bold where the best other one with the same inputs is better (times: by more than "
            f"{NOISE - 1:.0%})."
        )
        print("\n| network | format | inputs | writer | operators | transposes | bytes | p10 ms | p50 ms |")
        print("|---|---|---|---|--:|--:|--:|--:|--:|")
        for row in rows:
            same = [r for r in rows if all(r[k] == row[k] for k in ("network", "format", "inputs")) and r is not row]
            cells = [_cell(row, same, key) for key in ("operators", "transposes", "bytes", "p10_ms", "p50_ms")]
            print("|", " | ".join([*(row[k] for k in ("network", "format", "inputs", "writer")), *cells]), "|")
        print("\n" + ", ".join(sorted({row["runtime"] for row in rows})))
    return out.getvalue()


def _cell(row: dict[str, Any], others: list[dict[str, Any]], key: str) -> str:
    text = f"{row[key]:.4f}" if key.endswith("ms") else f"{row[key]:,}"
    best = min((other[key] for other in others), default=row[key])
    worse = row[key] > best * (NOISE if key.endswith("ms") else 1)
    return f"**{text}**" if row["writer"] == "edgel0" and worse else text


def conversions() -> Iterator[dict[str, Any]]:
    """Yield seconds and peak memory of each way to convert resnet50, three times, in turn."""
    ways = [("torch.onnx", "plain.onnx"), ("edgel0", "ours.onnx"), ("litert-torch", "plain.tflite")]
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(3):
            for writer, name in (*ways, ("edgel0", "ours.tflite")):
                command = [sys.executable, "-m", "benchmarks.export", "--one", writer, str(Path(folder) / name)]
                told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
                yield {"benchmark": "conversion", "turn": turn, **json.loads(told.splitlines()[-1])}


def converted(writer: str, name: str) -> None:
    """Convert resnet50 with units removed, in this process; libraries are imported before the clock starts."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import shim  # noqa: F401 - lets torchvision import beside a CPU build
    import torchvision

    torch.set_num_threads(1)
    model, example, file = torchvision.models.resnet50().eval(), torch.randn(1, 3, 224, 224), Path(name)
    small = slim(model, Masks.random(trace(model, (example,)), 0.3, seed=0))
    warm = slimmed("LeNet-5")
    ways: dict[str, Callable[..., Any]] = {
        "torch.onnx": plain_onnx,
        "litert-torch": lambda given, x, made: plain_tflite(given, x, made, "nchw"),
        "edgel0": lambda given, x, made: export(given, made),
    }
    way = ways[writer]
    way(*warm, file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    way(small, example, file)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "writer": writer,
                "format": file.suffix[1:],
                "seconds": round(seconds, 2),
                "peak_mb": peak // 1024,
                "before_mb": before // 1024,
                "bytes": file.stat().st_size,
            }
        )
    )


def conversion_table(rows: list[dict[str, Any]]) -> str:
    """Return medians, and ours over the plain converter's."""
    lines = [
        "# Converting resnet50",
        "",
        f"Made by `python -m benchmarks.export --conversion` with edgel0 {__version__}, torch {torch.__version__} on "
        f"{platform.machine()}, one thread; each in a process of its own, after a small network, medians of 3 in turn. "
        "Ours are with everything that `export` does: simplified, tidied, run and compared on three samples.",
        "",
        "| format | writer | seconds | times plain | peak MB | times plain |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for kind, plain in (("onnx", "torch.onnx"), ("tflite", "litert-torch")):
        median = {
            (writer, key): float(np.median([r[key] for r in rows if (r["writer"], r["format"]) == (writer, kind)]))
            for writer in (plain, "edgel0")
            for key in ("seconds", "peak_mb")
        }
        for writer in (plain, "edgel0"):
            cells = [
                f"{median[writer, key]:.{digits}f} | {median[writer, key] / median[plain, key]:.2f}"
                for key, digits in (("seconds", 1), ("peak_mb", 0))
            ]
            lines.append(f"| {kind} | {writer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
