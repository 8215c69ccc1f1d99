"""How does a recipe become a folder of results? Train, slim, export, measure, check; published in one rename."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgel0.checks.config import read_limits
from edgel0.checks.verdict import check
from edgel0.delivering import Delivery, deliver
from edgel0.devices.measure import measure
from edgel0.errors import ExtraError, ParityError, RecipeError, need
from edgel0.exporters.parity import compare
from edgel0.exporters.runtimes import arrays
from edgel0.masks import masked
from edgel0.recipe import Recipe
from edgel0.report.figures import draw
from edgel0.report.page import page
from edgel0.report.reading import read_run
from edgel0.results import RUNTIME_NAMES, as_json, result_of, samples_of, timed
from edgel0.samples import Data, accuracy, as_data, check_fit
from edgel0.slimming import slim
from edgel0.staging import REPORT, RESULT, SAMPLES, TIMINGS, publish, staging, write
from edgel0.training import Tick, Trained, train
from edgel0.types import Artifact, Masks, Measurement, Parity, Slimmed, Verdict

NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime", "onnxsim"),
    "tflite": ("litert_torch", "ai_edge_litert"),
    "pt2": (),
    "pte": ("executorch",),
}


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
    hint: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Run a recipe; the results are in ``out/NAME`` when it returns, and nothing of them before.

    An interrupted run leaves its checkpoint in ``out/.NAME.partial`` and the former results where they were; the same
    recipe, model, data and version go on from it unless ``fresh``. ``data_path`` is handed to the recipe's ``load``.
    """
    for kind in recipe.export.formats:
        for module in NEEDS[kind]:
            if not _installed(module):
                need(module, kind)
    torch.set_num_threads(recipe.train.threads)
    with staging(Path(out), recipe.name, fresh) as work:
        data = load_data(recipe, data_path)
        model = build_model(recipe)
        check_fit(model, data, recipe.path.parent)
        trained = train(recipe, model, data, work, progress, say)
        result, verdicts = finish(recipe, trained, data, work, say, hint)
        folder = publish(Path(out), recipe.name)
        write(folder / REPORT, page(read_run(folder)).encode())  # last: results never wait for what is drawn of them
    return Outcome(folder, result, verdicts)


def load_data(recipe: Recipe, path: str | Path | None) -> Data:
    """Call the recipe's ``load`` with the path given on the command line, if any."""
    load = recipe.function(recipe.load)
    if path is not None and not Path(path).exists():
        raise RecipeError(f"there is no data file {str(path)!r}; correct --data, or leave it out for the recipe's own.")
    _seed(recipe.seed)
    return as_data(load() if path is None else load(str(path)))


def build_model(recipe: Recipe) -> nn.Module:
    """Call the recipe's ``build``."""
    build = recipe.function(recipe.build)
    _seed(recipe.seed)
    model = build()
    if not isinstance(model, nn.Module):
        raise RecipeError(f"{recipe.build!r} returned {type(model).__name__}; it must return a torch.nn.Module.")
    return model


def _seed(seed: int) -> None:
    """Seed whatever a recipe's functions may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _installed(module: str) -> bool:
    """Tell whether a library is there, without the seconds that importing some of them takes."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def finish(
    recipe: Recipe,
    trained: Trained,
    data: Data,
    work: Path,
    say: Callable[[str], None],
    hint: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], tuple[Verdict, ...]]:
    """Slim, export, measure and check what was trained; write everything into ``work``."""
    say("slimming")
    everything = Masks(trained.masks.coupling, np.ones_like(trained.masks.open), "dense")
    programs = {"dense": slim(trained.dense, everything), "slim": slim(trained.model, trained.masks)}
    references = {"dense": trained.dense.eval(), "slim": masked(trained.model, trained.masks).eval()}
    delivery = Delivery(recipe, trained, programs, references, data, work, say, hint)
    parity = {"slim program": program_parity(programs["slim"], references["slim"], delivery.samples)}
    artifacts = deliver(delivery)
    for artifact in (each for group in artifacts.values() for each in group):
        if artifact.parity is not None:
            parity[artifact.path.name] = artifact.parity
        parity |= {f"{artifact.path.name} in {row.runtime}": row for row in artifact.elsewhere}
    measured = _measured(recipe, artifacts, say)
    scores = {
        "dense": accuracy(trained.dense, data.x_test, data.y_test),
        "slim": program_accuracy(programs["slim"], data),
    }
    result = result_of(recipe, trained, data, programs, scores, artifacts, parity, measured)
    write(work / "recipe.toml", recipe.text.encode())
    write(work / RESULT, as_json(result))
    write(work / TIMINGS, as_json({"epochs": list(trained.timings)}))
    if measured:
        write(work / SAMPLES, json.dumps(samples_of(measured), separators=(",", ":")).encode())
    if _installed("matplotlib"):
        say("drawing")
        with contextlib.suppress(ExtraError):  # a Matplotlib that does not import costs no results
            draw(result, work)
    verdicts = check(read_limits(work / "recipe.toml", strict=False)) if recipe.budgets else []
    # checked in the working folder, told by the place that the user knows
    known = {"config": str(recipe.path)}
    named = [dataclasses.replace(v.limit, qualifiers=v.limit.qualifiers | known) for v in verdicts]
    return result, tuple(dataclasses.replace(v, limit=own) for v, own in zip(verdicts, named, strict=True))


def program_accuracy(slimmed: Slimmed, data: Data) -> float:
    """Share of right top-1 answers of the program itself, one sample at a time, as it was traced."""
    module = slimmed.program.module(check_guards=False)
    pairs = zip(data.x_test, data.y_test.tolist(), strict=True)
    with torch.no_grad():
        right = sum(int(module(x.unsqueeze(0)).argmax(1).item() == y) for x, y in pairs)
    return right / len(data.y_test)


def program_parity(slimmed: Slimmed, reference: nn.Module, samples: list[tuple[torch.Tensor]]) -> Parity:
    """Compare the slimmed program with the masked model, which is in eval mode."""
    module = slimmed.program.module(check_guards=False)
    with torch.no_grad():
        expected = [arrays(reference(*sample)) for sample in samples]
        found = [arrays(module(*sample)) for sample in samples]
    name, runtime = "the masked model", f"torch {torch.__version__}"
    try:
        return compare(expected, found, names=("output",), reference=name, runtime=runtime, tolerance=1e-5)
    except ParityError as error:
        raise ParityError(
            f"the slimmed program is not the masked model: {error} This is a defect of edgel0."
        ) from error


def _measured(
    recipe: Recipe, artifacts: dict[str, list[Artifact]], say: Callable[[str], None]
) -> dict[str, Measurement]:
    """Measure each format's files interleaved, and note the figures in their sidecars."""
    found: dict[str, Measurement] = {}
    settings = recipe.profile
    every = [artifact for group in artifacts.values() for artifact in group]
    for suffix in dict.fromkeys(artifact.path.suffix for artifact in every):
        if suffix not in RUNTIME_NAMES:
            continue
        turns = [artifact for artifact in every if artifact.path.suffix == suffix]
        say(f"measuring {', '.join(artifact.path.name for artifact in turns)} in turn")
        rows = measure(turns, threads=settings.threads, num_runs=settings.num_runs, min_secs=settings.min_secs)
        for artifact, row in zip(turns, rows, strict=True):
            found[artifact.path.name] = row
            sidecar = artifact.path.with_name(f"{artifact.path.name}.json")
            entry = json.loads(sidecar.read_text(encoding="utf-8"))
            write(sidecar, as_json(entry | {"latency_ms": {row.runtime: timed(row)}}))
    return found
