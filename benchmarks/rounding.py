"""What do whole blocks of channels gain? One budget, channels brought to multiples of 1, 4, 8 and 16, and the time.

``python -m benchmarks.rounding`` slims each network to half its MACs by magnitude with every ``round_to``, measures the
files of one network and format beside the dense one in one interleaved run, and prints a JSON line each. Times depend
on the processor and its runtime, not on what was learned, so nothing is trained. ``--store FILE.md`` writes a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.export import NETWORKS, SHARE
from edgel0 import Masks, __version__, export, measure, slim, trace
from edgel0.staging import write

MULTIPLES = (1, 4, 8, 16)


def main() -> None:
    """Slim, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS)[1:4])
    parser.add_argument("--min-secs", type=float, default=2.0)
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    for row in (row for network in options.networks for row in measured(network, options.min_secs)):
        rows.append(row)
        print(json.dumps(row), flush=True)
    print(text := table(rows))
    if options.store:
        write(options.store, text.encode())


def measured(network: str, min_secs: float) -> Iterator[dict[str, Any]]:
    """Yield a row per file: the dense network first, then each multiple."""
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    model, example = build().eval(), torch.randn(shape)
    coupling = trace(model, (example,))
    masks = {0: Masks(coupling, np.ones(coupling.units + 1, bool), "dense")}
    masks |= {n: Masks.rank(coupling, model, budget={"macs": SHARE, "round_to": n}) for n in MULTIPLES}
    small = {n: slim(model, mask) for n, mask in masks.items()}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("onnx", "tflite"):
            files = [export(each, Path(folder) / f"{n}.{kind}").path for n, each in small.items()]
            for n, row in zip(small, measure(files, min_secs=min_secs), strict=True):
                yield {
                    "benchmark": "rounding",
                    "network": network,
                    "format": kind,
                    "round_to": n,
                    "macs": small[n].cost.macs,
                    "p10_ms": row.p10_ms,
                    "p50_ms": row.p50_ms,
                    "marks": row.marks,
                    "runtime": row.runtime,
                    "cpu": row.board,
                }


def table(rows: list[dict[str, Any]]) -> str:
    """Return p50 of each file over that of the dense network's."""
    dense = {(row["network"], row["format"]): row for row in rows if not row["round_to"]}
    lines = [
        "# Whole blocks of channels",
        "",
        f"Made by `python -m benchmarks.rounding`; edgel0 {__version__}, "
        f"{', '.join(sorted({row['runtime'] for row in rows}))}, {rows[0]['cpu']}, {platform.machine()}, 1 thread. "
        f"Each network at {SHARE:.0%} of its MACs at most, by magnitude, its channels brought to multiples; the files "
        "of one network and format in one interleaved run. `of dense` is the p50 over that of the dense network: below "
        "1 is faster.",
        "",
        "| network | format | round_to | MACs | p10 ms | p50 ms | of dense |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ratio = row["p50_ms"] / dense[row["network"], row["format"]]["p50_ms"]
        name = row["round_to"] or "dense"
        times = f"{row['p10_ms']:.4f} | {row['p50_ms']:.4f} | {ratio:.2f}{' (disturbed)' if row['marks'] else ''}"
        lines.append(f"| {row['network']} | {row['format']} | {name} | {row['macs']:,} | {times} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
