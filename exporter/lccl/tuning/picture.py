"""The picture of a tuning: score against MACs or time of each measured point.

The chosen one is marked.
"""

from __future__ import annotations

from pathlib import Path

from lccl.errors.requires import needing
from lccl.files import atomic_path
from lccl.tuning.results import TunedPoint, TuneResult


def draw(result: TuneResult, path: Path) -> None:
    """Write the picture, in the format of the file's name (.png, .svg, .pdf).

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    with needing("a picture"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # names are names
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        front = _front(result)
        axes.plot([100 * p.cost for p in result.points], [p.score for p in result.points], "o", color="0.6", label="measured")
        axes.step([100 * p.cost for p in front], [p.score for p in front], where="post", color="0.6", linewidth=1)
        axes.plot(100 * result.built.cost, result.built.score, "s", color="C0", label="as built")
        axes.plot(100 * result.chosen.cost, result.chosen.score, "*", color="C3", markersize=15, label="chosen")
        what = "MACs of the whole network" if result.built.latency is None else "time of all convolutions"
        axes.set_xlabel(f"{what}, % of the dense network's")
        axes.set_ylabel(f"{result.score}, {result.images} samples")
        axes.grid(alpha=0.3)
        axes.legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix.lower().removeprefix("."))


def _front(result: TuneResult) -> list[TunedPoint]:
    """Return the points that no other one beats, from the cheapest."""
    sign = 1 if result.direction == "higher" else -1
    front: list[TunedPoint] = []
    for point in sorted(result.points, key=lambda p: (p.cost, -sign * p.score)):
        if not front or sign * point.score > sign * front[-1].score:
            front.append(point)
    return front
