"""A layer and the one node that reads its output, as every fusion needs them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.constants import value_of
from lccl.numerics import Array
from lccl.op.contract import INPUT_NAMES, INPUTS


@dataclass(frozen=True)
class Follower:
    """A layer of the op and the only reader of its output."""

    layer: gs.Node
    node: gs.Node

    @property
    def other(self) -> gs.Tensor | None:
        """The other operand of a node with two."""
        if len(self.node.inputs) != 2:
            return None
        return next((t for t in self.node.inputs if t is not self.layer.outputs[0]), None)

    def given(self, name: str) -> Array | None:
        """Return the values of one of the layer's inputs, or None if it is computed."""
        return value_of(self.layer.inputs[INPUT_NAMES.index(name)])

    def is_neutral(self, *names: str) -> bool:
        """Return whether these inputs of the layer have their neutral values."""
        neutral = {spec.name: spec.neutral for spec in INPUTS}
        return all((v := self.given(n)) is not None and v.size == 1 and v.item() == neutral[n] for n in names)

    def set_input(self, name: str, tensor: gs.Tensor) -> None:
        """Replace one of the layer's inputs by the tensor."""
        inputs = list(self.layer.inputs)
        inputs[INPUT_NAMES.index(name)] = tensor
        self.layer.inputs = inputs

    @property
    def channels(self) -> int:
        """The number K of output channels."""
        bias = self.given("B")
        assert bias is not None
        return int(np.size(bias))


def follower_of(layer: gs.Node, outputs: Container[int]) -> Follower | None:
    """Return the layer with the only reader of its output, or None if there is no such reader.

    The network's caller counts as a reader.

    Args:
        outputs: ids of the tensors that the network returns.
    """
    output = layer.outputs[0]
    if id(output) in outputs or len(output.outputs) != 1:
        return None
    node = output.outputs[0]
    if node.domain not in (None, "", "ai.onnx") or sum(t is output for t in node.inputs) != 1 or len(node.outputs) != 1:
        return None
    return Follower(layer, node)
