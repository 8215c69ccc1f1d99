"""How small do LeNet-5-Caffe and LeNet-300-100 get on MNIST? No augmentation, several seeds, CPU only.

``python -m benchmarks.lenet --data mnist.npz`` trains both networks, prints one JSON line per run, then the tables of
the L0 paper with these rows in them. ``--macs`` and ``--params`` set other limits than the recipes'. The official test
set gives the figure of each epoch's line and the last one counts; nothing is chosen by it. ``--validate`` uses the last
5,000 training images instead, and is what settings are to be chosen with. ``--lines FILE`` keeps the lines and skips
runs that it has; ``--store FILE.md`` writes the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from edgel0 import __version__
from edgel0.recipe import Recipe, read_recipe
from edgel0.running import build_model, load_data, program_accuracy
from edgel0.samples import Data, accuracy
from edgel0.slimming import slim
from edgel0.training import Tick, train

HERE = Path(__file__).parent
RECIPES = {"lenet5": HERE / "lenet5.toml", "lenet300": HERE / "lenet300.toml"}
TITLES = {"lenet5": "LeNet-5-Caffe (20-50-800-500)", "lenet300": "LeNet-300-100 (784-300-100)"}
# Rows of arXiv 1712.01312, table 1, that a second source repeats: method, architecture, error in percent. Costs are
# counted from the architecture.
PUBLISHED = {
    "lenet5": [
        ("GD", "7-13-208-16", 1.1),
        ("SBP", "3-18-284-283", 0.9),
        ("BC-GNJ", "8-13-88-13", 1.0),
        ("BC-GHS", "5-10-76-16", 1.0),
        ("L0, λ = 0.1/N", "20-25-45-462", 0.9),
        ("L0, λ per layer", "9-18-65-25", 1.0),
    ],
    "lenet300": [
        ("L0, λ per layer", "266-88-33", 1.8),
    ],
}


def published_cost(network: str, architecture: str) -> tuple[int, int]:
    """MACs and parameters of a published row: kept maps and neurons, biases counted."""
    widths = [int(width) for width in architecture.split("-")]
    if network == "lenet300":
        a, b, c = widths
        return a * b + b * c + 10 * c, a * b + b + b * c + c + 10 * c + 10
    a, b, c, d = widths  # maps, maps, inputs and outputs of the first linear layer
    return 14_400 * a + 1_600 * a * b + c * d + 10 * d, 26 * a + 25 * a * b + b + c * d + d + 10 * d + 10


def main() -> None:
    """Train what is missing and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="mnist.npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--networks", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--macs", help="another limit than the recipe's; 0 for none")
    parser.add_argument("--params", help="another limit than the recipe's; 0 for none")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of [train], [gates]")
    parser.add_argument("--validate", action="store_true", help="test on the last 5,000 training images")
    parser.add_argument("--quiet", action="store_true", help="no line per epoch")
    parser.add_argument("--lines", type=Path, help="JSON lines of former runs; new ones are added")
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = former(options.lines) if options.lines else []
    for row in runs(options, rows) if options.data else ():
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.lines:
            with options.lines.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
    text = markdown(rows)
    print(text)
    if options.store:
        options.store.parent.mkdir(parents=True, exist_ok=True)
        options.store.write_text(text, encoding="utf-8")


def former(output: Path) -> list[dict[str, Any]]:
    """Read the JSON lines of former runs."""
    if not output.exists():
        return []
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def runs(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each network and seed that is not known."""
    for network in options.networks:
        recipe = changed(read_recipe(RECIPES[network]), options)
        data = load_data(recipe, options.data)
        if options.validate:
            data = Data(data.x_train[:-5000], data.y_train[:-5000], data.x_train[-5000:], data.y_train[-5000:])
        for seed in options.seeds:
            row = {
                "benchmark": network,
                "seed": seed,
                "test": "last 5,000 of train" if options.validate else "official test set",
                "limits": {k: v for k, v in (("macs", recipe.limits.macs), ("params", recipe.limits.params)) if v},
                "set": sorted(options.set),
            }
            if not any(all(old.get(k) == v for k, v in row.items()) for old in known):
                yield row | one(dataclasses.replace(recipe, seed=seed), data, options.quiet)


def changed(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Return the recipe with the limits and settings of the command line."""
    for metric in ("macs", "params"):
        value = getattr(options, metric)
        if value is not None:
            limits = dataclasses.replace(recipe.limits, **{metric: None if value == "0" else int(value)})
            recipe = dataclasses.replace(recipe, limits=limits)
    for key, _, text in (setting.partition("=") for setting in options.set):
        table = "train" if hasattr(recipe.train, key) else "gates"
        new = dataclasses.replace(getattr(recipe, table), **{key: json.loads(text)})
        recipe = dataclasses.replace(recipe, **{table: new})
    return recipe


def one(recipe: Recipe, data: Data, quiet: bool) -> dict[str, Any]:
    """Train one seed and count what is left of it."""
    torch.set_num_threads(recipe.train.threads)
    model = build_model(recipe)
    began = time.perf_counter()

    def show(tick: Tick) -> None:
        if tick.accuracy is not None and not quiet:
            cost = ", ".join(f"{name} {value:,.0f}" for name, value in tick.cost.items())
            print(
                f"# {time.perf_counter() - began:5.0f} s {tick.phase} {tick.epoch}/{tick.epochs} loss {tick.loss:.4f} "
                f"error {1 - tick.accuracy:.2%} {cost} {'-'.join(map(str, tick.groups.values()))} "
                f"{tick.step_ms:.1f} ms/step",
                flush=True,
            )

    with tempfile.TemporaryDirectory() as work:
        trained = train(recipe, model, data, Path(work), show)
    smaller = slim(trained.model, trained.masks)
    return {
        "architecture": "-".join(str(kept) for kept in trained.masks.kept.values()),
        "macs": smaller.cost.macs,
        "params": smaller.cost.params,
        "error": round(1 - program_accuracy(smaller, data), 6),
        "dense_macs": smaller.dense.macs,
        "dense_params": smaller.dense.params,
        "dense_error": round(1 - accuracy(trained.dense, data.x_test, data.y_test), 6),
        "epochs": list(recipe.train.phases),
        "seconds": round(time.perf_counter() - began, 1),
        "threads": recipe.train.threads,
        "edgel0": __version__,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the paper's tables with the rows of these runs, one per set of limits, and each seed's own below."""
    lines = ["# LeNets on MNIST", ""]
    if rows:
        first = rows[0]
        lines += [
            f"Made by `python -m benchmarks.lenet` with edgel0 {first['edgel0']} and torch {first['torch']} on "
            f"{first['machine']}, {first['threads']} threads; no augmentation. Published rows are table 1 of arXiv "
            "1712.01312; their costs are counted from their architectures.",
            "",
        ]
    for network, title in TITLES.items():
        mine = [row for row in rows if row["benchmark"] == network]
        if mine:
            lines += section(network, title, mine)
    return "\n".join(lines)


def section(network: str, title: str, rows: list[dict[str, Any]]) -> list[str]:
    """One network: the table and the seeds."""
    lines = [f"## {title}", "", "| method | architecture | MACs | parameters | error |", "|---|---|--:|--:|--:|"]
    for name, architecture, error in PUBLISHED[network]:
        macs, params = published_cost(network, architecture)
        lines.append(f"| {name} | {architecture} | {macs:,} | {params:,} | {error:.1f} % |")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(json.dumps([row["limits"], row["test"], row.get("set", [])]), []).append(row)
    for same in kinds.values():
        errors = [100 * row["error"] for row in same]
        lines.append(
            f"| **edgel0**, {said(same[0])}, mean of {len(same)} | {' / '.join(row['architecture'] for row in same)} | "
            f"{mean(row['macs'] for row in same):,.0f} | {mean(row['params'] for row in same):,.0f} | "
            f"{mean(errors):.2f} % ({min(errors):.2f} to {max(errors):.2f}) |"
        )
    lines += ["", "| limits | seed | architecture | MACs | parameters | error | dense error | minutes |"]
    lines += ["|---|--:|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {said(row)} | {row['seed']} | {row['architecture']} | {row['macs']:,} | {row['params']:,} | "
        f"{row['error']:.2%} | {row['dense_error']:.2%} | {row['seconds'] / 60:.1f} |"
        for row in rows
    ]
    return [*lines, ""]


def said(row: dict[str, Any]) -> str:
    """Return the limits of a row in words, and what else is not as in the recipe."""
    limits = " and ".join(f"{int(value):,} {'MACs' if k == 'macs' else k}" for k, value in row["limits"].items())
    notes = [*row.get("set", []), *(["validation"] if row["test"] != "official test set" else [])]
    return limits + (f" ({', '.join(notes)})" if notes else "")


if __name__ == "__main__":
    main()
