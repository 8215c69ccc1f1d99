"""Does slimming ever differ? Thousands of random networks, each traced, masked, slimmed, scrambled and compared.

``python -m benchmarks.soak --count 10000 --seed 0 --jobs 2`` draws network ``n`` from seed ``n``, in processes of 200
networks each, goes on after a difference, and ends with exit code 1 if there was one. ``--seed N --count 1`` repeats
one network alone, with its traceback. ``--store FILE.md`` writes what was counted. ``tests/networks.py`` has the blocks
and what must hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from edgel0 import __version__

HERE = Path(__file__).parent
BATCH, SHOWN, EVERY = 200, 20, 10.0  # networks per process, failures listed, seconds between lines


def main() -> None:
    """Examine all networks and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first network; the others follow")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, of one thread each")
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    parser.add_argument("--lines", action="store_true", help="examine in this process; one JSON line per network")
    options = parser.parse_args()
    if options.lines or options.count == 1:
        rows = []
        for row in examined(options.seed, options.count):
            rows.append(row)
            print(json.dumps(row) if options.lines else row["text"] + "\n" + (row["trace"] or "fine"), flush=True)
        sys.exit(any(row["error"] for row in rows) and not options.lines)
    began = time.perf_counter()
    rows = together(options)
    seconds = time.perf_counter() - began
    failures = [row for row in rows if row["error"]]
    for row in failures[:SHOWN]:
        print(f"\n{row['text']}\n    {row['error']}\n    {again(row['seed'])}")
    print(summary(rows, seconds))
    if options.store:
        options.store.parent.mkdir(parents=True, exist_ok=True)
        options.store.write_text(markdown(rows, options), encoding="utf-8")
    sys.exit(bool(failures))


def again(seed: int) -> str:
    """Return the command that repeats one network alone."""
    return f"python -m benchmarks.soak --seed {seed} --count 1"


def examined(first: int, count: int) -> Iterator[dict[str, Any]]:
    """Draw and examine networks in this process, one row each."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from networks import EXPECTED, Examined, examine, seeded

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for warning in EXPECTED:
        warnings.filterwarnings("ignore", warning)
    for seed in range(first, first + count):
        row: dict[str, Any] = {"seed": seed, "text": "not drawn", "blocks": [], "error": "", "trace": ""}
        found = Examined()
        try:
            pick, drawn = seeded(seed)
            row |= {"text": drawn.text, "blocks": drawn.blocks}
            found = examine(pick, drawn)
        except Exception as error:  # noqa: BLE001 - a crash is a finding like any other
            row["error"] = f"{type(error).__name__}: {error}".split("\n")[0][:300]
            row["trace"] = traceback.format_exc()
        yield row | asdict(found)


def together(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Examine all networks in processes that last for one batch, and show how far they are."""
    console, lock = Console(), threading.Lock()
    rows: list[dict[str, Any]] = []
    failed = 0
    began = told = time.perf_counter()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("networks", total=options.count)

        def show(row: dict[str, Any]) -> None:
            nonlocal told, failed
            with lock:
                rows.append(row)
                failed += bool(row["error"])
                now = time.perf_counter()
                rate = len(rows) / (now - began)
                progress.update(task, advance=1, description=f"{rate:.1f} networks/s, {failed} failed")
                if not console.is_terminal and now - told > EVERY:
                    told = now
                    print(f"{len(rows):,} of {options.count:,}, {rate:.1f} networks/s, {failed} failed", flush=True)

        stop = options.seed + options.count
        batches = [(first, min(BATCH, stop - first)) for first in range(options.seed, stop, BATCH)]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda batch: run(*batch, show), batches))
    return sorted(rows, key=lambda row: row["seed"])


def run(first: int, count: int, show: Any) -> None:
    """Examine a batch in a process of its own; where one dies, what it was at has failed, and another goes on."""
    stop = first + count
    while first < stop:
        command = [
            sys.executable,
            "-m",
            "benchmarks.soak",
            "--lines",
            "--seed",
            str(first),
            "--count",
            str(stop - first),
        ]
        with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                show(json.loads(line))
                first += 1
        if first < stop:
            dead = f"the process ended with {process.returncode}"
            show({"seed": first, "text": "not known", "blocks": [], "error": dead, "difference": 0.0})
            first += 1


def total(rows: list[dict[str, Any]], name: str) -> int:
    """Sum one count over all networks."""
    return sum(row.get(name, 0) for row in rows)


def summary(rows: list[dict[str, Any]], seconds: float) -> str:
    """Return one line of counts."""
    drawn = Counter(name for row in rows for name in row["blocks"])
    return (
        f"{len(rows):,} networks in {seconds:,.0f} s ({len(rows) / seconds:.1f}/s), "
        f"{sum(bool(row['error']) for row in rows)} failed; {total(rows, 'masks'):,} masks, "
        f"{total(rows, 'closed'):,} units closed, {drawn.total():,} blocks of {len(drawn)} kinds, "
        f"{total(rows, 'refused'):,} refusals, largest relative difference {largest(rows):.1e}"
    )


def largest(rows: list[dict[str, Any]]) -> float:
    """Return the largest relative difference of all networks that passed."""
    return max((row["difference"] for row in rows), default=0.0)


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return what was counted, for the repository."""
    drawn = Counter(name for row in rows for name in row["blocks"])
    failures = [row for row in rows if row["error"]]
    figures = {
        "networks": f"{len(rows):,}",
        "that differ or fail": f"{len(failures):,}",
        "blocks drawn": f"{drawn.total():,} of {len(drawn)} kinds",
        "units": f"{total(rows, 'units'):,}",
        "masks": f"{total(rows, 'masks'):,}, {total(rows, 'gated'):,} of them from gates",
        "units closed": f"{total(rows, 'closed'):,}",
        "refused, for nothing is left": f"{total(rows, 'refused'):,}",
        "largest difference / largest output": f"{largest(rows):.1e}",
    }
    lines = [
        "# Random networks",
        "",
        f"Made by `python -m benchmarks.soak --seed {options.seed} --count {options.count}` with edgel0 {__version__} "
        f"and torch {torch.__version__}, in float64: the slimmed program and the masked model with scrambled closed "
        "units, both against the masked model.",
        "",
        "| | |",
        "|---|--:|",
        *(f"| {name} | {figure} |" for name, figure in figures.items()),
        "",
        *(f"- `{again(row['seed'])}`: {row['error']}" for row in failures[:SHOWN]),
        *([""] if failures else []),
        "Blocks: " + ", ".join(f"{name} {count:,}" for name, count in drawn.most_common()) + ".",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
