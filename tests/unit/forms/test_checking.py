"""Chosen forms against the model: a wrong one is not written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lccl.errors import UserError
from lccl.forms.checking import check_forms, closed, opened, with_nan
from lccl.forms.densities import densities_over
from lccl.forms.plan import Plan, Planned
from lccl.graph.feeds import random_feed
from lccl.op.onnx_op import is_lccl_node
from support.graphs.gated_net import residual_net

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return residual_net().canonical()


def in_forms(model: onnx.ModelProto) -> onnx.ModelProto:
    planned = Planned.of(model)
    return planned.model_of(Plan(joined=frozenset(planned.layers.joinable), channels_last=True))


def test_the_right_forms_pass(model: onnx.ModelProto, ort_library: Path) -> None:
    check_forms(model, in_forms, [random_feed(model, {"x": (2, 3, 8, 8)})], ort_library)


def scaled_weights(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "LCCLConv")
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))


def gates_from_elsewhere(model: onnx.ModelProto) -> None:
    """Each gate is open by its bias, whatever the model's own is: only closed gates show it."""
    for node in model.graph.node:
        if node.op_type == "LCCLConv":
            next(a for a in node.attribute if a.name == "gate_threshold").f = 0.0


@pytest.mark.parametrize("change", [scaled_weights, gates_from_elsewhere])
def test_a_wrong_form_is_refused(model: onnx.ModelProto, ort_library: Path, change: Change) -> None:
    def wrong(given: onnx.ModelProto) -> onnx.ModelProto:
        out = in_forms(given)
        change(out)
        return out

    feeds = [random_feed(model, {"x": (2, 3, 8, 8)})]
    with pytest.raises(UserError, match=r"the chosen forms differ from the model.*nothing was written"):
        check_forms(model, wrong, feeds, ort_library)


def test_a_form_that_spreads_nan_is_refused(model: onnx.ModelProto, ort_library: Path) -> None:
    """It adds 0 times the first sample's mean to all samples: right, unless that is NaN."""

    def spreading(given: onnx.ModelProto) -> onnx.ModelProto:
        out = in_forms(given)
        name = out.graph.output[0].name
        out.graph.node[-1].output[0] = "before"
        out.graph.node.extend(
            [
                helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
                helper.make_node("Sub", ["mean", "mean"], ["zero"]),
                helper.make_node("Add", ["before", "zero"], [name]),
            ]
        )
        return out

    for batch in (2, 3):
        feed = random_feed(model, {"x": (batch, 3, 8, 8)})
        with pytest.raises(UserError, match="where an input is NaN"):
            check_forms(model, spreading, [feed], ort_library)


def test_only_one_sample_has_nan() -> None:
    """What the others give has to stay finite."""
    feed = with_nan({"x": np.zeros((3, 2, 8, 8), np.float32), "count": np.zeros(3, np.int64)})
    assert np.isnan(feed["x"][0, :, 0, 0]).all()
    assert np.isfinite(feed["x"][1:]).all()
    assert np.isnan(feed["x"]).mean() < 0.01


def test_states_of_the_gates(model: onnx.ModelProto) -> None:
    feed = random_feed(model, {"x": (2, 3, 8, 8)})
    states = [densities_over(changed, [feed]) for changed in (model, opened(model), closed(model))]
    assert any(0.1 < layer.median < 0.9 for layer in states[0].values())
    assert all(layer.median == 1 for layer in states[1].values())
    assert all(layer.median == 0 for layer in states[2].values())


def test_densities_and_clustering() -> None:
    """One area of open pixels against the same number of scattered ones."""
    model = residual_net(1).canonical()
    for node in filter(is_lccl_node, model.graph.node):
        tensor = next(t for t in model.graph.initializer if t.name == node.input[3])
        weight = np.zeros_like(numpy_helper.to_array(tensor))
        weight[0, 1, 1, 0] = 1
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    feed = random_feed(model, {"x": (4, 3, 8, 8)})
    found = densities_over(model, [feed, feed])
    assert set(found) == {n.name for n in model.graph.node if is_lccl_node(n)}
    for layer in found.values():
        assert 0 <= layer.p10 <= layer.median <= layer.p90 <= 1
        assert 0 <= layer.clustering <= 1
