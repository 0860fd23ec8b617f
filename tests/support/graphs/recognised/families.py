"""Networks of every family, in small; and the forms of the branch that is gated."""

from __future__ import annotations

import numpy as np

from support.graphs.net import Net
from support.graphs.recognised.parts import (
    Build,
    C,
    Graph,
    K,
    branch_by,
    clip,
    followed_by,
    gate,
    gated_by,
    image,
    main,
    product,
)


def released(net: Net) -> None:
    """conv(x) * relu(bn(gate(x))), BatchNorm and ReLU of the next layer behind it."""
    x = image(net)
    g = net.op("Relu", net.bn(net.conv(x, C, 1, 1), 1))
    net.op("Relu", net.bn(net.op("Mul", main(net, x), g), K))


def basic_block(net: Net) -> None:
    x = net.op("Relu", main(net, image(net)))
    y = net.op("Mul", net.op("Relu", net.bn(net.conv(x, K, K), K)), net.op("Relu", net.bn(net.conv(x, K, 1), 1)))
    z = net.op("Mul", net.bn(net.conv(y, K, K), K), net.op("Relu", net.bn(net.conv(y, K, 1), 1)))
    net.op("Relu", net.op("Add", z, x))


def preactivation_block(net: Net) -> None:
    x = main(net, image(net))
    a = net.op("Relu", net.bn(x, K))
    y = net.op("Mul", net.conv(a, K, K, bias=False), net.op("Relu", net.bn(net.conv(a, K, 1, 1), 1)))
    b = net.op("Relu", net.bn(y, K))
    z = net.op("Mul", net.conv(b, K, K, bias=False), net.op("Relu", net.bn(net.conv(b, K, 1, 1), 1)))
    net.op("Add", x, z)


def bottleneck(net: Net) -> None:
    x = net.op("Relu", main(net, image(net)))
    a = net.op("Relu", net.bn(net.conv(x, K, 4, 1), 4))
    y = net.op("Mul", net.op("Relu", net.bn(net.conv(a, 4, 4, 3, stride=2), 4)), net.op("Relu", net.conv(a, 4, 1, 3, stride=2)))
    z = net.op("Mul", net.bn(net.conv(y, 4, 8, 1), 8), net.op("Relu", net.conv(y, 4, 1, 1)))
    net.op("Relu", net.op("Add", net.bn(net.conv(x, K, 8, 1, stride=2), 8), z))


def dense_block(net: Net) -> None:
    x = image(net)
    y = net.op("Mul", net.op("Relu", main(net, x)), gate(net, x))
    both = net.op("Concat", x, y, axis=1)
    z = net.op("Mul", net.op("Relu", net.conv(both, C + K, K)), net.op("Relu", net.conv(both, C + K, 1)))
    net.op("Concat", both, z, axis=1)


def unet(net: Net) -> None:
    x = image(net)
    down = net.op("Mul", net.op("Relu", main(net, x)), gate(net, x))
    low = net.op("MaxPool", down, kernel_shape=[2, 2], strides=[2, 2])
    deep = net.op("Mul", net.op("Relu", net.conv(low, K, K)), net.op("Relu", net.conv(low, K, 1)))
    up = net.op("Resize", deep, "", net.const([1, 1, 2, 2], np.float32), mode="nearest")
    net.conv(net.op("Concat", up, down, axis=1), 2 * K, 3)


def vgg(net: Net) -> None:
    x, c = image(net), C
    for _ in range(2):
        y = net.op("Mul", net.op("Relu", net.bn(net.conv(x, c, K), K)), net.op("Relu", net.bn(net.conv(x, c, 1), 1)))
        x, c = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), K


def feature_pyramid(net: Net) -> None:
    """Two levels, the lateral sum of each smoothed by a gated convolution; two outputs."""
    fine = net.op("Relu", main(net, image(net)))
    coarse = net.op("Relu", net.conv(fine, K, K, stride=2))
    up = net.op("Resize", net.conv(coarse, K, K, 1), "", net.const([1, 1, 2, 2], np.float32), mode="nearest")
    for level in (net.op("Add", net.conv(fine, K, K, 1), up), coarse):
        net.output(net.op("Mul", net.conv(level, K, K), net.op("Relu", net.conv(level, K, 1, 1))))


def mobile(net: Net) -> None:
    """A depthwise convolution, whose gate stays, and a pointwise one."""
    x = net.op("Relu", main(net, image(net)))
    deep = net.op("Mul", net.op("Relu", net.conv(x, K, K, group=K)), net.op("Relu", net.conv(x, K, 1)))
    net.op("Mul", net.bn(net.conv(deep, K, 8, 1), 8), net.op("Relu", net.bn(net.conv(deep, K, 1, 1), 1)))


def efficient(net: Net) -> None:
    """SiLU and squeeze-and-excitation, and a gated projection."""
    y = net.conv(image(net), C, K)
    y = net.op("Mul", y, net.op("Sigmoid", y))
    squeezed = net.conv(net.op("Relu", net.conv(net.op("GlobalAveragePool", y), K, 2, 1)), 2, K, 1)
    z = net.op("Mul", y, net.op("Sigmoid", squeezed))
    net.op("Mul", net.bn(net.conv(z, K, 8, 1), 8), net.op("Relu", net.conv(z, K, 1, 1)))


def csp_neck(net: Net) -> None:
    """As YOLO's: LeakyReLU, a split, a gated bottleneck on one half."""
    x = net.op("LeakyRelu", net.conv(image(net), C, 8), alpha=0.1)
    kept = net.op("Slice", x, net.ints(0), net.ints(4), net.ints(1))
    half = net.op("Slice", x, net.ints(4), net.ints(8), net.ints(1))
    y = net.op("LeakyRelu", net.bn(net.conv(half, 4, 4, 3), 4), alpha=0.1)
    z = net.op("Mul", y, net.op("Relu", net.conv(half, 4, 1, 3)))
    net.op("Concat", kept, net.op("Add", half, z), axis=1)


FAMILIES = (
    Graph(
        "paper", "relu(conv) * relu(gate), k x k", product(), attributes={"activation_alpha": 0.0, "gate_pads": (1, 1, 1, 1)}
    ),
    Graph("paper", "no ReLU on the branch", gated_by(gate), attributes={"activation_alpha": 1.0}),
    Graph(
        "released code",
        "BatchNorm and ReLU after the product",
        released,
        fused=("BatchNormalization", "Relu"),
        attributes={"post_alpha": 0.0},
    ),
    Graph("ResNet", "basic block, post-activation", basic_block, layers=2),
    Graph("ResNet", "basic block, pre-activation", preactivation_block, layers=2, fused=("BatchNormalization", "Relu")),
    Graph("ResNet", "bottleneck, stride 2", bottleneck, layers=2, attributes={"strides": (2, 2), "gate_strides": (2, 2)}),
    Graph("DenseNet", "two layers, concatenated", dense_block, layers=2),
    Graph("U-Net", "encoder, decoder, skip", unet, layers=2),
    Graph("VGG", "BatchNorm on branch and gate, pooling", vgg, layers=2),
    Graph("FPN", "lateral sums, two outputs", feature_pyramid, layers=2),
    Graph(
        "MobileNet", "depthwise refused, pointwise gated", mobile, reason="is grouped", attributes={"gate_pads": (0, 0, 0, 0)}
    ),
    Graph("EfficientNet", "SiLU and squeeze-and-excitation beside a gate", efficient, reason="squeeze-and-excitation"),
    Graph("YOLO", "half of a CSP block, LeakyReLU", csp_neck, fused=("Add",), attributes={"activation_alpha": np.float32(0.1)}),
)


# ---- the branch -----------------------------------------------------------------------------------------------------


def _post_relu(net: Net, _x: str, y: str) -> None:
    net.op("Relu", y)


def _same_of_any_size(net: Net) -> None:
    x = image(net, hw=("H", "W"))
    net.op("Mul", main(net, x, size=4, auto_pad="SAME_LOWER"), gate(net, x, auto_pad="SAME_LOWER"))


def _zeros(net: Net, x: str, *pads: int, axes: tuple[int, ...] | None = None) -> str:
    """pads: of every axis, or of those listed; first those in front of all, then those behind."""
    return net.op("Pad", x, net.ints(*pads), *(["", net.ints(*axes)] if axes else []))


def _padded_before(net: Net) -> None:
    """As Keras and TensorFlow write a strided convolution: one Pad for both."""
    padded = _zeros(net, image(net), 0, 0, 0, 1, 0, 0, 2, 1)
    options = {"stride": 2, "pads": [0] * 4}
    net.op("Mul", main(net, padded, **options), gate(net, padded, **options))


def _padded_branch_only(net: Net) -> None:
    """Two Pad nodes and pads of the convolution's own before the branch, the gate on the map as it is."""
    x = image(net)
    padded = _zeros(net, _zeros(net, x, 1, 1, axes=(2,)), 1, 1, axes=(-1,))
    net.op("Mul", main(net, padded, size=5, pads=[1] * 4), gate(net, x, 1))


def _padded_and_read(net: Net) -> None:
    padded = _zeros(net, image(net), 0, 0, 1, 1, 0, 0, 1, 1)
    y = net.op("Mul", main(net, padded, pads=[0] * 4), gate(net, padded, pads=[0] * 4))
    net.output(y)
    net.output(net.op("Relu", padded))


def _padded_by(value: float, mode: str) -> Build:
    """Pads that are none of a convolution: they stay."""

    def build(net: Net) -> None:
        end = [net.const(value)] if mode == "constant" else []
        padded = net.op("Pad", image(net), net.ints(0, 0, 1, 1, 0, 0, 1, 1), *end, mode=mode)
        net.op("Mul", main(net, padded, pads=[0] * 4), gate(net, padded, pads=[0] * 4))

    return build


def _padded_channels(net: Net) -> None:
    padded = _zeros(net, image(net), 0, 1, 1, 1, 0, 0, 1, 1)
    net.op("Mul", net.conv(padded, C + 1, K, pads=[0] * 4), net.op("Relu", net.conv(padded, C + 1, 1, pads=[0] * 4)))


PADDED, PADS_STAY = {"pads": (1, 1, 1, 1), "gate_source": "fused"}, {"pads": (0, 0, 0, 0), "gate_source": "fused"}
BRANCHES = (
    Graph("pads", "one Pad before both", _padded_before, attributes={"pads": (0, 1, 2, 1), "gate_pads": (0, 1, 2, 1)}),
    Graph("pads", "two Pad nodes and own pads", _padded_branch_only, attributes={"pads": (2, 2, 2, 2), "gate_pads": (0,) * 4}),
    Graph("pads", "Pad that is read elsewhere too", _padded_and_read, attributes=PADDED),
    Graph("pads", "Pad with another value", _padded_by(0.5, "constant"), attributes=PADS_STAY),
    Graph("pads", "Pad that reflects", _padded_by(0, "reflect"), attributes=PADS_STAY),
    Graph("pads", "Pad of channels", _padded_channels, attributes=PADS_STAY),
    Graph("branch", "operands swapped", product(lambda n, x, u, g: n.op("Mul", g, u))),
    Graph("branch", "ReLU after the product", followed_by(_post_relu), fused=("Relu",), attributes={"activation_alpha": 0.0}),
    Graph(
        "branch",
        "LeakyReLU",
        branch_by(lambda n, x: n.op("LeakyRelu", main(n, x), alpha=0.1)),
        attributes={"activation_alpha": np.float32(0.1)},
    ),
    Graph(
        "branch",
        "PReLU of one slope",
        branch_by(lambda n, x: n.op("PRelu", main(n, x), n.const(0.25))),
        attributes={"activation_alpha": 0.25},
    ),
    Graph("branch", "clamp(min=0)", branch_by(lambda n, x: clip(n, main(n, x), 0, None)), attributes={"activation_alpha": 0.0}),
    Graph(
        "branch", "Max(x, 0)", branch_by(lambda n, x: n.op("Max", n.const(0), main(n, x))), attributes={"activation_alpha": 0.0}
    ),
    Graph(
        "branch",
        "ReLU twice",
        branch_by(lambda n, x: n.op("Relu", n.op("Relu", main(n, x)))),
        attributes={"activation_alpha": 0.0},
    ),
    Graph("branch", "BatchNorm not folded", branch_by(lambda n, x: n.op("Relu", n.bn(main(n, x), K)))),
    Graph(
        "branch", "BatchNorm, convolution without bias", branch_by(lambda n, x: n.op("Relu", n.bn(main(n, x, bias=False), K)))
    ),
    Graph(
        "branch",
        "bias as an Add",
        branch_by(lambda n, x: n.op("Add", main(n, x, bias=False), n.const(np.linspace(-1, 1, K).reshape(1, K, 1, 1)))),
    ),
    Graph(
        "branch",
        "BatchNorm as Mul and Add",
        branch_by(
            lambda n, x: n.op("Sub", n.op("Div", main(n, x), n.const(2.0)), n.const(np.linspace(-1, 1, K).reshape(K, 1, 1)))
        ),
    ),
    Graph("branch", "dilated", product(dilation=2), attributes={"dilations": (2, 2), "gate_dilations": (2, 2)}),
    Graph("branch", "without pads", product(pads=[0] * 4), attributes={"pads": (0, 0, 0, 0)}),
    Graph("branch", "asymmetric pads", product(pads=[0, 1, 2, 1]), attributes={"pads": (0, 1, 2, 1)}),
    Graph("branch", "auto_pad SAME_LOWER, of any size", _same_of_any_size, attributes={"pads": (2, 2, 1, 1)}),
    Graph("branch", "auto_pad SAME_UPPER", product(auto_pad="SAME_UPPER", stride=2), attributes={"pads": (0, 0, 1, 1)}),
    Graph(
        "branch",
        "two products after each other",
        product(lambda n, x, u, g: n.op("Mul", n.op("Mul", u, g), gate(n, x, 1))),
        attributes={"gate_source": "fused"},
    ),
)
