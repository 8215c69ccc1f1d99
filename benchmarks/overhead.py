"""How long does ``edgel0 profile`` take beyond the inferences that it times? Its wall time less the rounds in it.

``python -m benchmarks.overhead FILE...`` runs ``edgel0 profile FILE --json`` ``--repeats`` times, each file alone, and
takes from its wall time the seconds of the rounds that it reports. What is left is starting Python twice, the command
line, importing the runtime, loading, the warm-up (half a second at least, asked for) and the report. It is told whole
and without the warm-up, median and most; the modules that both processes import must not include torch. ``--store
FILE.md`` writes a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edgel0 import __version__
from edgel0.devices import runner
from edgel0.devices.measure import RUNTIMES, WARMUP
from edgel0.staging import write

LIMIT_SECS = 1.5
COMMAND = "import sys; from edgel0.cli import main; sys.argv[0] = 'edgel0'; main()"


def beyond(path: Path) -> float:
    """Return the seconds that one run took beyond its rounds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "profile", str(path), "--json"], capture_output=True, text=True, check=True
    )
    spent = time.perf_counter() - began
    (row,) = json.loads(done.stdout)["measurements"]
    return spent - sum(each["wall_ms"] for each in row["rounds"]) / 1e3


def imported(path: Path) -> set[str]:
    """Return the packages that the command and its runner import."""
    job = {"model": str(path), "runtimes": RUNTIMES[path.suffix].modules, "threads": 1, "seed": 0}
    command = [COMMAND, "profile", str(path), "--min-secs", "0", "--json"]
    told = [
        subprocess.run(
            [sys.executable, "-X", "importtime", *arguments], input="", capture_output=True, text=True, check=True
        ).stderr
        for arguments in (["-c", *command], [runner.__file__, json.dumps(job)])
    ]
    lines = [line for text in told for line in text.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def measured(path: Path, repeats: int) -> dict[str, Any]:
    """Return one file's row."""
    secs = [beyond(path) for _ in range(repeats)]
    return {
        "file": f"{path.resolve().parent.name}/{path.name}",
        "median_secs": median(secs),
        "most_secs": max(secs),
        "warm_up_secs": WARMUP["seconds"],
        "repeats": repeats,
        "torch": "torch" in imported(path),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the report."""
    lines = [
        "# What `edgel0 profile` takes beyond its inferences",
        "",
        f"Made by `python -m benchmarks.overhead`; edgel0 {__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}. Wall time of `edgel0 profile FILE --json` less the rounds that it reports: Python "
        f"started twice, the runtime imported, the file loaded, {WARMUP['seconds']} s of warm-up, the report. At most "
        f"{LIMIT_SECS} s is the aim.",
        "",
        "| file | median s | most s | without the warm-up | runs | imports torch |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        cells = [
            row["file"],
            *(f"{secs:.2f}" for secs in (row["median_secs"], row["most_secs"])),
            f"{row['median_secs'] - row['warm_up_secs']:.2f}",
            row["repeats"],
            "yes" if row["torch"] else "no",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--store", type=Path, help="the table, in Markdown")
    given = parser.parse_args()
    rows = []
    for path in given.files:
        rows.append(measured(path, given.repeats))
        print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    if given.store:
        write(given.store, table(rows).encode())


if __name__ == "__main__":
    main()
