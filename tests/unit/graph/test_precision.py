"""float16 and bfloat16: weights converted, float32 inputs and gates kept."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from lccl.errors import UserError
from lccl.graph.checks import check_types
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.precision import to_precision
from lccl.op.contract import INPUTS
from lccl.op.onnx_op import is_lccl_node, register_schema
from support.cases.op_cases import CASES
from support.graphs.models import case_model, run

T = onnx.TensorProto


@pytest.fixture
def model(exported: Path) -> onnx.ModelProto:
    register_schema()
    return canonical(onnx.load(exported))


def types_of_inputs(model: onnx.ModelProto) -> dict[str, set[int]]:
    stored = {t.name: t.data_type for t in model.graph.initializer}
    found: dict[str, set[int]] = {}
    for node in filter(is_lccl_node, model.graph.node):
        for spec, name in zip(INPUTS, node.input, strict=True):
            if name in stored:
                found.setdefault(spec.name, set()).add(stored[name])
    return found


@pytest.mark.parametrize(("precision", "element"), [("fp16", T.FLOAT16), ("bf16", T.BFLOAT16)])
def test_the_contract_keeps_its_types(model: onnx.ModelProto, precision, element: int) -> None:
    converted = to_precision(model, precision)
    types = types_of_inputs(converted)
    for spec in INPUTS:
        if spec.name in types:
            assert types[spec.name] == {element if spec.is_tensor_type else T.FLOAT}, spec.name
    assert {v.type.tensor_type.elem_type for v in (*converted.graph.input, *converted.graph.output)} == {T.FLOAT}


def test_float16_runs_close_to_float32(model: onnx.ModelProto) -> None:
    converted = to_precision(model, "fp16")
    onnx.checker.check_model(converted, full_check=True)
    x = np.random.default_rng(0).standard_normal((4, 1, 16, 16)).astype(np.float32)
    wide, half = run(model, {"x": x}), run(converted, {"x": x})
    assert half.dtype == np.float32
    error = np.abs(wide - half).max()
    assert 0 < error < 1e-2 * np.abs(wide).max()


def test_bfloat16_weights_come_from_the_float32_ones(model: onnx.ModelProto) -> None:
    """Through float16 a small or large weight would be lost."""
    name = "stages.0.0.conv1.W"
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[:2] = 1e-12, 1e9
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    converted = to_precision(model, "bf16")
    got = onnx.numpy_helper.to_array(next(t for t in converted.graph.initializer if t.name == name))
    np.testing.assert_array_equal(got.astype(np.float32), values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_gates_are_computed_in_float32(model: onnx.ModelProto, precision) -> None:
    view = onnx.shape_inference.infer_shapes(inlined(to_precision(model, precision)))
    types = {v.name: v.type.tensor_type.elem_type for v in view.graph.value_info}
    logits = [n for n in view.graph.node if n.op_type == "Conv" and n.name.endswith("/logit")]
    assert len(logits) == 6
    assert {types[n.output[0]] for n in logits} == {T.FLOAT}


def test_a_model_of_another_precision_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(UserError, match="not float32"):
        to_precision(to_precision(model, "fp16"), "bf16")


def test_float32_is_the_model_itself(model: onnx.ModelProto) -> None:
    assert to_precision(model, "fp32") is model


@pytest.mark.parametrize("precision", ["FP32", "int8", ""])
def test_an_unknown_precision_is_refused(model: onnx.ModelProto, precision) -> None:
    with pytest.raises(UserError, match="precision is one of fp32, fp16, bf16"):
        to_precision(model, precision)


def changed(given: onnx.ModelProto, name: str, value: float) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(given)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return model


def test_weights_are_rounded_and_not_clamped(model: onnx.ModelProto) -> None:
    for value in (20000.0, 1e-9):
        converted = to_precision(changed(model, "stages.0.0.conv1.W", value), "fp16")
        got = onnx.numpy_helper.to_array(next(t for t in converted.graph.initializer if t.name == "stages.0.0.conv1.W"))
        assert got.flat[0] == np.float16(value)


def resized(case: str, *, first: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The case with a Resize, which the converter keeps in float32, before or behind its node."""
    model, feed = case_model(next(c for c in CASES if c.name == case))
    node = model.graph.node[0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    ends = ("X", "larger") if first else ("small", "Y")
    node.input[0], node.output[0] = ("larger", "Y") if first else ("X", "small")
    resize = onnx.helper.make_node("Resize", [ends[0], "", "scales"], [ends[1]], "resize", mode="nearest")
    model.graph.node.insert(0 if first else 1, resize)
    return canonical(model), feed


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("first", [True, False])
def test_inputs_and_outputs_stay_float32_whatever_stands_there(precision, first: bool) -> None:
    model, feed = resized("released", first=first)
    converted = to_precision(model, precision)
    onnx.checker.check_model(converted, full_check=True)
    check_types(model, converted)
    assert {v.type.tensor_type.elem_type for v in (*converted.graph.input, *converted.graph.output)} == {T.FLOAT}
    if precision == "fp16":
        wide, half = run(model, feed), run(converted, feed)
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, wide, atol=2e-2 * np.abs(wide).max())


def test_an_output_of_another_type_is_found(model: onnx.ModelProto) -> None:
    converted = to_precision(model, "bf16")
    cast = next(n for n in converted.graph.node if converted.graph.output[0].name in n.output)
    cast.attribute[0].i = T.BFLOAT16
    with pytest.raises(UserError, match="is BFLOAT16 instead of FLOAT"):
        check_types(model, converted)


def test_a_weight_that_float16_cannot_hold_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(UserError, match=r"stages\.0\.0\.conv1\.W holds values above 65504"):
        to_precision(changed(model, "stages.0.0.conv1.W", 1e6), "fp16")
    assert to_precision(changed(model, "stages.0.0.conv1.B", 1e6), "fp16"), "the bias stays float32"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_networks_own_casts_are_converted(model: onnx.ModelProto, precision) -> None:
    """(y > 0.1).float() * y: a mask made in the graph."""
    out = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["y" if o == out else o for o in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.1, np.float32), "limit"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Greater", ["y", "limit"], ["mask"], "greater"),
            onnx.helper.make_node("Cast", ["mask"], ["mask_f"], "cast", to=T.FLOAT),
            onnx.helper.make_node("Mul", ["mask_f", "y"], [out], "mul"),
        ]
    )
    converted = to_precision(model, precision)
    cast = next(n for n in converted.graph.node if n.name == "cast")
    assert cast.attribute[0].i == (T.FLOAT16 if precision == "fp16" else T.BFLOAT16)
    if precision == "fp16":
        onnx.checker.check_model(converted, full_check=True)
        x = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)
        np.testing.assert_allclose(run(converted, {"x": x}), run(model, {"x": x}), atol=1e-2)
