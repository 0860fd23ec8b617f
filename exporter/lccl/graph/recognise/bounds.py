"""How low a computed map can be: a gate has to be at least 0, and 0 somewhere, or there is nothing to skip."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_graphsurgeon as gs
from onnx import TensorProto

from lccl.graph.nodes import is_op, optional_input, scalar_of
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import producer, value_of

ABOVE_ZERO = 5e-324
"""Of what is positive everywhere."""
_DEPTH = 64
_UNKNOWN = -math.inf
_UNSIGNED = (TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)


def lower_bound(tensor: gs.Tensor, sizes: Sizes, depth: int = 0) -> float:
    """A bound of every element from below, from the ops that compute the tensor; -inf where they tell nothing.

    The network's own inputs tell nothing, but for those of an unsigned type: an image may be below 0.
    """
    values = value_of(tensor)
    if values is not None:
        return float(values.astype("float64").min()) if values.size else _UNKNOWN
    node = producer(tensor)
    if node is None:
        return 0.0 if sizes.types.get(tensor.name) in _UNSIGNED else _UNKNOWN
    if depth > _DEPTH or not is_op(node, node.op):
        return _UNKNOWN
    rule = _RULES.get(node.op)
    return rule(node, lambda t: lower_bound(t, sizes, depth + 1)) if rule is not None else _UNKNOWN


Ask = Callable[[gs.Tensor], float]


def _zero(_node: gs.Node, _ask: Ask) -> float:
    return 0.0


def _positive(_node: gs.Node, _ask: Ask) -> float:
    return ABOVE_ZERO


def _same(node: gs.Node, ask: Ask) -> float:
    return ask(node.inputs[0])


def _least(node: gs.Node, ask: Ask) -> float:
    return min(ask(t) for t in node.inputs)


def _relu(node: gs.Node, ask: Ask) -> float:
    return max(ask(node.inputs[0]), 0.0)


def _clip(node: gs.Node, ask: Ask) -> float:
    end = optional_input(node, 1)
    low = -math.inf if end is None else scalar_of(end)
    if low is None:
        return _UNKNOWN
    return max(ask(node.inputs[0]), low)


def _max(node: gs.Node, ask: Ask) -> float:
    return max(ask(t) for t in node.inputs)


def _mul(node: gs.Node, ask: Ask) -> float:
    lows = [ask(t) for t in node.inputs]
    if node.inputs[0] is node.inputs[1]:
        return 0.0
    if min(lows) < 0:
        return _UNKNOWN
    return ABOVE_ZERO if min(lows) > 0 else 0.0


def _div(node: gs.Node, ask: Ask) -> float:
    return _mul(node, ask) if ask(node.inputs[1]) > 0 else _UNKNOWN


def _add(node: gs.Node, ask: Ask) -> float:
    return sum(ask(t) for t in node.inputs)


def _sub(node: gs.Node, ask: Ask) -> float:
    by = scalar_of(node.inputs[1])
    return _UNKNOWN if by is None else ask(node.inputs[0]) - by


def _resize(node: gs.Node, ask: Ask) -> float:
    """Nearest and linear give means of what they read; cubic overshoots."""
    bounded = node.attrs.get("mode", "nearest") in ("nearest", "linear")
    inside = node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    return ask(node.inputs[0]) if bounded and inside else _UNKNOWN


def _padded(node: gs.Node, ask: Ask) -> float:
    """Zeros, or a value of its own, may come in at the border."""
    value = optional_input(node, 2) if node.op == "Pad" else None
    if value is not None and not (scalar_of(value) or 0.0) >= 0:
        return _UNKNOWN
    return min(ask(node.inputs[0]), 0.0)


def _cast(node: gs.Node, ask: Ask) -> float:
    return 0.0 if node.attrs.get("to") == TensorProto.BOOL else ask(node.inputs[0])


def _where(node: gs.Node, ask: Ask) -> float:
    return min(ask(t) for t in node.inputs[1:3])


def _thresholded(node: gs.Node, _ask: Ask) -> float:
    return 0.0 if node.attrs.get("alpha", 1.0) >= 0 else _UNKNOWN


_RULES: dict[str, Callable[[gs.Node, Ask], float]] = {
    **dict.fromkeys(("Abs", "HardSigmoid", "Sqrt", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _zero),
    **dict.fromkeys(("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor"), _zero),
    **dict.fromkeys(("Sigmoid", "Softmax", "Exp", "Softplus"), _positive),
    **dict.fromkeys(
        ("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Transpose", "Slice", "Gather"),
        _same,
    ),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMin", "ReduceMean", "Split"), _same),
    **dict.fromkeys(("Concat", "Min"), _least),
    **dict.fromkeys(("AveragePool", "Pad"), _padded),
    "Relu": _relu,
    "Clip": _clip,
    "Max": _max,
    "Mul": _mul,
    "Div": _div,
    "Add": _add,
    "Sub": _sub,
    "Resize": _resize,
    "Cast": _cast,
    "Where": _where,
    "ThresholdedRelu": _thresholded,
}
