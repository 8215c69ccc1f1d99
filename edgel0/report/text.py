"""Which table does a terminal show? Dense beside slim, what a model's units are, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgel0.errors import printable
from edgel0.quantities import format_bytes, format_count, format_ms, format_percent
from edgel0.types import Comparison, Count, Measurement

if TYPE_CHECKING:
    from edgel0.devices.boards import Board
    from edgel0.devices.examining import Finding

UNKNOWN = "–"  # noqa: RUF001 - typography for people
BLOCK = 8  # channels that most runtimes compute at once, or half of it
SLOWER = 1.05  # times the float32 file's p50, measured in turns


def grid(*columns: str) -> Table:
    """Return a table whose first column folds names and whose others hold numbers."""
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
    table = grid(result["name"], "dense", "slim", "ratio")
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
    quantized: list[RenderableType] = [_quantized(result), Text("")] if result.get("quantized") else []
    same: list[RenderableType] = [_parity(result["parity"]), Text("")] if result["parity"] else []
    return Group(table, Text(""), *quantized, *same, *(Text(line) for line in _notes(result)))


def _parity(rows: dict[str, Any]) -> Table:
    """Return the table of how far each file is from the model it came from, at most over all samples."""
    table = grid("compared with its model", "model", "at most", "of largest", "top-1", "samples")
    for name, row in rows.items():
        model = row["reference"].removeprefix("the ").removesuffix(" model")
        differs = (f"{row[key]:.1e}" for key in ("max_abs", "relative"))
        table.add_row(Text(name), model, *differs, f"{row['top1']:.1%}", f"{row['samples']:,}")
    return table


def _quantized(result: dict[str, Any]) -> Table:
    """Return the table of files in fewer bits, each beside the float32 file of its format."""
    table = grid("slim, in fewer bits", "size", "accuracy", "p50", "of float32")
    for name, row in result["quantized"].items():
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        times = ["", ""]
        if row["latency_ms"]:
            times = [format_ms(row["latency_ms"]["p50"]), f"{row['latency_ms']['p50'] / row['float32_p50_ms']:.2f}"]
        table.add_row(name.removeprefix("slim."), _kib(row["bytes"]), accuracy, *times)
    return table


def sensitivities(rows: Sequence[Sequence[Any]], kept: Sequence[str]) -> RenderableType:
    """Return the table of what each layer costs as an integer one, the most sensitive first."""
    table = grid("layer", "kind", "signal to noise", "")
    for layer, kind, decibels in rows:
        table.add_row(Text(layer.rstrip(";")), Text(kind), f"{decibels:.1f} dB", "float32" if layer in kept else "")
    return table


def slower(name: str, row: dict[str, Any]) -> str:
    """Say in numbers, and why, that a file in fewer bits is slower than its float32 twin; "" if it is not."""
    if not row["latency_ms"] or row["latency_ms"]["p50"] <= SLOWER * row["float32_p50_ms"]:
        return ""
    outside = ", ".join(row["outside"] or ())
    if row["partitions"] is not None and (row["partitions"] > 1 or outside):
        why = f"it runs in {row['partitions']} partitions, with {outside or 'nothing'} outside of the delegate"
    else:
        why = (
            "its integer kernels and the conversions around them gain nothing on this processor; measure on the target"
        )
    return (
        f"{name} is slower than float32 here: {format_ms(row['latency_ms']['p50'])} against "
        f"{format_ms(row['float32_p50_ms'])}; {why}"
    )


def no_faster(result: dict[str, Any]) -> list[str]:
    """Say in numbers where the slim network gained no time on the dense one, and what may mend that."""
    dense, slim = result["dense"], result["slim"]
    groups = [now for now, _ in result["mask"]["groups"].values() if now]
    odd = sum(now % BLOCK > 0 for now in groups)
    why = (
        f"runtimes compute channels in blocks, and {odd} of {len(groups)} groups keep no multiple of {BLOCK}: "
        f"round_to = {BLOCK} under [limits] keeps blocks whole"
        if odd
        else "edgel0 profile --operators tells which operators take it"
    )
    pairs = [(name, before["p50"], slim["latency_ms"][name]["p50"]) for name, before in dense["latency_ms"].items()]
    return [
        f"slim is no faster than dense in {name} here: {format_ms(after)} against {format_ms(before)}; {why}"
        for name, before, after in pairs
        if after * SLOWER > before
    ]


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
    lines += no_faster(result)
    lines += [text for name, row in result.get("quantized", {}).items() if (text := slower(name, row))]
    if profile["runtimes"]:
        runtimes = ", ".join(f"{name} {version}" for name, version in sorted(profile["runtimes"].items()))
        lines.append(f"measured interleaved on {profile['board']}, {profile['threads']} thread(s); {runtimes}")
    return lines


def measurements(rows: Sequence[Measurement], operators: int = 10) -> RenderableType:
    """Return the tables of what was measured: times, memory, and the ``operators`` that take most time, if asked."""
    times = grid("file", "p10", "p50", "± 95 %", "p90", "p99", "marks")
    memory = grid("file", "load", "file bytes", "weights", "activations", "peak RSS")
    for row in rows:
        times.add_row(
            Text(_file(row)),
            *(_time(value) for value in (row.p10_ms, row.p50_ms)),
            f"{_spread(row):.1%}" if row.interval_ms else UNKNOWN,
            *(_time(value) for value in (row.p90_ms, row.p99_ms)),
            "\n".join(row.marks),
        )
        memory.add_row(
            Text(_file(row)),
            format_ms(row.load_ms),
            _kib(row.file_bytes),
            *("unknown" if size is None else _kib(size) for size in (row.weight_bytes, row.activation_bytes)),
            UNKNOWN if row.peak_rss_bytes is None else f"{row.peak_rss_bytes / 2**20:,.0f} MiB",
        )
    first = rows[0]
    lines = [Text(f"{first.board}; {', '.join(sorted({r.runtime for r in rows}))}; {first.threads} thread(s)")]
    lines += [Text(f"{_file(row)}: {note}") for row in rows for note in row.notes]
    tables = [part for row in rows if row.operators for part in (Text(""), _operators(row, operators))]
    return Group(times, Text(""), memory, Text(""), *lines, *tables)


def _spread(row: Measurement) -> float:
    """Return how far the interval reaches from the median, as a share of it."""
    low, high = row.interval_ms or (row.p50_ms, row.p50_ms)
    return max(high - row.p50_ms, row.p50_ms - low) / row.p50_ms if row.p50_ms else 0.0


def _operators(row: Measurement, most: int) -> RenderableType:
    """Return the table of the operators that take most time, and what is left as one row."""
    ranked = sorted(row.operators, key=lambda each: -each.ms)
    whole = sum(each.ms for each in ranked)
    table = grid(f"operator of {_file(row)}", "kind", "time", "share")
    for each in ranked[:most]:
        table.add_row(Text(each.name), Text(each.kind), format_ms(each.ms), format_percent(each.ms / (whole or 1)))
    if rest := ranked[most:]:
        left = sum(each.ms for each in rest)
        table.add_row(f"{len(rest)} more", "", format_ms(left), format_percent(left / (whole or 1)))
    told = f"in all {format_ms(whole)}: the profiler adds to each operator, so only the shares count"
    return Group(table, Text(told))


def comparison(found: Comparison) -> RenderableType:
    """Return the tables of both files and one sentence on which is faster."""
    low, high = found.interval
    between = f"{found.ratio:.3f} of its time (95 %: {low:.3f} to {high:.3f}, {found.pairs} pairs of rounds)"
    return Group(measurements([found.a, found.b]), Text(""), Text(f"{_verdict(found)}: B takes {between}"))


def _verdict(found: Comparison) -> str:
    a, b = (f"{_file(row)} ({name})" for row, name in ((found.a, "A"), (found.b, "B")))
    if found.difference == "none":
        return f"no difference between {a} and {b} beyond {found.threshold:.0%}"
    factor = 1 / found.ratio if found.difference == "faster" else found.ratio
    return f"{b} is {found.difference} than {a}, by a factor of {factor:.2f}"


def _time(ms: float) -> str:
    return format_ms(ms) if ms else UNKNOWN


def _file(row: Measurement) -> str:
    return row.artifact.rpartition("/")[2]


def board_table(boards: Sequence[Board], states: Sequence[str]) -> RenderableType:
    """Return the table of boards: by which way each is reached, where, and whether it answers."""
    table = grid("board", "by", "state")
    table.columns[1].justify = table.columns[2].justify = "left"
    table.columns[2].no_wrap, table.columns[2].overflow = False, "fold"
    for board, state in zip(boards, states, strict=True):
        table.add_row(*(Text(printable(part)) for part in (board.name, board.transport, state)))
    return table


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """Return what was looked at on a board, what was found, and below it how to mend what is wrong."""
    table = grid("", "found", "")
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    for finding in findings:
        table.add_row(finding.what, Text(printable(finding.found)), "to mend" if finding.mend else "ok")
    advice = [Text(printable(f"{finding.what}: {finding.mend}")) for finding in findings if finding.mend]
    return Group(table, *([Text("")] if advice else []), *advice)


def counts_table(rows: Sequence[Count]) -> RenderableType:
    """Return one row per file and core: what one inference executes, beside the first row on that core."""
    table = grid("file", "core", "instructions", "accesses", "of first", "spread")
    first: dict[str, Count] = {}
    for row in rows:
        base = first.setdefault(row.core, row)
        table.add_row(
            Text(Path(row.artifact).name),
            row.core,
            format_count(row.instructions),
            format_count(row.accesses),
            "" if base is row else f"{row.instructions / max(base.instructions, 1):.3f}",
            f"{row.spread:.3%}",
        )
    runtimes = ", ".join(sorted({row.runtime for row in rows}))
    lines = [
        f"per inference, in {runtimes}, one thread; {', '.join(sorted({row.system for row in rows}))}",
        "Instructions are not milliseconds: caches, memory and clock are not emulated. They repeat exactly, whatever "
        "else the computer does: compare files on one core, or hold a budget in CI.",
    ]
    return Group(table, Text(""), *map(Text, lines))


WIDE = 14  # columns of a stage's bar
NAME = 20  # columns of a stage's name
SMALL = 0.01  # stages without units and with less than this share of everything are shown as one


def inspection(found: dict[str, Any], groups: bool = False) -> RenderableType:
    """Return a model's stages (or all its ``groups``) with what can go of each, and what is pinned and why.

    ``found`` is what :func:`edgel0.inspecting.examine` says.
    """
    count = len(found["groups"])
    lines = [
        f"{found['units']:,} units in {count} group{'s' * (count != 1)}; MACs {format_count(found['cost']['macs'])}, "
        f"parameters {format_count(found['cost']['params'])}, weights {format_bytes(found['cost']['weight_bytes'])}.",
        f"Removable: {_share(1 - found['least']['macs'])} of the MACs and {_share(1 - found['least']['params'])} of "
        "the parameters, one unit kept wherever one is needed.",
    ]
    if groups or "stages" not in found:
        table = _groups(found["groups"])
        lines.append("A group's shares are what goes when all its units but one do.")
    else:
        table = _stages(found["stages"])
        lines.append("Shares are of the whole model: █ can go, ░ stays. --all lists every group.")
    lines += _reasons(found["pins"])
    if found.get("unknown"):
        lines.append(
            f"unknown: {', '.join(found['unknown'])}; a row in FLOW frees what such an operator pins, as "
            "CONTRIBUTING.md shows."
        )
    return Group(*_title(found), table, Text(""), *(Text(line) for line in lines))


def _title(found: dict[str, Any]) -> Iterator[Text]:
    if "model" in found:
        inputs = ", ".join(
            (f"{one['name']}=" if one["name"] else "") + f"{'x'.join(map(str, one['shape']))} {one['dtype']}"
            for one in found["inputs"]
        )
        yield Text(f"{found['model']} on {inputs}")
        yield Text("")


def _groups(groups: Sequence[dict[str, Any]]) -> Table:
    table = grid("group", "units", "MACs", "parameters", "")
    for group in groups:
        bar = "█" * round(20 * group["macs"]) or ("▏" if group["macs"] else "")
        table.add_row(Text(group["name"]), f"{group['units']:,}", _share(group["macs"]), _share(group["params"]), bar)
    table.columns[-1].justify = "left"
    return table


def _stages(stages: Sequence[dict[str, Any]]) -> Table:
    table = grid("stage", "units", "MACs", "", "parameters", "")
    most = {metric: max((stage[metric] for stage in stages), default=0.0) or 1.0 for metric in ("macs", "params")}
    small = [stage for stage in stages if not stage["units"] and max(stage[metric] for metric in most) < SMALL]
    shown = [stage for stage in stages if len(small) < 2 or stage not in small]
    if len(shown) < len(stages):
        rest: dict[str, Any] = {"name": f"{len(small)} small parts", "units": 0, "removable": {}}
        for metric in most:
            rest[metric] = sum(stage[metric] for stage in small)
            rest["removable"][metric] = sum(stage["removable"][metric] for stage in small)
        shown.append(rest)
    for stage in shown:
        name = stage["name"]
        cells: list[RenderableType] = [
            Text(name if len(name) <= NAME else f"…{name[1 - NAME :]}"),
            f"{stage['units']:,}",
        ]
        for metric, scale in most.items():
            cells += [_share(stage[metric]), _bar(stage[metric] / scale, stage["removable"][metric] / scale)]
        table.add_row(*cells)
    for column in (table.columns[3], table.columns[5]):
        column.justify = "left"
    return table


def _bar(whole: float, goes: float) -> str:
    """Draw a part of the longest bar, filled as far as it can go."""
    if not whole:
        return ""
    full = max(round(WIDE * whole), 1)
    filled = round(full * goes / whole)
    return "█" * filled + "░" * (full - filled)


def _share(value: float) -> str:
    """Write a share in percent; only nothing is 0 %, and only all of it is 100 %."""
    if 0 < value < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= value < 1 else f"{value:.1%}"


def _reasons(pins: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Tell each reason once: how many channels it pinned, by which operator, where first, and at which line."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for pin in pins:
        kinds.setdefault((pin["reason"], pin["operator"]), []).append(pin)
    for (reason, operator), same in sorted(kinds.items(), key=lambda kind: -sum(pin["labels"] for pin in kind[1])):
        first = same[0]
        where = f" in {first['module']}" if first["module"] else ""
        if len(same) > 1:
            where = f" at {len(same)} places" + (f", first in {first['module']}" if first["module"] else "")
        source = f" ({_short(first['source'])})" if first["source"] else ""
        count = sum(pin["labels"] for pin in same)
        yield f"pinned: {f'{count:,}' if count else 'nothing more'} by {operator}{where}: {reason}{source}"


def _short(source: str) -> str:
    """Write a source line with its file's path from here, or with the end of the path."""
    file, _, rest = source.partition(":")
    path = Path(file)
    if Path.cwd() in path.parents:
        return f"{path.relative_to(Path.cwd())}:{rest}"
    return f"{'/'.join(path.parts[-3:])}:{rest}" if len(path.parts) > 3 else source
