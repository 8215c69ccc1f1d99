"""What can be done from a terminal? One function per verb; what a verb needs is imported inside it.

Exit codes: 0 fine, 1 a budget is exceeded, 2 wrong use or configuration, 3 environment or device failed, 4 artefacts
disagree, 130 interrupted (3 where measuring was: what it has by then is told, and what is missing is a failed row).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edgel0 import __version__
from edgel0.errors import DeviceError, EdgeL0Error, UsageError, printable

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


@contextlib.contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[[str, float | None], None]]:
    """Show on a terminal what is done, how much of it (None: unknown) and since when; names are shown as they are."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TimeElapsedColumn())
    shown = console.is_terminal
    with Progress(
        *columns, console=console, transient=True, disable=not shown, redirect_stderr=sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(what, total=None)

        def tell(what: str, done: float | None = None) -> None:
            total = None if done is None else 1.0
            bar.update(task, description=printable(what), completed=done or 0.0, total=total)

        yield tell


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
        outcome = run_recipe(
            asked, out=out, data_path=data, fresh=fresh, progress=watch.tick, say=watch.say, hint=watch.hint
        )
    console.print(summary(outcome.result))
    if outcome.verdicts:
        console.print()
        console.print(FORMATS["text"](outcome.verdicts))
    console.print(f"results in {outcome.folder}, to be looked at in report.html", soft_wrap=True)
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
    with _bar(console, "importing") as tell, contextlib.redirect_stdout(sys.stderr):
        need("torch", "train")
        from edgel0.inspecting import examine, example_of, model_of
        from edgel0.report.text import inspection

        made, example = model_of(model, Path())
        tell("tracing", None)
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
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of samples that may be answered differently, such as 0.01."),
    ] = None,
    keep_float: Annotated[
        str, typer.Option(help="Layers of an integer file that stay float32: auto, or patterns of names and kinds.")
    ] = "",
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Tell what each integer layer costs.")] = False,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="ONNX for any number of samples.")] = False,
    python: Annotated[
        list[str] | None, typer.Option(help="Another Python, whose runtime must answer alike; repeat for several.")
    ] = None,
) -> None:
    """Write a model in other formats and precisions, each proven equal in its own runtime."""
    from edgel0.errors import need

    need("torch", "train")
    from edgel0.exporters.calibration import read_samples, spread_out
    from edgel0.exporters.writing import export as write
    from edgel0.report.text import sensitivities

    console = _console()
    with _bar(console, f"reading {printable(model)}"), contextlib.redirect_stdout(sys.stderr):
        slimmed, name = _program(model, input)
    suffix = "" if quantize == "float32" else f".{quantize}"
    targets = [*(files or []), *(Path(f"{name}{suffix}.{kind.strip().lstrip('.')}") for kind in to.split(",") if kind)]
    if not targets:
        raise UsageError("there is no file to write; name some (model.onnx), or formats: --to onnx,tflite.")
    samples = None if calibrate is None else read_samples(calibrate, slimmed.program)
    for file in targets:
        with _bar(console, f"exporting {printable(file.name)}") as tell:
            artifact = write(
                slimmed,
                file,
                inputs=samples and spread_out(samples, verify),
                layout=layout if file.suffix == ".tflite" else "nchw",
                precision=quantize,
                calibrate=samples,
                max_drop=max_drop,
                keep_float=keep_float if keep_float in ("", "auto") else keep_float.split(","),
                sensitivity=sensitivity,
                dynamic_batch=dynamic_batch and file.suffix == ".onnx",
                interpreters=(python or []) if file.suffix in (".onnx", ".tflite") else [],
                progress=lambda text, tell=tell: tell(text, None),  # type: ignore[misc]
            )
        parity = artifact.parity
        within = f", within {parity.max_abs:.1e} on {parity.samples} samples" if parity else ""
        console.print(f"{file}: {artifact.bytes:,} B ({artifact.bytes / 1024:.1f} KiB){within}", soft_wrap=True)
        for row in artifact.elsewhere:
            console.print(f"{file}: within {row.max_abs:.1e} in {row.runtime}", soft_wrap=True)
        if dynamic_batch and file.suffix != ".onnx":
            console.print(f"{file} takes one sample at a time; only ONNX files take any number.", soft_wrap=True)
        if rows := artifact.provenance.get(artifact.format, {}).get("sensitivity"):
            console.print(sensitivities(rows, artifact.provenance[artifact.format].get("kept_layers", [])))


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
    operators: Annotated[
        bool, typer.Option("--operators", help="The time of each operator, in a pass of its own.")
    ] = False,
    cores: Annotated[str, typer.Option(help="Processors to stay on, as in 0,1; default any.")] = "",
    benchmark_model: Annotated[
        Path | None, typer.Option(help="LiteRT's benchmark_model, which measures .tflite files instead of Python.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, raw samples included.")] = False,
    on: Annotated[
        str,
        typer.Option(
            help="Boards: local, ssh://USER@HOST, adb[:SERIAL], NAME of devices/NAME.toml, qemu:CORE to count; a,b,c."
        ),
    ] = "local",
    max_secs: Annotated[float, typer.Option(min=0, help="At most so many seconds of each.")] = 150.0,
) -> None:
    """Measure files on this computer or on boards, interleaved."""
    import dataclasses

    from edgel0.devices.boards import find_board
    from edgel0.devices.profiling import Failure
    from edgel0.devices.profiling import profile as profile_on
    from edgel0.report.text import counts_table, measurements
    from edgel0.types import Count, Measurement

    boards = [find_board(name) for name in dict.fromkeys(part.strip() for part in on.split(","))]
    if benchmark_model and (cores or any(board.transport == "qemu" for board in boards)):
        raise UsageError(
            f"--benchmark-model goes neither with --cores nor with emulated cores (--on {printable(on)}); leave one of "
            "them out."
        )
    console = _console(stderr=as_json)
    limits: dict[str, Any] = {"threads": threads, "num_runs": num_runs, "min_secs": min_secs, "max_secs": max_secs}
    limits |= {"operators": operators}
    rows: list[Any] = []

    def of(kind: type, found: Sequence[Any]) -> list[Any]:
        return [row for row in found if isinstance(row, kind)]

    def show(found: Sequence[Any]) -> None:
        """Print the rows of a board when it is done; others may go on for long. Counts are compared, so they wait."""
        rows.extend(found)
        if (measured := of(Measurement, found)) and not as_json:
            console.print(measurements(measured), "")
        failed: dict[str, list[str]] = {}  # a board that does not answer says the same of each file
        for row in of(Failure, found):
            failed.setdefault(str(row.error), []).extend([row.artifact] if row.artifact else [])
        for error, names in failed.items():
            text = printable(f"edgel0: {', '.join(names)}{': ' if names else ''}{error}", keep="\n")
            _console(stderr=True).print(text, style="red", soft_wrap=True, markup=False)

    def tell() -> None:
        if as_json:
            told = [
                {"board": row.board, "artifact": row.artifact, "error": str(row.error)} for row in of(Failure, rows)
            ]
            measured, counted = ([dataclasses.asdict(row) for row in of(kind, rows)] for kind in (Measurement, Count))
            typer.echo(json.dumps({"schema": 1, "measurements": measured, "counts": counted, "failures": told}))
        elif counts := of(Count, rows):
            console.print(counts_table(counts))

    with _bar(console, "measuring") as share:
        try:
            profile_on(
                boards,
                files,
                binary=benchmark_model,
                found=show,
                progress=share,
                **(limits if benchmark_model else limits | {"cores": _cores(cores)}),
            )
        except KeyboardInterrupt:
            if not rows:
                raise
    tell()
    if failures := of(Failure, rows):
        raise typer.Exit(max(row.error.exit_code for row in failures))


def _cores(text: str) -> tuple[int, ...]:
    """Read the numbers of processors."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--cores {text!r} are no numbers of processors; write them as in 0,1.")
    return tuple(dict.fromkeys(map(int, parts)))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="An ONNX or TFLite file.")],
    b: Annotated[Path, typer.Argument(help="Another; its format may differ.")],
    threads: Annotated[int, typer.Option(min=1)] = 1,
    num_runs: Annotated[int, typer.Option(min=1, help="At least so many runs of each, in each of three starts.")] = 50,
    min_secs: Annotated[float, typer.Option(min=0, help="At least so many seconds of each, in each start.")] = 1.0,
    cores: Annotated[str, typer.Option(help="Processors to stay on, as in 0,1; default any.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, raw samples included.")] = False,
    on: Annotated[str, typer.Option(help="A board: local, ssh://USER@HOST, adb[:SERIAL] or a board file.")] = "local",
) -> None:
    """Measure two files in turns and tell which is faster, if any is."""
    import dataclasses

    from edgel0.devices.boards import find_board
    from edgel0.devices.comparing import compare as compared
    from edgel0.devices.profiling import alone, starter, threads_of
    from edgel0.report.text import comparison

    console, board = _console(stderr=as_json), find_board(on)
    start = starter(board)
    with _bar(console, "measuring") as share, alone(board, tell=share):
        found = compared(
            a,
            b,
            threads=threads_of(board, threads),
            num_runs=num_runs,
            min_secs=min_secs,
            cores=_cores(cores),
            start=start,
            progress=share,
        )
    if as_json:
        typer.echo(json.dumps({"schema": 1, **dataclasses.asdict(found)}))
    else:
        console.print(comparison(found))


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders that edgel0 run left; several are compared.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="The page; - prints it. Default: report.html."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="The same as tables for a pull request; - prints it.")
    ] = None,
    cost: Annotated[
        str,
        typer.Option(
            help="What several are compared by: macs, params, weight_bytes, activation_bytes, size or latency."
        ),
    ] = "macs",
) -> None:
    """Show a run, or compare several: one HTML file that needs nothing else, or Markdown."""
    from edgel0.report.writing import write_report

    written = write_report(runs, out if out or markdown else Path("report.html"), markdown, cost)
    for path in written:
        typer.echo(f"report in {path}")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="An ONNX or TFLite file, of edgel0 or of anybody else.")],
    sort: Annotated[str, typer.Option(help="order, share (of the MACs) or bytes (of weights).")] = "order",
    all_layers: Annotated[bool, typer.Option("--all", help="Every layer, not the 20 largest.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one page that needs no network.")] = None,
    model_explorer: Annotated[
        Path | None, typer.Option(metavar="OUT.json", help="Write MACs per node for Google's Model Explorer.")
    ] = None,
) -> None:
    """Show what is in a finished file: layers, sizes, MACs, and where it came from."""
    from edgel0.errors import nearest
    from edgel0.files.reading import read
    from edgel0.files.storing import store
    from edgel0.report.layers import ORDERS, described, layers, node_data
    from edgel0.report.model_page import page

    if sort not in ORDERS:
        raise UsageError(f"--sort {sort!r} is not known; known are {', '.join(ORDERS)}{nearest(sort, ORDERS)}.")
    told = described(read(file))
    if html is not None:
        store(html, page(told))
    if model_explorer is not None:
        store(model_explorer, json.dumps(node_data(told), indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(told, allow_nan=False))
    else:
        _console().print(layers(told, all_layers, sort))


@app.command()
def check(
    config: Annotated[
        Path | None, typer.Argument(help="TOML with [[budget]]; default edgel0.toml or pyproject.toml.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="text, json, markdown, github, junit, sarif or github-action-benchmark.")
    ] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the format into a file, and the table here.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Figures to compare with; default edgel0-baseline.json beside the configuration."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="REF", help="Compare with the artefacts of a git revision, as origin/main.")
    ] = None,
) -> None:
    """Compare artefacts with their budgets; exit with 1 when one is exceeded."""
    from edgel0.checks.baseline import read_baseline
    from edgel0.checks.config import find_config, read_limits
    from edgel0.checks.formats import FORMATS
    from edgel0.checks.publishing import publish, step_summary
    from edgel0.checks.verdict import check as verdicts_on
    from edgel0.checks.verdict import exit_code
    from edgel0.errors import nearest

    if format not in FORMATS:
        raise UsageError(f"--format {format!r} is not known; known are {', '.join(FORMATS)}{nearest(format, FORMATS)}.")
    if base is not None and baseline is not None:
        raise UsageError("--base and --baseline were given, and figures are compared with one; leave one of them out.")
    limits = read_limits(config or find_config(Path()))
    against = None if baseline is None else read_baseline(baseline)
    if base is not None:
        from edgel0.checks.revision import baseline_of
        from edgel0.checks.verdict import home

        against = baseline_of(base, limits, home(limits[0]))
    verdicts = verdicts_on(limits, against)
    shown: Any = FORMATS[format](verdicts)
    if output is not None:
        publish(output, shown if isinstance(shown, str) else _text_of(shown))
        shown = FORMATS["text"](verdicts)
    if isinstance(shown, str):
        typer.echo(shown)
    else:
        _console().print(shown)
    step_summary(verdicts)
    raise typer.Exit(exit_code(verdicts))


def _text_of(shown: Any) -> str:
    """Render what a console prints as plain text of 80 columns."""
    import io

    console = Console(file=io.StringIO(), highlight=False, markup=False, emoji=False, width=80)
    console.print(shown)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return text.rstrip("\n")


@app.command()
def init(
    files: Annotated[
        list[Path] | None, typer.Argument(help="ONNX and TFLite files; default: those below this folder.")
    ] = None,
    headroom: Annotated[str, typer.Option(help="How much larger than today each limit is.")] = "5 %",
) -> None:
    """Write a first edgel0.toml: today's figures of each artefact, and some headroom."""
    from edgel0.checks.starting import first_config

    typer.echo(first_config(Path(), files or [], headroom))


baseline_app = typer.Typer(name="baseline", help="Keep the figures that budgets compare with.", no_args_is_help=True)
app.add_typer(baseline_app)


@baseline_app.callback()
def _baseline() -> None:
    """Keep the figures that relative budgets are compared with."""


@baseline_app.command("update")
def baseline_update(
    config: Annotated[
        Path | None, typer.Argument(help="TOML with [[budget]]; default edgel0.toml or pyproject.toml.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="The file to write; default edgel0-baseline.json beside the configuration.")
    ] = None,
) -> None:
    """Write today's figures into edgel0-baseline.json and say what that raised and lowered."""
    from edgel0.checks.baseline import NAME
    from edgel0.checks.config import find_config, read_limits
    from edgel0.checks.recording import update
    from edgel0.checks.verdict import home

    limits = read_limits(config or find_config(Path()))
    path = baseline or home(limits[0]) / NAME
    lines = update(path, limits, home(limits[0]))
    for line in lines or ["nothing has changed"]:
        typer.echo(line)
    typer.echo(f"{path} is written; commit it." if lines else f"{path} is as it was.")


devices_app = typer.Typer(rich_markup_mode=None)
app.add_typer(devices_app, name="devices")


@devices_app.callback(invoke_without_command=True)
def devices(context: typer.Context) -> None:
    """List boards and emulated cores to measure on, and whether they answer."""
    if context.invoked_subcommand:
        return
    from edgel0.devices.examining import boards, states
    from edgel0.report.text import board_table

    console, found = _console(), boards()
    with _bar(console, "asking each board"):
        told = states(found)
    console.print(board_table(found, told))


@app.command()
def doctor(
    board: Annotated[
        str, typer.Argument(help="local, ssh://USER@HOST, adb[:SERIAL], qemu:CORE or a board file.")
    ] = "local",
) -> None:
    """Say what a board lacks for measuring, and how to mend it."""
    from edgel0.devices.boards import find_board
    from edgel0.devices.examining import doctor as examine
    from edgel0.report.text import findings_table

    console, asked = _console(), find_board(board)
    with _bar(console, f"looking at {printable(asked.name)}"):
        findings = examine(asked)
    console.print(findings_table(findings))
    if any(finding.mend and finding.what != "governor" for finding in findings):
        raise typer.Exit(DeviceError.exit_code)


@devices_app.command()
def setup(
    what: Annotated[str, typer.Argument(metavar="qemu", help="What to set up: qemu, the emulated cores.")],
    mirror: Annotated[str, typer.Option(help="Debian mirror to fetch from; default: the one that apt uses here.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Build it anew though it is there.")] = False,
) -> None:
    """Build what counting instructions on emulated cores needs, in the user's cache; no root needed."""
    from edgel0.devices.emulator.building import setup as build
    from edgel0.errors import nearest

    if what != "qemu":
        raise UsageError(f"{what!r} cannot be set up; known is: qemu{nearest(what, ['qemu'])}.")
    console = _console()
    with _bar(console, "looking") as share:
        made, new = build(mirror=mirror, again=again, progress=share)
    console.print(f"{'built' if new else 'already there'}: {made.folder} (qemu {made.version})", soft_wrap=True)
    wheels = ", ".join(f"{name} {version}" for name, version in made.made["wheels"].items())
    console.print(f"It runs {wheels} on cortex-a53, cortex-a72 and cortex-a76.", soft_wrap=True)


@app.command()
def instructions(
    files: Annotated[list[Path], typer.Argument(help="ONNX and TFLite files.")],
    core: Annotated[
        list[str] | None, typer.Option(help="cortex-a53, cortex-a72 (default) or cortex-a76; repeat for several.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Inferences that are counted, of which the least is told.")] = 4,
    max_secs: Annotated[float, typer.Option(min=1, help="The longest that one file may take.")] = 900.0,
    write: Annotated[bool, typer.Option("--record", help="Write the figures into FILE.json, for a check.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, raw samples included.")] = False,
) -> None:
    """Count instructions per inference on emulated cores: exact, but no time."""
    import dataclasses

    from edgel0.devices.qemu import count
    from edgel0.devices.recording import record
    from edgel0.report.text import counts_table

    console, rows = _console(stderr=as_json), []
    with _bar(console, "counting") as share:
        for name in core or ["cortex-a72"]:
            rows += count(
                files,
                name,
                repeats=repeats,
                max_secs=max_secs,
                progress=share,
            )
    for file in files if write else ():
        record(file, [row for row in rows if row.artifact == file.as_posix()])
    if as_json:
        typer.echo(json.dumps({"schema": 1, "counts": [dataclasses.asdict(row) for row in rows]}))
    else:
        console.print(counts_table(rows))


def main() -> None:
    """Run the command line; a known failure is one paragraph on stderr and its exit code."""
    try:
        app(prog_name="edgel0")
    except EdgeL0Error as error:
        _console(stderr=True).print(printable(f"edgel0: {error}", keep="\n"), style="red", soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns an interrupt within a verb into its exit code
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        text = "edgel0: interrupted; a run goes on from its last checkpoint when started again."
        _console(stderr=True).print(text, soft_wrap=True)
        raise SystemExit(INTERRUPTED) from None
