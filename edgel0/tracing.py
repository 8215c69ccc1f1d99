"""Which units does a model have? One walk over its graph with labels in place of values."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from edgel0.capturing import Example, capture
from edgel0.excluding import excluded
from edgel0.flow import FLOW
from edgel0.moving import expand, move, reshape
from edgel0.naming import module_of
from edgel0.rules import UNKNOWN, Constant, Rule, Value, operands, pointwise, shape_of, unknown
from edgel0.types import Coupling, Group, Labels, Pin, Reader
from edgel0.units import PINNED, Labelled, Units

aten = torch.ops.aten
_PERMUTING = {aten.t, aten.transpose, aten.permute, aten.numpy_T, aten.mT, aten.swapaxes, aten.swapdims, aten.movedim}
_COPYING = {aten.alias, aten.clone, aten.contiguous, aten.detach, aten.lift_fresh_copy}
_SHAPING = {aten.reshape, aten.squeeze, aten.unsqueeze, aten.view, aten._unsafe_view}


def trace(
    model: nn.Module, example: Example, *, flow: Mapping[Any, Rule] = FLOW, exclude: Sequence[str] = ()
) -> Coupling:
    """Find the units of ``model``: what can be removed, what is pinned, and why.

    ``example`` is a tensor, a tuple of tensors or a dict by argument name, shaped as the deployed model will be fed;
    costs are counted for it. ``flow`` maps operators (overloads or packets) to rules: extend it with
    ``FLOW | {my_operator: rule}``. ``exclude`` names modules or parameters, or patterns of them ("blocks.0.*"), whose
    channels must all stay (see :func:`edgel0.excluding.excluded`). The model is left as it was.

    Raises:
        UsageError: the model does not run on the example, or ``exclude`` names what is not in it.
        TraceError: ``torch.export`` cannot capture it.
    """
    return couple(capture(model, example, flow), flow=flow, exclude=exclude)


def couple(program: ExportedProgram, *, flow: Mapping[Any, Rule] = FLOW, exclude: Sequence[str] = ()) -> Coupling:
    """Find the units of a captured program (see :func:`trace`)."""
    walk = _Walk(program, flow)
    for node in program.graph.nodes:
        walk.visit(node)
    found = walk.finish()
    return excluded(found, exclude) if exclude else found


def bind(node: Node, resolve: Any) -> SimpleNamespace:
    """Give an operator's arguments their schema names and defaults; ``resolve`` replaces nodes."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return SimpleNamespace(**{f"arg{i}": resolve(a) for i, a in enumerate((*node.args, *node.kwargs.values()))})
    bound: dict[str, Any] = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args) and not argument.kwarg_only:
            given = node.args[i]
        else:
            given = node.kwargs.get(argument.name, argument.default_value)
        bound[argument.name] = resolve(given)
    return SimpleNamespace(**bound)


class _Walk:
    """The state of one walk; what rules may use of it is :class:`edgel0.rules.Walk`."""

    def __init__(self, program: ExportedProgram, flow: Mapping[Any, Rule]) -> None:
        self.program, self.flow, self.units = program, flow, Units()
        self.values: dict[Node, Value] = {}
        self.names: dict[str, str] = {}
        self.writers: dict[str, int] = {}
        self.parameters: dict[tuple[str, int], np.ndarray] = {}
        self.reads: dict[tuple[str, int], np.ndarray] = {}
        self.uses: dict[tuple[Node, Node], list[tuple[int, np.ndarray]]] = {}
        self.follows: list[tuple[Node, Constant, Labelled]] = []
        self.pins: list[Pin] = []
        self._known: dict[Node, torch.Tensor] = {}
        kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
        for spec in program.graph_signature.input_specs:
            if spec.kind in kinds and spec.target is not None:
                self.names[spec.arg.name] = spec.target

    # What rules use.

    def write(self, weight: Constant, count: int) -> np.ndarray:
        name = weight.parameter or self._origin(weight.node)
        return self.units.fresh(count, self.writers.setdefault(name, len(self.writers)))

    def _origin(self, node: Node) -> str:
        """Name the first parameter or buffer that a constant is computed from."""
        while node.all_input_nodes:
            node = node.all_input_nodes[0]
        return self.names.get(node.name, node.name)

    def read(self, node: Node, weight: Constant, axis: int, labels: np.ndarray) -> None:
        self.use(node, weight, axis, labels)
        if weight.parameter is not None and weight.order[axis] >= 0:
            self.reads[weight.parameter, weight.order[axis]] = labels
        else:
            shape = tuple(len(labels) if i == axis else 1 for i in range(len(weight.shape)))
            self.pin(node, Labelled(shape, labels.reshape(shape)), "its weight is computed, so no gate can stand on it")

    def use(self, node: Node, constant: Constant, axis: int, labels: np.ndarray) -> None:
        if constant.parameter is not None and constant.order[axis] >= 0:
            first = self.parameters.setdefault((constant.parameter, constant.order[axis]), labels)
            if first is not labels:
                self.units.union(first, labels)
        self.uses.setdefault((node, constant.node), []).append((axis, labels))

    def follow(self, node: Node, constant: Constant, region: Labelled) -> None:
        self.follows.append((node, constant, region))

    def pin(self, node: Node, tensor: Labelled, reason: str, axes: Sequence[int] | None = None) -> Labelled:
        tensor = self.units.settle(tensor)
        labels = tensor.labels
        if axes is not None:
            axes = tuple(i for i in axes if labels.shape[i] > 1)
            if not axes:
                return tensor
            others = tuple(i for i in tensor.varying if i not in axes)
            if others and _count(tensor, others) > 1:  # what meets becomes one, and still is a unit
                return self.units.settle(self.units.tie(tensor, others))
            first = labels[tuple(slice(0, 1) if i in axes else slice(None) for i in range(labels.ndim))]
            meets = (labels != first).any(axis=axes, keepdims=True)
            labels = labels[np.broadcast_to(meets, labels.shape)]
        met = np.unique(labels)
        met = met[met != PINNED]
        self.units.union(met, PINNED)
        if met.size or reason == UNKNOWN:
            self.pins.append(_pin(node, reason, met.size))
        return self.units.settle(tensor)

    def value(self, constant: Constant) -> torch.Tensor:
        found: torch.Tensor = self._evaluate(constant.node)
        return found

    # The walk.

    def visit(self, node: Node) -> None:
        """Label a node; what its rule pinned without giving a reason met what was pinned before."""
        lost, told = self.units.lost, len(self.pins)
        self._label(node)
        if self.units.lost > lost and len(self.pins) == told:
            self.pins.append(_pin(node, "meets what is pinned", self.units.lost - lost))

    def _label(self, node: Node) -> None:
        if node.op == "placeholder":
            self.values[node] = self._placeholder(node)
        elif node.op == "get_attr":  # the body of a control-flow operator
            self.values[node] = None
        elif node.op == "call_function":
            self.values[node] = self._call(node)
        elif node.op == "output":
            for source in node.all_input_nodes:
                value = self.values[source]
                if isinstance(value, Labelled):
                    self.pin(node, value, "an output of the model")

    def _placeholder(self, node: Node) -> Value:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return None
        shape = tuple(int(n) for n in value.shape)
        if node.name in self.names:
            name = self.names[node.name]
            return Constant(shape, node, name if name in self.program.state_dict else None, tuple(range(len(shape))))
        return self.units.pinned(shape)

    def _call(self, node: Node) -> Value:
        if node.target is operator.getitem:
            source = self.values[node.args[0]]  # type: ignore[index]
            which: Any = node.args[1]
            return source[which] if isinstance(source, tuple) else Constant(shape_of(node), node)
        arguments = bind(node, lambda given: torch.fx.map_arg(given, self.values.__getitem__))
        if not operands(arguments, Labelled):
            return self._constant(node, arguments)
        return self._rule(node)(self, node, arguments)

    def _rule(self, node: Node) -> Rule:
        """Return the row of an operator: of its overload if there is one, else of its packet."""
        packet = getattr(node.target, "overloadpacket", node.target)
        return self.flow.get(node.target) or self.flow.get(packet) or unknown

    def _constant(self, node: Node, arguments: Any) -> Value:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return Constant((), node) if isinstance(value, tuple | list) else None
        sources = operands(arguments, Constant)
        packet = getattr(node.target, "overloadpacket", None)
        if len(sources) == 1 and sources[0].parameter is not None and sources[0].shape:
            order = sources[0].order
            if packet in _COPYING:
                return Constant(sources[0].shape, node, sources[0].parameter, order)
            if packet in _PERMUTING:
                probe = torch.empty([2 + i for i in range(len(order))], device="meta")
                moved = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
                return Constant(shape_of(node), node, sources[0].parameter, tuple(order[n - 2] for n in moved.shape))
            wide = [(size, at) for size, at in zip(sources[0].shape, order, strict=True) if size > 1]
            if packet in _SHAPING and [size for size, _ in wide] == [size for size in shape_of(node) if size > 1]:
                left = iter(at for _, at in wide)
                order = tuple(next(left) if size > 1 else -1 for size in shape_of(node))
                return Constant(shape_of(node), node, sources[0].parameter, order)
        return Constant(shape_of(node), node)

    def _evaluate(self, node: Any) -> Any:
        """Value of a constant node, computed once."""
        if not isinstance(node, Node):
            return node
        if node not in self._known:
            self._known[node] = evaluate(self.program, node, self.names, self._evaluate)
        return self._known[node]

    # The end: rectangles, numbers, cuts.

    def finish(self) -> Coupling:
        live = [
            (node, tensor)
            for node, value in self.values.items()
            for tensor in (value if isinstance(value, tuple) else (value,))
            if isinstance(tensor, Labelled)
        ]
        self._rectangles(live)
        self._pin_free()
        number, groups = self._number()
        activations = {
            node.name: tuple(self._labels(t, number) for t in (value if isinstance(value, tuple) else (value,)))
            for node, value in self.values.items()
            if isinstance(value, Labelled | tuple)
        }
        constants, uses = self._cuts(number)
        readers = []
        for (name, axis), labels in self.reads.items():
            units = number[self.units.find(labels)]
            if units.any():
                readers.append(Reader(name, axis, units))
        return Coupling(
            program=self.program,
            flow=self.flow,
            units=sum(g.size for g in groups),
            groups=tuple(groups),
            activations=activations,
            constants={node.name: cut for node, cut in constants.items()},
            uses={(user.name, node.name): cut for (user, node), cut in uses.items()},
            tensors={self.names[node.name]: cut for node, cut in constants.items() if node.op == "placeholder" and cut},
            readers=tuple(readers),
            pins=tuple(self.pins),
        )

    def _rectangles(self, live: list[tuple[Node, Labelled]]) -> None:
        """Tie until no tensor's labels vary along more than one axis, keeping the axis with the most units."""
        open_ends = live
        while open_ends:
            settled = [(node, self.units.settle(t)) for node, t in open_ends]
            open_ends = [(node, t) for node, t in settled if len(t.varying) > 1]
            for node, tensor in open_ends:
                tensor = self.units.settle(tensor)
                if len(tensor.varying) > 1:
                    axis = max(tensor.varying, key=lambda i: _count(tensor, (i,)))
                    lost = self.units.lost
                    self.units.tie(tensor, keep=(axis,))
                    if self.units.lost > lost:
                        reason = f"lies beside what is pinned along axis {axis}, the one that can be cut"
                        self.pins.append(_pin(node, reason, self.units.lost - lost))

    def _pin_free(self) -> None:
        """Pin the labels that no parameter made: there is nothing to remove behind them."""
        every = np.arange(len(self.units))
        roots = self.units.find(every)
        made = np.zeros(len(roots), bool)
        made[roots[self.units.writers >= 0]] = True
        self.units.union(every[~made[roots]], PINNED)

    def _number(self) -> tuple[np.ndarray, list[Group]]:
        """Give the units numbers group by group from 1; writers that share a unit make one group."""
        roots, writers = self.units.find(np.arange(len(self.units))), self.units.writers
        mine = (writers >= 0) & (roots != PINNED)
        roots_made, writers_made = roots[mine], writers[mine]
        families = Units()
        families.fresh(len(self.writers))
        unique, position = np.unique(roots_made, return_inverse=True)
        first = np.full(unique.size, np.iinfo(np.int64).max)
        np.minimum.at(first, position, writers_made)
        families.union(first[position] + 1, writers_made + 1)
        family = families.find(first + 1) if unique.size else first
        order = np.lexsort((unique, family))
        number = np.zeros(len(self.units), np.int64)
        rank = np.empty(unique.size, np.int64)
        rank[order] = np.arange(1, unique.size + 1)
        number[unique] = rank
        number = number[roots]
        names = list(self.writers)
        groups: list[Group] = []
        start = 1
        for f in np.unique(family):
            size = int((family == f).sum())
            members = tuple(names[w] for w in range(len(names)) if families.find(np.array([w + 1]))[0] == f)
            groups.append(Group(members[0].removesuffix(".weight"), start, start + size, members))
            start += size
        return number, groups

    def _labels(self, tensor: Any, number: np.ndarray) -> Labels | None:
        if not isinstance(tensor, Labelled):
            return None
        tensor = self.units.settle(tensor)
        units = number[tensor.labels]
        if not units.any():
            return None
        axis = tensor.varying[0] if tensor.varying else None
        return Labels(axis, units.reshape(-1))

    def _cuts(
        self, number: np.ndarray
    ) -> tuple[dict[Node, tuple[Labels, ...]], dict[tuple[Node, Node], tuple[Labels, ...]]]:
        """Decide how each constant is cut: as all its users ask, or not at all where they disagree."""
        asked: dict[tuple[Node, Node], dict[int, np.ndarray]] = {}
        for pair, entries in self.uses.items():
            for axis, labels in entries:
                asked.setdefault(pair, {})[axis] = number[self.units.find(labels)]
        for user, constant, region in self.follows:
            region = self.units.settle(region)
            back = len(region.shape) - len(constant.shape)
            for axis in region.varying:
                at = axis - back
                if at >= 0 and constant.shape[at] > 1:
                    asked.setdefault((user, constant.node), {})[at] = number[region.labels].reshape(-1)
        uses = {
            pair: cut
            for pair, axes in asked.items()
            if (cut := tuple(Labels(axis, units) for axis, units in sorted(axes.items()) if units.any()))
        }
        constants: dict[Node, tuple[Labels, ...]] = {}
        for node in reversed(self.program.graph.nodes):
            if isinstance(self.values.get(node), Constant):
                wanted = {uses.get((user, node), ()) for user in node.users if user.op != "output"}
                constants[node] = wanted.pop() if len(wanted) == 1 else ()
                pieces = {user: constants.get(user, ()) for user in node.users if user.target is operator.getitem}
                if constants[node] and node.op == "call_function" and node.target is not operator.getitem:
                    self._pull(node, {node: constants[node]}, uses)
                elif any(pieces.values()) and len(pieces) == len(node.users):
                    self._pull(node, pieces, uses)
        return constants, uses

    def _pull(
        self,
        node: Node,
        results: dict[Node, tuple[Labels, ...]],
        uses: dict[tuple[Node, Node], tuple[Labels, ...]],
    ) -> None:
        """Move cuts of the results of rearranging a constant to that constant, where it is cut along axes, too."""
        source = node.args[0] if node.args else None
        rule = self._rule(node)
        if not isinstance(source, Node) or [*node.all_input_nodes] != [source]:
            return
        value = self.values[source]
        if not isinstance(value, Constant) or not value.shape or rule not in _REARRANGING:
            return
        count = int(np.prod(value.shape))
        places = torch.arange(count).reshape(value.shape)
        moved = places if rule is pointwise else node.target(places, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        pulled: dict[int, np.ndarray] = {}
        for axis in sorted({labels.axis for cut in results.values() for labels in cut if labels.axis is not None}):
            there, pairs = np.zeros(count, np.int64), []
            for result, cut in results.items():
                at = (moved if isinstance(moved, torch.Tensor) else moved[result.args[1]]).numpy()
                units = next((labels.units for labels in cut if labels.axis == axis), np.zeros(1, np.int64))
                here = np.broadcast_to(units.reshape([-1 if i == axis else 1 for i in range(at.ndim)]), at.shape)
                there[at.reshape(-1)] = here.reshape(-1)
                pairs.append((at, here))
            found = Units.squeeze(there.reshape(value.shape))
            varying = [i for i, size in enumerate(found.shape) if size > 1]
            alike = all(np.array_equal(there[at], here) for at, here in pairs)
            if not alike or len(varying) != 1 or varying[0] in pulled:
                return
            pulled[varying[0]] = found.reshape(-1)
        uses[node, source] = tuple(Labels(axis, units) for axis, units in sorted(pulled.items()))
        for result in results.keys() - {node}:
            uses[result, node] = ()


_REARRANGING = (pointwise, reshape, expand, move)


def evaluate(program: ExportedProgram, node: Node, names: Mapping[str, str], recurse: Any) -> Any:
    """Compute a node that depends on parameters, buffers and shapes alone."""
    if node.op == "placeholder":
        name = names[node.name]
        found = program.state_dict.get(name)
        return (found if found is not None else program.constants[name]).detach()
    if node.target is operator.getitem:
        return recurse(node.args[0])[node.args[1]]
    with torch.no_grad():
        return node.target(  # type: ignore[operator]
            *torch.fx.map_arg(node.args, recurse), **torch.fx.map_arg(node.kwargs, recurse)
        )


def _count(tensor: Labelled, keep: Sequence[int]) -> int:
    """How many units would be left if everything were tied along all axes but those in ``keep``."""
    names, places = np.unique(tensor.labels, return_inverse=True)
    local = Units()
    own = np.where(names == PINNED, 0, local.fresh(len(names)))
    tied = local.tie(Labelled(tensor.labels.shape, own[places].reshape(tensor.labels.shape)), keep).labels
    return int(np.unique(tied[tied != PINNED]).size)


def _pin(node: Node, reason: str, count: int) -> Pin:
    name = str(node.target) if node.op == "call_function" else node.op
    source = _user_line(node.meta.get("stack_trace") or "")
    return Pin(name, node.name, module_of(node), reason, count, source, unknown=reason == UNKNOWN)


def _user_line(trace: str) -> str:
    """Return ``file:line: code`` of the innermost frame that is not torch's own, or nothing."""
    frames = re.findall(r'File "(.+?)", line (\d+).*\n?(.*)', trace)
    own = [f"{file}:{line}: {code.strip()}" for file, line, code in frames if "/torch/" not in file.replace("\\", "/")]
    return own[-1] if own else ""
