"""Put the demo's printed result into the README: ``python -m benchmarks.readme RESULT.json README.md``."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from edgel0.report.text import summary


def main(result: Path, readme: Path) -> None:
    """Replace what stands between the two markers."""
    found = json.loads(result.read_text(encoding="utf-8"))
    text = io.StringIO()
    Console(file=text, width=80).print(summary(found))
    shown = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("edgel0", "torch"))
    block = f"```\n{shown}\n```\n\n(edgel0's own figures of one run; {versions}, seed {found['seed']})\n"
    old = readme.read_text(encoding="utf-8")
    new = re.sub(
        r"(<!-- demo: .*? -->\n).*?(<!-- end of demo -->)", lambda m: m[1] + block + m[2], old, flags=re.DOTALL
    )
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
