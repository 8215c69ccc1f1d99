"""What does TensorBoard show of a schedule? Cost, target and multiplier per limit, and the gates of every group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgel0.scheduling import Schedule

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def log(writer: SummaryWriter, schedule: Schedule, step: int, *, prefix: str = "l0") -> None:
    """Write what the schedule is at, as ``l0/...``, and the groups' gates, to a ``SummaryWriter``.

    To the figures of :meth:`edgel0.Schedule.figures` come those of :func:`groups`.
    """
    for name, value in schedule.figures().items():
        writer.add_scalar(f"{prefix}/{name}", value, step)
    groups(writer, schedule, step, prefix=prefix)


def groups(writer: SummaryWriter, schedule: Schedule, step: int, *, prefix: str = "l0") -> None:
    """Write per group of the original model a scalar ``l0/open/GROUP`` and a histogram ``l0/probability/GROUP``.

    They are the number of units with P(z != 0) > 1/2, and P(z != 0) itself; it is 0 for units that have been cut out.
    """
    probability = schedule.probability_of_original()
    for group in schedule.original.groups:
        own = probability[group.start : group.stop]
        writer.add_scalar(f"{prefix}/open/{group.name}", int((own > 0.5).sum()), step)
        writer.add_histogram(f"{prefix}/probability/{group.name}", own, step)
