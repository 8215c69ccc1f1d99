"""What can be done from a terminal? One function per verb; what a verb needs is imported inside it.

Exit codes: 0 fine, 1 a budget is exceeded, 2 wrong use or configuration, 3 environment or device failed, 4 artefacts
disagree, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edgel0 import __version__
from edgel0.errors import EdgeL0Error, UsageError

app = typer.Typer(
    name="edgel0",
    help="From a PyTorch model and a budget to a smaller, verified, measured edge artefact.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130


def _console(stderr: bool = False) -> Console:
    """Make a console, of 80 columns when its output goes to a file, that prints names as they are."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else 80)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgel0 {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Give every verb the same root."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (TOML).")],
    data: Annotated[Path | None, typer.Option(help="Data file, handed to the recipe's load function.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of results; NAME is made in it.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever checkpoint there is.")] = False,
) -> None:
    """Train to the budget, slim, export, measure and check: the whole way, as a recipe says."""
    from edgel0.recipe import read_recipe

    asked = read_recipe(recipe)
    from edgel0.errors import need

    need("torch", "train")
    from edgel0.checks.formats import FORMATS
    from edgel0.checks.verdict import exit_code
    from edgel0.heap import keep
    from edgel0.report.progress import Watch
    from edgel0.report.text import summary
    from edgel0.running import run as run_recipe

    keep()
    console = _console()
    with Watch(console) as watch:
        outcome = run_recipe(asked, out=out, data_path=data, fresh=fresh, progress=watch.tick, say=watch.say)
    console.print(summary(outcome.result))
    if outcome.verdicts:
        console.print()
        console.print(FORMATS["text"](outcome.verdicts))
    console.print(f"results in {outcome.folder}", soft_wrap=True)
    raise typer.Exit(exit_code(outcome.verdicts) if outcome.verdicts else 0)


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="PATH:OBJECT", help="my_model.py:build or module:object; a module, its class, or a function."
        ),
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SHAPE[:DTYPE[:BELOW]]",
            help="An input of the model; repeat for several, in order or by name. 1x3x224x224 is random floats, "
            "1x12:int64 zeros, 1x12:int64:99 random ids below 99. Default: what a function returns as (module, "
            "example), else 1x3x224x224.",
        ),
    ] = None,
    all_groups: Annotated[bool, typer.Option("--all", help="List every group, not stages.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: pydoc edgel0.inspecting.examine explains it.")
    ] = False,
) -> None:
    """Show what can be removed from a model, what is pinned, and why."""
    from edgel0.errors import need

    console = _console(stderr=True)
    # What the user's own code prints is no part of the answer.
    with console.status("importing") as status, contextlib.redirect_stdout(sys.stderr):
        need("torch", "train")
        from edgel0.inspecting import examine, example_of, model_of
        from edgel0.report.text import inspection

        made, example = model_of(model, Path())
        status.update("tracing")
        default = input is None and example is None
        try:
            found = examine(made, example_of(input or ["1x3x224x224"], made) if input or default else example)
        except UsageError as error:
            if not default or "does not run on the example" not in str(error):
                raise
            told = "No --input was given, and 1x3x224x224 was tried; give the shape that the model takes."
            raise UsageError(f"{error} {told}") from error
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _console().print(inspection(found, groups=all_groups))


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A .pt2, or PATH:OBJECT as for inspect, which is written as it is."),
    ],
    files: Annotated[list[Path] | None, typer.Argument(help="Files to write: .onnx, .tflite or .pt2.")] = None,
    to: Annotated[str, typer.Option(help="Formats, as in onnx,tflite: files named after the model, here.")] = "",
    quantize: Annotated[
        str, typer.Option(help="float32, float16, weight_only_wi8_afp32, dynamic_wi8_afp32 or static_wi8_ai8.")
    ] = "float32",
    layout: Annotated[str, typer.Option(help="nchw, or nhwc for channels-last inputs (TFLite).")] = "nchw",
    calibrate: Annotated[
        Path | None, typer.Option(help=".npy or .npz of real samples: ranges of activations, and what is compared.")
    ] = None,
    verify: Annotated[int, typer.Option(min=1, help="Samples of them on which each file is compared.")] = 100,
    input: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]SHAPE[:DTYPE[:BELOW]]", help="An input, as for inspect.")
    ] = None,
) -> None:
    """Write a model in other formats and precisions, each proven equal in its own runtime."""
    from edgel0.errors import need

    need("torch", "train")
    from edgel0.exporters.calibration import read_samples, spread_out
    from edgel0.exporters.writing import export as write

    console = _console()
    with console.status(f"reading {model}"), contextlib.redirect_stdout(sys.stderr):
        slimmed, name = _program(model, input)
    suffix = "" if quantize == "float32" else f".{quantize}"
    targets = [*(files or []), *(Path(f"{name}{suffix}.{kind.strip().lstrip('.')}") for kind in to.split(",") if kind)]
    if not targets:
        raise UsageError("there is no file to write; name some (model.onnx), or formats: --to onnx,tflite.")
    samples = None if calibrate is None else read_samples(calibrate, slimmed.program)
    for file in targets:
        with console.status(f"exporting {file.name}") as status:
            artifact = write(
                slimmed,
                file,
                inputs=samples and spread_out(samples, verify),
                layout=layout if file.suffix == ".tflite" else "nchw",
                precision=quantize,
                calibrate=samples,
                progress=status.update,
            )
        parity = artifact.parity
        within = f", within {parity.max_abs:.1e} on {parity.samples} samples" if parity else ""
        console.print(f"{file}: {artifact.bytes:,} B ({artifact.bytes / 1024:.1f} KiB){within}", soft_wrap=True)


def _program(model: str, input: list[str] | None) -> tuple[Any, str]:
    """Return the program that a .pt2 holds, or that of a module as it is, and a name for files made of it."""
    if Path(model).suffix in (".onnx", ".tflite"):
        raise UsageError(f"{model} is a finished file, which edgel0 measures (profile) and checks; export the model.")
    if ":" not in model:
        from edgel0.exporters.loading import load

        return load(model), Path(model).stem
    import numpy as np

    from edgel0.inspecting import example_of, model_of
    from edgel0.slimming import slim
    from edgel0.tracing import trace
    from edgel0.types import Masks

    made, example = model_of(model, Path())
    if input or example is None:
        example = example_of(input or ["1x3x224x224"], made)
    coupling = trace(made.eval(), example)
    return slim(made, Masks(coupling, np.ones(coupling.units + 1, bool), "dense")), model.rpartition(":")[2]


@app.command()
def profile(
    files: Annotated[list[Path], typer.Argument(help="ONNX and TFLite files; all are measured in turn, in one run.")],
    threads: Annotated[int, typer.Option(min=1)] = 1,
    num_runs: Annotated[int, typer.Option(min=1, help="At least so many runs of each.")] = 50,
    min_secs: Annotated[float, typer.Option(min=0, help="At least so many seconds of each.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, raw samples included.")] = False,
    on: Annotated[
        str, typer.Option(help="Boards: local, ssh://USER@HOST, adb[:SERIAL] or NAME of devices/NAME.toml; a,b,c.")
    ] = "local",
    max_secs: Annotated[float, typer.Option(min=0, help="At most so many seconds of each.")] = 150.0,
) -> None:
    """Measure files on this computer or on boards, interleaved."""
    import dataclasses

    from edgel0.devices.boards import find_board
    from edgel0.devices.profiling import Failure
    from edgel0.devices.profiling import profile as profile_on
    from edgel0.report.text import measurements

    boards = [find_board(name) for name in dict.fromkeys(on.split(","))]
    console = _console(stderr=as_json)
    with console.status("measuring") as status:
        found = profile_on(
            boards,
            files,
            threads=threads,
            num_runs=num_runs,
            min_secs=min_secs,
            max_secs=max_secs,
            progress=lambda what, done: status.update(f"{what} {done:.0%}"),
        )
    failures = [row for row in found if isinstance(row, Failure)]
    rows = [row for row in found if not isinstance(row, Failure)]
    if as_json:
        told = [{"board": row.board, "artifact": row.artifact, "error": str(row.error)} for row in failures]
        measured = [dataclasses.asdict(row) for row in rows]
        typer.echo(json.dumps({"schema": 1, "measurements": measured, "failures": told}))
    else:
        for name in dict.fromkeys(row.board for row in rows):
            console.print(measurements([row for row in rows if row.board == name]))
    for row in failures:
        where = f"{row.artifact}: " if row.artifact else ""
        _console(stderr=True).print(f"edgel0: {where}{row.error}", style="red", soft_wrap=True)
    if failures:
        raise typer.Exit(max(row.error.exit_code for row in failures))


@app.command()
def check(
    config: Annotated[
        Path | None, typer.Argument(help="TOML with [[budget]]; default edgel0.toml or pyproject.toml.")
    ] = None,
    format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Compare artefacts with their budgets; exit with 1 when one is exceeded."""
    from edgel0.checks.config import find_config, read_limits
    from edgel0.checks.formats import FORMATS
    from edgel0.checks.verdict import check as verdicts_on
    from edgel0.checks.verdict import exit_code
    from edgel0.errors import nearest

    if format not in FORMATS:
        raise UsageError(f"--format {format!r} is not known; known are {', '.join(FORMATS)}{nearest(format, FORMATS)}.")
    path = config or find_config(Path.cwd())
    strict = path.name in ("edgel0.toml", "pyproject.toml")
    verdicts = verdicts_on(read_limits(path, strict=strict))
    shown: Any = FORMATS[format](verdicts)
    if isinstance(shown, str):
        typer.echo(shown)
    else:
        _console().print(shown)
    raise typer.Exit(exit_code(verdicts))


def main() -> None:
    """Run the command line; a known failure is one paragraph on stderr and its exit code."""
    try:
        app(prog_name="edgel0")
    except EdgeL0Error as error:
        _console(stderr=True).print(f"edgel0: {error}", style="red", soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns an interrupt within a verb into its exit code
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        text = "edgel0: interrupted; a run goes on from its last checkpoint when started again."
        _console(stderr=True).print(text, soft_wrap=True)
        raise SystemExit(INTERRUPTED) from None
