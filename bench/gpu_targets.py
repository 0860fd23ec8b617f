"""The ratios that the kernels are held to on a Hopper GPU (H100, H200), and whether what was measured reaches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_contest import Row

COMPUTE_CAPABILITY = "9.0"
"""That the targets are for."""
HELD, SHORT, NOT_MEASURED = "held", "fell short", "not measured"


@dataclass(frozen=True)
class Target:
    """The least that dense time over the chosen configuration's time, or the break-even density, has to be in every setting."""

    words: str
    least: float
    density: float | None
    """Of the settings; None: of all, for the break-even density or for a ratio at any density."""
    covers: Callable[[Row], bool]
    """Whether a row, whatever its density, is one of the settings."""
    break_even: bool = False


def _large(row: Row) -> bool:
    return row.batch >= 32 or row.size >= 160


def _grid8(row: Row) -> bool:
    return row.grid == 8 and _large(row)


def _pixel(row: Row) -> bool:
    return row.grid == 1 and _large(row)


def _any(_: Row) -> bool:
    return True


TARGETS = (
    Target("G = 8, density 0.25", 2.8, 0.25, _grid8),
    Target("G = 8, density 0.5", 1.6, 0.5, _grid8),
    Target("G = 8, density 0.65", 1.25, 0.65, _grid8),
    Target("G = 8, break-even density", 0.85, None, _grid8, break_even=True),
    Target("pixels, C >= 128, density 0.25", 2.0, 0.25, lambda row: _pixel(row) and row.channels >= 128),
    Target("pixels, C = 64, density 0.25", 1.7, 0.25, lambda row: _pixel(row) and row.channels == 64),
    Target("pixels, density 0.5", 1.3, 0.5, _pixel),
    Target("pixels, break-even density", 0.65, None, _pixel, break_even=True),
    Target("everywhere", 0.97, None, _any),
)


@dataclass(frozen=True)
class Outcome:
    """A target beside what was measured; true when it was held."""

    target: str
    least: float
    measured: float | None
    """The smallest of all settings; None: nothing that says it."""
    where: str
    """The setting that it comes from."""
    settings: int
    result: str

    def __bool__(self) -> bool:
        return self.result == HELD

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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


def outcomes(rows: Sequence[Row], compute_capability: str) -> list[Outcome]:
    """Each target and whether it was held; none for another GPU than they are for."""
    if compute_capability != COMPUTE_CAPABILITY:
        return []
    chosen = [row for row in rows if row.chosen]
    return [_outcome(target, [row for row in chosen if target.covers(row)]) for target in TARGETS]


def _outcome(target: Target, rows: Sequence[Row]) -> Outcome:
    values = _break_evens(target, rows) if target.break_even else _ratios(target, rows)
    if not values:
        return Outcome(target.words, target.least, None, "", 0, NOT_MEASURED)
    least, where = min(values)
    return Outcome(target.words, target.least, least, where, len(values), HELD if least >= target.least else SHORT)


def _ratios(target: Target, rows: Sequence[Row]) -> list[tuple[float, str]]:
    fits = [row for row in rows if target.density is None or math.isclose(row.density, target.density)]
    return [(row.ratio, f"{_setting(row)} {row.density}") for row in fits]


def _break_evens(target: Target, rows: Sequence[Row]) -> list[tuple[float, str]]:
    """Of each setting that was measured at densities far enough to say."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        points.setdefault(_setting(row), []).append((row.density, row.ratio))
    found = []
    for setting, measured in points.items():
        even = break_even(measured) or 0.0
        if even >= target.least or (even < max(measured)[0] and min(measured)[0] <= target.least):
            found.append((even, setting))
    return found


def _setting(row: Row) -> str:
    return f"{row.layer} G={row.grid} {row.mask} {row.form}"


def markdown(results: Sequence[Outcome]) -> list[str]:
    """Lines of a table; none without results."""
    if not results:
        return []
    lines = ["", "| target | at least | measured | of settings | least in | |", "|---|---|---|---|---|---|"]
    for o in results:
        measured = "-" if o.measured is None else f"{o.measured:.2f}"
        lines.append(f"| {o.target} | {o.least} | {measured} | {o.settings} | {o.where} | {o.result} |")
    return lines
