"""How does one measure where there is no Python? Let LiteRT's ``benchmark_model`` do it, and read what it prints.

The binary is the user's: for Android it is built for the phone, and sent there with each model.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgel0.devices.boards import Board
from edgel0.devices.holding import Held
from edgel0.devices.sizes import planned
from edgel0.devices.suiting import fits
from edgel0.errors import DeviceError, EdgeL0Error, UsageError
from edgel0.types import Measurement, OperatorTime

Run = Callable[[Sequence[str]], Iterable[str]]
GRACE_SECS = 60.0
NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)"
TOTALS = re.compile(
    rf"Init: {NUMBER}, First inference: {NUMBER}, Warmup \(avg\): {NUMBER}, Inference \(avg\): {NUMBER}"
)
COUNT = re.compile(r"(?:^|\s)count=(\d+)\s")
PAIR = re.compile(rf"(\w+)={NUMBER}(?=\s|$)")
MEMORY = re.compile(rf"footprint.*\(MB\).*?(?:overall=|: ){NUMBER}\s*$")
BLOCK = re.compile(
    rf"^(?:.*\s)?(Model initialization|(?:Warmup|Inference) \((\w+)\)):\s+{NUMBER} ms(?: \((\d+) runs\))?"
)


def command(
    binary: str,
    graph: str,
    *,
    threads: int = 1,
    num_runs: int = 50,
    min_secs: float = 1.0,
    max_secs: float = 150.0,
    operators: bool = False,
) -> list[str]:
    """Return the argument list; warm-up as the runner's: at least 5 runs and 0.5 s."""
    flags: dict[str, Any] = {
        "graph": graph,
        "num_threads": threads,
        "warmup_runs": 5,
        "warmup_min_secs": 0.5,
        "num_runs": num_runs,
        "min_secs": min_secs,
        "max_secs": max_secs,
        "report_peak_memory_footprint": "true",
    }
    flags |= {"enable_op_profiling": "true", "op_profiling_output_mode": "stdout"} if operators else {}
    return [binary, *(f"--{name}={value}" for name, value in flags.items())]


def parse(lines: Iterable[str]) -> dict[str, float]:
    """Return what the tool says, in ms: init, first, warmup, avg, and what there is of min max std p5 median p95.

    Also ``runs`` and, as the tool says it, ``memory_mb``. Reads both of its formats: one line of timings in µs with the
    statistics in a ``count=`` line before it, and the block under BENCHMARK RESULTS in ms.

    Raises DeviceError when the output holds neither, or ends before it is whole.
    """
    lines = [line.rstrip() for line in lines]
    found = _line_of_timings(lines) or _block(lines)
    missing = [name for name in ("init", "first", "avg", "runs") if name not in found]
    if missing:
        words = " / ".join(line for line in lines[-3:] if line)[-300:]
        raise DeviceError(
            f"benchmark_model printed no {' and no '.join(missing)}; expected its line 'Inference timings in us' after "
            f"a line 'count=...', or its block BENCHMARK RESULTS; its last words: {words!r}. Run it by hand to see why."
        )
    for line in lines:
        if memory := MEMORY.search(line):
            found["memory_mb"] = float(memory[1])
    return found


def _line_of_timings(lines: Sequence[str]) -> dict[str, float]:
    """Read the older format; the last ``count=`` line before the totals is that of the real runs."""
    found: dict[str, float] = {}
    for line in lines:
        if count := COUNT.search(line):
            found = {name: float(value) / 1e3 for name, value in PAIR.findall(line) if name in STATISTICS}
            found["runs"] = float(count[1])
        elif totals := TOTALS.search(line):
            init, first, warmup, average = (float(value) / 1e3 for value in totals.groups())
            return found | {"init": init, "first": first, "warmup": warmup, "avg": average}
    return {}


def _block(lines: Sequence[str]) -> dict[str, float]:
    """Read the newer format; without the rule below it, the end is missing."""
    found: dict[str, float] = {}
    closed = False
    for line in lines:
        row = BLOCK.match(line)
        if not row:
            closed |= "avg" in found and line.strip().endswith("====")
            continue
        title, statistic, value, runs = row.groups()
        name = TITLES.get(title) or (statistic if title.startswith("Inference") else "")
        if name == "init" or name in STATISTICS.union(TITLES.values()):
            found[name] = float(value)
        if title == "Inference (avg)" and runs:
            found["runs"] = float(runs)
    return found if closed else {}


def operator_times(lines: Iterable[str]) -> tuple[OperatorTime, ...]:
    """Return the rows of the table "Run Order" of the regular runs, () where the output has none."""
    columns: list[str] | None = None
    regular, rows = False, []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().split("\t")]
        if "Regular Benchmark Runs" in line:
            regular = True
        elif regular and columns is None and "[node type]" in cells and "[avg ms]" in cells:
            columns = cells
        elif columns is not None:
            row = dict(zip(columns, cells, strict=False))
            if len(cells) < len(columns) or not re.fullmatch(NUMBER, row["[avg ms]"]):
                break
            rows.append(OperatorTime(row.get("[Name]", ""), row["[node type]"], float(row["[avg ms]"])))
    return tuple(rows)


def run_here(argv: Sequence[str], patience: float = 150.0 + GRACE_SECS) -> list[str]:
    """Run a command on this computer and return what it printed, its two outputs together."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{argv[0]!r} did not end within {patience:g} s and was stopped; raise max_secs.") from None
    except OSError as error:
        raise DeviceError(f"cannot start {argv[0]!r}: {error}; it must be built for this board.") from error
    if done.returncode:
        words = done.stdout.strip()[-300:]
        raise DeviceError(f"{argv[0]!r} ended with exit code {done.returncode}; its last words: {words!r}.")
    return done.stdout.splitlines()


def measure_by_binary(
    files: Sequence[Path | str],
    binary: Path | str,
    *,
    board: str = "local",
    place: Callable[[Path], str] = str,
    run: Run | None = None,
    failed: Callable[[Path, EdgeL0Error], None] | None = None,
    progress: Callable[[str, float], None] | None = None,
    threads: int = 1,
    operators: bool = False,
    max_secs: float = 150.0,
    **limits: float,
) -> list[Measurement]:
    """Measure TFLite files one after the other with a ``benchmark_model`` binary and return one row per file.

    ``place`` brings a file to where the binary is and returns its name there, ``run`` runs a command there; both are
    this computer unless told. ``limits`` are those of :func:`command`. The tool keeps no samples, so the rows have
    none, and nothing watches the board meanwhile. With ``failed``, a file that cannot be measured is told there.

    Raises UsageError (not a TFLite file, none there) and DeviceError (the binary failed or printed something else).
    """
    paths = [Path(file) for file in files]
    for path in paths:
        if path.suffix.lower() != ".tflite" or not path.is_file():
            raise UsageError(f"benchmark_model measures .tflite files; {path.as_posix()!r} is none, or is not there.")
    run = run or partial(run_here, patience=max_secs + GRACE_SECS)
    options: dict[str, Any] = {"threads": threads, "operators": operators, "max_secs": max_secs, **limits}
    rows = []
    for number, path in enumerate(paths):
        if progress:
            progress(f"run {path.name}", number / len(paths))
        try:
            lines = list(run(command(str(binary), place(path), **options)))
            rows.append(_row(path, parse(lines), operator_times(lines), board, threads))
        except EdgeL0Error as error:
            if not failed:
                raise
            failed(path, error)
    return rows


def measure_by_binary_there(
    files: Sequence[Path], binary: Path, board: Board, there: Held, *, max_secs: float = 150.0, **how: Any
) -> list[Measurement]:
    """Send the binary and the files to a board, one after the other, and return what it says there.

    ``how`` are the arguments of :func:`measure_by_binary`, which also says what is raised.
    """
    if not binary.is_file():
        raise UsageError(f"there is no file {binary.as_posix()!r} to send; name a benchmark_model built for the board.")
    there.send(binary, BINARY)
    there.run(["chmod", "755", BINARY], GRACE_SECS)

    def place(path: Path) -> str:
        fits(board, path)
        there.send(path, GRAPH)
        return GRAPH

    return measure_by_binary(
        files,
        f"./{BINARY}",
        board=f"{board.name}: {there.run(['sh', '-c', MODEL], GRACE_SECS).strip()}",
        place=place,
        run=lambda argv: there.run(argv, max_secs + GRACE_SECS).splitlines(),
        max_secs=max_secs,
        **how,
    )


def _row(
    path: Path, found: Mapping[str, float], operators: tuple[OperatorTime, ...], board: str, threads: int
) -> Measurement:
    content = path.read_bytes()
    weight_bytes, activation_bytes = planned(path)
    notes = ["measured by benchmark_model: no samples, threads not verified, the board not watched"]
    if "median" not in found:
        notes.append("this benchmark_model tells no median: p50 is its mean")
    return Measurement(
        artifact=path.as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        board=board,
        runtime="benchmark_model",
        threads=threads,
        threads_observed=0.0,
        load_ms=found["init"],
        first_ms=found["first"],
        samples_ms=(),
        p50_ms=found.get("median", found["avg"]),
        mean_ms=found["avg"],
        file_bytes=len(content),
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        operators=operators,
        notes=tuple(notes),
        facts={"benchmark_model": dict(found)},
    )


BINARY, GRAPH = "benchmark_model", "model.tflite"
MODEL = "getprop ro.product.model 2> /dev/null || tr -d '\\0' < /proc/device-tree/model 2> /dev/null || uname -m"
STATISTICS = frozenset(("min", "max", "avg", "std", "p5", "median", "p95"))

# Rows of the newer format that are no statistics of the runs.
TITLES = {"Model initialization": "init", "Warmup (first)": "first", "Warmup (avg)": "warmup"}
