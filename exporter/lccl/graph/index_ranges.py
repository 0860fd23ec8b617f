"""Integer inputs of a model that are read as indices, and how large they may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx

from lccl.graph.op_sets import COPIES, REPEATS, RESHAPES, SELECTIONS

_KEEP_VALUES = COPIES | REPEATS | RESHAPES | SELECTIONS | {"Cast", "Transpose", "Concat", "Split"}
"""Ops that hand values of their first input on as they are; Concat those of all."""
_AXIS_OF_ONE = {"Gather": 0, "GatherElements": 0, "ScatterElements": 0, "Scatter": 0}
"""Readers of indices into one axis of their first input, and the axis that they take by default."""
_AXES_OF_ALL = frozenset({"GatherND", "ScatterND"})
"""Readers of indices into several axes."""


def index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many entries each input that is an index chooses from.

    It is 1 where the size of what it chooses from is not known, since 0 is always an index.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    shapes = dict(_shapes(model))
    limits: dict[str, int] = {}
    for value in model.graph.input:
        found = list(_limits(value.name, readers, shapes, set()))
        if found:
            limits[value.name] = min(found)
    return limits


def _limits(
    name: str, readers: Mapping[str, list[onnx.NodeProto]], shapes: Mapping[str, Sequence[int]], seen: set[str]
) -> Iterator[int]:
    if name in seen:
        return
    seen.add(name)
    for node in readers.get(name, ()):
        places = [i for i, read in enumerate(node.input) if read == name]
        if 1 in places and node.op_type in {*_AXIS_OF_ONE, *_AXES_OF_ALL}:
            yield _entries(node, shapes.get(node.input[0], ()))
        elif node.op_type in _KEEP_VALUES and (0 in places or node.op_type == "Concat"):
            for output in node.output:
                yield from _limits(output, readers, shapes, seen)


def _entries(node: onnx.NodeProto, shape: Sequence[int]) -> int:
    """Return the number of entries that a node's indices choose from; 1 if it is not known."""
    if node.op_type in _AXES_OF_ALL:
        return max(1, min(shape, default=1))
    axis = next((a.i for a in node.attribute if a.name == "axis"), _AXIS_OF_ONE[node.op_type])
    return max(1, shape[axis]) if -len(shape) <= axis < len(shape) else 1


def _shapes(model: onnx.ModelProto) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield the sizes of each tensor as far as the model states them; 0 for a dynamic one."""
    for value in (*model.graph.value_info, *model.graph.input):
        if value.type.tensor_type.HasField("shape"):
            yield value.name, [max(0, d.dim_value) for d in value.type.tensor_type.shape.dim]
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], list(attribute.t.dims)
    for tensor in model.graph.initializer:
        yield tensor.name, list(tensor.dims)
