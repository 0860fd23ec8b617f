"""The dense twin: the reference's own maths with g = 1 everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from lccl.graph.variants.dense import dense_twin
from lccl.op.reference import lccl_conv
from support.cases.op_cases import CASES, Case
from support.graphs.models import case_model, op_types, run

FINITE = [c for c in CASES if c.fill != "nan"]


@pytest.mark.parametrize("case", FINITE, ids=lambda c: c.name)
def test_it_is_the_reference_with_every_gate_open(case: Case) -> None:
    model, feed = case_model(case)
    twin = dense_twin(model)
    onnx.checker.check_model(twin, full_check=True)
    inputs = case.inputs()
    inputs["gate_W"], inputs["gate_B"] = np.zeros_like(inputs["gate_W"]), np.ones_like(inputs["gate_B"])
    inputs["gate"] = np.ones((1, 1, 1, 1), np.float32)
    attributes = replace(case.attributes, gate_slope=1.0, gate_max=1.0, gate_threshold=0.0)
    expected = lccl_conv(inputs, attributes)
    names = {v.name for v in twin.graph.input}
    np.testing.assert_allclose(run(twin, {k: v for k, v in feed.items() if k in names}), expected, rtol=1e-5, atol=1e-5)


def test_only_what_a_dense_network_would_have() -> None:
    ops = {c.name: op_types(dense_twin(case_model(c)[0])) for c in CASES}
    assert ops["plain"] == ["Conv"]
    assert ops["paper"] == ["Conv", "Relu"]
    assert ops["residual"] == ["Conv", "Add", "Relu"]
    assert ops["released"] == ["Conv", "Relu"], "an affine after a linear convolution is folded into it"
    assert ops["everything"] == ["Conv", "Relu", "Mul", "Add", "Add", "Relu"]
    assert not any("LCCLConv" in types for types in ops.values())


def test_the_users_own_functions_stay() -> None:
    model, feed = case_model(CASES[0])
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[0].output[0] = "layer_out"
    model.graph.node.append(helper.make_node("Twice", ["layer_out"], ["Y"], domain="mine"))
    plain = run(dense_twin(case_model(CASES[0])[0]), feed)
    np.testing.assert_allclose(run(dense_twin(model), feed), 2 * plain, rtol=1e-6)
