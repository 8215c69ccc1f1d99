"""How does a report fit into a pull request? Its sentence and its tables as Markdown, without any HTML."""

from __future__ import annotations

from collections.abc import Sequence

from edgel0.report.comparison import figures_table, terms, verdict
from edgel0.report.page import provenance_tables
from edgel0.report.pareto import Entry
from edgel0.report.records import Run
from edgel0.report.sections import key_figures, sections
from edgel0.report.sentence import claims, conditions, sentence
from edgel0.report.tables import Table, in_markdown, markdown_table

LONG = 40  # rows of a table that a person would still read in a pull request


def run_markdown(run: Run) -> str:
    """Return the report of one run."""
    table, _ = key_figures(run)
    parts = [f"## {_headline(run)}", " ".join(map(_prose, conditions(run)))]
    parts += [markdown_table(table)] if table.rows else []
    for section in sections(run):
        if section.ident not in ("trade", "training"):
            parts += [f"### {section.title}", _prose(section.finding), _cut(section.table)]
            parts += [f"> {_prose(note)}" for note in section.notes]
    parts += ["### Where these figures come from", *map(markdown_table, provenance_tables([run]))]
    return "\n\n".join(part for part in parts if part) + "\n"


def comparison_markdown(entries: Sequence[Entry], metric: str) -> str:
    """Return the comparison of several runs."""
    parts = [f"## {_prose(verdict(entries, metric))}", " ".join(map(_prose, terms(entries, metric)))]
    parts.append(markdown_table(figures_table(entries, metric)))
    parts += ["\n".join(f"- {_headline(entry.run)}" for entry in entries), "### Where these figures come from"]
    parts += map(markdown_table, provenance_tables([e.run for e in entries], [e.label for e in entries]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(run: Run) -> str:
    found = [f"**{claim.figure}** {claim.words}" if claim.figure else claim.words for claim in claims(run)]
    if not found:
        return _prose(sentence(run))
    return f"{in_markdown(run.name)}: {', '.join(_known(text) for text in found)}."


def _known(text: str) -> str:
    figure, mark, words = text.rpartition("** ")
    return f"{figure}{mark}{_prose(words)}"


def _prose(text: str) -> str:
    """Return a sentence, in which whatever could do more than show stands in code spans, word by word."""
    return " ".join(_word(word) for word in text.split(" "))


def _word(word: str) -> str:
    core = word.rstrip(",;:.")
    plain = core.strip("()")
    if all(letter.isalnum() or letter in PLAIN for letter in plain):
        return word
    return in_markdown(core) + word[len(core) :]


def _cut(table: Table) -> str:
    shown = Table(table.caption, table.columns, table.rows[:LONG], table.words)
    more = len(table.rows) - LONG
    return markdown_table(shown) + (f"\n\n{more:,} more rows are in the HTML report." if more > 0 else "")


PLAIN = frozenset(".,;:%()+-–−×→'\"=µ?…²")  # noqa: RUF001 - signs of our own sentences that mean nothing in Markdown
