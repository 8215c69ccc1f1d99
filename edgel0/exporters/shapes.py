"""Which shapes do the values inside an ONNX file have? Written into it, so that whoever reads it can count."""

from __future__ import annotations

from typing import Any

from edgel0.exporters.foreign import load


def with_shapes(model: Any, axis: str = "") -> Any:
    """Return the model with the inferred shapes of its inner values; sizes that go by the samples are called ``axis``.

    Which do is seen by inferring with one sample and with two: a size that grows from 1 to 2 is theirs, another that
    changes stays open.
    """
    onnx = load("onnx", "onnx")
    if not axis:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    one, two = (_inferred(onnx, model, count) for count in (1, 2))
    made = type(model)()
    made.CopyFrom(model)
    del made.graph.value_info[:]
    for name, value in one.items():
        if name not in two:
            continue
        added = made.graph.value_info.add()
        added.CopyFrom(value)
        sizes = zip(added.type.tensor_type.shape.dim, two[name].type.tensor_type.shape.dim, strict=True)
        for size, other in sizes:
            if size.dim_value != other.dim_value:
                known = (size.dim_value, other.dim_value) == (1, 2)
                size.Clear()
                if known:
                    size.dim_param = axis
    return made


def _inferred(onnx: Any, model: Any, count: int) -> dict[str, Any]:
    """Return each inner value whose sizes are all known for so many samples."""
    fixed = type(model)()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = count
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    return {value.name: value for value in inferred.graph.value_info if _known(value)}


def _known(value: Any) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim)
