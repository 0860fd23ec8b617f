"""Gates that the network is given.

An input that nothing clamps at 0 is assumed to be a mask if it is used for nothing else.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from lccl.graph.constants import stored_shape
from lccl.graph.nodes import is_computed, is_op, producer
from lccl.graph.op_sets import SHAPE_READERS
from lccl.graph.recognise.branch import find_branches
from lccl.graph.recognise.context import Context
from lccl.graph.recognise.elementwise import Affine, step_of
from lccl.graph.recognise.rearrange import rearranged
from lccl.graph.recognise.refusal import RefusalError


def mask_input(tensor: gs.Tensor, context: Context) -> str | None:
    """Return the one-channel input that the tensor rearranges or scales by a positive number.

    The graph does not show that such an input is at least 0. It is assumed only of an input that is
    multiplied onto convolutions and used for nothing else, so never of an image, nor of anything
    that a convolution reads.

    Returns:
        The name, or None if the tensor is anything else.
    """
    while producer(tensor) is not None:
        inner = _scaled_or_rearranged(tensor)
        if inner is None:
            return None
        tensor = inner
    shapes = context.sizes.of(tensor)
    if not isinstance(tensor, gs.Variable) or stored_shape(tensor) is not None or shapes is None:
        return None
    if any(len(shape) != 4 or shape[1] != 1 for shape in shapes) or not _only_gates(tensor, context):
        return None
    return str(tensor.name)


def _scaled_or_rearranged(tensor: gs.Tensor) -> gs.Tensor | None:
    """Return the tensor that this one is a rearrangement or a positive multiple of, by one node."""
    step = step_of(tensor)
    if step is None:
        return rearranged(tensor)
    scales = all(isinstance(f, Affine) and f.a > 0 and f.b == 0 for f in step.functions)
    return step.inner if scales else None


def _only_gates(tensor: gs.Tensor, context: Context) -> bool:
    """Return whether the tensor is only multiplied onto convolutions, or read for its shape."""
    if id(tensor) in context.outputs:
        return False
    for reader in tensor.outputs:
        if is_op(reader, *SHAPE_READERS) or _is_gated_by(reader, tensor, context):
            continue
        passes = len(reader.outputs) == 1 and (_scaled_or_rearranged(reader.outputs[0]) is tensor or _is_product(reader))
        if not passes or not _only_gates(reader.outputs[0], context):
            return False
    return True


def _is_product(node: gs.Node) -> bool:
    return is_op(node, "Mul") and all(map(is_computed, node.inputs))


def _is_gated_by(node: gs.Node, mask: gs.Tensor, context: Context) -> bool:
    """Return whether the node multiplies the mask onto what a convolution computes."""
    others = [t for t in node.inputs if t is not mask]
    if not _is_product(node) or len(others) != 1:
        return False
    try:
        return next(find_branches(others[0], node, context), None) is not None
    except RefusalError:
        return False
