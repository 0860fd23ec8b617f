"""Strides, pads and dilations of a standard convolution, and of a gate's so that it fits the convolution's for every size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from lccl.graph.nodes import title
from lccl.graph.recognise.refusal import RefusalError
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import stored_shape


@dataclass(frozen=True)
class Geometry:
    """Of a 2-D convolution, in ONNX's order."""

    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    def slack(self, axis: int, kernel: Sequence[int]) -> int:
        """pads - extent: how much longer the input may be than the output before strides."""
        return self.pads[axis] + self.pads[axis + 2] - self.dilations[axis] * (kernel[axis] - 1)

    def keeps_size(self, kernel: Sequence[int]) -> bool:
        """Whether the output has the input's height and width, whatever these are."""
        return self.strides == (1, 1) and self.slack(0, kernel) == self.slack(1, kernel) == 0


def conv_geometry(conv: gs.Node, sizes: Sizes) -> Geometry:
    """Of a standard Conv with four-dimensional weights.

    Raises:
        RefusalError: pads below 0, or pads that depend on the input's size.
    """
    strides = tuple(conv.attrs.get("strides", (1, 1)))
    dilations = tuple(conv.attrs.get("dilations", (1, 1)))
    auto = conv.attrs.get("auto_pad", "NOTSET")
    pads = tuple(conv.attrs.get("pads", (0, 0, 0, 0))) if auto == "NOTSET" else (0, 0, 0, 0)
    geometry = Geometry(strides, pads, dilations)  # type: ignore[arg-type]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        geometry = _same(conv, geometry, auto, sizes)
    if min(geometry.pads) < 0:
        raise RefusalError(f"{title(conv)} has pads below 0, which the op does not have", 3)
    return geometry


def _same(conv: gs.Node, geometry: Geometry, auto: str, sizes: Sizes) -> Geometry:
    """The pads that SAME stands for: ceil(size / stride) outputs. With a stride of 1 they are the same for every size.

    Raises:
        RefusalError: the size of an axis with a stride is not fixed.
    """
    kernel = (stored_shape(conv.inputs[1]) or (1, 1, 1, 1))[2:]
    fixed = sizes.fixed(conv.inputs[0])
    begin, end = [], []
    for axis in (0, 1):
        stride, size = geometry.strides[axis], fixed[2 + axis] if len(fixed) == 4 else None
        reach = geometry.dilations[axis] * (kernel[axis] - 1)
        if stride == 1:
            total = reach
        elif size is None:
            raise RefusalError(f"the pads of {title(conv)} ({auto}) depend on its input's size: export with a fixed size", 3)
        else:
            total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return replace(geometry, pads=(*begin, *end))  # type: ignore[arg-type]


def fitting_pads(gate: Geometry, gate_kernel: Sequence[int], conv: Geometry, kernel: Sequence[int]) -> Geometry | None:
    """The gate's geometry with end pads by which its map follows the convolution's for every size, as the contract asks.

    Both give maps of the same size here, so that pads which are added or taken at the end are seen by no pixel.
    """
    pads = list(gate.pads)
    for axis in (0, 1):
        pads[axis + 2] += conv.slack(axis, kernel) - gate.slack(axis, gate_kernel)
    return replace(gate, pads=tuple(pads)) if min(pads) >= 0 else None  # type: ignore[arg-type]
