"""Which layers of a file with integer activations should stay in float32? The most sensitive, as few as will do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from edgel0.errors import UsageError, nearest
from edgel0.exporters.parity import Arrays, accuracy

PROBES = 8  # samples on which the sensitivity of one layer is measured


@dataclass(frozen=True)
class Layer:
    """An operator that can become an integer one: its name in the file, and its kind."""

    name: str
    kind: str


@dataclass(frozen=True)
class Maker:
    """How one float file becomes integer ones: ``make`` takes the names of the layers that stay in float32."""

    layers: tuple[Layer, ...]
    make: Callable[[frozenset[str]], bytes]


@dataclass(frozen=True)
class Sensitivity:
    """How much of the outputs survives when one layer alone is integer: signal to noise in decibels, more is better."""

    layer: str
    kind: str
    decibels: float


@dataclass(frozen=True)
class Kept:
    """What an integer file looks like: its content, the layers left in float32, and what each layer costs alone."""

    content: bytes
    layers: tuple[str, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()

    def told(self) -> dict[str, Any]:
        """Return what the file's provenance says of it, plain JSON values."""
        told: dict[str, Any] = {"kept_layers": list(self.layers)} if self.layers else {}
        if self.sensitivity:
            told["sensitivity"] = [[row.layer, row.kind, row.decibels] for row in self.sensitivity]
        return told


@dataclass(frozen=True)
class Judge:
    """How an integer file is judged: ``run`` opens one and answers the samples that it was calibrated on.

    ``expected`` are the float32 answers; ``allowed`` is by how much accuracy may fall on these samples. Where their
    ``labels`` are not known it is the share of samples whose largest output may be another one, which bounds that.
    """

    run: Callable[[bytes, int], list[Arrays]]
    expected: list[Arrays]
    allowed: float
    labels: Sequence[int] | None = None

    def changed(self, content: bytes) -> float:
        """Return how much accuracy falls, or the share of answers with another largest output."""
        found = self.run(content, len(self.expected))
        if self.labels is not None:
            return accuracy(self.expected, self.labels) - accuracy(found, self.labels)
        pairs = zip(self.expected, found, strict=True)
        return float(np.mean([(want[0].argmax(-1) != got[0].argmax(-1)).mean() for want, got in pairs]))

    def decibels(self, content: bytes) -> float:
        """Return signal to noise of all outputs together, on a few samples."""
        count = min(PROBES, len(self.expected))
        pairs = list(zip(self.expected[:count], self.run(content, count), strict=True))
        signal = sum(float(np.square(w, dtype=np.float64).sum()) for want, _ in pairs for w in want)
        noise = sum(float(np.square(w - g, dtype=np.float64).sum()) for p in pairs for w, g in zip(*p, strict=True))
        return math.inf if not noise else 10 * math.log10(signal / noise) if signal else -math.inf


def matching(layers: Sequence[Layer], patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the layers whose name or kind fits one of the patterns (``*`` and ``?``).

    Raises:
        UsageError: a pattern fits none.
    """
    found: set[str] = set()
    for pattern in patterns:
        fits = {layer.name for layer in layers if fnmatchcase(layer.name, pattern) or fnmatchcase(layer.kind, pattern)}
        if not fits:
            known = [*dict.fromkeys(layer.kind for layer in layers), *(layer.name for layer in layers)]
            raise UsageError(
                f"no layer fits {pattern!r}, which is to stay in float32; layers have a kind or a name such as "
                f"{', '.join(map(repr, known[:6]))}{nearest(pattern, known)}."
            )
        found |= fits
    return frozenset(found)


def sensitivities(maker: Maker, judge: Judge, say: Callable[[str], None]) -> tuple[Sensitivity, ...]:
    """Make each layer, alone, an integer one, and return what that costs, the most sensitive first."""
    every, found = frozenset(layer.name for layer in maker.layers), []
    for number, layer in enumerate(maker.layers, 1):
        say(f"sensitivity of layer {number} of {len(maker.layers)}")
        decibels = judge.decibels(maker.make(every - {layer.name}))
        if math.isfinite(decibels):
            found.append(Sensitivity(layer.name, layer.kind, round(decibels, 2)))
    return tuple(sorted(found, key=lambda row: (row.decibels, row.layer)))


def as_few_as_will_do(maker: Maker, judge: Judge, given: frozenset[str], say: Callable[[str], None]) -> Kept:
    """Keep layers in float32, beside those ``given``, until the judge is content: the most sensitive ones first.

    The number of them is doubled until it is enough, then halved in between.
    """
    content = maker.make(given)
    if judge.changed(content) <= judge.allowed:
        return Kept(content, tuple(sorted(given)))
    ranked = sensitivities(maker, judge, say)
    names = [row.layer for row in ranked if row.layer not in given]
    too_few, enough, best = 0, 0, content
    while too_few < len(names) and not enough:
        count = min(max(1, 2 * too_few), len(names))
        say(f"keeping {count} of {len(names)} layers in float32")
        best = maker.make(given | set(names[:count]))
        if judge.changed(best) <= judge.allowed:
            enough = count
        else:
            too_few = count
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        say(f"keeping {middle} of {len(names)} layers in float32")
        content = maker.make(given | set(names[:middle]))
        if judge.changed(content) <= judge.allowed:
            enough, best = middle, content
        else:
            too_few = middle
    return Kept(best, tuple(sorted(given | set(names[: enough or len(names)]))), ranked)
