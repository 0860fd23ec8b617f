"""What an export asks of the network that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import onnx

from lccl.numerics import Array

if TYPE_CHECKING:
    from lccl.nn.gate import GateMode


class Source(Protocol):
    """A network before the export: traced once, then asked for the outputs to compare with."""

    metadata: dict[str, str]
    checks: tuple[GateMode, ...]
    """The states of the gates that the source can be run with, besides as built."""
    example_hw: tuple[tuple[int, ...], ...] | None
    """Height and width of each example input where the export makes them dynamic; None where it
    does not."""

    constants: dict[str, object]
    """Values of the example that PyTorch makes constants, by the names of their parameters."""

    trained_densities: dict[str, float]
    """The densities that gates had in training, by layer; empty where none is known."""

    def to_onnx(self) -> onnx.ModelProto:
        """The network as ONNX, not yet canonical."""

    def feeds(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        """Random inputs for the check."""

    def infer(self, feed: Mapping[str, Array], gates: GateMode) -> list[Array]:
        """The outputs of the network itself, in order."""
