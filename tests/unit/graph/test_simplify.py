"""The plain form of a graph, and what recognition leaves of it."""

from __future__ import annotations

import onnx
import pytest

from lccl.graph.recognise import recognise
from lccl.graph.simplify import simplified
from lccl.op.onnx_op import register_schema
from support.graphs.net import Net


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


@pytest.mark.parametrize("returned", ["an input", "a weight"])
def test_what_is_returned_as_it_is_keeps_its_shape(returned: str) -> None:
    """Its name is that of an input of the skeleton, where a shape is known."""
    register_schema()
    net = Net()
    net.input("x", ["N", 3, "H", "W"])
    net.output(net.op("Mul", net.conv("x", 3, 4), net.op("Relu", net.conv("x", 3, 1))))
    net.output("x" if returned == "an input" else net.stored[0].name)
    assert len(recognise(net.model()).layers) == 1


def test_names_within_a_node_are_taken() -> None:
    """A tensor of a graph within a node may be called as a layer's own would be."""
    register_schema()
    net = Net()
    net.input("x", ["N", 3, 8, 8])
    condition = net.input("yes", [], onnx.TensorProto.BOOL)
    y = net.op("Mul", net.conv("x", 3, 4), net.op("Relu", net.conv("x", 3, 1)))
    taken = f"{net.nodes[0].name}.W"
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (taken, f"{taken}2")]
    graphs = [
        onnx.helper.make_graph([onnx.helper.make_node("Neg", [y], [v.name])], f"g{i}", [], [v]) for i, v in enumerate(value)
    ]
    net.output(net.op("If", condition, then_branch=graphs[0], else_branch=graphs[1]))
    found = recognise(net.model())
    onnx.checker.check_model(found.model)
    assert taken not in {t.name for t in found.model.graph.initializer}


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
    assert [layer.product for layer in found.layers] == [model.graph.output[0].name]
    assert [node.op_type for node in found.model.graph.node] == ["LCCLConv"]
    onnx.checker.check_model(found.model)
