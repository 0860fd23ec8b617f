"""Gates as the authors of LCCL write them in PyTorch, through both of its exporters: recognised, and equal on any batch."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lccl.graph.layers import describe_layers
from lccl.graph.recognise import recognise
from lccl.graph.variants.runnable import runnable
from lccl.op.onnx_op import register_schema

register_schema()
C, HW = 6, (16, 24)


class Block(nn.Module):
    """A pre-activation block: both convolutions have a gate, which is repeated over the channels."""

    def __init__(self, kernel: int, stride: int = 1, spread: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        options = {"bias": False, "padding": 1}
        self.norms = nn.ModuleList([nn.BatchNorm2d(C), nn.BatchNorm2d(C)])
        self.convs = nn.ModuleList([nn.Conv2d(C, C, 3, s, **options) for s in (stride, 1)])
        gates = [nn.Conv2d(C, 1, kernel, s, kernel // 2, bias=False) for s in (stride, 1)]
        self.gates = nn.ModuleList([nn.Sequential(gate, nn.BatchNorm2d(1), nn.ReLU()) for gate in gates])
        self.shortcut = nn.Conv2d(C, C, 1, stride, bias=False) if stride > 1 else nn.Identity()
        self.spread = spread or (lambda g, y: g.repeat(1, y.shape[1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for norm, conv, gate in zip(self.norms, self.convs, self.gates, strict=True):
            z = F.relu(norm(z))
            y = conv(z)
            z = y * self.spread(gate(z), y)
        return self.shortcut(x) + z


class GridBlock(nn.Module):
    """Max-pool, 1x1 convolution, enlarged, BatchNorm, ReLU, repeated."""

    def __init__(self, mode: str, own_size: bool = False, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.gate, self.norm = nn.Conv2d(C, C, 3, stride, 1), nn.Conv2d(C, 1, 1), nn.BatchNorm2d(1)
        self.mode, self.own_size = mode, own_size

    def forward(self, x: Tensor) -> Tensor:
        y, g = self.conv(x), self.gate(F.max_pool2d(x, 4))
        size = y.size()[2:] if self.own_size else None
        g = F.interpolate(g, size, None if size else 4, self.mode)
        return y * F.relu(self.norm(g)).repeat(1, y.shape[1], 1, 1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "pre-activation, 1x1": (lambda: Block(1), ["1x1"] * 2),
    "pre-activation, k x k": (lambda: Block(3), ["3x3"] * 2),
    "pre-activation, strided": (lambda: Block(1, 2), ["1x1"] * 2),
    "bilinear grid": (lambda: GridBlock("bilinear"), ["external"]),
    "bilinear grid to the branch's size": (lambda: GridBlock("bilinear", True), ["external"]),
    "bilinear grid, strided": (lambda: GridBlock("bilinear", True, 2), ["external"]),
    "nearest grid to the branch's size": (lambda: GridBlock("nearest", True), ["external per 4x4 block"]),
    "expand_as": (lambda: Block(1, 1, lambda g, y: g.expand_as(y)), ["1x1"] * 2),
    "expand": (lambda: Block(3, 2, lambda g, y: g.expand(y.size())), ["3x3"] * 2),
    "expand(-1, ...)": (lambda: Block(1, 1, lambda g, y: g.expand(-1, y.size(1), -1, -1)), ["1x1"] * 2),
    "view": (lambda: Block(1, 1, lambda g, y: g.view(g.size(0), -1, y.size(2), y.size(3))), ["1x1"] * 2),
    "interpolate": (lambda: Block(3, 1, lambda g, y: F.interpolate(g, size=y.shape[2:])), ["3x3"] * 2),
    "slice": (lambda: Block(1, 2, lambda g, y: g[:, :, : y.shape[2], : y.shape[3]]), ["1x1"] * 2),
    "repeat_interleave": (lambda: Block(1, 1, lambda g, y: g.repeat_interleave(y.shape[1], 1)), ["1x1"] * 2),
}
OF_ANY_SIZE = {
    "interpolate": ["external"] * 2,
    "nearest grid to the branch's size": ["external"],
}
"""Gates that are enlarged to a computed size, where height and width are dynamic too."""


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.running_mean, norm.bias.data):
                assert values is not None
                values.normal_(0, 0.2)
    return model


def exported(model: nn.Module, exporter: str, axes: dict[int, str]) -> onnx.ModelProto:
    x = torch.randn(2, C, *HW)
    stream = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            torch.onnx.export(model, (x,), stream, dynamo=False, opset_version=18, input_names=["x"], dynamic_axes={"x": axes})
            return onnx.load_from_string(stream.getvalue())
        shapes = (dict.fromkeys(axes, torch.export.Dim.AUTO),)
        program = torch.onnx.export(
            model, (x,), dynamo=True, opset_version=18, verbose=False, input_names=["x"], dynamic_shapes=shapes
        )
    assert program is not None
    return program.model_proto


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_batch_is_dynamic(name: str, exporter: str) -> None:
    model = exported(network(name), exporter, {0: "N"})
    found = recognise(model)
    assert [layer.gate for layer in describe_layers(found.model) if layer.gated] == NETWORKS[name][1], found.near_misses
    require_equal(model, found.model, [(1, *HW), (3, *HW)])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_height_and_width_are_dynamic_too(name: str) -> None:
    model = exported(network(name), "legacy", {0: "N", 2: "H", 3: "W"})
    found = recognise(model)
    wanted = OF_ANY_SIZE.get(name, NETWORKS[name][1])
    assert [layer.gate for layer in describe_layers(found.model) if layer.gated] == wanted, found.near_misses
    require_equal(model, found.model, [(1, *HW), (3, 20, 28), *([] if "grid" in name else [(2, 21, 27)])])


def require_equal(given: onnx.ModelProto, found: onnx.ModelProto, sizes: list[tuple[int, int, int]]) -> None:
    first, second = session(given), session(runnable(found))
    for batch, height, width in sizes:
        x = np.random.default_rng(batch).standard_normal((batch, C, height, width), np.float32)
        (expected,), (got,) = (s.run(None, {s.get_inputs()[0].name: x}) for s in (first, second))
        assert got.shape == expected.shape
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
