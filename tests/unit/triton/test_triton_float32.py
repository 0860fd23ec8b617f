"""float32 on tensor cores: three products of TF32 (TF32x3), whose error a model of the split bounds.

The interpreter multiplies float32 itself, whatever precision is asked for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.op.reference import lccl_conv
from support.cases.op_cases import CASES, Array, Case

pytest.importorskip("triton", reason="pip install triton")
TOLERANCE = 1e-5
"""Of float32, relative to max(1, largest output)."""
DEEP = Case("deep", "a long sum", c=512, k=8, hw=(5, 6))


def tf32(values: Array) -> Array:
    """Round float32 to the 10 bits of TF32's mantissa: to the nearest, ties away from 0 (cvt.rna)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


def with_products(case: Case, products: int) -> float:
    """Error of the op by 1 or 3 products of TF32, each summed in float32; relative as TOLERANCE."""
    inputs = case.inputs()
    want = lccl_conv(inputs, case.attributes)
    x, w = inputs["X"], inputs["W"]
    high_x, high_w = tf32(x), tf32(w)
    low_x, low_w = tf32(x - high_x), tf32(w - high_w)
    pairs = [(high_x, high_w)] if products == 1 else [(low_x, high_w), (high_x, low_w), (high_x, high_w)]
    # As the kernel does, but for the order of the sums: the convolutions alone, then all the rest with their sum.
    plain = replace(case.attributes, activation_alpha=1.0, post_alpha=1.0)
    sums = np.zeros(want.shape, np.float32)
    for a, b in pairs:
        sums += _convolution(a, b, plain)
    exact = _convolution(x.astype(np.float64), w.astype(np.float64), plain)
    error = np.abs(sums.astype(np.float64) - exact)
    g = np.abs(want).max(initial=1.0)
    scale = np.abs(inputs["post_scale"]).max() * _largest_gate(case)
    return float(error.max(initial=0) * scale / g)


def _convolution(x: Array, w: Array, a: object) -> Array:
    from lccl.op.reference import _conv

    return _conv(x, w, np.zeros(w.shape[0], x.dtype), a.strides, a.pads, a.dilations)  # type: ignore[attr-defined]


def _largest_gate(case: Case) -> float:
    from lccl.op.reference import lccl_gate

    return float(lccl_gate(case.inputs(), case.attributes).max(initial=0))


@pytest.mark.parametrize("case", [*(c for c in CASES if "nan" not in c.name), DEEP], ids=lambda case: case.name)
def test_three_products_of_tf32_are_within_the_tolerance(case: Case) -> None:
    assert with_products(case, 3) <= TOLERANCE


def test_one_product_is_not() -> None:
    assert with_products(CASES[0], 1) > 10 * TOLERANCE
    assert with_products(DEEP, 1) > 10 * TOLERANCE


def test_the_split_leaves_what_float32_rounds_away() -> None:
    """Two parts of 11 bits each hold 22 to 24 bits of a float32's 24."""
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    high = tf32(values)
    low = tf32(values - high)
    assert (np.abs(high + low.astype(np.float64) - values) <= 2.0**-22 * np.abs(values)).all()
    assert np.array_equal(tf32(high), high)
    assert tf32(np.float32([1 + 2.0**-11]))[0] == np.float32(1 + 2.0**-10)
