"""Which residuals a layer may be written over."""

from __future__ import annotations

import dataclasses

import onnx
from onnx import TensorProto, helper

from lccl.graph.plugin_fields import ALIAS, TIME_BY_DENSITY, residuals_in_place, with_plugin_fields
from support.cases.op_cases import CASES
from support.graphs.models import case_model

RESIDUAL = 8


def chain(case_name: str = "residual") -> onnx.ModelProto:
    """X -> Relu -> shortcut, and LCCLConv(X, residual = shortcut)."""
    case = dataclasses.replace(next(c for c in CASES if c.name == case_name), n=1)
    model, _ = case_model(case)
    node = model.graph.node[-1]
    kept = [v for v in model.graph.input if v.name != node.input[RESIDUAL]]
    residual = next(v for v in model.graph.input if v.name == node.input[RESIDUAL])
    shape = [d.dim_value for d in residual.type.tensor_type.shape.dim]
    source = helper.make_tensor_value_info("source", TensorProto.FLOAT, shape)
    del model.graph.input[:]
    model.graph.input.extend([*kept, source])
    model.graph.node.insert(0, helper.make_node("Relu", ["source"], [node.input[RESIDUAL]], name="shortcut"))
    return model


def test_a_residual_that_nobody_else_reads() -> None:
    model = chain()
    assert residuals_in_place(model) == (model.graph.node[-1].output[0],)


def test_a_residual_that_a_node_reads_too() -> None:
    model = chain()
    model.graph.node.append(helper.make_node("Relu", [model.graph.node[0].output[0]], ["other"]))
    assert residuals_in_place(model) == ()


def test_a_residual_that_is_an_output_too() -> None:
    model = chain()
    model.graph.output.append(helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, None))
    assert residuals_in_place(model) == ()


def test_the_caller_s_own_memory_and_constants_are_left_alone() -> None:
    for name in ("residual", "plain"):
        model, _ = case_model(next(c for c in CASES if c.name == name))
        assert residuals_in_place(model) == (), name


def test_a_residual_that_a_branch_reads_too() -> None:
    model = chain()
    name = model.graph.node[0].output[0]
    body = helper.make_graph([helper.make_node("Relu", [name], ["inner"])], "body", [], [])
    body.output.append(helper.make_tensor_value_info("inner", TensorProto.FLOAT, None))
    model.graph.node.append(helper.make_node("If", ["condition"], ["chosen"], then_branch=body, else_branch=body))
    assert residuals_in_place(model) == ()


def test_the_fields_are_on_every_node() -> None:
    model = chain()
    for outputs, expected in (((), 0), (residuals_in_place(model), 1)):
        marked = with_plugin_fields(model, outputs)
        fields = {a.name: a.i for a in marked.graph.node[-1].attribute}
        assert (fields[ALIAS], fields[TIME_BY_DENSITY]) == (expected, 1)
    assert not {ALIAS, TIME_BY_DENSITY} & {a.name for a in model.graph.node[-1].attribute}, "the model itself is as it was"
