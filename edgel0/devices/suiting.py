"""Does a job suit its board? The runtime, the processors and the memory that a board's file names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath

from edgel0.devices.base import Job
from edgel0.devices.boards import Board
from edgel0.devices.sizes import planned
from edgel0.errors import DeviceError


def suited(board: Board, job: Job) -> Job:
    """Return the job as the board's file asks for it: its runtime alone, its processors unless others were asked for.

    Raises DeviceError for a file of another runtime, or one that needs more memory than may be used.
    """
    module = board.runtime.replace("-", "_")
    if module and module not in job.runtimes:
        raise DeviceError(
            f"{PurePath(job.model).name!r} runs in {' or '.join(job.runtimes).replace('_', '-')}, and the file of "
            f"{board.name} names runtime = {board.runtime!r}; export the model for that runtime, or correct the file."
        )
    fits(board, Path(job.model))
    return replace(job, runtimes=(module,) if module else job.runtimes, cores=job.cores or board.cores)


def fits(board: Board, model: Path) -> None:
    """Raise DeviceError where a model needs more memory, at the least, than the board's file allows."""
    if not board.memory:
        return
    weights, activations = planned(model)
    if weights is None or activations is None or weights + activations <= board.memory:
        return
    raise DeviceError(
        f"{model.name!r} needs at least {weights + activations:,} B ({weights:,} B of weights and {activations:,} B of "
        f"planned activations), and the file of {board.name} allows it {board.memory:,} B, so nothing was sent; make "
        "the model smaller, or correct memory in that file."
    )
