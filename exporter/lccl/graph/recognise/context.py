"""What every step of recognition knows of the graph besides the node that it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from lccl.graph.nodes import is_op, label
from lccl.graph.op_sets import SHAPE_READERS
from lccl.graph.shapes import Sizes


@dataclass(frozen=True)
class Context:
    """The graph that products are read in, as a whole."""

    sizes: Sizes
    outputs: frozenset[int]
    """Ids of the tensors that the network returns."""
    labels: Mapping[int, str]
    """Id of a node that the model does not have in this form -> the label of the node that it
    stands for."""
    guarded: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    """Id of a product that is a Where in the model -> the Mul in it that multiplies the gate: the
    tensor that it gives, and the place of the gate."""

    def label(self, node: gs.Node) -> str:
        """Return the node's label in the model as it was given."""
        return self.labels.get(id(node)) or label(node)

    def label_of(self, tensor: gs.Tensor) -> str:
        """Return the label of what gives the tensor: a node, or an input of the network."""
        return self.label(tensor.inputs[0]) if tensor.inputs else f"input {tensor.name}"

    def is_original(self, node: gs.Node) -> bool:
        """Return whether the model has the node in this form."""
        return id(node) not in self.labels

    def other_reader(self, tensor: gs.Tensor, reader: gs.Node) -> str | None:
        """Return the label of a second reader of the tensor's values, or None without one.

        A node that asks for the shape reads no values. A Concat that reads the tensor several times
        counts once.
        """
        if id(tensor) in self.outputs:
            return "the network's caller"
        others = [n for n in tensor.outputs if n is not reader and not is_op(n, *SHAPE_READERS)]
        if others:
            return self.label(others[0])
        twice = sum(t is tensor for t in reader.inputs) > 1
        return self.label(reader) if twice and not is_op(reader, "Concat") else None
