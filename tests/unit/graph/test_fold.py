"""BatchNormalization into a convolution's weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lccl.graph.conversion import to_graph, to_model
from lccl.graph.fold import fold_batch_norms
from support.graphs.models import op_types, run


def conv_norm(bias: bool, second_reader: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.standard_normal((4, 3, 3, 3)),
        "b": rng.standard_normal(4),
        "scale": rng.random(4) + 0.5,
        "shift": rng.standard_normal(4),
        "mean": rng.standard_normal(4),
        "var": rng.random(4) + 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", *(["b"] if bias else [])], ["c"], "conv", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["y"], "norm", epsilon=1e-3),
    ]
    outputs = ["y"]
    if second_reader:
        nodes.append(helper.make_node("Relu", ["c"], ["r"]))
        outputs.append("r")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info(o, 1, ["N", 4, 6, 6]) for o in outputs],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items() if bias or k != "b"],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_kept(bias: bool) -> None:
    model = conv_norm(bias)
    graph = to_graph(model)
    assert fold_batch_norms(graph) == 1
    folded = to_model(graph, model)
    assert op_types(folded) == ["Conv"]
    assert folded.graph.output[0].name == "y", "the network's outputs keep their names"
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(folded, {"x": x}), run(model, {"x": x}), rtol=1e-5, atol=1e-5)


def test_a_convolution_that_others_read_is_left_alone() -> None:
    graph = to_graph(conv_norm(True, second_reader=True))
    assert fold_batch_norms(graph) == 0


def test_norms_without_names_keep_their_own_weights() -> None:
    """Two of them in a row: their constants must not share a name."""
    model = conv_norm(True)
    second = conv_norm(False)
    for tensor in second.graph.initializer:
        values = numpy_helper.to_array(tensor) * 2
        if tensor.name == "w":
            values = np.tile(values, (1, 2, 1, 1))[:, :4]
        tensor.CopyFrom(numpy_helper.from_array(values, f"{tensor.name}2"))
        model.graph.initializer.append(tensor)
    model.graph.node.append(helper.make_node("Conv", ["y", "w2"], ["c2"], "conv2", pads=[1] * 4))
    model.graph.node.append(helper.make_node("BatchNormalization", ["c2", "scale2", "shift2", "mean2", "var2"], ["z"]))
    model.graph.node[1].name = ""
    model.graph.output[0].name = "z"
    graph = to_graph(model)
    assert fold_batch_norms(graph) == 2
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(to_model(graph, model), {"x": x}), run(model, {"x": x}), rtol=1e-4, atol=1e-4)


def test_a_convolution_that_is_an_output_is_left_alone() -> None:
    model = conv_norm(True)
    model.graph.output.append(helper.make_tensor_value_info("c", 1, ["N", 4, 6, 6]))
    assert fold_batch_norms(to_graph(model)) == 0


def test_a_convolution_of_one_dimension() -> None:
    model = conv_norm(True)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, :, 1].copy(), "w"))
    model.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", [1, 1]))
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[3:]
    graph = to_graph(model)
    assert fold_batch_norms(graph) == 1
    x = np.random.default_rng(1).standard_normal((2, 3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(to_model(graph, model), {"x": x}), run(model, {"x": x}), rtol=1e-5, atol=1e-5)
