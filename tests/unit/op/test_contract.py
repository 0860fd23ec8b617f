"""The contract's own rules: attributes, shapes, and the pads that make a gate fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lccl.errors import ContractError
from lccl.op.contract import (
    ATTRIBUTES,
    BINARY_SLOPE,
    FLT_MAX,
    INPUT_NAMES,
    INPUTS,
    Attributes,
    conv_hw,
    gate_pads,
    grid_hw,
    output_shape,
)
from lccl.op.onnx_op import make_node, node_attributes

SHAPES: dict[str, tuple[int, ...]] = {
    "X": (2, 8, 9, 11),
    "W": (6, 3, 3, 8),
    "B": (6,),
    "gate_W": (1, 1, 1, 8),
    "gate_B": (1,),
    "gate": (1, 1, 1, 1),
    "post_scale": (1,),
    "post_bias": (1,),
    "residual": (1, 1, 1, 1),
}


def test_names_and_order_are_version_1() -> None:
    """Existing files and plugins depend on these names, so a change needs a new op version."""
    assert INPUT_NAMES == ("X", "W", "B", "gate_W", "gate_B", "gate", "post_scale", "post_bias", "residual")
    assert [(a.name, a.kind) for a in ATTRIBUTES] == [
        ("strides", "ints"),
        ("pads", "ints"),
        ("dilations", "ints"),
        ("gate_strides", "ints"),
        ("gate_pads", "ints"),
        ("gate_dilations", "ints"),
        ("activation_alpha", "float"),
        ("gate_slope", "float"),
        ("gate_max", "float"),
        ("gate_threshold", "float"),
        ("gate_upsample", "floats"),
        ("post_alpha", "float"),
        ("gate_source", "string"),
        ("density", "float"),
        ("plugin_version", "string"),
        ("plugin_namespace", "string"),
    ]
    assert {s.name: s.neutral for s in INPUTS if s.neutral is not None} == {
        "B": 0.0,
        "gate_W": 0.0,
        "gate": 1.0,
        "post_scale": 1.0,
        "post_bias": 0.0,
        "residual": 0.0,
    }
    assert [s.name for s in INPUTS if not s.is_tensor_type] == ["B", "gate_B", "post_scale", "post_bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": (0, 1)}, "strides must be positive"),
        ({"strides": (1, 1, 1)}, "strides takes 2 numbers, not 3"),
        ({"pads": (0, -1, 0, 0)}, "pads must not be negative"),
        ({"strides": (1.9, 1)}, "of kind ints"),
        ({"strides": "22"}, "of kind ints"),
        ({"activation_alpha": float("nan")}, "activation_alpha must be a finite float32"),
        ({"post_alpha": float("-inf")}, "post_alpha must be a finite float32"),
        ({"post_alpha": 1e39}, "post_alpha must be a finite float32"),
        ({"gate_max": float("inf")}, "gate_max must be a finite float32"),
        ({"gate_threshold": float("inf")}, "gate_threshold must be a finite float32"),
        ({"gate_slope": 2e30}, "gate_slope must not be above 1e\\+30"),
        ({"gate_slope": float("inf")}, "gate_slope must not be above"),
        ({"gate_upsample": (1, 1, float("inf"), float("inf"))}, "whole G"),
        ({"gate_upsample": (1, 1, 2, 3)}, "whole G"),
        ({"gate_upsample": (1, 1, 1.5, 1.5)}, "whole G"),
        ({"gate_slope": float("nan")}, "must be positive"),
        ({"gate_threshold": -1.0}, "not negative"),
        ({"gate_source": "elsewhere"}, "fused or external"),
        ({"density": 1.5}, "between 0 and 1"),
        ({"density": "many"}, "of kind float"),
        ({"groups": 2}, "no attribute groups"),
    ],
)
def test_attributes_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Attributes.from_mapping(change)


def test_the_limits_survive_float32() -> None:
    """A node stores 1e30 as float32, in which it is a little larger."""
    values = Attributes(gate_slope=BINARY_SLOPE, gate_max=FLT_MAX)
    assert node_attributes(make_node(INPUT_NAMES, ["Y"], values)).gate_slope == float(np.float32(1e30)) > BINARY_SLOPE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": (2, 8, 9)}, "X must have rank 4"),
        ({"W": (6, 3, 3, 4)}, "groups are not part of version 1"),
        ({"W": (6, 15, 3, 8)}, "smaller than the kernel"),
        ({"gate_W": (2, 1, 1, 8)}, "gate_W must be"),
        ({"gate_W": (1, 5, 5, 8)}, "the gate's convolution gives 5x7"),
        ({"gate": (2, 1, 9, 10)}, "gate must be"),
        ({"gate": (1, 1, 9, 11)}, "gate must be"),
        ({"post_scale": (5,)}, "post_scale must be"),
        ({"residual": (2, 6, 9, 12)}, "residual must be"),
    ],
)
def test_shapes_are_checked(change: dict[str, tuple[int, ...]], message: str) -> None:
    assert output_shape(SHAPES, Attributes(pads=(1, 1, 1, 1))) == (2, 6, 9, 11)
    with pytest.raises(ContractError, match=message):
        output_shape({**SHAPES, **change}, Attributes(pads=(1, 1, 1, 1)))


def test_a_missing_input_is_named() -> None:
    with pytest.raises(ContractError, match="inputs residual are missing"):
        output_shape({k: v for k, v in SHAPES.items() if k != "residual"}, Attributes())


small = st.integers(1, 5)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    hw=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    kernel=st.tuples(small, small),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    gate_kernel=st.tuples(small, small),
    grid=st.integers(1, 8),
)
def test_gate_pads_fit_every_size(hw, kernel, pads, dilations, strides, gate_kernel, grid) -> None:
    """With the pads, the gate map has ceil(Ho / G) x ceil(Wo / G) values; else no pads exist."""
    ho, wo = conv_hw(hw, kernel, strides, pads, dilations)
    if ho < 1 or wo < 1:
        return
    slack = [pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) + gate_kernel[i] - 1 for i in (0, 1)]
    try:
        found = gate_pads(kernel, pads, dilations, strides, gate_kernel, grid)
    except ContractError:
        assert min(slack) < 0
        return
    assert min(found) >= 0
    gate_strides = (strides[0] * grid, strides[1] * grid)
    assert conv_hw(hw, gate_kernel, gate_strides, found, (1, 1)) == grid_hw((ho, wo), grid)
