"""Which table does a terminal show? Dense beside slim, what a model's units are, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgel0.quantities import format_bytes, format_count, format_ms, format_percent
from edgel0.types import Measurement


def _grid(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(Text(columns[0]), overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _ratio(dense: float, slim: float) -> str:
    return f"{dense / slim:.1f} ×" if slim else "–"  # noqa: RUF001 - typography for people


def summary(result: dict[str, Any]) -> RenderableType:
    """Return the table of a run's ``result.json``: dense | slim | ratio."""
    dense, slim = result["dense"], result["slim"]
    table = _grid(result["name"], "dense", "slim", "ratio")
    points = (slim["accuracy"] - dense["accuracy"]) * 100
    table.add_row("accuracy", f"{dense['accuracy']:.2%}", f"{slim['accuracy']:.2%}", f"{points:+.2f} points")
    for key, name in (("macs", "MACs"), ("params", "parameters")):
        table.add_row(name, format_count(dense[key]), format_count(slim[key]), _ratio(dense[key], slim[key]))
    for key, name in (("weight_bytes", "weights"), ("activation_bytes", "peak activations")):
        table.add_row(name, _kib(dense[key]), _kib(slim[key]), _ratio(dense[key], slim[key]))
    for name, before in dense["files"].items():
        suffix = name.removeprefix("dense")
        after = slim["files"][f"slim{suffix}"]
        table.add_row(f"{suffix} file", _kib(before), _kib(after), _ratio(before, after))
    for runtime, before in dense["latency_ms"].items():
        after = slim["latency_ms"][runtime]
        for stat in ("p50", "p90"):
            table.add_row(
                f"{runtime} {stat}", format_ms(before[stat]), format_ms(after[stat]), _ratio(before[stat], after[stat])
            )
    return Group(table, Text(""), *(Text(line) for line in _notes(result)))


def _kib(count: int) -> str:
    return f"{count / 1024:,.1f} KiB"


def _notes(result: dict[str, Any]) -> list[str]:
    mask, profile = result["mask"], result["profile"]
    kept = ", ".join(f"{name} {now} of {size}" for name, (now, size) in list(mask["groups"].items())[:6])
    more = "" if len(mask["groups"]) <= 6 else f" … ({len(mask['groups'])} groups, all in result.json)"
    lines = [f"kept: {kept}{more}"]
    for metric, row in result["budget"].items():
        share = format_percent(row["slim"] / row["limit"])
        lines.append(f"budget: {row['slim']:,.0f} of {row['limit']:,.0f} {metric} ({share})")
    for name, row in result["parity"].items():
        lines.append(
            f"{name}: within {row['max_abs']:.1e} of {row['reference']}, same top-1 on {row['top1']:.1%} of "
            f"{row['samples']:,} samples"
        )
    if profile["runtimes"]:
        runtimes = ", ".join(f"{name} {version}" for name, version in sorted(profile["runtimes"].items()))
        lines.append(f"measured interleaved on {profile['board']}, {profile['threads']} thread(s); {runtimes}")
    return lines


def measurements(rows: Sequence[Measurement]) -> RenderableType:
    """Return one row per measured file."""
    table = _grid("file", "p10", "p50", "p90", "load", "peak RSS", "size")
    for row in rows:
        table.add_row(
            Text(_file(row)),
            *(format_ms(value) for value in (row.p10_ms, row.p50_ms, row.p90_ms, row.load_ms)),
            "–" if row.peak_rss_bytes is None else f"{row.peak_rss_bytes / 2**20:,.0f} MiB",  # noqa: RUF001 - as above
            _kib(row.file_bytes),
        )
    first = rows[0]
    lines = [Text(f"{first.board}; {', '.join(sorted({r.runtime for r in rows}))}; {first.threads} thread(s)")]
    lines += [Text(f"{_file(row)}: {note}") for row in rows for note in row.notes]
    return Group(table, Text(""), *lines)


def _file(row: Measurement) -> str:
    return row.artifact.rpartition("/")[2]


def inspection(found: dict[str, Any]) -> RenderableType:
    """Return the groups of a model with their share of the cost, and what is pinned and why."""
    table = _grid("group", "units", "MACs", "parameters", "")
    for group in found["groups"]:
        bar = "█" * round(20 * group["macs"]) or ("▏" if group["macs"] else "")
        table.add_row(
            Text(group["name"]), f"{group['units']:,}", f"{group['macs']:.1%}", f"{group['params']:.1%}", Text(bar)
        )
    table.columns[-1].justify = "left"
    lines = [
        f"{found['units']:,} units in {len(found['groups'])} groups; MACs {format_count(found['cost']['macs'])}, "
        f"parameters {format_count(found['cost']['params'])}, weights {format_bytes(found['cost']['weight_bytes'])}.",
        f"At the least, one unit wherever one is needed: {found['least']['macs']:.1%} of the MACs and "
        f"{found['least']['params']:.1%} of the parameters.",
        "A group's shares are what goes when all its units but one do.",
    ]
    for pin in found["pins"]:
        where = f" in {pin['module']}" if pin["module"] else ""
        source = f" ({pin['source']})" if pin["source"] else ""
        lines.append(f"pinned: {pin['labels']:,} by {pin['operator']}{where}: {pin['reason']}{source}")
    return Group(table, Text(""), *(Text(line) for line in lines))
