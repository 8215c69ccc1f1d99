"""What a first configuration looks like: today's figures of every artefact of a folder, and some headroom."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from edgel0.checks.config import read_limits
from edgel0.checks.figures import Subject, figure, inside
from edgel0.checks.publishing import publish
from edgel0.checks.rules import NONE_ALLOWED, OURS
from edgel0.checks.source import read_source
from edgel0.errors import RecipeError, UsageError
from edgel0.quantities import METRICS, Kind, parse_change

SUFFIXES = (".onnx", ".tflite")
ELSEWHERE = ("node_modules", "site-packages", "venv")  # folders that hold other people's files
EXACT = ("transposes",)  # one more of them is a finding, not growth


def first_config(folder: Path, files: Sequence[Path], headroom: str) -> str:
    """Write ``edgel0.toml`` into ``folder`` and return what to say about it.

    Raises:
        UsageError: there is a configuration already, no artefact, or a file without figures.
    """
    for name in OURS:
        if (folder / name).exists() and (name == OURS[0] or _has_budgets(folder / name)):
            raise UsageError(f"{name} is there already and is left as it is; edit it, or move it away and try again.")
    room, share = parse_change(headroom, "count")
    if not share:
        raise UsageError(f'--headroom {headroom!r} is no percentage; write "5 %".')
    names = [_named(folder, file) for file in files] or sorted(_found(folder))
    if not names:
        raise UsageError(f"there is no {' or '.join(SUFFIXES)} file below this folder; export one, or name files.")
    text = "\n".join([HEAD, *(_budget(folder, name, room) for name in names)])
    publish(folder / OURS[0], text.rstrip("\n"))
    limits = len(read_limits(folder / OURS[0]))
    return (
        f"{OURS[0]} is written: {limits} limits on {', '.join(names)}. Next:\n"
        "  edgel0 check              keeps them\n"
        "  edgel0 baseline update    writes what max_increase compares with"
    )


def _has_budgets(path: Path) -> bool:
    try:
        tool = read_source(path).document.get("tool")
    except RecipeError:
        return False  # a broken file of others is not ours to refuse
    ours = tool.get("edgel0") if isinstance(tool, dict) else None
    return isinstance(ours, dict) and "budget" in ours


def _named(folder: Path, file: Path) -> str:
    """Return a file as a budget's path."""
    if not inside(folder, file):
        raise UsageError(f"{str(file)!r} is not below this folder; run edgel0 init where both are below.")
    return file.resolve().relative_to(folder.resolve()).as_posix()


def _found(folder: Path) -> Iterator[str]:
    """Yield the artefacts below a folder, but for hidden and foreign folders, through no symbolic link."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in ELSEWHERE]
        for name in files:
            if Path(name).suffix.casefold() in SUFFIXES and not name.startswith("."):
                yield (Path(root) / name).relative_to(folder).as_posix()


def _budget(folder: Path, name: str, room: float) -> str:
    """Return one [[budget]] with the limits that today's figures and the headroom give."""
    subject = Subject(folder, name)
    if subject.trouble:
        raise UsageError(f"{name!r} has no figures: {subject.trouble}.")
    if not name.isprintable():
        raise UsageError(f"{name!r} cannot stand in a table; give the file another name.")
    lines = ["[[budget]]", f"path = {_quoted(name)}"]
    for metric in METRICS:
        key = f"max_{metric}"
        if key in KEYS:
            value, _ = figure(subject, metric, {})
            if not isinstance(value, str) and (value or metric in NONE_ALLOWED):
                exact = metric in EXACT
                limit = str(value) if exact else f'"{rounded_up(value * (1 + Fraction(room)), METRICS[metric])}"'
                lines.append(f"{key} = {limit}".ljust(36) + f"# today {value:,}")
    return "\n".join(lines) + "\n"


def rounded_up(amount: float | Fraction, kind: Kind) -> str:
    """Print a limit of three digits that is no smaller than the amount: ``130 kB``, ``2.41 M``."""
    whole = -(-Fraction(amount) // 1)
    power = max(len(str(whole)) - 3, 0)
    digits = -(-whole // 10**power) * 10**power
    unit = max((size for size in (0, 3, 6, 9) if digits >= 10**size), default=0)
    number = f"{float(Fraction(digits, 10**unit)):.10g}"
    return f"{number} {SIGNS[kind][unit]}".strip()


def _quoted(text: str) -> str:
    """Return a basic string of TOML; printable text needs no other escapes."""
    return json.dumps(text, ensure_ascii=False)


KEYS = ("max_size", "max_macs", "max_params", "max_activation_bytes", "max_transposes")
SIGNS: dict[Kind, dict[int, str]] = {
    "bytes": {0: "B", 3: "kB", 6: "MB", 9: "GB"},
    "count": {0: "", 3: "k", 6: "M", 9: "G"},
}
HEAD = """\
# What these files may cost; edgel0 check fails when one of them exceeds it.
# kB = 1000 bytes, KiB = 1024. Growth against edgel0-baseline.json is limited by, say,  max_increase = "1 %".
"""
