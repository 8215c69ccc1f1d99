"""How does a report look? One HTML file: no script, no network, its style inside, light and dark, phone and paper."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from edgel0 import __version__
from edgel0.report.markup import Child, Markup, tag
from edgel0.report.plot import figure, rect
from edgel0.report.records import Run
from edgel0.report.section import Section
from edgel0.report.sections import key_figures, sections
from edgel0.report.sentence import claims, conditions, sentence
from edgel0.report.tables import Table, folded, html_table
from edgel0.report.wording import amount, kind_of, share, title_of

BAR = 132.0  # CSS pixels of the bar in a row of figures


def page(run: Run) -> str:
    """Return the report of one run."""
    found = sections(run)
    main = [headline(run), _figures(run), *(section_html(section) for section in found), provenance([run])]
    return document(sentence(run), main)


def document(title: str, main: Sequence[Child]) -> str:
    """Return a whole page. Its policy lets nothing in but its own style, whatever a name in it may hold."""
    style = css()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"edgel0 {__version__}"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    body = tag("body", tag("main", *main))
    return f"<!doctype html>\n{tag('html', tag('head', *head), Markup(chr(10)), body, lang='en')}\n"


def css() -> str:
    """Return the style, without its comments."""
    text = (files("edgel0.report") / "report.css").read_text("utf-8")
    return re.sub(r"/\*.*?\*/\n*", "", text, flags=re.DOTALL)


def headline(run: Run) -> Markup:
    """Open with the sentence, its figures set apart, and what it stands on."""
    found = claims(run)
    parts: list[Child] = []
    for at, claim in enumerate(found):
        figured = [tag("strong", claim.figure.replace(" ", "\xa0")), " "] if claim.figure else []
        parts += [*figured, claim.words, "." if at == len(found) - 1 else ", "]
    words = parts or ["nothing of it was measured."]
    return tag(
        "header",
        tag("p", "edgel0 report", class_="kicker"),
        tag("h1", tag("span", f"{run.name}: ", class_="name"), *words),
        tag("p", " ".join(conditions(run)), class_="terms"),
    )


def _figures(run: Run) -> Markup | None:
    """Set dense beside slim, with a bar in each row that has a ratio."""
    table, bars = key_figures(run)
    if not table.rows:
        return None
    cells = {(at, 3): _bar(*pair, table.rows[at][3]) for at, pair in enumerate(bars) if pair is not None}
    return tag("section", tag("h2", "In figures", id="figures"), html_table(table, cells), class_="figures key")


def _bar(dense: float, slim: float, told: str) -> Markup:
    """Draw slim over dense."""
    most = max(dense, slim) or 1
    shapes = [rect(0, 0, BAR * dense / most, 8, "track"), rect(0, 0, max(BAR * slim / most, 1), 8, "slim")]
    size = {"viewBox": f"0 0 {BAR:.0f} 8", "width": f"{BAR:.0f}", "height": "8"}
    return tag("svg", *shapes, class_="bar", role="img", aria_label=f"{told or share(0)} of dense", **size)


def section_html(section: Section) -> Markup:
    """Write a part of the page: what was found, the figure, the table behind it."""
    words = tag(
        "div",
        tag("h2", section.title, id=section.ident),
        tag("p", section.finding),
        *(tag("p", note, class_="note") for note in section.notes),
        class_="words",
    )
    if section.draw is None:
        return tag(
            "section", words, tag("div", html_table(section.table), class_="shown"), aria_labelledby=section.ident
        )
    drawn = figure(section.ident, section.title, section.told, section.draw)
    return tag(
        "section",
        words,
        tag("div", drawn, folded(section.table), class_="shown"),
        aria_labelledby=section.ident,
    )


def provenance_tables(runs: Sequence[Run], labels: Sequence[str] = ()) -> list[Table]:
    """Return what made the figures: of several runs, which bear ``labels``, what is the same and what differs."""
    names = [*dict.fromkeys(name for run in runs for name, _ in run.facts)]
    facts = [dict(run.facts) | _budget_of(run) for run in runs]
    names += ["budget"] * any("budget" in fact for fact in facts)
    if len(runs) == 1:
        facts[0]["versions"] = ", ".join(f"{name} {version}" for name, version in runs[0].versions)
        names.append("versions")
    else:
        facts = [fact | dict(run.versions) for fact, run in zip(facts, runs, strict=True)]
        names += dict.fromkeys(name for run in runs for name, _ in run.versions)
    rows = tuple((name, *(fact.get(name, "") for fact in facts)) for name in names)
    if len(runs) == 1:
        return [Table("Provenance", ("what", "of this run"), rows, words=(1,))]
    same = tuple(row[:2] for row in rows if len(set(row[1:])) == 1)
    differ = tuple(row for row in rows if len(set(row[1:])) > 1)
    tables = Table("Provenance that differs", ("what", *labels), differ, words=tuple(range(1, len(runs) + 1)))
    found = [tables, Table("Provenance that all share", ("what", "of all runs"), same, words=(1,))]
    return [table for table in found if table.rows]


def _budget_of(run: Run) -> dict[str, str]:
    limits = [f"{amount(row.limit, kind_of(row.metric))} {title_of(row.metric)}" for row in run.budget]
    return {"budget": ", ".join(limits)} if limits else {}


def provenance(runs: Sequence[Run], labels: Sequence[str] = ()) -> Markup:
    """Say at the foot what made the figures, and how each was measured."""
    tables = [
        tag("div", html_table(one), class_="scroll", tabindex="0", role="region", aria_label=one.caption)
        for one in provenance_tables(runs, labels)
    ]
    terms = [item for name, words in METHODS for item in (tag("dt", name), tag("dd", words))]
    return tag(
        "footer",
        tag("h2", "Where these figures come from", id="provenance"),
        *tables,
        tag("h3", "How each was measured"),
        tag("dl", *terms),
        tag("p", f"Made by edgel0 {__version__} from result.json and the files beside it.", class_="note"),
    )


METHODS = (
    ("accuracy", "Share of the test samples whose most probable class is right, one sample at a time."),
    ("MACs", "Multiply-accumulates of one inference (1 MAC = 2 FLOPs), counted on the exported graph."),
    ("parameters and weights", "Counted on the exported graph; weights are the bytes of parameters and buffers."),
    (
        "peak activations",
        "Planned from the order of operators: the largest sum of tensors alive at once, no scratch memory.",
    ),
    ("file size", "Bytes on the disk. 1 KiB = 1024 bytes."),
    (
        "latency",
        "Each file in a process of its own, dense and slim in turn, after a warm-up. p50 is the median of single "
        "inferences, p10 and p90 are the times that a tenth of them stay below and exceed.",
    ),
    (
        "budgets",
        "Limits of training as the run kept them; those of recipe.toml are checked again when the report is made.",
    ),
)
