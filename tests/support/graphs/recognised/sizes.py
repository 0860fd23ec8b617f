"""Gates whose shape the graph computes from other shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.graphs.computed_sizes import SPREADS, Spread, last, repeated, resized, sliced
from support.graphs.net import Net
from support.graphs.recognised.parts import HW, Build, C, Graph, gate, image, main

FIXED, DYNAMIC = (HW, HW), ("H", "W")


def spread(make: Spread, hw: tuple[int | str, int | str], **options: Any) -> Build:
    """Two layers in a row, so that the second one's shapes hang on those of the first's gate."""

    def build(net: Net) -> None:
        x = image(net, batch="N", hw=hw)
        u = net.op("Relu", main(net, x, **options))
        y = net.op("Relu", net.op("Mul", u, make(net, gate(net, x, **options), u)))
        v = net.conv(y, 6, 4)
        net.op("Mul", v, make(net, net.op("Relu", net.conv(y, 6, 1, 1, shift=0.1)), v))

    return build


def pooled(mode: str, hw: tuple[int | str, int | str], stride: int = 1) -> Build:
    """The authors' grid gate: pooled, enlarged to the branch's size, clamped, repeated."""

    def build(net: Net) -> None:
        x = image(net, batch="N", hw=hw)
        u = main(net, x, stride=stride)
        low = net.op("MaxPool", x, kernel_shape=[4, 4], strides=[4, 4])
        net.op("Mul", u, repeated(net, net.op("Relu", resized(net, net.conv(low, C, 1, 1), u, mode)), u))

    return build


def grid(cut: Spread) -> Build:
    """A gate of one value per 4 x 4 block, enlarged to whole blocks and cut to the branch's size."""

    def build(net: Net) -> None:
        x = image(net, batch="N", hw=DYNAMIC)
        u = main(net, x)
        coarse = net.op("Relu", net.conv(x, C, 1, 4, stride=4, pads=(0, 0, 3, 3)))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        net.op("Mul", u, cut(net, net.op("Resize", coarse, "", net.const([1, 1, 4, 4], np.float32), **how), u))

    return build


FUSED, EXTERNAL = {"gate_source": "fused"}, {"gate_source": "external"}
PER_PIXEL = {"gate_upsample": (1, 1, 1, 1)}

COMPUTED_SIZES = (
    *(Graph("computed size", form, spread(make, FIXED), 2, FUSED) for form, make in SPREADS.items()),
    *(Graph("computed size", f"{form}, of any size", spread(make, DYNAMIC), 2, FUSED) for form, make in SPREADS.items()),
    Graph("computed size", "repeat, strided", spread(repeated, FIXED, stride=2), 2, FUSED | {"gate_strides": (2, 2)}),
    Graph("computed size", "interpolate", spread(resized, FIXED), 2, FUSED),
    Graph("computed size", "interpolate, strided", spread(resized, FIXED, stride=2), 2, FUSED),
    Graph("computed size", "interpolate, of any size", spread(resized, DYNAMIC), 2, EXTERNAL | PER_PIXEL),
    Graph("computed size", "interpolate, strided, of any size", spread(resized, DYNAMIC, stride=2), 2, EXTERNAL | PER_PIXEL),
    Graph("computed size", "grid, bilinear", pooled("linear", FIXED), 1, EXTERNAL | PER_PIXEL),
    Graph("computed size", "grid, bilinear, of any size", pooled("linear", DYNAMIC), 1, EXTERNAL | PER_PIXEL),
    Graph("computed size", "grid, bilinear, strided", pooled("linear", FIXED, 2), 1, EXTERNAL | PER_PIXEL),
    Graph("computed size", "grid, bilinear, strided, of any size", pooled("linear", DYNAMIC, 2), 1, EXTERNAL | PER_PIXEL),
    Graph("computed size", "grid, nearest", pooled("nearest", FIXED), 1, EXTERNAL | {"gate_upsample": (1, 1, 4, 4)}),
    Graph("computed size", "grid, its first rows and columns", grid(sliced), 1, FUSED | {"gate_upsample": (1, 1, 4, 4)}),
    Graph("computed size", "grid, its last rows and columns", grid(last), 1, EXTERNAL | PER_PIXEL),
)
