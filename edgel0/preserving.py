"""How is everything left as it was? A model's state, torch's random numbers, and what goes to the terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

LOCK = threading.RLock()  # what a capture sets aside (warnings, output, a model's state) belongs to the whole process


class Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what stood in tensors before an operator writes to them; nothing is copied while nothing is written."""

    supports_higher_order_operators = True

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: dict[int, list[torch.Tensor]] = {}
        for tensor in tensors:
            self.tensors.setdefault(_storage(tensor), []).append(tensor)
        self.saved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, after saving what it writes to."""
        kwargs, schema = kwargs or {}, getattr(func, "_schema", None)
        if schema is not None and schema.is_mutable:
            for at, argument in enumerate(schema.arguments):
                given = args[at] if at < len(args) else kwargs.get(argument.name)
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for written in given if isinstance(given, list | tuple) else (given,):
                        if isinstance(written, torch.Tensor):
                            tensors = self.tensors.pop(_storage(written), [])
                            self.saved += [(tensor, tensor.detach().clone()) for tensor in tensors]
        return func(*args, **kwargs)

    def undo(self) -> None:
        """Write back what was saved."""
        for tensor, value in self.saved:
            owned = tuple(slice(0, 1) if step == 0 else slice(None) for step in tensor.stride())  # expanded axes repeat
            tensor.data[owned].copy_(value[owned])  # through .data: autograd's count of versions does not see it


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[Writes]:
    """Give a model its tensors, attributes and hooks back as they were, and torch its random numbers.

    What runs the model on its own tensors does so inside what this yields, which sees what is written to them. Lists,
    sets and dicts that are attributes of a module get their entries back; what lies deeper is not looked at.
    """
    tensors = [*model.parameters(), *model.buffers()]
    states = [(tensor, tensor.detach(), tensor.requires_grad, tensor.grad) for tensor in tensors]
    spaces = [(vars(module), dict(vars(module))) for module in model.modules()]
    plain = [value for _, space in spaces for value in space.values() if isinstance(value, torch.Tensor)]
    writes = Writes([*tensors, *plain])
    held = [(value, value.copy()) for _, space in spaces for value in space.values() if type(value) in _CONTAINERS]
    devices = sorted({tensor.device.index for tensor in tensors if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices):
            yield writes
    finally:
        for space, before in held:
            if isinstance(space, list):
                space[:] = before
            elif isinstance(space, set):
                space.clear()
                space.update(before)
            else:
                _refill(space, before)
        for space, before in spaces:
            _refill(space, before)
        for tensor, own, learns, gradient in states:
            if _storage(tensor) != _storage(own):
                tensor.data = own
            if tensor.requires_grad is not learns:
                tensor.requires_grad_(learns)
            if tensor.grad is not gradient:
                tensor.grad = gradient
        writes.undo()


def _refill(space: dict[Any, Any], before: dict[Any, Any]) -> None:
    if [*space] != [*before] or any(space[key] is not value for key, value in before.items()):
        space.clear()
        space.update(before)


_CONTAINERS = (list, set, dict, OrderedDict)


class _Mute:
    """A stream that drops what one thread writes, and hands everything else on."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.thread else int(self.stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Drop what this thread prints, and what torch logs from it: export prints graphs of what it could not finish."""
    thread = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if f"{name}.".startswith("torch.")]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    for handler in handlers:
        handler.addFilter(elsewhere)
    out: Any = _Mute(sys.stdout)
    err: Any = _Mute(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(elsewhere)
