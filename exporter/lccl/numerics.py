"""Arrays of samples, and the agreement of two implementations of a network on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lccl.console.text import count
from lccl.errors import UserError, first_line, kind_of

Array = npt.NDArray[Any]
_PART = 2**22
"""Elements of an array that are looked at together."""
Axes = Mapping[str, int | None]
"""Array -> the axis of its samples; None: it has none, and is the same for all samples. An array
that is not named has its samples first, a single number has none."""
SMALLEST_SCALE = 0.01
"""The smallest output size that errors are relative to: rounding grows with the summands, not with
the sum."""


@dataclass(frozen=True)
class Agreement:
    """The comparison of one implementation's outputs with a reference; true if they agree."""

    max_error: float
    mean_error: float
    relative_error: float
    """The largest over the outputs of max error / max(0.01, largest value of that output)."""
    failed_samples: int
    """The number of samples with an output beyond the tolerance."""
    samples: int
    tolerance: float
    hard_gates: bool
    """Whether gates jump (binary ones, or ones with a threshold). A logit at the edge may then fall
    on either side, so that a minority of samples may differ."""

    def __bool__(self) -> bool:
        if not np.isfinite(self.max_error):
            return False
        return self.failed_samples == 0 or (self.hard_gates and 2 * self.failed_samples < self.samples)

    def __str__(self) -> str:
        return self.over(count(self.samples, "input"))

    def over(self, inputs: str) -> str:
        """Return the agreement as text; ``inputs`` counts the inputs, such as "8 images"."""
        text = f"max error {self.max_error:.1e}, mean {self.mean_error:.1e} over {inputs}"
        return text + (f", {self.failed_samples} beyond {self.tolerance:.0e}" if self.failed_samples else "")


def agreement(
    reference: Mapping[str, Array], other: Mapping[str, Array], tolerance: float, *, hard_gates: bool = False
) -> Agreement:
    """Compare outputs by name; the first axis of the first output counts the samples.

    Args:
        reference: the reference's outputs.
        other: the other implementation's outputs, of the same names and shapes.
        tolerance: the allowed error of a sample, relative to max(0.01, largest value of that output
            in the reference).
        hard_gates: whether gates jump; see :attr:`Agreement.hard_gates`.

    Raises:
        ValueError: names or shapes differ.
    """
    if list(reference) != list(other):
        raise ValueError(f"outputs {list(other)} instead of {list(reference)}")
    samples = max(1, len(next(iter(reference.values()))) if next(iter(reference.values())).ndim else 1)
    failed = np.zeros(samples, bool)
    errors, relative = [], [0.0]
    for name, expected in reference.items():
        got = other[name]
        if got.shape != expected.shape:
            raise ValueError(f"output {name} has shape {list(got.shape)} instead of {list(expected.shape)}")
        error = _absolute_error(expected, got)
        finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
        scale = max(SMALLEST_SCALE, float(finite.max(initial=0.0)))
        errors.append(error.ravel())
        relative.append(float(error.max(initial=0.0)) / scale)
        if error.size and error.ndim and len(error) == samples:
            failed |= error.reshape(samples, -1).max(axis=1) > tolerance * scale
        elif relative[-1] > tolerance:
            failed[:] = True
    every = np.concatenate(errors)
    maximum, mean = float(every.max(initial=0.0)), float(every.mean()) if every.size else 0.0
    return Agreement(maximum, mean, max(relative), int(failed.sum()), samples, tolerance, hard_gates)


def _absolute_error(expected: Array, got: Array) -> Array:
    """Return |expected - got| in float64, and infinity where either is NaN or infinite."""
    a, b = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b)
    return np.where(np.isfinite(error), error, np.inf)


def sample_axis(name: str, values: Array, axes: Axes) -> int | None:
    """Return the axis of an array's samples; None if it is the same for all samples."""
    return axes.get(name, 0) if values.ndim else None


def count_samples(arrays: Mapping[str, Array], axes: Axes) -> int:
    """Return the number of samples of the arrays that have any; 1 if none has.

    Raises:
        UserError: the arrays have different numbers of samples.
    """
    places = {name: sample_axis(name, values, axes) for name, values in arrays.items()}
    found = {name: arrays[name].shape[axis] for name, axis in places.items() if axis is not None}
    if len(set(found.values())) > 1:
        raise UserError(f"the data's arrays differ in length: {', '.join(f'{name} {size}' for name, size in found.items())}")
    return next(iter(found.values()), 1)


def take_samples(arrays: Mapping[str, Array], axes: Axes, start: int, stop: int | None) -> dict[str, Array]:
    """Return the samples from ``start`` to before ``stop`` of each array that has any."""
    taken = {}
    for name, values in arrays.items():
        axis = sample_axis(name, values, axes)
        taken[name] = values if axis is None else values[(slice(None),) * axis + (slice(start, stop),)]
    return taken


def float32(value: object) -> Array:
    """Return the value as an array, with float64, NumPy's default, converted to float32.

    Raises:
        UserError: it is no array of numbers.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # of whatever the value's own conversion raises
        raise UserError(f"data comes as arrays of numbers, which {kind_of(value)} is not: {first_line(error)}") from None
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise UserError(f"data comes as arrays of numbers, not as {kind_of(value)} of {array.dtype}")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def not_finite(arrays: Mapping[str, Array]) -> str | None:
    """Return the name of the first array with NaN or infinity in it; None if all are finite."""
    for name, array in arrays.items():
        if (array.dtype.kind in "fc" or array.dtype.name == "bfloat16") and not all(map(_is_finite, _parts(array))):
            return name
    return None


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array).all())


def _parts(array: Array) -> Iterator[Array]:
    """Yield the array in parts of a few megabytes: one in a file is larger than the memory."""
    rows = max(1, _PART // max(1, array[:1].size)) if array.ndim else 0
    yield from (array[i : i + rows] for i in range(0, len(array), rows)) if rows else (array,)


def require_finite(inputs: Mapping[str, Array]) -> None:
    """Refuse inputs with NaN or infinity, whose outputs prove nothing.

    Raises:
        UserError: an input holds NaN or infinity.
    """
    name = not_finite(inputs)
    if name is not None:
        raise UserError(f"input {name} of the data holds NaN or infinity, which proves nothing: clean the data")


def merge(parts: Sequence[Agreement]) -> Agreement:
    """Combine the agreements of the same two implementations on several feeds."""
    samples = sum(p.samples for p in parts)
    return replace(
        parts[0],
        max_error=max(p.max_error for p in parts),
        mean_error=sum(p.mean_error * p.samples for p in parts) / samples,
        relative_error=max(p.relative_error for p in parts),
        failed_samples=sum(p.failed_samples for p in parts),
        samples=samples,
    )
