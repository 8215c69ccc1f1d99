"""How does a recipe become a folder of results? Train, slim, export, measure, check; published in one rename."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgel0 import __version__
from edgel0.checks.config import read_limits
from edgel0.checks.verdict import check
from edgel0.devices.measure import measure
from edgel0.errors import DeviceError, ParityError, RecipeError, need
from edgel0.exporters.parity import compare
from edgel0.exporters.runtimes import arrays
from edgel0.exporters.writing import export
from edgel0.masks import masked
from edgel0.recipe import Recipe
from edgel0.slimming import slim
from edgel0.training import Data, Tick, Trained, accuracy, as_data, check_labels, train
from edgel0.types import Artifact, Masks, Measurement, Parity, Slimmed, Verdict

SCHEMA = 1
CHECKPOINT = "checkpoint.pt"
NEEDS = {"onnx": (("onnx", "onnxscript", "onnxruntime", "onnxsim"), "onnx"), "tflite": (("ai_edge_litert",), "tflite")}
RUNTIME_NAMES = {".onnx": "onnxruntime", ".tflite": "litert"}


@dataclass(frozen=True)
class Outcome:
    """Where the results are, what ``result.json`` says, and the verdicts on the recipe's budgets."""

    folder: Path
    result: dict[str, Any]
    verdicts: tuple[Verdict, ...]


def run(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    data_path: str | Path | None = None,
    fresh: bool = False,
    progress: Callable[[Tick], None] = lambda tick: None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Run a recipe; the results are in ``out/NAME`` when it returns, and nothing of them before.

    An interrupted run leaves its checkpoint in ``out/.NAME.partial`` and the former results where they were; the same
    recipe, data and version go on from it unless ``fresh``. ``data_path`` is handed to the recipe's ``load``.
    """
    for kind in recipe.export.formats:
        modules, extra = NEEDS.get(kind, ((), ""))
        for module in modules:
            need(module, extra)
    torch.set_num_threads(recipe.train.threads)
    with staging(Path(out), recipe.name, fresh) as work:
        data = load_data(recipe, data_path)
        torch.manual_seed(recipe.seed)
        model = recipe.function(recipe.build)()
        if not isinstance(model, nn.Module):
            raise RecipeError(f"{recipe.build!r} returned {type(model).__name__}; it must return a torch.nn.Module.")
        check_labels(model, data)
        trained = train(recipe, model, data, work, progress)
        result, verdicts = finish(recipe, trained, data, work, say)
        folder = publish(Path(out), recipe.name, work)
    return Outcome(folder, result, verdicts)


def load_data(recipe: Recipe, path: str | Path | None) -> Data:
    """Call the recipe's ``load`` with the path given on the command line, if any."""
    load = recipe.function(recipe.load)
    if path is None:
        return as_data(load())
    if not Path(path).exists():
        raise RecipeError(f"there is no data file {str(path)!r}; correct --data, or leave it out for the recipe's own.")
    try:
        return as_data(load(str(path)))
    except (OSError, KeyError, ValueError) as error:
        raise RecipeError(f"{recipe.load!r} cannot read {str(path)!r}: {error}.") from error


def finish(
    recipe: Recipe, trained: Trained, data: Data, work: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], tuple[Verdict, ...]]:
    """Slim, export, measure and check what was trained; write everything into ``work``."""
    say("slimming")
    everything = Masks(trained.masks.coupling, np.ones_like(trained.masks.open), "dense")
    smaller = slim(trained.model, trained.masks)
    programs = {"dense": (slim(trained.dense, everything), trained.dense), "slim": (smaller, trained.model)}
    samples = [(x.unsqueeze(0),) for x in data.x_test[: recipe.export.verify]]
    parity = {"slim program": program_parity(smaller, masked(trained.model, trained.masks), samples)}

    artifacts: dict[str, list[Artifact]] = {"dense": [], "slim": []}
    for which, (program, reference) in programs.items():
        reference.eval()
        for kind in recipe.export.formats:
            say(f"exporting {which}.{kind}")
            layout = recipe.export.layout if kind == "tflite" else "nchw"
            path = work / f"{which}.{kind}"
            artifact = export(
                program, path, reference=_named(reference, which), inputs=samples, layout=layout,
                provenance={"data": data.digest, "recipe": recipe.name},
            )
            artifacts[which].append(artifact)
            if artifact.parity is not None:
                parity[path.name] = artifact.parity
    say("measuring")
    measured = _measured(recipe, artifacts, say)
    result = {
        "schema": SCHEMA,
        "name": recipe.name,
        "dense": _side(programs["dense"][0], accuracy(trained.dense, data.x_test, data.y_test), artifacts["dense"], measured),
        "slim": _side(smaller, program_accuracy(smaller, data), artifacts["slim"], measured),
        "parity": {name: _parity(row) for name, row in parity.items()},
        "budget": _budget(recipe, trained, smaller),
        "mask": {
            "rule": trained.masks.rule,
            "digest": trained.masks.digest,
            "groups": smaller.provenance["groups"],
            **trained.masks.report,
        },
        "profile": _profile(recipe, measured),
        "data": {"digest": data.digest, "train": len(data.x_train), "test": len(data.x_test)},
        "seed": recipe.seed,
        "shrunk": trained.shrunk,
        "history": list(trained.history),
        "versions": _versions(artifacts),
    }
    _write(work / "result.json", json.dumps(result, indent=2) + "\n")
    _write(work / "recipe.toml", recipe.text)
    verdicts = tuple(check(read_limits(work / "recipe.toml", strict=False))) if recipe.budgets else ()
    return result, verdicts


def program_accuracy(slimmed: Slimmed, data: Data) -> float:
    """Share of right top-1 answers of the program itself, one sample at a time, as it was traced."""
    module = slimmed.program.module(check_guards=False)
    with torch.no_grad():
        right = sum(
            int(module(x.unsqueeze(0)).argmax(1).item() == y) for x, y in zip(data.x_test, data.y_test.tolist(), strict=True)
        )
    return right / len(data.y_test)


def program_parity(slimmed: Slimmed, reference: nn.Module, samples: list[tuple[torch.Tensor]]) -> Parity:
    """Compare the slimmed program with the masked model."""
    module = slimmed.program.module(check_guards=False)
    reference.eval()
    with torch.no_grad():
        expected = [arrays(reference(*sample)) for sample in samples]
        found = [arrays(module(*sample)) for sample in samples]
    try:
        return compare(
            expected, found, names=("output",), reference="the masked model", runtime=f"torch {torch.__version__}",
            tolerance=1e-4,
        )
    except ParityError as error:
        raise ParityError(f"the slimmed program is not the masked model: {error} This is a defect of edgel0.") from error


def _named(model: nn.Module, which: str) -> Callable[..., Any]:
    def reference(*args: Any) -> Any:
        return model(*args)

    reference.__name__ = "the masked model" if which == "slim" else "the dense model"
    return reference


def _measured(
    recipe: Recipe, artifacts: dict[str, list[Artifact]], say: Callable[[str], None]
) -> dict[str, Measurement]:
    """Measure each format's dense and slim file interleaved, and note the figures in their sidecars."""
    found: dict[str, Measurement] = {}
    settings = recipe.profile
    for pair in zip(artifacts["dense"], artifacts["slim"], strict=True):
        if pair[0].path.suffix not in RUNTIME_NAMES:
            continue
        say(f"measuring {pair[0].path.name} and {pair[1].path.name} in turn")
        rows = measure(pair, threads=settings.threads, num_runs=settings.num_runs, min_secs=settings.min_secs)
        for artifact, row in zip(pair, rows, strict=True):
            found[artifact.path.name] = row
            sidecar = artifact.path.with_name(f"{artifact.path.name}.json")
            entry = json.loads(sidecar.read_text(encoding="utf-8"))
            entry["latency_ms"] = {row.runtime: {"p10": row.p10_ms, "p50": row.p50_ms, "p90": row.p90_ms}}
            _write(sidecar, json.dumps(entry, indent=2) + "\n")
    return found


def _side(
    program: Slimmed, score: float, artifacts: list[Artifact], measured: dict[str, Measurement]
) -> dict[str, Any]:
    rows = {RUNTIME_NAMES[a.path.suffix]: measured[a.path.name] for a in artifacts if a.path.name in measured}
    return {
        "accuracy": score,
        **program.cost.as_dict(),
        "files": {a.path.name: a.bytes for a in artifacts},
        "latency_ms": {
            name: {
                "p10": row.p10_ms, "p50": row.p50_ms, "p90": row.p90_ms, "runs": len(row.samples_ms),
                "load": row.load_ms, "first": row.first_ms, "threads": row.threads,
                "threads_observed": row.threads_observed, "peak_rss_bytes": row.peak_rss_bytes,
                "runtime": row.runtime, "notes": list(row.notes),
            }
            for name, row in rows.items()
        },
    }


def _parity(row: Parity) -> dict[str, Any]:
    return {
        "max_abs": row.max_abs, "mean_abs": row.mean_abs, "relative": row.relative, "top1": row.top1,
        "samples": row.samples, "reference": row.reference, "runtime": row.runtime, "tolerance": row.tolerance,
    }


def _budget(recipe: Recipe, trained: Trained, smaller: Slimmed) -> dict[str, Any]:
    slim_cost, dense_cost = smaller.cost.as_dict(), smaller.dense.as_dict()
    return {
        metric: {"limit": limit, "dense": dense_cost[metric], "slim": slim_cost[metric]}
        for metric, limit in trained.limits.items()
    }


def _profile(recipe: Recipe, measured: dict[str, Measurement]) -> dict[str, Any]:
    rows = list(measured.values())
    return {
        "board": rows[0].board if rows else "not measured",
        "threads": recipe.profile.threads,
        "runtimes": {r.runtime.rpartition(" ")[0]: r.runtime.rpartition(" ")[2] for r in rows},
    }


def _versions(artifacts: dict[str, list[Artifact]]) -> dict[str, str]:
    versions = {"edgel0": __version__, "numpy": np.__version__, "torch": str(torch.__version__)}
    for artifact in artifacts["slim"]:
        sidecar = json.loads(artifact.path.with_name(f"{artifact.path.name}.json").read_text(encoding="utf-8"))
        versions |= sidecar["versions"]
    return dict(sorted(versions.items()))


# The folder.


@contextlib.contextmanager
def staging(out: Path, name: str, fresh: bool) -> Iterator[Path]:
    """Yield the working folder of a run, alone in it; what a killed run left is mended first.

    Raises:
        DeviceError: the folder cannot be written, the disk is full, or another run of that name is under way.
    """
    work, final, former = out / f".{name}.partial", out / name, out / f".{name}.former"
    try:
        out.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
        with _alone(work / "lock", name):
            if former.exists() and not final.exists():  # killed between the two renames of publish()
                former.rename(final)
            shutil.rmtree(former, ignore_errors=True)
            for left in work.iterdir():
                if left.name != "lock" and (fresh or left.name != CHECKPOINT):
                    left.unlink()
            yield work
    except DeviceError:
        raise
    except OSError as error:
        raise DeviceError(
            f"{error.filename or out} cannot be written: {error.strerror or error}; make room there or give another "
            "folder with --out. The former results, if any, are untouched."
        ) from error


@contextlib.contextmanager
def _alone(file: Path, name: str) -> Iterator[None]:
    """Hold a lock that the system lets go of when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock, the last run wins
        yield
        return
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DeviceError(
                f"another run of {name!r} is under way in {file.parent.parent}; wait for it, or give another folder "
                "with --out."
            ) from error
        yield


def publish(out: Path, name: str, work: Path) -> Path:
    """Put the finished folder in the place of the former one."""
    final, former = out / name, out / f".{name}.former"
    for left in (work / CHECKPOINT, work / "lock"):
        left.unlink(missing_ok=True)
    if final.exists():
        final.rename(former)
    work.rename(final)
    shutil.rmtree(former, ignore_errors=True)
    return final


def _write(path: Path, text: str) -> None:
    """Write beside, then rename."""
    beside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
