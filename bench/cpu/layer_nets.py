"""Gated networks as ONNX models, written node by node.

Weights are random; the first channel of X steers the gates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bench.cpu.common import Array, mask
from lccl.errors import UserError
from lccl.op.contract import DOMAIN, FLT_MAX, VERSION, Attributes, dense_macs, gate_macs
from lccl.op.onnx_function import attach_function
from lccl.op.onnx_op import IR_VERSION, OPSET, make_node


@dataclass(frozen=True)
class Map:
    """A feature map of the network that is being written: [N, channels, size, size]."""

    name: str
    channels: int
    size: int


@dataclass(frozen=True)
class Work:
    """MACs of one layer, per image."""

    dense: int
    gate: int = 0
    gated: bool = False


class Net:
    """A network, layer by layer.

    The first channel of every map that a gate reads says where the gate is open: it holds whole
    numbers, and a gate of level v is open where it is above v. A convolution that passes it on
    copies it from the pixel under its kernel's centre.

    Args:
        gate: "1x1" or "kxk", of every gate.
        levels: how many levels there are; above 1 the gates are bounded by 1.
    """

    def __init__(self, channels: int, size: int, batch: int, gate: str = "1x1", levels: int = 1, seed: int = 0) -> None:
        self.input = Map("X", channels, size)
        self.batch = batch
        self.works: list[Work] = []
        self._gate = gate
        self._gate_max = FLT_MAX if levels == 1 else 1.0
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._stored: dict[str, onnx.TensorProto] = {}
        neutral = (("gate", 1, 4), ("post_scale", 1, 1), ("post_bias", 0, 1), ("residual", 0, 4))
        self._neutral = [self._store(f"neutral.{n}", np.full((1,) * rank, v, np.float32)) for n, v, rank in neutral]

    def conv(
        self,
        x: Map,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        relu: bool = True,
        passes: bool = True,
        residual: Map | None = None,
        scale: float = 1.0,
    ) -> Map:
        """Convolution, bias, residual, ReLU."""
        w, b = self._weights(x.channels, outputs, kernel, passes, scale)
        name, pad = f"conv{len(self.works)}", kernel // 2
        y = Map(name, outputs, -(-x.size // stride))
        geometry: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        stored = [self._store(f"{name}.W", w), self._store(f"{name}.B", b)]
        self.works.append(Work(dense_macs((outputs, kernel, kernel, x.channels), (y.size, y.size))))
        steps = ["Conv"] + ["Add"] * (residual is not None) + ["Relu"] * relu
        current = x.name
        for step in steps:
            out = name if step == steps[-1] else f"{name}.{step}"
            more = {"Conv": stored, "Add": [residual.name] if residual else [], "Relu": []}[step]
            self._nodes.append(helper.make_node(step, [current, *more], [out], **(geometry if step == "Conv" else {})))
            current = out
        return y

    def gated(
        self,
        x: Map,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        level: int = 0,
        passes: bool = True,
        residual: Map | None = None,
        scale: float = 1.0,
    ) -> Map:
        """LCCLConv: ReLU of the convolution times the gate.

        With a residual: their product, the residual, ReLU.
        """
        w, b = self._weights(x.channels, outputs, kernel, passes, scale)
        name, pad = f"lccl{len(self.works)}", kernel // 2
        y = Map(name, outputs, -(-x.size // stride))
        side = 1 if self._gate == "1x1" else kernel
        gate_w = np.zeros((1, side, side, x.channels), np.float32)
        gate_w[0, side // 2, side // 2, 0] = 2
        attributes = Attributes(
            strides=(stride, stride),
            pads=(pad,) * 4,
            gate_strides=(stride, stride),
            gate_pads=(side // 2,) * 4,
            activation_alpha=1.0 if residual else 0.0,
            gate_max=self._gate_max,
            post_alpha=0.0 if residual else 1.0,
        )
        stored = {"W": w.transpose(0, 2, 3, 1), "B": b, "gate_W": gate_w, "gate_B": np.array([-2 * level - 1], np.float32)}
        names = [x.name, *(self._store(f"{name}.{key}", value) for key, value in stored.items()), *self._neutral]
        if residual:
            names[-1] = residual.name
        self._nodes.append(make_node(names, [name], attributes, name))
        size = (y.size, y.size)
        self.works.append(Work(dense_macs((outputs, kernel, kernel, x.channels), size), gate_macs(gate_w.shape, size), True))
        return y

    def pool(self, x: Map, kernel: int, stride: int, pad: int = 0) -> Map:
        """The largest of each window."""
        size = (x.size + 2 * pad - kernel) // stride + 1
        return self._plain("MaxPool", [x], x.channels, size, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def twice(self, x: Map) -> Map:
        """Each pixel four times."""
        scales = self._store("twice", np.array([1, 1, 2, 2], np.float32))
        name = f"map{len(self._nodes)}"
        how: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        self._nodes.append(helper.make_node("Resize", [x.name, "", scales], [name], **how))
        return Map(name, x.channels, 2 * x.size)

    def concat(self, maps: Sequence[Map]) -> Map:
        """Channels of all maps, the first map's first."""
        return self._plain("Concat", maps, sum(m.channels for m in maps), maps[0].size, axis=1)

    def classify(self, x: Map, classes: int) -> Map:
        """Mean over the map and a linear layer."""
        mean = self._plain("GlobalAveragePool", [x], x.channels, 1)
        flat = self._plain("Flatten", [mean], x.channels, 1)
        w, b = self._weights(x.channels, classes, 1, False, 0.5)
        name = f"linear{len(self.works)}"
        stored = [self._store(f"{name}.W", w.reshape(classes, -1)), self._store(f"{name}.B", b)]
        self._nodes.append(helper.make_node("Gemm", [flat.name, *stored], [name], transB=1))
        self.works.append(Work(classes * x.channels))
        return Map(name, classes, 0)

    def model(self, outputs: Sequence[Map]) -> onnx.ModelProto:
        """The network in its canonical form: the function is in it."""
        n, x = self.batch, self.input
        values = [
            helper.make_tensor_value_info(m.name, 1, [n, m.channels, m.size, m.size][: 4 if m.size else 2])
            for m in (x, *outputs)
        ]
        graph = helper.make_graph(self._nodes, "bench", values[:1], values[1:], list(self._stored.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        attach_function(model)
        return model

    def ideal(self, density: float) -> float:
        """MACs of the dense network over those of active pixels and gates."""
        return sum(w.dense for w in self.works) / sum(density * w.dense + w.gate if w.gated else w.dense for w in self.works)

    def _weights(self, channels: int, outputs: int, kernel: int, passes: bool, scale: float) -> tuple[Array, Array]:
        """[K, C, R, S] by He's rule, and [K]; the first output is the first input, or 0."""
        spread = scale * (2 / (channels * kernel**2)) ** 0.5
        w = self._rng.standard_normal((outputs, channels, kernel, kernel), np.float32) * np.float32(spread)
        b = self._rng.uniform(0, 0.1, outputs).astype(np.float32)
        if outputs > 1:
            w[0], b[0] = 0, 0
            w[0, 0, kernel // 2, kernel // 2] = passes
        return w, b

    def _plain(self, op: str, maps: Sequence[Map], channels: int, size: int, **attributes: Any) -> Map:
        name = f"map{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, [m.name for m in maps], [name], **attributes))
        return Map(name, channels, size)

    def _store(self, name: str, values: Array) -> str:
        self._stored.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


# ---- single layers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A convolution with a pad of half its kernel."""

    channels: int
    size: int
    """Of the input."""
    outputs: int
    stride: int = 1
    kernel: int = 3

    @classmethod
    def parse(cls, text: str) -> Layer:
        """64@56, 64-128@56s2 (other outputs, stride) or 64-256@56k1 (kernel).

        Raises:
            UserError: written otherwise.
        """
        match = re.fullmatch(r"(\d+)(?:-(\d+))?@(\d+)(?:s(\d+))?(?:k(\d+))?", text)
        numbers = [int(n) for n in match.groups() if n is not None] if match else [0]
        if match is None or min(numbers) < 1 or int(match[5] or 3) % 2 == 0 or int(match[5] or 3) > 7:
            raise UserError(
                "a layer is written like 64@56 (channels@size), 64-128@56s2 (other output channels, a stride) or "
                f"64-256@56k1 (an odd kernel up to 7), not {text!r}"
            )
        channels, size = int(match[1]), int(match[3])
        return cls(channels, size, int(match[2] or channels), int(match[4] or 1), int(match[5] or 3))

    @property
    def name(self) -> str:
        outputs = f"-{self.outputs}" if self.outputs != self.channels else ""
        stride = f"s{self.stride}" if self.stride > 1 else ""
        return f"{self.channels}{outputs}@{self.size}{stride}{f'k{self.kernel}' if self.kernel != 3 else ''}"

    @property
    def out_size(self) -> int:
        return -(-self.size // self.stride)

    @property
    def chains(self) -> bool:
        """Whether its output can be its input."""
        return self.channels == self.outputs and self.stride == 1

    def macs(self, batch: int) -> int:
        """Of the convolution with every pixel computed."""
        return batch * dense_macs((self.outputs, self.kernel, self.kernel, self.channels), (self.out_size, self.out_size))


def layer_net(layer: Layer, count: int, batch: int, gate: str, *, whole: bool = False) -> tuple[Net, onnx.ModelProto]:
    """A network of ``count`` such layers.

    They stand one after the other where their shapes allow it, else all on one input.

    Of each last output one pixel leaves the network, so that no layout change of a whole map is
    measured; by a MaxPool, which ONNX Runtime computes in the layout of its convolutions.

    Args:
        whole: the last output leaves as it is.
    """
    net = Net(layer.channels, layer.size, batch, gate, seed=layer.channels * layer.size + layer.outputs)
    maps = [net.input]
    for _ in range(count):
        maps.append(net.gated(maps[-1] if layer.chains else net.input, layer.outputs, layer.kernel, layer.stride))
    if whole:
        return net, net.model(maps[-1:])
    ends = maps[-1:] if layer.chains else maps[1:]
    return net, net.model([net.pool(m, 1, layer.out_size) for m in ends])


def layer_input(layer: Layer, batch: int, kind: str, density: float) -> Array:
    """X [N, C, H, W], not negative, whose first channel is a mask of each image.

    The mask lies at the pixels that the stride visits.
    """
    rng = np.random.default_rng([layer.channels, layer.size, round(1000 * density), kind == "blob"])
    x = np.abs(rng.standard_normal((batch, layer.channels, layer.size, layer.size), np.float32))
    for image in x:
        active = mask(layer.out_size, density, kind, rng)
        image[0] = np.repeat(np.repeat(active, layer.stride, 0), layer.stride, 1)[: layer.size, : layer.size]
    return x
