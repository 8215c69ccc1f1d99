"""How long do trace and slim take, the export apart? Three torchvision models, one thread, taken in turn.

``python -m benchmarks.times`` prints a table of medians: the trace of an exported program, slim with a random half of
the units closed, and what slim is held against, three traces and a copy of the weights. ``--store FILE.md`` writes it.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from edgel0 import __version__
from edgel0.capturing import capture
from edgel0.flow import FLOW
from edgel0.slimming import slim
from edgel0.tracing import couple
from edgel0.types import Masks
from tests import shim  # noqa: F401  lets torchvision be imported beside a CPU build of torch

LIMITS = {"resnet50": 0.3, "vit_b_16": 1.0, "swin_t": 2.0}  # seconds that a trace may take


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# Seconds to trace and to slim",
        "",
        f"Made by `python -m benchmarks.times` with edgel0 {__version__} and torch {torch.__version__} on "
        f"{platform.machine()}, one thread; medians of {options.repeats}, taken in turn, the export apart.",
        "",
        "| model | trace | may take | slim | 3 x trace + copy |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, limit in LIMITS.items():
        trace_s, slim_s, bound = measured(name, options.repeats)
        lines.append(f"| {name} | {trace_s:.3f} | {limit} | {slim_s:.3f} | {bound:.3f} |")
        print(lines[-1], flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    if options.store:
        options.store.write_text(text, encoding="utf-8")


def measured(name: str, repeats: int) -> tuple[float, float, float]:
    """Return the median seconds of trace and slim, and of three traces and a copy of the weights."""
    import torchvision

    model = torchvision.models.get_model(name, weights=None).eval()
    program = capture(model, torch.randn(1, 3, 224, 224), FLOW)
    times: dict[str, list[float]] = {"trace": [], "slim": [], "copy": []}

    def timed(which: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        times[which].append(time.perf_counter() - began)
        return result

    for _ in range(repeats):
        coupling = timed("trace", lambda: couple(program))
        masks = Masks.random(coupling, 0.5, 0)
        timed("slim", lambda masks=masks: slim(model, masks))
        timed("copy", lambda: [parameter.detach().clone() for parameter in model.parameters()])
    trace_s, slim_s, copy_s = (median(times[which]) for which in ("trace", "slim", "copy"))
    return trace_s, slim_s, 3 * trace_s + copy_s


if __name__ == "__main__":
    main()
