"""Strides, pads and dilations of a convolution, and of a gate that has to fit it.

Zeros that Pad nodes put around the input count as the convolution's own pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from lccl.graph.constants import stored_shape, value_of
from lccl.graph.nodes import is_op, optional_input, producer, scalar_of
from lccl.graph.recognise.context import Context
from lccl.graph.recognise.refusal import MatchStage, RefusalError


@dataclass(frozen=True)
class Geometry:
    """Strides, pads and dilations of a 2-D convolution, in ONNX's order."""

    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    def slack(self, axis: int, kernel: Sequence[int]) -> int:
        """Return pads - extent of the kernel: how much longer the output is, before strides."""
        return self.pads[axis] + self.pads[axis + 2] - self.dilations[axis] * (kernel[axis] - 1)

    def keeps_size(self, kernel: Sequence[int]) -> bool:
        """Return whether the output has the input's height and width, whatever these are."""
        return self.strides == (1, 1) and self.slack(0, kernel) == self.slack(1, kernel) == 0


def conv_geometry(conv: gs.Node, context: Context) -> Geometry:
    """Return the geometry of a standard Conv with four-dimensional weights.

    Raises:
        RefusalError: pads below 0, or pads that depend on the input's size.
    """
    strides = tuple(conv.attrs.get("strides", (1, 1)))
    dilations = tuple(conv.attrs.get("dilations", (1, 1)))
    auto = conv.attrs.get("auto_pad", "NOTSET")
    pads = tuple(conv.attrs.get("pads", (0, 0, 0, 0))) if auto == "NOTSET" else (0, 0, 0, 0)
    for pad in _pads_before(conv):
        pads = tuple(a + b for a, b in zip(pads, _zeros_around(pad) or (0,) * 4, strict=True))
    geometry = Geometry(strides, pads, dilations)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        geometry = _with_same_pads(conv, geometry, auto, context)
    if min(geometry.pads) < 0:
        reason = f"{context.label(conv)} has pads below 0, which the op does not have"
        raise RefusalError(reason, MatchStage.CONVOLUTION)
    return geometry


def conv_input(conv: gs.Node) -> gs.Tensor:
    """Return what the convolution reads, without the zeros that Pad nodes put around it."""
    pads = _pads_before(conv)
    return pads[-1].inputs[0] if pads else conv.inputs[0]


def _pads_before(conv: gs.Node) -> list[gs.Node]:
    """List the Pad nodes whose zeros can become the convolution's own pads, outwards.

    There are none for a convolution with SAME pads, which depend on the padded size.
    """
    found: list[gs.Node] = []
    if conv.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        node = producer(conv.inputs[0])
        while node is not None and _zeros_around(node) is not None:
            found.append(node)
            node = producer(node.inputs[0])
    return found


def _zeros_around(node: gs.Node) -> tuple[int, int, int, int] | None:
    """Return (top, left, bottom, right) if the node puts that many zeros around maps.

    The result is None if it does anything else to maps [N, C, H, W].
    """
    if not is_op(node, "Pad") or node.attrs.get("mode", "constant") != "constant":
        return None
    value, listed = optional_input(node, 2), optional_input(node, 3)
    pads, axes = value_of(node.inputs[1]), None if listed is None else value_of(listed)
    if pads is None or (value is not None and scalar_of(value) != 0) or (listed is not None and axes is None):
        return None
    places = [int(a) for a in axes] if axes is not None else list(range(len(pads) // 2))
    if axes is None and len(places) != 4:
        return None
    around = {place % 4: (int(pads[i]), int(pads[i + len(places)])) for i, place in enumerate(places)}
    (top, bottom), (left, right) = (around.get(axis, (0, 0)) for axis in (2, 3))
    fits = min(top, bottom, left, right) >= 0 and all(around.get(axis, (0, 0)) == (0, 0) for axis in (0, 1))
    return (top, left, bottom, right) if fits else None


def _with_same_pads(conv: gs.Node, geometry: Geometry, auto: str, context: Context) -> Geometry:
    """Return the geometry with the pads of SAME, which gives ceil(size / stride) outputs.

    Raises:
        RefusalError: an axis has a stride above 1 and no fixed size, on which its pads then depend.
    """
    kernel = (stored_shape(conv.inputs[1]) or (1, 1, 1, 1))[2:]
    fixed = context.sizes.fixed(conv.inputs[0])
    begin, end = [], []
    for axis in (0, 1):
        stride, size = geometry.strides[axis], fixed[2 + axis] if len(fixed) == 4 else None
        reach = geometry.dilations[axis] * (kernel[axis] - 1)
        if stride == 1:
            total = reach
        elif size is None:
            reason = f"the pads of {context.label(conv)} ({auto}) depend on its input's size: export with a fixed size"
            raise RefusalError(reason, MatchStage.CONVOLUTION)
        else:
            total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return replace(geometry, pads=(*begin, *end))  # type: ignore[arg-type]


def fitting_pads(gate: Geometry, gate_kernel: Sequence[int], conv: Geometry, kernel: Sequence[int]) -> Geometry | None:
    """Return the gate's geometry with end pads for a map of the convolution's size at every size.

    Both maps have the same size here, so that no pixel reads the pads that are added or removed.
    None if a pad would be negative.
    """
    pads = list(gate.pads)
    for axis in (0, 1):
        pads[axis + 2] += conv.slack(axis, kernel) - gate.slack(axis, gate_kernel)
    return replace(gate, pads=tuple(pads)) if min(pads) >= 0 else None  # type: ignore[arg-type]
