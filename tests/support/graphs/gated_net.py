"""Networks with nodes of the op among standard ops, small and random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from lccl.graph.variants.canonical import canonical
from lccl.op.contract import INPUT_NAMES, INPUTS, Attributes
from lccl.op.onnx_op import make_node, register_schema
from support.graphs.net import Net


class GatedNet(Net):
    """A net of maps, [N, channels, size, size]."""

    def gated(self, x: str, c: int, k: int, *, residual: str = "", gate: str = "", stride: int = 1) -> str:
        """A gated 3x3 convolution that keeps the size but for its stride; half of the pixels are open.

        Args:
            residual: added, of the output's shape.
            gate: a map from outside, instead of a gate of its own.
        """
        attributes = Attributes(
            strides=(stride, stride),
            pads=(1, 1, 1, 1),
            gate_strides=(stride, stride),
            gate_pads=(1, 1, 1, 1),
            gate_source="external" if gate else "fused",
            density=0.5,
        )
        draw = self.rng.standard_normal
        values = {
            "W": draw((k, 3, 3, c)) / np.sqrt(9 * c),
            "B": draw(k) * 0.1,
            "gate_W": draw((1, 3, 3, c)) / np.sqrt(9 * c) * (0 if gate else 1),
            "gate_B": np.ones(1) if gate else draw(1) * 0.1,
        }
        inputs = {"X": x, "residual": residual, "gate": gate}
        for spec in INPUTS:
            if not inputs.get(spec.name):
                neutral = np.full((1,) * (4 if spec.is_tensor_type else 1), spec.neutral)
                inputs[spec.name] = self.const(values.get(spec.name, neutral), np.float32)
        name = f"gated{len(self.nodes)}"
        self.nodes.append(make_node([inputs[n] for n in INPUT_NAMES], [name], attributes, f"layer_{name}"))
        return name

    def canonical(self) -> onnx.ModelProto:
        """The model as the exporter writes it."""
        register_schema()
        return canonical(self.model())


def residual_net(blocks: int = 2, batch: int | str = "batch") -> GatedNet:
    """A stem, blocks of two gated convolutions with a shortcut, a head."""
    net = GatedNet()
    x = net.op("Relu", net.conv(net.input("x", [batch, 3, 8, 8]), 3, 8))
    for _ in range(blocks):
        y = net.op("Relu", net.gated(x, 8, 8))
        x = net.op("Relu", net.op("Add", net.gated(y, 8, 8), x))
    net.op("Flatten", net.op("GlobalAveragePool", net.conv(x, 8, 4, 1)))
    return net


def random_net(seed: int) -> GatedNet:
    """Ten random ops on maps of 8 channels, free of layouts or not, with two outputs."""
    net = GatedNet(seed=seed)
    maps = [net.conv(net.input("x", ["batch", 3, 9, 7]), 3, 8)]
    pick = lambda: maps[net.rng.integers(max(0, len(maps) - 3), len(maps))]  # noqa: E731

    def squeezed(x: str) -> str:
        scale = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", x), 8, 8, 1))
        return net.op("Mul", x, scale)

    def concatenated(x: str) -> str:
        return net.conv(net.op("Concat", x, pick(), axis=int(net.rng.choice([1, -3]))), 16, 8, 1)

    def cut(x: str) -> str:
        axis = int(net.rng.integers(2, 4))
        part = net.op("Slice", x, net.ints(1), net.ints(5), net.ints(axis - int(net.rng.choice([0, 4]))))
        pads = [0] * 8
        pads[axis], pads[axis + 4] = 2, (9, 7)[axis - 2] - 6
        return net.op("Pad", part, net.ints(*pads), net.const(0.5))

    def shifted(x: str) -> str:
        shape = [(8, 1, 1), (1, 8, 1, 1), (7,), (), (1,)][net.rng.integers(5)]
        return net.op(str(net.rng.choice(["Add", "Mul", "Sub"])), x, net.const(net.rng.standard_normal(shape)))

    def masked(x: str) -> str:
        map_ = net.op("Relu", net.conv(pick(), 8, 1, 1))
        return net.gated(x, 8, 8, gate=map_)

    steps: list[Callable[[str], str]] = [
        lambda x: net.gated(x, 8, 8),
        lambda x: net.gated(x, 8, 8),
        lambda x: net.gated(x, 8, 8, residual=pick()),
        masked,
        lambda x: net.conv(x, 8, 8),
        lambda x: net.op("Relu", x),
        lambda x: net.op("LeakyRelu", x, alpha=0.1),
        lambda x: net.op("Add", x, pick()),
        lambda x: net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
        squeezed,
        concatenated,
        cut,
        shifted,
    ]
    for _ in range(10):
        maps.append(steps[net.rng.integers(len(steps))](pick()))
    net.output(net.op("Identity", maps[-1]))
    net.output(net.op("Identity", maps[-2]))
    return net
