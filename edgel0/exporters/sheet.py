"""What does a TFLite graph look like to somebody who edits it? Operators by kind, tensors by number, who reads what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class Sheet:
    """One graph of a TFLite model in the object form of its schema, and who makes and reads each tensor."""

    def __init__(self, schema: Any, model: Any, graph: Any) -> None:
        self.schema, self.model, self.graph = schema, model, graph
        kinds = vars(schema.BuiltinOperator).items()
        self.names: dict[int, str] = {number: name for name, number in kinds if isinstance(number, int)}
        self.look()

    def look(self) -> None:
        """Note anew who makes and who reads what."""
        self.makers = {int(tensor): operator for operator in self.graph.operators for tensor in operator.outputs}
        self.readers: dict[int, list[Any]] = defaultdict(list)
        for operator in self.graph.operators:
            for tensor in operator.inputs:
                self.readers[int(tensor)].append(operator)

    def kind(self, operator: Any) -> str:
        """Return the operator's kind as the schema spells it, ``RESHAPE`` say, "" for those it has no name for."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return self.names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")

    def code(self, kind: str) -> int:
        """Return the index of a kind in the model's own list, where it is put if need be."""
        number = getattr(self.schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def shape(self, tensor: int) -> Shape:
        """Return a tensor's sizes."""
        sizes = self.graph.tensors[tensor].shape
        return () if sizes is None else tuple(int(size) for size in sizes)

    def fixed(self, tensor: int) -> bool:
        """Tell whether the sizes are known before a run."""
        signature = self.graph.tensors[tensor].shapeSignature
        return signature is None or all(int(size) >= 0 for size in signature)

    def single(self, tensor: int) -> bool:
        """Tell whether a tensor is a constant of one value."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and all(size == 1 for size in self.shape(tensor))

    def whole_numbers(self, tensor: int) -> list[int] | None:
        """Return the values of a constant of 32-bit integers, None for anything else."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        if data is None or self.graph.tensors[tensor].type != self.schema.TensorType.INT32:
            return None
        return [int(value) for value in np.asarray(data, dtype=np.uint8).view(np.int32)]

    def constant(self, values: Sequence[int]) -> int:
        """Add a constant of 32-bit integers."""
        buffer, tensor = self.schema.BufferT(), self.schema.TensorT()
        buffer.data = numbers(values).view(np.uint8)
        tensor.shape, tensor.type = numbers((len(values),)), self.schema.TensorType.INT32
        tensor.name, tensor.buffer = b"", len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def like(self, tensor: int, shape: Shape) -> int:
        """Add a variable of another tensor's type."""
        old, new = self.graph.tensors[tensor], self.schema.TensorT()
        new.shape, new.type, new.buffer, new.name = numbers(shape), old.type, 0, b""
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1

    def insert(self, place: int, kind: str, tensor: int, values: Sequence[int], made: int) -> None:
        """Put in a reshape to, or a transpose by, ``values`` that makes ``made`` of ``tensor``."""
        new = self.schema.OperatorT()
        new.opcodeIndex = self.code(kind)
        new.inputs, new.outputs = numbers((tensor, self.constant(values))), numbers((made,))
        self.graph.operators.insert(place, new)
        self.look()

    def instead(self, tensor: int, other: int) -> bool:
        """Have all readers of a tensor read another one; an output of the graph is refused."""
        if tensor in self.graph.outputs:
            return False
        for operator in self.readers[tensor]:
            operator.inputs = numbers(other if int(each) == tensor else int(each) for each in operator.inputs)
        self.look()
        return True


def numbers(values: Iterable[Any]) -> np.ndarray:
    """Return the array that the schema's object form packs as 32-bit integers."""
    return np.array([int(value) for value in values], dtype=np.int32)


def compact_(model: Any) -> None:
    """Take out the tensors that no operator touches, and the buffers that nothing holds; number the others anew."""
    for at, graph in enumerate(model.subgraphs):
        ends = [
            entry
            for definition in model.signatureDefs or ()
            if definition.subgraphIndex == at
            for entry in (*definition.inputs, *definition.outputs)
        ]
        places = [graph, *graph.operators]
        used = {int(tensor) for place in places for tensor in (*place.inputs, *place.outputs)} - {-1}
        kept = sorted(used | {entry.tensorIndex for entry in ends})
        new = {-1: -1} | {old: number for number, old in enumerate(kept)}
        for place in places:
            place.inputs = numbers(new[int(tensor)] for tensor in place.inputs)
            place.outputs = numbers(new[int(tensor)] for tensor in place.outputs)
        for entry in ends:
            entry.tensorIndex = new[entry.tensorIndex]
        graph.tensors = [graph.tensors[old] for old in kept]
    holders = [*(tensor for graph in model.subgraphs for tensor in graph.tensors), *(model.metadata or ())]
    kept = sorted({0, *(holder.buffer for holder in holders)})  # the first is empty by convention
    for holder in holders:
        holder.buffer = kept.index(holder.buffer)
    model.buffers = [model.buffers[old] for old in kept]
