"""Sizes that a graph computes from shapes, node by node as PyTorch's exporters write them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, numpy_helper

from support.graphs.net import Net

Spread = Callable[[Net, str, str], str]
"""Makes a map of one channel fit a branch: net, map, branch -> the map in the branch's size."""


def size(net: Net, x: str, axis: int) -> str:
    """x.size(axis) as a list of one number."""
    return net.op("Unsqueeze", net.op("Gather", net.op("Shape", x), net.const(axis, np.int64), axis=0), net.ints(0))


def sizes(net: Net, *parts: str) -> str:
    """Sizes in a list."""
    return net.op("Concat", *parts, axis=0)


def ones_like(net: Net, x: str) -> str:
    """As many ones as a list has elements."""
    one = numpy_helper.from_array(np.ones(1, np.int64))
    return net.op("ConstantOfShape", net.op("Shape", x), value=one)


def expanded_to(net: Net, x: str, wanted: str) -> str:
    """x.expand(wanted), where a size of -1 keeps the map's own."""
    wanted = net.op("Reshape", wanted, net.ints(-1))
    ones = ones_like(net, wanted)
    kept = net.op("Equal", wanted, net.op("Mul", ones, net.const(-1, np.int64)))
    return net.op("Expand", x, net.op("Where", kept, ones, wanted))


def repeated(net: Net, g: str, u: str) -> str:
    """g.repeat(1, u.shape[1], 1, 1)."""
    wanted = sizes(net, net.ints(1), size(net, u, 1), net.ints(1), net.ints(1))
    return net.op("Tile", net.op("Expand", g, ones_like(net, wanted)), wanted)


def expanded(net: Net, g: str, u: str) -> str:
    """g.expand(u.size())."""
    return expanded_to(net, g, sizes(net, *(size(net, u, axis) for axis in range(4))))


def expanded_channels(net: Net, g: str, u: str) -> str:
    """g.expand(-1, u.size(1), -1, -1)."""
    return expanded_to(net, g, sizes(net, net.ints(-1), size(net, u, 1), net.ints(-1, -1)))


def reshaped(net: Net, g: str, u: str) -> str:
    """g.view(u.size(0), -1, u.size(2), u.size(3))."""
    return net.op("Reshape", g, sizes(net, size(net, u, 0), net.ints(-1), size(net, u, 2), size(net, u, 3)))


def flattened(net: Net, g: str, u: str) -> str:
    """g.flatten(2), expanded over the channels, and seen as maps again."""
    pixels = net.op("Mul", size(net, u, 2), size(net, u, 3))
    flat = net.op("Reshape", g, sizes(net, size(net, g, 0), net.ints(1, -1)))
    wide = expanded_to(net, flat, sizes(net, size(net, g, 0), size(net, u, 1), pixels))
    return net.op("Reshape", wide, net.op("Shape", u))


def resized(net: Net, g: str, u: str, mode: str = "nearest") -> str:
    """F.interpolate(g, size=u.shape[2:])."""
    hw = net.op("Cast", sizes(net, size(net, u, 2), size(net, u, 3)), to=TensorProto.INT64)
    whole = sizes(net, net.op("Slice", net.op("Shape", g), net.ints(0), net.ints(2), net.ints(0)), hw)
    if mode == "nearest":
        how = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        how = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    return net.op("Resize", g, "", "", whole, **how)


def sliced(net: Net, g: str, u: str) -> str:
    """g[:, :, : u.size(2), : u.size(3)]."""
    rows = net.op("Slice", g, net.ints(0), size(net, u, 2), net.ints(2), net.ints(1))
    return net.op("Slice", rows, net.ints(0), size(net, u, 3), net.ints(3), net.ints(1))


def last(net: Net, g: str, u: str) -> str:
    """g[:, :, -u.size(2) :, -u.size(3) :]: from a place that depends on the size."""
    out = g
    for axis in (2, 3):
        start = net.op("Neg", size(net, u, axis))
        out = net.op("Slice", out, start, net.ints(2**62), net.ints(axis), net.ints(1))
    return out


SPREADS: dict[str, Spread] = {
    "repeat": repeated,
    "expand": expanded,
    "expand(-1, channels)": expanded_channels,
    "view": reshaped,
    "flat and back": flattened,
    "first rows and columns": sliced,
}
"""Each leaves every value of a map of the branch's size where it is."""
