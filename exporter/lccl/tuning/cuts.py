"""Cuts of one layer's gate, and the settings that are tried for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from lccl.forms.costs import ConvShape
from lccl.numerics import Array
from lccl.profiling import NetworkProfile

State = Literal["as built", "cut", "open", "closed"]
Cut = Literal["threshold", "bias"]
"""What a gate is cut by: the threshold on its values, or, of a binary gate, the bias of its
logits."""
_MORE = 1.25
"""Of the pixels that are open now, those of the one cut that opens more; of binary gates."""
MOST_VALUES = 200_000
"""Gate values of a layer that are kept to find its cuts."""


@dataclass(frozen=True)
class Setting:
    """How one layer's gate is set."""

    state: State = "as built"
    value: float = 0.0
    """Of a cut: the threshold, or what is added to the logits."""

    def __str__(self) -> str:
        return self.state if self.state != "cut" else f"{self.value:+.4g}"


AS_BUILT = Setting()
Settings = Mapping[str, Setting]
"""By layer; one that is not in it is as built."""


@dataclass(frozen=True)
class GatedLayer:
    """A layer whose gate can be set."""

    name: str
    cut: Cut
    fixed: bool = False
    """Whether it can be cut only, neither opened nor closed as a whole: its gate comes from
    outside."""
    threshold: float = 0.0
    """The threshold that it has as built."""


class Tunable(Protocol):
    """A gated network whose gates can be set; the original stays as it is."""

    layers: tuple[GatedLayer, ...]

    def gate_values(self) -> dict[str, Array]:
        """Return values of each gate over the data: of a binary gate its logits, else its map."""

    def conv_shapes(self) -> dict[str, ConvShape]:
        """Return the shapes of the convolutions, as a table of costs has them."""

    def run(self, settings: Settings) -> tuple[list[Array], NetworkProfile]:
        """Return the outputs over the data, and the profile, with gates set this way."""


def settings_of(layer: GatedLayer, values: Array, levels: Sequence[float], *, opened: bool, closed: bool) -> list[Setting]:
    """Return the settings to try for a layer, from the most open pixels to the fewest.

    Args:
        layer: the layer.
        values: of its gate, as :meth:`Tunable.gate_values` has them.
        levels: fractions of the pixels that are open now, below 1, which cuts keep open.
        opened, closed: whether the whole layer may be opened, or closed.
    """
    found = [Setting("open")] if opened and not layer.fixed else []
    ordered = np.sort(values)
    closed_now = int(np.searchsorted(ordered, layer.threshold, "right"))
    open_now = len(ordered) - closed_now
    if open_now and layer.cut == "bias":
        last = len(ordered) - math.ceil(_MORE * open_now) - 1
        found += [Setting("cut", -_between(ordered, last))] if last >= 0 else []
    elif layer.threshold > 0:
        found.append(Setting("cut", 0.0))
    found.append(AS_BUILT)
    for level in sorted(levels, reverse=True):
        if open_now:
            last = closed_now + round((1 - level) * open_now) - 1
            edge = _between(ordered, max(0, last))
            found.append(Setting("cut", edge if layer.cut == "threshold" else -edge))
    if closed and not layer.fixed:
        found.append(Setting("closed"))
    return list(dict.fromkeys(found))


def _between(ordered: Array, index: int) -> float:
    """Return a value that closes the one at an index, and not the next larger one.

    Between two values, rounding moves none over the edge.
    """
    edge = float(ordered[index])
    above = int(np.searchsorted(ordered, edge, "right"))
    return (edge + float(ordered[above])) / 2 if above < len(ordered) else edge


def thinned(parts: Sequence[Array]) -> Array:
    """Return values of several batches as one flat array, of which a regular part is kept."""
    values = np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])
    return values[:: -(-len(values) // MOST_VALUES)]
