"""Any model with LCCLConv nodes becomes the canonical one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lccl.errors import UserError
from lccl.graph.metadata import set_metadata
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.inlined import inlined
from lccl.op.contract import ATTRIBUTES
from lccl.op.onnx_op import is_lccl_node
from support.cases.op_cases import CASES
from support.graphs.models import case_model, run

CASE = next(c for c in CASES if c.name == "released")


def bare(**changes: object) -> onnx.ModelProto:
    """A node as a hand-written exporter might leave it: no name, default attributes left out, no function."""
    model, _ = case_model(CASE, function=False)
    node = model.graph.node[0]
    node.name = ""
    kept = [a for a in node.attribute if a.name in ("pads", "post_alpha")]
    del node.attribute[:]
    node.attribute.extend(kept)
    for name, value in changes.items():
        node.attribute.append(helper.make_attribute(name, value))
    return model


def test_names_attributes_and_function_are_completed() -> None:
    expected, feed = case_model(CASE)
    out = canonical(bare())
    (node,) = filter(is_lccl_node, out.graph.node)
    assert node.name == "LCCLConv_0"
    assert {a.name for a in node.attribute} == {a.name for a in ATTRIBUTES}
    assert [f.name for f in out.functions] == ["LCCLConv"]
    np.testing.assert_array_equal(run(out, feed), run(expected, feed))
    onnx.checker.check_model(out, full_check=True)


def test_twice_is_once() -> None:
    once = canonical(bare())
    assert canonical(once).SerializeToString() == once.SerializeToString()


def test_weights_behind_a_transpose_are_folded() -> None:
    model = bare()
    w = next(t for t in model.graph.initializer if t.name == "W")
    values = numpy_helper.to_array(w).transpose(0, 3, 1, 2)
    w.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), "W_kcrs"))
    model.graph.node.insert(0, helper.make_node("Transpose", ["W_kcrs"], ["W"], perm=[0, 2, 3, 1]))
    out = canonical(model)
    assert [n.op_type for n in out.graph.node] == ["LCCLConv"]
    expected, feed = case_model(CASE)
    np.testing.assert_array_equal(run(out, feed), run(expected, feed))


def test_neutral_inputs_are_shared_and_named() -> None:
    out = canonical(case_model(next(c for c in CASES if c.name == "plain"))[0])
    names = list(next(filter(is_lccl_node, out.graph.node)).input)
    assert names[5:] == [f"neutral.{n}.float32" for n in ("gate", "post_scale", "post_bias", "residual")]


def test_an_affine_of_one_channel_is_no_neutral_input() -> None:
    case = next(c for c in CASES if c.name == "one-channel-post")
    model, feed = case_model(case)
    out = canonical(model)
    assert "post_scale" in next(filter(is_lccl_node, out.graph.node)).input
    np.testing.assert_array_equal(run(out, feed), run(model, feed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.node[0].attribute.append(helper.make_attribute("groups", 2)), "no attribute groups"),
        (lambda m: m.graph.node[0].input.pop(), "all 9 inputs"),
        (lambda m: setattr(m.opset_import[1], "version", 2), "version 2"),
        (lambda m: setattr(m.graph.node[0], "domain", "other"), "no LCCLConv node"),
    ],
)
def test_refusals(change, message: str) -> None:
    model = bare()
    change(model)
    with pytest.raises(UserError, match=message):
        canonical(model)


@pytest.mark.parametrize(
    "value",
    [
        {"value_string": "text"},
        {"value_strings": ["a", "b"]},
        {"value": helper.make_tensor("t", onnx.TensorProto.STRING, [1], [b"text"])},
    ],
)
def test_text_in_a_constant_is_refused(value: dict[str, object]) -> None:
    model, _ = case_model(CASE)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["words"], "words", **value))
    for view in (canonical, inlined):
        with pytest.raises(UserError, match="constant words holds text"):
            view(model)


@pytest.mark.parametrize(
    ("case", "attribute", "value", "message"),
    [
        ("plain", "gate_pads", [2, 2, 2, 2], "does not give the size of the output along the height"),
        ("grid-2", "gate_strides", [1, 1], "gate_strides must be strides"),
    ],
)
def test_a_gate_that_does_not_fit_is_found_in_dynamic_shapes(case: str, attribute: str, value: list[int], message: str) -> None:
    model, _ = case_model(next(c for c in CASES if c.name == case), dynamic=True)
    found = next(a for a in model.graph.node[0].attribute if a.name == attribute)
    found.CopyFrom(helper.make_attribute(attribute, value))
    with pytest.raises(UserError, match=message):
        canonical(model)


def test_a_residual_that_would_be_broadcast_is_refused() -> None:
    case = next(c for c in CASES if c.name == "residual")
    model, _ = case_model(case, dynamic=False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    dims = model.graph.input[1].type.tensor_type.shape.dim
    dims[0].dim_param, dims[2].dim_value, dims[3].dim_value = "N", 1, 1
    with pytest.raises(UserError, match="residual must be"):
        canonical(model)


def test_names_are_made_unique() -> None:
    model, _ = case_model(CASES[0])
    first = model.graph.node[0]
    first.output[0] = "middle"
    for name in ("", "layer"):
        model.graph.node.add().CopyFrom(first)
        model.graph.node[-1].name = name
    first.name = "LCCLConv_1"
    model.graph.node[1].output[0], model.graph.node[2].output[0] = "other", "Y"
    model.graph.output.append(helper.make_tensor_value_info("other", 1, ["N", 6, "h", "w"]))
    model.graph.output.append(helper.make_tensor_value_info("middle", 1, ["N", 6, "h", "w"]))
    names = [n.name for n in canonical(model).graph.node if is_lccl_node(n)]
    assert len(set(names)) == 3
    assert "layer" in names
    assert "LCCLConv_1" in names


def test_metadata_of_ours_is_kept_and_added_to() -> None:
    model = bare()
    set_metadata(model, "1.0", {"lccl.a": "1"})
    set_metadata(model, "1.1", {"lccl.b": "2"})
    assert {p.key: p.value for p in model.metadata_props} == {"lccl.a": "1", "lccl.b": "2"}
    assert (model.producer_name, model.producer_version) == ("lccl", "1.1")
