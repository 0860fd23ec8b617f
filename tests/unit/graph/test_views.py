"""The derived views: equal to the canonical model, and free of what their runtime cannot read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.stripped import stripped
from lccl.op.onnx_op import is_lccl_node, register_schema
from support.cases.op_cases import CASES, Case
from support.graphs.models import case_model, op_types, run


def view_of(name: str) -> list[str]:
    model, _ = case_model(next(c for c in CASES if c.name == name))
    return op_types(inlined(model))


def test_stripped_keeps_nodes_and_drops_the_function() -> None:
    model, _ = case_model(CASES[0])
    view = stripped(model)
    assert len(model.functions) == 1
    assert len(view.functions) == 0
    assert [n for n in view.graph.node if is_lccl_node(n)] == [n for n in model.graph.node if is_lccl_node(n)]


@pytest.mark.parametrize(
    ("case", "ops"),
    [
        ("plain", ["Conv", "Conv", "Relu", "Greater", "Mul", "Where"]),
        ("paper", ["Conv", "Conv", "Relu", "Relu", "Greater", "Mul", "Where"]),
        ("released", ["Conv", "Conv", "Relu", "Greater", "Mul", "Where", "Mul", "Add", "Relu"]),
        ("residual", ["Conv", "Conv", "Relu", "Greater", "Mul", "Where", "Add", "Relu"]),
        ("external", ["Conv", "Greater", "Mul", "Where"]),
        ("hardtanh", ["Conv", "Conv", "Min", "Relu", "Greater", "Mul", "Where"]),
    ],
)
def test_a_form_keeps_only_the_ops_it_needs(case: str, ops: list[str]) -> None:
    assert sorted(view_of(case)) == sorted(ops)


def test_what_carries_meaning_stays() -> None:
    assert "Resize" in view_of("grid-2")
    assert "Slice" in view_of("grid-2")
    assert "ThresholdedRelu" in view_of("threshold")
    assert "LeakyRelu" in view_of("leaky")


def test_strides_are_literals() -> None:
    """TensorRT's parser drops strides and dilations that a function body takes from the call."""
    model, _ = case_model(next(c for c in CASES if c.name == "stride-uneven"))
    convs = [n for n in inlined(model).graph.node if n.op_type == "Conv"]
    assert len(convs) == 2
    for node in convs:
        attributes = {a.name: list(a.ints) for a in node.attribute}
        assert attributes["strides"] == [2, 3]
        assert not any(a.ref_attr_name for a in node.attribute)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_node_has_a_name_and_constants_are_plain(case: Case) -> None:
    model, _ = case_model(case, np.float16)
    view = inlined(model)
    names = [n.name for n in view.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert all(n.attribute[0].name == "value" for n in view.graph.node if n.op_type == "Constant")
    onnx.checker.check_model(view, full_check=True)


def test_the_given_model_is_left_alone() -> None:
    model, _ = case_model(CASES[0])
    before = model.SerializeToString()
    inlined(model)
    stripped(model)
    assert model.SerializeToString() == before


def test_the_users_own_nodes_are_left_alone() -> None:
    """What is neutral in the op's function is not so elsewhere: a crop, a threshold of signed values, a zero filter."""
    case = CASES[0]
    model, feed = case_model(case)
    model.graph.node[0].output[0] = "layer_out"
    constants = {
        "scales": np.ones(4, np.float32),
        "start": np.zeros(2, np.int64),
        "end": np.array([4, 5]),
        "axes": np.array([2, 3]),
        "zero_w": np.zeros((1, case.k, 1, 1), np.float32),
        "zero_b": np.array([2.0], np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Resize", ["layer_out", "", "scales"], ["same__1"], mode="nearest"),
            helper.make_node("Slice", ["same__1", "start", "end", "axes"], ["crop"]),
            helper.make_node("ThresholdedRelu", ["crop"], ["positive"], alpha=0.0),
            helper.make_node("Conv", ["positive", "zero_w", "zero_b"], ["two"]),
            helper.make_node("Mul", ["two", "positive"], ["Y"]),
        ]
    )
    view = inlined(model)
    y = run(view, feed)
    assert y.shape[2:] == (4, 5)
    assert (y >= 0).all()
    np.testing.assert_allclose(y, run(model, feed), atol=1e-6)
    assert op_types(view)[-5:] == ["Resize", "Slice", "ThresholdedRelu", "Conv", "Mul"]


def beside_a_function_of_the_users() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model, feed = case_model(CASES[0])
    model.graph.node[0].output[0] = "layer_out"
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.insert(0, helper.make_node("Twice", ["X"], ["X2"], domain="mine"))
    model.graph.node[1].input[0] = "X2"
    model.graph.node.append(helper.make_node("Twice", ["layer_out"], ["Y"], domain="mine"))
    return model, feed


def test_stripped_leaves_no_function_of_the_users() -> None:
    """TensorRT's parser drops what a function's body takes from the call, whosever function it is."""
    model, _ = beside_a_function_of_the_users()
    view = stripped(model)
    assert op_types(view) == ["Add", "LCCLConv", "Add"]
    assert list(view.functions) == []
    assert {o.domain for o in view.opset_import} == {"", "lccl"}
    assert view.graph.node[1].name == "layer"
    register_schema()
    onnx.checker.check_model(view, full_check=True)


def test_layers_keep_their_names_beside_other_functions() -> None:
    """Another function's calls shift the inliner's numbers, not the layers' names."""
    model, feed = beside_a_function_of_the_users()
    view = inlined(model)
    assert [n.name for n in view.graph.node if n.op_type == "Conv"] == ["layer/logit", "layer/conv"]
    np.testing.assert_allclose(run(view, feed), run(model, feed), atol=1e-6)
