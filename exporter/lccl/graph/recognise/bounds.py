"""How low a computed map can be: a gate has to be at least 0, and 0 somewhere, or there is nothing to skip."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from onnx import TensorProto

from lccl.graph.nodes import is_op, optional_input, scalar_of
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import producer, value_of

ABOVE_ZERO = 5e-324
"""Of what is positive everywhere."""
_DEPTH = 64
_UNSIGNED = (TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)


@dataclass(frozen=True)
class Bound:
    """The least value, and the network's inputs on whose being at least 0 that rests."""

    low: float
    masks: frozenset[str] = frozenset()


_UNKNOWN = Bound(-math.inf)


def lower_bound(tensor: gs.Tensor, sizes: Sizes, depth: int = 0) -> Bound:
    """A bound of every element from below, from the ops that compute the tensor; -inf where they tell nothing."""
    values = value_of(tensor)
    if values is not None:
        return Bound(float(values.astype("float64").min())) if values.size else _UNKNOWN
    node = producer(tensor)
    if node is None:
        if tensor.name not in sizes.types:
            return _UNKNOWN
        return Bound(0.0, frozenset() if sizes.types[tensor.name] in _UNSIGNED else frozenset({tensor.name}))
    if depth > _DEPTH or not is_op(node, node.op):
        return _UNKNOWN
    rule = _RULES.get(node.op)
    return rule(node, lambda t: lower_bound(t, sizes, depth + 1)) if rule is not None else _UNKNOWN


Ask = Callable[[gs.Tensor], Bound]


def _zero(_node: gs.Node, _ask: Ask) -> Bound:
    return Bound(0.0)


def _positive(_node: gs.Node, _ask: Ask) -> Bound:
    return Bound(ABOVE_ZERO)


def _same(node: gs.Node, ask: Ask) -> Bound:
    return ask(node.inputs[0])


def _least(node: gs.Node, ask: Ask) -> Bound:
    return _merge(min, [ask(t) for t in node.inputs])


def _merge(choose: Callable[[list[float]], float], bounds: list[Bound]) -> Bound:
    return Bound(choose([b.low for b in bounds]), frozenset().union(*(b.masks for b in bounds)))


def _relu(node: gs.Node, ask: Ask) -> Bound:
    """max(x, 0) rests on nothing that its input rests on."""
    inner = ask(node.inputs[0])
    return inner if inner.low > 0 else Bound(0.0)


def _clip(node: gs.Node, ask: Ask) -> Bound:
    end = optional_input(node, 1)
    low = -math.inf if end is None else scalar_of(end)
    if low is None:
        return _UNKNOWN
    inner = ask(node.inputs[0])
    return inner if inner.low > low else Bound(low)


def _max(node: gs.Node, ask: Ask) -> Bound:
    return max((ask(t) for t in node.inputs), key=lambda b: (b.low, -len(b.masks)))


def _mul(node: gs.Node, ask: Ask) -> Bound:
    bounds = [ask(t) for t in node.inputs]
    if node.inputs[0] is node.inputs[1]:
        return Bound(0.0)
    if any(b.low < 0 for b in bounds):
        return _UNKNOWN
    return _merge(lambda lows: ABOVE_ZERO if min(lows) > 0 else 0.0, bounds)


def _div(node: gs.Node, ask: Ask) -> Bound:
    return _mul(node, ask) if ask(node.inputs[1]).low > 0 else _UNKNOWN


def _add(node: gs.Node, ask: Ask) -> Bound:
    return _merge(sum, [ask(t) for t in node.inputs])


def _sub(node: gs.Node, ask: Ask) -> Bound:
    by = scalar_of(node.inputs[1])
    inner = ask(node.inputs[0])
    return _UNKNOWN if by is None else Bound(inner.low - by, inner.masks)


def _resize(node: gs.Node, ask: Ask) -> Bound:
    """Nearest and linear give means of what they read; cubic overshoots."""
    bounded = node.attrs.get("mode", "nearest") in ("nearest", "linear")
    inside = node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    return ask(node.inputs[0]) if bounded and inside else _UNKNOWN


def _padded(node: gs.Node, ask: Ask) -> Bound:
    """Zeros, or a value of its own, may come in at the border."""
    value = optional_input(node, 2) if node.op == "Pad" else None
    inner = ask(node.inputs[0])
    if value is not None and not (scalar_of(value) or 0.0) >= 0:
        return _UNKNOWN
    return Bound(min(inner.low, 0.0), inner.masks)


def _cast(node: gs.Node, ask: Ask) -> Bound:
    return Bound(0.0) if node.attrs.get("to") == TensorProto.BOOL else ask(node.inputs[0])


def _where(node: gs.Node, ask: Ask) -> Bound:
    return _merge(min, [ask(t) for t in node.inputs[1:3]])


def _thresholded(node: gs.Node, _ask: Ask) -> Bound:
    return Bound(0.0) if node.attrs.get("alpha", 1.0) >= 0 else _UNKNOWN


_RULES: dict[str, Callable[[gs.Node, Ask], Bound]] = {
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
