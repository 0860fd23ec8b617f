"""The main branch of a product: from its operand inwards over activations, affines and inner products to a convolution."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.nodes import (
    SHAPE_OPS,
    activated,
    channel_affine,
    is_computed,
    is_copy,
    is_op,
    leaky_slope,
    optional_input,
    other_reader,
    title,
)
from lccl.graph.recognise.between import CONVOLUTIONS, quantised, refuse_between
from lccl.graph.recognise.refusal import RefusalError
from lccl.graph.shapes import FLOAT_TYPES, Sizes
from lccl.graph.surgery import producer, stored_shape, stored_type
from lccl.numerics import Array


@dataclass
class Branch:
    """What has been found between the product and the convolution."""

    conv: gs.Node
    alpha: float = 1.0
    """Slope below 0 of the activation between convolution and product."""
    scale: Array = field(default_factory=lambda: np.ones(1))
    shift: Array = field(default_factory=lambda: np.zeros(1))
    """Of the affines between convolution and activation, per channel."""
    gates: list[gs.Tensor] = field(default_factory=list)
    """The other operands of products further in."""
    path: list[tuple[gs.Tensor, gs.Node]] = field(default_factory=list)
    """Each tensor on the way with the one node that may read it."""

    @property
    def shape_readers(self) -> list[gs.Node]:
        """Nodes that ask for the shape of something on the way."""
        return [n for tensor, _ in self.path for n in tensor.outputs if is_op(n, *SHAPE_OPS)]

    @property
    def nodes(self) -> Iterator[gs.Node]:
        """Everything that the op takes the place of, but for the product itself."""
        return (tensor.inputs[0] for tensor, _ in self.path)


def find_branches(operand: gs.Tensor, product: gs.Node) -> Iterator[Branch]:
    """Every way from the operand to a convolution; more than one where products are nested.

    Raises:
        RefusalError: there is a convolution, with something between that the op does not have.
    """
    yield from _walk(operand, product, 1.0, None, [], [])


def _walk(
    tensor: gs.Tensor,
    reader: gs.Node,
    alpha: float,
    affine: tuple[Array, Array] | None,
    gates: list[gs.Tensor],
    path: list[tuple[gs.Tensor, gs.Node]],
) -> Iterator[Branch]:
    node = producer(tensor)
    path = [*path, (tensor, reader)]
    if node is None:
        return
    if is_op(node, *CONVOLUTIONS):
        scale, shift = affine or (np.ones(1), np.zeros(1))
        yield Branch(node, alpha, scale, shift, gates, path)
        return
    if is_copy(node):
        yield from _walk(node.inputs[0], node, alpha, affine, gates, path)
        return
    slope = leaky_slope(node)
    if slope is not None:
        _require_scale(affine, node)
        yield from _walk(activated(node), node, alpha * slope, affine, gates, path)
        return
    passed = channel_affine(node)
    if passed is not None:
        inner, (a, b) = passed
        outer_a, outer_b = affine or (np.ones(1), np.zeros(1))
        yield from _walk(inner, node, alpha, (outer_a * a, outer_a * b + outer_b), gates, path)
        return
    if is_op(node, "Mul") and len(node.inputs) == 2 and all(map(is_computed, node.inputs)):
        _require_scale(affine, node)
        yield from _both(node, alpha, affine, gates, path)
        return
    refuse_between(node)


def _both(
    mul: gs.Node,
    alpha: float,
    affine: tuple[Array, Array] | None,
    gates: list[gs.Tensor],
    path: list[tuple[gs.Tensor, gs.Node]],
) -> Iterator[Branch]:
    """Through either operand of a product further in.

    Raises:
        RefusalError: there is no way through any, and a convolution behind one.
    """
    found, refusal = False, None
    for place in (0, 1):
        try:
            for branch in _walk(mul.inputs[place], mul, alpha, affine, [*gates, mul.inputs[1 - place]], path):
                found = True
                yield branch
        except RefusalError as error:
            refusal = error
    if refusal is not None and not found:
        raise refusal


def _require_scale(affine: tuple[Array, Array] | None, node: gs.Node) -> None:
    """A positive factor may stand behind an activation as well as before it; a shift may not.

    Raises:
        RefusalError: there is more between product and activation than such a factor.
    """
    if affine is not None and ((affine[1] != 0).any() or (affine[0] <= 0).any()):
        raise RefusalError(f"an affine after an activation or a product ({title(node)}) is not part of the op", 2)


def check_branch(branch: Branch, sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    """What the op asks of the convolution itself.

    Returns:
        The shape of its output at each probe.

    Raises:
        RefusalError: something that version 1 does not have.
    """
    conv = branch.conv
    if conv.op != "Conv":
        kind = {"ConvTranspose": "a transposed convolution", "DeformConv": "a deformable convolution"}.get(conv.op)
        raise RefusalError(quantised(conv) if kind is None else f"{title(conv)} is {kind}, which the op does not have", 3)
    weight, bias = stored_shape(conv.inputs[1]), optional_input(conv, 2)
    if is_op(producer(conv.inputs[1]), "DequantizeLinear"):
        raise RefusalError(quantised(conv, producer(conv.inputs[1])), 3)
    if weight is None or (bias is not None and stored_shape(bias) is None):
        raise RefusalError(f"the weights of {title(conv)} are computed in the graph, not stored", 3)
    if len(weight) != 4:
        raise RefusalError(f"{title(conv)} is not 2-D", 3)
    if conv.attrs.get("group", 1) != 1:
        raise RefusalError(
            f"{title(conv)} is grouped ({conv.attrs['group']} groups), which version 1 of the op does not have", 5
        )
    if stored_type(conv.inputs[1]) not in FLOAT_TYPES:
        raise RefusalError(f"{title(conv)} is not float32, float16 or bfloat16", 3)
    shapes = sizes.of(conv.outputs[0])
    if shapes is None or any(len(shape) != 4 for shape in shapes):
        raise RefusalError(f"the shape of what {title(conv)} computes cannot be told: export with known sizes", 3)
    if weight[0] == 1:
        raise RefusalError(f"{title(conv)} has one output channel, as much work as a gate", 0)
    if any(a.size not in (1, weight[0]) for a in (branch.scale, branch.shift)):
        raise RefusalError(f"what follows {title(conv)} is not one affine per channel", 3)
    return shapes


def check_readers(branch: Branch, outputs: Container[int]) -> None:
    """Raises:
    RefusalError: something between convolution and product is read elsewhere too, so that it has to be computed everywhere.
    """
    for tensor, reader in branch.path:
        other = other_reader(tensor, reader, outputs)
        if other is not None:
            what = title(tensor.inputs[0])
            raise RefusalError(f"what {what} computes is read elsewhere too (by {other}), so nothing can be skipped", 6)
