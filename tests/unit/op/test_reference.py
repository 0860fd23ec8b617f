"""The reference against loops that follow the contract's text pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lccl.errors import ContractError
from lccl.op.contract import Attributes, output_shape
from lccl.op.reference import lccl_conv
from support.cases.op_cases import CASES, Case

SMALL = [c for c in CASES if c.hw[0] * c.hw[1] * c.kernel[0] * c.kernel[1] * c.c * c.k * c.n < 200_000]


def window(x: np.ndarray, n: int, top: int, left: int, w: np.ndarray, dilations: tuple[int, int]) -> np.ndarray:
    """sum over w [R, S, C] of x[n] at the window whose first tap is (top, left); zero outside."""
    total = 0.0
    for r in range(w.shape[0]):
        for s in range(w.shape[1]):
            i, j = top + r * dilations[0], left + s * dilations[1]
            if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]:
                total += float(np.dot(w[r, s], x[n, :, i, j]))
    return total


def by_the_text(inputs: dict[str, np.ndarray], a: Attributes) -> np.ndarray:
    t = {name: value.astype(np.float64) for name, value in inputs.items()}
    y = np.zeros(output_shape({name: v.shape for name, v in inputs.items()}, a))

    def at(value: np.ndarray, *index: int) -> float:
        return float(value[tuple(i if d > 1 else 0 for i, d in zip(index, value.shape, strict=True))])

    for n, k, ho, wo in np.ndindex(*y.shape):
        hg, wg = ho // a.grid, wo // a.grid
        top, left = hg * a.gate_strides[0] - a.gate_pads[0], wg * a.gate_strides[1] - a.gate_pads[1]
        logit = t["gate_B"][0] + window(t["X"], n, top, left, t["gate_W"][0], a.gate_dilations)
        g = min(max(a.gate_slope * logit, 0.0), a.gate_max) * at(t["gate"], n, 0, hg, wg)
        v = 0.0
        if not math.isnan(logit) and g > a.gate_threshold:
            top, left = ho * a.strides[0] - a.pads[0], wo * a.strides[1] - a.pads[1]
            u = t["B"][k] + window(t["X"], n, top, left, t["W"][k], a.dilations)
            v = (u if u > 0 else a.activation_alpha * u) * g
        z = v * at(t["post_scale"], k) + at(t["post_bias"], k) + at(t["residual"], n, k, ho, wo)
        y[n, k, ho, wo] = z if z > 0 else a.post_alpha * z
    return y


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_reference_follows_the_contract(case: Case) -> None:
    inputs = case.inputs()
    np.testing.assert_allclose(lccl_conv(inputs, case.attributes), by_the_text(inputs, case.attributes), rtol=1e-12, atol=1e-12)


def test_most_cases_are_small_enough_for_the_loops() -> None:
    assert len(SMALL) >= 30


def test_nan_of_an_active_pixel_reaches_the_output() -> None:
    """Only inactive pixels hide a NaN."""
    case = Case("active-nan", "", gate="external", fill="all-on")
    inputs = case.inputs()
    inputs["W"] = np.full_like(inputs["W"], np.nan)
    assert np.isnan(lccl_conv(inputs, case.attributes)).all()


def test_inactive_pixels_get_the_post_part_only() -> None:
    case = Case("off", "", fill="all-off", post=True, residual=True, post_alpha=0.25)
    inputs = case.inputs()
    z = inputs["post_bias"].astype(np.float64)[None, :, None, None] + inputs["residual"]
    np.testing.assert_array_equal(lccl_conv(inputs, case.attributes), np.where(z > 0, z, 0.25 * z))


def test_shapes_are_checked() -> None:
    case = CASES[0]
    inputs = case.inputs()
    inputs["B"] = np.zeros(5, np.float32)
    with pytest.raises(ContractError, match=r"B must be \[6\], not \[5\]"):
        lccl_conv(inputs, case.attributes)
