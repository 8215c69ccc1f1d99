"""What number "120 kB", "2.29 M", "5 ms" or "25 %" is, and how that number is printed again.

Sizes become whole bytes, counts whole numbers, times milliseconds; a fraction of a byte is dropped, for no file can
use it. kB = 1000 bytes, KiB = 1024. An accuracy is a share of 1. Case counts for B, kB, MB and GB, because kb and Mb
are bits elsewhere and KB is 1000 to some and 1024 to others; every other unit is taken in either case.
"""

from __future__ import annotations

import math
import re
import reprlib
from fractions import Fraction
from typing import Literal

from edgel0.errors import BudgetError

Kind = Literal["bytes", "count", "ms", "share"]

_LARGEST = 2**63 - 1
_AMOUNT = re.compile(
    r"(?P<number>(?:\d{1,19}|\d{1,3}(?:,\d{3}){1,6}|\d{1,3}(?:_\d{3}){1,6})(?:\.\d{1,19})?|\.\d{1,19})"
    r"[ \t]*(?P<unit>[A-Za-z]*|%)",
    re.ASCII,
)


class Share(float):
    """A limit relative to the dense model: more than 0, at most 1."""


def parse_bytes(value: str | int | float) -> int:
    """Read a size: ``"120 kB"``, ``"117.2 KiB"``, ``"123,456 B"`` or a number of bytes."""
    return math.floor(_read(value, "bytes"))


def parse_count(value: str | int | float) -> int:
    """Read a number of things: ``"2.29 M"``, ``"140k"`` or a number."""
    return math.floor(_read(value, "count"))


def parse_ms(value: str | int | float) -> float:
    """Read a time in milliseconds: ``"5 ms"``, ``"350 us"``, ``"0.2 s"``; a bare number is milliseconds."""
    return float(_read(value, "ms"))


def parse_limit(value: str | int | float, kind: Kind) -> int | float | Share:
    """Read a limit: ``"25 %"`` or a float up to 1 is a :class:`Share`, everything else an absolute amount above 0."""
    if isinstance(value, str):
        number, unit = _split(value, kind)
        if unit == "%":
            return _share(number / 100, value)
        if not unit and "." in value and number <= 1:
            return _share(number, value)
    if isinstance(value, float) and value <= 1:
        return _share(value, value)
    amount = _read(value, kind)
    if not amount:
        raise BudgetError(f"{_shown(value)} is a limit that nothing can keep; write an amount above 0.")
    return float(amount) if kind == "ms" else math.floor(amount)


def parse_accuracy(value: str | int | float) -> float:
    """Read a share of right answers: ``"98 %"``, or 0.98; from 0 to 1."""
    amount = _read(value, "share")
    if amount > 1:
        raise BudgetError(f"{_shown(value)} is more than all; {ACCEPTED['share']}.")
    return float(amount)


def parse_change(value: str | int | float, kind: Kind) -> tuple[float, bool]:
    """Read how far a figure may move: an amount of its kind or a percentage of it; 0 is allowed.

    Returns the amount, or the share and True. Percent of an accuracy are points of it, an amount.
    """
    if isinstance(value, str) and kind != "share" and value.strip().endswith("%"):
        share = _split(value, kind)[0] / 100
        if share > 1000:
            raise BudgetError(f"{_shown(value)} is more than a thousandfold; write a smaller percentage.")
        return float(share), True
    if kind == "share":
        return parse_accuracy(value), False
    amount = _read(value, kind)
    return (float(amount) if kind == "ms" else math.floor(amount)), False


def format_bytes(amount: float) -> str:
    """Print bytes as ``123,456 B (120.6 KiB)``."""
    whole = f"{int(amount):,} B"
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if amount >= factor:
            return f"{whole} ({amount / factor:.1f} {unit})"
    return whole


def format_count(amount: float) -> str:
    """Print a count with thousands separators: ``2,290,000``."""
    return f"{int(amount):,}"


def format_ms(amount: float) -> str:
    """Print milliseconds with three significant digits: ``5.00 ms``, ``12.3 ms``, ``0.350 ms``."""
    if amount == 0:
        return "0 ms"
    digits = 2 - math.floor(math.log10(amount))
    rounded = round(amount, digits)
    digits = 2 - math.floor(math.log10(rounded))  # 9.996 has become 10.0 and needs one decimal less
    return f"{rounded:,.{max(digits, 0)}f} ms"


def format_accuracy(share: float) -> str:
    """Print a share of right answers in percent with two decimals: ``98.25 %``."""
    return f"{100 * share:.2f} %"


def format_amount(amount: float, kind: Kind) -> str:
    """Print an amount of any kind."""
    return FORMATTERS[kind](amount)


def format_percent(share: float) -> str:
    """Print a share as percent with one decimal, and never print a difference as zero: ``8.3 %``, ``0.0008 %``."""
    percent = 100 * share
    return f"{percent:.1f} %" if percent == 0 or abs(percent) >= 0.05 else f"{percent:.1g} %"


def _read(value: object, kind: Kind) -> Fraction:
    """Return the exact amount in the kind's base unit."""
    if isinstance(value, str):
        number, unit = _split(value, kind)
        amount = number * _factor(unit, value, kind)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BudgetError(f"a {type(value).__name__} is not {NOUNS[kind]}; {ACCEPTED[kind]}.")
    elif not 0 <= value <= _LARGEST:  # false for nan, too
        raise BudgetError(f"{_shown(value)} is not {NOUNS[kind]}; {ACCEPTED[kind]}, from 0 to 2^63.")
    else:
        amount = Fraction(value)
    if amount > _LARGEST:
        raise BudgetError(f"{_shown(value)} is larger than any model can be; {ACCEPTED[kind]}.")
    if 0 < amount < 1 and kind in ("bytes", "count"):
        raise BudgetError(f"{_shown(value)} is less than one whole; {ACCEPTED[kind]}.")
    return amount


def _split(text: str, kind: Kind) -> tuple[Fraction, str]:
    """Split ``"2.29 M"`` into its number and its unit."""
    ascii_text = text.strip().replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
    match = _AMOUNT.fullmatch(ascii_text)
    if not match:
        raise BudgetError(f"{_shown(text)} is not {NOUNS[kind]}; {ACCEPTED[kind]}.")
    return Fraction(match["number"].replace(",", "").replace("_", "")), match["unit"]


def _factor(unit: str, value: object, kind: Kind) -> Fraction:
    """Look the unit up, in either case where that is unambiguous."""
    known = UNITS[kind]
    if unit in known:
        return Fraction(known[unit])
    alike = [name for name in known if name.casefold() == unit.casefold()]
    if alike and (kind != "bytes" or "i" in alike[0]):
        return Fraction(known[alike[0]])
    if unit == "KB":
        raise BudgetError(f"{_shown(value)} may mean 1000 or 1024 bytes each; write kB (1000) or KiB (1024).")
    found = f"the unit {_shown(unit)} in {_shown(value)}" if unit else f"{_shown(value)} without a unit"
    hint = f"; did you mean {alike[0]!r}?" if alike else ""
    raise BudgetError(f"{found} is not {NOUNS[kind]}; {ACCEPTED[kind]}{hint or '.'}")


def _share(share: float | Fraction, value: object) -> Share:
    """Return a share in (0, 1]."""
    if not 0 < share <= 1:
        raise BudgetError(f'{_shown(value)} is not a share; write more than 0 and at most 100 %, as 0.25 or "25 %".')
    return Share(share)


def _shown(value: object) -> str:
    """Quote what was found; an integer of ten thousand digits has no ``repr``."""
    return "an enormous number" if isinstance(value, int) and abs(value) > 10**40 else reprlib.repr(value)


NOUNS: dict[Kind, str] = {"bytes": "a size", "count": "a count", "ms": "a time", "share": "a share"}

ACCEPTED: dict[Kind, str] = {
    "bytes": 'write "120 kB" with B, kB, MB, GB (1000) or KiB, MiB, GiB (1024), or a number of bytes',
    "count": 'write "2.29 M" with k, M or G, or a number',
    "ms": 'write "5 ms" with us, ms or s',
    "share": 'write "98 %" or 0.98',
}

UNITS: dict[Kind, dict[str, int | Fraction]] = {
    "bytes": {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "count": {"": 1, "k": 10**3, "M": 10**6, "G": 10**9},
    "ms": {"us": Fraction(1, 1000), "ms": 1, "s": 1000},
    "share": {"": 1, "%": Fraction(1, 100)},
}

FORMATTERS = {"bytes": format_bytes, "count": format_count, "ms": format_ms, "share": format_accuracy}

# Every figure of an artefact that can be limited, in the order in which figures are shown.
METRICS: dict[str, Kind] = {
    "size": "bytes",
    "compressed": "bytes",
    "weight_bytes": "bytes",
    "macs": "count",
    "params": "count",
    "activation_bytes": "bytes",
    "operators": "count",
    "transposes": "count",
    "partitions": "count",
    "instructions": "count",
    "accuracy": "share",
    "latency": "ms",
}
