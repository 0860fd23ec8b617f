"""Elementwise nodes between a gate's convolution and the product, as one function.

A gate is read from the product towards its convolution. The nodes that have been read are one
``GateFunction`` of the tensor that is still ahead: a clamp of an affine, or a step. Each node
further in gives such a function again, or cannot be composed with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import onnx_graphsurgeon as gs

from lccl.graph.nodes import is_op, norm_affine, optional_input, producer, scalar_of
from lccl.graph.op_sets import COMPARISONS, CONDITIONS

INFINITY = math.inf


@dataclass(frozen=True)
class Affine:
    """a * x + b."""

    a: float
    b: float


@dataclass(frozen=True)
class Clip:
    """min(max(x, low), high)."""

    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """1 where sign * (x - at) > 0, else 0."""

    at: float
    sign: Literal[1, -1]
    equal: bool = False
    """1 at x = at too."""


@dataclass(frozen=True)
class ThresholdedRelu:
    """x where x > at, else 0."""

    at: float


@dataclass(frozen=True)
class Logistic:
    """1 / (1 + exp(-x))."""


Function = Affine | Clip | Threshold | ThresholdedRelu | Logistic


@dataclass(frozen=True)
class ElementwiseStep:
    """One elementwise node."""

    functions: tuple[Function, ...]
    """What it computes, the outermost function first; empty for a node that copies."""
    inner: gs.Tensor
    """The tensor that it computes this of."""


@dataclass(frozen=True)
class GateFunction:
    """A gate as a function of a tensor x.

    Without a ``height``, a clamp: ``y = min(max(scale * x + shift, low), high)``, taken as 0 where
    it is not above ``cut``. With one, a step: ``height`` where ``scale * x + shift > 0``, else 0.
    """

    scale: float = 1.0
    shift: float = 0.0
    low: float = -INFINITY
    high: float = INFINITY
    cut: float = -INFINITY
    """At least 0, or minus infinity for a clamp without a cut."""
    height: float | None = None

    def compose(self, inner: Function) -> GateFunction | None:
        """Return this function of ``inner`` as a function of x, or None if it has another form."""
        if isinstance(inner, Affine):
            if inner.a == 0:
                return None
            return replace(self, scale=self.scale * inner.a, shift=self.scale * inner.b + self.shift)
        if isinstance(inner, Threshold):
            return self._of_mask(inner)
        return self._clamp_of(inner) if self.height is None else self._step_of(inner)

    def _of_mask(self, inner: Threshold) -> GateFunction | None:
        """Compose with 0 and 1: a step up or down if one of the two gives 0.

        At its edge the op's step is 0.
        """
        closed, opened = self.at(0.0), self.at(1.0)
        up = closed == 0 < opened
        if not (up or opened == 0 < closed) or inner.equal == up:
            return None
        sign = inner.sign if up else -inner.sign
        return GateFunction(sign, -sign * inner.at, height=max(closed, opened))

    def at(self, x: float) -> float:
        """Return the function's value at x."""
        y = self.scale * x + self.shift
        if self.height is not None:
            return self.height if y > 0 else 0.0
        y = min(max(y, self.low), self.high)
        return y if y > self.cut else 0.0

    def _clamp_of(self, inner: Clip | ThresholdedRelu | Logistic) -> GateFunction | None:
        if isinstance(inner, Clip):
            ends = sorted((self.scale * inner.low + self.shift, self.scale * inner.high + self.shift))
            low, high = (min(max(end, self.low), self.high) for end in ends)
            return replace(self, low=low, high=high)
        if isinstance(inner, ThresholdedRelu) and self.scale > 0 and self.at(0.0) == 0:
            cut = min(max(self.scale * inner.at + self.shift, self.low), self.high)
            return replace(self, cut=max(cut, self.cut)) if 0 <= cut < self.high else None
        return None

    def _step_of(self, inner: Clip | ThresholdedRelu | Logistic) -> GateFunction | None:
        """Solve ``scale * f(x) + shift > 0`` for x, for an increasing f."""
        edge = -self.shift / self.scale
        sign = 1 if self.scale > 0 else -1
        if isinstance(inner, Clip):
            inside = inner.low <= edge < inner.high if sign > 0 else inner.low < edge <= inner.high
            return self if inside else None
        if isinstance(inner, ThresholdedRelu):
            return replace(self, scale=1.0, shift=-max(edge, inner.at)) if sign > 0 and edge >= 0 else None
        if 0 < edge < 1:
            return replace(self, scale=sign, shift=-sign * math.log(edge / (1 - edge)))
        return None


def step_of(tensor: gs.Tensor) -> ElementwiseStep | None:
    """Return what the tensor's node computes, or None if it is no known elementwise function."""
    node = producer(tensor)
    if node is None or not is_op(node, *_READERS):
        return None
    return _READERS[node.op](node)


def _of_first(node: gs.Node, *functions: Function) -> ElementwiseStep:
    return ElementwiseStep(functions, node.inputs[0])


def _hard_sigmoid(node: gs.Node) -> ElementwiseStep:
    return _of_first(node, Clip(0.0, 1.0), Affine(node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)))


def _clip(node: gs.Node) -> ElementwiseStep | None:
    ends = [optional_input(node, place) for place in (1, 2)]
    low, high = (default if e is None else scalar_of(e) for e, default in zip(ends, (-INFINITY, INFINITY), strict=True))
    return None if low is None or high is None else _of_first(node, Clip(low, high))


def _arithmetic(node: gs.Node) -> ElementwiseStep | None:
    """Read an op of two operands, one of which is a number."""
    for place in (1, 0) if len(node.inputs) == 2 else ():
        c = scalar_of(node.inputs[place])
        function = None if c is None or not math.isfinite(c) else _with_number(node.op, c, place == 1)
        if function is not None:
            return ElementwiseStep((function,), node.inputs[1 - place])
    return None


def _with_number(op: str, c: float, second: bool) -> Function | None:
    """Return the op with the number c as its second operand, or as its first."""
    if op in ("Max", "Min"):
        return Clip(c, INFINITY) if op == "Max" else Clip(-INFINITY, c)
    if op == "Add":
        return Affine(1.0, c)
    if op == "Sub":
        return Affine(1.0, -c) if second else Affine(-1.0, c)
    if op == "Div":
        return Affine(1.0 / c, 0.0) if second and c != 0 else None
    return Affine(c, 0.0)


def _batch_norm(node: gs.Node) -> ElementwiseStep | None:
    affine = norm_affine(node)
    if affine is None or affine[0].size != 1:
        return None
    return _of_first(node, Affine(float(affine[0].item()), float(affine[1].item())))


def _cast(node: gs.Node) -> ElementwiseStep | None:
    """Read a cast of a condition, which gives 1 and 0; a cast of numbers is no function."""
    return _of_first(node) if is_op(producer(node.inputs[0]), *CONDITIONS) else None


def _where(node: gs.Node) -> ElementwiseStep | None:
    """Read a choice between two numbers."""
    one, zero = (scalar_of(t) for t in node.inputs[1:3])
    return None if one is None or zero is None else _of_first(node, Affine(one - zero, zero))


def _comparison(node: gs.Node) -> ElementwiseStep | None:
    """Read a comparison with a number."""
    for place in (1, 0):
        c = scalar_of(node.inputs[place])
        if c is not None and math.isfinite(c):
            above = node.op.startswith("Greater") == (place == 1)
            function = Threshold(c, 1 if above else -1, equal=node.op.endswith("OrEqual"))
            return ElementwiseStep((function,), node.inputs[1 - place])
    return None


def _round(node: gs.Node) -> ElementwiseStep | None:
    """Read rounding to integers, halves to even ones: a mask if the input lies between 0 and 1."""
    first = _outermost_function(node.inputs[0])
    bounded = isinstance(first, Logistic) or (isinstance(first, Clip) and first.low >= -0.5 and first.high < 1.5)
    return _of_first(node, Threshold(0.5, 1)) if bounded else None


def _sign(node: gs.Node) -> ElementwiseStep | None:
    """Read the sign, -1, 0 or 1: a mask if the input is not negative."""
    first = _outermost_function(node.inputs[0])
    return _of_first(node, Threshold(0.0, 1)) if isinstance(first, Clip) and first.low >= 0 else None


def _outermost_function(tensor: gs.Tensor) -> Function | None:
    step = step_of(tensor)
    return step.functions[0] if step is not None and step.functions else None


_READERS: dict[str, Callable[[gs.Node], ElementwiseStep | None]] = {
    "Relu": lambda node: _of_first(node, Clip(0.0, INFINITY)),
    "ThresholdedRelu": lambda node: _of_first(node, ThresholdedRelu(node.attrs.get("alpha", 1.0))),
    "Sigmoid": lambda node: _of_first(node, Logistic()),
    "Neg": lambda node: _of_first(node, Affine(-1.0, 0.0)),
    "Not": lambda node: _of_first(node, Affine(-1.0, 1.0)),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    **dict.fromkeys(("Max", "Min", "Mul", "Div", "Add", "Sub"), _arithmetic),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Where": _where,
    "Round": _round,
    "Sign": _sign,
    **dict.fromkeys(COMPARISONS, _comparison),
}
"""How each op is read. An op of another meaning, such as Tanh, has no place here: the op cannot
compute it."""
