"""Descriptions of calls: which inputs are given, sizes, and devices as text."""

from __future__ import annotations

import pytest

from lccl.backends.torch.cuda.interface import ABI, Dtype, Layout
from lccl.backends.torch.cuda.planning import (
    POINTERS,
    conv_params,
    layer_attributes,
    layer_shapes,
    padded,
    parse_device,
    real_inputs,
)
from lccl.errors import ContractError, UserError
from lccl.op.contract import INPUT_NAMES, Attributes, grid_hw, output_shape
from support.cases.op_cases import CASES, Case


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def shapes_of(case: Case) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in case.inputs().items()}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_real_inputs_of_the_named_cases(case: Case) -> None:
    shapes = shapes_of(case)
    n, k, ho, wo = output_shape(shapes, case.attributes)
    real = real_inputs(shapes, case.attributes)
    assert real >= {"X", "W", "B", "gate_B", "post_scale", "post_bias"}
    assert ("gate_W" in real) == (case.gate != "external")
    one_pixel_map = (n, *grid_hw((ho, wo), case.grid)) == (1, 1, 1)
    assert ("gate" in real) == (case.gate in ("external", "both") or one_pixel_map)
    assert ("residual" in real) == (case.residual or (n, k, ho, wo) == (1, 1, 1, 1))


def test_a_full_shape_of_one_element_is_a_real_tensor() -> None:
    """With N = K = Ho = Wo = 1 the neutral shape is the full shape, so the input is passed."""
    attributes = layer_attributes((1, 1))
    shapes = layer_shapes((1, 3, 1, 1), 1, (1, 1), attributes)
    assert real_inputs(shapes, attributes) == set(INPUT_NAMES)
    assert real_inputs(shapes | {"X": (2, 3, 1, 1)}, attributes) == set(INPUT_NAMES) - {"gate", "residual"}


def test_every_field_says_what_the_contract_says() -> None:
    case = named("everything")
    a = Attributes(**case.attributes.as_dict() | {"density": 0.25, "gate_threshold": 0.5, "gate_slope": 2.0, "gate_max": 3.0})
    shapes = shapes_of(case)
    params = conv_params(shapes, a, Dtype.BFLOAT16)
    assert (params.abi, params.dtype, params.layout) == (ABI, Dtype.BFLOAT16, Layout.NHWC)
    assert (params.n, params.c, params.h, params.w) == shapes["X"]
    assert (params.k, params.r, params.s, params.c) == shapes["W"]
    assert (1, params.gate_r, params.gate_s, params.c) == shapes["gate_W"]
    for name in ("strides", "pads", "dilations", "gate_strides", "gate_pads", "gate_dilations"):
        assert tuple(getattr(params, name)) == getattr(a, name), name
    for name in ("activation_alpha", "gate_slope", "gate_max", "gate_threshold", "post_alpha", "density"):
        assert getattr(params, name) == pytest.approx(getattr(a, name)), name
    assert (params.grid, params.post_scale_size, params.post_bias_size) == (a.grid, case.k, case.k)
    for name in ("gate_W", "gate", "residual"):
        assert bool(getattr(params, f"has_{POINTERS[name]}")) == (name in real_inputs(shapes, a)), name
    assert not any(getattr(params, field) for field in (*POINTERS.values(), "y"))


def test_layouts() -> None:
    attributes = layer_attributes((3, 3))
    shapes = layer_shapes((1, 3, 9, 9), 5, (3, 3), attributes)
    assert [conv_params(shapes, attributes, d).layout for d in Dtype] == [Layout.NCHW, Layout.NHWC, Layout.NHWC]
    assert conv_params(shapes, attributes, Dtype.FLOAT32, Layout.NHWC).layout == Layout.NHWC
    assert [padded(c) for c in (1, 8, 9, 16)] == [8, 8, 16, 16]


def test_a_number_that_32_bits_do_not_hold() -> None:
    attributes = Attributes(pads=(2**31, 0, 0, 0), gate_pads=(2**31, 0, 0, 0))
    shapes = layer_shapes((1, 3, 9, 9), 5, (1, 1), attributes)
    with pytest.raises(ContractError, match="pads = 2147483648 is more than"):
        conv_params(shapes, attributes, Dtype.FLOAT16)


def test_an_external_gate_has_its_map() -> None:
    attributes = layer_attributes((3, 3), grid=4, external=True)
    shapes = layer_shapes((2, 8, 30, 17), 8, (3, 3), attributes, external=True)
    assert shapes["gate"] == (2, 1, 8, 5)
    assert "gate_W" not in real_inputs(shapes, attributes)


def test_devices_in_words() -> None:
    device = parse_device("9.0x132")
    assert (device.compute_capability, device.sm_count, device.shared_per_block, device.shared_per_sm) == (
        90,
        132,
        232448,
        233472,
    )
    device = parse_device("12.0X170x1000x2000")
    assert (device.compute_capability, device.sm_count, device.shared_per_block, device.shared_per_sm) == (120, 170, 1000, 2000)


@pytest.mark.parametrize("text", ["", "9.0", "9x132", "9.0x0", "9.0x132x5", "9.0x-1", "a.bx1", "9.00x1"])
def test_devices_written_otherwise(text: str) -> None:
    with pytest.raises(UserError, match="a device is written like"):
        parse_device(text)
