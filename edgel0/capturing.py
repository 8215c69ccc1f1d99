"""How does a module become a graph without side effects? ``torch.export``, then in-place operators made functional."""

from __future__ import annotations

import contextlib
import copy
import operator
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node

from edgel0.errors import TraceError, UsageError
from edgel0.explaining import cannot_capture, cannot_run, check_result, check_static, writes
from edgel0.preserving import LOCK, muted, preserved
from edgel0.refusing import check, no_module

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
    """Return the user's own module from inside DistributedDataParallel, DataParallel or torch.compile.

    Raises:
        UsageError: it is no module.
    """
    while True:
        if not isinstance(model, nn.Module):
            raise no_module(model)
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


def duplicate(model: nn.Module) -> nn.Module:
    """Return a deep copy of a module, also of one that keeps what autograd made, as old ``weight_norm`` does."""
    made = [t for m in model.modules() for t in vars(m).values() if isinstance(t, torch.Tensor) and not t.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in made})


def capture(model: nn.Module, example: Example, keep: Container[Any] | None = None) -> ExportedProgram:
    """Capture ``model`` in eval mode on ``example``, undecomposed and free of in-place operators where possible.

    The forward runs twice: on the example as it is, and with tensors without values. Hooks are part of the graph, parts
    that ``torch.compile`` would compile run uncompiled, and the model and torch's random numbers are left as they were.
    Operators that are not in ``keep`` are decomposed where torch knows how.

    Raises:
        UsageError: the model or the example cannot work, or the forward does not run on the example.
        TraceError: it runs, but ``torch.export`` cannot capture it, or not as a network of fixed shapes without state.
    """
    model = unwrap(model)
    args, kwargs = arguments(example)
    with contextlib.ExitStack() as stack:
        stack.enter_context(LOCK)  # while a thread captures a model, others see it with tensors without values
        check(model, args, kwargs)
        stack.enter_context(warnings.catch_warnings())
        before = _held(model)
        watched = stack.enter_context(preserved(model))
        stack.enter_context(evaluating(model))
        warnings.simplefilter("ignore")  # export warns of its own internals, which nobody can act upon

        def run() -> Any:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), watched:
                return model(*_copies(args), **_copies(kwargs))

        try:
            result = run()
        except (Exception, SystemExit) as error:  # it is the user's code: it may raise anything
            raise cannot_run(model, args, kwargs, error) from error
        check_result(model, result)
        try:
            with muted():
                program = torch.export.export(model, args, kwargs, strict=False)
                check_static(model, program.graph, run)
                program = _plain(program, keep)
        except TraceError:
            raise
        except (Exception, SystemExit) as error:  # as above: export runs the forward once more
            raise cannot_capture(model, error) from error
        written = {id(tensor) for tensor, _ in watched.saved}
        filled = [n for n, t in _held(model).items() if t is not before.get(n) or id(t) in written]
        _keep_(program, filled)
    _only_results_(program)
    program.graph.eliminate_dead_code()  # what reaches no output pins nothing
    for spec in program.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            raise writes(model, str(spec.target))
    for name, tensor in program.state_dict.items():  # handles of its own: the model's tensors may come to be resized
        own = tensor.detach()
        learns = isinstance(tensor, nn.Parameter)
        program.state_dict[name] = nn.Parameter(own, requires_grad=tensor.requires_grad) if learns else own
    return program


def _held(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a model that are no parameters, buffers or not, by name."""
    return {
        f"{prefix}.{name}".lstrip("."): tensor
        for prefix, module in model.named_modules(remove_duplicate=False)
        for space in (vars(module), module._buffers)
        for name, tensor in space.items()
        if isinstance(tensor, torch.Tensor)
    }


def _keep_(program: ExportedProgram, filled: Sequence[str]) -> None:
    """Make tensors that the forward itself fills (a table that it computes once) constants of the program."""
    for spec in program.graph_signature.input_specs:
        name = spec.target
        for owner in (program.state_dict, program.constants):
            if name in filled and isinstance(owner.get(name), torch.Tensor):
                spec.kind, spec.target, spec.persistent = InputKind.CONSTANT_TENSOR, f"{name}_as_filled", None
                program.constants[spec.target] = owner.pop(name).detach().clone()


def _copies(given: Any) -> Any:
    """Copy the tensors of a structure: a forward may write to its inputs."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, given)


def _plain(program: ExportedProgram, keep: Container[Any] | None) -> ExportedProgram:
    """Make a program one flat graph of functional operators, as far as there are such."""
    inline_(program.graph_module)
    static_(program.graph)
    functionalize_(program.graph)
    apart = _apart(program, keep)
    if apart or any(_mutable(node) or _transform(node) for node in program.graph.nodes):
        while True:  # slower, but it takes care of all writes through views, and of torch.vmap
            program = program.run_decompositions(apart)
            static_(program.graph)
            more = {target: how for target, how in _apart(program, keep).items() if target not in apart}
            if not more:
                break
            apart |= more
    return program


def _apart(program: ExportedProgram, keep: Container[Any] | None) -> dict[Any, Any]:
    """Return torch's decompositions of the operators of a program that are not kept."""
    used = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    if keep is None or all(target in keep or target.overloadpacket in keep for target in used):
        return {}
    known = torch.export.default_decompositions()
    return {t: known[t] for t in used if t not in keep and t.overloadpacket not in keep and t in known}


def _only_results_(program: ExportedProgram) -> None:
    """Leave out what the forward writes to its own inputs: it is no result."""
    output, specs = program.graph.output_node(), program.graph_signature.output_specs
    kept = [i for i, spec in enumerate(specs) if spec.kind is not OutputKind.USER_INPUT_MUTATION]
    output.args = (tuple(output.args[0][i] for i in kept),)
    specs[:] = [specs[i] for i in kept]


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


def _mutable(node: Node) -> bool:
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def _transform(node: Node) -> bool:
    return (getattr(node.target, "__module__", None) or "").startswith("torch._functorch")


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
