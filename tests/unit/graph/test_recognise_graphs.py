"""Every named graph: recognised as it should be, and equal in ONNX Runtime; or refused with its reason, and unchanged."""

from __future__ import annotations

import onnx
import pytest

from lccl.graph.recognise import Recognition, recognise
from lccl.op.onnx_op import is_lccl_node, node_attributes, register_schema
from onnx_models import op_types
from onnx_nets import Net
from recognised_graphs import GRAPHS, Graph
from recognised_runs import require_equal

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
    assert len(found.found) == graph.layers - ("LCCLConv" in op_types(model))
    first = node_attributes(next(n for n in gated(found) if n.name == found.found[0].name))
    for name, value in graph.attributes.items():
        if fuse or name not in ("post_alpha", "activation_alpha"):
            assert getattr(first, name) == value, name
    if fuse and graph.fused:
        assert found.found[0].fused == graph.fused
    assert fuse or not any(layer.fused for layer in found.found)
    require_equal(model, found)


def test_there_are_enough_graphs() -> None:
    assert len(GRAPHS) >= 60
    assert len({g.id for g in GRAPHS}) == len(GRAPHS)


def test_a_product_that_nobody_reads_is_none() -> None:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 1)))
    net.output(net.op("Relu", x))
    assert recognise(net.model()).found == ()
