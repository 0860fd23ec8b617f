"""Where the batch stands in the inputs and outputs of a model: states and rates are no batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from lccl.numerics import Axes

Dims = Sequence[int | str | None]
"""Sizes of a tensor: a number, the name of a dynamic size, or None (or a number below 1) for one
without a name."""


@dataclass(frozen=True)
class BatchAxes:
    """The axis of the samples of each input and output.

    An input of None is the same for all samples, and is passed whole.
    """

    inputs: Axes = field(default_factory=dict)
    outputs: Axes = field(default_factory=dict)


def dims_of(kind: onnx.TypeProto.Tensor) -> Dims:
    """Return the sizes of a tensor's type."""
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]


def find_batch_axes(inputs: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> BatchAxes:
    """Find the batch by the name of its size, else by its place.

    The batch is the size whose name says so, else the first dynamic size that leads an input. It
    may stand at another axis of other inputs, as in a state [2, batch, 128]. Where a size has no
    name, it leads, or is the only one that is dynamic in a state of three axes. An input that leads
    with a fixed size beside a dynamic batch is no batch. Where every size is fixed, the batch is
    the size that leads the first output, if one leads an input too, else the first input.
    """
    named = _named_batch(inputs.values())
    if named is None and not any(dims and is_dynamic(dims[0]) for dims in inputs.values()):
        return _of_fixed_sizes(inputs, outputs)
    leading = {dims[0] for dims in inputs.values() if dims}
    others = {size for dims in inputs.values() for size in dims[1:] if isinstance(size, str)}
    found: dict[str, int | None] = {}
    for name, dims in inputs.items():
        if named in dims and named is not None:
            found[name] = list(dims).index(named)
        elif dims and is_dynamic(dims[0]) and (named is None or dims[0] not in others):
            found[name] = 0
        else:
            found[name] = 1 if None in leading and _is_state(dims) else None
    has_states = any(axis == 1 for axis in found.values())
    return BatchAxes(found, {name: _of_output(dims, named, has_states) for name, dims in outputs.items()})


def is_dynamic(size: int | str | None) -> bool:
    """Return whether a size may be any number: other tools write 0 or -1 for that."""
    return not isinstance(size, int) or size < 1


def _named_batch(inputs: Iterable[Dims]) -> str | None:
    """Return the name of the batch's size; None if it has no name."""
    shapes = list(inputs)
    said = [size for dims in shapes for size in dims if isinstance(size, str) and "batch" in size.lower()]
    first = next((dims[0] for dims in shapes if dims and is_dynamic(dims[0])), None)
    return said[0] if said else first if isinstance(first, str) else None


def _is_state(dims: Dims) -> bool:
    return len(dims) == 3 and [is_dynamic(size) for size in dims] == [False, True, False]


def _of_output(dims: Dims, named: str | None, has_states: bool) -> int:
    if named is not None and named in dims:
        return list(dims).index(named)
    if dims and not is_dynamic(dims[0]):
        return next((axis for axis, size in enumerate(dims) if is_dynamic(size) and not isinstance(size, str)), 0)
    return 1 if has_states and list(dims) == [None] * 3 else 0


def _of_fixed_sizes(inputs: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> BatchAxes:
    leading = [dims[0] for dims in inputs.values() if dims]
    led = [dims[0] for dims in outputs.values() if dims and dims[0] in leading]
    batch = (led or leading or [None])[0]
    found = {name: 0 if dims and dims[0] == batch else None for name, dims in inputs.items()}
    return BatchAxes(found, {name: _of_fixed_output(dims, batch) for name, dims in outputs.items()})


def _of_fixed_output(dims: Dims, batch: int | str | None) -> int:
    return 0 if not dims or dims[0] == batch or list(dims).count(batch) != 1 else list(dims).index(batch)
