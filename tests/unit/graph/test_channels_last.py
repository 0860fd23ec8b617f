"""Layouts of tensors: what is chosen, and that nothing but the layout changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.graph.conversion import to_graph, to_model
from lccl.graph.feeds import random_feed
from lccl.graph.fuse import fuse_following
from lccl.graph.intake import intake
from lccl.graph.layouts.channels_last import with_layouts
from lccl.graph.layouts.gateless import can_be_gateless, make_gateless
from lccl.graph.shapes import sizes_of
from lccl.op.layout_op import LAYOUT_DOMAIN
from support.graphs.gated_net import GatedNet, random_net, residual_net
from support.graphs.net import Net

SEEDS = 40


def require_same(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    """Both give the same, through their functions."""
    feed = random_feed(model, {"x": (2, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))})
    with OnnxRuntimeRunner(model) as first, OnnxRuntimeRunner(other) as second:
        wanted, got = first.infer(feed), second.infer(feed)
    assert list(wanted) == list(got)
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node)


def joined(model: onnx.ModelProto, fuse: bool = True) -> onnx.ModelProto:
    """The model with its dense convolutions as nodes of the op."""
    graph = to_graph(model)
    nodes = make_gateless(graph, {node.name for node in graph.nodes})
    if fuse:
        fuse_following(graph, nodes, sizes_of(model))
    return to_model(graph, model)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_networks(seed: int) -> None:
    model = random_net(seed).canonical()
    found, count = with_layouts(model)
    require_same(model, found)
    every, more = with_layouts(joined(model, fuse=bool(seed % 2)))
    require_same(model, every)
    assert more >= count


@pytest.mark.slow
def test_some_random_networks_have_their_channels_last() -> None:
    counts = [with_layouts(joined(random_net(seed).canonical()))[1] for seed in range(SEEDS)]
    assert sum(count > 0 for count in counts) > SEEDS // 2


def test_a_run_changes_its_layout_at_its_ends_only() -> None:
    """All convolutions are nodes of the op: the first reads the contract's layout, and the last writes it."""
    model = joined(residual_net().canonical())
    found, count = with_layouts(model)
    assert ops(found)["Transpose"] == 0
    assert ops(found) == Counter(
        {
            f"{LAYOUT_DOMAIN}::LCCLConv": 4,
            f"{LAYOUT_DOMAIN}::Conv": 2,
            "Relu": 4,
            "Add": 2,
            "GlobalAveragePool": 1,
            "Flatten": 1,
        }
    )
    assert count == 11
    require_same(model, found)


def test_dense_neighbours_of_one_node_are_not_worth_a_transpose() -> None:
    net = GatedNet()
    net.conv(net.gated(net.conv(net.input("x", [1, 3, 8, 8]), 3, 8), 8, 8), 8, 8)
    found, count = with_layouts(net.canonical())
    assert count == 0
    assert ops(found)["Transpose"] == 0


def test_no_layout_where_none_is_wanted() -> None:
    found, count = with_layouts(joined(residual_net().canonical()), channels_last=False)
    assert count == 0
    assert ops(found)["lccl::LCCLConv"] == 4, "nodes that keep the contract's layouts stay the contract's op"


def test_an_output_of_the_network_keeps_its_layout() -> None:
    net = GatedNet()
    x = net.input("x", [2, 3, 8, 8])
    for _ in range(6):
        x = net.gated(x, 3 if x == "x" else 8, 8)
    model = net.canonical()
    found, count = with_layouts(model)
    assert count == 5
    assert [d.dim_value for d in found.graph.output[0].type.tensor_type.shape.dim] == [2, 8, 8, 8]
    require_same(model, found)


def test_a_gate_map_keeps_its_layout() -> None:
    """A tensor that is a map of a gate, too, is read there as the contract has it."""
    net = GatedNet()
    x = net.gated(net.input("x", [2, 3, 8, 8]), 3, 1)
    for _ in range(6):
        x = net.gated(x, 1, 1, gate=x)
    require_same(net.canonical(), with_layouts(net.canonical())[0])


def test_a_subgraph_reads_the_contracts_layout() -> None:
    net = GatedNet()
    x = net.gated(net.gated(net.input("x", [2, 3, 8, 8]), 3, 8), 8, 8)
    inside = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", [x], ["inner"])], "then", [], [onnx.helper.make_tensor_value_info("inner", 1, None)]
    )
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", [x], ["inner2"])], "else", [], [onnx.helper.make_tensor_value_info("inner2", 1, None)]
    )
    size = net.op("ReduceSum", net.input("flag", [1]), net.ints(0), keepdims=0)
    net.op("If", net.op("Greater", size, net.const(0.0)), then_branch=inside, else_branch=other)
    model = net.canonical()
    require_same_with_flag(model, with_layouts(model)[0])


def require_same_with_flag(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    feed = {"x": np.ones((2, 3, 8, 8), np.float32), "flag": np.ones(1, np.float32)}
    with OnnxRuntimeRunner(model) as first, OnnxRuntimeRunner(other) as second:
        for wanted, got in zip(first.infer(feed).values(), second.infer(feed).values(), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_stored_residual_moves_with_its_output() -> None:
    """Of the same sizes along all axes, so that no shape would tell."""
    net = GatedNet()
    x = net.input("x", [2, 8, 8, 8])
    for _ in range(3):
        x = net.gated(x, 8, 8, residual=net.const(net.rng.standard_normal((2, 8, 8, 8))))
    net.gated(x, 8, 8)
    model = net.canonical()
    found, count = with_layouts(model)
    assert count == 3
    require_same(model, found)


def test_a_residual_of_unknown_shape_keeps_its_layout() -> None:
    net = GatedNet()
    x = net.input("x", [2, 8, 8, 8])
    other = net.op("Reshape", x, net.op("Shape", x))
    for _ in range(3):
        x = net.gated(x, 8, 8, residual=other)
    net.gated(x, 8, 8)
    model = net.canonical()
    del model.graph.value_info[:]
    require_same(model, with_layouts(model)[0])


def test_a_slice_without_axes_keeps_its_layout() -> None:
    net = GatedNet()
    x = net.gated(net.gated(net.input("x", [2, 3, 8, 8]), 3, 8), 8, 8)
    starts, ends, steps = net.ints(0, 0, 0, 0), net.ints(2, 8, 8, 8), net.ints(1, 1, 2, 2)
    net.gated(net.gated(net.op("Slice", x, starts, ends, "", steps), 8, 8), 8, 8)
    model = net.canonical()
    require_same(model, with_layouts(model)[0])


# ---- back to the contract --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joins", [False, True])
def test_a_run_comes_back_as_it_was(joins: bool) -> None:
    """With its names, and without a Transpose."""
    model = residual_net().canonical()
    graph = to_graph(model)
    nodes = make_gateless(graph, {node.name for node in graph.nodes}) if joins else []
    gated = [node for node in graph.nodes if node.op == "LCCLConv"]
    fuse_following(graph, [*nodes, *(n for n in gated if n not in nodes)], sizes_of(model))
    built, count = with_layouts(to_model(graph, model))
    back = intake(built)
    assert count > 0
    assert not any(node.domain == LAYOUT_DOMAIN for node in back.graph.node)
    names = [node.name for node in model.graph.node if node.op_type == "LCCLConv"]
    assert [node.name for node in back.graph.node if node.op_type == "LCCLConv"] == names
    assert ops(back)["Conv"] == 2
    assert ops(back)["Transpose"] == 0 if joins else ops(back)["Transpose"] <= 2
    assert not any(f.domain == LAYOUT_DOMAIN for f in back.functions)
    require_same(model, back)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_networks_come_back(seed: int) -> None:
    model = random_net(seed).canonical()
    built, _ = with_layouts(joined(model, fuse=bool(seed % 2)))
    back = intake(built)
    require_same(model, back)
    assert {n.name for n in back.graph.node if n.op_type == "LCCLConv"} == {
        n.name for n in model.graph.node if n.op_type == "LCCLConv"
    }


# ---- convolutions without a gate -------------------------------------------------------------------------------------


def gateless_of(**attributes: object) -> bool:
    net = Net()
    net.conv(net.input("x", [1, 4, 8, 8]), 4, 8, **attributes)  # type: ignore[arg-type]
    (node,) = to_graph(net.model()).nodes
    return can_be_gateless(node)


def test_which_convolutions_can_be_joined() -> None:
    assert gateless_of()
    assert gateless_of(stride=2, dilation=2, bias=False)
    assert gateless_of(auto_pad="VALID")
    assert not gateless_of(group=2)
    assert not gateless_of(size=9)
    assert not gateless_of(auto_pad="SAME_UPPER")
    one_axis = Net()
    one_axis.op("Conv", one_axis.input("x", [1, 4, 8]), one_axis.const(np.ones((4, 4, 3))))
    assert not can_be_gateless(to_graph(one_axis.model()).nodes[0])
    half = Net(dtype=np.float16)
    half.conv(half.input("x", [1, 4, 8, 8]), 4, 8)
    assert not can_be_gateless(to_graph(half.model()).nodes[0])
    computed = Net()
    computed.op("Conv", computed.input("x", [1, 4, 8, 8]), computed.input("w", [4, 4, 3, 3]))
    assert not can_be_gateless(to_graph(computed.model()).nodes[0])


def test_a_gate_that_may_close_is_no_convolution_without_one() -> None:
    """An external gate with a bias, or a threshold of 1 and more, decides something."""
    model = joined(residual_net().canonical())
    for name, value in (("gate_threshold", 1.0), ("gate_max", 0.5), ("gate_slope", 0.25)):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        node = next(n for n in changed.graph.node if n.op_type == "LCCLConv" and n.name.startswith("node_conv"))
        next(a for a in node.attribute if a.name == name).f = value
        assert ops(with_layouts(changed)[0])[f"{LAYOUT_DOMAIN}::Conv"] == 1, name
