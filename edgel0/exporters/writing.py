"""How does a file earn its name? It is written beside it, run, compared with the model, and only then renamed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgel0.errors import DeviceError, ParityError, UsageError, nearest
from edgel0.exporters.differing import INSIDE, first_difference
from edgel0.exporters.elsewhere import MODULES, answers_in
from edgel0.exporters.executorch_file import open_pte, write_pte
from edgel0.exporters.foreign import foreign, silently
from edgel0.exporters.keeping import Judge
from edgel0.exporters.onnx import write_onnx
from edgel0.exporters.order import Order
from edgel0.exporters.parity import Arrays, accuracy, check_drop, compare
from edgel0.exporters.precision import Precision, precision_of
from edgel0.exporters.runtimes import Runtime, arrays, open_onnx, open_pt2, open_tflite
from edgel0.exporters.signature import example, example_like, leaves, signature
from edgel0.exporters.tflite import write_tflite
from edgel0.exporters.torch_file import write_pt2
from edgel0.files.counting import figures
from edgel0.files.reading import READERS, read
from edgel0.types import Artifact, Slimmed, TensorInfo

RANDOM_SAMPLES = 2
LOOKED_INTO = 8  # samples that are searched for the layer in which a file first differs
COUNTED = ("macs", "params", "weight_bytes", "activation_bytes", "operators", "transposes")


@dataclass(frozen=True)
class Exporter:
    """One file format: its name, how it is written and run, and the libraries whose versions matter to it."""

    format: str
    write: Callable[[ExportedProgram, Path, Order], dict[str, Any]]
    open: Callable[..., Runtime]
    libraries: tuple[str, ...]


def export(
    slim: Slimmed,
    path: str | Path,
    *,
    reference: Callable[..., Any] | None = None,
    inputs: Sequence[tuple[Any, ...]] | None = None,
    layout: str = "nchw",
    precision: str = "float32",
    calibrate: Sequence[tuple[Any, ...]] | None = None,
    labels: Sequence[int] | None = None,
    calibrate_labels: Sequence[int] | None = None,
    tolerance: float | None = None,
    max_drop: float | None = None,
    keep_float: str | Sequence[str] = (),
    sensitivity: bool = False,
    dynamic_batch: bool = False,
    interpreters: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Write a slimmed program as the file that ``path``'s suffix names, proven equal to ``reference``.

    ``reference`` (the masked model, say; by default the program itself) and the file answer the same ``inputs``:
    samples shaped like the program's example; by default the example and two random ones. No output may differ by
    more than ``tolerance``, a share of its largest value (float32: of 1 at least, and 1e-5 by default; see
    :data:`~edgel0.exporters.precision.PRECISIONS` for the others). ``layout="nhwc"`` gives a TFLite file with
    channels-last inputs. ``precision`` is one of those; with integer activations it needs samples of real data to
    ``calibrate`` their ranges on. ``labels``, a class per sample of ``inputs``, add the file's accuracy, which may be
    lower than the reference's by ``max_drop``; without labels so large a share of samples may have another largest
    output. ``keep_float`` leaves layers of such a file in float32: patterns of their names or kinds, or "auto" for the
    fewest, the most sensitive first, that keep ``max_drop`` on the samples of ``calibrate``, whose classes are
    ``calibrate_labels`` where they are known. ``sensitivity`` has each
    layer's written into the file. ``dynamic_batch`` makes the first axis of an ONNX file's inputs and outputs one of
    any size; the other formats take one sample at a time. The runtimes of other Python ``interpreters`` must answer
    alike. Beside the file stands ``<path>.json`` with its digest, inputs, outputs, cost, parity, provenance, the
    versions used and what is counted in the file itself.

    Raises :class:`~edgel0.errors.ParityError` when the file disagrees (it is kept as ``<path>.rejected``),
    :class:`~edgel0.errors.UsageError` when it cannot be converted, :class:`~edgel0.errors.DeviceError` when it cannot
    be stored or run. Whatever fails, an older file of that name stays as it was.
    """
    target, say = Path(path), progress or (lambda text: None)
    row, asked = _row(target), precision_of(precision)
    log = target.with_name(f"{target.name}.log")
    samples = _samples(slim.program, inputs)
    if (keep_float or sensitivity) and not asked.calibrated:
        raise UsageError(
            f"layers of a {precision} file are float32 in computation already; keep_float and sensitivity are for "
            "precisions with integer activations, such as static_wi8_ai8."
        )
    if isinstance(keep_float, str) and keep_float not in ("", "auto"):
        raise UsageError(f"keep_float is {keep_float!r}; give 'auto', or a list of patterns of layers.")
    if keep_float == "auto" and max_drop is None:
        raise UsageError("keep_float='auto' needs to know how much may be lost; give max_drop, such as 0.01.")
    if interpreters and row.format not in MODULES:
        raise UsageError(
            f"other interpreters have runtimes for .onnx and .tflite alone; leave them out for {target.name!r}."
        )
    if asked.calibrated and not calibrate:
        raise UsageError(
            f"{precision} has integer activations, whose ranges come from data, and there is none to calibrate on; "
            "give some tens of real samples (calibrate=..., --calibrate), or choose a precision with float activations."
        )
    observed = _samples(slim.program, calibrate) if asked.calibrated else []
    allowed = asked.tolerance if tolerance is None else tolerance
    given = _plain({**_known(slim, row), **slim.provenance, **(provenance or {})})

    name = "the program in torch" if reference is None else getattr(reference, "__name__", type(reference).__name__)
    model = slim.program.module() if reference is None else reference
    with torch.no_grad():
        expected = [arrays(model(*sample)) for sample in samples]

    judged = keep_float or sensitivity
    judge = _judge(slim.program, row, layout, observed, calibrate_labels, max_drop) if judged else None
    with _beside(target) as partial:
        say(f"writing {target.name}")
        order = Order(
            provenance=given,
            log=log,
            layout=layout,
            precision=precision,
            samples=[leaves(sample) for sample in observed],
            keep=keep_float if isinstance(keep_float, str) else tuple(keep_float),
            judge=judge,
            ranking=sensitivity,
            batch=dynamic_batch,
            say=lambda text: say(f"writing {target.name}: {text}"),
        )
        carried = row.write(slim.program, partial, order)
        say(f"running {target.name} on {len(samples)} samples")
        with foreign("the runtime", log, DeviceError):
            runtime = row.open(partial, layout)
            found = [runtime.run(leaves(sample)) for sample in samples]
        names = signature(slim.program).outputs
        with _rejecting(partial, target, model, lambda: _where(slim.program, row, partial, layout, samples, asked)):
            parity = compare(
                expected,
                found,
                names=names,
                reference=name,
                runtime=runtime.name,
                tolerance=allowed,
                floor=asked.floor,
            )
            others = tuple(
                compare(
                    expected,
                    answered.found,
                    names=names,
                    reference=name,
                    runtime=answered.runtime,
                    tolerance=allowed,
                    floor=asked.floor,
                )
                for python in interpreters
                for answered in [answers_in(python, partial, row.format, layout, [leaves(s) for s in samples])]
            )
            if labels is not None:
                parity = dataclasses.replace(parity, accuracy=accuracy(found, labels))
            if max_drop is not None:
                check_drop(expected, found, labels, max_drop)
        content = partial.read_bytes()
        artifact = Artifact(
            path=target,
            format=row.format,
            precision=precision,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            inputs=runtime.inputs,
            outputs=runtime.outputs,
            cost=slim.cost,
            parity=parity,
            elsewhere=others,
            provenance=carried,
        )
        with _beside(target.with_name(f"{target.name}.json")) as sidecar:
            text = json.dumps(_sidecar(artifact, slim, layout, row.libraries, _counted(partial)), indent=2)
            sidecar.write_text(text + "\n", encoding="utf-8")
            partial.replace(target)
            sidecar.replace(f"{target}.json")
    say(f"{target.name} is equal within {parity.max_abs:.1e}: {artifact.bytes:,} B ({artifact.bytes / 1024:.1f} KiB)")
    return artifact


def _judge(
    program: ExportedProgram,
    row: Exporter,
    layout: str,
    samples: Sequence[tuple[Any, ...]],
    labels: Sequence[int] | None,
    allowed: float | None,
) -> Judge:
    """Return who decides how much of an integer file stays in float32: the program's own answers."""
    module = program.module(check_guards=False)
    with torch.no_grad():
        expected = [arrays(module(*sample)) for sample in samples]

    def run(content: bytes, count: int) -> list[Arrays]:
        runtime = row.open(content, layout)
        return [runtime.run(leaves(sample)) for sample in samples[:count]]

    return Judge(run, expected, math.inf if allowed is None else allowed, labels)


def _where(
    program: ExportedProgram,
    row: Exporter,
    partial: Path,
    layout: str,
    samples: Sequence[tuple[Any, ...]],
    asked: Precision,
) -> str:
    """Say in which layer a file first differs from its program, on the first sample where it does."""
    if row.format not in INSIDE:
        return ""
    content = partial.read_bytes()
    for sample in samples[:LOOKED_INTO]:
        with contextlib.suppress(RuntimeError, ValueError), silently():  # a runtime that cannot show what is inside
            inside = INSIDE[row.format](content, leaves(sample), layout)
            layer = first_difference(program, leaves(sample), inside, asked.tolerance, asked.floor)
            if layer is not None:
                return f" It first differs from its program in {layer}."
    return " Inside it is what its program is: the reference is another model, or the difference is below a tolerance."


def _row(target: Path) -> Exporter:
    known = ", ".join(EXPORTERS)
    if target.suffix not in EXPORTERS:
        raise UsageError(
            f"{target.name!r} ends in {target.suffix!r}; the suffix names the format and must be one of {known}"
            f"{nearest(target.suffix, EXPORTERS)}."
        )
    return EXPORTERS[target.suffix]


def _known(slim: Slimmed, row: Exporter) -> dict[str, Any]:
    """Return what a file that no torch will open should tell of itself: its figures and what wrote it."""
    if row.format == "pt2":
        return {}
    return {"cost": slim.cost.as_dict(), "dense_cost": slim.dense.as_dict(), "versions": _versions(row.libraries)}


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in sorted(libraries):
        with contextlib.suppress(PackageNotFoundError):  # the writer names the extra
            found[name] = version(name)
    return found


def _counted(path: Path) -> dict[str, int | None] | None:
    """Count the finished file itself: what its runtime will see, where :attr:`Slimmed.cost` is the program's."""
    if path.suffix not in READERS:
        return None
    try:
        found = figures(read(path))
    except UsageError:  # it has just answered in its runtime: what our reader does not know is no fault of the file
        return None
    return {name: getattr(found, name) for name in COUNTED}


def _samples(program: ExportedProgram, inputs: Sequence[tuple[Any, ...]] | None) -> list[tuple[Any, ...]]:
    """Return the given samples, checked against the program's example, or the example and random ones like it."""
    flat = example(program)
    traced: tuple[Any, ...] = program.example_inputs[0]
    if inputs is None:
        generator = torch.Generator().manual_seed(0)
        draws = [example_like(flat, generator) for _ in range(RANDOM_SAMPLES)]
        spec = pytree.tree_structure(traced)
        return [traced, *(pytree.tree_unflatten(draw, spec) for draw in draws)]
    wanted = [(tuple(tensor.shape), tensor.dtype) for tensor in flat]
    for number, sample in enumerate(inputs):
        got = [(tuple(tensor.shape), tensor.dtype) for tensor in leaves(sample)]
        if not isinstance(sample, tuple) or got != wanted:
            raise UsageError(f"sample {number} of inputs holds {got}; the program takes a tuple of {wanted}.")
    if not inputs:
        raise UsageError("inputs is empty; give at least one sample, or leave it out for random ones.")
    return list(inputs)


def _plain(provenance: dict[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(provenance, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the provenance must be plain JSON values ({error}); turn it into numbers and text."
        ) from error
    return plain


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder, proven writable; nothing is left of it, however this ends."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}{target.suffix}")
    try:
        partial.touch()
        yield partial
    except DeviceError:
        raise
    except OSError as error:
        raise DeviceError(
            f"{target} cannot be written: {error.strerror or error}; give a folder that exists, is writable and has "
            "room. What stood there before is untouched."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _rejecting(partial: Path, target: Path, model: Callable[..., Any], where: Callable[[], str]) -> Iterator[None]:
    """Keep a file that disagrees as ``<target>.rejected`` and say so, and in which layer it begins."""
    try:
        yield
    except ParityError as error:
        told = where()
        partial.replace(f"{target}.rejected")
        # A traced module always claims to be in training mode.
        training = getattr(model, "training", False) and not isinstance(model, torch.fx.GraphModule)
        hint = " The reference is in training mode: call its eval() first." if training else ""
        raise ParityError(
            f"{target} is not written: {error}{told}{hint} The file is kept as {target}.rejected."
        ) from error


def _sidecar(
    artifact: Artifact, slim: Slimmed, layout: str, libraries: Sequence[str], counted: dict[str, int | None] | None
) -> dict[str, Any]:
    return {
        "schema": 1,
        "file": artifact.path.name,
        "sha256": artifact.sha256,
        "bytes": artifact.bytes,
        "format": artifact.format,
        "precision": artifact.precision,
        "layout": layout,
        "inputs": [_described(info) for info in artifact.inputs],
        "outputs": [_described(info) for info in artifact.outputs],
        "cost": slim.cost.as_dict(),
        "dense_cost": slim.dense.as_dict(),
        "parity": artifact.parity and dataclasses.asdict(artifact.parity),
        "elsewhere": [dataclasses.asdict(row) for row in artifact.elsewhere],
        "provenance": artifact.provenance,
        "counted": counted,
        "versions": _versions(libraries),
    }


def _described(info: TensorInfo) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(info).items() if value is not None}


EXPORTERS = {
    ".onnx": Exporter(
        "onnx", write_onnx, open_onnx, ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime")
    ),
    ".tflite": Exporter(
        "tflite",
        write_tflite,
        open_tflite,
        ("torch", "litert-torch", "litert-converter", "ai-edge-litert", "ai-edge-quantizer"),
    ),
    ".pt2": Exporter("pt2", write_pt2, open_pt2, ("torch",)),
    ".pte": Exporter("pte", write_pte, open_pte, ("torch", "executorch")),
}
