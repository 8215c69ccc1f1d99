"""Why can a forward not be captured, and what should its author change? The user's line, and words for the failure."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import Graph
from torch.utils._python_dispatch import TorchDispatchMode

from edgel0.errors import TraceError, UsageError
from edgel0.refusing import shapes

OURS, TORCH, STANDARD = Path(__file__).parent, Path(torch.__file__).parent, Path(inspect.__file__).parent


def cannot_run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException) -> UsageError:
    """Say that, where and why a forward does not run on its example."""
    reason = first_line(error)
    if not isinstance(error, RuntimeError | TypeError | ValueError) or isinstance(error, RecursionError):
        reason = f"{type(error).__name__}: {reason}" if str(error).strip() else type(error).__name__
    kinds = sorted({str(p.dtype)[6:] for p in model.parameters()})
    return UsageError(
        f"{type(model).__name__} does not run on the example input ({shapes(args, kwargs)}): {reason}."
        f"{_at(_line_of(error))} Give an example with the shapes and types that its forward takes"
        + (f" (its parameters are {' and '.join(kinds)})." if kinds else ".")
    )


def check_result(model: nn.Module, result: Any) -> None:
    """Refuse what a forward returned if no graph can return it.

    Raises:
        TraceError: there is no tensor in it, or it is an object of an unknown class.
    """
    plain = (torch.Tensor, int, float, complex, bool, str, type(None))
    leaves = torch.utils._pytree.tree_leaves(result)
    for leaf in leaves:
        if not isinstance(leaf, plain):
            kind = type(leaf).__name__
            raise TraceError(
                f"the forward of {type(model).__name__} returns {kind!r}; a tensor, or a tuple, list or dict of them, "
                f"was expected.{_at(_definition(model))} Return the tensors themselves"
                + (
                    f", or make the class known: torch.export.register_dataclass({kind})."
                    if hasattr(leaf, "__dataclass_fields__")
                    else "."
                )
            )
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        found = f"{type(result).__name__!r}" if result is not None else "None"
        raise TraceError(
            f"the forward of {type(model).__name__} returns {found} and no tensor; at least one tensor was expected."
            f"{_at(_definition(model))} Return the tensors that are computed, without .item() or float()."
        )


BRANCH = (
    "a branch depends on the values of a tensor",
    "Choose with torch.where or torch.cond, or decide by something that is known beforehand, such as a shape.",
)
LOOP = (
    "a loop runs as often as the values of a tensor say",
    "Loop a fixed number of times, and leave out steps with torch.where or torch.cond.",
)
SIZE = (
    "a size, or a number in Python, depends on the values of a tensor",
    "Keep it a tensor, without int(), .item() or .tolist(), and make sizes follow from shapes: pad to a fixed size, "
    "or multiply by a mask instead of selecting.",
)
NUMPY = ("the forward leaves torch for NumPy", "Use the functions of torch instead, or do it outside of the forward.")
INFERENCE = ("a tensor is made in inference mode", "Use torch.no_grad() in place of torch.inference_mode().")
AUTOGRAD = (
    "the forward differentiates, or writes to a tensor through .data",
    "Compute with operators alone, without torch.autograd or .data in the forward.",
)
MUTATION = ("the forward writes to a tensor that must not change", "Compute a new tensor instead.")
OPERATOR = (
    "an operator cannot tell its output's shape without values",
    "Register how its shapes follow from its inputs' with torch.library.register_fake.",
)
OTHER = "Make the forward depend on shapes, not on values (torch.where or torch.cond for a branch), then trace again."
# What torch says, in which line of the user: what it means, and what to change. The first row that matches counts.
FAILURES: tuple[tuple[str, str, tuple[str, str]], ...] = (
    (r"data-dependent", r"^(while|for)\b|\bfor\b.*\bin range\(", LOOP),
    (r"guard on data-dependent", r"^(el)?if\b|^assert\b|\bif\b|\bnot\b|\bbool\(|\ball\(|\bany\(|\bm(in|ax)\(", BRANCH),
    (r"data-dependent|got FakeTensor|DynamicOutputShape|DataDependentOutput", r"", SIZE),
    (r"(?i)numpy", r"", NUMPY),
    (r"(?i)inference (tensor|mode)", r"", INFERENCE),
    (r"fake tensor in the exported program|autograd\.grad|does not require grad|backward", r"", AUTOGRAD),
    (r"(?i)mutat|in-?place|aliased", r"", MUTATION),
    (r"(?i)fake impl|register_fake|meta kernel|'Meta'|UnsupportedOperator|UnsupportedFake", r"", OPERATOR),
)


def cannot_capture(model: nn.Module, error: BaseException) -> TraceError:
    """Say at which line of the user, why and what to do when ``torch.export`` failed on a model that runs."""
    frame = _line_of(error)
    code = frame[2] if frame else ""
    text = f"{type(error).__name__}: {error}"
    rows = (row for says, line, row in FAILURES if re.search(says, text) and re.search(line, code))
    what, advice = next(rows, (first_line(error), OTHER))
    return TraceError(
        f"torch.export cannot capture {type(model).__name__}: {what}.{_at(frame or _definition(model))} {advice}"
    )


def check_static(model: nn.Module, graph: Graph, run: Callable[[], Any]) -> None:
    """Refuse a graph in which a shape depends on values; ``run`` is the forward on real values.

    Raises:
        TraceError: it names the first such operator and the line of the user.
    """
    for node in graph.nodes:
        values = node.meta.get("val")
        for value in values if isinstance(values, tuple | list) else (values,):
            if isinstance(value, torch.Tensor) and not all(isinstance(n, int) for n in value.shape):
                line = _line_of_stack(node.meta.get("stack_trace") or "")
                line = line and (_line_within(line, node.target, run) or line)
                raise TraceError(
                    f"torch.export cannot capture {type(model).__name__}: {SIZE[0]} ({node.target})."
                    f"{_at(line or _definition(model))} {SIZE[1]}"
                )


class _ReachedError(BaseException):
    """An operator that is looked for is about to run; no ``except Exception`` of a forward is to catch it."""


class _Until(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Stop where an operator runs below a line."""

    def __init__(self, operator: Any, line: Line) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.operator, self.line = operator, line

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.operator:
            frames = ((frame.f_code.co_filename, number) for frame, number in traceback.walk_stack(None))
            if self.line[:2] in frames:
                raise _ReachedError
        return func(*args, **(kwargs or {}))


def _line_within(line: Line, operator: Any, run: Callable[[], Any]) -> Line | None:
    """Find the line that runs an operator in a function called at ``line``: a graph knows lines of forwards only."""
    try:
        with _Until(operator, line):
            run()
    except _ReachedError as reached:
        return _line_of(reached)
    return None


def writes(model: nn.Module, target: str) -> TraceError:
    """Say that a forward changes a buffer or parameter."""
    return TraceError(
        f"the forward of {type(model).__name__} writes to {target!r} in eval mode; a network without state was "
        f"expected.{_at(_definition(model))} Write to it under `if self.training:` only, or return it as an output."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of a message, without its full stop, or the error's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0][:300] if lines else type(error).__name__).rstrip(".")


Line = tuple[str, int, str]


def _line_of_stack(stack: str) -> Line | None:
    """Return the innermost line of the user in a printed stack."""
    found = [
        (file, int(line), linecache.getline(file, int(line)).strip() or code.strip())
        for file, line, code in re.findall(r'File "(.+?)", line (\d+).*\n?(.*)', stack)
        if _is_own(file)
    ]
    inner = [line for line in found if "site-packages" not in line[0]] or found
    return inner[-1] if inner else None


def _is_own(file: str) -> bool:
    """Tell whether a file is neither ours nor torch's, nor of Python's standard library."""
    path = Path(file)
    standard = STANDARD in path.parents and "site-packages" not in path.parts
    return not (file.startswith("<") or standard or OURS in path.parents or TORCH in path.parents)


def _line_of(error: BaseException) -> Line | None:
    """Return the innermost line of the user in a traceback: of their files, or of a module that they installed."""
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        file = frame.f_code.co_filename
        library = "site-packages" in Path(file).parts and not isinstance(frame.f_locals.get("self"), nn.Module)
        if _is_own(file) and not library:
            return file, line, linecache.getline(file, line, frame.f_globals).strip()
    return None


def _definition(model: nn.Module) -> Line | None:
    """Return where the forward of a model begins, if a user wrote it."""
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    if code is None or not _is_own(code.co_filename):
        return None
    return code.co_filename, code.co_firstlineno, linecache.getline(code.co_filename, code.co_firstlineno).strip()


def _at(line: Line | None) -> str:
    if line is None:
        return ""
    file, number, code = line
    path, here = Path(file), Path.cwd()
    place = path.relative_to(here) if here in path.parents else path
    return f" The line is {place}:{number}" + (f": `{code}`." if code else ".")
