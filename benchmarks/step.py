"""What does a gate cost? A training step of a gated network beside the same step of the plain one, in one process.

``python -m benchmarks.step`` times pairs of steps in alternating order on ResNet-8 and on torchvision's MobileNetV2 and
prints a JSON line per network: milliseconds, and percentiles of the ratio within a pair. The gated step is all that
training asks for: forward and backward through the gates, the budget's penalty, the gates' own optimizer
(``Schedule.step``); the plain one has ``optimizer.step``. Both in a process that keeps its memory, as ``edgel0 run``
does (:mod:`edgel0.heap`): otherwise page faults, a third of the small network's time, drown the difference. ``--whole``
times whole runs to a quarter of the MACs, in which the network shrinks, beside as many epochs of the plain one, epoch
by epoch in alternating order: once in each of ``RUNS``. ``--store FILE.md`` writes the tables.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo import torchvision_models
from edgel0 import Budget, Schedule, __version__, attach
from edgel0.cost import cost_of
from edgel0.gates import gates_of
from edgel0.heap import keep
from edgel0.recipe import Training
from edgel0.staging import write
from export.cifar10 import augment, load
from export.resnet8 import ResNet8

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # name -> (network, side of its images, classes)
    "resnet8": (ResNet8, 32, 10),
    "mobilenet_v2-96": (lambda: mobilenet_v2(), 96, 1000),
    "mobilenet_v2": (lambda: mobilenet_v2(), 224, 1000),
}
RUNS = (("float32", 1), ("bfloat16", 1), ("float32", 8))  # of --whole: precision of both sides, edgel0's round_to
PAIRS, WARM = 30, 5
FOREVER, STILL = 10**9, 1e-9  # steps of a phase that does not end; a rate of gates that do not move
RATE, LEVEL = 0.01, 0.25
Row = dict[str, Any]
Step = Callable[[Tensor, Tensor], None]


def mobilenet_v2() -> nn.Module:
    """Make torchvision's network with fresh weights."""
    made: nn.Module = torchvision_models().mobilenet_v2()
    return made


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of both sides, for the weights alone."""
    weights = [weight for name, weight in model.named_parameters() if not name.endswith("log_alpha")]
    return torch.optim.SGD(weights, lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)


def loss_of(model: nn.Module, x: Tensor, y: Tensor, precision: str) -> Tensor:
    """Run the forward as a user would: bfloat16 by autocast."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        return F.cross_entropy(model(x), y)


def plain_step(model: nn.Module, precision: str = "float32") -> Step:
    """Return what trains a network by one batch."""
    optimizer = sgd(model)

    def step(x: Tensor, y: Tensor) -> None:
        loss_of(model, x, y, precision).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def still_step(model: nn.Module, example: Tensor) -> Step:
    """Put gates on a network and return what trains it, gates included, by one batch.

    The limit is exceeded from the first step on, so that the penalty has its gradient in each, but gates hardly move:
    the network stays as it is.
    """
    budget = Budget(attach(model, example), macs=LEVEL, warmup=0.0)
    return gated_step(model, Schedule(model, budget, sgd(model), steps=(0, FOREVER, 0), gate_lr=STILL, shrink=False))


def gated_step(model: nn.Module, schedule: Schedule, precision: str = "float32") -> Step:
    """Return what trains a network with gates by one batch."""

    def step(x: Tensor, y: Tensor) -> None:
        loss_of(model, x, y, precision).backward()
        schedule.step()

    return step


def alike(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Build two networks with the same weights."""
    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    return first.train(), second.train()


def paired(name: str, batch: int, seconds: float) -> Row:
    """Time pairs of steps in alternating order, at least ``PAIRS`` of them and for ``seconds``."""
    build, side, classes = NETWORKS[name]
    x, y = torch.randn(batch, 3, side, side), torch.randint(classes, (batch,))
    dense, gated = alike(build)
    steps = {"dense": plain_step(dense), "gated": still_step(gated, x[:1])}
    taken: dict[str, list[float]] = {which: [] for which in steps}
    began = time.perf_counter()
    while len(taken["dense"]) < PAIRS + WARM or time.perf_counter() - began < seconds:
        for which in ("dense", "gated") if len(taken["dense"]) % 2 else ("gated", "dense"):
            start = time.perf_counter()
            steps[which](x, y)
            taken[which].append(1e3 * (time.perf_counter() - start))
    times = {which: np.array(each[WARM:]) for which, each in taken.items()}
    return {
        "benchmark": "step",
        "network": name,
        "side": side,
        "batch": batch,
        "pairs": len(times["dense"]),
        "gates": gates_of(gated).coupling.units,
        "readers": len(gates_of(gated).coupling.readers),
        "dense_ms": percentiles(times["dense"]),
        "gated_ms": percentiles(times["gated"]),
        "ratio": percentiles(times["gated"] / times["dense"]),
    } | about()


def whole(samples: int, epochs: int, batch: int, data: Path | None, precision: str, round_to: int) -> Row:
    """Train to a quarter of the MACs beside as many plain epochs; both sides' epochs take turns in being first."""
    torch.manual_seed(0)
    x, y = (part[:samples] for part in load(data)[:2]) if data else synthetic(samples)
    count = len(x) // batch
    dense, gated = alike(ResNet8)
    first, second, third = Training(epochs=epochs).phases
    phases = (count * first, count * second, count * third)
    began = time.perf_counter()
    budget = Budget(attach(gated, x[:1]), macs=LEVEL, round_to=round_to)
    schedule = Schedule(gated, budget, sgd(gated), steps=phases)
    steps = {"dense": plain_step(dense, precision), "gated": gated_step(gated, schedule, precision)}
    attached = time.perf_counter() - began
    spent: dict[str, list[float]] = {which: [] for which in steps}
    middle: dict[str, list[float]] = {which: [] for which in steps}
    left = []
    full = cost_of(gates_of(gated).coupling).macs
    for epoch in range(epochs):
        for which in ("dense", "gated") if epoch % 2 else ("gated", "dense"):
            generator = torch.Generator().manual_seed(epoch)
            start, each = time.perf_counter(), []
            for part in torch.split(torch.randperm(len(x), generator=generator), batch)[:count]:
                before = time.perf_counter()
                steps[which](augment(x[part], generator), y[part])
                each.append(1e3 * (time.perf_counter() - before))
            spent[which].append(time.perf_counter() - start)
            middle[which].append(round(median(each), 3))
        left.append(round(cost_of(gates_of(gated).coupling).macs / full, 4))
        print(
            f"# epoch {epoch + 1}/{epochs}: dense {middle['dense'][-1]:.2f} ms/step, gated {middle['gated'][-1]:.2f} "
            f"ms/step at {left[-1]:.1%} of the MACs",
            flush=True,
        )
    seconds = {which: sum(each) for which, each in spent.items()}
    return {
        "benchmark": "whole",
        "network": "resnet8",
        "batch": batch,
        "samples": len(x),
        "data": "CIFAR-10" if data else "synthetic",
        "epochs": epochs,
        "precision": precision,
        "round_to": round_to,
        "phases_steps": list(phases),
        "attach_seconds": round(attached, 3),
        "dense_seconds": round(seconds["dense"], 3),
        "gated_seconds": round(seconds["gated"] + attached, 3),
        "ratio": round((seconds["gated"] + attached) / seconds["dense"], 4),
        "dense_step_ms": middle["dense"],
        "gated_step_ms": middle["gated"],
        "macs_left": left,
    } | about()


def synthetic(samples: int) -> tuple[Tensor, Tensor]:
    """Return ten noisy patterns with their numbers."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(10, (samples,), generator=generator)
    kinds = torch.randn(10, 3, 32, 32, generator=generator)
    return kinds[y] + torch.randn(samples, 3, 32, 32, generator=generator), y


def percentiles(values: np.ndarray) -> list[float]:
    """Return p10, p50 and p90."""
    return [round(float(value), 4) for value in np.percentile(values, [10, 50, 90])]


def about() -> Row:
    """Say what was measured with, and where."""
    return {
        "threads": torch.get_num_threads(),
        "edgel0": __version__,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
    }


def markdown(rows: list[Row]) -> str:
    """Return the tables, with the versions behind them."""
    made = sorted({f"edgel0 {r['edgel0']}, torch {r['torch']}, {r['machine']}, {r['threads']} thread(s)" for r in rows})
    lines = ["# A training step with gates", "", f"Made by `make step`; {'; '.join(made)}.", ""]
    steps = [row for row in rows if row["benchmark"] == "step"]
    if steps:
        lines += [
            "One step of the gated network (budget and gates' optimizer included, nothing closed yet) beside one of "
            "the plain network, in alternating order; p10 / p50 / p90 of the pairs.",
            "",
            "| network | images | gates | dense ms | gated ms | gated / dense | pairs |",
            "|---|---|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {row['network']} | {row['batch']} of {row['side']} x {row['side']} | {row['gates']:,} | "
            f"{shown(row['dense_ms'], 1)} | {shown(row['gated_ms'], 1)} | {shown(row['ratio'], 3)} | {row['pairs']} |"
            for row in steps
        ]
        lines.append("")
    for row in rows:
        if row["benchmark"] == "whole":
            lines += [
                f"A whole run of ResNet-8 to {LEVEL:.0%} of the MACs, {row['epochs']} epochs of {row['samples']:,} "
                f"images ({row['data']}), batch {row['batch']}, {row['precision']}, channels in multiples of "
                f"{row['round_to']}: {row['gated_seconds']:,.1f} s with gates and shrinking (attaching them "
                f"{row['attach_seconds']:.1f} s), {row['dense_seconds']:,.1f} s plain: **{row['ratio']:.2f}** of the "
                "time.",
                "",
                "| epoch | MACs left | gated ms/step | dense ms/step |",
                "|--:|--:|--:|--:|",
            ]
            each = zip(row["macs_left"], row["gated_step_ms"], row["dense_step_ms"], strict=True)
            lines += [
                f"| {i} | {left:.1%} | {ours:.1f} | {plain:.1f} |" for i, (left, ours, plain) in enumerate(each, 1)
            ]
            lines.append("")
    return "\n".join(lines)


def shown(values: list[float], digits: int) -> str:
    """Return percentiles as text."""
    return " / ".join(f"{value:.{digits}f}" for value in values)


def rows_of(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows that were asked for."""
    for name in options.networks:
        yield paired(name, options.batch, options.seconds)
    if options.whole:
        for precision, round_to in RUNS:
            yield whole(options.samples, options.epochs, options.whole_batch, options.data, precision, round_to)


def main() -> None:
    """Measure and print, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help=f"at least, per network; {PAIRS} pairs in any case")
    parser.add_argument("--whole", action="store_true", help="a whole run, too")
    parser.add_argument("--samples", type=int, default=10_000, help="images of --whole")
    parser.add_argument("--epochs", type=int, default=20, help="of --whole")
    parser.add_argument("--whole-batch", type=int, default=128, help="images in a batch of --whole")
    parser.add_argument(
        "--data", type=Path, help="CIFAR-10 for --whole, as export/cifar10.py reads it; otherwise synthetic"
    )
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep()
    rows = []
    for row in rows_of(options):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if options.store:
        options.store.parent.mkdir(parents=True, exist_ok=True)
        write(options.store, markdown(rows).encode())


if __name__ == "__main__":
    main()
