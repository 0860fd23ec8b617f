"""Gates by a condition: thresholds, a Where as the product, rounding; and products of several maps."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
from onnx import TensorProto

from support.graphs.net import Net
from support.graphs.recognised.parts import (
    HW,
    Build,
    C,
    Graph,
    branch_by,
    clip,
    compared,
    gate,
    gated_by,
    image,
    logit,
    main,
    product,
)

ZERO = np.float32(0)


def kept(op: str, at: float, map_of: Callable[[Net, str], str] = gate) -> Callable[[Net, str], str]:
    """where(g > at, g, 0), by another comparison; where it asks for the opposite, where(g <= at, 0, g)."""

    def make(net: Net, x: str) -> str:
        g, zero = map_of(net, x), net.const(0)
        held = op.startswith("Greater")
        return net.op("Where", net.op(op, g, net.const(at)), *((g, zero) if held else (zero, g)))

    return make


def _threshold_by_mask(net: Net, x: str) -> str:
    g = gate(net, x, 1)
    return net.op("Mul", g, compared(net, g, "Greater", 0.2))


def _threshold_of_a_gate(net: Net, x: str) -> str:
    """The threshold of one factor is not that of the product."""
    return net.op("Mul", kept("Greater", 0.3)(net, x), gate(net, x, 1))


def _threshold_on_a_grid(net: Net, x: str) -> str:
    g = kept("Greater", 0.2, lambda n, t: n.op("Relu", n.conv(t, C, 1, 2, stride=2, pads=[0] * 4)))(net, x)
    return net.op("Resize", g, "", net.const([1, 1, 2, 2], np.float32), mode="nearest")


def _rounded(net: Net, x: str) -> str:
    return net.op("Round", clip(net, logit(net, x), 0, 1))


def _rounded_up_to_two(net: Net, x: str) -> str:
    return net.op("Round", clip(net, logit(net, x), 0, 2))


def _not(net: Net, x: str) -> str:
    above = net.op("Not", net.op("GreaterOrEqual", logit(net, x), net.const(0.1)))
    return net.op("Cast", above, to=TensorProto.FLOAT)


def _inverted(net: Net, x: str) -> str:
    return net.op("Sub", net.const(1), compared(net, logit(net, x), "Greater", 0.1))


def _attended(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", u, net.op("Mul", g, net.op("Sigmoid", logit(net, x))))


def _attended_after(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", net.op("Mul", u, g), net.op("Sigmoid", logit(net, x)))


def _attended_after_another(make: Callable[[Net, str], str]) -> Build:
    """The gate is the op's own only without the map behind it."""

    def build(net: Net) -> None:
        x = image(net)
        net.op("Mul", net.op("Mul", main(net, x), make(net, x)), net.op("Sigmoid", logit(net, x)))

    return build


def passed_where(op: str, at: float, zero: Callable[[Net, str], str] = lambda n, _: n.const(0), swapped: bool = False) -> Build:
    """where(gate(x) > at, relu(conv(x)), 0), or where(..., 0, relu(conv(x)))."""

    def build(net: Net) -> None:
        x = image(net)
        u = net.op("Relu", main(net, x))
        condition = net.op(op, logit(net, x, 3), net.const(at))
        choices = [u, zero(net, u)]
        net.op("Where", condition, *(choices[::-1] if swapped else choices))

    return build


def _zeros_like(net: Net, u: str) -> str:
    return net.op("Expand", net.const([0]), net.op("Shape", u))


def _zeros_where_below(net: Net, x: str) -> str:
    g = gate(net, x)
    return net.op("Where", net.op("Greater", g, net.const(0.2)), g, _zeros_like(net, g))


def _where_of_a_mask(net: Net) -> None:
    x, m = image(net), net.input("mask", [2, 1, HW, HW], TensorProto.BOOL)
    net.op("Where", m, main(net, x), net.const(0))


def _where_and_product(net: Net) -> None:
    """A mask by Where on what a gate has been multiplied onto already."""
    x, m = image(net), net.input("mask", [2, 1, HW, HW], TensorProto.BOOL)
    net.op("Where", m, net.op("Mul", main(net, x), gate(net, x)), net.const(0))


def _where_relu(net: Net, x: str) -> str:
    u = main(net, x)
    return net.op("Where", net.op("Greater", u, net.const(0)), u, net.const(0))


def _condition_per_channel(net: Net) -> None:
    x = image(net)
    net.op("Where", net.op("LessOrEqual", main(net, x, size=1), net.const(0)), net.const(0), main(net, x))


def _else_another(net: Net) -> None:
    """Not a product: where the condition does not hold there is another value."""
    x = image(net)
    net.op("Where", net.op("Greater", logit(net, x), net.const(0)), main(net, x), main(net, x, size=1))


def _where_pooled(net: Net) -> None:
    x = image(net)
    u = net.op("MaxPool", main(net, x), kernel_shape=[3, 3], pads=[1] * 4)
    net.op("Where", net.op("Greater", logit(net, x), net.const(0)), u, net.const(0))


def _where_beside(net: Net) -> None:
    """One layer, and a Where beside it that is none."""
    x = image(net)
    u = main(net, x)
    y = net.op("Where", net.op("LessOrEqual", logit(net, x), net.const(0)), net.const(0), net.op("Tanh", u))
    net.op("Add", y, net.op("Mul", main(net, x), gate(net, x)))


def _where_read_elsewhere(net: Net) -> None:
    x = image(net)
    u = main(net, x)
    net.op("Concat", net.op("Where", net.op("Greater", logit(net, x), net.const(0)), u, net.const(0)), u, axis=1)


def _threshold_of_a_relu(net: Net) -> None:
    """The branch itself with a threshold, written by Where."""
    x = image(net)
    u = main(net, x)
    net.op("Mul", net.op("Where", net.op("Greater", u, net.const(0.2)), u, net.const(0)), gate(net, x))


def _returned_comparison(net: Net) -> None:
    """The gate's convolution is computed anyhow, for whoever reads the comparison."""
    x = image(net)
    g = gate(net, x)
    above = net.op("Greater", g, net.const(0.2))
    net.output(net.op("Mul", main(net, x), net.op("Where", above, g, net.const(0))))
    net.output(above, TensorProto.BOOL)


FUSED, EXTERNAL = {"gate_source": "fused"}, {"gate_source": "external"}
BELOW = float(np.nextafter(np.float32(0.2), ZERO))
AT = {**FUSED, "gate_threshold": np.float32(0.2)}
HARD = {**FUSED, "gate_max": 1.0, "gate_slope": np.float32(1e30)}

CONDITIONS = (
    Graph(
        "gate",
        "on a grid, then times a sigmoid map",
        _attended_after_another(_threshold_on_a_grid),
        attributes={**AT, "gate_upsample": (1, 1, 2, 2)},
        reason="closes no pixel",
    ),
    Graph(
        "gate",
        "threshold, then times a sigmoid map",
        _attended_after_another(kept("Greater", 0.2)),
        attributes=AT,
        reason="the factor of Mul node_mul8 closes no pixel",
    ),
    Graph("threshold", "where(g > t, g, 0)", gated_by(kept("Greater", 0.2)), attributes=AT),
    Graph("threshold", "where(g > t, g, 0) without ReLU", gated_by(kept("Greater", 0.2, logit)), attributes=AT),
    Graph("threshold", "where(g >= t, g, 0)", gated_by(kept("GreaterOrEqual", 0.2)), attributes={"gate_threshold": BELOW}),
    Graph("threshold", "where(g <= t, 0, g), F.threshold", gated_by(kept("LessOrEqual", 0.2)), attributes=AT),
    Graph("threshold", "where(g < t, 0, g)", gated_by(kept("Less", 0.2)), attributes={"gate_threshold": BELOW}),
    Graph("threshold", "where(g > t, g, zeros_like)", gated_by(_zeros_where_below), attributes=AT),
    Graph("condition", "sign of a ReLU", gated_by(lambda n, x: n.op("Sign", n.op("Relu", logit(n, x)))), attributes=HARD),
    Graph(
        "refused", "sign", gated_by(lambda n, x: n.op("Sign", logit(n, x))), layers=0, reason="Sign node_sign2, may be negative"
    ),
    Graph("threshold", "where(g > 0, g, 0)", gated_by(kept("Greater", 0, logit)), attributes={"gate_threshold": 0.0}),
    Graph(
        "threshold", "ThresholdedRelu", gated_by(lambda n, x: n.op("ThresholdedRelu", logit(n, x), alpha=0.2)), attributes=AT
    ),
    Graph("threshold", "g * (g > t)", gated_by(_threshold_by_mask), attributes=AT),
    Graph(
        "threshold", "of a clamped map", gated_by(kept("Greater", 0.2, lambda n, x: clip(n, logit(n, x), 0, 1))), attributes=AT
    ),
    Graph(
        "threshold",
        "halved",
        gated_by(lambda n, x: n.op("Mul", kept("Greater", 0.2)(n, x), n.const(0.5))),
        attributes={"gate_threshold": np.float32(0.1)},
    ),
    Graph("threshold", "on a grid", gated_by(_threshold_on_a_grid), attributes={**AT, "gate_upsample": (1, 1, 2, 2)}),
    Graph("threshold", "of one factor of a gate", gated_by(_threshold_of_a_gate), attributes={**FUSED, "gate_threshold": 0.0}),
    Graph("threshold", "comparison returned by the network", _returned_comparison, attributes=EXTERNAL),
    Graph(
        "threshold", "of a float16 map", gated_by(kept("Greater", 0.25)), dtype=np.float16, attributes={"gate_threshold": 0.25}
    ),
    Graph(
        "threshold",
        "of a bfloat16 map",
        gated_by(kept("Greater", 0.25, logit)),
        dtype=ml_dtypes.bfloat16,
        attributes={"gate_threshold": 0.25},
    ),
    Graph("condition", "where(gate > 0, branch, 0)", passed_where("Greater", 0), attributes=HARD),
    Graph("condition", "masked_fill(gate <= c, 0)", passed_where("LessOrEqual", 0.1, swapped=True), attributes=HARD),
    Graph("condition", "masked_fill(gate < c, 0)", passed_where("Less", 0.1, swapped=True), attributes=EXTERNAL),
    Graph("condition", "where(gate < c, branch, zeros_like)", passed_where("Less", 0.1, _zeros_like), attributes=HARD),
    Graph("condition", "where(mask, branch, 0)", _where_of_a_mask, attributes=EXTERNAL),
    Graph("condition", "where(mask, branch * gate, 0)", _where_and_product, attributes=FUSED),
    Graph("condition", "branch with its ReLU by Where", branch_by(_where_relu), attributes={"activation_alpha": 0.0}),
    Graph(
        "condition",
        "beside a Where that is none",
        _where_beside,
        reason="Tanh node_tanh3 is an activation that the op does not have",
    ),
    Graph("condition", "clamp(0, 1), rounded", gated_by(_rounded), attributes=HARD),
    Graph("condition", "sigmoid, rounded", gated_by(lambda n, x: n.op("Round", n.op("Sigmoid", logit(n, x)))), attributes=HARD),
    Graph("condition", "clamp(0, 2), rounded", gated_by(_rounded_up_to_two), attributes=EXTERNAL),
    Graph("condition", "not(gate >= c)", gated_by(_not), attributes=HARD),
    Graph("condition", "1 - mask", gated_by(_inverted), attributes=EXTERNAL),
    Graph("gate", "times a sigmoid map", product(_attended), attributes=FUSED),
    Graph("gate", "times a sigmoid map, after the product", product(_attended_after), attributes=FUSED),
    Graph(
        "refused",
        "where(g > t, g, 0) with t below 0",
        gated_by(kept("Greater", -0.2, logit)),
        layers=0,
        reason="Where node_where3, may be negative",
    ),
    Graph(
        "refused",
        "condition per output channel",
        _condition_per_channel,
        layers=0,
        reason="its other factor, LessOrEqual node_lessorequal1, has a mask for each of 6 channels",
    ),
    Graph("refused", "else another value", _else_another, layers=0),
    Graph("refused", "Where on a pooled branch", _where_pooled, layers=0, reason="gate is on MaxPool"),
    Graph("refused", "Where, branch read elsewhere", _where_read_elsewhere, layers=0, reason="read elsewhere too (by Concat"),
    Graph(
        "refused",
        "branch with a threshold",
        _threshold_of_a_relu,
        layers=0,
        reason="Where node_where2 is an activation that the op does not have",
    ),
)
