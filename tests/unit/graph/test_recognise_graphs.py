"""Every named graph: recognised as it should be, and equal in ONNX Runtime; or refused with its reason, and unchanged."""

from __future__ import annotations

import onnx
import pytest

from lccl.errors import UserError
from lccl.graph.recognise import Recognition, recognise
from lccl.op.onnx_op import is_lccl_node, node_attributes, register_schema
from support.graphs.models import op_types
from support.graphs.net import Net
from support.graphs.recognised import GRAPHS, Graph
from support.graphs.recognised_runs import require_equal

register_schema()


def gated(found: Recognition) -> list[onnx.NodeProto]:
    return [n for n in found.model.graph.node if is_lccl_node(n)]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: g.id)
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "not fused"])
def test_named_graph(graph: Graph, fuse: bool) -> None:
    model = graph.model()
    before = model.SerializeToString()
    found = recognise(model, fuse=fuse)
    assert model.SerializeToString() == before, "the given model is left as it is"
    reasons = [miss.reason for miss in found.near_misses]
    assert len(gated(found)) == graph.layers, reasons
    assert [graph.reason in reason for reason in reasons] == [True] * bool(graph.reason), reasons
    if not graph.layers:
        assert found.model is model
        return
    assert len(found.layers) == graph.layers - ("LCCLConv" in op_types(model))
    first = node_attributes(next(n for n in gated(found) if n.name == found.layers[0].name))
    for name, value in graph.attributes.items():
        if fuse or name not in ("post_alpha", "activation_alpha"):
            assert getattr(first, name) == value, name
    if fuse and graph.fused:
        assert found.layers[0].fused == graph.fused
    assert fuse or not any(layer.fused for layer in found.layers)
    require_equal(model, found)


def test_there_are_enough_graphs() -> None:
    assert len(GRAPHS) >= 60
    assert len({g.id for g in GRAPHS}) == len(GRAPHS)


def test_a_product_that_nobody_reads_is_none() -> None:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 1)))
    net.output(net.op("Relu", x))
    assert recognise(net.model()).layers == ()


def test_layers_of_the_same_name_keep_their_own_weights() -> None:
    """ONNX lets nodes share a name; ONNX Runtime does not, so it is given the names that the layers get."""
    net = Net()
    x = net.input("x", [2, 3, 8, 8])
    for _ in range(2):
        net.output(net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 1, shift=0.1))))
    plain = net.model()
    for node in net.nodes:
        node.name = "same"
    found = recognise(net.model())
    assert [layer.name for layer in found.layers] == ["same_1", "same_2"], "the gates' convolutions have the name too"
    require_equal(plain, found)


def test_a_branch_that_is_computed_from_the_layer_is_not_added_in_the_node() -> None:
    """Only the shape of the product is read, by what is added to it: as a residual it would close a circle."""
    net = Net()
    x = net.input("x", [2, 3, "H", "W"])
    y = net.op("Mul", net.conv(x, 3, 4, stride=2), net.op("Relu", net.conv(x, 3, 1, stride=2, shift=0.1)))
    shape = net.op("Shape", y)
    net.op("Add", y, net.op("Expand", net.const(1.5), shape))
    found = recognise(net.model())
    assert [layer.fused for layer in found.layers] == [()]
    require_equal(net.model(), found)


def test_a_branch_of_sizes_of_its_own_is_not_added_in_the_node() -> None:
    """It may be repeated over the layer's output, which a residual is not."""
    net = Net()
    x, other = net.input("x", [2, 3, "H", "W"]), net.input("other", [2, 4, "h", "w"])
    net.op("Add", net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 1, shift=0.1))), other)
    assert [layer.fused for layer in recognise(net.model()).layers] == [()]


def test_an_opset_that_cannot_be_converted_is_told() -> None:
    model = next(g for g in GRAPHS if g.form == "basic block, post-activation").model()
    model.opset_import[0].version = 23
    model.graph.node.append(onnx.helper.make_node("DeformConv", ["x", "x", "x"], ["z"]))
    with pytest.raises(UserError, match="opset 23"):
        recognise(model)


def test_nodes_of_the_op_do_not_change() -> None:
    model = next(g for g in GRAPHS if g.form == "beside an LCCLConv node").model()
    (own,) = filter(is_lccl_node, model.graph.node)
    kept = next(n for n in gated(recognise(model)) if n.name == own.name)
    assert list(kept.input) == list(own.input)
    assert node_attributes(kept) == node_attributes(own)


def test_a_where_that_is_no_layer_stays_as_it_was() -> None:
    """While products are read it is one; beside a layer it is written again as the graph has it."""
    model = next(g for g in GRAPHS if g.form == "beside a Where that is none").model()
    found = recognise(model, fuse=False)
    assert len(found.layers) == 1
    kinds = op_types(model)
    assert sorted(op_types(found.model)) == sorted([*kinds[:5], "Add", "LCCLConv"]), "Conv, Conv, LessOrEqual, Tanh, Where"
    (where,) = (n for n in found.model.graph.node if n.op_type == "Where")
    (given,) = (n for n in model.graph.node if n.op_type == "Where")
    assert list(where.input) == list(given.input)


def test_a_later_op_in_a_file_that_names_no_shapes() -> None:
    model = next(g for g in GRAPHS if g.form == "Gelu of opset 20").model()
    del model.graph.value_info[:]
    found = recognise(model)
    assert len(found.layers) == 1
    require_equal(model, found)
