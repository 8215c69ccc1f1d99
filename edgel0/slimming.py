"""What is left when closed units are physically removed? The traced graph, rewritten for the kept counts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, Node

from edgel0 import __version__
from edgel0.capturing import Example, arguments, unwrap
from edgel0.cost import cost_of, program_cost
from edgel0.errors import SlimError, UsageError
from edgel0.flow import FLOW
from edgel0.masks import masked, tensors
from edgel0.reaching import Fate, ends, fates
from edgel0.resizing import RESIZE, Resized
from edgel0.rules import pointwise
from edgel0.tracing import evaluate, trace
from edgel0.types import Labels, Masks, Reader, Slimmed

aten = torch.ops.aten


def slim(model: nn.Module, masks: Masks, example: Example | None = None) -> Slimmed:
    """Remove the closed units of ``masks`` from ``model``: a smaller program, equal to :func:`edgel0.masked`.

    The program is the one that the masks were traced on, with ``model``'s present weights; an ``example`` of other
    shapes traces the model anew. Whole branches whose units all closed become constants and fold away.

    Raises:
        UsageError: the model is not the one that the masks were made for.
        SlimError: the masks leave an output that no longer depends on any input; the closed groups are named.
    """
    model = unwrap(model)
    if example is not None:
        masks = _retraced(model, masks, example)
    return Rewrite(masks, tensors(model, masks.coupling)).run()


def _retraced(model: nn.Module, masks: Masks, example: Example) -> Masks:
    """Carry the masks over to a trace on ``example``, if its tensors differ from those that were traced."""
    old = masks.coupling
    if _signature(arguments(example)) == _signature(old.program.example_inputs):
        return masks
    coupling = trace(masked(model, masks), example, flow=old.flow, exclude=old.excluded)
    if (coupling.digest, coupling.units) != (old.digest, old.units):
        raise UsageError(
            f"on this example {type(model).__name__} has {coupling.units} units in other groups than the {old.units} "
            "that the masks were made for; trace the model on this example and make masks from that coupling."
        )
    return replace(masks, coupling=coupling)


def _signature(given: Any) -> list[Any]:
    leaves = torch.utils._pytree.tree_leaves(given)
    return [(leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


class Rewrite:
    """One rewriting of one program. What is asked by node is asked of the *traced* graph unless it says ``new``."""

    def __init__(self, masks: Masks, weights: dict[str, torch.Tensor]) -> None:
        self.masks, self.coupling, self.program = masks, masks.coupling, masks.coupling.program
        self.weights = {name: weight.detach() for name, weight in weights.items()}
        self.names = {
            spec.arg.name: spec.target
            for spec in self.program.graph_signature.input_specs
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
        }
        self.folded: dict[Node, Any] = {}
        self.absent: set[Node] = set()
        self.graph = Graph()
        self.made: dict[Node, Any] = {}
        self.specs: dict[str, InputSpec] = {}
        self.state: dict[str, torch.Tensor] = {}
        self._placed: dict[Any, Node] = {}
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by identity of the first, which it keeps alive
        self._natural: dict[Node, bool] = {}
        self._values: dict[Node, Any] = {}
        self._readers: dict[str, list[Reader]] = {}
        for reader in self.coupling.readers:
            self._readers.setdefault(reader.parameter, []).append(reader)
        inputs = (n.meta["val"] for n in self.program.graph.nodes if n.op == "placeholder")
        self.mode = next(val.fake_mode for val in inputs if isinstance(val, FakeTensor))

    # What is kept.

    def kept(self, labels: Labels) -> np.ndarray:
        """Kept indices along the labelled axis (of a single unit: [0] or [])."""
        key = id(labels.units)
        if key not in self._kept:
            self._kept[key] = labels.units, np.flatnonzero(self.masks.open[labels.units])
        return self._kept[key][1]

    def labels(self, node: Node, output: int = 0) -> Labels | None:
        """Labels of a live node's output."""
        return self.coupling.activations[node.name][output]

    def gone(self, node: Node, output: int = 0) -> bool:
        """Tell whether nothing of an output is kept."""
        labels = self.labels(node, output)
        return labels is not None and self.kept(labels).size == 0

    def cut(self, node: Node, user: Node) -> tuple[Labels, ...]:
        """Labels along which ``node`` is cut as an argument of ``user`` (or as the result that ``user`` itself is)."""
        if self.is_live(node):
            labels = self.labels(node)
            return () if labels is None else (labels,)
        if node is user:
            return self.coupling.constants.get(node.name, ())
        return self.coupling.uses.get((user.name, node.name), ())

    def shape(self, node: Node, output: int = 0) -> tuple[int, ...]:
        """Shape of a node's output after removal."""
        value = node.meta["val"]
        shape = [int(n) for n in (value[output] if isinstance(value, tuple | list) else value).shape]
        cuts = (self.labels(node, output),) if self.is_live(node) else self.cut(node, node)
        for labels in cuts:
            if labels is not None and labels.axis is not None:
                shape[labels.axis] = self.kept(labels).size
        return tuple(shape)

    def is_live(self, node: Any) -> bool:
        """Tell whether a node depends on an input of the model (as traced)."""
        return isinstance(node, Node) and node.name in self.coupling.activations

    def select(self, value: torch.Tensor, cut: Sequence[Labels]) -> torch.Tensor:
        """Cut a tensor to the kept indices of labelled axes; broadcast axes stay as they are."""
        for labels in cut:
            if labels.axis is not None and value.shape[labels.axis] == labels.units.size > self.kept(labels).size:
                value = value.index_select(labels.axis, torch.from_numpy(self.kept(labels)))
        return value

    # Constants.

    def value(self, node: Any) -> Any:
        """Value of a constant node of the traced graph, with the present weights."""
        if not isinstance(node, Node):
            return node
        if node not in self._values:
            if node.op == "placeholder" and self.names[node.name] in self.weights:
                self._values[node] = self._gated(self.names[node.name])
            else:
                self._values[node] = evaluate(self.program, node, self.names, self.value)
        return self._values[node]

    def _gated(self, name: str) -> torch.Tensor:
        """Close the closed units at the readers of a weight."""
        weight = self.weights[name]
        for reader in self._readers.get(name, ()):
            closed = torch.from_numpy(np.flatnonzero(~self.masks.open[reader.units]))
            if closed.numel():
                weight = weight.index_fill(reader.axis, closed.to(weight.device), 0)
        return weight

    def to_cut(self, node: Node, cut: Sequence[Labels]) -> torch.Tensor:
        """Value of a parameter that will be cut; what the cut takes away anyway is not zeroed before."""
        name = self.names[node.name]
        read = self.changes([Labels(reader.axis, reader.units) for reader in self._readers.get(name, ())])
        return self.weights[name] if name in self.weights and set(read) <= set(cut) else self.value(node)

    def natural(self, node: Node) -> bool:
        """Tell whether a constant can be computed in the new program from cut parameters, as the old one does."""
        if node not in self._natural:
            uses, constants = self.coupling.uses, self.coupling.constants
            sources = node.all_input_nodes
            cut_here = self.changes(constants.get(node.name, ()))
            followed = node.op == "placeholder" or any((node.name, s.name) in uses for s in sources)
            self._natural[node] = (followed or not cut_here) and all(
                self.natural(s)
                and self.changes(uses.get((node.name, s.name), ())) == self.changes(constants.get(s.name, ()))
                for s in sources
            )
        return self._natural[node]

    def changes(self, cut: Sequence[Labels]) -> tuple[Labels, ...]:
        """Return the labels of a cut along which something is removed."""
        return tuple(labels for labels in cut if self.kept(labels).size < labels.units.size)

    def constant(self, user: Node, node: Node) -> Node:
        """Put a constant into the new program as ``user`` needs it."""
        wanted = self.changes(self.coupling.uses.get((user.name, node.name), ()))
        if self.natural(node) and wanted == self.changes(self.coupling.constants.get(node.name, ())):
            if node.op == "placeholder":
                return self.place(node.name, self.to_cut(node, wanted), wanted, node)
            if node not in self.made:
                self.made[node] = self.emit(node)
            made: Node = self.made[node]
            return made
        return self.place((node.name, wanted), self.value(node), wanted)

    def place(self, key: Any, value: torch.Tensor, cut: Sequence[Labels] = (), node: Node | None = None) -> Node:
        """Make a placeholder for a cut parameter (``node``) or folded constant, once per key."""
        if key in self._placed:
            return self._placed[key]
        name = self.names[node.name] if node is not None else f"folded_{len(self._placed)}"
        small = self.select(value, cut)
        own = small.clone() if small is value else small
        old = self.program.state_dict.get(name)
        learns = isinstance(old, nn.Parameter)
        self.state[name] = nn.Parameter(own, requires_grad=old.requires_grad) if learns else own
        with self.graph.inserting_before(self._first_input):
            placed = self.graph.placeholder(node.name if node is not None else f"b_{name}")
        placed.meta["val"] = self.fake(own)
        self.specs[placed.name] = InputSpec(
            InputKind.PARAMETER if learns else InputKind.BUFFER,
            TensorArgument(placed.name),
            name,
            persistent=None if learns else True,
        )
        self._placed[key] = placed
        return placed

    def fake(self, like: torch.Tensor, shape: Sequence[int] | None = None) -> FakeTensor:
        """Return what a graph notes of a tensor: type, device, sizes (``like``'s unless given), order of its axes."""
        shape = like.shape if shape is None else shape
        order = sorted(range(like.dim()), key=lambda axis: (-int(like.stride()[axis]), axis))
        made = torch.empty_permuted(shape, order, dtype=like.dtype, device="meta")
        return FakeTensor(self.mode, made, like.device)

    # Folding: what no longer depends on an input.

    def fold(self) -> None:
        """Find live nodes that became constant or absent, in order, and compute the constants."""
        for node, fate in fates(self.coupling, self.masks.open).items():
            if fate is Fate.GONE:
                self.absent.add(node)
            else:
                self.folded[node] = self.compute(node)

    def compute(self, node: Node) -> Any:
        """Run a node on constants; inputs that are absent count as zeros, which is what a closed reader sees."""

        def full(source: Any) -> Any:
            if not isinstance(source, Node):
                return source
            if source in self.folded:
                value = self.folded[source]
                return value if isinstance(value, tuple | list) else value.expand(source.meta["val"].shape).clone()
            if source in self.absent:
                return torch.zeros(source.meta["val"].shape, dtype=source.meta["val"].dtype)
            return self.value(source)

        with torch.no_grad():
            args, kwargs = torch.fx.map_arg(node.args, full), torch.fx.map_arg(node.kwargs, full)
            run: Any = aten.reshape.default if node.target is aten.view.default else node.target  # strides may differ
            value = run(*args, **kwargs)
        return compact(value) if isinstance(value, torch.Tensor) else value

    @staticmethod
    def packet(node: Node) -> Any:
        """Return the operator of a node, without its overload."""
        return getattr(node.target, "overloadpacket", node.target)

    # Emission.

    def argument(self, user: Node, source: Node) -> Any:
        """Return what stands in the new graph for ``source`` as an argument of ``user``."""
        if source.op == "get_attr":  # the body of a control-flow operator
            return self.graph.get_attr(source.target)  # type: ignore[arg-type]
        if source in self.folded:
            labels = self.labels(source)
            placed = self.place(source, self.folded[source], () if labels is None else (labels,))
            if tuple(placed.meta["val"].shape) == self.shape(source) or self.broadcasts(user, source):
                return placed
            return self.graph.call_function(aten.expand.default, (placed, list(self.shape(source))))
        return self.made[source] if self.is_live(source) else self.constant(user, source)

    def broadcasts(self, user: Node, source: Node) -> bool:
        """Tell whether ``user`` gives the same when ``source`` has size 1 along axes on which it does not change."""
        others = [n for n in user.all_input_nodes if n is not source and self.is_live(n) and n not in self.folded]
        return (
            FLOW.get(self.packet(user)) is pointwise
            and self.packet(user) not in (aten.copy, aten.fill)
            and any(self.shape(other) == self.shape(user) for other in others)
        )

    def emit(self, node: Node) -> Any:
        """Write a node into the new graph with sizes for the kept counts."""
        if node.target is operator.getitem:
            source, which = node.args
            pieces = self.argument(node, source)  # type: ignore[arg-type]
            if isinstance(pieces, Resized):
                return pieces.pieces[which]  # type: ignore[index]
            return self.graph.call_function(operator.getitem, (pieces, which))
        resize = RESIZE.get(self.packet(node))
        if resize is not None and (self.is_live(node) or self.resizes(node)):
            made = resize(self, node)
            if made is not None:
                return made
        return self.copy(node)

    def resizes(self, node: Node) -> bool:
        """Tell whether sizes of a node or of what it works on are not the traced ones."""
        return any(self.changes(self.cut(each, node)) for each in (node, *node.all_input_nodes))

    def copy(self, node: Node, **changed: Any) -> Node:
        """Copy a node with mapped arguments; ``changed`` replaces some by their schema names."""
        rest = self.replaced(node, node.args, node.kwargs, dict.fromkeys(changed))
        args, kwargs = torch.fx.map_arg(rest, lambda source: self.argument(node, source))
        args, kwargs = self.replaced(node, args, kwargs, changed)
        made = self.note(node, self.graph.call_function(node.target, args, kwargs))  # type: ignore[arg-type]
        old = node.meta["val"]
        if isinstance(old, torch.Tensor):  # of several results not each has labels; these are left to assemble()
            shape = self.shape(node)
            made.meta["val"] = old if shape == old.shape else self.fake(old, shape)
        elif not isinstance(node.target, torch._ops.OpOverload):  # control flow, of which nothing is cut
            made.meta["val"] = old
        return made

    @staticmethod
    def replaced(node: Node, args: Any, kwargs: Any, changed: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace arguments by their schema names."""
        new_args, new_kwargs = list(args), dict(kwargs)
        names = [a.name for a in node.target._schema.arguments] if changed else []  # type: ignore[union-attr]
        for name, value in changed.items():
            if names.index(name) < len(new_args):
                new_args[names.index(name)] = value
            else:
                new_kwargs[name] = value
        return tuple(new_args), new_kwargs

    def call(self, node: Node, target: Any, *args: Any) -> Node:
        """Write an operator of our own in place of ``node``."""
        return self.note(node, self.graph.call_function(target, args))

    @staticmethod
    def note(node: Node, made: Node) -> Node:
        """Carry the module and the line of user code over."""
        made.meta = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "stack_trace")}
        return made

    def run(self) -> Slimmed:
        """Fold, emit, and put the pieces together."""
        self.fold()
        output = next(iter(reversed(self.program.graph.nodes)))
        dead = [n for n in ends(self.coupling) if n in self.folded or n in self.absent]
        if dead:
            empty = [name for name, count in self.masks.kept.items() if count == 0]
            raise SlimError(
                f"with these masks the output {dead[0].name!r} no longer depends on the input: every unit is closed in "
                f"{', '.join(empty[:5])}{' …' if len(empty) > 5 else ''}. Keep at least one unit open in one of them."
            )
        holders = {n.name: n for n in self.program.graph.nodes if n.op == "placeholder"}
        for spec in self.program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                node = holders[spec.arg.name]
                self.made[node] = self.graph.placeholder(node.name)
                self.made[node].name = node.name  # fx renames what bears a builtin's name, such as "input"
                self.made[node].meta["val"] = node.meta["val"]
                self.specs[node.name] = spec
        self._first_input = next(iter(self.graph.nodes))
        for node in self.program.graph.nodes:
            if self.is_live(node) and node.op == "call_function" and not (node in self.folded or node in self.absent):
                self.made[node] = self.emit(node)
        results = torch.fx.map_arg(output.args[0], lambda source: self.argument(output, source))
        self.graph.output(results)
        program = self.assemble()
        origin = self.coupling.origin
        dense = cost_of(self.coupling) if origin is None else origin.cost
        return Slimmed(program, program_cost(program), dense, self.provenance())

    def provenance(self) -> dict[str, Any]:
        """Tell what made this program, in plain JSON values."""
        kept, origin = self.masks.kept, self.coupling.origin
        sizes = {g.name: g.size for g in self.coupling.groups} if origin is None else origin.groups
        groups = {name: [kept.get(name, 0), size] for name, size in sizes.items()}
        return {
            "edgel0": __version__,
            "torch": str(torch.__version__),
            "rule": self.masks.rule,
            "mask": self.masks.digest,
            "coupling": self.coupling.digest,
            "units": [int(self.masks.open[1:].sum()), sum(sizes.values())],
            "groups": groups,
        }

    def assemble(self) -> ExportedProgram:
        """Drop what reaches no output, note shapes, and make an exported program."""
        old = self.program
        self.graph.eliminate_dead_code()
        specs = []
        for node in [n for n in self.graph.nodes if n.op == "placeholder"]:
            spec = self.specs[node.name]
            if spec.kind is InputKind.USER_INPUT or node.users:
                specs.append(spec)
            else:
                del self.state[spec.target]  # type: ignore[arg-type]
                self.graph.erase_node(node)
        for node in self.graph.nodes:
            if node.op == "call_function" and "val" not in node.meta:
                args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
                with torch.no_grad(), self.mode:
                    node.meta["val"] = node.target(*args, **kwargs)
        results = self.graph.output_node().args[0]
        made = [TensorArgument(n.name) if isinstance(n, Node) else None for n in results]  # type: ignore[union-attr]
        old_specs = old.graph_signature.output_specs
        return ExportedProgram(
            root={n.target: getattr(old.graph_module, n.target) for n in self.graph.nodes if n.op == "get_attr"},
            graph=self.graph,
            graph_signature=ExportGraphSignature(
                specs, [OutputSpec(s.kind, a or s.arg, None) for a, s in zip(made, old_specs, strict=True)]
            ),
            state_dict=self.state,
            range_constraints={},
            module_call_graph=[e for e in old.module_call_graph if e.fqn == ""],
            example_inputs=old.example_inputs,
            constants={},
        )


def compact(value: torch.Tensor) -> torch.Tensor:
    """Shrink axes along which a tensor does not change to size 1."""
    for axis in range(value.dim()):
        if value.shape[axis] > 1:
            first = value.narrow(axis, 0, 1)
            if value.stride(axis) == 0 or bool((value == first).all()):
                value = first
    return value
