"""Is this board too hot to measure on? What says so, and a pause that ends when it is cool or gets no cooler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from edgel0.devices.disturbances import Facts, held_back, trips

COOL_SECS = 120.0  # of all pauses of a measurement
POLL_SECS = 2.0
PATIENCE = 10  # looks without a lower temperature, after which waiting is of no use
MARGIN = 5.0  # degrees below a trip point: at the point itself the next batch would be at it again
HEAT_MARKS = {"throttled", "hot", "frequency"}  # of a batch that heat may have disturbed


@dataclass(frozen=True)
class Pause:
    """How long a board was let cool down before a batch, why, and whether it was cool then."""

    secs: float
    reason: str
    cool: bool


@dataclass
class Heat:
    """A board's heat during a measurement: what was seen of it first and last, and the seconds that are left to wait.

    A board that tells neither temperature nor frequency nor throttling is never waited for.
    """

    left: float = COOL_SECS
    first: Facts = field(default_factory=dict)
    last: Facts = field(default_factory=dict)
    suspect: bool = False

    def see(self, facts: Facts | None, disturbed: Mapping[str, str] | None = None) -> None:
        """Remember how the board was seen, after a batch with what disturbed that."""
        self.last = facts or self.last
        self.first = self.first or self.last
        self.suspect = bool(HEAT_MARKS & set(disturbed or ()))

    def pause(self, look: Callable[[], Facts], tell: Callable[[str], None]) -> Pause | None:
        """Wait while the board is hot; ``look`` asks it, ``tell`` hears why. None where it need not be waited for.

        A temperature alone is no reason: there are zones that are always above their trip point. It is one after a
        batch that heat may have disturbed.
        """
        near = list(_near(self.last)) if self.suspect else []
        why = "; ".join([*_held_back(self.last, self.first), *near])
        if not why or self.left <= 0:
            return None
        began, cool, seen = time.monotonic(), False, [_warmth(self.last)]
        while not cool and time.monotonic() - began < self.left and len(seen) - seen.index(min(seen)) <= PATIENCE:
            tell(f"cool down ({why}) before")
            time.sleep(POLL_SECS)
            self.see(look())
            seen.append(_warmth(self.last))
            cool = not any((*_held_back(self.last, self.first), *_near(self.last)))
        secs = time.monotonic() - began
        self.left = self.left - secs if cool else 0.0
        return Pause(secs, why, cool)


def _held_back(seen: Facts, first: Facts) -> Iterator[str]:
    """Say what slows the processor down now; under-voltage does not pass by waiting."""
    yield from held_back(seen, bits=0b1110)
    for policy, clock in (seen.get("clocks") or {}).items():
        most = ((first.get("clocks") or {}).get(policy) or {}).get("max")
        if most and clock.get("max") and clock["max"] < most:
            yield f"{policy} capped at {clock['max'] / 1e3:,.0f} of {most / 1e3:,.0f} MHz"


def _near(seen: Facts) -> Iterator[str]:
    """Say which zones are at a trip point, or so near that the next batch would be."""
    for trip in trips(seen):
        if trip.celsius >= trip.at - MARGIN:
            yield f"{trip.name} at {trip.celsius:g} °C, its {trip.kind} point is {trip.at:g} °C"


def _warmth(seen: Facts) -> float:
    """Return a figure that falls while a board cools down."""
    held = sum((state or 0) for _, state in (seen.get("cooling") or {}).values())
    return float(held + sum(zone["celsius"] for zone in (seen.get("heat") or {}).values()))
