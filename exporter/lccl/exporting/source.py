"""What an export asks of the network that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import onnx

from lccl.numerics import Array

if TYPE_CHECKING:
    from lccl.nn.gate import GateMode


class Reference(Protocol):
    """What the exported model is held against: the network itself, run on inputs."""

    checks: tuple[GateMode, ...]
    """The states of the gates that the network can be run with, besides as built."""
    example_hw: tuple[tuple[int, ...], ...] | None
    """Height and width of each example input where the export makes them dynamic; None where it
    does not."""

    def feeds(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        """Random inputs for the check."""

    def infer(self, feed: Mapping[str, Array], gates: GateMode) -> list[Array]:
        """The outputs of the network itself, in order."""


class Source(Protocol):
    """A network before the export: traced once."""

    metadata: dict[str, str]
    constants: dict[str, object]
    """Values of the example that PyTorch makes constants, by the names of their parameters."""

    trained_densities: dict[str, float]
    """The densities that gates had in training, by layer; empty where none is known."""

    @property
    def reference(self) -> Reference:
        """The network to compare with, once it is traced."""

    def to_onnx(self) -> onnx.ModelProto:
        """The network as ONNX, not yet canonical."""
