"""What does a picture show of a run? Its budget, its units, how decided its gates were, and what is left."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgel0.errors import UsageError, need
from edgel0.staging import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a file says of its making: no time of day, so that the same result gives the same file.
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": "edgel0"},
    "png": {"Software": "edgel0"},
}
DPI = 200  # of a PNG: twice the pixels that a README shows


def draw(result: dict[str, Any], folder: Path, kind: Literal["svg", "png"] = "svg") -> list[Path]:
    """Draw the pictures that the content of a ``result.json`` has data for into ``folder``; return the files.

    Raises:
        ExtraError: Matplotlib is not installed.
        UsageError: ``kind`` is not one of them.
    """
    if kind not in METADATA:
        raise UsageError(f"pictures cannot be drawn as {kind!r}; choose one of {', '.join(METADATA)}.")
    need("matplotlib.figure", "figures")
    from edgel0.report.canvas import styled

    files = []
    with styled():
        for name, figure in charts(result).items():
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=DPI, metadata=METADATA[kind])
            files.append(folder / f"{name}.{kind}")
            write(files[-1], content.getvalue())
    return files


def charts(result: dict[str, Any]) -> dict[str, Figure]:
    """Return the pictures that ``result`` has data for, by name; call it inside :func:`edgel0.report.canvas.styled`."""
    from edgel0.report.curves import budget, polarisation
    from edgel0.report.groups import channels, units

    made = {chart.__name__: chart(result) for chart in (budget, units, polarisation, channels)}
    return {name: figure for name, figure in made.items() if figure is not None}
