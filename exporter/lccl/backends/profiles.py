"""The shapes that an engine takes: one range for each input with dynamic dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lccl.backends.interface import BuildRequest, OptimizationProfile
from lccl.errors import Fix, UserError, shown
from lccl.graph.batch_axes import Dims, dims_of, is_dynamic
from lccl.graph.inputs import batch_axes, input_types

DEFAULT_BATCH = 8
"""The largest batch of an engine, where none is told."""
EXAMPLE_SIZE = 224
"""A size for the example in a message."""


Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The smallest, the best and the largest shape of an input."""


def make_profiles(request: BuildRequest) -> tuple[OptimizationProfile, ...]:
    """One range per input with dynamic dimensions; a dynamic batch is 1 to 8 unless told otherwise.

    A dynamic size that inputs share is given once: the shapes of one input tell those of another.

    Raises:
        UserError: a dimension other than the batch without a shape, an unknown input, or a shape
            that does not fit.
    """
    inputs = {name: dims_of(kind) for name, kind in input_types(request.model).items()}
    for name in {*request.min_shapes, *request.opt_shapes, *request.max_shapes} - set(inputs):
        raise UserError(f"the model has no input {shown(name)}; it has {', '.join(inputs)}")
    axes = batch_axes(request.model).inputs
    ranges: dict[str, Range] = {}
    for name, dims in inputs.items():
        given = [shapes.get(name) for shapes in (request.min_shapes, request.opt_shapes, request.max_shapes)]
        for shape in given:
            if shape is not None:
                _require_fit(name, dims, shape)
        if any(map(is_dynamic, dims)) and any(shape is not None for shape in given):
            ranges[name] = _completed(given, axes[name])
    known = {size: limits for name, shapes in ranges.items() for size, *limits in zip(inputs[name], *shapes, strict=True)}
    batches = [[shape[axis] for shape in shapes] for name, shapes in ranges.items() if (axis := axes[name]) is not None]
    batch = batches[0] if batches else [1, 1, DEFAULT_BATCH]
    for name, dims in inputs.items():
        if name not in ranges and any(map(is_dynamic, dims)):
            ranges[name] = _derived(name, dims, axes[name], known, batch)
    for name, (low, best, high) in ranges.items():
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise UserError(f"shapes of {name} must grow from min {list(low)} over opt {list(best)} to max {list(high)}")
    return tuple(OptimizationProfile(name, *ranges[name]) for name in inputs if name in ranges)


def _completed(given: Sequence[Sequence[int] | None], axis: int | None) -> Range:
    """The range of which at least one shape is given."""
    some = next(tuple(shape) for shape in given if shape is not None)
    low, best, high = (None if shape is None else tuple(shape) for shape in given)
    low = low or (some if axis is None else _with_batch(some, axis, 1))
    best = best or high or low
    return low, best, high or (best if axis is None else _with_batch(best, axis, max(DEFAULT_BATCH, best[axis])))


def _with_batch(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _derived(
    name: str, dims: Dims, axis: int | None, known: Mapping[int | str | None, Sequence[int]], batch: Sequence[int]
) -> Range:
    """The range of an input without a given shape, from the batch and sizes that others share."""
    columns: list[Sequence[int]] = []
    for place, size in enumerate(dims):
        if not is_dynamic(size):
            columns.append((int(size or 0),) * 3)
        elif isinstance(size, str) and size in known:
            columns.append(known[size])
        elif place == axis:
            columns.append(batch)
        else:
            example = (1 if i == axis else EXAMPLE_SIZE if is_dynamic(d) else d for i, d in enumerate(dims))
            raise UserError(
                f"input {name} is {_text(dims)}, and an engine needs to know its sizes",
                Fix("opt_shapes", {name: tuple(example)}, "or the like"),
            )
    low, best, high = zip(*columns, strict=True)
    return low, best, high


def _require_fit(name: str, dims: Dims, shape: Sequence[int]) -> None:
    fits = len(shape) == len(dims) and all(is_dynamic(d) or d == s for d, s in zip(dims, shape, strict=True))
    if not fits or min(shape, default=1) < 1:
        raise UserError(f"shape {shape_text(shape)} does not fit input {name}, which is {_text(dims)}")


def _text(dims: Dims) -> str:
    return shape_text(["?" if is_dynamic(size) else size for size in dims]) or "a single number"


def shape_text(shape: Sequence[object]) -> str:
    """ "1x3x224x224"."""
    return "x".join(map(str, shape))
