"""What do a report and the terminal's table look like? The README's two pictures, from the run that is stored for them.

``python -m benchmarks.screenshots`` makes them in docs/pictures; it needs a Chromium (or its path in CHROMIUM) and no
network. The letters are those of the machine; Inter is taken where it is installed. ``--verify`` makes them as well,
keeps none, and is content where there is no Chromium: what CI runs.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image  # Matplotlib brings it
from rich.console import Console, Group
from rich.table import Table
from rich.terminal_theme import TerminalTheme

from benchmarks.browser import Browser, find
from edgel0.checks.config import read_limits
from edgel0.checks.formats import FORMATS
from edgel0.report.text import summary
from edgel0.report.writing import render
from edgel0.staging import RESULT, write
from edgel0.types import Limit, Verdict

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
STORED = PICTURES / "mnist-lenet5"
RECIPE = ROOT / "export" / "mnist-lenet5.toml"
LARGEST = 200_000  # bytes of a picture
WIDTH, HEIGHT = 1200, 830  # CSS pixels of the report's head
COLUMNS = 80
DARK = TerminalTheme((20, 23, 26), (233, 235, 237), [(48, 54, 61)] * 8, [(162, 171, 180)] * 8)
TERMINAL = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>edgel0 run</title><style>
body {{ margin: 0; width: fit-content; background: {background}; }}
pre {{ margin: 0; padding: 28px 32px; color: {foreground}; }}
pre, code {{ font: 15px/1.4 "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
{stylesheet}
</style></head><body><pre>{code}</pre></body></html>"""


def pictures(folder: Path, program: str) -> list[Path]:
    """Make both pictures in a folder; each is a PNG at twice the size that is shown."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Browser(program) as browser:
        page = Path(place) / "page.html"
        page.write_text(render([STORED])["--output"], encoding="utf-8")
        browser.open(page, WIDTH, HEIGHT, scale=1.5)
        report = browser.picture({"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT})
        page.write_text(terminal(json.loads((STORED / RESULT).read_text(encoding="utf-8"))), encoding="utf-8")
        browser.open(page, WIDTH, scale=1.5)
        box = browser.run(
            "(b => ({x: 0, y: 0, width: b.width, height: b.height}))(document.body.getBoundingClientRect())"
        )
        made = {"report.png": squeezed(report), "terminal.png": squeezed(browser.picture(box))}
        complaints = list(browser.messages)
    if complaints:
        raise RuntimeError(f"the browser complains: {complaints}")
    for name, content in made.items():
        if len(content) > LARGEST:
            raise RuntimeError(f"{name} has {len(content):,} bytes; at most {LARGEST:,} belong into the repository")
        write(folder / name, content)
    return [folder / name for name in made]


def terminal(result: dict[str, Any]) -> str:
    """Return a page with the tables that ``edgel0 run`` prints at its end; its notes would be longer than they are."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, highlight=False)
    checked = FORMATS["text"]([_verdict(limit, result) for limit in read_limits(RECIPE, strict=False)])
    told = summary(result)
    assert isinstance(told, Group)
    console.print("$ edgel0 run export/mnist-lenet5.toml", style="dim")
    for table in (part for part in told.renderables if isinstance(part, Table)):
        console.print()
        console.print(table)
    console.print()
    console.print(checked)
    return console.export_html(theme=DARK, code_format=TERMINAL)


def _verdict(limit: Limit, result: dict[str, Any]) -> Verdict:
    """Hold a limit of the recipe against the stored figure of its file, which itself is not stored."""
    value = result["slim"]["files"][limit.path] if limit.metric == "size" else result["slim"][limit.metric]
    return Verdict(limit, value, value <= limit.maximum)


def size(picture: bytes) -> tuple[int, int]:
    """Return the width and height of a PNG, in its own pixels."""
    wide, high = struct.unpack(">II", picture[16:24])
    return wide, high


def squeezed(picture: bytes) -> bytes:
    """Return a PNG of 256 colours, which is all that text on one ground has; a third of the bytes."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as found:
        found.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> None:
    """Make the pictures, and say what was made."""
    program, verify = find(), "--verify" in sys.argv[1:]
    if program is None:
        told = "there is no Chromium to make pictures with; install one, or name it in CHROMIUM."
        raise SystemExit(told) if not verify else SystemExit(print(f"skipped: {told}"))
    with tempfile.TemporaryDirectory() as place:
        for path in pictures(Path(place) if verify else PICTURES, program):
            wide, high = size(path.read_bytes())
            print(f"{path.name}: {wide} x {high}, {path.stat().st_size:,} B")


if __name__ == "__main__":
    main()
