"""Questions about one node: whether it is a copy, an affine, an activation, a constant."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.constants import stored_shape, value_of
from lccl.graph.op_sets import BINARY_AFFINE, COPIES
from lccl.numerics import Array
from lccl.op.contract import DOMAIN, OP_TYPE, Attributes

_UNBOUNDED = 3e38
"""A Clip to this or more has no upper end: exporters write float32's largest value for none."""


def label(node: gs.Node) -> str:
    """Return the node in words: its op and its name, or its output if it has no name."""
    return f"{node.op} {node.name or (node.outputs[0].name if node.outputs else '')}"


def is_op(node: gs.Node | None, *ops: str) -> bool:
    """Return whether the node is one of these standard ops."""
    return node is not None and node.op in ops and node.domain in (None, "", "ai.onnx")


def is_lccl(node: gs.Node) -> bool:
    """Return whether the node is an LCCLConv of the contract's domain."""
    return bool(node.op == OP_TYPE and node.domain == DOMAIN)


def attributes_of(node: gs.Node) -> Attributes:
    """Return the attributes of an LCCLConv node.

    Raises:
        ContractError: version 1 does not know an attribute, or does not allow its value.
    """
    return Attributes.from_mapping(node.attrs)


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that computes the tensor, or None for inputs and constants."""
    return tensor.inputs[0] if len(tensor.inputs) == 1 else None


def scalar_of(tensor: gs.Tensor) -> float | None:
    """Return the value of a constant with one element, or None for another tensor."""
    values = value_of(tensor)
    return float(values.astype(np.float64).item()) if values is not None and values.size == 1 else None


def optional_input(node: gs.Node, place: int) -> gs.Tensor | None:
    """Return an input that may be left out, or None if it is."""
    if place >= len(node.inputs):
        return None
    tensor = node.inputs[place]
    return None if isinstance(tensor, gs.Variable) and tensor.is_empty() else tensor


def is_computed(tensor: gs.Tensor) -> bool:
    """Return whether the tensor is computed, not stored."""
    return stored_shape(tensor) is None


def norm_affine(node: gs.Node) -> tuple[Array, Array] | None:
    """Return a BatchNormalization as (scale, shift) per channel, in float64.

    The result is None for one without stored statistics, and for one in training mode.
    """
    stored = [value_of(t) for t in node.inputs[1:5]]
    if len(stored) != 4 or any(v is None for v in stored) or node.attrs.get("training_mode", 0):
        return None
    scale, bias, mean, var = (np.asarray(v, np.float64) for v in stored)
    factor = scale / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    return factor, bias - mean * factor


def weights_of(tensor: gs.Tensor) -> Array:
    """Return the values of a tensor that is known to be stored."""
    found = value_of(tensor)
    assert found is not None
    return found


def past_copies(tensor: gs.Tensor) -> gs.Tensor:
    """Return the tensor that this one is a plain copy of, which may be itself."""
    while is_copy(producer(tensor)):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def is_copy(node: gs.Node | None) -> bool:
    """Return whether the node gives its input as it is."""
    if node is None or not is_op(node, *COPIES):
        return False
    training = optional_input(node, 2)
    return training is None or scalar_of(training) == 0


def leaky_slope(node: gs.Node) -> float | None:
    """Return alpha >= 0 if the node is ``x if x > 0 else alpha * x``; None for another node."""
    if is_op(node, "Relu") or (is_op(node, "ThresholdedRelu") and node.attrs.get("alpha", 1.0) == 0):
        return 0.0
    if is_op(node, "LeakyRelu"):
        slope = float(node.attrs.get("alpha", 0.01))
        return slope if slope >= 0 else None
    if is_op(node, "PRelu"):
        slopes = value_of(node.inputs[1])
        equal = slopes is not None and slopes.size > 0 and bool((slopes == slopes.flat[0]).all())
        return float(slopes.flat[0]) if equal and slopes.flat[0] >= 0 else None  # type: ignore[union-attr]
    if is_op(node, "Clip"):
        low, high = optional_input(node, 1), optional_input(node, 2)
        unbounded = high is None or (scalar_of(high) or 0.0) >= _UNBOUNDED
        return 0.0 if low is not None and scalar_of(low) == 0 and unbounded else None
    if is_op(node, "Max") and len(node.inputs) == 2:
        return 0.0 if any(scalar_of(t) == 0 for t in node.inputs) else None
    return None


def activated(node: gs.Node) -> gs.Tensor:
    """Return the input of an activation whose other operands are constants."""
    return next(t for t in node.inputs if is_computed(t))


def channel_affine(node: gs.Node) -> tuple[gs.Tensor, tuple[Array, Array]] | None:
    """Return x and (a, b) of a node that is a * x + b per channel, or None for another node.

    a and b have one value, or one per channel.
    """
    if is_op(node, "BatchNormalization"):
        affine = norm_affine(node) if len([t for t in node.outputs if t.outputs]) <= 1 else None
        return (node.inputs[0], affine) if affine is not None else None
    if not is_op(node, *BINARY_AFFINE) or len(node.inputs) != 2:
        return None
    for place in (1, 0):
        values = per_channel(node.inputs[place])
        if values is None or not is_computed(node.inputs[1 - place]):
            continue
        x, one, zero = node.inputs[1 - place], np.ones(1), np.zeros(1)
        if node.op == "Mul":
            return x, (values, zero)
        if node.op == "Add":
            return x, (one, values)
        if node.op == "Sub":
            return x, ((one, -values) if place == 1 else (-one, values))
        if place == 1 and (values != 0).all():
            return x, (1 / values, zero)
    return None


def per_channel(tensor: gs.Tensor) -> Array | None:
    """Return a constant with one value per channel of [N, C, H, W], or one for all.

    The values are float64. The result is None for any other tensor.
    """
    values = value_of(tensor)
    if values is None:
        return None
    if values.size == 1:
        return values.astype(np.float64).reshape(1)
    padded = (1,) * (4 - values.ndim) + values.shape
    return values.astype(np.float64).reshape(-1) if len(padded) == 4 and padded[1] == values.size else None


def depends_on(tensor: gs.Tensor, nodes: Container[int], without: Container[int] = ()) -> bool:
    """Return whether the tensor is computed from one of the nodes.

    Args:
        nodes: ids of the nodes.
        without: ids of nodes that the search does not go through.
    """
    seen: set[int] = set()
    waiting = [tensor]
    while waiting:
        for node in waiting.pop().inputs:
            if id(node) in nodes:
                return True
            if id(node) not in seen and id(node) not in without:
                seen.add(id(node))
                waiting.extend(node.inputs)
    return False
