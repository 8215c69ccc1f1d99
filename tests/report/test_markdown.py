"""The report of a pull request is Markdown alone: tables that render, names that do nothing."""

import re

import pytest

from edgel0.report.tables import Table, in_markdown, markdown_table
from edgel0.report.writing import render
from report.runs import HOSTILE, STORED, folder, result, samples


def tables(text):
    """Each table's rows of cells, as GitHub splits them: a pipe behind a backslash ends no cell."""
    for block in re.split(r"\n\n+", text):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("|"):
            yield [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("name", ["plain", HOSTILE])
def test_every_table_renders(tmp_path, name):
    found = result(name)
    found["mask"]["groups"] = {name: [1, 2], f"{name}`": [0, 3]}
    found["versions"] = {name: name}
    for texts in (
        render([folder(tmp_path / "a", found, samples(found))]),
        render([folder(tmp_path / "a", found), STORED]),
    ):
        text = texts["--markdown"]
        rows = list(tables(text))
        assert rows
        for table in rows:
            assert len({len(row) for row in table}) == 1 and len(table) > 2
            assert all(re.fullmatch(r"-{2,}-?:?", cell) for cell in table[1])
        spans = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", text)
        assert not re.search(r"[<\[@]|javascript", spans), "outside of code spans no name may be markup"


def test_the_stored_run_has_its_tables():
    text = render([STORED])["--markdown"]
    assert text.startswith("## mnist-lenet5: **12.5 ×** fewer MACs, **8.7 ×** smaller, ")  # noqa: RUF001
    found = list(tables(text))
    assert [row[0] for row in found[0][2:5]] == ["accuracy", "MACs", "parameters"]
    assert ["conv1", "20", "5", "25.0%"] in found[2]
    assert "<" not in text and text.endswith("|\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1", "conv1"),
        ("a_b", "`a_b`"),
        ("a|b", "`a\\|b`"),
        ("`", "`` ` ``"),
        ("a``b", "```a``b```"),
        ("@all", "`@all`"),
        ("12.5 %", "12.5 %"),
    ],
)
def test_names_stand_in_code_where_they_must(text, shown):
    assert in_markdown(text) == shown


def test_columns_are_padded():
    made = markdown_table(Table("x", ("name", "n"), (("a", "1"), ("long name", "1,000"))))
    assert made.splitlines() == [
        "| name      |     n |",
        "| --------- | ----: |",
        "| a         |     1 |",
        "| long name | 1,000 |",
    ]
