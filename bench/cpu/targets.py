"""The ratios that the CPU kernels are held to, and whether what was measured reaches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.cpu.common import Row

DENSITIES = (0.1, 0.3, 0.5, 1.0)
"""That ratios are held at."""
RATIOS = {
    "64@56": (6.5, 2.7, 1.75, 0.90),
    "128@28": (7.0, 2.8, 1.8, 0.92),
    "256@14": (7.5, 2.9, 1.9, 0.95),
    "512@7": (6.0, 2.7, 1.9, 0.97),
    "64@8": (5.5, 2.6, 1.65, 0.85),
    "32@16": (5.0, 2.3, 1.55, 0.80),
    "16@32": (3.5, 1.8, 1.2, 0.65),
}
"""Layer -> the least dense time over ours at DENSITIES, with a 1x1 gate, batch 1, one thread."""
RESNET_LAYERS = ("64@56", "128@28", "256@14", "512@7")
LIKE = {
    "64-128@56s2": "128@28",
    "128-256@28s2": "256@14",
    "256-512@14s2": "512@7",
    "64-256@56k1": "64@56",
    "256-64@56k1": "64@56",
    "512-128@28k1": "128@28",
    "1024-256@14k1": "256@14",
}
"""Strided and 1x1 layers -> the layer with an output of that size."""
LARGE_GATE, TWO_THREADS, OTHER_SHAPES = 0.92, 0.90, 0.80
"""Parts of RATIOS that are asked of k x k gates, of two threads on RESNET_LAYERS, of the layers in
LIKE."""
NETWORK = "resnet18"
NETWORK_PARTS = {0.1: 0.85, 0.2: 0.85, 0.3: 0.85, 0.5: 0.93, 0.6: 0.93, 0.7: 0.93}
"""Density -> the least part of the ideal for the whole of NETWORK, batch 1, one thread."""
PASSED, FAILED, NOT_MEASURED, NOT_JUDGED = "passed", "failed", "not measured", "not judged: the machine was busy"
LEAST_CPU_SHARE = 0.85
"""Of the time that passed, with one thread: a setting in which others had the core for longer says
nothing."""


@dataclass(frozen=True)
class Target:
    """The least that a value has to be in every row of some setting."""

    words: str
    least: float
    covers: Callable[[Row], bool]
    value: Callable[[Row], float]


@dataclass(frozen=True)
class Outcome:
    """A target beside what was measured; true when it passed."""

    target: str
    least: float
    measured: float | None
    """The smallest of its rows; None: there are none."""
    where: str
    """The mask that it was measured with."""
    result: str

    @property
    def short_by(self) -> float | None:
        """Part of the target that is missing; None where it passed or was not measured."""
        return 1 - self.measured / self.least if self.result == FAILED and self.measured is not None else None

    def __bool__(self) -> bool:
        return self.result == PASSED

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"short_by": self.short_by}


def targets() -> Iterator[Target]:
    """Every target, those of layers first."""
    for layer, ratios in RATIOS.items():
        yield from _of_layer(layer, ratios, 1.0)
    for layer, ratios in RATIOS.items():
        yield from _of_layer(layer, ratios, LARGE_GATE, gate="kxk")
    for layer in RESNET_LAYERS:
        yield from _of_layer(layer, RATIOS[layer], TWO_THREADS, threads=2)
    for layer, like in LIKE.items():
        yield from _of_layer(layer, RATIOS[like], OTHER_SHAPES)
    for density, part in NETWORK_PARTS.items():
        yield Target(f"{NETWORK}, part of the ideal, density {density:g}", part, _rows_of(NETWORK, density), _efficiency)


def _of_layer(layer: str, ratios: Sequence[float], part: float, *, gate: str = "1x1", threads: int = 1) -> Iterator[Target]:
    special = (", k x k gate" if gate == "kxk" else "") + (", two threads" if threads == 2 else "")
    for density, ratio in zip(DENSITIES, ratios, strict=True):
        words = f"{layer}{special}, density {density:g}"
        yield Target(words, round(part * ratio, 3), _rows_of(layer, density, gate, threads), _ratio)


def _rows_of(subject: str, density: float, gate: str = "1x1", threads: int = 1) -> Callable[[Row], bool]:
    key = (subject, 1, threads, gate)

    def covers(row: Row) -> bool:
        return (row.subject, row.batch, row.threads, row.gate) == key and math.isclose(row.density, density)

    return covers


def _ratio(row: Row) -> float:
    return row.ratio


def _efficiency(row: Row) -> float:
    return row.efficiency


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Each target of a kind that the rows are of (layers, networks), and whether it passed."""
    networks = {row.kind == "network" for row in rows}
    return [_outcome(t, rows) for t in targets() if (t.value is _efficiency) in networks]


def _outcome(target: Target, rows: Sequence[Row]) -> Outcome:
    values = [(target.value(row), row.mask) for row in rows if target.covers(row)]
    if not values:
        return Outcome(target.words, target.least, None, "", NOT_MEASURED)
    measured, where = min(values)
    if any(row.cpu_share is not None and row.cpu_share < LEAST_CPU_SHARE for row in rows if target.covers(row)):
        return Outcome(target.words, target.least, measured, where, NOT_JUDGED)
    return Outcome(target.words, target.least, measured, where, PASSED if measured >= target.least else FAILED)


def markdown(results: Sequence[Outcome]) -> list[str]:
    """Lines of a table of what was measured, then how many were not; none without results."""
    told = [o for o in results if o.result != NOT_MEASURED]
    missing = len(results) - len(told)
    lines = ["", "## What the kernels are held to", ""] if told else []
    if told:
        lines += ["| target | at least | measured | mask | |", "|---|---|---|---|---|"]
    for o in told:
        words = o.result if o.short_by is None else f"{o.result}, {o.short_by:.1%} short".replace("%", " %")
        lines.append(f"| {o.target} | {o.least:g} | {o.measured:.2f} | {o.where} | {words} |")
    passed, failed = sum(map(bool, told)), sum(o.result == FAILED for o in told)
    busy = len(told) - passed - failed
    if told:
        lines += ["", f"{passed} passed, {failed} failed, {f'{busy} not judged, ' if busy else ''}{missing} not measured."]
    return lines
