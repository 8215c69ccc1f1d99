"""Formats: what people and programs see."""

import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgel0.checks.formats import FORMATS
from edgel0.types import Limit, Verdict

CONFIG = {"config": "edgel0.toml"}
LONG = (
    "the keyword spotter of the third generation, as exported for the Raspberry Pi 4/model-with-a-very-long-name.onnx"
)


def verdict(name, metric, maximum, value, reason="", line=12, **qualifiers):
    limit = Limit(name, f"dist/{name}.onnx", metric, maximum, "as written", CONFIG | qualifiers, line)
    return Verdict(limit, value, value is not None and value <= maximum, reason)


GOOD = verdict("kws", "size", 120_000, 90_000)
HEAVY = verdict(
    "kws", "macs", 1_600_000, 2_000_000, "MACs: 2,000,000 exceeds the limit of 1,600,000 by 400,000 or 25.0 %"
)
SLOW = verdict("pose", "latency", 5.0, 5.25, "latency p90: too slow", 20, stat="p90", runtime="onnxruntime 1.32.0")
GONE = verdict("gone", "size", 120_000, None, "size is unknown: file is missing", None)
ALL = [GOOD, HEAVY, SLOW, GONE]


def rendered(verdicts, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(FORMATS["text"](verdicts))
    return console.file.getvalue()


def text(verdicts):
    lines = [line.rstrip() for line in rendered(verdicts).splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


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
            {"name": "kws", "path": "dist/kws.onnx", "metric": "size", "value": 90_000, "limit": 120_000,
             "headroom": 30_000, "passed": True, "reason": ""},
            {"name": "kws", "path": "dist/kws.onnx", "metric": "macs", "value": 2_000_000, "limit": 1_600_000,
             "headroom": -400_000, "passed": False, "reason": HEAVY.reason},
            {"name": "pose", "path": "dist/pose.onnx", "metric": "latency", "value": 5.25, "limit": 5.0,
             "headroom": -0.25, "passed": False, "reason": "latency p90: too slow"},
            {"name": "gone", "path": "dist/gone.onnx", "metric": "size", "value": None, "limit": 120_000,
             "headroom": None, "passed": False, "reason": "size is unknown: file is missing"},
        ],
    },
}  # fmt: skip


def test_every_format_has_a_case():
    assert set(FORMATS) == set(CASES)


def test_text():
    assert text(ALL) == CASES["text"]


def test_json_in_a_stable_order_with_whole_bytes():
    written = FORMATS["json"](ALL)
    assert written == json.dumps(CASES["json"], indent=2)


def test_json_of_floats_that_mean_whole_bytes():
    row = json.loads(FORMATS["json"]([verdict("a", "size", 1000.0, 900.0)]))["checks"][0]
    assert (str(row["value"]), str(row["limit"]), str(row["headroom"])) == ("900", "1000", "100")


def test_json_headroom_has_no_binary_noise():
    row = json.loads(FORMATS["json"]([verdict("a", "latency", 0.3, 0.1)]))["checks"][0]
    assert row["headroom"] == 0.2


@pytest.mark.parametrize("name", ["a", LONG, "x" * 300, "模型" * 60, "[red]not markup[/red] :smile:"])
@pytest.mark.parametrize("value", [1, 123_456_789, 2**40])
def test_80_columns_hold_every_row_whole(name, value):
    rows = [verdict(name, metric, 2**39, value, f"{metric} of {name}") for metric in ("size", "macs", "params")]
    rows.append(
        verdict(
            name, "latency", 12_345.6, min(value, 99_999.0), stat="p90", runtime="onnxruntime-with-a-long-name 1.32.0"
        )
    )
    shown = rendered(rows)
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert "…" not in shown
    first = shown.splitlines()[2]
    for cell in (f" {value:,} B ", " 549,755,813,888 B ", " ok" if value <= 2**39 else " FAIL"):
        assert cell in first
    folded = "".join(line.split("  ")[0].strip() for line in shown.splitlines())
    assert name.replace(" ", "") in folded.replace(" ", "")


def test_only_failing_rows_are_coloured():
    shown = rendered(ALL, force_terminal=True, color_system="standard", no_color=False)
    red = [line for line in shown.splitlines() if "\x1b[31m" in line]
    assert any("2,000,000" in line for line in red)
    assert not any("90,000 B" in line for line in red)


def test_a_limit_of_zero_has_no_percentage():
    assert "0 B" in rendered([verdict("a", "size", 0, 5, "x")])
