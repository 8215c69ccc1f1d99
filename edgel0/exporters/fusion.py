"""Which batch norms need not be computed on the board? Those that a convolution or a linear layer can carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from edgel0.exporters.signature import flatten

aten = torch.ops.aten


def fuse_batch_norm(program: ExportedProgram) -> fx.GraphModule:
    """Return a flat module of the program whose batch norms are folded into the layer before them.

    A batch norm folds when it is in inference mode, alone reads a layer of ``FOLDS``, and every tensor involved is a
    parameter or buffer; a weight that somebody else reads stays as it is. Folding is done in float64 and stored in the
    weight's type. The program is not changed.
    """
    module = flatten(program)
    graph = module.graph
    readers = _readers(module)
    for norm, made, eps in batch_norms(graph):
        layer: Any = norm.args[0]
        if _foldable(module, layer, norm, readers):
            _fold_(module, layer, norm, eps)
            replace_(norm, made, layer)
            readers[_storage(_tensor(module, layer.args[1]))] = 1  # its new weight
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph).eval()  # a new module holds only what the graph still reads


def batch_norms(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node, float]]:
    """Return the batch norms in inference mode: the operator, the node that is its result, and eps.

    Decomposed programs have the operator of three results, of which the first alone is read; the first five arguments
    are the same: the input, weight, bias, mean and variance.
    """
    whole = graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    found: list[tuple[Any, Any, Any]] = [(norm, norm, norm.args[7]) for norm in whole if not norm.args[5]]
    for norm in graph.find_nodes(op="call_function", target=aten._native_batch_norm_legit_no_training.default):
        users = list(norm.users)
        if len(users) == 1 and users[0].target is getitem and users[0].args[1] == 0:
            found.append((norm, users[0], norm.args[6]))
    return found


def replace_(norm: fx.Node, made: fx.Node, by: fx.Node) -> None:
    """Put another node in the place of a batch norm, which leaves the graph: one after it may then fold as well."""
    made.replace_all_uses_with(by)
    for node in dict.fromkeys((made, norm)):
        node.graph.erase_node(node)


def _foldable(module: fx.GraphModule, layer: Any, norm: fx.Node, readers: Counter[int]) -> bool:
    if layer.target not in FOLDS or len(layer.users) > 1:
        return False
    involved: list[Any] = [*_weight_and_bias(layer), *norm.args[1:5]]
    if not all(node is None or node.op == "get_attr" for node in involved):
        return False
    weight = _tensor(module, involved[0])
    # Batch norm works along axis 1, which holds the layer's rows only where the output has a batch axis and no other.
    return readers[_storage(weight)] == 1 and layer.meta["val"].ndim == weight.ndim


def _fold_(module: fx.GraphModule, layer: Any, norm: fx.Node, eps: Any) -> None:
    """W' = s W and b' = s (b - mean) + beta with s = gamma / sqrt(var + eps), per output channel."""
    statistics: Any = norm.args
    mean, var = (_tensor(module, node).double() for node in statistics[3:5])
    gamma = torch.ones_like(var) if statistics[1] is None else _tensor(module, statistics[1]).double()
    beta = torch.zeros_like(var) if statistics[2] is None else _tensor(module, statistics[2]).double()
    scale = gamma / (var + eps).sqrt()
    weight_node, bias_node = _weight_and_bias(layer)
    weight = _tensor(module, weight_node)
    bias = torch.zeros_like(var) if bias_node is None else _tensor(module, bias_node).double()

    path, _, name = weight_node.target.rpartition(".")
    owner = module.get_submodule(path)
    bias_name = f"{name}_bias" if hasattr(owner, "bias") else "bias"
    folded = FOLDS[layer.target](weight.double(), scale, layer)
    shift = (bias - mean) * scale + beta
    setattr(owner, name, nn.Parameter(folded.to(weight.dtype), requires_grad=False))
    owner.register_parameter(bias_name, nn.Parameter(shift.to(weight.dtype), requires_grad=False))
    with module.graph.inserting_before(layer):
        new_bias = module.graph.get_attr(f"{path}.{bias_name}".lstrip("."))
    layer.args = (layer.args[0], weight_node, new_bias, *layer.args[3:])


def _scale_rows(weight: torch.Tensor, scale: torch.Tensor, layer: Any) -> torch.Tensor:
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def _scale_transposed(weight: torch.Tensor, scale: torch.Tensor, layer: Any) -> torch.Tensor:
    """Scale (in, out / groups, ...) weights, whose output channels run through the groups."""
    groups = layer.args[6] if len(layer.args) > 6 else 1
    grouped = weight.view(groups, -1, *weight.shape[1:])
    return (grouped * scale.view(groups, 1, -1, *[1] * (weight.ndim - 2))).view(weight.shape)


def _weight_and_bias(layer: Any) -> tuple[Any, Any]:
    return layer.args[1], layer.args[2] if len(layer.args) > 2 else None


def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    return reduce(getattr, str(node.target).split("."), module)


def _tensor(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    tensor: torch.Tensor = _attribute(module, node)
    return tensor.detach()


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _readers(module: fx.GraphModule) -> Counter[int]:
    """Count how often each storage is read: tied weights have two names and one storage."""
    count: Counter[int] = Counter()
    for node in module.graph.find_nodes(op="get_attr"):
        value = _attribute(module, node)
        if isinstance(value, torch.Tensor):  # and not the branch of a torch.cond
            count[_storage(value)] += len(node.users)
    return count


FOLDS: dict[Any, Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]] = {
    aten.linear.default: _scale_rows,
    aten.conv1d.default: _scale_rows,
    aten.conv1d.padding: _scale_rows,
    aten.conv2d.default: _scale_rows,
    aten.conv2d.padding: _scale_rows,
    aten.conv3d.default: _scale_rows,
    aten.conv3d.padding: _scale_rows,
    aten.conv_transpose1d.default: _scale_transposed,
    aten.conv_transpose2d.input: _scale_transposed,
    aten.conv_transpose3d.input: _scale_transposed,
}
