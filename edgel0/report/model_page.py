"""What is in a file, as a page? One HTML file without scripts, fonts or pictures from elsewhere, light and dark."""

from __future__ import annotations

from html import escape
from typing import Any

from edgel0.errors import printable
from edgel0.quantities import format_bytes, format_count, format_percent
from edgel0.report.layers import facts


def page(told: dict[str, Any]) -> str:
    """Return the page of what :func:`edgel0.report.layers.described` tells; every name in it is escaped."""
    name = _plain(told["file"])
    return PAGE.format(
        title=name,
        style=STYLE,
        totals="".join(f"<div><dt>{_plain(key)}</dt><dd>{_plain(value)}</dd></div>" for key, value in _totals(told)),
        unknown="".join(f"<p class=note>unknown: {_plain(each)}</p>" for each in told["unknown"]),
        rows="".join(map(_row, told["layers"])),
        origin=_origin(told),
        sha256=told["sha256"],
    )


def _totals(told: dict[str, Any]) -> list[tuple[str, str]]:
    totals = told["totals"]
    peak = totals["activation_bytes"]
    return [
        ("file", format_bytes(told["bytes"] + sum(told["external"].values()))),
        ("MACs", "unknown" if totals["macs"] is None else format_count(totals["macs"])),
        ("parameters", format_count(totals["params"])),
        ("weights", format_bytes(totals["weight_bytes"])),
        ("peak activations, planned, without scratch memory", "unknown" if peak is None else format_bytes(peak)),
        ("operators", format_count(totals["operators"])),
        ("transposes", format_count(totals["transposes"])),
        ("format", f"{told['format']} {told['opset']}"),
    ]


def _row(row: dict[str, Any]) -> str:
    shape = row["outputs"][0]["shape"] if row["outputs"] else None
    cells = (
        "?" if shape is None else " × ".join(map(str, shape)),  # noqa: RUF001 - typography for people
        format_count(row["weight_bytes"]) if row["weight_bytes"] else "",
        "?" if row["macs"] is None else format_count(row["macs"]) if row["macs"] else "",
    )
    share = row["share"]
    bar = f'<i style="width:{100 * share:.2f}%"></i>{format_percent(share)}' if row["macs"] else ""
    name = f"<b>{_plain(row['kind'])}</b> <span>{_plain(row['name'].removeprefix(row['kind']))}</span>"
    return f"<tr><td>{name}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + f"<td class=bar>{bar}</td></tr>\n"


def _origin(told: dict[str, Any]) -> str:
    if told["provenance"] is None:
        return "<p>No provenance of edgel0 is in this file.</p>"
    rows = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts(told["provenance"])
    )
    return f"<dl class=facts>{rows}</dl>"


def _plain(text: str) -> str:
    return escape(printable(text))


STYLE = """
:root{color-scheme:light dark;--ink:#1d2329;--soft:#5b6670;--line:#d9dee3;--back:#fff;--bar:#cfe3f7}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5b0;--line:#343b42;--back:#15181b;--bar:#23486b}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 3rem;max-width:62rem;color:var(--ink);background:var(--back);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.sha{color:var(--soft);font:12px ui-monospace,monospace;overflow-wrap:anywhere;margin:.25rem 0 1.5rem}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.75rem 1.5rem;margin:0}
dt{color:var(--soft);font-size:13px}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.facts{display:block}.facts div{display:grid;grid-template-columns:minmax(8rem,14rem) 1fr;gap:1rem;padding:.2rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem .3rem 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:500;font-size:13px}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:9rem}
td span{color:var(--soft)}.bar{position:relative;min-width:5rem}
.bar i{position:absolute;right:0;top:3px;bottom:3px;background:var(--bar);z-index:-1}td.bar{z-index:0}
.note{color:var(--soft)}
@media(max-width:40rem){th:nth-child(2),td:nth-child(2){display:none}td,th{font-size:13px}.bar{min-width:3.5rem}}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1><p class="sha">sha256 {sha256}</p>
<dl>{totals}</dl>{unknown}
<h2>Layers, in the order they run</h2>
<div class="wide"><table><thead><tr><th>layer</th><th>output</th><th>weights, B</th><th>MACs</th>
<th>share</th></tr></thead><tbody>
{rows}</tbody></table></div>
<h2>Where it came from</h2>
{origin}
</body></html>
"""
