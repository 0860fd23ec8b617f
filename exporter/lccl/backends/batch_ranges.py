"""The number of samples that suits all inputs of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lccl.backends.interface import Batches
from lccl.errors import UserError
from lccl.graph.batch_axes import Dims
from lccl.numerics import Axes


def common_batches(ranges: Sequence[Batches]) -> Batches:
    """The number of samples that suits every input.

    Raises:
        UserError: there is none.
    """
    common = Batches(
        max((r.least for r in ranges), default=1), min((r.most for r in ranges if r.most is not None), default=None)
    )
    if common.least not in common:
        raise UserError(f"the inputs take different numbers of samples: {', '.join(map(str, ranges))}")
    return common


def common_batches_of(shapes: Mapping[str, Dims], axes: Axes) -> Batches:
    """The number of samples that suits inputs of these sizes.

    Raises:
        UserError: there is none.
    """
    sizes = [dims[axis] for name, dims in shapes.items() if (axis := axes.get(name)) is not None]
    return common_batches([Batches(size, size) for size in sizes if isinstance(size, int) and size > 0])
