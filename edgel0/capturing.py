"""How does a module become a graph without side effects? ``torch.export``, then in-place operators made functional."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from edgel0.errors import TraceError, UsageError

aten = torch.ops.aten
Example = Any


def arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split an example into positional and keyword arguments: a tensor, a tuple or list of them, or a dict by name."""
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list) and example:
        return tuple(example), {}
    raise UsageError(
        f"the example input is {type(example).__name__!r}; a tensor, a non-empty tuple of tensors or a dict of them by "
        "argument name was expected, as the model's forward takes them."
    )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module from inside DistributedDataParallel, DataParallel or torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode and give each its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def capture(model: nn.Module, example: Example) -> ExportedProgram:
    """Capture ``model`` in eval mode on ``example``, undecomposed and free of in-place operators where possible.

    Raises:
        UsageError: the model's forward does not run on the example.
        TraceError: it runs, but ``torch.export`` cannot capture it.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"a torch.nn.Module was expected, but {type(model).__name__!r} was given.")
    model = unwrap(model)
    args, kwargs = arguments(example)
    _same_device(model, args, kwargs)
    with evaluating(model):
        try:
            with torch.no_grad():
                model(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{type(model).__name__} does not run on the example input ({_shapes(args, kwargs)}): {_first(error)}. "
                "Give an example with the shapes and types that its forward takes."
            ) from error
        try:
            with warnings.catch_warnings():  # export warns of its own internals, which nobody can act upon
                warnings.simplefilter("ignore")
                program = torch.export.export(model, args, kwargs, strict=False)
                functionalize_(program.graph)
                if any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in program.graph.nodes):
                    program = program.run_decompositions({})  # writes through views: slower, but all of them
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, NotImplementedError) as error:
            raise TraceError(
                f"torch.export cannot capture {type(model).__name__}: {_first(error)} {_user_line(error)}"
                "Make the forward depend on shapes, not on values (torch.where or torch.cond for a branch), then trace "
                "again."
            ) from error
    return program


def _same_device(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_meta:
            raise UsageError(
                f"{name!r} is on the meta device and has no values; materialise the model first, for example with "
                "to_empty(device='cpu') and load_state_dict."
            )
        for other in tensors:
            if other.device != tensor.device:
                raise UsageError(
                    f"the example input is on {other.device} and {name!r} on {tensor.device}; both must be on one "
                    "device."
                )


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [(None, a) for a in args] + list(kwargs.items())
    return ", ".join(
        (f"{name}=" if name else "")
        + (f"{tuple(v.shape)} {str(v.dtype)[6:]}" if isinstance(v, torch.Tensor) else repr(v)[:40])
        for name, v in named
    )


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _user_line(error: BaseException) -> str:
    """The innermost line of the user's code in a traceback, quoted."""
    found = ""
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if "/torch/" not in code.co_filename and "/edgel0/" not in code.co_filename and not code.co_filename.startswith("<"):
            import linecache

            text = linecache.getline(code.co_filename, frame.tb_lineno).strip()
            found = f"The line is {code.co_filename}:{frame.tb_lineno}: `{text}`. "
        frame = frame.tb_next
    return found


def is_view(node: Any) -> bool:
    """Tell whether a node's output shares memory with its first argument."""
    schema = getattr(getattr(node, "target", None), "_schema", None)
    if schema is None:
        return False
    return not schema.is_mutable and any(r.alias_info is not None for r in schema.returns)


def functionalize_(graph: Graph) -> None:
    """Replace in-place operators by their functional forms, where no other view of the same memory is used later."""
    order = {node: i for i, node in enumerate(graph.nodes)}

    def used_after(node: Node, here: int, but: Node) -> bool:
        return any(order[u] > here and u is not but for u in node.users)

    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable or not node.args:
            continue
        name, overload = schema.name.removeprefix("aten::"), schema.overload_name or "default"
        functional = getattr(getattr(aten, name.removesuffix("_"), None), overload, None)
        base, here = node.args[0], order[node]
        if functional is None or not name.endswith("_") or not isinstance(base, Node) or base.op == "placeholder":
            continue
        shared = is_view(base) and isinstance(base.args[0], Node) and used_after(base.args[0], here, base)
        views = any(is_view(u) and order[u] < here and used_after(u, here, node) for u in base.users)
        if shared or views or _grown(base):
            continue
        node.target = functional
        base.replace_all_uses_with(node, delete_user_cb=lambda user, at=here: order[user] > at)


def _grown(base: Node) -> bool:
    """Tell whether writing to ``base`` may write to memory that something above it still owns."""
    while is_view(base) and base.args and isinstance(base.args[0], Node):
        base = base.args[0]
        if base.op == "placeholder" or len(base.users) > 1:
            return True
    return False
