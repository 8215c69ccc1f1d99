"""Where does the gates' noise come from? From three numbers: a seed, the number of the draw, the number of the unit.

A generator's state would have to be carried: into every rank of a distributed run, into every checkpoint, into the
second run of a forward that gradient checkpointing repeats. A function of a counter is the same in all of them, and
``torch.compile`` sees nothing but integer arithmetic (counter-based generators: Salmon et al., SC 2011).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Word = TypeVar("Word", int, np.ndarray, Tensor)

WORD = 0xFFFFFFFF
STEPS = ((16, 0x21F0AAAD), (15, 0x735A2D97), (15, 1))  # shift, factor; the factors keep a product within 63 bits


def words(count: int) -> Tensor:
    """Return one 32-bit word for each of ``count`` units, as int64, by which :func:`uniform` tells them apart."""
    return _mixed(torch.arange(count))


def uniform(units: Tensor, seed: Tensor, draw: Tensor) -> Tensor:
    """Return a float32 number of the open interval (0, 1) for each word, a function of the arguments alone.

    ``seed`` and ``draw`` are int64 scalars. The numbers are the midpoints of 2^23 equal steps: none is 0 or 1.
    """
    if units.device.type == "cpu" and not torch.compiler.is_compiling():  # NumPy has less to do around the arithmetic
        bits = torch.from_numpy(_mixed(units.numpy() ^ _mixed(int(draw) + _mixed(int(seed)))))
    else:
        bits = _mixed(units ^ _mixed(draw + _mixed(seed)))
    return (bits >> 9).float().add_(0.5).mul_(2.0**-23)


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


def _mixed(value: Word) -> Word:
    """Scatter integers over 32 bits: each bit of the argument turns about half of the bits of the result."""
    value = (value + 0x3C6EF35F) & WORD  # zero would stay zero
    for shift, factor in STEPS:
        value = ((value ^ (value >> shift)) * factor) & WORD
    return value
