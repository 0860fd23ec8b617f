"""Nodes that rearrange values and change none: views, copies, nearest upsampling.

What a chain of them does is found by sending indices through it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.constants import value_of
from lccl.graph.nodes import is_copy, is_op, optional_input, producer
from lccl.graph.op_sets import COPIES, REARRANGEMENTS, RESHAPES, SELECTIONS
from lccl.graph.shapes import FLOAT_TYPES, Shape, Sizes
from lccl.numerics import Array


def rearranged(tensor: gs.Tensor) -> gs.Tensor | None:
    """Return the tensor that this one is a rearrangement of by one node, or None if it is none."""
    node = producer(tensor)
    if node is None or not is_op(node, *REARRANGEMENTS) or tensor is not node.outputs[0]:
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
    chain: Sequence[gs.Node],
    start: gs.Tensor,
    gated: gs.Tensor,
    outputs: Sequence[Shape],
    sizes: Sizes,
    wanted: int | None = None,
) -> int | None:
    """Return G if the chain repeats each value of ``start`` over a G x G block of the map.

    ``start`` is [N, 1, h, w].

    Args:
        chain: the nodes from ``start`` outwards.
        gated: the tensor that the map is multiplied onto.
        outputs: its shape [N, K, Ho, Wo] at each probe.
        sizes: the shapes of the graph's tensors.
        wanted: G, where it is known; else the least that covers the map.

    Returns:
        G, which is 1 for a chain that leaves every value where it is; None if the chain does
        anything else at a probe, or may do so at another size.
    """
    starts = sizes.of(start)
    if starts is None:
        return None
    of_any_size = any(None in (sizes.fixed(t)[2:] or (None,)) for t in (start, gated))
    if of_any_size and not all(_has_integer_scales(node) for node in chain if node.op == "Resize"):
        return None
    found: set[int] = set()
    for probe, (shape, (batch, _, *hw)) in enumerate(zip(starts, outputs, strict=True)):
        if len(shape) != 4 or shape[:2] != (batch, 1) or not all(shape):
            return None
        grid = wanted or max(-(-size // cells) for size, cells in zip(hw, shape[2:], strict=True))
        indices = np.arange(np.prod(shape)).reshape(shape)
        expected = indices.repeat(grid, axis=2).repeat(grid, axis=3)[:, :, : hw[0], : hw[1]]
        got = _send_through(indices, chain, probe, sizes)
        if got is None or not _equal(got, expected) or (-(-hw[0] // grid), -(-hw[1] // grid)) != shape[2:]:
            return None
        found.add(grid)
    return found.pop() if len(found) == 1 else None


def _has_integer_scales(resize: gs.Node) -> bool:
    """Return whether a Resize enlarges a map by stored integers.

    It then does the same at every size.

    A Resize to a computed size may enlarge by an integer at some sizes only.
    """
    given = optional_input(resize, 2)
    scales = None if given is None else value_of(given)
    return scales is not None and scales.size > 0 and bool(((scales >= 1) & (scales == np.floor(scales))).all())


def _equal(got: Array, expected: Array) -> bool:
    """Return whether the two are equal, or one repeats the other along the channels."""
    got = got.reshape((1,) * (4 - got.ndim) + got.shape) if got.ndim <= 4 else got
    if got.ndim != 4 or got.shape[0] != expected.shape[0] or got.shape[2:] != expected.shape[2:]:
        return False
    return bool((got == expected).all())


def _send_through(indices: Array, chain: Sequence[gs.Node], probe: int, sizes: Sizes) -> Array | None:
    """Return the indices as the chain leaves them, or None if a node's effect is not known."""
    for node in chain:
        shapes = sizes.of(node.outputs[0])
        if node.op in COPIES or node.op == "Cast":
            continue
        if shapes is None:
            return None
        after = _selection(node, indices, probe, sizes) if node.op in SELECTIONS else _apply(node, indices, shapes[probe])
        if after is None or after.shape != shapes[probe]:
            return None
        indices = after
    return indices


def _apply(node: gs.Node, x: Array, shape: Shape) -> Array | None:
    """Apply the node to indices.

    Its output's shape is known, so that sizes which the graph computes need no evaluation.
    """
    if node.op in RESHAPES:
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
    return None


def _selection(node: gs.Node, x: Array, probe: int, sizes: Sizes) -> Array | None:
    """Apply a Slice or Gather with stored indices.

    Only where a Slice ends may be computed from shapes: its end decides the size that it gives,
    which the product holds to that of the branch.
    """
    stored = [
        sizes.value(t, probe) if place == 1 and node.op == "Slice" else value_of(t) for place, t in enumerate(node.inputs[1:])
    ]
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
    """Apply a nearest Resize, axis by axis."""
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
