"""Interval analysis: how low a computed map can be, and whether it is likely to be 0.

A gate has to be at least 0, and 0 somewhere, or there is nothing to skip.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_graphsurgeon as gs
from onnx import TensorProto

from lccl.graph.constants import value_of
from lccl.graph.nodes import is_computed, is_op, optional_input, producer, scalar_of
from lccl.graph.op_sets import BOUND_KEEPING, CONDITIONS, NORMS, SUMS, WEIGHTED
from lccl.graph.shapes import FLOAT_TYPES, Sizes

Interval = tuple[float, float]
"""The least and the greatest value."""
ABOVE_ZERO = 5e-324
"""The least value of what is positive everywhere."""
_BELOW_ONE = math.nextafter(1.0, 0.0)
_DEPTH = 64
"""How many nodes deep the analysis looks."""
_ANY = (-math.inf, math.inf)
_POSITIVE = (ABOVE_ZERO, math.inf)
_NOT_NEGATIVE = (0.0, math.inf)
_UNSIGNED = (TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)


def lower_bound(tensor: gs.Tensor, sizes: Sizes) -> float:
    """Return a lower bound of every element, which is minus infinity if none is known.

    An input of the network has a bound only if its type is unsigned: an image may have values below
    0.
    """
    return _Analysis(sizes).interval(tensor, 0)[0]


class _Analysis:
    """Intervals of tensors, each computed once."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._known: dict[int, Interval] = {}

    def interval(self, tensor: gs.Tensor, depth: int) -> Interval:
        """Return the tensor's interval.

        Args:
            depth: the number of nodes between it and the tensor that was asked for first.
        """
        if id(tensor) not in self._known:
            self._known[id(tensor)] = self._compute(tensor, depth)
        return self._known[id(tensor)]

    def _compute(self, tensor: gs.Tensor, depth: int) -> Interval:
        values = value_of(tensor)
        if values is not None:
            return (float(values.astype("float64").min()), float(values.astype("float64").max())) if values.size else _ANY
        node = producer(tensor)
        if node is None:
            return _NOT_NEGATIVE if self._sizes.types.get(tensor.name) in _UNSIGNED else _ANY
        if depth > _DEPTH or not is_op(node, node.op):
            return _ANY
        rule = _RULES.get(node.op)
        return rule(node, lambda t: self.interval(t, depth + 1)) if rule is not None else _ANY


Ask = Callable[[gs.Tensor], Interval]
"""Gives the interval of a node's input."""
Rule = Callable[[gs.Node, Ask], Interval]
"""Gives the interval of a node's output."""


def _always(low: float, high: float) -> Rule:
    return lambda _node, _ask: (low, high)


def _increasing(f: Callable[[float], float]) -> Rule:
    """Make the rule of an increasing function."""

    def rule(node: gs.Node, ask: Ask) -> Interval:
        low, high = ask(node.inputs[0])
        return f(low), f(high)

    return rule


def _any_of(node: gs.Node, ask: Ask) -> Interval:
    """Bound what takes each value from one of the inputs."""
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
    """Return h of (h - p) + p, by which training gives a hard gate h the gradient of a soft one p.

    The sum is 0 where h is 0, and never below.
    """
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
    """Bound nearest and linear resizing, which give means; cubic resizing overshoots."""
    bounded = node.attrs.get("mode", "nearest") in ("nearest", "linear")
    inside = node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    return ask(node.inputs[0]) if bounded and inside else _ANY


def _padded(node: gs.Node, ask: Ask) -> Interval:
    """Bound what adds zeros, or a value that it is given, around a map."""
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
    """Bound a sum of an unknown number of elements."""
    low = ask(node.inputs[0])[0]
    return _ANY if low < 0 else _POSITIVE if low > 0 else _NOT_NEGATIVE


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Sqrt", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _always(*_NOT_NEGATIVE)),
    **dict.fromkeys(("HardSigmoid", "Hardmax", *CONDITIONS), _always(0.0, 1.0)),
    **dict.fromkeys(("ArgMax", "ArgMin"), _always(*_NOT_NEGATIVE)),
    **dict.fromkeys(("Sigmoid", "Softmax"), _always(ABOVE_ZERO, _BELOW_ONE)),
    **dict.fromkeys(("Exp", "Softplus"), _always(*_POSITIVE)),
    **dict.fromkeys(("Tanh", "Erf"), _always(-_BELOW_ONE, _BELOW_ONE)),
    **dict.fromkeys(BOUND_KEEPING, _increasing(lambda x: x)),
    **dict.fromkeys(("AveragePool", "Pad"), _padded),
    "Concat": _any_of,
    "Abs": _abs,
    "Neg": _neg,
    "Relu": _increasing(lambda x: max(x, 0.0)),
    "LeakyRelu": _leaky,
    "Round": _increasing(lambda x: x if math.isinf(x) else float(round(x))),
    "Floor": _increasing(lambda x: x if math.isinf(x) else float(math.floor(x))),
    "Ceil": _increasing(lambda x: x if math.isinf(x) else float(math.ceil(x))),
    "Sign": _increasing(lambda x: float((x > 0) - (x < 0))),
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


# ---- whether it is 0 anywhere --------------------------------------------------------------------

_SMOOTH = WEIGHTED | NORMS
"""They give any number, and one given number, such as 0, at single pixels at most."""
_KEEPS_ZERO = BOUND_KEEPING | {
    *("Abs", "Neg", "Sqrt", "Pow", "Tanh", "Erf", "LeakyRelu", "Elu", "Resize", "AveragePool", "Div"),
    *("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"),
}
"""0 only where their first input is 0."""


def hardly_zero(tensor: gs.Tensor, depth: int = 0) -> gs.Node | None:
    """Return the convolution, norm or sum that is exactly 0 wherever the tensor is 0.

    The result is None if the tensor may be 0 in another way.

    Args:
        depth: the number of nodes between the tensor and the one that was asked for first.
    """
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
    if is_op(node, *SUMS):
        return node if known else None
    every = is_op(node, "Mul", "Concat") and len(known) == len(found)
    return known[0] if every and known else None
