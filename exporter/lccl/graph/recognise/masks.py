"""Gates that the network is given: an input that nothing clamps at 0, taken to be a mask where it can be nothing else."""

from __future__ import annotations

from collections.abc import Container

import onnx_graphsurgeon as gs

from lccl.graph.nodes import SHAPE_OPS, is_computed, is_op
from lccl.graph.recognise.branch import find_branches
from lccl.graph.recognise.clamp import Affine, step_of
from lccl.graph.recognise.movement import moved
from lccl.graph.recognise.refusal import RefusalError
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import producer, stored_shape


def mask_input(tensor: gs.Tensor, outputs: Container[int], sizes: Sizes) -> str | None:
    """The input of one channel that the tensor is a rearrangement or a positive multiple of, by its name.

    That it is at least 0 cannot be seen in the graph. It is assumed only of an input that is multiplied onto convolutions
    and used for nothing else, so never of an image, nor of anything that a convolution reads.

    Args:
        outputs: ids of the tensors that the network returns.

    Returns:
        None where the tensor is anything else.
    """
    while producer(tensor) is not None:
        inner = _passed(tensor)
        if inner is None:
            return None
        tensor = inner
    shapes = sizes.of(tensor)
    if not isinstance(tensor, gs.Variable) or stored_shape(tensor) is not None or shapes is None:
        return None
    if any(len(shape) != 4 or shape[1] != 1 for shape in shapes) or not _only_gates(tensor, outputs):
        return None
    return str(tensor.name)


def _passed(tensor: gs.Tensor) -> gs.Tensor | None:
    """What the tensor is a rearrangement or a positive multiple of, by one node."""
    step = step_of(tensor)
    if step is None:
        return moved(tensor)
    scales = all(isinstance(s, Affine) and s.a > 0 and s.b == 0 for s in step.steps)
    return step.inner if scales else None


def _only_gates(tensor: gs.Tensor, outputs: Container[int]) -> bool:
    """Whether everything that is made of the tensor is multiplied onto a convolution, or read for its shape."""
    if id(tensor) in outputs:
        return False
    for reader in tensor.outputs:
        if is_op(reader, *SHAPE_OPS) or _gates(reader, tensor):
            continue
        passes = len(reader.outputs) == 1 and (_passed(reader.outputs[0]) is tensor or _is_product(reader))
        if not passes or not _only_gates(reader.outputs[0], outputs):
            return False
    return True


def _is_product(node: gs.Node) -> bool:
    return is_op(node, "Mul") and all(map(is_computed, node.inputs))


def _gates(node: gs.Node, mask: gs.Tensor) -> bool:
    """Whether the node multiplies the mask onto what a convolution computes."""
    others = [t for t in node.inputs if t is not mask]
    if not _is_product(node) or len(others) != 1:
        return False
    try:
        return next(find_branches(others[0], node), None) is not None
    except RefusalError:
        return False
