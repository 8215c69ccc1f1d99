"""Where does the gates' noise come from? From three numbers: a seed, the number of the draw, the number of the unit.

A generator's state would have to be carried: into every rank of a distributed run, into every checkpoint, into the
second run of a forward that gradient checkpointing repeats. A function of a counter is the same in all of them, and
``torch.compile`` sees nothing but integer arithmetic (counter-based generators: Salmon et al., SC 2011).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Word = TypeVar("Word", int, Tensor)

WORD = 0xFFFFFFFF
AHEAD = 16
STEPS = ((16, 0x21F0AAAD), (15, 0x735A2D97), (15, 1))  # shift, factor; the factors keep a product within 63 bits


def words(count: int) -> Tensor:
    """Return one 32-bit word for each of ``count`` units, as int64, by which :func:`uniform` tells them apart."""
    return _mixed(torch.arange(count))


def uniform(units: Tensor, seed: Tensor, draw: Tensor) -> Tensor:
    """Return a float32 number of the open interval (0, 1) for each word, a function of the arguments alone.

    ``seed`` and ``draw`` are int64 scalars. The numbers are the midpoints of 2^23 equal steps: none is 0 or 1.
    """
    return _fraction(_mixed(units ^ _mixed(draw + _mixed(seed))))


class Ahead:
    """The same numbers for a model on the CPU, worked out for ``AHEAD`` draws at once.

    There, what a step has to do beside the network counts by the number of its operators.
    """

    def __init__(self) -> None:
        self._block: tuple[int, int] | None = None  # the seed, and the draw by the number of its block
        self._numbers = torch.zeros(0, 0)

    def uniform(self, units: Tensor, seed: int, draw: int) -> Tensor:
        """Return what :func:`uniform` returns."""
        block, row = divmod(draw, AHEAD)
        if self._block != (seed, block) or self._numbers.shape[1] != len(units):
            draws = torch.arange(block * AHEAD, (block + 1) * AHEAD)
            self._numbers = _fraction(_mixed(units ^ _mixed(draws + _mixed(seed)).unsqueeze(1)))
            self._block = (seed, block)
        return self._numbers[row]


@torch.library.custom_op("edgel0::uniform", mutates_args=())
def uniform_once(units: Tensor, seed: Tensor, draw: Tensor) -> Tensor:
    """Return the same numbers as :func:`uniform`, as one operator of a compiled graph.

    A compiled backward repeats arithmetic of the forward where that is cheap. By then ``draw`` has been counted up, and
    the gates' gradients would be those of the next draw. An operator of its own is run once, and its result is kept.
    """
    return uniform(units, seed, draw)


@uniform_once.register_fake
def _(units: Tensor, seed: Tensor, draw: Tensor) -> Tensor:
    return torch.empty_like(units, dtype=torch.float32)


def _fraction(bits: Tensor) -> Tensor:
    return ((bits >> 9).float() + 0.5) * 2.0**-23


def _mixed(value: Word) -> Word:
    """Scatter integers over 32 bits: each bit of the argument turns about half of the bits of the result."""
    value = (value + 0x3C6EF35F) & WORD  # zero would stay zero
    for shift, factor in STEPS:
        value = ((value ^ (value >> shift)) * factor) & WORD
    return value
