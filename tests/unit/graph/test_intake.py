"""Models from outside: the op under other names, sizes below 1, other opsets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper, version_converter

from lccl.errors import UserError
from lccl.graph.feeds import random_feed
from lccl.graph.inputs import input_types
from lccl.graph.intake import has_lost_nodes, has_nodes, intake
from lccl.graph.recognise import recognise
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.graph.variants.inlined import inlined
from lccl.op.contract import DOMAIN, OP_TYPE
from lccl.op.onnx_function import attach_function, is_op_function, make_function
from lccl.op.onnx_op import OPSET, is_lccl_node
from support.cases.op_cases import CASES
from support.graphs.models import case_model, op_types, run

CASE = next(c for c in CASES if c.name == "released")
Change = Callable[[onnx.ModelProto], onnx.ModelProto]


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    return out


# ---- names -----------------------------------------------------------------------------------------


def prefixed(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.compose.add_prefix(model, "net_", rename_inputs=False, rename_outputs=False)


def moved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The function in another domain and under another name, its values too."""
    out = copied(model)
    out.opset_import[1].domain = "vendor.ops"
    (function,) = out.functions
    for node in (*out.graph.node, function):
        node.domain = "vendor.ops"
    function.name = "Gated"
    out.graph.node[0].op_type = "Gated"
    for node in function.node:
        node.domain = "ai.onnx"
        node.doc_string = node.name = "renamed"
        node.input[:] = [name and (name if name in function.input else f"v.{name}") for name in node.input]
        node.output[:] = [name if name in function.output else f"v.{name}" for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                attribute.t.name = "renamed"
    return out


def inside(model: onnx.ModelProto) -> onnx.ModelProto:
    """Called by another function, which the prefix renames too."""
    out = copied(model)
    (call,) = out.graph.node
    stored = list(call.input[1:])
    own = onnx.FunctionProto(name="Block", domain="own", input=["X", *stored], output=["Y"], node=[call])
    own.opset_import.extend(out.opset_import)
    out.functions.append(own)
    out.opset_import.append(helper.make_opsetid("own", 1))
    del out.graph.node[:]
    out.graph.node.append(helper.make_node("Block", ["X", *stored], ["Y"], domain="own"))
    return prefixed(out)


@pytest.mark.parametrize("change", [prefixed, moved, inside])
def test_the_op_is_found_under_any_name(change: Change) -> None:
    model, feed = case_model(CASE)
    other = change(model)
    assert not has_nodes(other)
    found = intake(other)
    assert has_nodes(found)
    assert [(f.domain, f.name) for f in found.functions if is_op_function(f)] == [(DOMAIN, OP_TYPE)]
    assert "vendor.ops" not in {o.domain for o in found.opset_import}
    onnx.checker.check_model(found)
    np.testing.assert_array_equal(run(found, feed), run(model, feed))
    assert not has_nodes(other), "the given model is not changed"


def test_models_merged_under_two_prefixes() -> None:
    first, feed = case_model(next(c for c in CASES if c.name == "plain"))
    second = copied(first)
    second.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
    weight = next(t for t in second.graph.initializer if t.name == "W")
    channels = numpy_helper.to_array(weight).shape[0]
    for name in ("W", "gate_W"):  # the second layer reads what the first gives
        tensor = next(t for t in second.graph.initializer if t.name == name)
        values = np.resize(numpy_helper.to_array(tensor), (*tensor.dims[:3], channels))
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    merged = onnx.compose.merge_models(first, second, io_map=[("Y", "X")], prefix1="a_", prefix2="b_")
    assert op_types(merged) == ["a_LCCLConv", "b_LCCLConv"]
    found = intake(merged)
    assert op_types(found) == [OP_TYPE] * 2
    assert [f.name for f in found.functions] == [OP_TYPE]
    fed = {f"a_{name}": values for name, values in feed.items()}
    np.testing.assert_array_equal(run(canonical(found), fed), run(merged, fed))


def test_a_branch_whose_function_was_renamed_alone() -> None:
    """add_prefix renames no calls in branches, so that nothing runs what it gives."""
    model, feed = case_model(CASE)
    condition = numpy_helper.from_array(np.array(True), "condition")
    branch = helper.make_graph(list(model.graph.node), "branch", [], [helper.make_tensor_value_info("Y", T.FLOAT, None)])
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["condition"], ["Y"], then_branch=branch, else_branch=branch))
    model.graph.initializer.append(condition)
    model.functions[0].name = "net_LCCLConv"
    with pytest.raises(UserError, match="cannot load"):
        run(model, feed)
    np.testing.assert_array_equal(run(intake(model), feed), run(case_model(CASE)[0], feed))


def test_other_functions_are_left_alone() -> None:
    model, _ = case_model(CASE)
    assert intake(model) is model
    function = make_function()
    function.name, function.domain = "Other", "other"
    assert is_op_function(function)
    for node in function.node:
        if node.op_type == "ThresholdedRelu":
            node.op_type = "Relu"
            del node.attribute[:]
    assert not is_op_function(function)
    swapped = make_function()
    swapped.domain = "other"
    swapped.input[0], swapped.input[5] = swapped.input[5], swapped.input[0]
    assert not is_op_function(swapped), "the same nodes of other inputs"


def test_nodes_that_a_tool_replaced_are_noticed() -> None:
    model, _ = case_model(CASE)
    flat = onnx.inliner.inline_local_functions(model)
    assert has_lost_nodes(flat)
    assert not any(map(has_lost_nodes, (model, inlined(model), dense_twin(model))))
    for key, lost in (("lccl.op", True), ("lccl.twin", False)):
        plain = copied(inlined(model))
        helper.set_model_props(plain, {"lccl.op": "lccl::LCCLConv", key: "decomposed"})
        assert has_lost_nodes(plain) == lost


# ---- types -----------------------------------------------------------------------------------------


def by_polygraphy(model: onnx.ModelProto) -> onnx.ModelProto:
    from polygraphy.backend.onnx import convert_to_fp16

    converted: onnx.ModelProto = convert_to_fp16(model)
    return converted


def by_the_converter(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxconverter_common import float16

    converted: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    return converted


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["released", "plain"])
@pytest.mark.parametrize("convert", [by_polygraphy, by_the_converter])
def test_converters_that_do_not_know_the_op(convert: Change, name: str) -> None:
    """They store its float32 inputs in float16, too, which nothing runs."""
    model, feed = case_model(next(c for c in CASES if c.name == name))
    half = convert(copied(model))
    with pytest.raises(UserError, match=r"type|Type"):
        run(half, feed)
    found = intake(half)
    assert intake(found) is found
    expected = run(model, feed)
    for view in (found, canonical(found)):
        np.testing.assert_allclose(run(view, feed), expected, atol=1e-2 * np.abs(expected).max())
    types = {t.name: t.data_type for t in canonical(found).graph.initializer}
    (node,) = filter(is_lccl_node, canonical(found).graph.node)
    assert [types[name] for name in node.input[1:5]] == [T.FLOAT16, T.FLOAT, T.FLOAT16, T.FLOAT]


def test_a_block_list_keeps_the_op_in_float32() -> None:
    from onnxconverter_common import float16

    model, feed = case_model(CASE)
    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, OP_TYPE]
    half = float16.convert_float_to_float16(copied(model), keep_io_types=True, op_block_list=blocked)
    assert intake(half) is half
    np.testing.assert_allclose(run(half, feed), run(model, feed), atol=1e-2)


# ---- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 0, -7])
def test_sizes_below_1_are_dynamic(size: int) -> None:
    model, feed = case_model(CASE, dynamic=False)
    for value in (*model.graph.input, *model.graph.output):
        for axis in (0, 2):
            value.type.tensor_type.shape.dim[axis].dim_value = size
    assert [d.HasField("dim_value") for d in input_types(model)["X"].shape.dim] == [False, True, False, True]
    assert random_feed(model)["X"].shape == (2, CASE.c, 32, CASE.hw[1])
    found = intake(model)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == size, "it is not changed"
    for value in (*found.graph.input, *found.graph.output):
        assert [d.HasField("dim_value") for d in value.type.tensor_type.shape.dim] == [False, True, False, True]
    assert run(canonical(found), feed).shape[0] == len(feed["X"])


@pytest.mark.parametrize("name", ["?", "-1", "*", ""])
def test_a_name_without_a_letter_is_none(name: str) -> None:
    """Height and width would be equal by it."""
    value = helper.make_tensor_value_info("x", T.FLOAT, ["batch", 3, None, None])
    for axis in (2, 3):
        value.type.tensor_type.shape.dim[axis].dim_param = name
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value], [helper.make_empty_tensor_value_info("y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    dims = intake(model).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["batch", "", "", ""]
    assert not any(d.HasField("dim_param") for d in dims[2:])


def test_sizes_in_a_branch_and_of_stored_inputs() -> None:
    """A constant without elements keeps its size, listed among the inputs too."""
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "inner", [], [helper.make_tensor_value_info("b", T.FLOAT, [-1, 2])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        "outer",
        [helper.make_tensor_value_info(*given) for given in (("x", T.FLOAT, ["n", 2]), ("none", T.FLOAT, [0]))],
        [helper.make_tensor_value_info("y", T.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.zeros(0, np.float32), "none"), numpy_helper.from_array(np.array(True), "c")],
    )
    found = intake(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8))
    assert [d.HasField("dim_value") for d in found.graph.input[1].type.tensor_type.shape.dim] == [True]
    branch = found.graph.node[0].attribute[0].g
    assert [d.HasField("dim_value") for d in branch.output[0].type.tensor_type.shape.dim] == [False, True]


# ---- opsets ----------------------------------------------------------------------------------------


def with_a_standard_op(opset: int, function: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The case with a Softmax behind it, in another opset."""
    model, feed = case_model(CASE)
    model.graph.node[0].output[0] = "gated"
    model.graph.node.append(helper.make_node("Softmax", ["gated"], ["Y"], axis=1))
    out = version_converter.convert_version(model, opset)
    assert not out.functions, "onnx's converter drops them"
    if function:
        attach_function(out)
    return out, feed


@pytest.mark.parametrize("function", [False, True], ids=["nodes alone", "with its function"])
@pytest.mark.parametrize("opset", [13, 17, 19, 21, 24])
def test_nodes_in_other_opsets_are_converted(opset: int, function: bool) -> None:
    model, feed = with_a_standard_op(opset, function)
    out = canonical(model)
    assert {o.domain: o.version for o in out.opset_import} == {"": OPSET, DOMAIN: 1}
    onnx.checker.check_model(out, full_check=True)
    np.testing.assert_array_equal(run(out, feed), run(with_a_standard_op(18, True)[0], feed))
    assert any(map(is_lccl_node, recognise(model).model.graph.node))


def test_large_weights_are_not_copied_by_the_converter() -> None:
    model, feed = case_model(next(c for c in CASES if max(np.prod(a.shape) for a in c.inputs().values()) > 2048))
    later = version_converter.convert_version(model, 21)
    np.testing.assert_array_equal(run(canonical(later), feed), run(model, feed))


def test_ops_that_opset_18_has_not_are_expanded_or_told() -> None:
    model, feed = with_a_standard_op(20, True)
    model.graph.node[1].CopyFrom(helper.make_node("Gelu", ["gated"], ["Y"]))
    out = canonical(model)
    assert "Gelu" not in op_types(out)
    np.testing.assert_allclose(run(out, feed), run(model, feed), atol=1e-6)
    model, _ = with_a_standard_op(23, True)
    model.graph.node[1].CopyFrom(helper.make_node("ImageDecoder", ["gated"], ["Y"]))
    with pytest.raises(UserError, match=r"opset 23 and uses what opset 18 does not have .*: export it with opset 18"):
        canonical(model)


def test_the_standard_domain_by_its_other_name() -> None:
    model, feed = with_a_standard_op(21, True)
    next(o for o in model.opset_import if o.domain == "").domain = "ai.onnx"
    model.graph.node[1].domain = "ai.onnx"
    out = canonical(intake(model))
    assert op_types(out) == [OP_TYPE, "Softmax"]
    assert {o.domain: o.version for o in out.opset_import} == {"": OPSET, DOMAIN: 1}
    assert run(out, feed).shape


def test_a_number_that_a_constant_node_holds() -> None:
    """onnx-graphsurgeon makes a float64 of it, and its reader takes float32."""
    model, feed = case_model(CASE)
    want = run(model, {**feed, "X": 0.5 * feed["X"]})
    for node in model.graph.node:
        node.input[:] = ["scaled" if name == "X" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Mul", ["X", "half"], ["scaled"]))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["half"], value_float=0.5))
    np.testing.assert_allclose(run(canonical(model), feed), want, atol=1e-6)
