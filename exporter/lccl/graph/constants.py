"""Constants of a graph: new ones, the values of those that are there, and folding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from lccl.console.quiet import quiet
from lccl.files.external import array
from lccl.numerics import Array


class StoredWeight(LazyValues):
    """A weight that is read from its model's file each time its values are needed."""

    def load(self) -> Array:
        return array(self.tensor)


def constant(name: str, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> gs.Constant:
    """Return a new constant tensor."""
    return gs.Constant(name, np.ascontiguousarray(np.asarray(values, dtype=dtype)))


def value_of(tensor: gs.Tensor) -> Array | None:
    """Return a constant's values, or None for a tensor that is computed.

    Values of a weight in a file are not kept in the graph.
    """
    if isinstance(tensor, gs.Constant):
        values: Array = tensor._values.load() if isinstance(tensor._values, StoredWeight) else tensor.values
        return values
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant" and "value" in tensor.inputs[0].attrs:
        values = tensor.inputs[0].attrs["value"].values
        return values
    return None


def stored_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Return a constant's shape without loading its values, or None for another tensor."""
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    values = value_of(tensor)
    return None if values is None else tuple(values.shape)


def stored_type(tensor: gs.Tensor) -> int:
    """Return ONNX's number of a constant's element type, or 0 for a tensor that is computed."""
    if isinstance(tensor, gs.Constant):
        return tensor.dtype if isinstance(tensor.dtype, int) else int(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))
    values = value_of(tensor)
    return 0 if values is None else int(helper.np_dtype_to_tensor_dtype(values.dtype))


def fold_constants(graph: gs.Graph) -> gs.Graph:
    """Make a constant of everything that depends on constants only."""
    _load_foldable(graph)
    with quiet():
        graph.fold_constants(fold_shapes=False)
    return graph.cleanup(remove_unused_graph_inputs=False)


def _load_foldable(graph: gs.Graph) -> None:
    """Load the weights that foldable nodes read: ONNX Runtime folds them without a file."""
    folded: set[int] = set()
    for node in graph.nodes:
        if all(isinstance(t, gs.Constant) or id(t) in folded for t in node.inputs):
            folded.update(map(id, node.outputs))
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    tensor.values = np.array(tensor.values)
