"""Sizes that a graph computes: known where they are, and nothing folded that depends on a dynamic one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lccl.graph.shape_values import propagated
from lccl.graph.shapes import of_every_size, sizes_of
from lccl.graph.simplify import simplified
from lccl.op.onnx_op import register_schema
from support.graphs.computed_sizes import SPREADS, expanded_to, resized, size, sizes
from support.graphs.models import op_types
from support.graphs.net import Net

register_schema()


def known(net: Net) -> dict[str, list[int | None]]:
    """The sizes that are known for every size of the inputs."""
    return {name: list(value.sizes()) for name, value in of_every_size(net.model()).values.items()}


def test_what_depends_on_the_batch_is_not_known() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 16, 24])
    y = net.conv(x, 3, 6, stride=2)
    whole, channels = net.op("Shape", y), size(net, y, 1)
    pixels = net.op("Mul", size(net, y, 2), size(net, y, 3))
    elements = net.op("Mul", size(net, y, 0), pixels)
    found = known(net)
    assert (found[whole], found[channels], found[pixels], found[elements]) == ([None, 6, 8, 12], [6], [96], [None])


@pytest.mark.parametrize("op", ["Min", "Max", "Div", "Mod", "Sub", "Greater"])
def test_a_size_that_is_equal_at_some_sizes_is_not_known(op: str) -> None:
    net = Net()
    x = net.input("x", [1, 3, "H", 24])
    y = net.op(op, size(net, x, 2), net.ints(1000))
    net.output(y, TensorProto.INT64)
    assert known(net)[y] == [None]


def test_a_size_is_not_minus_one() -> None:
    """So the map's own size is kept where -1 was given, and nowhere else."""
    net = Net()
    x = net.input("x", ["N", 1, 16, 24])
    y = expanded_to(net, x, sizes(net, size(net, x, 0), net.ints(6, -1, -1)))
    found = of_every_size(net.model())
    assert found.shapes[y] == (None, 6, 16, 24)
    assert next(v.sizes() for name, v in found.values.items() if name.startswith("where")) == (None, 6, 1, 1)
    assert next(v.sizes() for name, v in found.values.items() if name.startswith("equal")) == (0, 0, 1, 1)


def test_a_number_below_zero_is_no_size() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 16, 24])
    y = net.op("Equal", net.op("Sub", size(net, x, 0), net.ints(2)), net.ints(-1))
    net.output(y, TensorProto.BOOL)
    assert known(net)[y] == [None], "a batch of 1 less 2"


@pytest.mark.parametrize("fixed", [True, False])
def test_only_what_is_known_is_folded(fixed: bool) -> None:
    net = Net()
    x = net.input("x", [2 if fixed else "N", 3, 16, 24])
    coarse = net.conv(x, 3, 1, 4, stride=4, pads=[0] * 4)
    net.output(resized(net, coarse, x, "linear"))
    plain = simplified(net.model()).graph
    plain.cleanup()
    ops = [node.op for node in plain.nodes]
    assert ("Shape" in ops) is not fixed, "the batch of the enlarged map stays computed"
    assert ops.count("Gather") == 0, "its height and width do not"


def test_the_shape_of_one_example_is_not_believed() -> None:
    """Exporters write the sizes of their example beside tensors whose sizes are dynamic."""
    net = Net()
    x = net.input("x", ["N", 3, "H", "W"])
    y = net.conv(x, 3, 6)
    h = size(net, y, 2)
    net.output(h, TensorProto.INT64)
    model = net.model()
    del model.graph.value_info[:]
    model.graph.value_info.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 6, 32, 32]))
    assert list(of_every_size(model).values[h].sizes()) == [None]
    assert [int(t[h][0]) for t in sizes_of(model).values] == [64, 160]


def test_a_weights_shape_is_known() -> None:
    """Large weights are inputs of the skeleton, with the shape that they have."""
    net = Net()
    x = net.input("x", ["N", 3, 16, 24])
    weight = net.const(np.zeros((64, 3, 8, 8)))
    y = net.op("Conv", x, weight, pads=[0] * 4)
    net.output(net.op("Reshape", y, sizes(net, net.ints(-1), size(net, weight, 0))))
    plain = simplified(net.model()).graph
    plain.cleanup()
    assert [node.op for node in plain.nodes if node.op != "Constant"] == ["Conv", "Reshape"]


@pytest.mark.parametrize("form", SPREADS)
@pytest.mark.parametrize("hw", [(16, 24), ("H", "W")])
def test_the_shapes_are_those_of_a_run(form: str, hw: tuple[int | str, int | str]) -> None:
    """At each probe, and at every size as far as they are known."""
    import onnxruntime

    net = Net()
    x = net.input("x", ["N", 3, *hw])
    u, g = net.conv(x, 3, 6), net.conv(x, 3, 1)
    y = SPREADS[form](net, g, u)
    model = net.model()
    every, probed = of_every_size(model), sizes_of(model)
    names = [*probed.values[0], y]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for probe in range(2):
        shape = probed.tables[probe]["x"]
        ran = dict(zip(names, session.run(None, {"x": np.zeros(shape, np.float32)}), strict=True))
        assert ran[y].shape == probed.tables[probe][y]
        assert all(d in (None, n) for d, n in zip(every.shapes[y], ran[y].shape, strict=True))
        for name, values in probed.values[probe].items():
            np.testing.assert_array_equal(ran[name], values, err_msg=name)
            assert all(d in (None, n) for d, n in zip(every.values[name].sizes(), ran[name].flat, strict=True)), name


def test_a_graph_without_sizes_is_read_once() -> None:
    net = Net()
    net.conv(net.input("x", ["N", 3, 8, 8]), 3, 4)
    found = propagated(onnx.shape_inference.infer_shapes(net.model()))
    assert found.values == {}
    assert op_types(net.model()) == ["Conv"]


def test_an_input_that_is_left_out_keeps_its_place() -> None:
    """Steps of a Slice without axes are no axes."""
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Shape", ["x"], ["ends"]),
        node("Slice", ["x", "starts", "ends", "", "steps"], ["y"]),
    ]
    stored = [
        helper.make_tensor("starts", TensorProto.INT64, [4], [0] * 4),
        helper.make_tensor("steps", TensorProto.INT64, [4], [2] * 4),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 6, "h", 8])], [helper.make_empty_tensor_value_info("y")], stored
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    shapes = propagated(onnx.shape_inference.infer_shapes(model)).shapes
    assert shapes.get("y", (None,) * 4) in ((None, 3, None, 4), (None,) * 4)


def test_a_size_of_a_narrow_type_may_be_below_zero() -> None:
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["narrow"], to=TensorProto.INT8),
        node("Equal", ["narrow", "minus_one"], ["e"]),
    ]
    stored = [helper.make_tensor("minus_one", TensorProto.INT8, [1], [-1])]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n"])], [helper.make_empty_tensor_value_info("e")], stored
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = propagated(onnx.shape_inference.infer_shapes(model)).values
    assert "e" not in found or not found["e"].whole
