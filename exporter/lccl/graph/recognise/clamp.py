"""The elementwise steps between a gate's convolution and the product, composed into one: a clamp of an affine, or a step.

A gate is read from the product towards its convolution. What has been passed so far is a function of what is still ahead:
either ``min(max(scale * x + shift, low), high)``, taken as 0 where it is not above ``cut``, or ``height where scale * x + shift
> 0, else 0``. Each further step inwards gives such a function again, or cannot be taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import onnx_graphsurgeon as gs

from lccl.graph.nodes import is_op, norm_affine, optional_input, scalar_of
from lccl.graph.surgery import producer

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
class Cut:
    """x where x > at, else 0."""

    at: float


@dataclass(frozen=True)
class Logistic:
    """1 / (1 + exp(-x))."""


Step = Affine | Clip | Threshold | Cut | Logistic


@dataclass(frozen=True)
class Passed:
    """One elementwise node."""

    steps: tuple[Step, ...]
    """From the outside in; none for a node that copies."""
    inner: gs.Tensor
    """What they are of."""


@dataclass(frozen=True)
class Gating:
    """What has been passed, as a function of the tensor ahead."""

    scale: float = 1.0
    shift: float = 0.0
    low: float = -INFINITY
    high: float = INFINITY
    cut: float = -INFINITY
    """At least 0, or none."""
    height: float | None = None
    """Of a step; None for a clamp."""

    def through(self, step: Step) -> Gating | None:
        """The same function of the step's own input; None where no such function is."""
        if isinstance(step, Affine):
            if step.a == 0:
                return None
            return replace(self, scale=self.scale * step.a, shift=self.scale * step.b + self.shift)
        if isinstance(step, Threshold):
            return self._of_mask(step)
        return self._clamp_through(step) if self.height is None else self._step_through(step)

    def _of_mask(self, step: Threshold) -> Gating | None:
        """Of 0 and 1 it is a step, up or down, if one of the two gives 0. At the edge itself the op's step is 0."""
        closed, opened = self._at(0.0), self._at(1.0)
        up = closed == 0 < opened
        if not (up or opened == 0 < closed) or step.equal == up:
            return None
        sign = step.sign if up else -step.sign
        return Gating(sign, -sign * step.at, height=max(closed, opened))

    def _at(self, x: float) -> float:
        y = self.scale * x + self.shift
        if self.height is not None:
            return self.height if y > 0 else 0.0
        y = min(max(y, self.low), self.high)
        return y if y > self.cut else 0.0

    def _clamp_through(self, step: Clip | Cut | Logistic) -> Gating | None:
        if isinstance(step, Clip):
            ends = sorted((self.scale * step.low + self.shift, self.scale * step.high + self.shift))
            low, high = (min(max(end, self.low), self.high) for end in ends)
            return replace(self, low=low, high=high)
        if isinstance(step, Cut) and self.scale > 0 and self._at(0.0) == 0:
            cut = min(max(self.scale * step.at + self.shift, self.low), self.high)
            return replace(self, cut=max(cut, self.cut)) if 0 <= cut < self.high else None
        return None

    def _step_through(self, step: Clip | Cut | Logistic) -> Gating | None:
        """``scale * f(x) + shift > 0`` as a condition on x, for an f that grows."""
        edge = -self.shift / self.scale
        sign = 1 if self.scale > 0 else -1
        if isinstance(step, Clip):
            passes = step.low <= edge < step.high if sign > 0 else step.low < edge <= step.high
            return self if passes else None
        if isinstance(step, Cut):
            return replace(self, scale=1.0, shift=-max(edge, step.at)) if sign > 0 and edge >= 0 else None
        if 0 < edge < 1:
            return replace(self, scale=sign, shift=-sign * math.log(edge / (1 - edge)))
        return None


def step_of(tensor: gs.Tensor) -> Passed | None:
    """The elementwise node that computes the tensor; None where that is none, or another kind."""
    node = producer(tensor)
    if node is None or not is_op(node, *_READERS):
        return None
    return _READERS[node.op](node)


def _of_first(node: gs.Node, *steps: Step) -> Passed:
    return Passed(steps, node.inputs[0])


def _hard_sigmoid(node: gs.Node) -> Passed:
    return _of_first(node, Clip(0.0, 1.0), Affine(node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)))


def _clip(node: gs.Node) -> Passed | None:
    ends = [optional_input(node, place) for place in (1, 2)]
    low, high = (default if e is None else scalar_of(e) for e, default in zip(ends, (-INFINITY, INFINITY), strict=True))
    return None if low is None or high is None else _of_first(node, Clip(low, high))


def _arithmetic(node: gs.Node) -> Passed | None:
    """An op of two operands of which one is a number."""
    for place in (1, 0) if len(node.inputs) == 2 else ():
        c = scalar_of(node.inputs[place])
        step = None if c is None or not math.isfinite(c) else _with_number(node.op, c, place == 1)
        if step is not None:
            return Passed((step,), node.inputs[1 - place])
    return None


def _with_number(op: str, c: float, second: bool) -> Step | None:
    """The op with a number as its second operand, or its first."""
    if op in ("Max", "Min"):
        return Clip(c, INFINITY) if op == "Max" else Clip(-INFINITY, c)
    if op == "Add":
        return Affine(1.0, c)
    if op == "Sub":
        return Affine(1.0, -c) if second else Affine(-1.0, c)
    if op == "Div":
        return Affine(1.0 / c, 0.0) if second and c != 0 else None
    return Affine(c, 0.0)


def _norm(node: gs.Node) -> Passed | None:
    affine = norm_affine(node)
    if affine is None or affine[0].size != 1:
        return None
    return _of_first(node, Affine(float(affine[0].item()), float(affine[1].item())))


def _cast(node: gs.Node) -> Passed | None:
    """True and false as 1 and 0. A cast of numbers is a move, or rounds."""
    return _of_first(node) if is_op(producer(node.inputs[0]), *_CONDITIONS) else None


def _where(node: gs.Node) -> Passed | None:
    """One of two numbers."""
    one, zero = (scalar_of(t) for t in node.inputs[1:3])
    return None if one is None or zero is None else _of_first(node, Affine(one - zero, zero))


def _comparison(node: gs.Node) -> Passed | None:
    """With a number."""
    for place in (1, 0):
        c = scalar_of(node.inputs[place])
        if c is not None and math.isfinite(c):
            above = node.op.startswith("Greater") == (place == 1)
            step = Threshold(c, 1 if above else -1, equal=node.op.endswith("OrEqual"))
            return Passed((step,), node.inputs[1 - place])
    return None


def _round(node: gs.Node) -> Passed | None:
    """To whole numbers, halves to even ones: of what is between 0 and 1, a mask."""
    inner = step_of(node.inputs[0])
    first = inner.steps[0] if inner is not None and inner.steps else None
    bounded = isinstance(first, Logistic) or (isinstance(first, Clip) and first.low >= -0.5 and first.high < 1.5)
    return _of_first(node, Threshold(0.5, 1)) if bounded else None


def _sign(node: gs.Node) -> Passed | None:
    """-1, 0 or 1: of what is not below 0, a mask."""
    inner = step_of(node.inputs[0])
    first = inner.steps[0] if inner is not None and inner.steps else None
    return _of_first(node, Threshold(0.0, 1)) if isinstance(first, Clip) and first.low >= 0 else None


_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_CONDITIONS = (*_COMPARISONS, "Equal", "Not", "And", "Or", "Xor")
_READERS: dict[str, Callable[[gs.Node], Passed | None]] = {
    "Relu": lambda node: _of_first(node, Clip(0.0, INFINITY)),
    "ThresholdedRelu": lambda node: _of_first(node, Cut(node.attrs.get("alpha", 1.0))),
    "Sigmoid": lambda node: _of_first(node, Logistic()),
    "Neg": lambda node: _of_first(node, Affine(-1.0, 0.0)),
    "Not": lambda node: _of_first(node, Affine(-1.0, 1.0)),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    **dict.fromkeys(("Max", "Min", "Mul", "Div", "Add", "Sub"), _arithmetic),
    "BatchNormalization": _norm,
    "Cast": _cast,
    "Where": _where,
    "Round": _round,
    "Sign": _sign,
    **dict.fromkeys(_COMPARISONS, _comparison),
}
