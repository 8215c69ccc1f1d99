"""How does a network get used to integers before it has them? It is trained with their rounding (PT2E, torchao).

What is rounded is what the file's quantizer will round: weights in 8 bits with one scale per output channel, and every
activation in 8 bits with one scale and zero point; not the inside of what a runtime computes as one operator, such as a
layer with its batch norm and its activation. Gradients pass the rounding as if it were not there (arXiv 1712.05877).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from edgel0.errors import ExtraError
from edgel0.exporters.foreign import silently
from edgel0.exporters.fusion import FOLDS, batch_norms, replace_
from edgel0.exporters.signature import flatten

aten = torch.ops.aten
INT8 = (-128, 127)
SYMMETRIC = (-127, 127)
# What runtimes compute together with the operator before it.
JOINED = frozenset(
    {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default}
)
INSIDE = "edgel0_inside"  # marks a node whose result exists in no quantized file


def rehearsal(program: ExportedProgram) -> fx.GraphModule:
    """Return a module of the program that rounds as its integer file will, to be trained.

    It takes the program's tensors one by one and returns a tuple, as many samples as the program was traced with. Its
    parameters have the program's names and values, in tensors of their own; batch norms keep their statistics. Ranges
    of activations follow a moving average, which begins with the first batch.

    Raises:
        ExtraError: torchao is not installed.
    """
    module = flatten(program)
    for norm, made, eps in batch_norms(module.graph):
        _unfold_(module.graph, norm, made, eps)
    module = fx.GraphModule(module, module.graph)
    twins: dict[Tensor, nn.Parameter] = {}  # tied weights stay tied
    for name, weight in list(module.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        own = twins.setdefault(weight, nn.Parameter(weight.detach().clone(), weight.is_floating_point()))
        setattr(module.get_submodule(owner), leaf, own)
    prepare, quantizer = _pt2e()
    with silently():
        prepared: fx.GraphModule = prepare(module, quantizer())
    return prepared


def hold_ranges(module: fx.GraphModule) -> None:
    """Let the ranges of a rehearsal be what they are now."""
    for part in module.modules():
        hold: Any = getattr(part, "disable_observer", None)
        if hold is not None:
            hold()


def learned(program: ExportedProgram, module: fx.GraphModule) -> ExportedProgram:
    """Return a copy of a program with the parameters of a rehearsal, which may have been one for other batch sizes."""
    known = dict(module.named_parameters(remove_duplicate=False))
    state = {
        name: nn.Parameter(known[name].detach().clone(), value.requires_grad) if name in known else value
        for name, value in program.state_dict.items()
    }
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=state,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )


def _unfold_(graph: fx.Graph, norm: fx.Node, made: fx.Node, eps: float) -> None:
    """Write a batch norm with fixed statistics as a product and a sum, which no pattern of PT2E takes apart."""
    arguments: Any = norm.args
    x, gamma, beta, mean, var = arguments[:5]
    value = made.meta["val"]
    shape = [1, value.shape[1], *[1] * (value.ndim - 2)]
    with graph.inserting_before(norm):
        scale = graph.call_function(aten.rsqrt.default, (graph.call_function(aten.add.Tensor, (var, eps)),))
        if gamma is not None:
            scale = graph.call_function(aten.mul.Tensor, (scale, gamma))
        shift = graph.call_function(aten.neg.default, (graph.call_function(aten.mul.Tensor, (mean, scale)),))
        if beta is not None:
            shift = graph.call_function(aten.add.Tensor, (shift, beta))
        scale, shift = (graph.call_function(aten.reshape.default, (each, shape)) for each in (scale, shift))
        scaled = graph.call_function(aten.mul.Tensor, (x, scale))
        if x.target in FOLDS:
            scaled.meta[INSIDE] = True
        whole = graph.call_function(aten.add.Tensor, (scaled, shift))
        whole.meta["val"] = value
    replace_(norm, made, whole)


@cache
def _pt2e() -> tuple[Any, Any]:
    """Return the function that inserts roundings, and a quantizer that says where."""
    try:
        with silently():
            from torchao.quantization.pt2e import (
                FakeQuantize,
                FusedMovingAvgObsFakeQuantize,
                MovingAverageMinMaxObserver,
                MovingAveragePerChannelMinMaxObserver,
            )
            from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
            from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer
    except ImportError as error:
        raise ExtraError(
            f"training with the rounding of integers needs torchao ({error}); install edgel0[tflite], which brings it, "
            "or leave export.qat_epochs out."
        ) from error

    def spec(bounds: tuple[int, int], scheme: torch.qscheme, observer: Any, axis: int | None = None) -> Any:
        how: dict[str, Any] = {"dtype": torch.int8, "quant_min": bounds[0], "quant_max": bounds[1], "qscheme": scheme}
        how |= {} if axis is None else {"ch_axis": axis}
        fused = FusedMovingAvgObsFakeQuantize if axis is None else FakeQuantize  # which knows other axes than 0
        rounding = fused.with_args(observer=observer, **how)
        return QuantizationSpec(**how, observer_or_fake_quant_ctr=rounding)

    activations = spec(INT8, torch.per_tensor_affine, MovingAverageMinMaxObserver)

    class Everywhere(Quantizer):  # type: ignore[misc]
        """Round each weight of a layer, and each activation that a file would hold."""

        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in model.graph.nodes:
                if node.op not in ("placeholder", "call_function"):
                    continue
                weights = {}
                if node.target in FOLDS and node.args[1].op == "get_attr":
                    axis = 1 if "transpose" in str(node.target) else 0
                    weights = {
                        node.args[1]: spec(
                            SYMMETRIC, torch.per_channel_symmetric, MovingAveragePerChannelMinMaxObserver, axis
                        )
                    }
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map=weights, output_qspec=activations if _held(node) else None, _annotated=True
                )
            return model

        def validate(self, model: fx.GraphModule) -> None:
            """Everything that was annotated is possible."""

    return prepare_qat_pt2e, Everywhere


def _held(node: fx.Node) -> bool:
    """Tell whether a quantized file would hold the result of a node: a float tensor that is not inside an operator."""
    value = node.meta.get("val")
    if INSIDE in node.meta or not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    user = next(iter(node.users)) if len(node.users) == 1 else None
    return user is None or not (user.target in JOINED or INSIDE in user.meta)
