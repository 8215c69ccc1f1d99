"""How does a module become a graph without side effects? ``torch.export``, then in-place operators made functional."""

from __future__ import annotations

import contextlib
import linecache
import operator
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import Graph, GraphModule, Node

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
                model(*_copies(args), **_copies(kwargs))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{type(model).__name__} does not run on the example input ({_shapes(args, kwargs)}): {_first(error)}. "
                "Give an example with the shapes and types that its forward takes."
            ) from error
        try:
            with warnings.catch_warnings():  # export warns of its own internals, which nobody can act upon
                warnings.simplefilter("ignore")
                program = _plain(torch.export.export(model, args, kwargs, strict=False))
                _only_results_(program)
                program.graph.eliminate_dead_code()  # what reaches no output pins nothing
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, NotImplementedError) as error:
            raise TraceError(
                f"torch.export cannot capture {type(model).__name__}: {_first(error)} {_user_line(error)}"
                "Make the forward depend on shapes, not on values (torch.where or torch.cond for a branch), then trace "
                "again."
            ) from error
    _no_state(model, program)
    return program


def _copies(given: Any) -> Any:
    """Copy the tensors of a structure: a forward may write to its inputs."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, given)


def _plain(program: ExportedProgram) -> ExportedProgram:
    """Make a program one flat graph of functional operators, as far as there are such."""
    inline_(program.graph_module)
    static_(program.graph)
    functionalize_(program.graph)
    if any(_mutable(node) or node.target is _EINSUM for node in program.graph.nodes):
        # Slower, but it takes care of all writes through views.
        program = program.run_decompositions({_EINSUM: torch.export.default_decompositions()[_EINSUM]})
        static_(program.graph)
    return program


def _only_results_(program: ExportedProgram) -> None:
    """Leave out what the forward writes to its own inputs: it is no result."""
    output, specs = program.graph.output_node(), program.graph_signature.output_specs
    kept = [i for i, spec in enumerate(specs) if spec.kind is not OutputKind.USER_INPUT_MUTATION]
    output.args = (tuple(output.args[0][i] for i in kept),)
    specs[:] = [specs[i] for i in kept]


def _no_state(model: nn.Module, program: ExportedProgram) -> None:
    for spec in program.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            raise TraceError(
                f"the forward of {type(model).__name__} writes to {spec.target!r} in eval mode; a network without "
                "state was expected. Write to it under `if self.training:` only, or return it as an output."
            )


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
    """Quote the innermost line of the user's code in a traceback."""
    found = ""
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if (
            "/torch/" not in code.co_filename
            and "/edgel0/" not in code.co_filename
            and not code.co_filename.startswith("<")
        ):
            text = linecache.getline(code.co_filename, frame.tb_lineno).strip()
            found = f"The line is {code.co_filename}:{frame.tb_lineno}: `{text}`. "
        frame = frame.tb_next
    return found


def is_view(node: Any) -> bool:
    """Tell whether a node's output shares memory with its first argument, or may do so."""
    if node.target is operator.getitem:
        return is_view(node.args[0])
    schema = getattr(node.target, "_schema", None)
    if schema is None or not node.args or not isinstance(node.args[0], Node):
        return False
    if schema.name in _IDENTITIES:
        return True
    return not schema.is_mutable and any(r.alias_info is not None for r in schema.returns)


_IDENTITIES = {"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout"}
_EINSUM = aten.einsum.default


def _mutable(node: Node) -> bool:
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def inline_(module: GraphModule) -> None:
    """Put the bodies of ``torch.no_grad()`` and of disabled ``autocast`` regions where they are called."""
    for node in list(module.graph.nodes):
        name = getattr(node.target, "__name__", "")
        if name == "wrap_with_set_grad_enabled":
            body, given = node.args[1], node.args[2:]
        elif name == "wrap_with_autocast" and node.args[2] is False:
            body, given = node.args[4], node.args[5:]
        else:
            continue
        inner: Any = module.get_submodule(body.target)
        inline_(inner)
        places = dict(zip((n for n in inner.graph.nodes if n.op == "placeholder"), given, strict=True))
        with module.graph.inserting_before(node):
            results: Any = module.graph.graph_copy(inner.graph, places)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        if not body.users:
            module.graph.erase_node(body)
    module.recompile()


_SHAPED_AS = {aten.view_as: aten.reshape, aten.reshape_as: aten.reshape, aten.expand_as: aten.expand}
_FILLED = {
    aten.empty_like: 0,
    aten.zeros_like: 0,
    aten.ones_like: 1,
    aten.new_empty: 0,
    aten.new_zeros: 0,
    aten.new_ones: 1,
    aten.full_like: None,
    aten.new_full: None,
}


def static_(graph: Graph) -> None:
    """Take shapes and types of other tensors as the numbers that they are, and drop checks of them."""
    for node in list(graph.nodes):
        packet, value = getattr(node.target, "overloadpacket", None), node.meta.get("val")
        if packet in _SHAPED_AS:
            node.target, node.args = _SHAPED_AS[packet].default, (node.args[0], list(value.shape))
        elif packet is aten.type_as or node.target is aten.to.other:
            node.target, node.args, node.kwargs = aten.to.dtype, (node.args[0], value.dtype), {}
        elif packet in _FILLED:
            given = node.kwargs.get("fill_value", node.args[-1])
            fill = given if _FILLED[packet] is None else _FILLED[packet]
            node.target, node.args = aten.full.default, (list(value.shape), fill)
            node.kwargs = {"dtype": value.dtype, "device": value.device}
        elif node.op == "call_function" and not node.users and _checks(node):
            graph.erase_node(node)


def _checks(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.returns and not schema.is_mutable


def _after(order: dict[Node, int], here: int, user: Node) -> bool:
    return order[user] > here


def functionalize_(graph: Graph) -> None:
    """Replace in-place operators by their functional forms, where no other view of the same memory is used later."""
    order = {node: i for i, node in enumerate(graph.nodes)}

    def root(node: Any) -> Any:
        while is_view(node) or _mutable(node):
            node = node.args[0]
        return node

    for node in list(graph.nodes):
        if not _mutable(node) or not node.args or not isinstance(node.args[0], Node):
            continue
        base, here, schema = node.args[0], order[node], node.target._schema
        name, overload = schema.name.removeprefix("aten::"), schema.overload_name or "default"
        functional = getattr(getattr(aten, name.removesuffix("_"), None), overload, None)
        memory = root(base)
        shared = any(
            order[user] > here
            for other in graph.nodes
            if other is not base and other is not node and root(other) is memory
            for user in other.users
        )
        kinds = {n.meta["val"].dtype for n in node.all_input_nodes} - {torch.bool, base.meta["val"].dtype}
        if functional is None or not name.endswith("_") or memory.op == "placeholder" or shared or kinds:
            continue
        node.target = functional
        base.replace_all_uses_with(node, delete_user_cb=partial(_after, order, here))
