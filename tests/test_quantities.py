"""Quantities: every unit, every refusal, and what is printed reads back as what was meant."""

import math
import subprocess
import sys
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgel0.errors import BudgetError
from edgel0.quantities import (
    ACCEPTED,
    FORMATTERS,
    METRICS,
    NOUNS,
    UNITS,
    Share,
    format_amount,
    format_bytes,
    format_count,
    format_ms,
    format_percent,
    parse_accuracy,
    parse_bytes,
    parse_change,
    parse_count,
    parse_limit,
    parse_ms,
)

PARSE = {"bytes": parse_bytes, "count": parse_count, "ms": parse_ms, "share": parse_accuracy}

READ = {
    "bytes": [
        ("7", 7), ("123 B", 123), ("123B", 123), ("120 kB", 120_000), ("1.5kB", 1500), ("120 MB", 120_000_000),
        ("2 GB", 2_000_000_000), ("120 KiB", 122_880), ("64 kib", 65_536), ("1 MiB", 1_048_576),
        ("1.5 GiB", 1_610_612_736), ("117.2 KiB", 120_012), ("123,456 B", 123_456), ("1_000 B", 1000), (" 5 B\t", 5),
        (".5 kB", 500), (0, 0), (131_072, 131_072), (6e6, 6_000_000), (1000.9, 1000), ("0 B", 0),
    ],
    "count": [
        ("6 M", 6_000_000), ("140k", 140_000), ("140 K", 140_000), ("2.29 M", 2_290_000), ("2.29m", 2_290_000),
        ("1.1 G", 1_100_000_000), ("2,290,000", 2_290_000), ("80000", 80_000), (80_000, 80_000), ("0.0015 k", 1),
    ],
    "ms": [
        ("5 ms", 5.0), ("350 us", 0.35), ("350 \u00b5s", 0.35), ("350 \u03bcs", 0.35), ("0.2 s", 200.0), ("5MS", 5.0),
        (5, 5.0), (0.25, 0.25), ("0 ms", 0.0), ("1,234.5 ms", 1234.5),
    ],
    "share": [("98 %", 0.98), ("98.25%", 0.9825), ("0.5", 0.5), (0.5, 0.5), (1, 1.0), (0, 0.0), ("100 %", 1.0)],
}  # fmt: skip

REFUSED = {
    "bytes": ["120 KB", "120 kb", "120 Mb", "5 b", "120 k", "5 ms", "25 %", "0.3 B", "1,5 kB", "1,50,000 B", "1e6 B"],
    "count": ["6 MB", "6 T", "6 mio", "5 ms", "25 %", "0.25", 0.5, "6 MiB"],
    "ms": ["5", "5 min", "5 k", "25 %", "5 Hz", "5 ks"],
    "share": ["101 %", "1.01", 1.01, 98, "98", "5 ms", "5 points", "5 k"],
}

NEVER = [
    "", " ", "-5", "-5 kB", "+5", "nan", "inf", "NaN ms", "kB", "M", "ms", ".", "5.", "1.2.3", "5 5", "5 kB kB", "0x10",
    "\u0665 ms", "5\n6", "9" * 50, "5 " + "k" * 500, -1, -0.5, math.nan, math.inf, -math.inf, 2**63, 10**400, True,
    False, None, [], {}, (1,), b"5", 1j,
]  # fmt: skip


def test_every_kind_has_every_row():
    assert set(PARSE) == set(READ) == set(REFUSED) == set(UNITS) == set(NOUNS) == set(ACCEPTED) == set(FORMATTERS)
    assert set(METRICS.values()) <= set(UNITS)


@pytest.mark.parametrize(("kind", "unit"), [(kind, unit) for kind, units in UNITS.items() for unit in units])
def test_every_unit_of_the_table_is_read(kind, unit):
    assert PARSE[kind](f"1 {unit}") == float(UNITS[kind][unit])


@pytest.mark.parametrize(("kind", "text", "value"), [(kind, *row) for kind, rows in READ.items() for row in rows])
def test_reads(kind, text, value):
    found = PARSE[kind](text)
    assert found == value
    assert type(found) is (float if kind in ("ms", "share") else int)


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in PARSE for value in REFUSED[kind] + NEVER])
def test_refuses_and_says_what_to_write(kind, value):
    with pytest.raises(BudgetError) as caught:
        PARSE[kind](value)
    text = str(caught.value)
    assert "write" in text
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize("kind", PARSE)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_too_long_to_print_is_refused(kind, sign):
    for parse in (PARSE[kind], lambda value: parse_limit(value, kind)):
        with pytest.raises(BudgetError, match="an enormous number is not"):
            parse(sign * 16**5000)
        with pytest.raises(BudgetError):
            parse("9" * 5000)


def test_KB_is_refused_with_both_meanings():
    with pytest.raises(
        BudgetError, match=r"'120 KB' may mean 1000 or 1024 bytes each; write kB \(1000\) or KiB \(1024\)"
    ):
        parse_bytes("120 KB")


def test_a_decimal_unit_in_the_wrong_case_is_named():
    with pytest.raises(BudgetError, match=r"the unit 'mb' in '2 mb' is not a size; .*did you mean 'MB'\?"):
        parse_bytes("2 mb")


@pytest.mark.parametrize("kind", PARSE)
@pytest.mark.parametrize("value", ["25 %", "25%", 0.25, "0.25", ".25"])
def test_a_share_is_a_share_of_any_kind(kind, value):
    found = parse_limit(value, kind)
    assert isinstance(found, Share)
    assert found == 0.25


@pytest.mark.parametrize("value", ["100 %", 1.0, "1.0"])
def test_all_of_it_is_a_share(value):
    found = parse_limit(value, "count")
    assert isinstance(found, Share)
    assert found == 1


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("120 kB", "bytes", 120_000),
        (1, "count", 1),
        (2.5e6, "count", 2_500_000),
        ("350 us", "ms", 0.35),
        (5, "ms", 5.0),
    ],
)
def test_an_absolute_limit_is_no_share(value, kind, expected):
    found = parse_limit(value, kind)
    assert not isinstance(found, Share)
    assert found == expected


@pytest.mark.parametrize("kind", PARSE)
@pytest.mark.parametrize("value", [0, 0.0, "0", "0 %", "0.0", "101 %", "120 %", "-5 %", "% 5", "%", *NEVER])
def test_limits_that_no_network_keeps_or_means_are_refused(value, kind):
    with pytest.raises(BudgetError):
        parse_limit(value, kind)


@pytest.mark.parametrize(
    ("kind", "amount", "text"),
    [
        ("bytes", 0, "0 B"),
        ("bytes", 1023, "1,023 B"),
        ("bytes", 1024, "1,024 B (1.0 KiB)"),
        ("bytes", 123_456, "123,456 B (120.6 KiB)"),
        ("bytes", 5 * 2**20 // 2, "2,621,440 B (2.5 MiB)"),
        ("bytes", 3 * 2**30, "3,221,225,472 B (3.0 GiB)"),
        ("count", 7, "7"),
        ("count", 2_290_000, "2,290,000"),
        ("ms", 0, "0 ms"),
        ("ms", 0.35, "0.350 ms"),
        ("ms", 5, "5.00 ms"),
        ("ms", 9.996, "10.0 ms"),
        ("ms", 99.96, "100 ms"),
        ("ms", 12.34, "12.3 ms"),
        ("ms", 1234.5, "1,230 ms"),
        ("share", 0.9825, "98.25 %"),
    ],
)
def test_prints(kind, amount, text):
    assert format_amount(amount, kind) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.25, "25.0 %"), (-0.083333, "-8.3 %"), (8e-6, "0.0008 %"), (1, "100.0 %")]
)
def test_prints_percent(share, text):
    assert format_percent(share) == text


@given(st.integers(0, 2**63 - 1))
def test_printed_bytes_and_counts_read_back(amount):
    assert parse_bytes(format_bytes(amount).split(" (")[0]) == amount
    assert parse_count(format_count(amount)) == amount


@given(st.floats(1e-6, 1e9))
def test_printed_times_read_back_to_three_digits(amount):
    assert parse_ms(format_ms(amount)) == pytest.approx(amount, rel=0.00501)


WHOLE = [(kind, unit) for kind, units in UNITS.items() for unit in units if unit != "us" and kind != "share"]


@given(st.integers(0, 10**9), st.sampled_from(WHOLE))
def test_a_whole_number_of_units_is_exact(number, of):
    kind, unit = of
    assert PARSE[kind](f"{number} {unit}") == number * UNITS[kind][unit]


@given(st.integers(0, 10**9))
def test_decimals_are_exact(number):
    assert parse_count(f"{number // 1000}.{number % 1000:03} k") == number


@pytest.mark.parametrize("parse", [*PARSE.values(), *(partial(parse_limit, kind=kind) for kind in PARSE)])
@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none())
def test_anything_is_read_or_refused(parse, value):
    try:
        assert 0 <= parse(value) < 2**63
    except BudgetError as error:
        assert len(str(error)) < 250


def test_imports_nothing_heavy():
    code = "import sys, edgel0.quantities; print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("value", "kind", "change"),
    [
        ("1 %", "bytes", (0.01, True)), ("0 %", "count", (0.0, True)), ("150 %", "ms", (1.5, True)),
        ("500 B", "bytes", (500, False)), (0, "count", (0, False)), ("2", "count", (2, False)),
        ("0.5 ms", "ms", (0.5, False)), ("0.5 %", "share", (0.005, False)), (0.01, "share", (0.01, False)),
    ],
)  # fmt: skip
def test_changes(value, kind, change):
    assert parse_change(value, kind) == change


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("-1 %", "bytes"),
        ("1 kB", "count"),
        ("100001 %", "bytes"),
        ("%", "ms"),
        (None, "count"),
        ("2", "share"),
        (True, "ms"),
    ],
)
def test_changes_that_are_none(value, kind):
    with pytest.raises(BudgetError, match="write"):
        parse_change(value, kind)
