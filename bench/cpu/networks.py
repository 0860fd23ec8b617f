"""The networks of the CPU benchmark, and inputs that give them a density.

They are dense where the paper leaves them dense.

A gate is open where the first channel of its map is above the gate's level. The input is made so
that every gated layer has the wanted density exactly, whatever its size: see the functions that
make it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from bench.cpu.common import Array, field, top
from bench.cpu.layer_nets import Map, Net

CLASSES = 1000
BRANCH_SCALE = 0.5
"""Of a block's last weights, so that sums over many blocks stay small."""


@dataclass(frozen=True)
class Network:
    """A network, and what it is fed with."""

    name: str
    size: int
    """Of the input, in pixels; it has three channels."""
    build: Callable[[int, str], tuple[Net, onnx.ModelProto]]
    """(batch, gate) -> the network."""
    steer: Callable[[float, str, np.random.Generator], Array]
    """(density, mask, generator) -> the input's first channel [size, size]."""

    def feed(self, batch: int, kind: str, density: float) -> Array:
        """X [batch, 3, size, size]."""
        rng = np.random.default_rng([self.size, round(1000 * density), kind == "blob"])
        x = rng.standard_normal((batch, 3, self.size, self.size), np.float32)
        for image in x:
            image[0] = self.steer(density, kind, rng)
        return x


# ---- residual networks ---------------------------------------------------------------------------


def nested_mask(sizes: tuple[int, ...], density: float, kind: str, rng: np.random.Generator) -> Array:
    """A bool map of the first size.

    Every second pixel of it is a mask of the next size, and so on, all of that density.

    Args:
        sizes: each half of the one before.
    """
    values = field(sizes[0], kind, rng)
    active = np.zeros((sizes[-1],) * 2, bool)
    for level in reversed(range(len(sizes))):
        size = sizes[level]
        score = values[:: 2**level, :: 2**level].copy()
        fixed = np.zeros((size, size), bool)
        if level < len(sizes) - 1:
            fixed[::2, ::2] = True
            score[::2, ::2] = -np.inf
            spread = np.zeros_like(fixed)
            spread[::2, ::2] = active
            active = spread
        else:
            active = np.zeros_like(fixed)
        wanted = max(1, round(density * size**2)) - int(active.sum())
        active = active | (top(score, max(wanted, 0)) & ~fixed)
    return active


def _basic(net: Net, x: Map, outputs: int, stride: int) -> Map:
    """Two 3x3 convolutions, both gated, the strided one excepted."""
    if stride == 1:
        y = net.gated(x, outputs)
    else:
        y = net.conv(x, outputs, 3, stride)
        x = net.conv(x, outputs, 1, stride, relu=False)
    return net.gated(y, outputs, passes=False, residual=x, scale=BRANCH_SCALE)


def _bottleneck(net: Net, x: Map, outputs: int, stride: int) -> Map:
    """1x1, 3x3, 1x1: the 3x3 is gated unless it is strided."""
    y = net.conv(x, outputs // 4, 1)
    y = net.conv(y, outputs // 4, 3, stride) if stride > 1 else net.gated(y, outputs // 4)
    if stride > 1 or x.channels != outputs:
        x = net.conv(x, outputs, 1, stride, relu=False)
    return net.conv(y, outputs, 1, passes=False, residual=x, scale=BRANCH_SCALE)


def _imagenet(name: str, depths: tuple[int, ...], block: Callable[[Net, Map, int, int], Map], width: int) -> Network:
    def build(batch: int, gate: str) -> tuple[Net, onnx.ModelProto]:
        net = Net(3, 224, batch, gate)
        x = net.pool(net.conv(net.input, 64, 7, 2), 3, 2, 1)
        for stage, depth in enumerate(depths):
            for i in range(depth):
                x = block(net, x, width * 2**stage, 2 if stage and i == 0 else 1)
        return net, net.model([net.classify(x, CLASSES)])

    def steer(density: float, kind: str, rng: np.random.Generator) -> Array:
        """The stem's convolution and pooling halve the map: of 4x4 pixels the first one says it."""
        values = np.zeros((224, 224), np.float32)
        values[::4, ::4] = nested_mask((56, 28, 14, 7), density, kind, rng)
        return values

    return Network(name, 224, build, steer)


def _cifar(name: str, depth: int) -> Network:
    def build(batch: int, gate: str) -> tuple[Net, onnx.ModelProto]:
        net = Net(3, 32, batch, gate)
        x = net.conv(net.input, 16)
        for stage in range(3):
            for i in range((depth - 2) // 6):
                x = _basic(net, x, 16 * 2**stage, 2 if stage and i == 0 else 1)
        return net, net.model([net.classify(x, 10)])

    def steer(density: float, kind: str, rng: np.random.Generator) -> Array:
        return nested_mask((32, 16, 8), density, kind, rng).astype(np.float32)

    return Network(name, 32, build, steer)


# ---- U-Net ---------------------------------------------------------------------------------------


def pooled_levels(size: int, levels: int, density: float, kind: str, rng: np.random.Generator) -> Array:
    """A map [size, size] that has the wanted density at every level of pooling.

    The largest value of each 2**v x 2**v block is above v in just that part of the blocks.

    From the coarsest level on: blocks are chosen, and in each the pixel with the largest noise gets
    v + 1.
    """
    values = field(size, kind, rng)
    codes = np.zeros((size, size), np.float32)
    for level in reversed(range(levels)):
        side = 2**level
        count = size // side
        blocks = values.reshape(count, side, count, side).transpose(0, 2, 1, 3).reshape(count**2, side**2)
        inside = codes.reshape(count, side, count, side).transpose(0, 2, 1, 3).reshape(count**2, side**2)
        open_ = inside.max(1) > level
        score = np.where(open_, -np.inf, blocks.max(1))
        wanted = max(1, round(density * count**2)) - int(open_.sum())
        chosen = np.flatnonzero(top(score, max(wanted, 0)) & ~open_)
        inside[chosen, blocks[chosen].argmax(1)] = level + 1
        codes = inside.reshape(count, count, side, side).transpose(0, 2, 1, 3).reshape(size, size)
    return codes


def _unet(size: int, width: int, levels: int) -> Network:
    def build(batch: int, gate: str) -> tuple[Net, onnx.ModelProto]:
        """Two 3x3 convolutions at each level, the second one gated, down and up again."""
        net = Net(3, size, batch, gate, levels)
        x, skips = net.input, []
        for level in range(levels):
            if level:
                x = net.pool(x, 2, 2)
            x = net.gated(net.conv(x, width * 2**level), width * 2**level, level=level)
            skips.append(x)
        for level in reversed(range(levels - 1)):
            up = net.twice(net.conv(x, width * 2**level, 1, relu=False))
            x = net.conv(net.concat([skips[level], up]), width * 2**level)
            x = net.gated(x, width * 2**level, level=level)
        return net, net.model([net.conv(x, 2, 1, relu=False, passes=False)])

    def steer(density: float, kind: str, rng: np.random.Generator) -> Array:
        return pooled_levels(size, levels, density, kind, rng)

    return Network("unet", size, build, steer)


NETWORKS = {
    network.name: network
    for network in (
        _imagenet("resnet18", (2, 2, 2, 2), _basic, 64),
        _imagenet("resnet34", (3, 4, 6, 3), _basic, 64),
        _imagenet("resnet50", (3, 4, 6, 3), _bottleneck, 256),
        _cifar("resnet20", 20),
        _cifar("resnet56", 56),
        _unet(512, 32, 5),
    )
}
