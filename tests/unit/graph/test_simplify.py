"""The plain form of a graph, and what recognition leaves of it."""

from __future__ import annotations

import onnx
import pytest

from lccl.graph.recognise import recognise
from lccl.graph.simplify import simplified
from lccl.op.onnx_op import register_schema
from onnx_nets import Net


def with_shape(net: Net, x: str, size: int) -> str:
    """The map enlarged to the size that it has, which is folded."""
    return net.op("Expand", x, net.op("Shape", net.conv("x", 3, size, 1)))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_auto_pad_stays(auto_pad: str, stride: int, dilation: int) -> None:
    """Whoever writes it out as pads has to look at strides and dilations, and at sizes that may be dynamic."""
    net = Net()
    net.input("x", [1, 3, 15, 18])
    y = net.conv(with_shape(net, "x", 3), 3, 4, 3, stride=stride, dilation=dilation, auto_pad=auto_pad)
    net.output(y)
    plain = simplified(net.model()).graph
    (conv,) = (node for node in plain.nodes if node.op == "Conv" and node.outputs[0].name == y)
    assert (conv.attrs["auto_pad"], conv.attrs["dilations"]) == (auto_pad, [dilation] * 2)
    assert "pads" not in conv.attrs


def test_a_layer_that_only_gave_a_gate_its_shape_goes() -> None:
    """Once the other layer's gate is a map of one channel, nothing reads the first layer any more."""
    register_schema()
    net = Net()
    net.input("x", ["N", 3, "H", "W"])
    first = net.op("Mul", net.conv("x", 3, 4), net.op("Relu", net.conv("x", 3, 1)))
    gate = net.op("Expand", net.op("Relu", net.conv("x", 3, 1)), net.op("Shape", first))
    net.output(net.op("Mul", net.conv("x", 3, 4), gate))
    model = net.model()
    found = recognise(model)
    assert [layer.product for layer in found.found] == [model.graph.output[0].name]
    assert [node.op_type for node in found.model.graph.node] == ["LCCLConv"]
    onnx.checker.check_model(found.model)
