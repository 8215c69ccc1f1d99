"""What is a writer asked for? One frozen order, the same for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgel0.errors import UsageError
from edgel0.exporters.keeping import Judge, Kept, Maker, as_few_as_will_do, matching, sensitivities
from edgel0.exporters.signature import Tensors


@dataclass(frozen=True)
class Order:
    """How a program is to be written.

    ``log`` is written when the conversion fails. ``samples`` are what a precision with integer activations is
    calibrated on, ``keep`` are patterns of layers that it leaves in float32, or "auto": as many as ``judge`` asks for.
    ``ranking`` asks for the sensitivity of each layer. ``batch`` asks for a first axis of any size.
    """

    provenance: Mapping[str, Any]
    log: Path
    layout: str = "nchw"
    precision: str = "float32"
    samples: Sequence[Tensors] = ()
    keep: str | tuple[str, ...] = ()
    judge: Judge | None = None
    ranking: bool = False
    batch: bool = False
    say: Callable[[str], None] = lambda text: None

    def refuse_batch(self, suffix: str) -> None:
        """Refuse a batch of any size."""
        if self.batch:
            raise UsageError(
                f"a batch of any size was asked of a {suffix} file, which takes one sample at a time; write ONNX for "
                "more, or leave the batch out."
            )

    def refuse_layout(self, suffix: str) -> None:
        """Refuse any layout but the program's own."""
        if self.layout != "nchw":
            raise UsageError(
                f"layout {self.layout!r} was asked of a {suffix} file; it knows 'nchw' only: leave the layout out."
            )

    def integer(self, maker: Maker) -> Kept:
        """Make the integer file that was asked for."""
        if self.keep == "auto" and self.judge is not None:
            return as_few_as_will_do(maker, self.judge, frozenset(), self.say)
        names = matching(maker.layers, () if isinstance(self.keep, str) else self.keep)
        rows = sensitivities(maker, self.judge, self.say) if self.ranking and self.judge is not None else ()
        return Kept(maker.make(names), tuple(sorted(names)), rows)
