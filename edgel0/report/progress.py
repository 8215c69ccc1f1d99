"""What does a person see while a recipe trains? One bar per phase on a terminal, one line per epoch in a log."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from edgel0.quantities import format_count

if TYPE_CHECKING:
    from edgel0.training import Tick

BAR = 14
BESIDE = 7 + BAR + 7 + 3  # columns of a bar's line that are not words: phase, bar, time, and the spaces between


class Watch:
    """A context manager that shows ticks of training and words about what comes after it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description:7}", markup=False),
            BarColumn(bar_width=BAR),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not self.live,
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Watch:
        """Start drawing."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; what was drawn stays."""
        self.progress.stop()

    def tick(self, tick: Tick) -> None:
        """Show where training is."""
        if self.live:
            if tick.phase not in self.tasks:
                self.tasks[tick.phase] = self.progress.add_task(tick.phase, total=tick.epochs, words="")
            done, room = tick.epoch - 1 + tick.done, self.console.width - BESIDE
            self.progress.update(self.tasks[tick.phase], completed=done, words=words(tick, room))
        elif tick.accuracy is not None:
            self.console.print(f"{tick.phase:7} {tick.epoch:>3}/{tick.epochs:<3} {words(tick)}", soft_wrap=True)

    def hint(self, text: str) -> None:
        """Show a step of what is being done now, where it goes away again."""
        if self.live:
            self.say(text)

    def say(self, text: str) -> None:
        """Show what is being done now."""
        if self.live:
            if "say" not in self.tasks:
                self.tasks["say"] = self.progress.add_task("then", total=None, words="")
            self.progress.update(self.tasks["say"], words=text[: max(self.console.width - BESIDE, 0)])
        else:
            self.console.print(text, soft_wrap=True)


def words(tick: Tick, room: int | None = None) -> str:
    """Loss, accuracy, expected cost against target, multipliers, open units and the time of a step, as far as known.

    What has no ``room`` (columns) is left out: multipliers first, then the loss, the last limits, the open units.
    """
    parts = {"loss": f"loss {tick.loss:.3f}"}
    if tick.accuracy is not None:
        parts["accuracy"] = f"acc {tick.accuracy:.2%}"
    for metric, cost in tick.cost.items():
        parts[metric] = f"{metric.removesuffix('_bytes')} {_short(cost)}/{_short(tick.target[metric])}"
        if tick.multiplier.get(metric):
            parts[f"λ {metric}"] = f"λ {tick.multiplier[metric]:.2f}"
    if tick.open_units is not None:
        parts["open"] = f"open {tick.open_units}/{tick.units}"
    if tick.step_ms:
        parts["step"] = f"{tick.step_ms:.3g} ms/step"
    spare = [*(f"λ {metric}" for metric in tick.cost), "loss", *reversed([*tick.cost][1:]), "open", *parts]
    while room is not None and parts and len(" ".join(parts.values())) > room:
        parts.pop(spare.pop(0), None)
    return " ".join(parts.values())


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:  # what rounds to 1000 of a unit is 1 of the next
            return f"{value / size:.3g}{unit}"
    return format_count(round(value))
