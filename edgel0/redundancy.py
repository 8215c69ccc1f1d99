"""Could others do a unit's work? What of each unit its fellows at the same reader cannot learn to take over.

Right after a unit closes the loss rises by what the unit told its reader. Then the reader's other columns learn, and
what remains of the rise, to second order, is the share 1 - R² of it, where R² is that of regressing what the unit tells
on what its fellows tell (optimal brain surgeon, Hassibi and Stork 1993, beside optimal brain damage). Statistics call
this share the tolerance, and its reciprocal the variance inflation factor. Gates see the first rise alone: they keep a
redundant layer and close one whose units are all needed, and the network is worse for it a few epochs later.

No activation has to be kept for it. The gradient of a reader's weight is the gradient of its outputs times its inputs,
so the Gram matrix of the weight gradient's columns, summed over outputs, places of a kernel and steps, is that of the
inputs, weighted by how much the loss listens (the factors of arXiv 1503.05671, taken to be independent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgel0.gates import Gates, ReaderGate, gated_weights
from edgel0.sharding import whole

WATCHED = 8  # steps: in one of so many the gradients are looked at
SOLVED = 4  # looks: after so many the shares are found anew
MEMORY = 0.99  # by which what was seen fades from look to look
RIDGE = 0.01  # of a unit's own power: what counts as noise
BLOCK = 512  # units of a wider reader are compared with so many of their fellows only


@dataclass
class Block:
    """Some units at one reader: their numbers, their columns of its weight (None: all, in order), and what was seen."""

    units: Tensor
    columns: Tensor | None
    gram: Tensor
    rows: float = 0.0


class Redundancy:
    """The share of every unit's work that its fellows cannot take over, of a model that trains.

    ``share`` is a float32 tensor of shape ``(units,)`` with values in (0, 1]: 1 where nothing is known, and for a unit
    that frozen weights read, which learn nothing. Where several readers read a unit it is that of the one which needs
    it most.
    """

    def __init__(self, model: nn.Module, gates: Gates) -> None:
        self.at = 0
        self.places = [
            (chain, gate) for _, _, chain in gated_weights(model) for gate in chain if isinstance(gate, ReaderGate)
        ]
        self.share = torch.ones_like(gates.mask, dtype=torch.float32)
        self.blocks = [_blocks(gate.index) for _, gate in self.places]

    def watch(self) -> None:
        """Look at the weights' gradients, now and then; all ranks of a run that is spread over them have to call it."""
        self.at += 1
        if self.at % WATCHED:
            return
        for (chain, gate), blocks in zip(self.places, self.blocks, strict=True):
            gradient = chain.original.grad
            if gradient is not None:
                rows = whole(gradient).movedim(gate.axis, -1).float().reshape(-1, gate.index.numel())
                for block in blocks:
                    _add(block, rows)
        if not self.at % (WATCHED * SOLVED):
            self.solve()

    def solve(self) -> None:
        """Find the shares of what was seen so far."""
        share = torch.zeros(self.share.numel() + 1, device=self.share.device)
        for (chain, _), blocks in zip(self.places, self.blocks, strict=True):
            for block in blocks:
                if not chain.original.requires_grad:
                    share[block.units] = 1
                elif block.rows:
                    share.scatter_reduce_(0, block.units, _tolerance(block), "amax")
        share = share[1:]
        self.share = torch.where(share > 0, share, torch.ones_like(share))

    def follow(self, opened: np.ndarray) -> None:
        """Belong to the smaller model: ``opened`` says what of the units, and of the pinned rest, is left."""
        kept, number = torch.from_numpy(opened), torch.from_numpy(np.cumsum(opened) - 1)
        self.share = self.share[kept[1:].to(self.share.device)]
        for (_, gate), blocks in zip(self.places, self.blocks, strict=True):
            for block in blocks:
                here = kept[block.units.cpu()].to(block.units.device)
                units = number.to(block.units.device)[block.units[here]]
                block.units, block.columns = units, _columns(gate.index, units)
                block.gram = block.gram[here][:, here]
            blocks[:] = [block for block in blocks if block.units.numel()]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to go on alike."""
        seen = [[(block.units, block.gram.clone(), block.rows) for block in blocks] for blocks in self.blocks]
        return {"at": self.at, "share": self.share.clone(), "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, of a model of the size that it had."""
        device = self.share.device
        self.at, self.share = int(state["at"]), state["share"].to(device)
        self.blocks = [
            [
                Block(units.to(device), _columns(gate.index, units.to(device)), gram.to(device, copy=True), float(rows))
                for units, gram, rows in blocks
            ]
            for (_, gate), blocks in zip(self.places, state["seen"], strict=True)
        ]


def _blocks(index: Tensor) -> list[Block]:
    """Share the units that a reader's ``index`` names out over blocks; 0, the pinned rest, is in none."""
    units = torch.unique(index[index > 0])
    parts = units.tensor_split(-(-units.numel() // BLOCK)) if units.numel() else ()
    return [Block(part, _columns(index, part), torch.zeros((part.numel(),) * 2, device=part.device)) for part in parts]


def _columns(index: Tensor, units: Tensor) -> Tensor | None:
    """Return where a reader reads each of some units, ``(times, units)``: as often as it reads all of them."""
    if torch.equal(index, units):
        return None
    order = index.argsort(stable=True)
    first, last = (torch.searchsorted(index[order], units, right=right) for right in (False, True))
    times = int((last - first).min()) if units.numel() else 0
    return order[first + torch.arange(times, device=index.device).unsqueeze(1)]


def _add(block: Block, rows: Tensor) -> None:
    """Add the Gram matrix of a gradient's columns, of whatever scale; one that is not finite is passed over."""
    if block.columns is not None:
        rows = rows[:, block.columns.reshape(-1)]
    rows = rows.reshape(-1, block.units.numel())
    gram = rows.T @ rows
    gram /= gram.diagonal().sum()
    block.gram.mul_(MEMORY).add_(gram.nan_to_num_(0, 0, 0))  # of nothing but zeros, or with an infinite one: 0 / 0
    block.rows = MEMORY * block.rows + rows.shape[0]


def _tolerance(block: Block) -> Tensor:
    """Return 1 - R² of each unit, regressed on the others of its block; shrunk towards 1 where little was seen."""
    gram, count = block.gram, block.units.numel()
    scale = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).rsqrt()
    known = block.rows / (block.rows + count)
    correlation = gram * scale.unsqueeze(0) * scale.unsqueeze(1) * known
    correlation.diagonal().fill_(1 + RIDGE)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(correlation))
    return (1 / ((1 + RIDGE) * inverse.diagonal())).clamp(0, 1)
