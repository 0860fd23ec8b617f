"""Agreement of outputs: tolerances, samples, hard gates, values that are not finite."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lccl.backends.agreement import require_agreement
from lccl.errors import UserError
from lccl.numerics import agreement, merge, not_finite


def of(reference: list[float], other: list[float], tolerance: float = 1e-4, hard_gates: bool = False):
    shape = (len(reference), 1)
    return agreement({"y": np.reshape(reference, shape)}, {"y": np.reshape(other, shape)}, tolerance, hard_gates=hard_gates)


def test_errors_are_relative_to_the_largest_output() -> None:
    assert of([100.0, 1.0], [100.005, 1.0])
    assert not of([1.0, 1.0], [1.005, 1.0])
    assert not of([0.1, 0.2], [0.1, 0.2001]), "small outputs are held to a small error"
    result = of([100.0, 1.0], [100.5, 1.0])
    assert not result
    assert (result.max_error, result.mean_error, result.relative_error) == pytest.approx((0.5, 0.25, 0.005))


def test_nan_and_infinity() -> None:
    """NaN and infinity agree with nothing, themselves included."""
    for value in (np.nan, np.inf):
        assert not of([value, 1.0], [value, 1.0])
        assert not of([1.0, 2.0], [value, 2.0])
    assert not of([1.0, 2.0], [np.inf, 2.0], hard_gates=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_not_finite_is_refused(value: float) -> None:
    broken = {"x": np.zeros((2, 1)), "y": np.array([[1.0], [value]], np.float32)}
    assert not_finite(broken) == "y"
    with pytest.raises(UserError, match="output y holds NaN or infinity"):
        require_agreement(broken, broken, 1e-4, False, "the model")


def test_only_floats_can_be_not_finite() -> None:
    kinds = ("int64", "uint8", "bool", "float16", "float32", ml_dtypes.bfloat16, "U3")
    assert not_finite({str(kind): np.ones(2).astype(kind) for kind in kinds}) is None
    assert not_finite({"y": np.array([np.nan]).astype(ml_dtypes.bfloat16)}) == "y"


def test_a_minority_may_differ_where_gates_are_hard() -> None:
    assert not of([1, 1, 1], [2, 1, 1])
    assert of([1, 1, 1], [2, 1, 1], hard_gates=True)
    assert not of([1, 1, 1], [2, 2, 1], hard_gates=True)
    assert "1 beyond" in str(of([1, 1, 1], [2, 1, 1], hard_gates=True))


def test_other_names_and_shapes() -> None:
    with pytest.raises(ValueError, match="instead of"):
        agreement({"a": np.zeros(2)}, {"b": np.zeros(2)}, 1e-4)
    with pytest.raises(ValueError, match="has shape"):
        agreement({"a": np.zeros((2, 1))}, {"a": np.zeros((2, 2))}, 1e-4)


def test_integers_must_be_equal() -> None:
    assert agreement({"a": np.arange(3)}, {"a": np.arange(3)}, 1e-4)
    assert not agreement({"a": np.arange(3)}, {"a": np.arange(1, 4)}, 1e-4)


def test_each_output_is_held_to_its_own_size() -> None:
    reference = {"large": np.full((2, 3), 1e4), "small": np.full((2, 3), 0.1)}
    wrong = {"large": np.full((2, 3), 1e4), "small": np.full((2, 3), -0.1)}
    assert agreement(reference, dict(reference), 1e-4)
    assert agreement(reference, wrong, 1e-4).failed_samples == 2


def test_outputs_of_another_first_axis() -> None:
    reference = {"y": np.ones((2, 3)), "flat": np.ones(6), "scalar": np.ones(())}
    assert agreement(reference, dict(reference), 1e-4)
    assert not agreement(reference, {**reference, "flat": np.zeros(6)}, 1e-4)


def test_no_sample() -> None:
    assert agreement({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}, 1e-4).max_error == 0


def test_several_feeds_as_one() -> None:
    parts = [of([1.0, 1.0], [1.0, 1.00002]), of([1.0], [3.0])]
    whole = merge(parts)
    assert (whole.samples, whole.failed_samples, whole.max_error) == (3, 1, 2.0)
    assert whole.mean_error == pytest.approx((0.00002 + 2.0) / 3)


def test_one_sample_is_one_input() -> None:
    one = {"y": np.ones((1, 2))}
    assert str(agreement(one, one, 1e-4)).endswith("over 1 input")
    assert str(agreement(one, one, 1e-4).over("two given")).endswith("over two given")
