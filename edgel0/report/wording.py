"""How are figures written for people? Numbers with their units, shares and ratios, the same in every table."""

# ruff: noqa: RUF001, RUF002 - typography for people

from __future__ import annotations

import math

from edgel0.quantities import format_count, format_ms, format_percent

NOTHING = "–"
SAME = 1.05  # times that two latencies may differ by and be called the same: see text.SLOWER
EMULATED = ("qemu", "emulator")  # transports whose milliseconds say nothing of a board's

TITLES = {
    "macs": "MACs",
    "params": "parameters",
    "weight_bytes": "weights",
    "activation_bytes": "peak activations",
    "size": "file size",
    "latency": "latency",
}
RUNTIMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT"}


def title_of(metric: str) -> str:
    """Name a metric, of a part of the model where it is one: ``macs of backbone``."""
    noun, of, part = metric.partition(" of ")
    return f"{TITLES.get(noun, noun)}{of}{part}"


def kind_of(metric: str) -> str:
    """Return what a metric is counted in: bytes, ms or count."""
    noun = metric.partition(" of ")[0]
    return "bytes" if noun.endswith("bytes") or noun == "size" else "ms" if noun == "latency" else "count"


def amount(value: float | None, kind: str) -> str:
    """Write a figure in full: ``183,428``, ``224.6 KiB``, ``0.0133 ms``."""
    if value is None:
        return NOTHING
    if kind == "bytes":
        return kib(value)
    return format_ms(value) if kind == "ms" else format_count(value)


def kib(value: float) -> str:
    """Write bytes as KiB, as MiB where those are many, and few as they are."""
    if value < 1024:
        return f"{value:,.0f} B"
    return f"{value / 1024:,.1f} KiB" if value < 10 * 2**20 else f"{value / 2**20:,.1f} MiB"


def brief(value: float, kind: str) -> str:
    """Write a figure short, as an axis needs it: ``183 k``, ``225 KiB``, ``13 µs``."""
    if not value:
        return "0"
    table = BRIEF[kind]
    unit, factor = next(((u, f) for u, f in table if value >= f * 0.9999), table[-1])
    digits = max(0, 2 - math.floor(math.log10(value / factor) + 1e-9))
    number = f"{value / factor:,.{digits}f}"
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}".rstrip()


def percent(share: float | None, digits: int = 2) -> str:
    """Write a share of right answers."""
    return NOTHING if share is None else f"{share:.{digits}%}"


def times(ratio: float) -> str:
    """Write a ratio: ``12.5 ×``, ``145 ×``."""
    return f"{ratio:,.1f} ×" if ratio < 100 else f"{ratio:,.0f} ×"


def compared(dense: float | None, slim: float | None) -> str:
    """Write how many times less or more the slim network takes: ``12.5 × less``."""
    if not dense or not slim:
        return NOTHING
    if times(dense / slim) == times(1.0) == times(slim / dense):
        return "the same"
    return f"{times(dense / slim)} less" if slim < dense else f"{times(slim / dense)} more"


def share(part: float) -> str:
    """Write a share with one decimal, and never a difference as zero: ``8.3%``, ``0.0008%``."""
    return format_percent(part).replace(" %", "%")


def points(change: float) -> str:
    """Write a difference of accuracies: ``0.2 points``, ``0.05 points``."""
    size = abs(change) * 100
    number = f"{size:.2f}".rstrip("0").rstrip(".")
    return f"{number if float(number) else 'less than 0.01'} point{'' if number == '1' else 's'}"


def plural(count: int, noun: str) -> str:
    """Count things: ``1 run``, ``3 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(words: list[str], last: str = "and") -> str:
    """Join words as a sentence does."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def runtime_name(name: str) -> str:
    """Return the name that people know a runtime by, with its version if it has one: ``ONNX Runtime 1.32.0``."""
    first, space, version = name.partition(" ")
    return RUNTIMES.get("litert" if "litert" in first else first, first) + space + version


def board_name(board: str | None) -> str:
    """Return a board without the word for this computer: ``local: AMD EPYC`` is ``AMD EPYC``."""
    return (board or "").removeprefix("local: ")


BRIEF = {
    "count": [("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)],
    "bytes": [("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0)],
    "ms": [("s", 1e3), ("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6)],
}
