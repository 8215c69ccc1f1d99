"""Which files does a run write, and what if integers cost one of them too much? Each is proven, or trained on first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgel0.errors import ParityError
from edgel0.exporters.calibration import spread_out
from edgel0.exporters.parity import accuracy
from edgel0.exporters.precision import PRECISIONS
from edgel0.exporters.runtimes import arrays
from edgel0.exporters.writing import export
from edgel0.recipe import Recipe
from edgel0.retraining import retrained
from edgel0.samples import Data
from edgel0.training import Trained
from edgel0.types import Artifact, Slimmed

Say = Callable[[str], None]
Reference = Callable[..., Any]
Trial = tuple[Slimmed, Reference, float | None, str | tuple[str, ...]]  # the last two: max_drop, keep_float


@dataclass(frozen=True)
class Delivery:
    """What all files of a run have in common; ``programs`` and ``references`` are those of "dense" and "slim"."""

    recipe: Recipe
    trained: Trained
    programs: Mapping[str, Slimmed]
    references: Mapping[str, nn.Module]
    data: Data
    work: Path
    say: Say
    hint: Say

    @property
    def samples(self) -> list[tuple[torch.Tensor]]:
        """What files are compared on: the first test samples."""
        return [(x.unsqueeze(0),) for x in self.data.x_test[: self.recipe.export.verify]]

    @property
    def labels(self) -> list[int]:
        """The classes of those samples."""
        found: list[int] = self.data.y_test[: self.recipe.export.verify].tolist()
        return found


def deliver(run: Delivery) -> dict[str, list[Artifact]]:
    """Write all files of a run, "dense", "slim" and "quantized"; each is right, or nothing of its name is there."""
    settings = run.recipe.export
    artifacts: dict[str, list[Artifact]] = {"dense": [], "slim": [], "quantized": []}
    for which in run.programs:
        for kind in settings.formats:
            run.say(f"exporting {which}.{kind}")
            artifacts[which].append(_write(run, f"{which}.{kind}", "float32", *_asked(run, which)))
    again = cache(partial(_trained_on, run))
    for name, precision in settings.quantized():
        run.say(f"exporting {name}")
        artifacts["quantized"].append(_quantized(run, name, precision, again))
    return artifacts


def _why(error: ParityError) -> str:
    """Return what was found, without the file that is kept of it, which is about to be replaced."""
    found = str(error).partition(" is not written: ")[2] or str(error)
    return found.partition(";")[0].partition(". ")[0]


def _asked(run: Delivery, which: str) -> tuple[Slimmed, Reference]:
    """Return a program and what its files must be equal to, under the name that reports have for it."""
    model = run.references[which]
    return run.programs[which], _named(model, "the masked model" if which == "slim" else "the dense model")


def _quantized(run: Delivery, name: str, precision: str, again: Callable[[], Trial]) -> Artifact:
    """Write a file of the slim network in fewer bits; the first trial that loses no more than is allowed."""
    failed: ParityError | None = None
    for trial in _trials(run, PRECISIONS[precision].calibrated, again):
        if failed:
            run.say(f"{name} loses too much: {_why(failed)}")
            run.work.joinpath(f"{name}.rejected").unlink(missing_ok=True)
        program, reference, most, keep = trial()
        try:
            return _write(run, name, precision, program, reference, most=most, keep=keep)
        except ParityError as error:
            failed = error
    assert failed
    raise failed


def _trials(run: Delivery, integer: bool, again: Callable[[], Trial]) -> Iterator[Callable[[], Trial]]:
    """Yield what to try in turn: as it is, trained on with the rounding of integers, with layers in float32."""
    settings = run.recipe.export
    most = settings.max_accuracy_drop if settings.max_accuracy_drop < 1 else None
    program, reference = _asked(run, "slim")
    if integer and most is not None and settings.qat_epochs:
        yield lambda: (program, reference, most, settings.keep_float)
        yield again
    yield lambda: (program, reference, most, settings.kept if integer else ())


def _trained_on(run: Delivery) -> Trial:
    """Train on with the rounding of integers; what that costs in float32 is part of what may be lost."""
    made = retrained(run.recipe, run.trained, run.programs["slim"], run.data, run.say)
    module, settings = made.program.module(check_guards=False), run.recipe.export
    before, after = (_score(run, answer) for answer in (run.references["slim"], module))
    if before - after > settings.max_accuracy_drop:
        run.say(f"that costs {before - after:.2%} of the answers in float32 already; lower export.qat_learning_rate")
    told = made.provenance["quantization_aware_training"] | {"float32_accuracy": after, "before": before}
    made = dataclasses.replace(made, provenance=made.provenance | {"quantization_aware_training": told})
    reference = _named(module, "the slim network, trained on with the rounding of integers")
    return made, reference, settings.max_accuracy_drop - (before - after), settings.kept


def _score(run: Delivery, answer: Reference) -> float:
    with torch.no_grad():
        return accuracy([arrays(answer(*sample)) for sample in run.samples], run.labels)


def _write(
    run: Delivery,
    name: str,
    precision: str,
    program: Slimmed,
    reference: Reference,
    *,
    most: float | None = None,
    keep: str | tuple[str, ...] = (),
) -> Artifact:
    """Export one file."""
    recipe, data, which = run.recipe, run.data, name.partition(".")[0]
    chosen = spread_out(list(range(len(data.x_train))), recipe.export.calibrate)
    elsewhere = [] if name.endswith((".pt2", ".pte")) else recipe.export.interpreters
    return export(
        program,
        run.work / name,
        reference=reference,
        inputs=run.samples,
        labels=run.labels,
        calibrate=[(data.x_train[at].unsqueeze(0),) for at in chosen],
        calibrate_labels=data.y_train[chosen].tolist(),
        precision=precision,
        max_drop=most,
        keep_float=keep,
        interpreters=[_python(recipe, each) for each in elsewhere],
        progress=run.hint,
        layout=recipe.export.layout if name.endswith(".tflite") else "nchw",
        provenance={
            "data": data.digest,
            "recipe": recipe.name,
            "dense_cost": program.dense.as_dict(),
            **({"budget": run.trained.limits.spent(run.trained.masks)} if which == "slim" else {}),
        },
    )


def _python(recipe: Recipe, interpreter: str) -> str:
    """Return another Python's path, which is relative to the recipe; a bare name is looked up by the system."""
    return str(recipe.path.parent / interpreter) if "/" in interpreter else interpreter


def _named(model: Reference, name: str) -> Reference:
    def reference(*args: Any) -> Any:
        return model(*args)

    reference.__name__ = name
    return reference
