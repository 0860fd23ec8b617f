"""Nodes that move values about and change none: views, copies, nearest upsampling. What they do is found by moving indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.nodes import is_copy, is_op, optional_input
from lccl.graph.shapes import FLOAT_TYPES, Shape, Sizes
from lccl.graph.surgery import producer, value_of
from lccl.numerics import Array

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_COPIES = ("Identity", "Dropout", "Cast")
_MOVES = (*_RESHAPES, *_COPIES, "Expand", "Tile", "Transpose", "Slice", "Gather", "Concat", "Resize")


def moved(tensor: gs.Tensor) -> gs.Tensor | None:
    """What the tensor is a rearrangement of; None where it is none."""
    node = producer(tensor)
    if node is None or not is_op(node, *_MOVES) or tensor is not node.outputs[0]:
        return None
    if node.op == "Dropout" and not is_copy(node):
        return None
    if node.op == "Cast" and node.attrs["to"] not in FLOAT_TYPES:
        return None
    if node.op == "Resize" and node.attrs.get("mode", "nearest") != "nearest":
        return None
    if node.op == "Concat" and any(t is not node.inputs[0] for t in node.inputs):
        return None
    return node.inputs[0]


def upsampling(
    chain: Sequence[gs.Node], start: gs.Tensor, gated: gs.Tensor, outputs: Sequence[Shape], sizes: Sizes
) -> int | None:
    """G if the chain of moves repeats each value of ``start`` [N, 1, h, w] over a G x G block of the map; 1: nothing moves.

    Args:
        chain: the nodes from ``start`` outwards.
        gated: what the map is multiplied onto.
        outputs: its shape [N, K, Ho, Wo] at each probe.

    Returns:
        None where it does anything else, at any probe, or may do so at another size.
    """
    starts = sizes.of(start)
    if starts is None:
        return None
    of_any_size = any(None in (sizes.fixed(t)[2:] or (None,)) for t in (start, gated))
    if of_any_size and not all(_scales_by_numbers(node) for node in chain if node.op == "Resize"):
        return None
    found: set[int] = set()
    for probe, (shape, (batch, _, *hw)) in enumerate(zip(starts, outputs, strict=True)):
        if len(shape) != 4 or shape[:2] != (batch, 1) or not all(shape):
            return None
        grid = -(-hw[0] // shape[2])
        indices = np.arange(np.prod(shape)).reshape(shape)
        expected = indices.repeat(grid, axis=2).repeat(grid, axis=3)[:, :, : hw[0], : hw[1]]
        got = _follow(indices, chain, probe, sizes)
        if got is None or not _same(got, expected) or (-(-hw[0] // grid), -(-hw[1] // grid)) != shape[2:]:
            return None
        found.add(grid)
    return found.pop() if len(found) == 1 else None


def _scales_by_numbers(resize: gs.Node) -> bool:
    """Whether a Resize makes a map larger by whole numbers that are stored: one to a computed size may do so at some sizes only.

    The product asks for the size of such a map, so it can have no other.
    """
    given = optional_input(resize, 2)
    scales = None if given is None else value_of(given)
    return scales is not None and scales.size > 0 and bool(((scales >= 1) & (scales == np.floor(scales))).all())


def _same(got: Array, expected: Array) -> bool:
    """Whether one is the other, repeated along the channels or not."""
    got = got.reshape((1,) * (4 - got.ndim) + got.shape) if got.ndim <= 4 else got
    if got.ndim != 4 or got.shape[0] != expected.shape[0] or got.shape[2:] != expected.shape[2:]:
        return False
    return bool((got == expected).all())


def _follow(indices: Array, chain: Sequence[gs.Node], probe: int, sizes: Sizes) -> Array | None:
    for node in chain:
        shapes = sizes.of(node.outputs[0])
        if node.op in _COPIES:
            continue
        if shapes is None:
            return None
        after = _move(node, indices, shapes[probe])
        if after is None or after.shape != shapes[probe]:
            return None
        indices = after
    return indices


def _move(node: gs.Node, x: Array, shape: Shape) -> Array | None:
    """The node on indices, given the shape that it has to give: sizes that it computes need not be evaluated."""
    if node.op in _RESHAPES:
        return x.reshape(shape) if x.size == np.prod(shape) else None
    if node.op == "Expand":
        return np.broadcast_to(x, shape)
    if node.op == "Tile":
        return np.tile(x, [new // old for new, old in zip(shape, x.shape, strict=True)]) if 0 not in x.shape else None
    if node.op == "Transpose":
        return x.transpose(node.attrs.get("perm", list(range(x.ndim))[::-1]))
    if node.op == "Concat":
        return np.concatenate([x] * len(node.inputs), axis=node.attrs["axis"])
    if node.op == "Resize":
        return _nearest(node, x, shape)
    return _taken(node, x)


def _taken(node: gs.Node, x: Array) -> Array | None:
    """Slice and Gather with stored indices."""
    stored = [value_of(t) for t in node.inputs[1:]]
    if any(v is None for v in stored):
        return None
    if node.op == "Gather":
        return np.take(x, stored[0], axis=node.attrs.get("axis", 0))  # type: ignore[arg-type]
    starts, ends, *more = ([int(i) for i in v] for v in stored if v is not None)
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            return None
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _nearest(node: gs.Node, x: Array, shape: Shape) -> Array | None:
    """Resize by the nearest value: which source pixel each output pixel takes, axis by axis."""
    if x.ndim != len(shape) or "axes" in node.attrs:
        return None
    coordinates = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
    if coordinates not in ("asymmetric", "half_pixel", "pytorch_half_pixel"):
        return None
    given = optional_input(node, 2)
    scales = None if given is None else value_of(given)
    if rounding not in _ROUNDINGS or (given is not None and scales is None):
        return None
    for axis, (old, new) in enumerate(zip(x.shape, shape, strict=True)):
        if old == new:
            continue
        offset = 0.0 if coordinates == "asymmetric" else 0.5
        scale = new / old if scales is None or scales.size == 0 else float(scales[axis])
        position = (np.arange(new) + offset) / scale - offset
        x = np.take(x, np.clip(_ROUNDINGS[rounding](position), 0, old - 1), axis=axis)
    return x


_ROUNDINGS = {
    "floor": lambda p: np.floor(p + 1e-9).astype(np.int64),
    "ceil": lambda p: np.ceil(p - 1e-9).astype(np.int64),
    "round_prefer_floor": lambda p: np.ceil(p - 0.5 - 1e-9).astype(np.int64),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5 + 1e-9).astype(np.int64),
}
