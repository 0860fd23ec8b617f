"""Every implementation of the op against the float64 reference, on every named case."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from lccl.graph.variants.inlined import inlined
from lccl.op.contract import INPUT_NAMES
from lccl.op.reference import LCCLConv, lccl_conv, lccl_gate
from lccl.op.torch_op import lccl_conv as torch_lccl_conv
from support.cases.op_cases import CASES, Case
from support.graphs.models import case_model, run

TOLERANCE = {np.float32: 2e-6, np.float16: 4e-3}
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=lambda d: d.__name__)


def expected(case: Case, dtype: type) -> np.ndarray:
    y = lccl_conv(case.inputs(dtype), case.attributes)
    assert np.isfinite(y).all(), "an inactive pixel let a NaN through"
    return y


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    assert np.abs(got.astype(np.float64) - want).max() <= tolerance * max(1.0, np.abs(want).max())


@cases
def test_case_is_what_it_says(case: Case) -> None:
    """The data has the case's properties, and rounding decides no gate."""
    inputs = case.inputs()
    g = lccl_gate(inputs, case.attributes)
    active = int((g > 0).sum())
    if case.fill == "all-off":
        assert active == 0
    elif case.fill == "all-on":
        assert active == g.size
    elif case.fill == "one-pixel":
        assert active == case.grid**2
    else:
        assert active > 0
        assert active < g.size or np.unique(g).size == 1, "only a map of one value may be all on"
    if case.fill == "nan":
        assert np.isnan(inputs["X"]).any()
    edge = g[g > 0] - case.gate_threshold
    assert edge.size == 0 or edge.min() > 1e-5


@cases
@dtypes
def test_onnxruntime_function(case: Case, dtype: type) -> None:
    model, feed = case_model(case, dtype)
    assert_close(run(model, feed), expected(case, dtype), TOLERANCE[dtype])


@cases
@dtypes
def test_onnx_reference_op(case: Case, dtype: type) -> None:
    model, feed = case_model(case, dtype, function=False)
    (y,) = ReferenceEvaluator(model, new_ops=[LCCLConv]).run(None, feed)
    assert y.dtype == dtype
    assert_close(y, expected(case, dtype), TOLERANCE[dtype])


@cases
@dtypes
def test_torch_op(case: Case, dtype: type) -> None:
    inputs = case.inputs(dtype)
    y = torch_lccl_conv({name: torch.from_numpy(inputs[name]) for name in INPUT_NAMES}, case.attributes)
    assert y.numpy().dtype == dtype
    assert_close(y.numpy(), expected(case, dtype), TOLERANCE[dtype])


@cases
def test_torch_op_bfloat16(case: Case) -> None:
    inputs = case.inputs(ml_dtypes.bfloat16)
    wide = {name: torch.from_numpy(a.astype(np.float32)) for name, a in inputs.items()}
    tensors = {name: t.bfloat16() if inputs[name].dtype != np.float32 else t for name, t in wide.items()}
    y = torch_lccl_conv(tensors, case.attributes)
    assert y.dtype == torch.bfloat16
    assert_close(y.float().numpy(), lccl_conv(inputs, case.attributes), 1e-2)


@cases
@dtypes
def test_inlined_view(case: Case, dtype: type) -> None:
    model, feed = case_model(case, dtype)
    view = inlined(model)
    assert not view.functions
    assert {node.domain for node in view.graph.node} == {""}
    assert_close(run(view, feed), expected(case, dtype), TOLERANCE[dtype])


@cases
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_checker_and_strict_inference(case: Case, dynamic: bool) -> None:
    model, _ = case_model(case, dynamic=dynamic)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
