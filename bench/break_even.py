"""The density at which a gated layer takes as long as the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def break_even(points: Sequence[tuple[float, float]]) -> float | None:
    """The largest density at which dense time over ours is 1, between measured densities on a line.

    Args:
        points: (density, ratio).

    Returns:
        None if the ratio is below 1 at every density; the largest density if it is nowhere.
    """
    ordered = sorted(points)
    for (d0, r0), (d1, r1) in reversed(list(pairwise(ordered))):
        if r1 >= 1:
            return d1
        if r0 >= 1:
            return d0 + (d1 - d0) * (r0 - 1) / (r0 - r1)
    return ordered[0][0] if len(ordered) == 1 and ordered[0][1] >= 1 else None
