"""The picture of a tuning: score against MACs of each measured point; the chosen one is marked."""

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
        from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    front = _front(result)
    axes.plot([100 * p.macs for p in result.points], [p.score for p in result.points], "o", color="0.6", label="measured")
    axes.step([100 * p.macs for p in front], [p.score for p in front], where="post", color="0.6", linewidth=1)
    axes.plot(100 * result.built.macs, result.built.score, "s", color="C0", label="as built")
    axes.plot(100 * result.chosen.macs, result.chosen.score, "*", color="C3", markersize=15, label="chosen")
    axes.set_xlabel("MACs of the whole network, % of the dense one's")
    axes.set_ylabel(f"{result.score}, {result.images} samples")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.removeprefix(".") or "png")


def _front(result: TuneResult) -> list[TunedPoint]:
    """Return the points that no other one beats, from the fewest MACs."""
    sign = 1 if result.direction == "higher" else -1
    front: list[TunedPoint] = []
    for point in sorted(result.points, key=lambda p: (p.macs, -sign * p.score)):
        if not front or sign * point.score > sign * front[-1].score:
            front.append(point)
    return front
