"""Does edgel0 beat its peers under equal conditions? ResNet-8 on CIFAR-10 at half, a quarter and an eighth of its MACs.

``python -m benchmarks.resnet8 --data package --store FILE.jsonl`` trains every method, level and seed that the file
does not have yet and adds a JSON line for each; ``--report FILE.md`` makes the tables of it, without ``--data`` of what
is there. ``--validate`` tests on the last 5,000 training images and is what settings are to be chosen with; the test
set is evaluated once, at the end of each row. What several rows share (the dense network of a seed, its state before
pruning) is kept in ``--work``. ``--samples N`` is a trial with N images.

A row's ``seconds`` are the processor's, of all threads: other work on the machine does not count. ``seconds_shared``
of them were computed once for several rows. The teacher's, ``seconds_teacher``, are not among them. Accuracy is not
taken in between, so no time is lost to that.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.equally import batches, check, steps_of, trained
from benchmarks.peers import CRITERIA, in_steps
from benchmarks.resnets import uniform, widths_of
from benchmarks.standings import AFTER, DENSE, OURS, report
from edgel0 import __version__
from edgel0.cost import cost_of
from edgel0.recipe import Recipe, Training, read_recipe
from edgel0.running import build_model, load_data, program_accuracy
from edgel0.samples import Data, accuracy
from edgel0.slimming import slim
from edgel0.staging import write
from edgel0.tracing import trace
from edgel0.training import Tick, train
from edgel0.types import Cost, Masks
from export.cifar10 import FETCH
from export.resnet8 import WIDTHS, ResNet8

HERE = Path(__file__).parent
PRUNED = {f"tp-{name}{kind}": (name, steps) for name in CRITERIA for kind, steps in (("", 1), ("-iterative", 5))}
METHODS = (DENSE, OURS, *PRUNED, "uniform", AFTER)
KEY = ("method", "level", "seed", "epochs", "distill", "validate", "samples", "set")
HELD_BACK = 5000  # training images that --validate tests on
WATCHED = 500  # training images that edgel0's progress is measured on after every epoch
TEACHER = "the dense network of this seed"
STARTS = {False: "start", True: "start-distilled"}  # with a teacher or without: names in the folder of what is shared
Row = dict[str, Any]


@dataclass(frozen=True)
class Taught(Recipe):
    """A recipe whose teacher is at hand."""

    master: nn.Module

    def function(self, reference: str) -> Callable[..., Any]:
        """Return what makes the teacher, or whatever else the recipe names."""
        return (lambda: self.master) if reference == TEACHER else super().function(reference)


@dataclass(frozen=True)
class Bench:
    """What all rows have in common: the recipe as it was read, data, and a folder for what they share."""

    recipe: Recipe
    data: Data
    digest: str
    work: Path
    options: argparse.Namespace

    def of(self, seed: int, level: float = 1.0) -> Recipe:
        """Return the recipe of a row."""
        limits = dataclasses.replace(self.recipe.limits, macs=f"{100 * level:g} %")
        return dataclasses.replace(self.recipe, seed=seed, limits=limits)

    def say(self, text: str) -> None:
        """Print what goes on."""
        if not self.options.quiet:
            print(f"# {text}", flush=True)

    def shared(self, name: str, seed: int, make: Callable[[], nn.Module]) -> tuple[nn.Module, float]:
        """Return a network of full size and the seconds it took, from the folder if it is there."""
        settings = dataclasses.replace(self.recipe.train, threads=1, distill=name == STARTS[True])
        code = [
            (HERE / file).read_text("utf-8")
            for file in ("equally.py", "resnets.py", "../export/resnet8.py", "../export/cifar10.py")
        ]
        identity = [name, seed, settings, self.digest, str(torch.__version__), code]
        file = self.work / f"{name}-{seed}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}.pt"
        if file.exists():
            kept = torch.load(file, weights_only=True)
            model = ResNet8()
            model.load_state_dict(kept["state"])
            return model, kept["seconds"]
        began = time.process_time()
        model = make()
        seconds = time.process_time() - began
        self.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            torch.save({"state": model.state_dict(), "seconds": seconds}, Path(folder) / file.name)
            (Path(folder) / file.name).replace(file)
        return model, seconds

    def fresh(self, seed: int, widths: tuple[int, ...] = WIDTHS) -> nn.Module:
        """Return a network with new weights, which a seed decides."""
        torch.manual_seed(seed)
        return ResNet8(widths)

    def fit(self, model: nn.Module, seed: int, phases: tuple[str, ...], **keywords: Any) -> nn.Module:
        """Train some phases, saying how it goes."""
        return trained(model, self.of(seed), self.data, phases, say=self.say, **keywords)

    def dense(self, seed: int) -> tuple[nn.Module, float]:
        """Return the network that was trained at full size for all epochs, without a teacher."""

        def make() -> nn.Module:
            return self.fit(self.started(seed, None)[0], seed, ("gating", "settle"))

        model, seconds = self.shared("dense", seed, make)
        return model, seconds + self.started(seed, None)[1]

    def teacher(self, seed: int) -> nn.Module | None:
        """Return the teacher of every row of a seed, if they are distilled."""
        return self.dense(seed)[0] if self.recipe.train.distill else None

    def started(self, seed: int, teacher: nn.Module | None) -> tuple[nn.Module, float]:
        """Return the network as it is after the dense epochs, before anything is removed."""
        name = STARTS[teacher is not None]
        return self.shared(name, seed, lambda: self.fit(self.fresh(seed), seed, ("dense",), teacher=teacher))


# One function per method: (widths, cost, accuracy, seconds of its own, seconds shared).
Result = tuple[tuple[int, ...], Cost, float, float, float]


def edgel0_row(bench: Bench, seed: int, level: float) -> Result:
    """Train by the recipe and slim."""
    recipe, data, teacher = bench.of(seed, level), bench.data, bench.teacher(seed)
    settings = dataclasses.replace(recipe.train, distill=False)
    if teacher is not None:
        settings = dataclasses.replace(settings, teacher=TEACHER)
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)} | {"train": settings}
    recipe = recipe if teacher is None else Taught(**fields, master=teacher)
    recipe = dataclasses.replace(recipe, train=settings)
    some = data.x_train[:WATCHED], data.y_train[:WATCHED]

    def show(tick: Tick) -> None:
        if tick.accuracy is not None:
            bench.say(
                f"{tick.phase} {tick.epoch}/{tick.epochs} loss {tick.loss:.4f} macs {tick.cost.get('macs', 0):,.0f} "
                f"{'-'.join(map(str, tick.groups.values()))} {tick.step_ms:.1f} ms/step"
            )

    began = time.process_time()
    model = build_model(recipe)
    with tempfile.TemporaryDirectory() as work:
        found = train(recipe, model, Data(data.x_train, data.y_train, *some), Path(work), show)
    smaller = slim(found.model, found.masks)
    seconds = time.process_time() - began
    return kept_widths(found.masks), smaller.cost, program_accuracy(smaller, data), seconds, 0.0


def pruned_row(bench: Bench, seed: int, level: float, criterion: str, times: int) -> Result:
    """Prune the seed's dense start with Torch-Pruning, at once or in steps, and train on."""
    recipe, data, teacher = bench.of(seed), bench.data, bench.teacher(seed)
    model, shared = bench.started(seed, teacher)
    began = time.process_time()
    steps, dense = steps_of(recipe, data), counted(model, data).macs
    places = [steps["dense"] + steps["gating"] * i // times for i in range(times)]
    # Gradients on the batches of the first gating epoch, whatever the place: the same for each row of a seed.
    changes = in_steps(criterion, dense, level * dense, places, lambda: batches(recipe, data, "gating", 0))
    model = bench.fit(model, seed, ("gating", "settle"), teacher=teacher, changes=changes)
    return measured(model, data, time.process_time() - began, shared)


def narrow_row(bench: Bench, seed: int, widths: tuple[int, ...]) -> Result:
    """Train a network of some widths from new weights for all epochs."""
    teacher = bench.teacher(seed)
    began = time.process_time()
    model = bench.fit(bench.fresh(seed, widths), seed, ("dense", "gating", "settle"), teacher=teacher)
    out = measured(model, bench.data, time.process_time() - began, 0.0)
    return widths, *out[1:]


def measured(model: nn.Module, data: Data, seconds: float, shared: float) -> Result:
    """Count and test a network of any widths."""
    widths = widths_of(model) if all(hasattr(block, "conv1") for block in model.blocks) else ()
    return widths, counted(model, data), accuracy(model, data.x_test, data.y_test), seconds, shared


def counted(model: nn.Module, data: Data) -> Cost:
    """Count with edgel0 what one image costs."""
    return cost_of(trace(model, data.x_train[:1]))


def kept_widths(masks: Masks) -> tuple[int, ...]:
    """Return what a mask keeps of each width of :class:`ResNet8`."""
    found = {writer: masks.kept[group.name] for group in masks.coupling.groups for writer in group.writers}
    pairs = (f"blocks.{i}.{name}.weight" for i in range(3) for name in ("conv2", "conv1"))
    return tuple(found[name] for name in pairs)


def result(bench: Bench, method: str, level: float, seed: int, found: tuple[int, ...] | None) -> Result:
    """Make the figures of one row; ``found`` is what edgel0 found at this level."""
    if method == OURS:
        return edgel0_row(bench, seed, level)
    if method in PRUNED:
        return pruned_row(bench, seed, level, *PRUNED[method])
    if method == DENSE:
        return measured(bench.dense(seed)[0], bench.data, 0.0, bench.dense(seed)[1])
    if method == "uniform":
        return narrow_row(bench, seed, uniform(level * counted(ResNet8(), bench.data).macs))
    assert found is not None
    return narrow_row(bench, seed, found)


def row_of(bench: Bench, key: Row, found: tuple[int, ...] | None) -> Row:
    """Make one row; what goes wrong is part of it."""
    threads = bench.recipe.train.threads
    torch.set_num_threads(threads)
    about = {
        "threads": threads,
        "recipe": hashlib.sha256(bench.recipe.text.encode()).hexdigest()[:8],
        "versions": versions(),
        "machine": platform.machine(),
    }
    teaching = bench.dense(key["seed"])[1] if key["distill"] else 0.0  # made here, if need be: no row's own time
    dense = counted(ResNet8(), bench.data)
    try:
        widths, cost, score, seconds, shared = result(bench, key["method"], key["level"], key["seed"], found)
    except Exception as error:  # noqa: BLE001 - a method may fail in any way, and that is the finding
        return key | {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"} | about
    row = key | {
        "widths": list(widths),
        "macs": cost.macs,
        "share": round(cost.macs / dense.macs, 6),
        "params": cost.params,
        "accuracy": round(score, 6),
        "dense_macs": dense.macs,
        "seconds": round(seconds + shared, 1),
        "seconds_shared": round(shared, 1),
        "seconds_teacher": round(teaching, 1),
        "phases": list(bench.recipe.train.phases),
    }
    if cost.macs > key["level"] * dense.macs:
        row["error"] = f"{cost.macs:,} MACs, {cost.macs / dense.macs:.2%}, are more than {key['level']:.1%}"
    return row | about


def versions() -> dict[str, str]:
    """Return what rows depend on."""
    found = {"edgel0": __version__, "torch": str(torch.__version__)}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["torch-pruning"] = importlib.metadata.version("torch-pruning")
    return found


def stored(file: Path | None) -> list[Row]:
    """Read the rows of a file."""
    if file is None or not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def missing(
    options: argparse.Namespace, settings: Training, rows: Callable[[], list[Row]]
) -> Iterator[tuple[Row, tuple[int, ...] | None]]:
    """Yield the key of each row that is not there when its turn comes, and for scratch the widths that edgel0 found."""
    epochs = sum(settings.phases)
    for seed in options.seeds:
        for method, level in ((m, v) for v in (1.0, *options.levels) for m in METHODS if (m == DENSE) is (v == 1.0)):
            if method not in options.methods:
                continue
            distill = settings.distill and method != DENSE  # the dense network is the teacher
            # How gates are set makes no difference to those who have none.
            chosen = " ".join(s for s in sorted(options.set) if of_training(s) or method in (OURS, AFTER))
            values = (method, level, seed, epochs, distill, options.validate, options.samples, chosen)
            key = dict(zip(KEY, values, strict=True))
            known = {tuple(row[name] for name in KEY): row for row in rows()}
            if values in known:
                continue
            ours = known.get((OURS, *values[1:]), {})
            if method == AFTER and ("widths" not in ours or "error" in ours):
                print(f"# no {AFTER} at {level:g}, seed {seed}: there is no row of {OURS} to take its widths from")
                continue
            yield key, tuple(ours["widths"]) if method == AFTER else None


def of_training(setting: str) -> bool:
    """Tell whether KEY=VALUE is a setting of [train], which all methods follow."""
    return setting.partition("=")[0] in {field.name for field in dataclasses.fields(Training)}


def bench_of(options: argparse.Namespace) -> Bench:
    """Read the recipe and the data."""
    recipe = read_recipe(options.recipe)
    changes = {"distill": options.distill or recipe.train.distill, "threads": options.threads or recipe.train.threads}
    if options.epochs:
        changes |= {"epochs": options.epochs, "dense_epochs": None, "gating_epochs": None, "settle_epochs": None}
    gating: dict[str, Any] = {}
    for setting in options.set:
        key, _, text = setting.partition("=")
        (changes if of_training(setting) else gating)[key] = json.loads(text)
    settings, gates = dataclasses.replace(recipe.train, **changes), dataclasses.replace(recipe.gates, **gating)
    recipe = dataclasses.replace(recipe, train=settings, gates=gates)
    check(recipe)
    data = load_data(recipe, options.data)
    if options.validate:
        kept = slice(None, -HELD_BACK), slice(-HELD_BACK, None)
        data = Data(data.x_train[kept[0]], data.y_train[kept[0]], data.x_train[kept[1]], data.y_train[kept[1]])
    if options.samples:
        some = slice(options.samples)
        data = Data(data.x_train[some], data.y_train[some], data.x_test[some], data.y_test[some])
    return Bench(recipe, data, data.digest, options.work, options)


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help=f"the folder package of  {FETCH}  or the .npz made of it")
    parser.add_argument("--store", type=Path, help="JSON lines; rows that are there are skipped, new ones added")
    parser.add_argument("--report", type=Path, help="Markdown file to make of the rows")
    parser.add_argument("--recipe", type=Path, default=HERE / "resnet8.toml")
    parser.add_argument("--work", type=Path, default=Path("runs/resnet8"), help="what rows share")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--levels", type=float, nargs="+", default=[0.5, 0.25, 0.125], help="shares of the MACs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="in all; otherwise the recipe's")
    parser.add_argument("--threads", type=int, help="otherwise the recipe's")
    parser.add_argument("--distill", action="store_true", help="the dense network of the seed teaches every row")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of [train], [gates]")
    parser.add_argument("--validate", action="store_true", help="test on the last 5,000 training images")
    parser.add_argument("--samples", type=int, default=0, help="only so many images")
    parser.add_argument("--quiet", action="store_true", help="no line per epoch")
    return parser


def main() -> None:
    """Train what is missing, then write the report."""
    parser = arguments()
    options = parser.parse_args()
    if not (options.data or options.report):
        parser.error(f"--data is needed, or --report for what is stored; {FETCH}")
    if options.data and not options.data.exists():
        parser.error(f"there is no {str(options.data)!r}; {FETCH}")
    new: list[Row] = []
    if options.data:
        bench = bench_of(options)
        for key, found in missing(options, bench.recipe.train, lambda: [*stored(options.store), *new]):
            row = row_of(bench, key, found)
            print(json.dumps(row), flush=True)
            if not options.store:
                new.append(row)
                continue
            options.store.parent.mkdir(parents=True, exist_ok=True)
            with options.store.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        write(options.report, report([*stored(options.store), *new]).encode())


if __name__ == "__main__":
    main()
