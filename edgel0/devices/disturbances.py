"""What disturbed a round? The board before it and after it, compared: each finding is a mark and its reason.

A mark is a word that programs may compare (``MARKS``), a reason is for people. What a board does not tell disturbs
nothing: a missing fact is no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    if after.get("throttled") is not None:
        first = before.get("throttled") or 0
        now = (after["throttled"] | first) & 0xF
        new = (after["throttled"] & ~first) >> 16
        yield from (f"the firmware says {name}" for bit, name in THROTTLED.items() if (now | new) >> bit & 1)
    for name, (kind, state) in (after.get("cooling") or {}).items():
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
    for zone, last in (after.get("heat") or {}).items():
        first = (before.get("heat") or {}).get(zone, last)
        for kind, trip in last["trips"]:
            if kind != "active" and first["celsius"] < trip <= last["celsius"]:  # an active one starts a fan
                where, point = last["type"] or zone, f"{kind or 'trip'} point of {trip:g} °C"
                yield f"{where} passed its {point} ({last['celsius']:g} °C)"


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
