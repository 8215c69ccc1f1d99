"""Do our figures agree with the runtimes' own? Each model by edgel0, and by the tool that its runtime comes with.

``python -m benchmarks.agreement`` exports five networks with fresh weights to ONNX and TFLite (or takes the files that
are named), then measures each file in ``--blocks`` of four: ours theirs theirs ours, the next block the other way
round. So whatever drifts evenly during a block cancels, and each block also tells by how much one way differs from
itself: no single pair can be nearer than that. Ours is :func:`edgel0.measure`; each measurement is in processes of its
own, one thread. For TFLite, theirs is ``python -m ai_edge_litert.tools.benchmark_litert_model``, whose median is taken
before it rounds it. ONNX Runtime's wheel brings no such program, so it is the loop of its ``onnxruntime_perf_test``,
with no options but the one thread: make a session, run once, then time ``run`` again and again. A network that does
next to nothing is measured, too: what the call itself takes. Prints a JSON line per file; ``--store FILE.md`` writes a
table. The machine must have nothing else to do: a block in which edgel0 was disturbed is told.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from edgel0 import Masks, __version__, export, measure, slim, trace
from edgel0.devices.stats import bootstrap
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
NOTHING: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {"nothing": (lambda: nn.Linear(1, 1), (1, 1))}
LIMIT = 0.05
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


@dataclass(frozen=True)
class Timing:
    """One way's median and lower percentile (10, LiteRT's tool: 5) in ms, and what disturbed it, if that is known."""

    low_ms: float
    p50_ms: float
    marks: tuple[str, ...] = ()


Way = Callable[[Path, int], Timing]


def ours(path: Path, runs: int) -> Timing:
    """Measure by edgel0."""
    (row,) = measure([path], num_runs=runs)
    return Timing(row.p10_ms, row.p50_ms, row.marks)


def theirs(path: Path, runs: int) -> Timing:
    """Measure by the runtime's own way."""
    if path.suffix == ".onnx":
        return Timing(*json.loads(_printed([sys.executable, "-c", PERF_TEST, str(path), str(runs)]).splitlines()[-1]))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        flags = [f"--model={path}", "--num_threads=1", f"--num_runs={runs}", "--warmup_runs=50"]
        _printed([sys.executable, "-c", UNROUNDED, *flags, f"--result_json={result}"])
        latency = json.loads(result.read_text(encoding="utf-8"))["latency"]
    return Timing(latency["p5_ms"], latency["median_ms"])


def _printed(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def exported(folder: Path, name: str) -> list[Path]:
    """Write one network in both formats."""
    make, shape = (NETWORKS | NOTHING)[name]
    torch.manual_seed(0)
    model, example = make().eval(), torch.zeros(shape)
    coupling = trace(model, example)
    slimmed = slim(model, Masks(coupling, np.ones(coupling.units + 1, bool), "dense"))
    return [export(slimmed, folder / f"{name}{suffix}").path for suffix in (".onnx", ".tflite")]


def agreement(path: Path, blocks: int) -> dict[str, Any]:
    """Measure one file in blocks and return its row."""
    runs = max(50, min(20_000, round(1e3 / max(ours(path, 50).p50_ms, 1e-3))))  # about a second of them
    found = []
    for number in range(blocks):
        order = [ours, theirs, theirs, ours] if number % 2 == 0 else [theirs, ours, ours, theirs]
        taken: list[tuple[Way, Timing]] = [(way, way(path, runs)) for way in order]
        found.append([[timing for by, timing in taken if by is way] for way in (ours, theirs)])
    return {"file": path.name, "runs": runs} | judged(found)


def judged(blocks: Sequence[Sequence[Sequence[Timing]]]) -> dict[str, Any]:
    """Return what blocks say, each of two timings of ours and two of theirs.

    ``ratio`` is ours over theirs, the median of the blocks; ``interval`` its bootstrap interval; ``itself`` the median
    and the farthest of one way over the same way in the same block, as shares of 1 that they differ.
    """
    mine, other = ([timing for block in blocks for timing in block[i]] for i in (0, 1))
    logs = [0.5 * math.log(a.p50_ms * b.p50_ms / (c.p50_ms * d.p50_ms)) for (a, b), (c, d) in blocks]
    itself = [abs(two.p50_ms / one.p50_ms - 1) for block in blocks for one, two in block]
    return {
        "ours_ms": [median(timing.low_ms for timing in mine), median(timing.p50_ms for timing in mine)],
        "theirs_ms": [median(timing.low_ms for timing in other), median(timing.p50_ms for timing in other)],
        "ratio": math.exp(median(logs)),
        "interval": [math.exp(end) for end in bootstrap(logs)],
        "blocks": len(logs),
        "itself": [median(itself), max(itself)],
        "disturbed": sum(any(timing.marks for timing in block[0]) for block in blocks),
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
        "Each file measured by edgel0 and by LiteRT's `benchmark_litert_model` or the loop of ONNX Runtime's "
        "`onnxruntime_perf_test`, each time in processes of its own, in blocks of four: ours theirs theirs ours, the "
        "next the other way round. p10 (p5 in LiteRT's tool) and p50 are medians of all; the ratio is ours over "
        "theirs, of p50: the median of the blocks and its 95 % interval. One way differs from itself, in the same "
        "block, by what the next column says, median and farthest. Blocks in which edgel0 found the machine busy or "
        "slowed down are counted in the last, and are not left out.",
        "",
        "| file | ours ms, p10 / p50 | theirs ms, p10 / p50 | ratio | 95 % | within 5 % | itself | disturbed |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    judged_rows = [row for row in rows if Path(row["file"]).stem not in NOTHING]
    lines += [line(row) for row in judged_rows]
    within = sum(abs(row["ratio"] - 1) <= LIMIT for row in judged_rows)
    lines += ["", f"{within} of {len(judged_rows)} files are within {LIMIT:.0%}."]
    calls = [row for row in rows if row not in judged_rows]
    if calls:
        lines += [
            "",
            "What a call itself takes is in each figure, and is not the same: a network of one multiplication, p50 "
            "of ours and theirs, is "
            + ", ".join(
                f"{1e3 * row['ours_ms'][1]:.2f} and {1e3 * row['theirs_ms'][1]:.2f} µs ({row['file']})" for row in calls
            )
            + ". Of a network of ten microseconds, a microsecond is 10 %.",
        ]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    """Return one file's line of the table."""
    mine, other = (" / ".join(f"{ms:.4g}" for ms in row[key]) for key in ("ours_ms", "theirs_ms"))
    low, high = row["interval"]
    cells = [
        *(row["file"], mine, other, f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}"),
        "yes" if abs(row["ratio"] - 1) <= LIMIT else "no",
        " / ".join(f"{share:.1%}" for share in row["itself"]),
        f"{row['disturbed']} of {row['blocks']}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="ONNX and TFLite files instead of the networks")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of four measurements of each file")
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--store", type=Path, help="the table, in Markdown")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        names = [] if given.files else given.only
        files = given.files + [path for name in (*names, *NOTHING) for path in exported(Path(folder), name)]
        for path in files:
            rows.append(agreement(path, given.blocks))
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    if given.store:
        write(given.store, table(rows).encode())


if __name__ == "__main__":
    main()
