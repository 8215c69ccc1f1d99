"""How a verdict is told: the metric's name, by how much a limit is exceeded, what is largest, and the ways out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgel0.checks.baseline import REVISION
from edgel0.quantities import METRICS, format_amount, format_percent
from edgel0.types import Limit, Verdict


def label(limit: Limit) -> str:
    """Name the metric as a person would: ``MACs``, ``latency p50 (onnxruntime)``, ``size +1 %``."""
    qualifiers = limit.qualifiers
    name = NAMES.get(limit.metric, limit.metric)
    if limit.metric == "latency":
        name += f" {qualifiers.get('stat', 'p50')}"
    about = ", ".join(qualifiers[key] for key in ("core", "board", "runtime") if key in qualifiers)
    sign = {"increase": " +", "decrease": " -"}.get(limit.bound.rstrip("%"), "")
    return name + (f" ({about})" if about else "") + (f"{sign}{limit.text}" if sign else "")


def amount(limit: Limit, value: float) -> str:
    """Print a value of the limit's metric with its unit."""
    return format_amount(value, METRICS[limit.metric])


def excess(limit: Limit, value: float, allowed: float, baseline: float | None) -> str:
    """Say by how much a limit is exceeded, in units and in percent."""
    over = abs(value - allowed)
    share = f" or {format_percent(over / allowed)}" if allowed else ""
    verb = "falls short of" if limit.bound in ("min", "decrease") else "exceeds"
    if limit.bound in ("max", "min"):
        bound = f"the limit of {amount(limit, allowed)}"
    else:
        moved = f"{'-' if verb != 'exceeds' else '+'}{limit.text}"
        bound = f"the baseline's {amount(limit, baseline or 0)} {moved}, which is {amount(limit, allowed)},"
    if limit.metric == "accuracy":
        return f"{label(limit)}: {amount(limit, value)} {verb} {bound} by {100 * over:.2f} points"
    return f"{label(limit)}: {amount(limit, value)} {verb} {bound} by {amount(limit, over)}{share}"


def largest(verdict: Verdict) -> str:
    """Name the layers that the value is made of, or that have grown; "" when they are unknown."""
    if not verdict.largest:
        return ""
    grown = any(growth for _, _, growth in verdict.largest)
    rows = [
        f"{layer} {_part(verdict, size)}" + (f" (+{_part(verdict, growth)})" if growth else "")
        for layer, size, growth in verdict.largest
    ]
    return f"{'Grown' if grown else 'Largest'}: {'; '.join(rows)}."


def _part(verdict: Verdict, amount: float) -> str:
    """Print what a layer has of a figure: bytes once, counts as they are."""
    return f"{int(amount):,}" + ("" if METRICS[verdict.limit.metric] == "count" else " B")


def limit_of(verdict: Verdict) -> float | None:
    """Return the bound in the unit of the value; None for a relative one without a baseline."""
    if verdict.allowed is None and verdict.limit.bound in ("max", "min"):
        return verdict.limit.maximum
    return verdict.allowed


def headroom(verdict: Verdict) -> float | None:
    """Return how far the value is from its bound; negative beyond it, None where one of the two is missing."""
    bound = limit_of(verdict)
    if verdict.value is None or bound is None:
        return None
    return verdict.value - bound if verdict.limit.bound in ("min", "decrease") else bound - verdict.value


def drift(verdict: Verdict) -> float | None:
    """Return the share by which the value differs from the baseline's; points for an accuracy."""
    if verdict.value is None or not verdict.baseline:
        return None
    if verdict.limit.metric == "accuracy":
        return verdict.value - verdict.baseline
    return verdict.value / verdict.baseline - 1


def percentages(verdict: Verdict) -> tuple[str, str]:
    """Print headroom, as a share of the bound, and drift; "" for what is not known."""
    room, bound, moved = headroom(verdict), limit_of(verdict), drift(verdict)
    share = room if verdict.limit.metric == "accuracy" or room is None else room / bound if bound else None
    return (
        "" if share is None else format_percent(share),
        "" if moved is None else f"{'+' if moved > 0 else ''}{format_percent(moved)}",
    )


def plain(limit: Limit, number: float | None) -> int | float | None:
    """Return integers for bytes and counts, and times and shares without the noise of a subtraction."""
    if number is None:
        return None
    return int(number) if METRICS[limit.metric] in ("bytes", "count") else round(number, 6)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Count what was kept: ``4 of 6 limits kept, 1 warning, 1 off.``."""
    counted = Counter(verdict.status for verdict in verdicts)
    looked = len(verdicts) - counted["off"]
    kept = [f"{looked - counted['FAIL'] - counted['warn']} of {looked} limits kept"]
    kept += [f"{counted['warn']} warning{'s' if counted['warn'] > 1 else ''}"] if counted["warn"] else []
    kept += [f"{counted['off']} off"] if counted["off"] else []
    return f"{', '.join(kept)}."


def place(limit: Limit) -> str:
    """Return where a limit stands, as editors understand it."""
    config = str(limit.qualifiers.get("config", "the configuration"))
    return f"{config}:{limit.line}" if limit.line else config


def file_of(limit: Limit) -> str:
    """Return the configuration file as CI services want it: from here, with "/" between names."""
    path, here = Path(limit.qualifiers.get("config", "edgel0.toml")), Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def advice(verdict: Verdict) -> str:
    """Say what failed, what is largest, the two ways out, and what the limit's author wants said."""
    limit, said = verdict.limit, f" {verdict.limit.message}" if verdict.limit.message else ""
    if verdict.value is None:
        return f"{verdict.reason}. Restore the figure, or remove the limit in {place(limit)}.{said}"
    if limit_of(verdict) is None:
        return f"{verdict.reason}.{said}"
    grown = largest(verdict)
    if limit.bound in ("max", "min"):
        verb, other = ("Train", "lower") if limit.bound == "min" else ("Shrink", "raise")
        ways = f"{verb} the model, or {other} the limit in {place(limit)}."
    elif verdict.against.startswith(REVISION):
        ways = f"Shrink the model, or raise the limit in {place(limit)}."
    else:
        ways = f"Shrink the model, or agree to it: run  edgel0 baseline update  and commit {verdict.against}."
    return " ".join(filter(None, [f"{verdict.reason}.", grown, ways])) + said


NAMES = {
    "macs": "MACs",
    "weight_bytes": "weight bytes",
    "activation_bytes": "activation bytes",
    "partitions": "delegate partitions",
}
