"""Which operators of a TFLite graph only move data that need not move? Reshapes and transposes, merged and removed.

Rules change one place each and are run until none applies. They do not touch arithmetic: outputs stay what they were,
but for the order in which a mean or a linear layer adds, and so do their names and shapes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from edgel0.exporters.foreign import load
from edgel0.exporters.sheet import Shape, Sheet, compact_, numbers


def tidy_(model: Any) -> None:
    """Apply every rule wherever it fits, then take out what nobody reads any more."""
    schema = load("ai_edge_litert.schema_py_generated", "tflite")
    for graph in model.subgraphs:
        sheet = Sheet(schema, model, graph)
        while sum(rule(sheet, operator) for operator in list(graph.operators) for rule in RULES):
            _drop_unread_(sheet)
        _name_(sheet)
        for tensor in graph.tensors:
            tensor.quantization = _telling(tensor.quantization)
    model.metadata = [entry for entry in model.metadata or () if entry.name != MARKER]
    compact_(model)


def _telling(quantization: Any) -> Any:
    """Return how a tensor is quantized, None where that is said by an empty table."""
    said = quantization and (quantization.details or any(len(getattr(quantization, name) or ()) for name in TOLD))
    return quantization if said else None


def _drop_unread_(sheet: Sheet) -> None:
    """Remove operators that move data nobody reads."""
    wanted = {int(tensor) for tensor in sheet.graph.outputs}
    while True:
        kept = [
            operator
            for operator in sheet.graph.operators
            if sheet.kind(operator) not in ("RESHAPE", "TRANSPOSE")
            or any(int(tensor) in wanted or sheet.readers[int(tensor)] for tensor in operator.outputs)
        ]
        if len(kept) == len(sheet.graph.operators):
            return
        sheet.graph.operators = kept
        sheet.look()


def _name_(sheet: Sheet) -> None:
    """Call what an operator makes by its kind and number, and its constants after it; inputs keep their names.

    The converter's names are long, hold the names of its own classes, and are most of a small file.
    """
    tensors, counts = sheet.graph.tensors, Counter[str]()
    seen = {int(tensor) for tensor in sheet.graph.inputs}
    for operator in sheet.graph.operators:
        kind = sheet.kind(operator).lower()
        counts[kind] += 1
        called = f"{kind}_{counts[kind]}"
        named = {int(tensor): f"{called}.{at}" for at, tensor in enumerate(operator.inputs) if int(tensor) >= 0}
        named |= {int(tensor): f"{called}.out{at}" if at else called for at, tensor in enumerate(operator.outputs)}
        for tensor, name in named.items():
            if tensor not in seen:
                seen.add(tensor)
                tensors[tensor].name = name.encode()


def merge_reshapes(sheet: Sheet, operator: Any) -> bool:
    """Reshape what was reshaped from its origin."""
    maker = sheet.makers.get(int(operator.inputs[0])) if sheet.kind(operator) == "RESHAPE" else None
    if maker is None or sheet.kind(maker) != "RESHAPE":
        return False
    operator.inputs = numbers((maker.inputs[0], *operator.inputs[1:]))
    sheet.look()
    return True


def drop_what_changes_nothing(sheet: Sheet, operator: Any) -> bool:
    """Read the origin of a reshape to the same shape, and of a transpose that moves no axis."""
    kind = sheet.kind(operator)
    if kind not in ("RESHAPE", "TRANSPOSE"):
        return False
    origin, made = int(operator.inputs[0]), int(operator.outputs[0])
    if sheet.shape(origin) != sheet.shape(made) or not (sheet.fixed(origin) and sheet.fixed(made)):
        return False
    if kind == "TRANSPOSE" and _order(sheet, operator) != sorted(_order(sheet, operator) or [-1]):
        return False
    return bool(sheet.readers[made]) and sheet.instead(made, origin)


def transpose_of_ones(sheet: Sheet, operator: Any) -> bool:
    """Reshape where a transpose moves only axes of size one: no value changes its place."""
    order = _order(sheet, operator)
    if order is None:
        return False
    shape = sheet.shape(int(operator.inputs[0]))
    large = [axis for axis in order if shape[axis] != 1]
    if large != sorted(large):
        return False
    operator.opcodeIndex = sheet.code("RESHAPE")
    operator.inputs = numbers((operator.inputs[0], sheet.constant(sheet.shape(int(operator.outputs[0])))))
    operator.builtinOptionsType, operator.builtinOptions = 0, None
    sheet.look()
    return True


def merge_transposes(sheet: Sheet, operator: Any) -> bool:
    """Transpose once where it is done twice, also around a reshape that only adds or removes axes of size one."""
    second = _order(sheet, operator)
    maker = sheet.makers.get(int(operator.inputs[0])) if second is not None else None
    if maker is not None and sheet.kind(maker) == "RESHAPE" and _same_but_ones(sheet, maker):
        maker = sheet.makers.get(int(maker.inputs[0]))
    first = _order(sheet, maker) if maker is not None else None
    if maker is None or first is None or second is None:
        return False
    origin, made = int(maker.inputs[0]), int(operator.outputs[0])
    shape, between = sheet.shape(origin), sheet.shape(int(operator.inputs[0]))
    moved = [axis for axis in first if shape[axis] != 1]  # the axes of the origin as the second transpose finds them
    found = iter(moved)
    holds = [next(found) if size != 1 else None for size in between]
    large = [axis for axis in (holds[at] for at in second) if axis is not None]
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    target = sheet.shape(made)
    if len(shape) == len(target):  # ones go where they are wanted
        rest, sizes = iter(ones), iter(large)
        order = [next(rest) if size == 1 else next(sizes) for size in target]
        operator.inputs = numbers((origin, sheet.constant(order)))
        sheet.look()
        return True
    order = [*ones, *large]
    inside = sheet.like(made, tuple(shape[axis] for axis in order))
    place = next(at for at, other in enumerate(sheet.graph.operators) if other is operator)
    sheet.insert(place, "TRANSPOSE", origin, order, inside)
    operator.opcodeIndex, operator.builtinOptionsType, operator.builtinOptions = sheet.code("RESHAPE"), 0, None
    operator.inputs = numbers((inside, sheet.constant(target)))
    sheet.look()
    return True


def transpose_before_ones(sheet: Sheet, operator: Any) -> bool:
    """Transpose before a reshape that only adds or removes ones, where what comes out is reshaped anyway."""
    order = _order(sheet, operator)
    maker = sheet.makers.get(int(operator.inputs[0])) if order is not None else None
    made = int(operator.outputs[0])
    if maker is None or order is None or sheet.kind(maker) != "RESHAPE" or not _same_but_ones(sheet, maker):
        return False
    readers = sheet.readers[made]
    if made in sheet.graph.outputs or not readers or any(sheet.kind(each) != "RESHAPE" for each in readers):
        return False
    origin = int(maker.inputs[0])
    shape, between = sheet.shape(origin), sheet.shape(int(operator.inputs[0]))
    where = iter(axis for axis, size in enumerate(shape) if size != 1)
    holds = [next(where) if size != 1 else None for size in between]
    large = [axis for axis in (holds[at] for at in order) if axis is not None]
    order = [*(axis for axis, size in enumerate(shape) if size == 1), *large]
    operator.inputs = numbers((origin, sheet.constant(order)))
    sheet.graph.tensors[made].shape = numbers(shape[axis] for axis in order)
    sheet.look()
    return True


def mean_of_a_transpose(sheet: Sheet, operator: Any) -> bool:
    """Take the mean over the axes where they were before a transpose that leaves the others in their order."""
    maker = sheet.makers.get(int(operator.inputs[0])) if sheet.kind(operator) == "MEAN" else None
    order = _order(sheet, maker) if maker is not None else None
    axes = sheet.whole_numbers(int(operator.inputs[1])) if order is not None else None
    if maker is None or order is None or axes is None or operator.builtinOptions.keepDims:
        return False
    inside = {order[axis] for axis in axes}
    left = [axis for axis in order if axis not in inside]
    if left != sorted(left):
        return False
    operator.inputs = numbers((maker.inputs[0], sheet.constant(sorted(inside))))
    sheet.look()
    return True


def weights_in_the_order_of_their_input(sheet: Sheet, operator: Any) -> bool:
    """Order a linear layer's columns as its input lies before a transpose that is flattened for it."""
    reshape = sheet.makers.get(int(operator.inputs[0])) if sheet.kind(operator) == "FULLY_CONNECTED" else None
    maker = (
        sheet.makers.get(int(reshape.inputs[0])) if reshape is not None and sheet.kind(reshape) == "RESHAPE" else None
    )
    order = _order(sheet, maker) if maker is not None else None
    if reshape is None or maker is None or order is None or order[0] != 0:
        return False
    flat, shape = sheet.shape(int(reshape.outputs[0])), sheet.shape(int(reshape.inputs[0]))
    weights = sheet.floats(int(operator.inputs[1]))
    if flat != (shape[0], math.prod(shape[1:])) or weights is None or weights.shape[1:] != flat[1:]:
        return False
    if len(sheet.readers[int(reshape.outputs[0])]) > 1 or int(reshape.outputs[0]) in sheet.graph.outputs:
        return False
    back = [order.index(axis) for axis in range(len(order))]
    turned = weights.reshape(-1, *shape[1:]).transpose(back).reshape(weights.shape)
    operator.inputs = numbers(
        (operator.inputs[0], sheet.other_floats(int(operator.inputs[1]), turned), *operator.inputs[2:])
    )
    reshape.inputs = numbers((maker.inputs[0], *reshape.inputs[1:]))
    sheet.look()
    return True


def mean_keeps_its_axes(sheet: Sheet, operator: Any) -> bool:
    """Keep the axes of a mean as ones where they are put back later, as a layer norm does."""
    axes = sheet.whole_numbers(int(operator.inputs[1])) if sheet.kind(operator) == "MEAN" else None
    if axes is None or operator.builtinOptions.keepDims:
        return False
    made, before = int(operator.outputs[0]), sheet.shape(int(operator.inputs[0]))
    inside = {axis % len(before) for axis in axes}
    kept = tuple(1 if axis in inside else size for axis, size in enumerate(before))
    if not _comes_back(sheet, made, kept):
        return False
    operator.builtinOptions.keepDims = True
    _reshape_after_(sheet, operator, kept)
    return True


def _comes_back(sheet: Sheet, tensor: int, shape: Shape) -> bool:
    """Tell whether a tensor, or what arithmetic makes of it, is reshaped to ``shape``."""
    readers = sheet.readers[tensor]
    if any(sheet.kind(each) == "RESHAPE" and sheet.shape(int(each.outputs[0])) == shape for each in readers):
        return True
    further = [int(each.outputs[0]) for each in readers if sheet.kind(each) in ELEMENTWISE]
    return any(sheet.shape(made) == sheet.shape(tensor) and _comes_back(sheet, made, shape) for made in further)


def reshape_after_arithmetic(sheet: Sheet, operator: Any) -> bool:
    """Calculate before a reshape that only adds or removes ones, where all operands come through the same one."""
    along = sheet.kind(operator) in ALONG_THE_LAST
    if not (along or sheet.kind(operator) in ELEMENTWISE) or not all(map(sheet.fixed, map(int, operator.inputs))):
        return False
    made = int(operator.outputs[0])
    origins, shapes, ranks = list[int](), set[Shape](), [0]
    for tensor in map(int, operator.inputs):
        maker = sheet.makers.get(tensor)
        if maker is not None and sheet.kind(maker) == "RESHAPE" and _same_but_ones(sheet, maker):
            if sheet.shape(tensor) != sheet.shape(made):
                return False
            origins.append(int(maker.inputs[0]))
            shapes.add(sheet.shape(origins[-1]))
        elif sheet.single(tensor):
            origins.append(tensor)
            ranks.append(len(sheet.shape(tensor)))
        else:
            return False
    if len(shapes) != 1 or max(ranks) > min(map(len, shapes)):
        return False
    if along and {shape[-1:] for shape in shapes} != {sheet.shape(made)[-1:]}:
        return False
    operator.inputs = numbers(origins)
    _reshape_after_(sheet, operator, shapes.pop())
    return True


def _reshape_after_(sheet: Sheet, operator: Any, shape: Shape) -> None:
    """Have an operator make a tensor of another shape, and reshape that to the one that it made."""
    made = int(operator.outputs[0])
    inside = sheet.like(made, shape)
    operator.outputs = numbers((inside,))
    place = next(at for at, other in enumerate(sheet.graph.operators) if other is operator)
    sheet.insert(place + 1, "RESHAPE", inside, sheet.shape(made), made)


def _order(sheet: Sheet, operator: Any) -> list[int] | None:
    """Return the axes by which a transpose orders its input, None where it is none or they are not known."""
    if sheet.kind(operator) != "TRANSPOSE" or not sheet.fixed(int(operator.inputs[0])):
        return None
    order = sheet.whole_numbers(int(operator.inputs[1]))
    return None if order is None else [axis % len(order) for axis in order]


def _same_but_ones(sheet: Sheet, operator: Any) -> bool:
    """Tell whether a reshape leaves the axes larger than one as they are."""
    before, after = (sheet.shape(int(each[0])) for each in (operator.inputs, operator.outputs))
    return [size for size in before if size != 1] == [size for size in after if size != 1]


ELEMENTWISE = {
    *("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW"),
    *("ABS", "NEG", "SQRT", "RSQRT", "SQUARE", "EXP", "LOG", "TANH", "LOGISTIC", "RELU", "RELU6", "GELU", "HARD_SWISH"),
}
TOLD = ("min", "max", "scale", "zeroPoint")  # of a quantized tensor
MARKER = b"keep_stablehlo_constant"  # metadata of the converter for itself
ALONG_THE_LAST = {"SOFTMAX", "LOG_SOFTMAX"}
RULES: tuple[Callable[[Sheet, Any], bool], ...] = (
    drop_what_changes_nothing,
    merge_reshapes,
    transpose_of_ones,
    merge_transposes,
    transpose_before_ones,
    mean_of_a_transpose,
    weights_in_the_order_of_their_input,
    mean_keeps_its_axes,
    reshape_after_arithmetic,
)
