"""A named graph, and the parts that most of them are made of: image, convolution, gate, product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from support.graphs.net import Net

Build = Callable[[Net], None]
C, K, HW = 5, 6, 16


@dataclass(frozen=True)
class Graph:
    """One graph and what recognition has to make of it."""

    family: str
    form: str
    build: Build
    layers: int = 1
    """LCCLConv nodes that it becomes."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Of the first of them, as far as the form decides them."""
    fused: tuple[str, ...] = ()
    reason: str = ""
    """Of the near miss; empty where there is none."""
    dtype: Any = np.float32
    opset: int = 18

    @property
    def id(self) -> str:
        return f"{self.family}: {self.form}"

    def model(self) -> onnx.ModelProto:
        net = Net(self.dtype, self.opset)
        self.build(net)
        return net.model()


def image(net: Net, *, batch: int | str = 2, hw: tuple[int | str, int | str] = (HW, HW)) -> str:
    return net.input("x", [batch, C, *hw])


def main(net: Net, x: str, **options: Any) -> str:
    return net.conv(x, C, K, **options)


def gate(net: Net, x: str, size: int = 3, act: str = "Relu", **options: Any) -> str:
    return net.op(act, net.conv(x, C, 1, size, shift=0.1, **options))


def product(make: Callable[[Net, str, str, str], Any] | None = None, **options: Any) -> Build:
    """relu(conv(x)) * relu(gate(x)), or what ``make(net, x, branch, gate)`` does of the two."""

    def build(net: Net) -> None:
        x = image(net)
        u, g = net.op("Relu", main(net, x, **options)), gate(net, x, **options)
        if make is None:
            net.op("Mul", u, g)
        else:
            make(net, x, u, g)

    return build


def gated_by(make: Callable[[Net, str], str], **options: Any) -> Build:
    """conv(x) * make(net, x)."""

    def build(net: Net) -> None:
        x = image(net, **options)
        u = main(net, x)
        net.op("Mul", u, make(net, x))

    return build


def branch_by(make: Callable[[Net, str], str]) -> Build:
    """make(net, x) * relu(gate(x))."""

    def build(net: Net) -> None:
        x = image(net)
        u = make(net, x)
        net.op("Mul", u, gate(net, x))

    return build


def followed_by(make: Callable[[Net, str, str], Any]) -> Build:
    """make(net, x, conv(x) * relu(gate(x)))."""

    def build(net: Net) -> None:
        x = image(net)
        make(net, x, net.op("Mul", main(net, x), gate(net, x)))

    return build


def clip(net: Net, x: str, low: float | None, high: float | None) -> str:
    ends = ["" if v is None else net.const(v) for v in (low, high)]
    return net.op("Clip", x, *ends)


def logit(net: Net, x: str, size: int = 1) -> str:
    return net.conv(x, C, 1, size, shift=0.1)


def compared(net: Net, x: str, op: str, c: float) -> str:
    kind = onnx.helper.np_dtype_to_tensor_dtype(net.dtype)
    return net.op("Cast", net.op(op, x, net.const(c)), to=kind)
