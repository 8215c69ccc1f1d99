"""What disturbed a round? The board before it and after it, compared: each finding is a mark and its reason.

A mark is a word that programs may compare (``MARKS``), a reason is for people. What a board does not tell disturbs
nothing: a missing fact is no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]  # what ``runner.snapshot`` returned

BUSY = 0.20  # of all processors' time, taken by others
BUSY_SECS = 0.05  # the kernel counts in ticks of 10 ms: a shorter look says nothing
CLOCK = 0.05  # of the frequency at the beginning
AWAY = 0.10  # of the ticks, spent in other frequencies than the usual one


def marks(before: Facts | None, after: Facts | None) -> dict[str, str]:
    """Return the reason by mark; empty for a round that nothing disturbed."""
    if not before or not after:
        return {}
    return {mark: "; ".join(found) for mark, finder in MARKS.items() if (found := list(finder(before, after)))}


def _throttled(before: Facts, after: Facts) -> Iterator[str]:
    """Bits 0 to 3 are now, 16 to 19 the same at any time since boot, so only those newly set tell of this round."""
    first = before.get("throttled") or 0
    new = ((after.get("throttled") or 0) & ~first) >> 16
    yield from held_back(after, first & 0xF | new)


def held_back(seen: Facts, also: int = 0, bits: int = 0xF) -> Iterator[str]:
    """Say what holds the processor back now, of those bits of the firmware; ``also`` are bits of another time."""
    now = ((seen.get("throttled") or 0) | also) & bits
    yield from (f"the firmware says {name}" for bit, name in THROTTLED.items() if now >> bit & 1)
    for name, (kind, state) in (seen.get("cooling") or {}).items():
        if (kind or "").startswith(COOLING) and (state or 0) > 0:
            yield f"{name} ({kind}) holds the processor back, step {state}"


def _frequency(before: Facts, after: Facts) -> Iterator[str]:
    for policy, last in (after.get("clocks") or {}).items():
        first = (before.get("clocks") or {}).get(policy, {})
        ticks = _passed(first.get("ticks"), last.get("ticks"))
        if ticks and sum(ticks.values()):
            usual = max(ticks, key=lambda name: ticks[name])
            away = 1 - ticks[usual] / sum(ticks.values())
            if away > AWAY:
                yield f"{policy} spent {away:.0%} of the round in other frequencies than {_mhz(int(usual))}"
        elif first.get("cur") and last.get("cur") and abs(last["cur"] / first["cur"] - 1) > CLOCK:
            yield f"{policy} went from {_mhz(first['cur'])} to {_mhz(last['cur'])}"


def _hot(before: Facts, after: Facts) -> Iterator[str]:
    below = {(trip.zone, trip.kind, trip.at) for trip in trips(before) if trip.celsius < trip.at}
    for trip in trips(after):
        if trip.celsius >= trip.at and (trip.zone, trip.kind, trip.at) in below:
            yield f"{trip.name} passed its {trip.kind} point of {trip.at:g} °C ({trip.celsius:g} °C)"


@dataclass(frozen=True)
class Trip:
    """A point in degrees Celsius at which the kernel acts, and the temperature of its zone."""

    zone: str
    name: str
    kind: str
    at: float
    celsius: float


def trips(seen: Facts) -> Iterator[Trip]:
    """Yield the trip points but for those that only start a fan."""
    for zone, found in (seen.get("heat") or {}).items():
        for kind, at in found["trips"]:
            if kind != "active":
                yield Trip(zone, found["type"] or zone, kind or "trip", at, found["celsius"])


def _busy(before: Facts, after: Facts) -> Iterator[str]:
    ticks = _passed(before.get("ticks"), after.get("ticks"))
    if ticks is None:
        return
    hz = after["ticks_per_second"]
    own = (after["own_cpu_ms"] - before["own_cpu_ms"]) * hz / 1e3
    if ticks["all"] >= BUSY_SECS * hz and (others := (ticks["busy"] - own) / ticks["all"]) > BUSY:
        yield f"other processes took {others:.0%} of the processors' time"


def _passed(first: Mapping[str, int] | None, last: Mapping[str, int] | None) -> dict[str, int] | None:
    return {key: last[key] - first.get(key, 0) for key in last} if first and last else None


def _mhz(kilohertz: int) -> str:
    return f"{kilohertz / 1e3:,.0f} MHz"


# What vcgencmd get_throttled says, from bit 0.
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}

# Types of cooling devices that slow a processor down; others are fans, screens and the like.
COOLING = ("thermal-cpufreq", "cpufreq", "Processor", "thermal-idle", "intel_powerclamp")

MARKS: dict[str, Callable[[Facts, Facts], Iterator[str]]] = {
    "throttled": _throttled,
    "frequency": _frequency,
    "hot": _hot,
    "busy": _busy,
}
