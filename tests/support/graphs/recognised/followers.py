"""What stands behind a product; types, shapes and files."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx

from lccl.op.contract import Attributes
from lccl.op.onnx_op import make_node
from support.graphs.net import Net
from support.graphs.recognised.families import basic_block, released
from support.graphs.recognised.parts import (
    HW,
    C,
    Graph,
    K,
    followed_by,
    gate,
    image,
    logit,
    main,
)


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


def _gelu_before(net: Net) -> None:
    """An op that opset 18 does not have."""
    x = net.op("Gelu", net.op("Gelu", image(net)), approximate="tanh")
    net.op("Mul", main(net, x), gate(net, x))


def _group_norm_before(net: Net) -> None:
    """Opset 18 has the op, with a scale per group."""
    stored = [net.const(np.linspace(0.5, 1.5, 4)), net.const(np.linspace(-1, 1, 4))]
    x = net.op("GroupNormalization", net.conv(image(net), C, 4), *stored, num_groups=2)
    net.op("Mul", net.conv(x, 4, K), net.op("Relu", net.conv(x, 4, 1, shift=0.1)))


def _swish_before(net: Net) -> None:
    """With its only attribute left out."""
    x = net.op("Swish", image(net))
    net.op("Mul", main(net, x), gate(net, x))


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
    Graph("file", "Gelu of opset 20", _gelu_before, opset=20),
    Graph("file", "GroupNormalization of opset 21", _group_norm_before, opset=21),
    Graph("file", "Swish of opset 24", _swish_before, opset=24),
    Graph("file", "opset 11", basic_block, layers=2, opset=11),
    Graph("file", "tensors named as a layer's parts", _taken_names),
    Graph("file", "weights listed as inputs", _weights_as_inputs, layers=2),
    Graph("file", "Constant(value_float), Dropout", _float_constants, attributes={"activation_alpha": 0.0}),
    Graph("file", "beside an LCCLConv node", _beside_a_node, layers=2),
)
