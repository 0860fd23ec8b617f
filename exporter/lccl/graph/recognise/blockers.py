"""Nodes that the op does not have between a convolution and the product: the reasons."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from lccl.graph.constants import stored_shape
from lccl.graph.nodes import is_computed, is_op, producer
from lccl.graph.op_sets import ACTIVATIONS, CONVOLUTIONS, COPIES, NORMS, PIXEL_NORMS, POINTWISE, QUANTIZERS, SUMS
from lccl.graph.recognise.context import Context
from lccl.graph.recognise.refusal import MatchStage, RefusalError

_SEARCHED = (
    (ACTIVATIONS | NORMS | SUMS | QUANTIZERS | COPIES)
    | {"Transpose", "Mul", "Div"}
    | {"Reshape", "Cast", "ReduceMean", "Sqrt"}  # of normalizations that are written out
)
"""Ops behind which a convolution is looked for: those that have a reason, and those that such forms
consist of."""
_MOST_NODES = 32
"""How many nodes are searched for a convolution."""


def refuse_blocker(node: gs.Node, context: Context) -> None:
    """Refuse the branch if the op does not have the node's function behind a convolution.

    A convolution of one channel does not count: it is a gate's.

    Raises:
        RefusalError: with the reason.
    """
    behind = _nodes_behind(node)
    conv = next((n for n in behind if is_op(n, *CONVOLUTIONS)), None)
    if is_op(node, "Reshape"):  # into groups, of which means are taken
        node = next((n for n in behind if is_op(n, "ReduceMean", *PIXEL_NORMS)), node)
    # A constant that is added is a bias for channels on another axis.
    if is_op(node, *SUMS) and sum(map(is_computed, node.inputs)) < 2:
        node = next((n for n in behind if is_op(n, "Transpose")), node)
    reason = _reason(node, conv, context) if conv is not None else None
    if reason is not None:
        raise RefusalError(reason, MatchStage.BRANCH, conv)


def is_activation(mul: gs.Node) -> bool:
    """Return whether a Mul is x * f(x) with an elementwise f, such as SiLU or GELU.

    That is one branch, not a product of two.
    """
    return any(_is_function_of(mul.inputs[1 - place], mul.inputs[place]) for place in (0, 1))


def _is_function_of(tensor: gs.Tensor, x: gs.Tensor) -> bool:
    """Return whether the tensor is computed from x alone, element by element."""
    waiting, seen = [tensor], {id(x)}
    while waiting:
        here = waiting.pop()
        if id(here) in seen or not is_computed(here):
            continue
        seen.add(id(here))
        node = producer(here)
        if node is None or not is_op(node, *POINTWISE):
            return False
        waiting.extend(node.inputs)
    return True


def _reason(node: gs.Node, conv: gs.Node, context: Context) -> str | None:
    who, behind = context.label(node), context.label(conv)
    if is_op(node, *ACTIVATIONS):
        return unknown_activation(node, context)
    if is_op(node, "ReduceMean", *PIXEL_NORMS):
        return f"{who} takes means over all pixels of what {behind} computes, so none can be skipped: use a BatchNorm"
    if is_op(node, *SUMS):
        return (
            f"{who} adds to what {behind} computes before the product, but the op adds after it: multiply by "
            "the gate first, then add"
        )
    if is_op(node, *QUANTIZERS):
        return quantized(conv, context, node)
    if is_op(node, "Transpose"):
        return f"{who} moves the channels between {behind} and the product: export with channels first (NCHW)"
    return None


def unknown_activation(node: gs.Node, context: Context) -> str:
    """Return the reason for an activation other than ReLU and LeakyReLU."""
    return f"{context.label(node)} is an activation that the op does not have (it has ReLU and LeakyReLU)"


def quantized(conv: gs.Node, context: Context, quantizer: gs.Node | None = None) -> str:
    """Return the reason for a convolution in integers."""
    by = f" ({context.label(quantizer)})" if quantizer is not None else ""
    return f"{context.label(conv)} is quantised{by}, which the op does not support: export in float"


def _nodes_behind(node: gs.Node) -> list[gs.Node]:
    """List the searched nodes behind the node, itself first.

    The search ends at convolutions of several channels.
    """
    found: list[gs.Node] = []
    waiting = [node]
    while waiting and len(found) < _MOST_NODES:
        here = waiting.pop(0)
        if any(here is n for n in found) or not is_op(here, *_SEARCHED, *CONVOLUTIONS) or _gives_one_channel(here):
            continue
        found.append(here)
        if not is_op(here, *CONVOLUTIONS):
            before = [producer(t) for t in here.inputs if is_computed(t)]
            waiting.extend(n for n in before if n is not None)
    return found


def _gives_one_channel(node: gs.Node) -> bool:
    """Return whether the node is a convolution to one map, as a gate has it."""
    if not is_op(node, *CONVOLUTIONS):
        return False
    return (stored_shape(node.inputs[3 if node.op == "QLinearConv" else 1]) or (2,))[0] == 1
