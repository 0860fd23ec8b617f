"""The reason for which a product is no layer of the op."""

from __future__ import annotations

import onnx_graphsurgeon as gs


class RefusalError(Exception):
    """Why a product is no layer of the op. Caught where the walk began; never seen by a caller.

    Args:
        reason: in words, for the report.
        stage: how much of the form had been found; of two readings of a product the one that came further is told.
    """

    def __init__(self, reason: str, stage: int) -> None:
        super().__init__(reason)
        self.reason, self.stage = reason, stage
        self.conv: gs.Node | None = None  # that would have been gated, where the walk knows it
