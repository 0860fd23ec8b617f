"""Schema, shape inference and function body of the ONNX op."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from lccl.op.contract import ATTRIBUTES, DOMAIN, OP_TYPE, Attributes, output_shape
from lccl.op.onnx_function import make_function
from lccl.op.onnx_op import make_node, node_attributes, register_schema
from support.cases.op_cases import CASES, Case
from support.graphs.models import case_model


def inferred(model: onnx.ModelProto) -> list[int | str]:
    """Return the output dimensions that inference finds without the declared ones."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.output[0].type.tensor_type.shape.dim[:]
    bare.graph.output[0].type.tensor_type.ClearField("shape")
    result = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    return [d.dim_param or d.dim_value for d in result.graph.output[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("function", [False, True], ids=["schema", "with-function"])
def test_static_shapes_are_inferred(case: Case, function: bool) -> None:
    register_schema()
    model, _ = case_model(case, dynamic=False, function=function)
    shapes = {name: a.shape for name, a in case.inputs().items()}
    assert inferred(model) == list(output_shape(shapes, case.attributes))


def test_a_dynamic_batch_keeps_its_name() -> None:
    register_schema()
    case = CASES[0]
    model, _ = case_model(case, dynamic=True, function=False)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = case.hw[0]
    dims = inferred(model)
    assert dims[:3] == ["N", case.k, case.hw[0]]
    assert isinstance(dims[3], str), "the width is unknown and must not be invented"


def test_strict_inference_finds_a_wrong_shape() -> None:
    register_schema()
    model, _ = case_model(CASES[0], dynamic=False, function=False)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(onnx.shape_inference.InferenceError, match="has 7 channels"):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_schema_has_the_contracts_attributes() -> None:
    schema = register_schema()
    assert register_schema().name == schema.name, "registering twice is fine"
    assert set(schema.attributes) == {a.name for a in ATTRIBUTES}
    for spec in ATTRIBUTES:
        default = helper.get_attribute_value(schema.attributes[spec.name].default_value)
        assert spec.coerce(default) == spec.coerce(spec.default)


def test_function_reads_exactly_the_attributes_that_carry_meaning() -> None:
    read = {a.ref_attr_name for node in make_function().node for a in node.attribute if a.ref_attr_name}
    assert read == {spec.name for spec in ATTRIBUTES if spec.in_maths}


def test_attributes_survive_the_node() -> None:
    attributes = Attributes(strides=(2, 1), pads=(0, 1, 2, 3), gate_upsample=(1, 1, 4, 4), density=0.25, gate_source="external")
    node = make_node([f"i{i}" for i in range(9)], ["y"], attributes)
    assert {a.name for a in node.attribute} == {spec.name for spec in ATTRIBUTES}, "every attribute is always written"
    assert node_attributes(node) == attributes
    assert (node.op_type, node.domain) == (OP_TYPE, DOMAIN)


def test_bfloat16_passes_the_type_check() -> None:
    register_schema()
    model, _ = case_model(CASES[0], np.float32, dynamic=False, function=False)
    wide = {"B", "gate_B", "post_scale", "post_bias"}
    for tensor in model.graph.initializer:
        if tensor.name not in wide:
            tensor.raw_data = tensor.raw_data[::2][: len(tensor.raw_data) // 2]
            tensor.data_type = onnx.TensorProto.BFLOAT16
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
