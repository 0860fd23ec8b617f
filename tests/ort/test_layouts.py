"""The private ops with a choice of layout, by the library and by their functions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lccl.op.contract import Attributes
from lccl.op.layout_op import TO_NCHW, layouts_of, permutations
from lccl.op.reference import lccl_conv
from support.cases.op_cases import CASES, Case
from support.graphs.models import layout_model
from support.hosts.onnxruntime import DTYPES, assert_close, infer, open_session

LAYOUTS = [(x, y) for x in (False, True) for y in (False, True)]
BY_NAME = {case.name: case for case in CASES}


def in_contract(y: Any, y_last: bool) -> Any:
    return y.transpose(TO_NCHW) if y_last else y


def dense_case(case: Case) -> Case:
    """The case with every gate 1, from outside."""
    return dataclasses.replace(case, gate="external", fill="all-on", grid=1, gate_threshold=0.0)


def dense_inputs(case: Case, dtype: Any) -> dict[str, Any]:
    return dense_case(case).inputs(dtype) | {"gate": np.ones((1, 1, 1, 1), dtype)}


@pytest.mark.parametrize(("x_last", "y_last"), LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_named_cases(ort_library: Path, case: Case, x_last: bool, y_last: bool) -> None:
    model, feed = layout_model(case, x_last=x_last, y_last=y_last)
    expected = lccl_conv(case.inputs(), case.attributes)
    for library in (ort_library, None):
        got = infer(open_session(model, library), feed)
        assert_close(in_contract(got, y_last), expected, np.dtype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=[d.name for d in DTYPES])
@pytest.mark.parametrize(("x_last", "y_last"), LAYOUTS)
@pytest.mark.parametrize("name", ["everything", "stride-uneven", "pads-uneven", "dilated-uneven"])
def test_a_convolution_without_a_gate(ort_library: Path, name: str, x_last: bool, y_last: bool, dtype: Any) -> None:
    case = BY_NAME[name]
    inputs = dense_inputs(case, dtype)
    model, feed = layout_model(dense_case(case), dtype, x_last=x_last, y_last=y_last, dense=True)
    gate = next((value for value in model.graph.input if value.name == "gate"), None)
    if gate is not None:
        model.graph.input.remove(gate)
        model.graph.initializer.append(onnx.numpy_helper.from_array(inputs["gate"], "gate"))
        del feed["gate"]
    expected = lccl_conv(inputs, dense_case(case).attributes)
    libraries = (ort_library, None) if dtype == np.float32 else (ort_library,)
    for library in libraries:
        assert_close(in_contract(infer(open_session(model, library), feed), y_last), expected, dtype)


def test_a_convolution_without_a_gate_lets_infinity_through(ort_library: Path) -> None:
    """Its function has no gate that a product of infinity and 0 would close."""
    case = dense_case(BY_NAME["plain"])
    model, feed = layout_model(case, x_last=True, y_last=True, dense=True)
    gate = next(value for value in model.graph.input if value.name == "gate")
    model.graph.input.remove(gate)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "gate"))
    del feed["gate"]
    feed["X"][0, 4, 4, 0] = np.inf
    for library in (ort_library, None):
        y = infer(open_session(model, library), feed)
        assert not np.isfinite(y[0, 3:6, 3:6]).any()
        assert np.isfinite(y[0, 7:]).all()


def test_a_convolution_without_a_gate_ignores_one(ort_library: Path) -> None:
    """As its function does: a fused gate with a threshold, times a map from outside."""
    case = dataclasses.replace(BY_NAME["both"], gate_threshold=0.3)
    model, feed = layout_model(case, x_last=True, y_last=True, dense=True)
    first, second = (infer(open_session(model, library), feed) for library in (ort_library, None))
    assert_close(first, second, np.dtype(np.float32))
    assert np.abs(first).min(axis=3).max() > 0, "no pixel is closed"


def test_half_precision(ort_library: Path) -> None:
    for dtype in DTYPES[1:]:
        case = BY_NAME["everything"]
        model, feed = layout_model(case, dtype, x_last=True, y_last=True)
        got = infer(open_session(model, ort_library), feed)
        assert_close(in_contract(got, True), lccl_conv(case.inputs(dtype), case.attributes), dtype)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_show(ort_library: Path, threads: int) -> None:
    case = dataclasses.replace(BY_NAME["residual"], c=40, k=24, hw=(37, 41))
    model, feed = layout_model(case, x_last=True, y_last=True)
    one = infer(open_session(model, ort_library, 1), feed)
    assert infer(open_session(model, ort_library, threads), feed).tobytes() == one.tobytes()


# ---- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x_last", "y_last"), LAYOUTS)
def test_names_of_sizes_follow_the_layout(ort_library: Path, x_last: bool, y_last: bool) -> None:
    """The batch keeps its name, and so do height and width where the convolution keeps the size."""
    model, _ = layout_model(BY_NAME["plain"], x_last=x_last, y_last=y_last)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    case = BY_NAME["plain"]
    wanted = ["N", "H", "W_", case.k] if y_last else ["N", case.k, "H", "W_"]
    assert open_session(model, ort_library).get_outputs()[0].shape == wanted


def test_onnx_checks_and_infers_through_the_functions() -> None:
    model, _ = layout_model(BY_NAME["everything"], x_last=True, y_last=True, dynamic=False)
    onnx.checker.check_model(model, full_check=True)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    case = BY_NAME["everything"]
    assert [d.dim_value for d in found.graph.output[0].type.tensor_type.shape.dim] == [case.n, *case.hw, case.k]


# ---- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x_to_nchw", [0, 2, 3, 1], r"x_to_nchw must be \[0, 1, 2, 3\] or \[0, 3, 1, 2\]"),
        ("y_from_nchw", [0, 3, 1, 2], r"y_from_nchw must be \[0, 1, 2, 3\] or \[0, 2, 3, 1\]"),
        ("x_to_nchw", [0, 1], "x_to_nchw must be"),
        ("x_to_nchw", None, "x_to_nchw must be"),
        ("y_from_nchw", 1.0, "y_from_nchw must be"),
        ("residual_to_nchw", [0, 1, 2, 3], "residual_to_nchw must undo y_from_nchw"),
    ],
)
def test_wrong_permutations(ort_library: Path, name: str, value: Any, said: str) -> None:
    model, _ = layout_model(BY_NAME["plain"], x_last=True, y_last=True)
    (node,) = model.graph.node
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])
    with pytest.raises(Exception, match=f"LCCLConv layer: {said}"):
        open_session(model, ort_library)


def test_a_shape_in_another_layout_is_refused(ort_library: Path) -> None:
    """The number of channels is read where the layout has it."""
    model, feed = layout_model(BY_NAME["plain"], x_last=True, y_last=False)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "C"
    session = open_session(model, ort_library)
    assert session.run(None, feed)[0].shape == (1, 6, 9, 11)
    with pytest.raises(Exception, match="but X has 11 channels"):
        session.run(None, {"X": np.zeros((1, 8, 9, 11), np.float32)})


def test_permutations_say_the_layouts() -> None:
    assert all(layouts_of(permutations(*layouts)) == layouts for layouts in LAYOUTS)
    assert Attributes().as_dict().keys().isdisjoint(permutations(True, True))
