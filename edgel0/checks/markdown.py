"""Verdicts as a Markdown table, for pull requests and the summary of a CI step."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgel0.checks.wording import advice, amount, label, limit_of, percentages, summary
from edgel0.types import Verdict

MARKER = "<!-- edgel0 check -->"  # by which a later comment finds the one to replace
COLUMNS = ("Artefact", "Metric", "Base", "Head", "Δ", "Budget", "Headroom", "Status")
# What begins markup, calls people (@), links to an issue (#), to an address (:/), or becomes a picture (:name:).
SPECIAL = re.compile(r"[\\`*_{}\[\]|~<>&@#$]|:(?=/|[\w+-]+:)")


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return a heading, a table of all limits, and one paragraph for each that does not hold."""
    failed = any(verdict.status == "FAIL" for verdict in verdicts)
    rows = [COLUMNS, (":--", ":--", "--:", "--:", "--:", "--:", "--:", ":--"), *map(_row, verdicts)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"* **{escaped(v.limit.name)}**: {escaped(advice(v))}" for v in verdicts if not v.passed]
    heading = f"### {'❌' if failed else '✅'} edgel0: {escaped(summary(verdicts))}"
    return "\n".join([MARKER, heading, "", *table, *([""] if notes else []), *notes])


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line; what cannot be printed is shown by its number."""
    seen = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    return SPECIAL.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), seen)


def _row(verdict: Verdict) -> tuple[str, ...]:
    """Return the cells of one verdict."""
    limit, bound = verdict.limit, limit_of(verdict)
    room, moved = percentages(verdict)
    arrow = "" if not moved or verdict.value == verdict.baseline else "🔺 " if moved.startswith("+") else "🔽 "
    return (
        escaped(limit.name),
        escaped(label(limit)),
        "" if verdict.baseline is None else escaped(amount(limit, verdict.baseline)),
        ("" if verdict.status == "off" else "missing")
        if verdict.value is None
        else escaped(amount(limit, verdict.value)),
        arrow + escaped(moved),
        "" if bound is None else ("≥ " if limit.bound in ("min", "decrease") else "≤ ") + escaped(amount(limit, bound)),
        escaped(room),
        "❌ missing" if verdict.status == "FAIL" and verdict.value is None else SIGNS[verdict.status],
    )


SIGNS = {"ok": "✅ ok", "off": "off", "warn": "⚠️ warning", "FAIL": "❌ over"}

ENTITIES = {
    "#": "&#35;",
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
    "@": "&#64;",
    "|": "&#124;",
    ":": "&#58;",
    "$": "&#36;",
}
