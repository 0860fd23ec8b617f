"""Forms of layers: any plan gives the same function, and each layer the form that the plan says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np
import onnx
import pytest

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.forms.plan import Layers, Plan, Planned
from lccl.graph.feeds import random_feed
from support.graphs.gated_net import GatedNet, random_net, residual_net


@pytest.fixture(scope="module")
def planned() -> Planned:
    return Planned.of(residual_net().canonical())


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node)


def require_same(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    feed = random_feed(model, {model.graph.input[0].name: (2, *sizes)})
    with OnnxRuntimeRunner(model) as first, OnnxRuntimeRunner(other) as second:
        for wanted, got in zip(first.infer(feed).values(), second.infer(feed).values(), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def plans(layers: Layers) -> Iterator[Plan]:
    for standard, joined, last in product((0, 1, 2), (0, 1, 2), (False, True)):
        parts = [frozenset(names[:: 3 - n] if n else ()) for names, n in ((layers.gated, standard), (layers.joinable, joined))]
        yield Plan(parts[0], parts[1], last)


def test_the_layers_of_a_network(planned: Planned) -> None:
    gated = tuple(n.name for n in planned.model.graph.node if n.op_type == "LCCLConv")
    assert planned.layers.gated == gated
    assert len(gated) == 4
    assert [name.startswith("node_conv") for name in planned.layers.joinable] == [True, True]


@pytest.mark.slow
def test_every_plan_computes_the_same(planned: Planned) -> None:
    for plan in plans(planned.layers):
        require_same(planned.model, planned.model_of(plan))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_every_plan_of_a_random_network(seed: int) -> None:
    planned = Planned.of(random_net(seed).canonical())
    for plan in list(plans(planned.layers))[seed % 3 :: 5]:
        require_same(planned.model, planned.model_of(plan))


def test_layers_have_their_forms(planned: Planned) -> None:
    first, *_ = planned.layers.gated
    stem, head = planned.layers.joinable
    model = planned.model_of(Plan(frozenset({first}), frozenset({head})))
    by_name = {node.name: node for node in model.graph.node}
    assert first not in by_name
    assert any(name.startswith(f"{first}/") for name in by_name)
    assert (by_name[stem].domain, by_name[stem].op_type) == ("", "Conv")
    assert (by_name[head].domain, by_name[head].op_type) == ("lccl.ort", "Conv")
    assert ops(model)["lccl::LCCLConv"] == 3
    assert not any(f.domain == "lccl.hidden" for f in model.functions)
    assert {o.domain for o in model.opset_import} == {"", "lccl", "lccl.ort"}


def test_what_follows_a_layer_goes_into_its_node(planned: Planned) -> None:
    """Here the blocks' Add and ReLU, which an export leaves where modules have them."""
    assert ops(planned.model)["Add"] == 2
    assert ops(planned.model_of(Plan()))["Add"] == 0
    assert ops(planned.model_of(Plan()))["Relu"] == 1, "the stem's"


def test_a_model_is_made_once(planned: Planned) -> None:
    assert planned.model_of(Plan()) is planned.model_of(Plan())
    before = planned.model_of(Plan())
    planned.forget()
    assert planned.model_of(Plan()) is not before


def test_convolutions_get_names_of_their_own() -> None:
    net = GatedNet()
    y = net.conv(net.conv(net.gated(net.input("x", [1, 3, 8, 8]), 3, 8), 8, 8), 8, 8)
    assert y
    for node in net.nodes[1:]:
        node.name = "same"
    planned = Planned.of(net.canonical())
    assert planned.layers.joinable == ("same", "same_1")
    assert ops(planned.model_of(Plan(joined=frozenset({"same_1"}))))["lccl.ort::Conv"] == 1


def test_a_flip_changes_one_layer() -> None:
    plan = Plan().with_flipped("a", gated=True)
    assert plan == Plan(standard=frozenset({"a"}))
    assert plan.with_flipped("a", gated=True) == Plan()
    assert plan.with_flipped("b", gated=False) == Plan(frozenset({"a"}), frozenset({"b"}))
