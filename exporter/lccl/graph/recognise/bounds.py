"""How low a computed map can be: a gate has to be at least 0, and 0 somewhere, or there is nothing to skip."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_graphsurgeon as gs
from onnx import TensorProto

from lccl.graph.nodes import is_computed, is_op, optional_input, scalar_of
from lccl.graph.shapes import FLOAT_TYPES, Sizes
from lccl.graph.surgery import producer, value_of

Interval = tuple[float, float]
ABOVE_ZERO = 5e-324
"""Of what is positive everywhere."""
_BELOW_ONE = math.nextafter(1.0, 0.0)
_DEPTH = 64
_ANY = (-math.inf, math.inf)
_POSITIVE = (ABOVE_ZERO, math.inf)
_NOT_NEGATIVE = (0.0, math.inf)
_UNSIGNED = (TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)


def lower_bound(tensor: gs.Tensor, sizes: Sizes) -> float:
    """A bound of every element from below, from the ops that compute the tensor; -inf where they tell nothing.

    The network's own inputs tell nothing, but for those of an unsigned type: an image may be below 0.
    """
    return _bounds(tensor, sizes, 0, {})[0]


def _bounds(tensor: gs.Tensor, sizes: Sizes, depth: int, known: dict[int, Interval]) -> Interval:
    if id(tensor) not in known:
        known[id(tensor)] = _computed(tensor, sizes, depth, known)
    return known[id(tensor)]


def _computed(tensor: gs.Tensor, sizes: Sizes, depth: int, known: dict[int, Interval]) -> Interval:
    values = value_of(tensor)
    if values is not None:
        return (float(values.astype("float64").min()), float(values.astype("float64").max())) if values.size else _ANY
    node = producer(tensor)
    if node is None:
        return _NOT_NEGATIVE if sizes.types.get(tensor.name) in _UNSIGNED else _ANY
    if depth > _DEPTH or not is_op(node, node.op):
        return _ANY
    rule = _RULES.get(node.op)
    return rule(node, lambda t: _bounds(t, sizes, depth + 1, known)) if rule is not None else _ANY


Ask = Callable[[gs.Tensor], Interval]
Rule = Callable[[gs.Node, Ask], Interval]


def _always(low: float, high: float) -> Rule:
    return lambda _node, _ask: (low, high)


def _growing(f: Callable[[float], float]) -> Rule:
    """Of an f that grows."""

    def rule(node: gs.Node, ask: Ask) -> Interval:
        low, high = ask(node.inputs[0])
        return f(low), f(high)

    return rule


def _any_of(node: gs.Node, ask: Ask) -> Interval:
    """One of the inputs."""
    return _hull([ask(t) for t in node.inputs])


def _hull(parts: list[Interval]) -> Interval:
    return min(low for low, _ in parts), max(high for _, high in parts)


def _abs(node: gs.Node, ask: Ask) -> Interval:
    low, high = ask(node.inputs[0])
    return max(low, -high, 0.0), max(-low, high)


def _neg(node: gs.Node, ask: Ask) -> Interval:
    low, high = ask(node.inputs[0])
    return -high, -low


def _clip(node: gs.Node, ask: Ask) -> Interval:
    low, high = ask(node.inputs[0])
    for place, pick in ((1, max), (2, min)):
        end = optional_input(node, place)
        if end is not None:
            end_low, end_high = ask(end)
            low, high = pick(low, end_low), pick(high, end_high)
    return low, high


def _max(node: gs.Node, ask: Ask) -> Interval:
    parts = [ask(t) for t in node.inputs]
    return max(low for low, _ in parts), max(high for _, high in parts)


def _min(node: gs.Node, ask: Ask) -> Interval:
    parts = [ask(t) for t in node.inputs]
    return min(low for low, _ in parts), min(high for _, high in parts)


def _straight_through(node: gs.Node) -> gs.Tensor | None:
    """h of (h - p) + p, by which a hard gate h gets the gradient of a soft one p; 0 where h is 0, and never below."""
    if is_op(node, "Add") and len(node.inputs) == 2:
        for difference, p in (node.inputs, node.inputs[::-1]):
            inner = producer(difference)
            if is_op(inner, "Sub") and inner is not None and inner.inputs[1] is p:
                return inner.inputs[0]
    return None


def _add(node: gs.Node, ask: Ask) -> Interval:
    hard = _straight_through(node)
    if hard is not None and ask(hard)[0] >= 0:
        return 0.0, math.inf
    parts = [ask(t) for t in node.inputs]
    return sum(low for low, _ in parts), sum(high for _, high in parts)


def _sub(node: gs.Node, ask: Ask) -> Interval:
    (low, high), (by_low, by_high) = (ask(t) for t in node.inputs)
    return low - by_high, high - by_low


def _mul(node: gs.Node, ask: Ask) -> Interval:
    parts = [ask(t) for t in node.inputs]
    if node.inputs[0] is node.inputs[1]:
        return _NOT_NEGATIVE if parts[0][0] <= 0 else _POSITIVE
    for factor, (low, high) in (parts, parts[::-1]):
        if factor[0] == factor[1] and math.isfinite(factor[0]) and factor[0] != 0:
            ends = sorted((factor[0] * low, factor[0] * high))
            return max(ends[0], ABOVE_ZERO) if min(factor[0], low) > 0 else ends[0], ends[1]
    return _product(*parts)


def _product(a: Interval, b: Interval) -> Interval:
    low = min(a[0], b[0])
    if low < 0:
        return _ANY
    return (ABOVE_ZERO if low > 0 else 0.0), (a[1] * b[1] if min(a[1], b[1]) > 0 else 0.0)


def _div(node: gs.Node, ask: Ask) -> Interval:
    of, by = (ask(t) for t in node.inputs)
    if by[0] <= 0 or of[0] < 0:
        return _ANY
    return (ABOVE_ZERO if of[0] > 0 else 0.0), of[1] / by[0]


def _pow(node: gs.Node, ask: Ask) -> Interval:
    low, exponent = ask(node.inputs[0])[0], scalar_of(node.inputs[1])
    if low > 0:
        return _POSITIVE
    return _NOT_NEGATIVE if low == 0 or (exponent is not None and exponent % 2 == 0) else _ANY


def _resize(node: gs.Node, ask: Ask) -> Interval:
    """Nearest and linear give means of what they read; cubic overshoots."""
    bounded = node.attrs.get("mode", "nearest") in ("nearest", "linear")
    inside = node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    return ask(node.inputs[0]) if bounded and inside else _ANY


def _padded(node: gs.Node, ask: Ask) -> Interval:
    """Zeros, or a value of its own, may come in at the border."""
    value = optional_input(node, 2) if node.op == "Pad" else None
    return _hull([ask(node.inputs[0]), (0.0, 0.0), *([ask(value)] if value is not None else [])])


def _cast(node: gs.Node, ask: Ask) -> Interval:
    if node.attrs.get("to") == TensorProto.BOOL:
        return 0.0, 1.0
    low, high = ask(node.inputs[0])
    if node.attrs.get("to") in FLOAT_TYPES or not math.isfinite(low):
        return low, high
    return float(math.trunc(low)), high


def _where(node: gs.Node, ask: Ask) -> Interval:
    return _hull([ask(t) for t in node.inputs[1:3]])


def _leaky(node: gs.Node, ask: Ask) -> Interval:
    low, high = ask(node.inputs[0])
    return low if low >= 0 else -math.inf, high


def _thresholded(node: gs.Node, ask: Ask) -> Interval:
    low, high = ask(node.inputs[0])
    return 0.0 if node.attrs.get("alpha", 1.0) >= 0 else min(low, 0.0), max(high, 0.0)


def _sum(node: gs.Node, ask: Ask) -> Interval:
    """Of elements, how many is not known."""
    low = ask(node.inputs[0])[0]
    return _ANY if low < 0 else _POSITIVE if low > 0 else _NOT_NEGATIVE


_MOVES = (
    *("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Transpose", "Slice", "Gather"),
    *("DepthToSpace", "SpaceToDepth"),
)
_MEANS = ("MaxPool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMin", "ReduceMean", "Split")
_CONDITIONS = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor")
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Sqrt", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _always(*_NOT_NEGATIVE)),
    **dict.fromkeys(("HardSigmoid", "Hardmax", *_CONDITIONS), _always(0.0, 1.0)),
    **dict.fromkeys(("ArgMax", "ArgMin"), _always(*_NOT_NEGATIVE)),
    **dict.fromkeys(("Sigmoid", "Softmax"), _always(ABOVE_ZERO, _BELOW_ONE)),
    **dict.fromkeys(("Exp", "Softplus"), _always(*_POSITIVE)),
    **dict.fromkeys(("Tanh", "Erf"), _always(-_BELOW_ONE, _BELOW_ONE)),
    **dict.fromkeys((*_MOVES, *_MEANS), _growing(lambda x: x)),
    **dict.fromkeys(("AveragePool", "Pad"), _padded),
    "Concat": _any_of,
    "Abs": _abs,
    "Neg": _neg,
    "Relu": _growing(lambda x: max(x, 0.0)),
    "LeakyRelu": _leaky,
    "Round": _growing(lambda x: x if math.isinf(x) else float(round(x))),
    "Floor": _growing(lambda x: x if math.isinf(x) else float(math.floor(x))),
    "Ceil": _growing(lambda x: x if math.isinf(x) else float(math.ceil(x))),
    "Sign": _growing(lambda x: float((x > 0) - (x < 0))),
    "Clip": _clip,
    "Max": _max,
    "Min": _min,
    "Mul": _mul,
    "Div": _div,
    "Pow": _pow,
    "Add": _add,
    "Sum": _add,
    "Sub": _sub,
    "ReduceSum": _sum,
    "Resize": _resize,
    "Cast": _cast,
    "Where": _where,
    "ThresholdedRelu": _thresholded,
}


# ---- whether it is 0 anywhere ---------------------------------------------------------------------------------------

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NORMS = ("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization")
_SMOOTH = (*_WEIGHTED, *_NORMS)
"""They give any number, and one of them, 0, at no more than single pixels."""
_KEEPS_ZERO = (
    *_MOVES,
    *_MEANS,
    *("Abs", "Neg", "Sqrt", "Pow", "Tanh", "Erf", "LeakyRelu", "Elu", "Resize", "AveragePool", "Div"),
    *("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"),
)
"""0 only where their first input is."""


def hardly_zero(tensor: gs.Tensor, depth: int = 0) -> gs.Node | None:
    """The node of a convolution, norm or sum that has to give exactly 0 where the tensor is 0; None where there may be another way."""
    node = producer(tensor)
    if node is None or depth > _DEPTH:
        return None
    hard = _straight_through(node)
    if hard is not None:
        return hardly_zero(hard, depth + 1)
    if is_op(node, *_SMOOTH):
        return node
    if is_op(node, *_KEEPS_ZERO) or (is_op(node, "Cast") and node.attrs.get("to") in FLOAT_TYPES):
        return hardly_zero(node.inputs[0], depth + 1)
    found = [hardly_zero(t, depth + 1) for t in node.inputs if is_computed(t)]
    known = [n for n in found if n is not None]
    if is_op(node, "Add", "Sub", "Sum"):
        return node if known else None
    every = is_op(node, "Mul", "Concat") and len(known) == len(found)
    return known[0] if every and known else None
