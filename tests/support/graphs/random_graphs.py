"""Random graphs full of what looks like LCCL.

Products with maps of one channel that are gates, nearly, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from support.graphs.computed_sizes import SPREADS
from support.graphs.net import Net

CHANNELS = 4
"""Of every feature map but the image, which has 3, and the maps of one channel."""
IMAGE = {True: ("N", 3, "H", "W"), False: (2, 3, 16, 24)}
MASK = {True: ("N", 1, "H", "W"), False: (2, 1, 16, 24)}
"""By whether sizes are dynamic."""
VALUES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
COMPARISONS = ("Greater", "GreaterOrEqual", "Less")


class Map(NamedTuple):
    """A tensor of the graph."""

    name: str
    channels: int
    level: int
    """How often height and width were halved."""


class RandomGraph:
    """One graph per seed; :meth:`model` gives it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net(seed=seed)
        dynamic = self.chance(0.6)
        self.maps = [Map(self.net.input("x", IMAGE[dynamic]), 3, 0)]
        if self.chance(0.3):
            self.maps.append(Map(self.net.input("m", MASK[dynamic]), 1, 0))
        self.given = {m.name for m in self.maps}

    def model(self) -> onnx.ModelProto:
        """Outputs: what nothing reads, the last map, and now and then another one.

        So that something is read elsewhere too.
        """
        steps = (self.conv, *[self.gated] * 3, self.unary, self.unary, self.view, self.binary, self.binary)
        steps += (self.choice, self.resize, self.pool)
        self.gated()
        for _ in range(self.rng.integers(2, 8)):
            steps[self.rng.integers(len(steps))]()
        read = {name for node in self.net.nodes for name in node.input}
        made = [m.name for m in self.maps if m.name not in self.given]
        for name in made:
            if name not in read or name == made[-1] or self.chance(0.05):
                self.net.output(name)
        return self.net.model()

    # ---- choices ---------------------------------------------------------------------------------

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def one_of(self, *values: str) -> str:
        return values[self.rng.integers(len(values))]

    def number(self) -> float:
        return VALUES[self.rng.integers(len(VALUES))]

    def pick(self, fits: Callable[[Map], bool] = lambda _: True) -> Map | None:
        """One of the last maps that fit, else of all; None where none does."""
        found = [m for m in self.maps[-6:] if fits(m)] or [m for m in self.maps if fits(m)]
        return found[self.rng.integers(len(found))] if found else None

    def add(self, name: str, channels: int, level: int) -> Map:
        self.maps.append(Map(name, channels, level))
        return self.maps[-1]

    # ---- steps -----------------------------------------------------------------------------------

    def conv(self) -> None:
        source, out = self.pick(), int(self.rng.choice([1, CHANNELS]))
        assert source is not None
        size, stride, dilation = int(self.rng.choice([1, 3])), 1 + self.chance(0.25), 1 + self.chance(0.3)
        more: dict[str, object] = {}
        if self.chance(0.1):
            more["auto_pad"] = self.one_of("SAME_UPPER", "SAME_LOWER")
        elif self.chance(0.05):
            more["pads"] = [dilation * (size - 1), 0, 0, dilation * (size - 1)]
        if source.channels == out == CHANNELS and self.chance(0.05):
            more["group"] = 2
        self._conv(source, out, size, stride, dilation=dilation, **more)

    def _conv(self, source: Map, out: int, size: int, stride: int, **more: object) -> Map:
        shift = 0.15 if out == 1 else 0.0
        name = self.net.conv(source.name, source.channels, out, size, stride=stride, bias=self.chance(0.7), shift=shift, **more)
        return self.add(name, out, source.level + (stride == 2))

    def gated(self) -> None:
        """A convolution and a gate of the same input, with steps behind them that may not suit."""
        source = self.pick()
        assert source is not None
        stride = 1 + self.chance(0.3)
        branch = self._conv(source, CHANNELS, int(self.rng.choice([1, 3])), stride)
        for _ in range(self.rng.integers(0, 3)):
            branch = self._unary(branch)
        gate = self._conv(source, 1, int(self.rng.choice([1, 3])), stride if self.chance(0.9) else 3 - stride)
        for _ in range(self.rng.integers(0, 3)):
            gate = self._unary(gate)
        if self.chance(0.7):
            gate = self.add(self.net.op("Relu", gate.name), 1, gate.level)
        if self.chance(0.4):
            gate = self._view(gate)
        if gate.level == branch.level:
            pair = [branch.name, gate.name] if self.chance(0.5) else [gate.name, branch.name]
            product = self.add(self.net.op("Mul", *pair), CHANNELS, branch.level)
            if self.chance(0.5):
                self._unary(product)

    def unary(self) -> None:
        source = self.pick()
        assert source is not None
        self._unary(source)

    def _unary(self, source: Map) -> Map:
        return self.add(self._elementwise(source), source.channels, source.level)

    def _elementwise(self, source: Map) -> str:
        net, n, v = self.net, source.name, self.number()
        scalar = {"Add": v, "Sub": v, "Max": v, "Min": v, "Mul": v or 1.0, "Div": v or 1.0, "Pow": 2.0}
        plain = ("Sigmoid", "Abs", "Neg", "Round", "Floor", "Softplus", "Elu", "Identity", "HardSwish", "Sign", "HardSigmoid")
        kinds = ["Relu"] * 3 + ["BN"] * 2 + ["LeakyRelu", "Clip", "ClipLow", "PerChannel", "Reversed", "ThresholdedRelu"]
        kind = self.one_of(*kinds, "Compared", "Chosen", "NotCompared", "Sqrt", *scalar, *plain)
        if kind in scalar:
            return net.op(kind, n, net.const(scalar[kind]))
        if kind == "BN":
            return net.bn(n, source.channels)
        if kind == "LeakyRelu":
            return net.op(kind, n, alpha=0.1)
        if kind == "Clip":
            low, high = [(0.0, 1.0), (0.0, 6.0), (-1.0, 1.0)][self.rng.integers(3)]
            return net.op(kind, n, net.const(low), net.const(high))
        if kind == "ClipLow":
            return net.op("Clip", n, net.const(v))
        if kind == "PerChannel":
            shape = (1, source.channels, 1, 1) if self.chance(0.5) else (source.channels, 1, 1)
            return net.op(self.one_of("Add", "Mul"), n, net.const(net.rng.standard_normal(shape)))
        if kind == "Reversed":
            return net.op("Sub", net.const(v), n)
        if kind == "ThresholdedRelu":
            return net.op(kind, n, alpha=abs(v))
        if kind == "Compared":
            return net.op("Cast", net.op(self.one_of(*COMPARISONS), n, net.const(v)), to=TensorProto.FLOAT)
        if kind == "NotCompared":
            return net.op("Cast", net.op("Not", net.op("Greater", n, net.const(v))), to=TensorProto.FLOAT)
        if kind == "Chosen":
            condition = net.op(self.one_of(*COMPARISONS), n, net.const(v))
            return net.op("Where", condition, n if self.chance(0.6) else net.const(1.0), net.const(0.0))
        return net.op("Sqrt", net.op("Relu", n)) if kind == "Sqrt" else net.op(kind, n)

    def view(self) -> None:
        source = self.pick(lambda m: m.channels in (1, CHANNELS))
        if source is not None:
            self._view(source)

    def _view(self, source: Map) -> Map:
        """A map of another form.

        It is spread over channels, taken from one or all of them, or the same seen otherwise.
        """
        net, n = self.net, source.name
        kind = self.one_of("expand", "tile", "squeeze", "mean", "attend", "max", "slice", "softmax", "reshape", *SPREADS)
        like = self.pick(lambda m: m.level == source.level and m.channels == CHANNELS)
        if kind == "expand" and source.channels == 1 and like is not None:
            return self.add(net.op("Expand", n, net.op("Shape", like.name)), CHANNELS, source.level)
        if kind in SPREADS and source.channels == 1 and like is not None:
            wide = 1 if kind in ("first rows and columns", "view") else CHANNELS
            return self.add(SPREADS[kind](net, n, like.name), wide, source.level)
        if kind == "tile" and source.channels == 1:
            return self.add(net.op("Tile", n, net.ints(1, CHANNELS, 1, 1)), CHANNELS, source.level)
        if kind == "squeeze" and source.channels == 1:
            return self.add(net.op("Unsqueeze", net.op("Squeeze", n, net.ints(1)), net.ints(1)), 1, source.level)
        if kind in ("mean", "max"):
            return self.add(net.op(f"Reduce{kind.title()}", n, net.ints(1), keepdims=1), 1, source.level)
        if kind == "slice":
            return self.add(net.op("Slice", n, net.ints(0), net.ints(1), net.ints(1)), 1, source.level)
        if kind == "attend":
            name = net.op("Add", net.op("GlobalAveragePool", n), n)
        elif kind == "softmax":
            name = net.op("Softmax", n, axis=1)
        else:
            name = net.op("Reshape", n, net.op("Shape", n))
        return self.add(name, source.channels, source.level)

    def binary(self) -> None:
        first = self.pick()
        assert first is not None
        second = self.pick(
            lambda m: m.level == first.level and (m.channels == first.channels or 1 in (m.channels, first.channels))
        )
        assert second is not None
        kind = self.one_of("Mul", "Mul", "Mul", "Add", "Sub", "Max", "Min")
        self.add(self.net.op(kind, first.name, second.name), max(first.channels, second.channels), first.level)

    def choice(self) -> None:
        """Where a map is above a number, the branch, else a constant; or the other way round."""
        branch = self.pick(lambda m: m.channels == CHANNELS)
        if branch is None:
            return
        decider = self.pick(lambda m: m.level == branch.level and m.channels in (1, CHANNELS))
        assert decider is not None
        limit, other = (self.net.const(float(self.rng.choice(v))) for v in ([0.0, 0.5, -0.3], [0.0, 0.0, 1.0]))
        condition = self.net.op(self.one_of(*COMPARISONS), decider.name, limit)
        arms = [branch.name, other] if self.chance(0.6) else [other, branch.name]
        self.add(self.net.op("Where", condition, *arms), CHANNELS, branch.level)

    def resize(self) -> None:
        source = self.pick(lambda m: m.level > 0)
        if source is None:
            return
        scales = self.net.const([1.0, 1.0, 2.0, 2.0], np.float32)
        how: dict[str, str] = {"mode": "linear"}
        if self.chance(0.8):
            how = {"mode": "nearest", "coordinate_transformation_mode": self.one_of("asymmetric", "half_pixel")}
            how["nearest_mode"] = self.one_of("floor", "round_prefer_floor")
        self.add(self.net.op("Resize", source.name, "", scales, **how), source.channels, source.level - 1)

    def pool(self) -> None:
        source = self.pick()
        assert source is not None
        name = self.net.op("MaxPool", source.name, kernel_shape=[2, 2], strides=[2, 2])
        self.add(name, source.channels, source.level + 1)
