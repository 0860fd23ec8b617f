"""Nodes of a graph as recognition and fusion read them: constants, affines and activations, who reads what."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.surgery import producer, stored_shape, value_of
from lccl.numerics import Array

_UNBOUNDED = 3e38
"""A Clip's upper end from here on is none: exporters write float32's largest value."""
SHAPE_OPS = ("Shape", "Size")
"""They read a tensor's shape and none of its values."""


def title(node: gs.Node) -> str:
    """A node in words: by its op and name, or by what it computes where it has no name.

    A node that is read as another op, or stands for what another computes, has its words in ``shown`` meanwhile.
    """
    name = node.name or (node.outputs[0].name if node.outputs else "")
    return getattr(node, "shown", f"{node.op} {name}")


def as_written(node: gs.Node) -> bool:
    """Whether the node is as the graph has it."""
    return not hasattr(node, "shown")


def is_op(node: gs.Node | None, *ops: str) -> bool:
    """Whether the node is one of these standard ops."""
    return node is not None and node.op in ops and node.domain in (None, "", "ai.onnx")


def scalar_of(tensor: gs.Tensor) -> float | None:
    """The value of a constant with one element."""
    values = value_of(tensor)
    return float(values.astype(np.float64).item()) if values is not None and values.size == 1 else None


def optional_input(node: gs.Node, place: int) -> gs.Tensor | None:
    """An input that may be left out."""
    if place >= len(node.inputs):
        return None
    tensor = node.inputs[place]
    return None if isinstance(tensor, gs.Variable) and tensor.is_empty() else tensor


def is_computed(tensor: gs.Tensor) -> bool:
    """Whether the tensor depends on the network's inputs."""
    return stored_shape(tensor) is None


def norm_affine(node: gs.Node) -> tuple[Array, Array] | None:
    """A BatchNormalization with stored statistics as (scale, shift) per channel, float64."""
    stored = [value_of(t) for t in node.inputs[1:5]]
    if len(stored) != 4 or any(v is None for v in stored) or node.attrs.get("training_mode", 0):
        return None
    scale, bias, mean, var = (np.asarray(v, np.float64) for v in stored)
    factor = scale / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    return factor, bias - mean * factor


def weights_of(tensor: gs.Tensor) -> Array:
    """The values of a tensor that is known to be stored."""
    found = value_of(tensor)
    assert found is not None
    return found


def past_copies(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor that this one is a plain copy of."""
    while is_copy(producer(tensor)):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def is_copy(node: gs.Node | None) -> bool:
    """Whether the node gives its input as it is."""
    if node is None or not is_op(node, "Identity", "Dropout"):
        return False
    training = optional_input(node, 2)
    return training is None or scalar_of(training) == 0


def other_reader(tensor: gs.Tensor, reader: gs.Node, outputs: Container[int]) -> str | None:
    """Who reads the tensor besides ``reader``, in words; asking for its shape is no reading, and several copies in a Concat are one.

    Args:
        outputs: ids of the tensors that the network returns.
    """
    if id(tensor) in outputs:
        return "the network's caller"
    others = [n for n in tensor.outputs if n is not reader and not is_op(n, *SHAPE_OPS)]
    if others:
        return title(others[0])
    twice = sum(t is tensor for t in reader.inputs) > 1
    return title(reader) if twice and not is_op(reader, "Concat") else None


def leaky_slope(node: gs.Node) -> float | None:
    """alpha where the node is x if x > 0 else alpha * x, with 0 <= alpha."""
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
    """The activation's own input."""
    return next(t for t in node.inputs if is_computed(t))


def channel_affine(node: gs.Node) -> tuple[gs.Tensor, tuple[Array, Array]] | None:
    """A node that is a * x + b per channel: its x, and (a, b), each of one element or one per channel."""
    if is_op(node, "BatchNormalization"):
        affine = norm_affine(node) if len([t for t in node.outputs if t.outputs]) <= 1 else None
        return (node.inputs[0], affine) if affine is not None else None
    if not is_op(node, "Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
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
    """A constant that is one value per channel of [N, C, H, W], or one for all, in float64."""
    values = value_of(tensor)
    if values is None:
        return None
    if values.size == 1:
        return values.astype(np.float64).reshape(1)
    padded = (1,) * (4 - values.ndim) + values.shape
    return values.astype(np.float64).reshape(-1) if len(padded) == 4 and padded[1] == values.size else None


def depends_on(tensor: gs.Tensor, nodes: Container[int], without: Container[int] = ()) -> bool:
    """Whether one of the nodes is among those that the tensor is computed by.

    Args:
        nodes: ids.
        without: ids of nodes behind which it is not looked.
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
