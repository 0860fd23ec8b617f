"""The forms of a gate."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from support.graphs.net import Net
from support.graphs.recognised.parts import (
    HW,
    Build,
    C,
    Graph,
    K,
    clip,
    compared,
    gate,
    gated_by,
    image,
    logit,
    main,
    product,
)


def _expanded(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", u, net.op("Expand", g, net.ints(1, K, 1, 1)))


def _expanded_as(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", u, net.op("Expand", g, net.op("Shape", u)))


def _tiled(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", u, net.op("Tile", g, net.ints(1, K, 1, 1)))


def _unsqueezed(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", u, net.op("Unsqueeze", net.op("Gather", g, net.const(0, np.int64), axis=1), net.ints(1)))


def _sliced(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", u, net.op("Slice", g, net.ints(0), net.ints(1), net.ints(1)))


def _concatenated(net: Net, x: str, u: str, g: str) -> None:
    net.op("Mul", u, net.op("Concat", *[g] * K, axis=1))


def _hard_tanh(net: Net, x: str) -> str:
    return net.op("Relu", clip(net, logit(net, x), -1, 1))


def _slope(net: Net, x: str) -> str:
    return net.op("Div", clip(net, net.op("Add", logit(net, x), net.const(3.0)), 0, 6), net.const(6.0))


def _sigmoid_above(net: Net, x: str) -> str:
    return compared(net, net.op("Sigmoid", logit(net, x)), "Greater", 0.6)


def _where(net: Net, x: str) -> str:
    return net.op("Where", net.op("Less", net.const(0.2), logit(net, x)), net.const(1.0), net.const(0.0))


def _squared(net: Net, g: str) -> str:
    return net.op("Mul", g, g)


def _straight_through(net: Net, x: str) -> str:
    """(h - p) + p, as training needs it of a hard gate h and a soft one p; not h itself, for rounding."""
    p = net.op("Sigmoid", logit(net, x))
    return net.op("Add", net.op("Sub", compared(net, p, "Greater", 0.55), p), p)


def _chosen(net: Net, x: str) -> str:
    """The second of two logits is the larger one."""
    return net.op("Cast", net.op("ArgMax", net.conv(x, C, 2, 1), axis=1, keepdims=1), to=TensorProto.FLOAT)


def _shuffled(net: Net, x: str) -> str:
    low = net.op("MaxPool", x, kernel_shape=[4, 4], strides=[4, 4])
    return net.op("DepthToSpace", net.op("Relu", net.conv(low, C, 16, 1)), blocksize=4)


def _bilinear(net: Net, x: str) -> str:
    low = net.op("MaxPool", x, kernel_shape=[4, 4], strides=[4, 4])
    up = net.op("Resize", net.conv(low, C, 1, 1), "", net.const([1, 1, 4, 4], np.float32), mode="linear")
    return net.op("Relu", net.bn(up, 1))


def _nearest(net: Net, x: str) -> str:
    coarse = net.op("Relu", net.conv(x, C, 1, 4, stride=4, pads=[0] * 4))
    return net.op(
        "Resize",
        coarse,
        "",
        net.const([1, 1, 4, 4], np.float32),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def _computed_scales(net: Net, x: str) -> str:
    """As an exporter leaves them that folds no constants."""
    coarse = net.op("Relu", net.conv(x, C, 1, 4, stride=4, pads=[0] * 4))
    ones = net.op("Constant", value=onnx.numpy_helper.from_array(np.ones(2, np.float32)))
    scales = net.op("Concat", ones, net.const([4, 4], np.float32), axis=0)
    options = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return net.op("Resize", coarse, "", scales, mode="nearest", **options)


def _nearest_pooled(net: Net, x: str) -> str:
    low = net.op("MaxPool", x, kernel_shape=[4, 4], strides=[4, 4])
    return net.op("Relu", net.op("Resize", net.conv(low, C, 1, 1), "", net.const([1, 1, 4, 4], np.float32), mode="nearest"))


def _repeated(net: Net, x: str) -> str:
    coarse = net.op("Relu", net.conv(x, C, 1, 2, stride=2, pads=[0] * 4))
    split = net.op("Reshape", coarse, net.ints(2, 1, HW // 2, 1, HW // 2, 1))
    return net.op("Reshape", net.op("Expand", split, net.ints(2, 1, HW // 2, 2, HW // 2, 2)), net.ints(2, 1, HW, HW))


def _of_gates(net: Net, x: str) -> str:
    return net.op("Mul", gate(net, x), gate(net, x, 1))


def _shared(net: Net) -> None:
    x = image(net)
    g = gate(net, x)
    a, b = net.op("Mul", main(net, x), g), net.op("Mul", net.op("Relu", main(net, x)), g)
    net.op("Add", a, b)


def _returned_gate(net: Net) -> None:
    x = image(net)
    g = gate(net, x)
    net.output(net.op("Mul", main(net, x), g))
    net.output(g)


def mask(element: int, dims: list[int | str], batch: int | str | None = None) -> Build:
    def build(net: Net) -> None:
        x = net.input("x", [dims[0], C, *dims[2:]])
        m = net.input("mask", [batch or dims[0], *dims[1:]], element)
        if element != onnx.helper.np_dtype_to_tensor_dtype(net.dtype):
            m = net.op("Cast", m, to=onnx.helper.np_dtype_to_tensor_dtype(net.dtype))
        net.op("Mul", main(net, x), m)

    return build


def of_itself(stride: int) -> Build:
    """A gate that is computed from the branch, through nodes that ask only for its shape."""

    def build(net: Net) -> None:
        x = image(net, hw=("H", "W"))
        u = main(net, x, stride=stride)
        hw = net.op("Slice", net.op("Shape", u), net.ints(2), net.ints(4))
        size = net.op("Concat", net.ints(2, 1), hw, axis=0)
        g = net.op("Relu", net.op("Resize", net.conv(x, C, 1, 4, stride=4, pads=[0] * 4), "", "", size, mode="linear"))
        net.op("Mul", u, g)

    return build


def _hard_coarse(net: Net, x: str) -> str:
    """A mask that is decided after the upsampling, repeated for each channel."""
    low = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    up = net.op("Resize", net.conv(low, C, 1, 1), "", net.const([1, 1, 2, 2], np.float32), mode="nearest")
    return compared(net, net.op("Expand", up, net.ints(1, K, 1, 1)), "Greater", 0.1)


def _of_another_tensor(net: Net, x: str) -> str:
    return net.op("Relu", net.conv(net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4), C, 1, 1))


def _mask_of_two_layers(net: Net) -> None:
    x, m = image(net), net.input("mask", [2, 1, HW, HW])
    y = net.op("Relu", net.op("Mul", main(net, x), m))
    net.op("Mul", net.conv(y, K, K), net.op("Div", m, net.const(255.0)))


def to_size_of_branch(pooled: bool) -> Build:
    """A coarse gate in a map of any size, made as large as the branch: a grid only at sizes that it divides."""

    def build(net: Net) -> None:
        x = image(net, hw=("H", "W"))
        u = main(net, x)
        low = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]) if pooled else x
        g = net.op("Relu", net.conv(low, C, 1, 1) if pooled else net.conv(low, C, 1, 2, stride=2, pads=[0] * 4))
        size = net.op("Concat", net.ints(2, 1), net.op("Slice", net.op("Shape", u), net.ints(2), net.ints(4)), axis=0)
        options = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        net.op("Mul", u, net.op("Resize", g, "", "", size, mode="nearest", **options))

    return build


def _nearest_of_any_size(net: Net) -> None:
    x = image(net, hw=("H", "W"))
    net.op("Mul", main(net, x), _nearest(net, x))


def _mask_of_its_own_size(net: Net) -> None:
    x, m = image(net, hw=("H", "W")), net.input("mask", [2, 1, "h", "w"])
    u = main(net, x)
    size = net.op("Concat", net.ints(2, 1), net.op("Slice", net.op("Shape", u), net.ints(2), net.ints(4)), axis=0)
    net.op("Mul", u, net.op("Resize", m, "", "", size, mode="nearest"))


GATES = (
    Graph("gate", "1 x 1", gated_by(lambda n, x: gate(n, x, 1)), attributes={"gate_pads": (0, 0, 0, 0)}),
    Graph("gate", "5 x 5", gated_by(lambda n, x: gate(n, x, 5)), attributes={"gate_pads": (2, 2, 2, 2)}),
    Graph("gate", "BatchNorm not folded", gated_by(lambda n, x: n.op("Relu", n.bn(n.conv(x, C, 1, bias=False), 1)))),
    Graph("gate", "Max(x, 0)", gated_by(lambda n, x: n.op("Max", logit(n, x), n.const(0)))),
    Graph("gate", "clamp(0, m)", gated_by(lambda n, x: clip(n, logit(n, x), 0, 0.5)), attributes={"gate_max": 0.5}),
    Graph("gate", "hard tanh, then ReLU", gated_by(_hard_tanh), attributes={"gate_max": 1.0}),
    Graph(
        "gate",
        "hard sigmoid",
        gated_by(lambda n, x: n.op("HardSigmoid", logit(n, x), alpha=0.2, beta=0.1)),
        attributes={"gate_max": 1.0},
    ),
    Graph("gate", "ReLU6(x + 3) / 6", gated_by(_slope), attributes={"gate_max": 1.0}),
    Graph(
        "gate",
        "mask where above 0",
        gated_by(lambda n, x: compared(n, logit(n, x), "Greater", 0.0)),
        attributes={"gate_max": 1.0, "gate_slope": np.float32(1e30)},
    ),
    Graph(
        "gate", "mask where below c", gated_by(lambda n, x: compared(n, logit(n, x), "Less", 0.3)), attributes={"gate_max": 1.0}
    ),
    Graph("gate", "mask where a sigmoid is above c", gated_by(_sigmoid_above), attributes={"gate_max": 1.0}),
    Graph("gate", "mask by Where", gated_by(_where), attributes={"gate_max": 1.0}),
    Graph("gate", "expand", product(_expanded), attributes={"gate_source": "fused"}),
    Graph("gate", "expand_as", product(_expanded_as), attributes={"gate_source": "fused"}),
    Graph("gate", "repeat", product(_tiled), attributes={"gate_source": "fused"}),
    Graph("gate", "g[:, 0].unsqueeze(1)", product(_unsqueezed), attributes={"gate_source": "fused"}),
    Graph("gate", "g[:, :1]", product(_sliced), attributes={"gate_source": "fused"}),
    Graph("gate", "cat of copies", product(_concatenated), attributes={"gate_source": "fused"}),
    Graph(
        "gate",
        "ReLU after expand",
        gated_by(lambda n, x: n.op("Relu", n.op("Expand", logit(n, x), n.ints(1, K, 1, 1)))),
        attributes={"gate_source": "fused"},
    ),
    Graph("gate", "strided", product(stride=2), attributes={"gate_strides": (2, 2)}),
    Graph("gate", "grid, bilinear", gated_by(_bilinear), attributes={"gate_source": "external", "gate_upsample": (1, 1, 1, 1)}),
    Graph("gate", "grid, nearest", gated_by(_nearest), attributes={"gate_source": "fused", "gate_upsample": (1, 1, 4, 4)}),
    Graph(
        "gate",
        "grid, scales computed from constants",
        gated_by(_computed_scales),
        attributes={"gate_source": "fused", "gate_upsample": (1, 1, 4, 4)},
    ),
    Graph(
        "gate",
        "grid, pooled, nearest, then ReLU",
        gated_by(_nearest_pooled),
        attributes={"gate_source": "external", "gate_upsample": (1, 1, 4, 4)},
    ),
    Graph("gate", "grid, repeated", gated_by(_repeated), attributes={"gate_source": "fused", "gate_upsample": (1, 1, 2, 2)}),
    Graph(
        "gate",
        "grid, strided, to the branch's own dynamic size",
        to_size_of_branch(pooled=False),
        attributes={"gate_source": "external", "gate_upsample": (1, 1, 1, 1)},
    ),
    Graph(
        "gate",
        "grid, pooled, to the branch's own dynamic size",
        to_size_of_branch(pooled=True),
        attributes={"gate_source": "external", "gate_upsample": (1, 1, 1, 1)},
    ),
    Graph(
        "gate",
        "grid, nearest, of any size",
        _nearest_of_any_size,
        attributes={"gate_source": "fused", "gate_upsample": (1, 1, 4, 4)},
    ),
    Graph("gate", "gate of a gate", gated_by(_of_gates), attributes={"gate_source": "fused"}),
    Graph("gate", "grid, bilinear, in the branch's own dynamic size", of_itself(1), attributes={"gate_source": "external"}),
    Graph("gate", "grid, bilinear, in a strided branch's dynamic size", of_itself(2), attributes={"gate_source": "external"}),
    Graph(
        "gate",
        "grid, mask decided after upsampling",
        gated_by(_hard_coarse),
        attributes={"gate_source": "external", "gate_upsample": (1, 1, 2, 2)},
    ),
    Graph("gate", "squared ReLU", gated_by(lambda n, x: _squared(n, gate(n, x))), attributes={"gate_source": "external"}),
    Graph("gate", "squared mask", gated_by(lambda n, x: _squared(n, _where(n, x))), attributes={"gate_source": "external"}),
    Graph("gate", "straight through", gated_by(_straight_through), attributes={"gate_source": "external"}),
    Graph("gate", "argmax of two logits", gated_by(_chosen), attributes={"gate_source": "external"}),
    Graph("gate", "pixel shuffle", gated_by(_shuffled), attributes={"gate_source": "external"}),
    Graph("gate", "of another tensor", gated_by(_of_another_tensor), attributes={"gate_source": "external"}),
    Graph("gate", "shared by two layers", _shared, layers=2, attributes={"gate_source": "external"}),
    Graph(
        "gate",
        "abs of a ReLU",
        gated_by(lambda n, x: n.op("Abs", n.op("Relu", _of_another_tensor(n, x)))),
        attributes={"gate_source": "external"},
    ),
    Graph("gate", "returned by the network", _returned_gate, attributes={"gate_source": "external"}),
    Graph("mask", "float input", mask(TensorProto.FLOAT, [2, 1, HW, HW]), attributes={"gate_source": "external"}),
    Graph("mask", "of two layers", _mask_of_two_layers, layers=2, attributes={"gate_source": "external"}),
    Graph("mask", "of its own dynamic size", _mask_of_its_own_size, attributes={"gate_upsample": (1, 1, 1, 1)}),
    Graph("mask", "bool input", mask(TensorProto.BOOL, [2, 1, HW, HW]), attributes={"gate_source": "external"}),
    Graph("mask", "float input, dynamic", mask(TensorProto.FLOAT, ["N", 1, "H", "W"]), attributes={"gate_source": "external"}),
)
