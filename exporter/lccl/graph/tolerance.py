"""What error a form of a model may have: by its precision, and by how it is quantised."""

from __future__ import annotations

from collections.abc import Container, Iterator

import onnx

from lccl.graph.op_sets import ROUNDERS


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether the model rounds feature maps, not weights alone, to a small integer type.

    ONNX Runtime computes such a model in integers where it optimizes the graph, and in floats where
    it does not: two roundings of the same network. Forms of it are compared without optimization.
    """
    return any(True for _ in _levels(model))


def default_tolerance(model: onnx.ModelProto, weights: Container[str] | None = None) -> float:
    """Return the relative error that is allowed by default.

    It is 1e-4 for float32 weights, and 2e-2 for any of lower precision. A network that rounds its
    feature maps may be off by two steps of their type, since a last bit can move a value across the
    edge between two levels; but by no more than 5e-2, which would hide mistakes.

    Args:
        weights: names of the weights that count; by default all do.
    """
    low = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    is_low = {t.data_type for t in model.graph.initializer if weights is None or t.name in weights} & low
    steps = min(MOST_ALLOWED, 2 / min(_levels(model))) if is_quantised(model) else 0.0
    return max(2e-2 if is_low else 1e-4, steps)


MOST_ALLOWED = 5e-2
"""The most that a quantised network may be off by default; a caller may allow more."""


_HALF_RANGES = {
    onnx.TensorProto.INT8: 127,
    onnx.TensorProto.UINT8: 127,
    onnx.TensorProto.INT16: 32767,
    onnx.TensorProto.UINT16: 32767,
    onnx.TensorProto.INT4: 7,
    onnx.TensorProto.UINT4: 7,
}
"""Levels between 0 and the largest value, of a range around 0."""


def _levels(model: onnx.ModelProto) -> Iterator[int]:
    """Yield the levels of each rounding of a feature map: 8 bits where nothing says more."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    fixed = set(types)
    for node in model.graph.node:
        if node.op_type == "Constant":
            types.update((node.output[0], a.t.data_type) for a in node.attribute if a.name == "value")
        if node.op_type == "Constant" or (node.input and fixed.issuperset(filter(None, node.input))):
            fixed.update(node.output)
        elif node.op_type in ROUNDERS:
            said = [a.i for a in node.attribute if a.name == "output_dtype" and a.i]
            zero_point = node.input[2] if node.op_type == "QuantizeLinear" and len(node.input) > 2 else ""
            kind = said[0] if said else types.get(zero_point, onnx.TensorProto.UINT8)
            yield _HALF_RANGES.get(kind, 127)
