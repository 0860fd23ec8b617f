"""The named graphs of recognition: the forms in which gated convolutions come, and what looks like one and is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from lccl.op.contract import Attributes
from lccl.op.onnx_op import make_node
from onnx_nets import Net

Build = Callable[[Net], None]
C, K, HW = 5, 6, 16


@dataclass(frozen=True)
class Graph:
    """One graph and what recognition has to make of it."""

    family: str
    form: str
    build: Build
    layers: int = 1
    """LCCLConv nodes that it becomes."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Of the first of them, as far as the form decides them."""
    fused: tuple[str, ...] = ()
    reason: str = ""
    """Of the near miss; empty where there is none."""
    dtype: Any = np.float32
    opset: int = 18

    @property
    def id(self) -> str:
        return f"{self.family}: {self.form}"

    def model(self) -> onnx.ModelProto:
        net = Net(self.dtype, self.opset)
        self.build(net)
        return net.model()


def image(net: Net, *, batch: int | str = 2, hw: tuple[int | str, int | str] = (HW, HW)) -> str:
    return net.input("x", [batch, C, *hw])


def main(net: Net, x: str, **options: Any) -> str:
    return net.conv(x, C, K, **options)


def gate(net: Net, x: str, size: int = 3, act: str = "Relu", **options: Any) -> str:
    return net.op(act, net.conv(x, C, 1, size, shift=0.1, **options))


def product(make: Callable[[Net, str, str, str], Any] | None = None, **options: Any) -> Build:
    """relu(conv(x)) * relu(gate(x)), or what ``make(net, x, branch, gate)`` does of the two."""

    def build(net: Net) -> None:
        x = image(net)
        u, g = net.op("Relu", main(net, x, **options)), gate(net, x, **options)
        if make is None:
            net.op("Mul", u, g)
        else:
            make(net, x, u, g)

    return build


def gated_by(make: Callable[[Net, str], str], **options: Any) -> Build:
    """conv(x) * make(net, x)."""

    def build(net: Net) -> None:
        x = image(net, **options)
        u = main(net, x)
        net.op("Mul", u, make(net, x))

    return build


def branch_by(make: Callable[[Net, str], str]) -> Build:
    """make(net, x) * relu(gate(x))."""

    def build(net: Net) -> None:
        x = image(net)
        u = make(net, x)
        net.op("Mul", u, gate(net, x))

    return build


def followed_by(make: Callable[[Net, str, str], Any]) -> Build:
    """make(net, x, conv(x) * relu(gate(x)))."""

    def build(net: Net) -> None:
        x = image(net)
        make(net, x, net.op("Mul", main(net, x), gate(net, x)))

    return build


def clip(net: Net, x: str, low: float | None, high: float | None) -> str:
    ends = ["" if v is None else net.const(v) for v in (low, high)]
    return net.op("Clip", x, *ends)


def logit(net: Net, x: str, size: int = 1) -> str:
    return net.conv(x, C, 1, size, shift=0.1)


def compared(net: Net, x: str, op: str, c: float) -> str:
    kind = onnx.helper.np_dtype_to_tensor_dtype(net.dtype)
    return net.op("Cast", net.op(op, x, net.const(c)), to=kind)


# ---- the paper's and the released code's orders ---------------------------------------------------------------------


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


BRANCHES = (
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
    Graph("branch", "auto_pad SAME_UPPER", product(auto_pad="SAME_UPPER", stride=2), attributes={"pads": (0, 0, 1, 1)}),
    Graph(
        "branch",
        "two products after each other",
        product(lambda n, x, u, g: n.op("Mul", n.op("Mul", u, g), gate(n, x, 1))),
        attributes={"gate_source": "fused"},
    ),
)


# ---- the gate -------------------------------------------------------------------------------------------------------


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


def _mask(element: int, dims: list[int | str], batch: int | str | None = None) -> Build:
    def build(net: Net) -> None:
        x = net.input("x", [dims[0], C, *dims[2:]])
        m = net.input("mask", [batch or dims[0], *dims[1:]], element)
        if element != onnx.helper.np_dtype_to_tensor_dtype(net.dtype):
            m = net.op("Cast", m, to=onnx.helper.np_dtype_to_tensor_dtype(net.dtype))
        net.op("Mul", main(net, x), m)

    return build


def _of_itself(stride: int) -> Build:
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
        "grid, pooled, nearest, then ReLU",
        gated_by(_nearest_pooled),
        attributes={"gate_source": "external", "gate_upsample": (1, 1, 4, 4)},
    ),
    Graph("gate", "grid, repeated", gated_by(_repeated), attributes={"gate_source": "fused", "gate_upsample": (1, 1, 2, 2)}),
    Graph("gate", "gate of a gate", gated_by(_of_gates), attributes={"gate_source": "fused"}),
    Graph("gate", "grid, bilinear, in the branch's own dynamic size", _of_itself(1), attributes={"gate_source": "external"}),
    Graph(
        "gate",
        "grid, mask decided after upsampling",
        gated_by(_hard_coarse),
        attributes={"gate_source": "external", "gate_upsample": (1, 1, 2, 2)},
    ),
    Graph("gate", "of another tensor", gated_by(_of_another_tensor), attributes={"gate_source": "external"}),
    Graph("gate", "shared by two layers", _shared, layers=2, attributes={"gate_source": "external"}),
    Graph("gate", "returned by the network", _returned_gate, attributes={"gate_source": "external"}),
    Graph("mask", "float input", _mask(TensorProto.FLOAT, [2, 1, HW, HW]), attributes={"gate_source": "external"}),
    Graph("mask", "bool input", _mask(TensorProto.BOOL, [2, 1, HW, HW]), attributes={"gate_source": "external"}),
    Graph("mask", "float input, dynamic", _mask(TensorProto.FLOAT, ["N", 1, "H", "W"]), attributes={"gate_source": "external"}),
)


# ---- what follows, types, shapes ------------------------------------------------------------------------------------


def _add(net: Net, x: str, y: str) -> None:
    net.op("Add", y, net.conv(x, C, K, 1))


def _add_relu(net: Net, x: str, y: str) -> None:
    net.op("Relu", net.op("Add", net.conv(x, C, K, 1), y))


def _add_read_twice(net: Net, x: str, y: str) -> None:
    net.op("Concat", net.op("Add", net.conv(x, C, K, 1), y), y, axis=1)


def _add_row(net: Net, x: str, y: str) -> None:
    net.op("Add", y, net.op("GlobalAveragePool", net.conv(x, C, K, 1)))


def _add_itself(net: Net, x: str, y: str) -> None:
    net.op("Add", y, y)


def _bn_bn_relu(net: Net, x: str, y: str) -> None:
    net.op("Relu", net.bn(net.bn(y, K), K))


def _relu_bn(net: Net, x: str, y: str) -> None:
    net.bn(net.op("Relu", y), K)


def _dynamic(net: Net) -> None:
    x = image(net, batch="N", hw=("H", "W"))
    y = net.op("Mul", net.op("Relu", main(net, x)), gate(net, x))
    net.op("Relu", net.op("Add", net.conv(x, C, K, 1), y))


def _two_in_two_out(net: Net) -> None:
    x, other = image(net), net.input("other", [2, C, HW, HW])
    a, b = net.op("Mul", main(net, x), gate(net, x)), net.op("Mul", main(net, other), gate(net, other))
    net.output(net.op("Relu", a))
    net.output(net.op("Add", b, a))


def _beside_a_node(net: Net) -> None:
    """A network that has an LCCLConv node already."""
    x = image(net)
    stored = [net.const(net.rng.standard_normal((C, 3, 3, C)) * 0.2), net.const(np.zeros(C), np.float32)]
    stored += [net.const(net.rng.standard_normal((1, 1, 1, C))), net.const([0.1], np.float32), net.const(np.ones((1, 1, 1, 1)))]
    stored += [net.const([1.0], np.float32), net.const([0.0], np.float32), net.const(np.zeros((1, 1, 1, 1)))]
    net.nodes.append(make_node([x, *stored], ["first"], Attributes(pads=(1, 1, 1, 1)), "first"))
    net.op("Mul", net.op("Relu", main(net, "first")), gate(net, "first"))


def _taken_names(net: Net) -> None:
    """Tensors that are called as the parts of a layer are."""
    x = image(net)
    net.op("Mul", net.op("Relu", main(net, x)), gate(net, x))
    for tensor, name in zip(net.stored, ("layer.W", "layer.gate_W", "layer.gate_B", "layer.B"), strict=True):
        for node in net.nodes:
            node.input[:] = [name if i == tensor.name else i for i in node.input]
        tensor.name = name
    net.nodes[0].name = "layer"


def _weights_as_inputs(net: Net) -> None:
    """Older files list their weights among the inputs."""
    basic_block(net)
    for tensor in net.stored:
        net.input(tensor.name, tensor.dims, tensor.data_type)


def _float_constants(net: Net) -> None:
    x = image(net)
    for name, value in (("zero", 0.0), ("half", 0.5)):
        net.nodes.append(onnx.helper.make_node("Constant", [], [name], name, value_float=value))
    u = net.op("Dropout", net.op("Max", main(net, x), "zero"))
    net.op("Mul", u, net.op("Relu", net.op("Mul", logit(net, x), "half")))


def _grid_of_odd_size(net: Net) -> None:
    x = net.input("x", [2, C, 14, 14])
    coarse = net.op("Relu", net.conv(x, C, 1, 4, stride=4, pads=[0, 0, 2, 2]))
    up = net.op(
        "Resize",
        coarse,
        "",
        net.const([1, 1, 4, 4], np.float32),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    net.op("Mul", main(net, x), net.op("Slice", up, net.ints(0, 0), net.ints(14, 14), net.ints(2, 3)))


FOLLOWERS = (
    Graph("after", "residual", followed_by(_add), fused=("Add",)),
    Graph("after", "residual and ReLU", followed_by(_add_relu), fused=("Add", "Relu"), attributes={"post_alpha": 0.0}),
    Graph("after", "residual, product read elsewhere too", followed_by(_add_read_twice)),
    Graph("after", "an Add that broadcasts", followed_by(_add_row)),
    Graph("after", "added to itself", followed_by(_add_itself)),
    Graph(
        "after", "two BatchNorms and ReLU", followed_by(_bn_bn_relu), fused=("BatchNormalization", "BatchNormalization", "Relu")
    ),
    Graph(
        "after",
        "ReLU, then BatchNorm",
        followed_by(_relu_bn),
        fused=("Relu", "BatchNormalization"),
        attributes={"activation_alpha": 0.0},
    ),
    Graph("shape", "dynamic batch, height and width", _dynamic, fused=("Add", "Relu")),
    Graph("shape", "grid over a size that it does not divide", _grid_of_odd_size, attributes={"gate_upsample": (1, 1, 4, 4)}),
    Graph("shape", "two inputs, two outputs", _two_in_two_out, layers=2),
    Graph("type", "float16", released, dtype=np.float16, fused=("BatchNormalization", "Relu")),
    Graph("type", "bfloat16", released, dtype=ml_dtypes.bfloat16, fused=("BatchNormalization", "Relu")),
    Graph("file", "opset 13", basic_block, layers=2, opset=13),
    Graph("file", "opset 21", basic_block, layers=2, opset=21),
    Graph("file", "opset 11", basic_block, layers=2, opset=11),
    Graph("file", "tensors named as a layer's parts", _taken_names),
    Graph("file", "weights listed as inputs", _weights_as_inputs, layers=2),
    Graph("file", "Constant(value_float), Dropout", _float_constants, attributes={"activation_alpha": 0.0}),
    Graph("file", "beside an LCCLConv node", _beside_a_node, layers=2),
)


# ---- what looks alike and is none -----------------------------------------------------------------------------------


def _squeeze_excite(net: Net, x: str, u: str, g: str) -> None:
    pooled = net.op("GlobalAveragePool", u)
    net.op("Mul", u, net.op("Sigmoid", net.conv(net.op("Relu", net.conv(pooled, K, 2, 1)), 2, K, 1)))


def _spatial_attention(net: Net, x: str, u: str, g: str) -> None:
    pooled = net.op("Concat", net.op("ReduceMean", u, net.ints(1)), net.op("ReduceMax", u, axes=[1]), axis=1)
    net.op("Mul", u, net.op("Sigmoid", net.conv(pooled, 2, 1, 3)))


def _silu(net: Net, x: str, u: str, g: str) -> None:
    y = main(net, x)
    net.op("Mul", y, net.op("Sigmoid", y))


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


REFUSED = (
    Graph("refused", "squeeze-and-excitation", product(_squeeze_excite), layers=0, reason="mask per channel"),
    Graph("refused", "spatial attention by a sigmoid", product(_spatial_attention), layers=0, reason="is never 0"),
    Graph("refused", "sigmoid gate", gated_by(lambda n, x: n.op("Sigmoid", logit(n, x))), layers=0, reason="is never 0"),
    Graph(
        "refused", "gate clamped above 0", gated_by(lambda n, x: clip(n, logit(n, x), 0.1, 1)), layers=0, reason="is never 0"
    ),
    Graph("refused", "gate without clamp", gated_by(logit), layers=0, reason="may be negative"),
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
    Graph("refused", "gate of a strided branch's own size, dynamic", _of_itself(2), layers=0, reason="computed from what"),
    Graph(
        "refused",
        "mask of one image for a batch",
        _mask(TensorProto.FLOAT, ["N", 1, "H", "W"], batch=1),
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

GRAPHS = (*FAMILIES, *BRANCHES, *GATES, *FOLLOWERS, *REFUSED)
