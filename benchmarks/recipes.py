"""What came of the recipes? A table of the runs in a folder: ``python -m benchmarks.recipes runs --store FILE``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgel0.quantities import format_count

KINDS = (("onnx", ".onnx"), ("tflite", ".tflite"))


def main() -> None:
    """Read every run's result.json and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="the folder that edgel0 run --out names")
    parser.add_argument("--store", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    results = [json.loads(file.read_text("utf-8")) for file in sorted(options.runs.glob("*/result.json"))]
    text = table(results)
    print(text)
    if options.store:
        options.store.write_text(text, encoding="utf-8")


def table(results: list[dict[str, Any]]) -> str:
    """Return the table: dense, slim in float32, and the integer files of the slim network."""
    versions = sorted({f"edgel0 {r['versions']['edgel0']}, torch {r['versions']['torch']}" for r in results})
    lines = [
        "# The recipes' runs",
        "",
        f"Made by `python -m benchmarks.recipes` from results of `edgel0 run export/NAME.toml`; {'; '.join(versions)}.",
        "Accuracy is on the recipe's test data, that of int8 files on as many samples as the last column says. Parity",
        "is the largest absolute difference of a float32 file from the masked model.",
        "",
        "| recipe | MACs | accuracy dense → slim | int8 ONNX | int8 TFLite | kept float | parity | samples |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    return "\n".join([*lines, *map(row, results)]) + "\n"


def row(result: dict[str, Any]) -> str:
    """Return one run's line."""
    dense, slim = result["dense"], result["slim"]
    quantized = {kind: result["quantized"].get(f"slim.static_wi8_ai8{suffix}") for kind, suffix in KINDS}
    parity = [result["parity"][f"slim{suffix}"] for _, suffix in KINDS]
    kept = [
        f"{kind}: {len(entry['kept_layers'])}" for kind, entry in quantized.items() if entry and entry["kept_layers"]
    ]
    cells = [
        result["name"],
        f"{format_count(dense['macs'])} → {format_count(slim['macs'])}",
        f"{dense['accuracy']:.2%} → {slim['accuracy']:.2%}",
        *(f"{entry['accuracy']:.2%}" if entry else "" for entry in quantized.values()),
        ", ".join(kept) or "none",
        f"{max(entry['max_abs'] for entry in parity):.1e}",
        str(parity[0]["samples"]),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
