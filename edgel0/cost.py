"""What does a network cost, dense, under a mask, or in expectation? COST: operator -> multiply-accumulates.

Every cost is a sum of products of *live counts*: how many units live on an axis. With all units open this is the dense
cost, with a mask that of the slimmed network, with probabilities its expectation (units of one product are sampled
independently) and a differentiable function of them. 1 MAC = 1 multiply-accumulate = 2 FLOPs; only contractions count
(convolutions, linear layers, products of activations), element-wise operators and normalisation do not. Figures are for
the whole example that was traced: trace with a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from edgel0.capturing import is_view
from edgel0.naming import module_of
from edgel0.totals import Peak, Product, Sum, compile_peak, compile_sum
from edgel0.tracing import bind
from edgel0.types import Cost, Coupling, Labels, Masks

aten = torch.ops.aten


class Counter:
    """Answers in :class:`Product` how much of a node is alive."""

    def __init__(self, coupling: Coupling | None) -> None:
        self.coupling = coupling

    def cuts(self, node: Node, user: Node | None = None) -> tuple[Labels, ...]:
        """Labels of a node: of its (first) output when live, else as ``user`` needs it, else as it is cut itself."""
        if self.coupling is None:
            return ()
        if node.name in self.coupling.activations:
            first = self.coupling.activations[node.name][0]
            return () if first is None else (first,)
        if user is not None:
            return self.coupling.uses.get((user.name, node.name), ())
        return self.coupling.constants.get(node.name, ())

    def axis(self, node: Node, axis: int, user: Node | None = None) -> Product:
        """Live indices along one axis."""
        shape = node.meta["val"].shape
        axis %= len(shape)
        for labels in self.cuts(node, user):
            if labels.axis == axis:
                return Product(1, (labels,))
        return Product(int(shape[axis]))

    def elements(self, node: Node, value: Any = None, cuts: Sequence[Labels] | None = None) -> Product:
        """Live elements of a node's (first) output."""
        shape = list((node.meta["val"] if value is None else value).shape)
        axes = []
        for labels in self.cuts(node) if cuts is None else cuts:
            axes.append(labels)
            if labels.axis is not None:
                shape[labels.axis] = 1
        return Product(int(np.prod(shape, dtype=np.int64)), tuple(axes))


MacRule = Callable[[Counter, Node, Any], tuple[Product, ...]]


def convolution(live: Counter, node: Node, a: Any) -> tuple[Product, ...]:
    """Each output element contracts one kernel over the input channels of its group."""
    kernel = int(np.prod(a.weight.meta["val"].shape[2:], dtype=np.int64))
    transposed = "transpose" in str(node.target) or getattr(a, "transposed", False)
    return (live.elements(a.input if transposed else node).times(live.axis(a.weight, 1, node)).times(Product(kernel)),)


def linear(live: Counter, node: Node, a: Any) -> tuple[Product, ...]:
    """Each output element contracts the input's last axis."""
    return (live.elements(node).times(live.axis(a.weight, 1, node)),)


def product(live: Counter, node: Node, a: Any) -> tuple[Product, ...]:
    """Each output element contracts the last axis of the first matrix."""
    first = [v for v in vars(a).values() if isinstance(v, Node)][-2]
    return (live.elements(node).times(live.axis(first, -1, node)),)


def attention(live: Counter, node: Node, a: Any) -> tuple[Product, ...]:
    """Each query's scores contract the head's width, each output element the keys."""
    keys = Product(int(a.key.meta["val"].shape[-2]))
    return live.elements(a.query).times(keys), live.elements(node).times(keys)


def recurrent(live: Counter, node: Node, a: Any) -> tuple[Product, ...]:
    """Each step of each sequence contracts every weight matrix once."""
    shape = a.input.meta["val"].shape
    steps = Product(int(np.prod(shape[:-1], dtype=np.int64)))
    matrices = [weight for weight in a.params if weight.meta["val"].dim() == 2]
    return tuple(steps.times(live.axis(w, 0, node)).times(live.axis(w, 1, node)) for w in matrices)


COST: dict[Any, MacRule] = {
    aten.conv1d: convolution,
    aten.conv2d: convolution,
    aten.conv3d: convolution,
    aten.conv_transpose1d: convolution,
    aten.conv_transpose2d: convolution,
    aten.conv_transpose3d: convolution,
    aten.convolution: convolution,
    aten.linear: linear,
    aten.addmm: product,
    aten.baddbmm: product,
    aten.bmm: product,
    aten.matmul: product,
    aten.mm: product,
    aten.scaled_dot_product_attention: attention,
    aten.lstm.input: recurrent,
    aten.gru.input: recurrent,
    aten.rnn_tanh.input: recurrent,
    aten.rnn_relu.input: recurrent,
}


def macs(coupling: Coupling, table: Mapping[Any, MacRule] = COST) -> dict[str, tuple[Product, ...]]:
    """Multiply-accumulates per node that has any, as products of live counts."""
    return _macs(coupling.program, Counter(coupling), table)


def _macs(
    program: ExportedProgram, live: Counter, table: Mapping[Any, MacRule] = COST
) -> dict[str, tuple[Product, ...]]:
    found = {}
    for node in program.graph.nodes:
        rule = table.get(node.target) or table.get(getattr(node.target, "overloadpacket", None))
        if rule is not None:
            found[node.name] = rule(live, node, bind(node, lambda given: given))
    return found


def weights(coupling: Coupling, storage: str | None = None) -> dict[str, tuple[Product, int, bool]]:
    """Each used parameter and buffer: live elements, bytes per element, and whether it is a parameter."""
    return _weights(coupling.program, Counter(coupling), storage)


def _weights(
    program: ExportedProgram, live: Counter, storage: str | None = None
) -> dict[str, tuple[Product, int, bool]]:
    holders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            continue
        node = holders[spec.arg.name]
        if node.users:
            size = _width(node.meta["val"], storage)
            found[str(spec.target)] = (live.elements(node), size, spec.kind is InputKind.PARAMETER)
    return found


def sums(
    coupling: Coupling, *, storage: str | None = None, inside: Callable[[str], bool] = lambda path: True
) -> dict[str, Sum]:
    """Return the costs that add up, by metric: ``macs``, ``params``, ``weight_bytes``.

    ``storage`` is a key of ``STORAGE``, or None for the bytes that the model's own types take. ``inside`` tells of a
    module path whether what that module computes and holds counts.
    """
    nodes = {node.name: node for node in coupling.program.graph.nodes}
    spent = [each for name, each in macs(coupling).items() if inside(module_of(nodes[name]))]
    owned = [each for name, each in weights(coupling, storage).items() if inside(name.rpartition(".")[0])]
    return {
        "macs": compile_sum([product for products in spent for product in products]),
        "params": compile_sum([elements for elements, _, learns in owned if learns]),
        "weight_bytes": compile_sum([elements.times(Product(size)) for elements, size, _ in owned]),
    }


def peak(coupling: Coupling) -> Peak:
    """Return the peak bytes of activations, the cost that does not add up."""
    return _peak(coupling.program, Counter(coupling))


def cost_of(coupling: Coupling, masks: Masks | None = None) -> Cost:
    """Cost of the dense model, or of what a mask leaves of it.

    The mask's cost is that of the slimmed network, or a little more where whole branches fold away.
    """
    alive = torch.from_numpy(np.ones(coupling.units + 1, bool) if masks is None else masks.open).double()
    figures = {metric: round(float(total(alive))) for metric, total in sums(coupling).items()}
    return Cost(**figures, activation_bytes=round(float(peak(coupling)(alive))))


def program_cost(program: ExportedProgram) -> Cost:
    """Cost of a program as it stands, counted from its own shapes."""
    live = Counter(None)
    owned = _weights(program, live).values()
    return Cost(
        macs=round(sum(p.scale for products in _macs(program, live).values() for p in products)),
        params=round(sum(p.scale for p, _, learns in owned if learns)),
        weight_bytes=round(sum(p.scale * size for p, size, _ in owned)),
        activation_bytes=round(float(_peak(program, live)(torch.ones(1, dtype=torch.float64)))),
    )


def program_layers(program: ExportedProgram) -> list[dict[str, Any]]:
    """Return name, kind and MACs of each layer of a program that has any, in its order; plain JSON values.

    A layer is a module and an operator in it: attention's projections and its products are two.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    found: dict[tuple[str, str], float] = {}
    for name, products in _macs(program, Counter(None)).items():
        kind = str(getattr(nodes[name].target, "overloadpacket", nodes[name].target)).rpartition(".")[2]
        key = (module_of(nodes[name]) or kind, kind)
        found[key] = found.get(key, 0.0) + sum(product.scale for product in products)
    return [{"name": name, "kind": kind, "macs": round(macs)} for (name, kind), macs in found.items()]


def _peak(program: ExportedProgram, live: Counter) -> Peak:
    """Compile what each activation takes, from its operator to its last user; views share what they view."""
    owner: dict[Node, Node] = {}
    begin: dict[Node, int] = {}
    last: dict[Node, int] = {}
    named = {s.arg.name for s in program.graph_signature.input_specs if s.kind is not InputKind.USER_INPUT}
    nodes = list(program.graph.nodes)
    for at, node in enumerate(nodes):
        inputs = [n for n in node.all_input_nodes if n in owner]
        for source in inputs:
            last[owner[source]] = at
        if node.op != "output" and (inputs or (node.op == "placeholder" and node.name not in named)):
            shares = inputs and (is_view(node) or getattr(node.target, "__name__", "") == "getitem")
            owner[node] = owner[inputs[0]] if shares else node
            if not shares:
                begin[node] = last[node] = at
    spans = [(piece, at, last[node]) for node, at in begin.items() for piece in _pieces(live, node)]
    return compile_peak(spans, len(nodes))


def _pieces(live: Counter, node: Node) -> Iterator[Product]:
    """Yield the bytes of each output of a node."""
    value = node.meta.get("val")
    for i, part in enumerate(value if isinstance(value, tuple | list) else (value,)):
        if isinstance(part, torch.Tensor):
            labels = None
            if live.coupling is not None and node.name in live.coupling.activations:
                labels = live.coupling.activations[node.name][i]
            elements = live.elements(node, part, () if labels is None else (labels,))
            yield elements.times(Product(part.element_size()))


def _width(value: torch.Tensor, storage: str | None) -> int:
    """Bytes per element of a parameter or buffer; whole numbers stay what they are."""
    if storage is None or not value.is_floating_point():
        return value.element_size()
    wide, narrow = STORAGE[storage]
    return wide if value.dim() > 1 else narrow


# Type that floating weights are exported at -> bytes per element of what has two or more axes, and of the rest.
# float16 halves every tensor. Integer kernels take their matrices at one byte, but add an int32 bias, so vectors take
# four. Scales (a few bytes per channel or tensor) are not counted. Batch norms count as they stand in the model, four
# vectors; a converter that folds them into the layer before leaves one.
STORAGE: dict[str, tuple[int, int]] = {"float32": (4, 4), "float16": (2, 2), "int8": (1, 4)}
