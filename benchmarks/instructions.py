"""What does an inference take on Cortex cores? Instructions of the recipes' models, and of dense beside slim.

``python -m benchmarks.instructions`` slims LeNet-5 and ResNet-8 (``--network`` names others; fresh weights, on whose
values instructions do not depend) to 50 % of their MACs by ``Masks.rank``, exports both to ONNX and TFLite in float32
and static int8, and counts each file on three emulated cores. ``--runs FOLDER`` counts the files of recipes' runs as
well; files that are named are counted alone. ``--again`` counts everything a second time in a second emulator, built
elsewhere, and says which figures are the same. One process at a time; ``--lines FILE.jsonl`` keeps each count as it
comes, and what it holds is not counted again; ``--store FILE.md`` writes the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgel0.devices.emulator.building import setup
from edgel0.devices.emulator.cores import CORES
from edgel0.devices.qemu import SUFFIXES, count
from edgel0.errors import DeviceError
from edgel0.types import Count

NETWORKS = ("LeNet-5", "ResNet-8")
PLACES = ("one", "another")  # emulators
ELSEWHERE = "a second emulator, in a place with a longer name"
Key = tuple[str, str, str, str]  # sha256, core, runtime's wheels and plugin, place
Row = dict[str, Any]


@dataclass(frozen=True)
class File:
    """A file and what it is called in the tables: a run's or network's name, and the file's own."""

    path: Path
    of: str

    @property
    def sha256(self) -> str:
        """What the file holds."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def main() -> None:
    """Make the files, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="ONNX and TFLite files instead of the networks")
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="folders of runs, or folders of such")
    parser.add_argument("--network", nargs="*", help="to make dense and slim; default: LeNet-5 and ResNet-8")
    parser.add_argument("--core", action="append", choices=CORES, help="default: all")
    parser.add_argument("--again", action="store_true", help="count in a second emulator, too, built in another place")
    parser.add_argument("--max-secs", type=float, default=900.0, help="longer counts are left out")
    parser.add_argument("--lines", type=Path, help="JSON lines to read and to append to")
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        caches = {PLACES[0]: None} | ({PLACES[1]: Path(folder, ELSEWHERE)} if options.again else {})
        files = [File(path, "") for path in options.files] + [file for run in options.runs for file in run_files(run)]
        names = ([] if options.files else NETWORKS) if options.network is None else options.network
        if names:
            from benchmarks.halves import made

            files += [File(path, path.name.split(".")[0]) for path in made(Path(folder), names)]
        rows = list(counted(files, options.core or list(CORES), caches, options.lines, options.max_secs))
    text = report(rows)
    print(text)
    if options.store:
        options.store.write_text(text, encoding="utf-8")


def run_files(folder: Path) -> list[File]:
    """Return the countable files of a run, or of the runs in a folder, in a fixed order."""
    runs = sorted(path.parent for path in (*folder.glob("result.json"), *folder.glob("*/result.json")))
    if not runs:
        raise SystemExit(f"{folder} is no folder of a run and holds none: there is no result.json; run a recipe first.")
    return [
        File(path, json.loads((run / "result.json").read_text("utf-8"))["name"])
        for run in runs
        for path in sorted(run.iterdir())
        if path.suffix in SUFFIXES
    ]


def counted(
    files: Sequence[File],
    cores: Sequence[str],
    caches: dict[str, Path | None],
    lines: Path | None,
    max_secs: float,
) -> Iterator[Row]:
    """Yield a row for each file on each core in each emulator: from the lines where it is there, counted otherwise."""
    emulators = {place: setup(cache)[0].folder.name for place, cache in caches.items()}
    known = {key_of(row): row for row in read(lines)}
    for file in files:
        for core in cores:
            for place, cache in caches.items():
                key = (file.sha256, core, emulators[place], place)
                if key not in known:
                    row = told(file, core, cache, max_secs) | {"emulator": emulators[place], "place": place}
                    known[key] = kept(row, lines)
                yield known[key] | {"of": file.of, "file": file.path.name}


def told(file: File, core: str, cache: Path | None, max_secs: float) -> Row:
    """Count a file once and return its row; one that cannot be counted has an ``error`` instead of figures."""
    row: Row = {"of": file.of, "file": file.path.name, "sha256": file.sha256, "core": core}
    began = time.monotonic()
    try:
        (found,) = count([file.path], core, cache=cache, max_secs=max_secs)
    except DeviceError as error:
        return row | {"error": str(error)}
    return row | figures(found) | {"secs": round(time.monotonic() - began, 1)}


def figures(found: Count) -> Row:
    """Return a count without what the row says of the file."""
    return {k: v for k, v in dataclasses.asdict(found).items() if k not in ("artifact", "sha256", "core")}


def read(lines: Path | None) -> list[Row]:
    """Return the rows of the store; half a line, of a benchmark that was killed while writing it, is cut off."""
    if lines is None or not lines.exists():
        return []
    text = lines.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        lines.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def kept(row: Row, lines: Path | None) -> Row:
    """Print a row, append it to the store and return it as it is read again; what failed is tried again instead."""
    text = json.dumps(row)
    print(text, flush=True)
    if lines and "error" not in row:
        with lines.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    return dict(json.loads(text))


def key_of(row: Row) -> Key:
    """Return what makes a count the same count."""
    return row["sha256"], row["core"], row["emulator"], row["place"]


def report(rows: Sequence[Row]) -> str:
    """Return the Markdown text."""
    whole = [row for row in rows if "error" not in row]
    first = [row for row in whole if row["place"] == PLACES[0]]
    runs = [row for row in first if not halved(row)]
    runtimes, systems = (", ".join(sorted({row[key] for row in whole})) for key in ("runtime", "system"))
    text = [
        "# Instructions per inference",
        "",
        f"Made by `python -m benchmarks.instructions`; {runtimes}, one thread, {systems}; the least of "
        f"{len(first[0]['samples'])} inferences, whose range was at most {max(row['spread'] for row in whole):.4%}. "
        "Instructions are not milliseconds.",
        "",
    ]
    if runs:
        text += ["## Files", "", *table(runs), ""]
    if len(runs) < len(first):
        text += ["## Half of the MACs, beside dense (fresh weights)", "", *pairs(first), ""]
    if len(whole) > len(first):
        text += ["## Counted again", "", *agreement(whole), ""]
    left = sorted({f"- {row['of']} {row['file']} on {row['core']}: {row['error']}" for row in rows if "error" in row})
    return "\n".join(text + (["## Left out", "", *left, ""] if left else []))


def halved(row: Row) -> bool:
    """Tell whether it is one of the networks that were made here, dense and slim."""
    return row["file"].count(".") == 3 and row["file"].split(".")[1] in ("dense", "slim")


def table(rows: Sequence[Row]) -> list[str]:
    """Return a line for each file, a column for each core."""
    cores = list(dict.fromkeys(row["core"] for row in rows))
    found = {(row["of"], row["file"], row["core"]): f"{row['instructions']:,}" for row in rows}
    lines = [f"| recipe | file | {' | '.join(cores)} |", f"|---|---|{'--:|' * len(cores)}"]
    return lines + [
        f"| {of} | {file} | {' | '.join(found.get((of, file, core), '') for core in cores)} |"
        for of, file in dict.fromkeys((row["of"], row["file"]) for row in rows)
    ]


def pairs(rows: Sequence[Row]) -> list[str]:
    """Return a table of dense beside slim."""
    found = {(row["file"], row["core"]): row for row in rows if halved(row)}
    lines = [
        "| network | file | core | dense | slim | slim / dense | accesses, slim / dense |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for (file, core), dense in found.items():
        slim = found.get((file.replace(".dense.", ".slim."), core))
        if ".dense." in file and slim:
            name, _, precision, suffix = file.split(".")
            lines.append(
                f"| {name} | {suffix} {precision} | {core} | {dense['instructions']:,} | {slim['instructions']:,} | "
                f"{slim['instructions'] / dense['instructions']:.3f} | {slim['accesses'] / dense['accesses']:.3f} |"
            )
    return lines


def agreement(rows: Sequence[Row]) -> list[str]:
    """Say for each runtime how many figures of the two emulators are the same, and how far the others are apart."""
    found = {(row["sha256"], row["core"], row["place"]): row for row in rows}
    apart: dict[str, list[float]] = {}
    for (sha256, core, place), one in found.items():
        other = found.get((sha256, core, PLACES[1]))
        if place == PLACES[0] and other:
            shares = [abs(one[key] - other[key]) / one[key] for key in ("instructions", "accesses")]
            apart.setdefault(one["runtime"], []).append(max(shares))
    lines = ["Everything was counted a second time in a second emulator, built in another place.", ""]
    for runtime, shares in sorted(apart.items()):
        same = sum(share == 0 for share in shares)
        rest = f"; the others differ by at most {max(shares):.4%}" if same < len(shares) else ""
        lines.append(f"- {runtime}: {same} of {len(shares)} are the same to the last instruction and access{rest}.")
    return lines


if __name__ == "__main__":
    main()
