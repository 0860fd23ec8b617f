"""The elementwise steps between a gate's convolution and the product, composed into one: a clamp of an affine, or a step.

A gate is read from the product towards its convolution. What has been passed so far is a function of what is still ahead:
either ``min(max(scale * x + shift, low), high)`` or ``height where scale * x + shift > 0, else 0``. Each further step inwards
gives such a function again, or cannot be taken.
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class Logistic:
    """1 / (1 + exp(-x))."""


Step = Affine | Clip | Threshold | Logistic


@dataclass(frozen=True)
class Gating:
    """What has been passed, as a function of the tensor ahead."""

    scale: float = 1.0
    shift: float = 0.0
    low: float = -INFINITY
    high: float = INFINITY
    height: float | None = None
    """Of a step; None for a clamp."""

    def through(self, step: Step) -> Gating | None:
        """The same function of the step's own input; None where no such function is."""
        if isinstance(step, Affine):
            if step.a == 0:
                return None
            return replace(self, scale=self.scale * step.a, shift=self.scale * step.b + self.shift)
        if self.height is None:
            return self._clamp_through(step)
        return self._step_through(step)

    def _clamp_through(self, step: Clip | Threshold | Logistic) -> Gating | None:
        if isinstance(step, Clip):
            ends = sorted((self.scale * step.low + self.shift, self.scale * step.high + self.shift))
            low, high = (min(max(end, self.low), self.high) for end in ends)
            return replace(self, low=low, high=high)
        if isinstance(step, Threshold) and self._at(0.0) == 0 and self._at(1.0) > 0:
            return Gating(step.sign, -step.sign * step.at, height=self._at(1.0))
        return None

    def _at(self, x: float) -> float:
        return min(max(self.scale * x + self.shift, self.low), self.high)

    def _step_through(self, step: Clip | Threshold | Logistic) -> Gating | None:
        """``scale * f(x) + shift > 0`` as a condition on x, for an f that grows."""
        edge = -self.shift / self.scale
        sign = 1 if self.scale > 0 else -1
        if isinstance(step, Clip):
            passes = step.low <= edge < step.high if sign > 0 else step.low < edge <= step.high
            return self if passes else None
        if isinstance(step, Logistic) and 0 < edge < 1:
            return replace(self, scale=sign, shift=-sign * math.log(edge / (1 - edge)))
        return None


def step_of(tensor: gs.Tensor) -> tuple[tuple[Step, ...], gs.Tensor] | None:
    """The elementwise node that computes the tensor as steps from the outside in, and the input it is of."""
    node = producer(tensor)
    if is_op(node, "Relu"):
        return (Clip(0.0, INFINITY),), node.inputs[0]  # type: ignore[union-attr]
    if is_op(node, "Sigmoid"):
        return (Logistic(),), node.inputs[0]  # type: ignore[union-attr]
    if is_op(node, "HardSigmoid"):
        assert node is not None
        return (Clip(0.0, 1.0), Affine(node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5))), node.inputs[0]
    if is_op(node, "Clip"):
        return _clip(node)
    if is_op(node, "Max", "Min", "Mul", "Div", "Add", "Sub", "Neg"):
        return _arithmetic(node)
    if is_op(node, "BatchNormalization"):
        return _norm(node)
    return _mask(node)


def _clip(node: gs.Node) -> tuple[tuple[Step, ...], gs.Tensor] | None:
    ends = [optional_input(node, place) for place in (1, 2)]
    values = [default if end is None else scalar_of(end) for end, default in zip(ends, (-INFINITY, INFINITY), strict=True)]
    if values[0] is None or values[1] is None:
        return None
    return (Clip(values[0], values[1]),), node.inputs[0]


def _arithmetic(node: gs.Node) -> tuple[tuple[Step, ...], gs.Tensor] | None:
    if node.op == "Neg":
        return (Affine(-1.0, 0.0),), node.inputs[0]
    if len(node.inputs) != 2:
        return None
    for place in (1, 0):
        c, x = scalar_of(node.inputs[place]), node.inputs[1 - place]
        if c is None or not math.isfinite(c):
            continue
        if node.op == "Max":
            return (Clip(c, INFINITY),), x
        if node.op == "Min":
            return (Clip(-INFINITY, c),), x
        if node.op == "Mul":
            return (Affine(c, 0.0),), x
        if node.op == "Add":
            return (Affine(1.0, c),), x
        if node.op == "Sub":
            return (Affine(1.0, -c) if place == 1 else Affine(-1.0, c),), x
        if node.op == "Div" and place == 1 and c != 0:
            return (Affine(1.0 / c, 0.0),), x
    return None


def _norm(node: gs.Node) -> tuple[tuple[Step, ...], gs.Tensor] | None:
    affine = norm_affine(node)
    if affine is None or affine[0].size != 1:
        return None
    return (Affine(float(affine[0].item()), float(affine[1].item())),), node.inputs[0]


def _mask(node: gs.Node | None) -> tuple[tuple[Step, ...], gs.Tensor] | None:
    """A hard mask: a comparison cast to a number, or Where of it with 1 and 0."""
    if is_op(node, "Cast"):
        assert node is not None
        return _comparison(producer(node.inputs[0]))
    if is_op(node, "Where"):
        assert node is not None
        one, zero = (scalar_of(t) for t in node.inputs[1:3])
        return _comparison(producer(node.inputs[0])) if (one, zero) == (1.0, 0.0) else None
    return None


def _comparison(node: gs.Node | None) -> tuple[tuple[Step, ...], gs.Tensor] | None:
    if not is_op(node, "Greater", "Less"):
        return None
    assert node is not None
    for place in (1, 0):
        c = scalar_of(node.inputs[place])
        if c is not None and math.isfinite(c):
            above = (node.op == "Greater") == (place == 1)
            return (Threshold(c, 1 if above else -1),), node.inputs[1 - place]
    return None
