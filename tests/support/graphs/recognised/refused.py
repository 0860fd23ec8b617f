"""What looks like a gated convolution and is none."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from support.graphs.net import Net
from support.graphs.recognised.gates import mask
from support.graphs.recognised.parts import (
    HW,
    C,
    Graph,
    K,
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


def _squeeze_excite(net: Net, x: str, u: str, g: str) -> None:
    pooled = net.op("GlobalAveragePool", u)
    net.op("Mul", u, net.op("Sigmoid", net.conv(net.op("Relu", net.conv(pooled, K, 2, 1)), 2, K, 1)))


def _spatial_attention(net: Net, x: str, u: str, g: str) -> None:
    pooled = net.op("Concat", net.op("ReduceMean", u, net.ints(1)), net.op("ReduceMax", u, axes=[1]), axis=1)
    net.op("Mul", u, net.op("Sigmoid", net.conv(pooled, 2, 1, 3)))


def _silu(net: Net, x: str, u: str, g: str) -> None:
    y = main(net, x)
    net.op("Mul", y, net.op("Sigmoid", y))


def _straight_through_of_any(net: Net, x: str) -> str:
    """(h - p) + p with an h that may be below 0, and one that subtracts another map."""
    p = net.op("Sigmoid", logit(net, x))
    return net.op("Add", net.op("Sub", logit(net, x), p), p)


def _not_straight_through(net: Net, x: str) -> str:
    p, q = net.op("Sigmoid", logit(net, x)), net.op("Sigmoid", logit(net, x))
    return net.op("Add", net.op("Sub", compared(net, p, "Greater", 0.55), q), p)


def _read_elsewhere(net: Net, x: str, u: str, g: str) -> None:
    net.op("Concat", net.op("Mul", u, g), u, axis=1)


def _returned_branch(net: Net, x: str, u: str, g: str) -> None:
    net.output(net.op("Mul", u, g))
    net.output(u)


def _strides(net: Net) -> None:
    x = image(net)
    u = net.op("Relu", main(net, x, stride=2))
    net.op("Mul", u, net.op("Relu", net.conv(x, C, 1, 9, pads=[0] * 4)))


def _row(net: Net) -> None:
    x = image(net)
    net.op("Mul", main(net, x), net.op("Relu", net.conv(x, C, 1, HW, pads=[0] * 4)))


def _computed_weights(net: Net) -> None:
    x = image(net)
    w = net.input("w", [K, C, 3, 3])
    net.op("Mul", net.op("Conv", x, w, pads=[1] * 4), gate(net, x))


def _transposed(net: Net) -> None:
    x = image(net)
    u = net.op("ConvTranspose", x, net.const(net.rng.standard_normal((C, K, 2, 2))), strides=[2, 2])
    up = net.op("Resize", x, "", net.const([1, 1, 2, 2], np.float32), mode="nearest")
    net.op("Mul", u, gate(net, up))


def _one_dimensional(net: Net) -> None:
    x = net.input("x", [2, C, HW])
    u = net.op("Conv", x, net.const(net.rng.standard_normal((K, C, 3))), pads=[1, 1])
    net.op("Mul", u, net.op("Relu", net.op("Conv", x, net.const(net.rng.standard_normal((1, C, 1))))))


def _two_gates(net: Net) -> None:
    x = image(net)
    net.op("Mul", gate(net, x), gate(net, x, 1))


def _rounded(net: Net, x: str) -> str:
    whole = net.op("Cast", net.op("Mul", logit(net, x), net.const(3.0)), to=TensorProto.INT32)
    return net.op("Cast", whole, to=TensorProto.FLOAT)


def _grayscale(net: Net) -> None:
    x = net.input("x", [2, 1, HW, HW])
    net.op("Mul", net.conv(x, 1, K), x)


def _mask_read_by_a_convolution(net: Net) -> None:
    x, m = image(net), net.input("mask", [2, 1, HW, HW])
    net.op("Mul", main(net, net.op("Mul", x, m)), m)


def _returned_mask(net: Net) -> None:
    x, m = image(net), net.input("mask", [2, 1, HW, HW])
    net.output(net.op("Mul", main(net, x), m))
    net.output(net.op("Neg", m))


def _same_of_any_size(net: Net) -> None:
    x = image(net, hw=("H", "W"))
    net.op("Mul", main(net, x, auto_pad="SAME_UPPER", stride=2), gate(net, x, auto_pad="SAME_UPPER", stride=2))


def _mask_of_another_batch(net: Net) -> None:
    x = net.input("x", ["N", C, HW, HW])
    net.op("Mul", main(net, x), net.input("mask", ["M", 1, HW, HW]))


def _squared(net: Net, x: str) -> str:
    g = logit(net, x)
    return net.op("Mul", g, g)


def _two_sigmoids(net: Net, x: str) -> str:
    return net.op("Mul", net.op("Sigmoid", logit(net, x)), net.op("Abs", logit(net, x)))


def _instance_norm(net: Net, x: str) -> str:
    return net.op("InstanceNormalization", main(net, x), net.const(np.ones(K)), net.const(np.zeros(K)))


def _group_norm(net: Net, x: str) -> str:
    """As exporters write it: an InstanceNormalization of groups, then a scale per channel."""
    groups = net.op("Reshape", main(net, x), net.ints(0, 2, -1))
    normed = net.op("InstanceNormalization", groups, net.const(np.ones(2)), net.const(np.zeros(2)))
    whole = net.op("Reshape", normed, net.ints(2, K, HW, HW))
    return net.op("Add", net.op("Mul", whole, net.const(np.ones((K, 1, 1)))), net.const(np.zeros((K, 1, 1))))


def _later_group_norm(net: Net, x: str) -> str:
    """Of opset 21, which gives a scale per channel."""
    stored = [net.const(np.linspace(0.5, 1.5, K)), net.const(np.zeros(K))]
    return net.op("GroupNormalization", main(net, x), *stored, num_groups=2)


def _added(net: Net, x: str) -> str:
    return net.op("Relu", net.op("Add", main(net, x), net.conv(x, C, K, 1)))


def _channels_last(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", *(net.op("Transpose", t, perm=[0, 2, 3, 1]) for t in (u, g)))


def _channels_last_between(net: Net) -> None:
    """Bias and ReLU behind the Transpose of each."""
    x = image(net)
    u, g = (net.op("Transpose", t, perm=[0, 2, 3, 1]) for t in (main(net, x, bias=False), logit(net, x)))
    net.op("Mul", net.op("Relu", net.op("Add", u, net.const(np.ones(K)))), net.op("Relu", g))


def _in_integers(net: Net, x: str, *, of_weights: bool = False) -> str:
    """Quantised and back: what a convolution reads, or its weights, and what it gives."""
    scale, zero = net.const(0.05), net.const(0, np.int8)
    if of_weights:
        stored = net.rng.integers(-9, 9, (K, C, 3, 3))
        w = net.op("DequantizeLinear", net.const(stored, np.int8), scale, zero)
        return net.op("Conv", x, w, pads=[1] * 4)
    return net.op("DequantizeLinear", net.op("QuantizeLinear", main(net, x), scale, zero), scale, zero)


def _both_in_integers(net: Net) -> None:
    x = image(net)
    scale, zero = net.const(0.05), net.const(0, np.int8)
    parts = (net.op("QuantizeLinear", t, scale, zero) for t in (main(net, x), gate(net, x)))
    net.op("Mul", *(net.op("DequantizeLinear", t, scale, zero) for t in parts))


def _quantised_convolution(net: Net, x: str) -> str:
    scale, zero = net.const(0.05), net.const(0, np.int8)
    w = net.const(net.rng.integers(-9, 9, (K, C, 3, 3)), np.int8)
    y = net.op("QLinearConv", net.op("QuantizeLinear", x, scale, zero), scale, zero, w, scale, zero, scale, zero, pads=[1] * 4)
    return net.op("DequantizeLinear", y, scale, zero)


REFUSED = (
    Graph(
        "refused",
        "channels last, with bias and ReLU",
        _channels_last_between,
        layers=0,
        reason="Transpose node_transpose2 moves the channels between Conv node_conv0",
    ),
    Graph("refused", "GroupNorm of opset 21", branch_by(_later_group_norm), layers=0, reason="takes means over", opset=21),
    Graph(
        "refused", "InstanceNorm", branch_by(_instance_norm), layers=0, reason="node_instancenormalization1 takes means over"
    ),
    Graph("refused", "GroupNorm", branch_by(_group_norm), layers=0, reason="takes means over all pixels of what Conv"),
    Graph("refused", "sum before the product", branch_by(_added), layers=0, reason="multiply by the gate first, then add"),
    Graph("refused", "channels last", product(_channels_last), layers=0, reason="export with channels first (NCHW)"),
    Graph("refused", "quantised and back", branch_by(_in_integers), layers=0, reason="is quantised (DequantizeLinear"),
    Graph(
        "refused", "branch and gate quantised and back", _both_in_integers, layers=0, reason="is quantised (DequantizeLinear"
    ),
    Graph(
        "refused", "quantised convolution", branch_by(_quantised_convolution), layers=0, reason="QLinearConv node_qlinearconv1"
    ),
    Graph(
        "refused",
        "quantised weights",
        branch_by(lambda n, x: _in_integers(n, x, of_weights=True)),
        layers=0,
        reason="is quantised (DequantizeLinear",
    ),
    Graph("refused", "abs(gate)", gated_by(lambda n, x: n.op("Abs", logit(n, x))), layers=0, reason="is 0 only where Conv"),
    Graph("refused", "gate squared", gated_by(_squared), layers=0, reason="is 0 only where Conv"),
    Graph(
        "refused",
        "gate squared by Pow",
        gated_by(lambda n, x: n.op("Pow", logit(n, x), n.const(2.0))),
        layers=0,
        reason="Pow node_pow2, is 0 only where Conv",
    ),
    Graph(
        "refused", "exp(gate)", gated_by(lambda n, x: n.op("Exp", logit(n, x))), layers=0, reason="Exp node_exp2, is never 0"
    ),
    Graph("refused", "softplus gate", gated_by(lambda n, x: n.op("Softplus", logit(n, x))), layers=0, reason="is never 0"),
    Graph(
        "refused",
        "1 - sigmoid",
        gated_by(lambda n, x: n.op("Sub", n.const(1), n.op("Sigmoid", logit(n, x)))),
        layers=0,
        reason="Sub node_sub3, is never 0",
    ),
    Graph("refused", "two maps that are never 0", gated_by(_two_sigmoids), layers=0, reason="is never 0"),
    Graph("refused", "mask of a batch of its own", _mask_of_another_batch, layers=0, reason="is not one map"),
    Graph("refused", "SAME with a stride, of any size", _same_of_any_size, layers=0, reason="depend on its input's size"),
    Graph("refused", "squeeze-and-excitation", product(_squeeze_excite), layers=0, reason="mask per channel"),
    Graph("refused", "spatial attention by a sigmoid", product(_spatial_attention), layers=0, reason="is never 0"),
    Graph("refused", "sigmoid gate", gated_by(lambda n, x: n.op("Sigmoid", logit(n, x))), layers=0, reason="is never 0"),
    Graph(
        "refused", "gate clamped above 0", gated_by(lambda n, x: clip(n, logit(n, x), 0.1, 1)), layers=0, reason="is never 0"
    ),
    Graph("refused", "gate without clamp", gated_by(logit), layers=0, reason="may be negative"),
    Graph(
        "refused",
        "mean of the image",
        gated_by(lambda n, x: n.op("ReduceMean", x, n.ints(1), keepdims=1)),
        layers=0,
        reason="may be negative",
    ),
    Graph(
        "refused",
        "a channel of the image",
        gated_by(lambda n, x: n.op("Slice", x, n.ints(3), n.ints(4), n.ints(1))),
        layers=0,
        reason="may be negative",
    ),
    Graph("refused", "the image itself", _grayscale, layers=0, reason="may be negative"),
    Graph("refused", "mask that a convolution reads", _mask_read_by_a_convolution, layers=0, reason="may be negative"),
    Graph("refused", "mask that is used otherwise", _returned_mask, layers=0, reason="may be negative"),
    Graph(
        "refused",
        "gate with LeakyReLU",
        gated_by(lambda n, x: n.op("LeakyRelu", logit(n, x))),
        layers=0,
        reason="may be negative",
    ),
    Graph(
        "refused",
        "option 1: a mask per output channel",
        gated_by(lambda n, x: n.op("Relu", main(n, x, size=1))),
        layers=0,
        reason="option 1",
    ),
    Graph("refused", "SiLU", product(_silu), layers=0),
    Graph("refused", "straight through a logit", gated_by(_straight_through_of_any), layers=0, reason="may be negative"),
    Graph("refused", "straight through another map", gated_by(_not_straight_through), layers=0, reason="may be negative"),
    Graph(
        "refused",
        "grouped convolution",
        branch_by(lambda n, x: n.op("Relu", n.conv(x, C, C, group=C))),
        layers=0,
        reason="is grouped",
    ),
    Graph("refused", "branch read elsewhere", product(_read_elsewhere), layers=0, reason="read elsewhere too"),
    Graph("refused", "branch returned by the network", product(_returned_branch), layers=0, reason="network's caller"),
    Graph("refused", "different strides", _strides, layers=0, reason="different strides"),
    Graph("refused", "gate of one pixel", _row, layers=0, reason="is not one map"),
    Graph("refused", "weights computed in the graph", _computed_weights, layers=0, reason="computed in the graph"),
    Graph("refused", "transposed convolution", _transposed, layers=0, reason="transposed convolution"),
    Graph("refused", "1-D convolution", _one_dimensional, layers=0, reason="not 2-D"),
    Graph("refused", "two gates", _two_gates, layers=0, reason="one output channel"),
    Graph(
        "refused",
        "ReLU6 branch",
        branch_by(lambda n, x: clip(n, main(n, x), 0, 6)),
        layers=0,
        reason="activation that the op does not have",
    ),
    Graph(
        "refused",
        "SiLU branch",
        branch_by(lambda n, x: n.op("HardSwish", main(n, x))),
        layers=0,
        reason="activation that the op does not have",
    ),
    Graph(
        "refused",
        "scale after the activation",
        branch_by(lambda n, x: n.op("Add", n.op("Relu", main(n, x)), n.const(1.0))),
        layers=0,
        reason="affine after an activation",
    ),
    Graph(
        "refused",
        "pooled branch",
        branch_by(lambda n, x: n.op("MaxPool", main(n, x), kernel_shape=[3, 3], pads=[1] * 4)),
        layers=0,
        reason="not the output of one convolution",
    ),
    Graph(
        "refused",
        "mask of one image for a batch",
        mask(TensorProto.FLOAT, ["N", 1, "H", "W"], batch=1),
        layers=0,
        reason="is not one map",
    ),
    Graph("refused", "gate rounded to whole numbers", gated_by(_rounded), layers=0, reason="may be negative"),
    Graph("refused", "float64", product(), layers=0, reason="is not float32", dtype=np.float64),
    Graph(
        "refused",
        "negative scale after the activation",
        branch_by(lambda n, x: n.op("Neg", n.op("Relu", main(n, x)))),
        layers=0,
        reason="not the output of one convolution",
    ),
)
