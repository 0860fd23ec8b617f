"""The main branch of a product, from its operand inwards to a convolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.constants import stored_shape, stored_type
from lccl.graph.nodes import activated, channel_affine, is_computed, is_copy, is_op, leaky_slope, optional_input, producer
from lccl.graph.op_sets import CONVOLUTIONS, SHAPE_READERS
from lccl.graph.recognise.blockers import quantized, refuse_blocker
from lccl.graph.recognise.context import Context
from lccl.graph.recognise.refusal import MatchStage, RefusalError
from lccl.graph.shapes import FLOAT_TYPES, Shape
from lccl.numerics import Array


@dataclass(frozen=True)
class ChannelAffine:
    """scale * x + shift, each of one value or of one per channel."""

    scale: Array
    shift: Array


_IDENTITY = ChannelAffine(np.ones(1), np.zeros(1))


@dataclass(frozen=True)
class _Way:
    """What lies between the product and a tensor on the way to the convolution."""

    alpha: float = 1.0
    affine: ChannelAffine | None = None
    gates: tuple[gs.Tensor, ...] = ()
    links: tuple[tuple[gs.Tensor, gs.Node], ...] = ()


@dataclass(frozen=True)
class Branch:
    """The way from a product to its convolution."""

    conv: gs.Node
    alpha: float
    """Slope below 0 of the activation between convolution and product."""
    affine: ChannelAffine
    """The affines between convolution and activation, as one."""
    gates: tuple[gs.Tensor, ...]
    """The other operands of products further in."""
    links: tuple[tuple[gs.Tensor, gs.Node], ...]
    """Each tensor on the way with the one node that may read it."""

    @property
    def shape_readers(self) -> list[gs.Node]:
        """Nodes that ask for the shape of a tensor on the way."""
        return [n for tensor, _ in self.links for n in tensor.outputs if is_op(n, *SHAPE_READERS)]

    @property
    def nodes(self) -> Iterator[gs.Node]:
        """The nodes that the op takes the place of, without the product itself."""
        return (tensor.inputs[0] for tensor, _ in self.links)


def find_branches(operand: gs.Tensor, product: gs.Node, context: Context) -> Iterator[Branch]:
    """Yield every way from the operand to a convolution.

    There are several where products are nested.

    Raises:
        RefusalError: something that the op does not have stands before the convolution.
    """
    yield from _walk(operand, product, _Way(), context)


def _walk(tensor: gs.Tensor, reader: gs.Node, way: _Way, context: Context) -> Iterator[Branch]:
    node = producer(tensor)
    if node is None:
        return
    way = replace(way, links=(*way.links, (tensor, reader)))
    if is_op(node, *CONVOLUTIONS):
        yield Branch(node, way.alpha, way.affine or _IDENTITY, way.gates, way.links)
        return
    if is_copy(node):
        yield from _walk(node.inputs[0], node, way, context)
        return
    slope = leaky_slope(node)
    if slope is not None:
        _require_positive_factor(way.affine, node, context)
        yield from _walk(activated(node), node, replace(way, alpha=way.alpha * slope), context)
        return
    step = channel_affine(node)
    if step is not None:
        inner, (a, b) = step
        outer = way.affine or _IDENTITY
        composed = ChannelAffine(outer.scale * a, outer.scale * b + outer.shift)
        yield from _walk(inner, node, replace(way, affine=composed), context)
        return
    if is_op(node, "Mul") and len(node.inputs) == 2 and all(map(is_computed, node.inputs)):
        _require_positive_factor(way.affine, node, context)
        yield from _through_product(node, way, context)
        return
    refuse_blocker(node, context)


def _through_product(mul: gs.Node, way: _Way, context: Context) -> Iterator[Branch]:
    """Walk on through either operand of a product further in.

    Raises:
        RefusalError: neither leads to a convolution that could be gated, and one to a convolution
            that cannot.
    """
    found, refusal = False, None
    for place in (0, 1):
        further = replace(way, gates=(*way.gates, mul.inputs[1 - place]))
        try:
            for branch in _walk(mul.inputs[place], mul, further, context):
                found = True
                yield branch
        except RefusalError as error:
            refusal = error
    if refusal is not None and not found:
        raise refusal


def _require_positive_factor(affine: ChannelAffine | None, node: gs.Node, context: Context) -> None:
    """Refuse an affine behind an activation or product, unless it is a positive factor.

    Such a factor commutes with them.

    Raises:
        RefusalError: it has a shift, or a factor that is not positive.
    """
    if affine is not None and ((affine.shift != 0).any() or (affine.scale <= 0).any()):
        reason = f"an affine after an activation or a product ({context.label(node)}) is not part of the op"
        raise RefusalError(reason, MatchStage.BRANCH)


def check_branch(branch: Branch, context: Context) -> tuple[Shape, ...]:
    """Check what the op asks of the convolution itself.

    Returns:
        The shape of its output at each probe.

    Raises:
        RefusalError: version 1 of the op cannot take the convolution's place.
    """
    conv = branch.conv
    who = context.label(conv)
    if conv.op != "Conv":
        kind = {"ConvTranspose": "a transposed convolution", "DeformConv": "a deformable convolution"}.get(conv.op)
        raise _not_taken(quantized(conv, context) if kind is None else f"{who} is {kind}, which the op does not have")
    weight, bias = stored_shape(conv.inputs[1]), optional_input(conv, 2)
    dequantizer = producer(conv.inputs[1])
    if is_op(dequantizer, "DequantizeLinear"):
        raise _not_taken(quantized(conv, context, dequantizer))
    if weight is None or (bias is not None and stored_shape(bias) is None):
        raise _not_taken(f"the weights of {who} are computed in the graph, not stored")
    if len(weight) != 4:
        raise _not_taken(f"{who} is not 2-D")
    if conv.attrs.get("group", 1) != 1:
        reason = f"{who} is grouped ({conv.attrs['group']} groups), which version 1 of the op does not have"
        raise RefusalError(reason, MatchStage.UNSUPPORTED)
    if stored_type(conv.inputs[1]) not in FLOAT_TYPES:
        raise _not_taken(f"{who} is not float32, float16 or bfloat16")
    shapes = context.sizes.of(conv.outputs[0])
    if shapes is None or any(len(shape) != 4 for shape in shapes):
        raise _not_taken(f"the shape of what {who} computes is not known: export with known sizes")
    if weight[0] == 1:
        raise RefusalError(f"{who} has one output channel, so a gate would cost as much as it saves", MatchStage.GATE_AS_BRANCH)
    if any(a.size not in (1, weight[0]) for a in (branch.affine.scale, branch.affine.shift)):
        raise _not_taken(f"what follows {who} is not one affine per channel")
    return shapes


def _not_taken(reason: str) -> RefusalError:
    return RefusalError(reason, MatchStage.CONVOLUTION)


def check_readers(branch: Branch, context: Context) -> None:
    """Refuse a branch with a value that is needed elsewhere too.

    Such a value has to be computed at every pixel.

    Raises:
        RefusalError: with the other reader.
    """
    for tensor, reader in branch.links:
        other = context.other_reader(tensor, reader)
        if other is not None:
            what = context.label(tensor.inputs[0])
            reason = f"what {what} computes is read elsewhere too (by {other}), so nothing can be skipped"
            raise RefusalError(reason, MatchStage.READERS)
