"""What tuning finds: the points that were measured, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lccl.console.text import count, percent, table
from lccl.metrics import Direction
from lccl.tuning.cuts import AS_BUILT, Setting

if TYPE_CHECKING:
    import onnx
    from torch import nn


@dataclass(frozen=True)
class TunedPoint:
    """One measured setting of the whole network."""

    settings: Mapping[str, Setting]
    score: float
    """Top-1 accuracy, agreement with the network as built, or the metric; over all samples."""
    macs: float
    """Of the whole network, over those of the dense one: closed pixels are not computed."""
    density: float
    """The mean over the gated layers."""
    densities: Mapping[str, float]
    latency: float | None = None
    """The time of all convolutions by the table of costs, over that of the dense network's; None
    without a table."""

    @property
    def cost(self) -> float:
        """What tuning saves: time if a table is given, else MACs."""
        return self.macs if self.latency is None else self.latency

    @property
    def changed(self) -> dict[str, Setting]:
        """The layers that are not as built."""
        return {name: setting for name, setting in self.settings.items() if setting != AS_BUILT}

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "score": self.score,
            "macs": self.macs,
            "latency": self.latency,
            "density": self.density,
            "densities": dict(self.densities),
            "settings": {name: {"state": s.state, "value": s.value} for name, s in self.changed.items()},
        }


@dataclass(frozen=True)
class TuneResult:
    """The measured points, from the most costly to the cheapest, and the chosen one."""

    points: tuple[TunedPoint, ...]
    built: TunedPoint
    """The network as it was given."""
    chosen: TunedPoint
    score: str
    """What the score is: "top-1", "agreement" or the metric's name."""
    images: int
    direction: Direction
    """Which scores are better."""
    model: nn.Module | onnx.ModelProto = field(repr=False)
    """The network with the chosen setting."""
    path: Path | None = None
    picture: Path | None = None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "score": self.score,
            "direction": self.direction,
            "images": self.images,
            "built": self.built.as_dict(),
            "chosen": self.chosen.as_dict(),
            "points": [point.as_dict() for point in self.points],
            "path": str(self.path) if self.path else None,
            "picture": str(self.picture) if self.picture else None,
        }

    def __str__(self) -> str:
        timed = self.built.latency is not None
        rows = [
            (
                "chosen" if point is self.chosen else "as built" if point is self.built else "",
                f"{point.score:.4f}",
                percent(point.macs),
                *([percent(point.latency)] if timed else []),
                percent(point.density),
                str(len(point.changed)),
            )
            for point in self.points
        ]
        head = ("point", self.score, "MACs of dense", *(["time of dense"] if timed else []), "density", "layers changed")
        lines = [table(head, rows, right=range(1, len(head)))]
        by = "; the time is that of the convolutions, by the table of costs" if timed else ""
        lines.append(f"Over {count(self.images, 'sample')}{by}.")
        if self.chosen.changed:
            layers = [
                (name, str(setting), percent(self.built.densities.get(name)), percent(self.chosen.densities.get(name)))
                for name, setting in self.chosen.changed.items()
            ]
            lines += ["", table(("layer", "gate", "density before", "density after"), layers, right=(1, 2, 3))]
        if self.path:
            lines.append(f"Wrote {self.path}{f' and {self.picture}' if self.picture else ''}.")
        return "\n".join(lines)
