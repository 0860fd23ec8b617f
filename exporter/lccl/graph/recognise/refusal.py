"""Why a product is no layer of the op, and how far its match had come."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import onnx_graphsurgeon as gs


class MatchStage(IntEnum):
    """How much of the form had been matched when it failed.

    A product can be read from either operand, and along several branches. The refusal of the
    reading that came furthest is reported.
    """

    GATE_AS_BRANCH = 0
    """The convolution has one output channel: it is likely the gate of the other reading."""
    GATE_ALONE = 1
    """There is a gate, but what it is multiplied onto is not the output of one convolution."""
    BRANCH = 2
    """There is a convolution, but something stands between it and the product."""
    CONVOLUTION = 3
    """The branch is plain, but the op cannot take the convolution's place."""
    GATE_FORM = 4
    """The convolution would do, but the other factor is not one map for all channels."""
    UNSUPPORTED = 5
    """Convolution and gate are there, but version 1 of the op has no such convolution, or the gate
    closes no pixel."""
    READERS = 6
    """Branch and gate fit, but a value between them is needed elsewhere."""
    GEOMETRY = 7
    """All of it is there, but strides or grids do not fit each other."""


@dataclass(frozen=True)
class Refusal:
    """The result for a product that is no layer of the op."""

    reason: str
    """In words, for the report."""
    stage: MatchStage
    conv: gs.Node | None = None
    """The convolution that would have been gated, where it is known."""


class RefusalError(Exception):
    """A match that failed. ``read_product`` catches it; no caller of recognition sees it.

    Args:
        reason: in words, for the report.
        stage: how far the match had come.
        conv: the convolution that would have been gated, where it is known.
    """

    def __init__(self, reason: str, stage: MatchStage, conv: gs.Node | None = None) -> None:
        super().__init__(reason)
        self.reason, self.stage, self.conv = reason, stage, conv

    def refusal(self, conv: gs.Node | None) -> Refusal:
        """Return the refusal, with this convolution where the error knows none."""
        return Refusal(self.reason, self.stage, conv if self.conv is None else self.conv)
