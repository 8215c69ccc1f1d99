"""Do our figures agree with the runtimes' own? Each model by edgel0, and by the tool that its runtime comes with.

``python -m benchmarks.agreement`` exports five networks with fresh weights to ONNX and TFLite, then measures each file
in ``--repeats`` pairs in alternating order: once by :func:`edgel0.measure`, once by the other way, each in processes of
its own, one thread. For TFLite that is ``python -m ai_edge_litert.tools.benchmark_litert_model``, whose median is
taken before it rounds it. ONNX Runtime's wheel brings no such program, so it is the loop of its
``onnxruntime_perf_test``, with no options but the one thread: make a session, run once, then time ``run`` again and
again. Prints a JSON line per file: p10 / p50 of both ways over the pairs, and the median of the pairs' ratios, ours
over theirs. ``--store FILE.md`` writes a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from edgel0 import Masks, __version__, export, measure, slim, trace
from edgel0.devices.stats import percentile
from edgel0.staging import write
from export.efficientnet_lite0 import EfficientNetLite0
from export.mnist_lenet5 import LeNet5
from export.resnet8 import ResNet8
from export.spoken_digits import build_dscnn, build_transformer

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5": (LeNet5, (1, 1, 28, 28)),
    "resnet8": (ResNet8, (1, 3, 32, 32)),
    "dscnn": (build_dscnn, (1, 1, 49, 20)),
    "transformer": (build_transformer, (1, 49, 20)),
    "efficientnet_lite0": (lambda: EfficientNetLite0(10), (1, 3, 96, 96)),
}
PERF_TEST = """
import json, sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
feeds = {i.name: rng.standard_normal([n if isinstance(n, int) else 1 for n in i.shape]).astype(np.float32)
         for i in session.get_inputs()}
session.run(None, feeds)
times, begun = [], time.perf_counter()
while len(times) < int(sys.argv[2]) or time.perf_counter() - begun < 1:
    started = time.perf_counter()
    session.run(None, feeds)
    times.append(time.perf_counter() - started)
print(json.dumps([float(np.percentile(times, share)) * 1e3 for share in (10, 50)]))
"""

UNROUNDED = """
import ai_edge_litert.tools.benchmark_litert_model as tool
tool.round = lambda value, digits: value  # it writes hundredths of a millisecond, a tenth of a small network's time
tool.main()
"""


def ours(path: Path, runs: int) -> tuple[float, float]:
    """Return p10 and p50 in ms by edgel0."""
    (row,) = measure([path], num_runs=runs)
    return row.p10_ms, row.p50_ms


def theirs(path: Path, runs: int) -> tuple[float, float]:
    """Return p10 (p5 of LiteRT's tool) and the median in ms by the runtime's own way."""
    if path.suffix == ".onnx":
        return tuple(json.loads(_printed([sys.executable, "-c", PERF_TEST, str(path), str(runs)]).splitlines()[-1]))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        flags = [f"--model={path}", "--num_threads=1", f"--num_runs={runs}", "--warmup_runs=50"]
        _printed([sys.executable, "-c", UNROUNDED, *flags, f"--result_json={result}"])
        latency = json.loads(result.read_text(encoding="utf-8"))["latency"]
    return latency["p5_ms"], latency["median_ms"]


def _printed(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def exported(folder: Path, name: str) -> list[Path]:
    """Write one network in both formats."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, example = make().eval(), torch.zeros(shape)
    coupling = trace(model, example)
    slimmed = slim(model, Masks(coupling, np.ones(coupling.units + 1, bool), "dense"))
    return [export(slimmed, folder / f"{name}{suffix}").path for suffix in (".onnx", ".tflite")]


def agreement(path: Path, repeats: int) -> dict[str, Any]:
    """Measure one file both ways in turns and return its row."""
    runs = max(50, min(20_000, round(1e3 / max(ours(path, 50)[1], 1e-3))))  # about a second of them
    pairs = []
    for number in range(repeats):
        ways = [ours, theirs] if number % 2 == 0 else [theirs, ours]
        found = {way: way(path, runs) for way in ways}
        pairs.append((found[ours], found[theirs]))
    ratios = [mine[1] / other[1] for mine, other in pairs]
    return {
        "file": path.name,
        "ours_ms": [median(mine[i] for mine, _ in pairs) for i in (0, 1)],
        "theirs_ms": [median(other[i] for _, other in pairs) for i in (0, 1)],
        "ratio": median(ratios),
        "ratios": [percentile(ratios, share) for share in (0, 100)],
        "pairs": repeats,
        "runs": runs,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the report."""
    import ai_edge_litert
    import onnxruntime

    lines = [
        "# Our figures beside the runtimes' own",
        "",
        f"Made by `python -m benchmarks.agreement`; edgel0 {__version__}, onnxruntime {onnxruntime.__version__}, "
        f"ai-edge-litert {ai_edge_litert.__version__}, {platform.machine()}, 1 thread.",
        "",
        "Each file measured both ways in turns, in processes of their own: by edgel0, and by LiteRT's "
        "`benchmark_litert_model` or the loop of ONNX Runtime's `onnxruntime_perf_test`. p10 (p5 in LiteRT's tool) and "
        "p50, medians over the pairs; the ratio is ours over theirs, of p50: the median of the pairs, least and most.",
        "",
        "| file | ours ms, p10 / p50 | theirs ms, p10 / p50 | ratio | least | most | pairs |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        mine, other = (" / ".join(f"{ms:.4g}" for ms in row[key]) for key in ("ours_ms", "theirs_ms"))
        least, most = row["ratios"]
        cells = [row["file"], mine, other, *(f"{value:.3f}" for value in (row["ratio"], least, most)), row["pairs"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="pairs of measurements of each file")
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--store", type=Path, help="the table, in Markdown")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [path for name in given.only for path in exported(Path(folder), name)]
        for path in files:
            rows.append(agreement(path, given.repeats))
            print(json.dumps(rows[-1]), flush=True)
    if given.store:
        write(given.store, table(rows).encode())


if __name__ == "__main__":
    main()
