"""How does a report become files? Every run is read before anything is written, and each file is whole or not there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edgel0.errors import DeviceError, UsageError
from edgel0.report.comparison import comparison_page
from edgel0.report.markdown import comparison_markdown, run_markdown
from edgel0.report.page import page
from edgel0.report.pareto import compare
from edgel0.report.reading import read_run
from edgel0.staging import write

PRINTED = Path("-")
SUFFIXES = {"--output": (".html", ".htm"), "--markdown": (".md", ".markdown")}


def write_report(
    folders: Sequence[str | Path], html: Path | None, markdown: Path | None, metric: str = "macs"
) -> list[Path]:
    """Read the runs and write what was asked for; ``-`` prints it. Return the files.

    Raises:
        UsageError: a run cannot be read, a file has another suffix, or ``metric`` is unknown.
        DeviceError: a file cannot be written.
    """
    asked = [(name, path) for name, path in (("--output", html), ("--markdown", markdown)) if path is not None]
    for name, path in asked:
        if path != PRINTED and path.suffix.lower() not in SUFFIXES[name]:
            raise UsageError(
                f"{name} {path} does not end in {' or '.join(SUFFIXES[name])}; a report is written to no other file, "
                "so that it cannot replace a model or a result by mistake."
            )
    if len([path for _, path in asked if path == PRINTED]) > 1:
        raise UsageError("both the page and the Markdown would be printed; give one of them a file's name.")
    texts = render(folders, metric)
    return [path for name, path in asked if _put(path, texts[name])]


def render(folders: Sequence[str | Path], metric: str = "macs") -> dict[str, str]:
    """Return the page and the Markdown of a run, or of the comparison of several."""
    runs = [read_run(folder) for folder in folders]
    entries = compare(runs, metric)
    if len(runs) == 1:
        return {"--output": page(runs[0]), "--markdown": run_markdown(runs[0])}
    return {"--output": comparison_page(entries, metric), "--markdown": comparison_markdown(entries, metric)}


def _put(path: Path, text: str) -> bool:
    """Write a file and tell that it was written; print what goes nowhere else."""
    if path == PRINTED:
        sys.stdout.buffer.write(text.encode()) if hasattr(sys.stdout, "buffer") else sys.stdout.write(text)
        return False
    try:
        write(path, text.encode())
    except OSError as error:
        raise DeviceError(
            f"{path} cannot be written: {error.strerror or error}; make its folder, or give another one."
        ) from error
    return True
