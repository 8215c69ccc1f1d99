"""How small does LeNet-5-Caffe get at 1 % error on MNIST? No augmentation, several seeds, CPU only.

``python -m benchmarks.lenet --data mnist.npz`` prints one JSON line per seed, then a table with mean and worst. The
official test set gives the figure of each epoch's line and the last one counts; nothing is chosen by it. ``--validate``
uses the last 5,000 training images instead, and is what settings are to be chosen with. ``--store FILE.md`` writes the
table, ``--lines FILE`` makes it from the output of a former run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from edgel0 import __version__
from edgel0.recipe import Recipe, read_recipe
from edgel0.running import load_data, program_accuracy
from edgel0.slimming import slim
from edgel0.training import Data, Tick, accuracy, train

HERE = Path(__file__).parent


def main() -> None:
    """Train every seed and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="mnist.npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--recipe", type=Path, default=HERE / "lenet.toml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--validate", action="store_true", help="test on the last 5,000 training images")
    parser.add_argument("--quiet", action="store_true", help="no line per epoch")
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    parser.add_argument("--lines", type=Path, help="output of a former run, instead of training")
    options = parser.parse_args()
    if not (options.data or options.lines):
        parser.error("--data is needed, unless --lines gives a former run")
    rows = former(options.lines) if options.lines else trained_rows(options)
    Console(width=80).print(table(rows))
    if options.store:
        options.store.parent.mkdir(parents=True, exist_ok=True)
        options.store.write_text(markdown(rows), encoding="utf-8")


def former(output: Path) -> list[dict[str, Any]]:
    """Read the JSON lines of a former run."""
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def trained_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train every seed, printing each row as it comes."""
    recipe = read_recipe(options.recipe)
    data = load_data(recipe, options.data)
    if options.validate:
        data = Data(data.x_train[:-5000], data.y_train[:-5000], data.x_train[-5000:], data.y_train[-5000:])
    rows = []
    for seed in options.seeds:
        rows.append(one(dataclasses.replace(recipe, seed=seed), data, options))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def one(recipe: Recipe, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Train one seed and count what is left of it."""
    torch.set_num_threads(recipe.train.threads)
    torch.manual_seed(recipe.seed)
    model = recipe.function(recipe.build)()
    began = time.perf_counter()

    def show(tick: Tick) -> None:
        if tick.accuracy is not None and not options.quiet:
            seconds = time.perf_counter() - began
            print(
                f"# {seconds:5.0f} s {tick.phase} {tick.epoch}/{tick.epochs} loss {tick.loss:.4f} error "
                f"{1 - tick.accuracy:.2%} macs {tick.cost.get('macs', 0):,.0f}",
                flush=True,
            )

    with tempfile.TemporaryDirectory() as work:
        trained = train(recipe, model, data, Path(work), show)
    smaller = slim(trained.model, trained.masks)
    seconds = time.perf_counter() - began
    return {
        "benchmark": "lenet5-caffe",
        "seed": recipe.seed,
        "test": "last 5,000 of train" if options.validate else "official test set",
        "architecture": "-".join(str(kept) for kept in trained.masks.kept.values()),
        "macs": smaller.cost.macs,
        "params": smaller.cost.params,
        "error": round(1 - program_accuracy(smaller, data), 6),
        "dense_macs": smaller.dense.macs,
        "dense_error": round(1 - accuracy(trained.dense, data.x_test, data.y_test), 6),
        "limit": recipe.limits.macs,
        "seconds": round(seconds, 1),
        "threads": recipe.train.threads,
        "edgel0": __version__,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """One row per seed, then mean and worst."""
    out = Table(title="LeNet-5-Caffe, MNIST, no augmentation")
    for name in ("seed", "units", "MACs", "parameters", "error", "dense", "minutes"):
        out.add_column(name, justify="right")
    for row in rows:
        out.add_row(
            str(row["seed"]),
            row["architecture"],
            f"{row['macs']:,}",
            f"{row['params']:,}",
            f"{row['error']:.2%}",
            f"{row['dense_error']:.2%}",
            f"{row['seconds'] / 60:.1f}",
        )
    errors = [row["error"] for row in rows]
    out.add_section()
    out.add_row(
        "mean",
        "",
        f"{sum(r['macs'] for r in rows) / len(rows):,.0f}",
        f"{sum(r['params'] for r in rows) / len(rows):,.0f}",
        f"{sum(errors) / len(errors):.2%}",
    )
    out.add_row(
        "worst", "", f"{max(r['macs'] for r in rows):,}", f"{max(r['params'] for r in rows):,}", f"{max(errors):.2%}"
    )
    return out


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table for the repository, with the versions and the lines behind it."""
    first = rows[0]
    errors = [row["error"] for row in rows]
    lines = [
        "# LeNet-5-Caffe on MNIST",
        "",
        f"Made by `python -m benchmarks.lenet` with edgel0 {first.get('edgel0', __version__)} and torch "
        f"{first['torch']} on {first['machine']}, {first['threads']} threads; {first['test']}, no augmentation, limit "
        f"{first['limit']:,} of {first['dense_macs']:,} MACs.",
        "",
        "| seed | units | MACs | parameters | error | dense error | minutes |",
        "|--:|---|--:|--:|--:|--:|--:|",
        *(
            f"| {r['seed']} | {r['architecture']} | {r['macs']:,} | {r['params']:,} | {r['error']:.2%} | "
            f"{r['dense_error']:.2%} | {r['seconds'] / 60:.1f} |"
            for r in rows
        ),
        "",
        f"Mean error {sum(errors) / len(errors):.2%}, worst {max(errors):.2%}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
