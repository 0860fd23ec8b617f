"""The shapes that an engine takes: one range for each input with dynamic dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from lccl.backends.interface import BuildRequest, OptimizationProfile
from lccl.errors import Fix, UserError, shown
from lccl.graph.feeds import input_types

EXAMPLE_SIZE = 224
"""A size for the example in a message."""


def make_profiles(request: BuildRequest) -> tuple[OptimizationProfile, ...]:
    """One range per input with dynamic dimensions; a dynamic batch is 1 to 8 unless told otherwise.

    Raises:
        UserError: a dimension other than the batch without a shape, an unknown input, or a shape
            that does not fit.
    """
    inputs = {name: kind.shape.dim for name, kind in input_types(request.model).items()}
    for name in {*request.min_shapes, *request.opt_shapes, *request.max_shapes} - set(inputs):
        raise UserError(f"the model has no input {shown(name)}; it has {', '.join(inputs)}")
    profiles = []
    for name, dims in inputs.items():
        fixed = [d.dim_value if d.HasField("dim_value") else None for d in dims]
        given = [shapes.get(name) for shapes in (request.min_shapes, request.opt_shapes, request.max_shapes)]
        for shape in filter(None, given):
            _require_fit(name, fixed, shape)
        if None not in fixed:
            continue
        any_given = given[0] or given[1] or given[2]
        low = given[0] or ((1, *any_given[1:]) if any_given and fixed[0] is None else any_given) or _default(name, fixed, 1)
        best = given[1] or given[2] or low
        high = given[2] or (_with_larger_batch(best) if fixed[0] is None else best)
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise UserError(f"shapes of {name} must grow from min {list(low)} over opt {list(best)} to max {list(high)}")
        profiles.append(OptimizationProfile(name, tuple(low), tuple(best), tuple(high)))
    return tuple(profiles)


def _with_larger_batch(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape with a batch of at least 8."""
    return (max(8, shape[0]), *shape[1:])


def _default(name: str, fixed: list[int | None], batch: int) -> tuple[int, ...]:
    if any(d is None for d in fixed[1:]):
        shape = "x".join(str(d or "?") for d in fixed)
        example = {name: (1, *(d or EXAMPLE_SIZE for d in fixed[1:]))}
        raise UserError(
            f"input {name} is {shape}, and an engine needs to know its sizes", Fix("opt_shapes", example, "or the like")
        )
    return (batch, *(d for d in fixed[1:] if d is not None))


def _require_fit(name: str, fixed: list[int | None], shape: Sequence[int]) -> None:
    fits = len(shape) == len(fixed) and all(f is None or f == s for f, s in zip(fixed, shape, strict=True))
    if not fits or min(shape) < 1:
        wanted = "x".join(str(d or "?") for d in fixed)
        raise UserError(f"shape {shape_text(shape)} does not fit input {name}, which is {wanted}")


def shape_text(shape: Sequence[int]) -> str:
    """ "1x3x224x224"."""
    return "x".join(map(str, shape))
