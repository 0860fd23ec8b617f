"""Densities and the shifts of a gate that give them: numbers alone, no network.

Normalized logits z are about standard normal, so that z + shift is above 0 at a fraction Phi(shift)
of the pixels. The rest, by which real logits are not normal, is fed back by the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()
FURTHEST = 6.0
"""The largest shift of a gate that is not simply open."""
_ROUNDS = 60


def shift_of(density: float) -> float:
    """Return the shift that opens this fraction of the pixels; infinity where all are open."""
    if density >= 1:
        return math.inf
    return max(-FURTHEST, min(FURTHEST, _NORMAL.inv_cdf(density))) if density > 0 else -FURTHEST


def density_of(shift: float) -> float:
    """Return the fraction of pixels that a shift opens."""
    return 1.0 if shift == math.inf else _NORMAL.cdf(shift)


def slope_of(shift: float) -> float:
    """Return by how much the density grows with the shift."""
    return 0.0 if shift == math.inf else _NORMAL.pdf(shift)


def scale_of(activation: str, shift: float) -> float:
    """Return what a gate's normalized logits are multiplied with, together with their shift.

    At shift infinity it is 0. Under "relu" the mean of the open gates is 1 at every density, so
    that features keep their size, and the map becomes flat as the density goes to 1. Under
    "binary" it decides the width of the gradient alone: a standard deviation of 1 for the sigmoid
    of 4 logits.
    """
    if shift == math.inf:
        return 0.0
    if activation == "binary":
        return min(0.25, 1 / shift) if shift > 0 else 0.25
    if activation == "hardtanh":
        return 2.0
    return 1 / (shift + slope_of(shift) / density_of(shift))


OPEN = 1.0
"""The logit of an open gate; its map is 1 there, under any activation."""


@dataclass(frozen=True)
class Line:
    """How a gate's logits come from normalized ones: scale * (z + shift) + offset."""

    scale: float
    shift: float
    offset: float = 0.0

    @property
    def bias(self) -> float:
        """What is added to scale * z."""
        return self.scale * self.shift + self.offset

    def shift_at(self, bias: float) -> float:
        """Return the shift that gives this bias."""
        return (bias - self.offset) / self.scale


def line_of(activation: str, shift: float, share: float = 1.0) -> Line:
    """Return how a gate is set, in the first steps mixed with the map of an open gate.

    Where nearly all pixels are open, the map of a gate that scales what it lets through differs
    from 1 all the same. So the mixture begins with the open map. A binary map is 1 anyway.

    Args:
        activation: of the gate.
        shift: of its normalized logits; finite.
        share: of the gate's own line in the mixture, above 0.
    """
    shift = max(-FURTHEST, min(FURTHEST, shift))
    share = 1.0 if activation == "binary" else share
    return Line(share * scale_of(activation, shift), shift, (1 - share) * OPEN)


@dataclass(frozen=True)
class Range:
    """The lowest and the highest shift that each layer may take."""

    low: Sequence[float]
    high: Sequence[float]

    def inside(self, shifts: Sequence[float]) -> list[float]:
        """Return the shifts, moved to the nearest that are allowed."""
        return [max(low, min(high, shift)) for low, high, shift in zip(self.low, self.high, shifts, strict=True)]


def moved_together(shifts: Sequence[float], costs: Sequence[float], total: float, allowed: Range) -> list[float]:
    """Move all shifts by the same amount, so that costs times densities sum to a total.

    Args:
        shifts: by layer.
        costs: of each layer with all pixels open.
        total: the sum to reach; the nearest possible one, where it is out of reach.
        allowed: bounds on the shifts.
    """
    start = [min(shift, FURTHEST) for shift in shifts]
    return _solved(lambda by: allowed.inside([shift + by for shift in start]), costs, total, 4 * FURTHEST)


def moved_by_cost(shifts: Sequence[float], costs: Sequence[float], total: float, allowed: Range) -> list[float]:
    """Move each shift by what it adds to the costs, so that costs times densities sum to a total.

    It is the projection of a step of gradient descent back onto the budget: where no step of the
    optimizer lowers the loss any more, layers gain the same per cost.
    """
    start = [min(shift, FURTHEST) for shift in shifts]
    weights = [cost * slope_of(shift) for cost, shift in zip(costs, start, strict=True)]
    largest = max(weights, default=0.0)
    if largest <= 0:
        return allowed.inside(start)
    shares = [max(weight / largest, 1e-3) for weight in weights]
    return _solved(
        lambda by: allowed.inside([shift + by * share for shift, share in zip(start, shares, strict=True)]),
        costs,
        total,
        4e3 * FURTHEST,
    )


def total_of(shifts: Sequence[float], costs: Sequence[float]) -> float:
    """Return the sum of costs times densities."""
    return sum(cost * density_of(shift) for cost, shift in zip(costs, shifts, strict=True))


def _solved(moved: Callable[[float], list[float]], costs: Sequence[float], total: float, furthest: float) -> list[float]:
    """Find by bisection how far to move, since the sum grows with it."""
    low, high = -furthest, furthest
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if total_of(moved(middle), costs) > total:
            high = middle
        else:
            low = middle
    return moved((low + high) / 2)


def as_range(bounds: Mapping[str, tuple[float, float]]) -> Range:
    """Turn bounds on densities, by layer, into bounds on shifts."""
    return Range([shift_of(low) for low, _ in bounds.values()], [shift_of(high) for _, high in bounds.values()])
