"""What does a network cost, dense, under a mask, or in expectation? COST: operator -> multiply-accumulates.

Every cost is a sum of products of *live counts*: how many units live on an axis. With all units open this is the dense
cost, with a mask that of the slimmed network, with probabilities its expectation (units of one product are sampled
independently) and a differentiable function of them. 1 MAC = 1 multiply-accumulate = 2 FLOPs; only contractions count
(convolutions, linear layers, products of activations), element-wise operators and normalisation do not. Figures are for
the whole example that was traced: trace with a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from edgel0.capturing import is_view
from edgel0.tracing import bind
from edgel0.types import Cost, Coupling, Labels, Masks

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """``scale`` times the live counts of some labelled axes."""

    scale: float
    axes: tuple[Labels, ...] = ()

    def times(self, other: Product) -> Product:
        """Multiply two products."""
        return Product(self.scale * other.scale, self.axes + other.axes)


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


@dataclass(frozen=True)
class Sum:
    """A sum of products over live counts, ready to be evaluated on many masks or probabilities.

    ``units`` and ``rows`` list (unit, row) pairs: row ``r`` is the live count of one axis. ``factors`` holds the rows
    of each product, filled up with the last row, which is always 1.
    """

    units: torch.Tensor
    rows: torch.Tensor
    height: int
    scales: torch.Tensor
    factors: torch.Tensor

    def __call__(self, alive: torch.Tensor) -> torch.Tensor:
        """Evaluate for ``alive`` of shape ``(units + 1,)``: 1 or 0 per unit, or P(z != 0); entry 0 is the pinned."""
        counts = alive.new_zeros(self.height).index_add(0, self.rows, alive[self.units])
        counts = torch.cat([counts, counts.new_ones(1)])
        return (self.scales.to(alive.dtype) * counts[self.factors].prod(1)).sum()

    def to(self, device: torch.device) -> Sum:
        """Move to a device."""
        return Sum(
            self.units.to(device), self.rows.to(device), self.height, self.scales.to(device), self.factors.to(device)
        )


def compile_sum(products: Sequence[Product]) -> Sum:
    """Lay products out as index arrays."""
    rows: dict[Labels, int] = {}
    pairs: list[tuple[np.ndarray, int]] = []
    for labels in (labels for p in products for labels in p.axes):
        if labels not in rows:
            rows[labels] = len(rows)
            pairs.append((labels.units, rows[labels]))
    width = max((len(p.axes) for p in products), default=0)
    factors = [[rows[x] for x in p.axes] + [len(rows)] * (width - len(p.axes)) for p in products]
    units = np.concatenate([u for u, _ in pairs]) if pairs else np.zeros(0, np.int64)
    where = np.concatenate([np.full(u.size, r) for u, r in pairs]) if pairs else np.zeros(0, np.int64)
    return Sum(
        torch.from_numpy(units.astype(np.int64)),
        torch.from_numpy(where.astype(np.int64)),
        len(rows),
        torch.tensor([p.scale for p in products], dtype=torch.float64),
        torch.tensor(factors, dtype=torch.int64).reshape(len(products), width),
    )


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


def weights(coupling: Coupling) -> dict[str, tuple[Product, int, bool]]:
    """Each used parameter and buffer: live elements, bytes per element, and whether it is a parameter."""
    return _weights(coupling.program, Counter(coupling))


def _weights(program: ExportedProgram, live: Counter) -> dict[str, tuple[Product, int, bool]]:
    holders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            continue
        node = holders[spec.arg.name]
        if node.users:
            size = node.meta["val"].element_size()
            found[str(spec.target)] = (live.elements(node), size, spec.kind is InputKind.PARAMETER)
    return found


def sums(coupling: Coupling) -> dict[str, Sum]:
    """Return the costs that a budget can limit, by metric: ``macs``, ``params``, ``weight_bytes``."""
    owned = weights(coupling).values()
    return {
        "macs": compile_sum([product for products in macs(coupling).values() for product in products]),
        "params": compile_sum([elements for elements, _, learns in owned if learns]),
        "weight_bytes": compile_sum([elements.times(Product(size)) for elements, size, _ in owned]),
    }


def cost_of(coupling: Coupling, masks: Masks | None = None) -> Cost:
    """Cost of the dense model, or of what a mask leaves of it.

    The mask's cost is that of the slimmed network, or a little more where whole branches fold away.
    """
    open_units = np.ones(coupling.units + 1, bool) if masks is None else masks.open
    alive = torch.from_numpy(open_units).double()
    figures = {metric: round(float(total(alive))) for metric, total in sums(coupling).items()}
    return Cost(**figures, activation_bytes=peak_bytes(coupling.program, Counter(coupling), open_units))


def program_cost(program: ExportedProgram) -> Cost:
    """Cost of a program as it stands, counted from its own shapes."""
    live = Counter(None)
    owned = _weights(program, live).values()
    return Cost(
        macs=round(sum(p.scale for products in _macs(program, live).values() for p in products)),
        params=round(sum(p.scale for p, _, learns in owned if learns)),
        weight_bytes=round(sum(p.scale * size for p, size, _ in owned)),
        activation_bytes=peak_bytes(program, live, np.ones(1, bool)),
    )


def peak_bytes(program: ExportedProgram, live: Counter, alive: np.ndarray) -> int:
    """Largest sum of activations alive at once, in program order; views share the memory of what they view."""
    owner: dict[Node, Node] = {}
    size: dict[Node, int] = {}
    last: dict[Node, int] = {}
    named = {s.arg.name for s in program.graph_signature.input_specs if s.kind is not InputKind.USER_INPUT}
    nodes = list(program.graph.nodes)
    dynamic: set[Node] = set()
    for at, node in enumerate(nodes):
        inputs = [n for n in node.all_input_nodes if n in dynamic]
        for source in inputs:
            last[owner[source]] = at
        if (node.op == "placeholder" and node.name not in named) or inputs:
            dynamic.add(node)
            shares = inputs and (is_view(node) or getattr(node.target, "__name__", "") == "getitem")
            owner[node] = owner[inputs[0]] if shares else node
            if not shares:
                size[node] = _bytes(live, node, alive)
                last[node] = at
    begins: dict[int, int] = {}
    for at, node in enumerate(nodes):
        if node in size and node.op != "output":
            begins[at] = begins.get(at, 0) + size[node]
    ends: dict[int, int] = {}
    for node, at in last.items():
        ends[at] = ends.get(at, 0) + size.get(node, 0)
    now = peak = 0
    for at in range(len(nodes)):
        now += begins.get(at, 0)
        peak = max(peak, now)
        now -= ends.get(at, 0)
    return peak


def _bytes(live: Counter, node: Node, alive: np.ndarray) -> int:
    value = node.meta.get("val")
    total = 0
    for i, part in enumerate(value if isinstance(value, tuple | list) else (value,)):
        if not isinstance(part, torch.Tensor):
            continue
        labels = None
        if live.coupling is not None and node.name in live.coupling.activations:
            labels = live.coupling.activations[node.name][i]
        product = live.elements(node, part, () if labels is None else (labels,))
        count = product.scale
        for axis in product.axes:
            count *= int(alive[axis.units].sum())
        total += int(count) * part.element_size()
    return total
