"""What PyTorch's exporters make of the ways in which users write a gate: each is recognised, and equal to PyTorch."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnx.utils
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lccl.graph.checks import check_model
from lccl.graph.recognise import recognise
from lccl.nn.translate import to_onnx
from lccl.op.onnx_op import is_lccl_node, register_schema
from support.graphs.models import run

register_schema()
C, K = 3, 6


class Net(nn.Module):
    """conv and gate with their norms, put together by a function of (self, x)."""

    def __init__(
        self, forward: Callable[[Net, Tensor], Tensor], gate_size: int = 3, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, K, 3, stride, 1, bias=bias)
        self.gate = nn.Conv2d(C, 1, gate_size, stride, gate_size // 2, bias=bias)
        self.norm, self.gate_norm, self.next_norm = nn.BatchNorm2d(K), nn.BatchNorm2d(1), nn.BatchNorm2d(K)
        self.coarse = nn.Conv2d(C, 1, 4, 4)
        self.side = nn.Conv2d(C, K, 1, stride)
        self.write = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)

    def u(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def g(self, x: Tensor) -> Tensor:
        return F.relu(self.gate_norm(self.gate(x)))


def in_place(m: Net, x: Tensor) -> Tensor:
    y = m.u(x).relu_()
    y *= m.g(x)
    return y


def grid(m: Net, x: Tensor) -> Tensor:
    return m.u(x) * F.interpolate(F.relu(m.coarse(x)), scale_factor=4.0, mode="nearest")


def bilinear(m: Net, x: Tensor) -> Tensor:
    return m.u(x) * F.interpolate(F.relu(m.coarse(x)), size=x.shape[-2:], mode="bilinear")


def repeated(m: Net, x: Tensor) -> Tensor:
    return m.u(x) * F.relu(m.coarse(x)).repeat_interleave(4, 2).repeat_interleave(4, 3)


def as_branch_size(m: Net, x: Tensor) -> Tensor:
    y = m.u(x)
    return y * F.interpolate(F.relu(m.coarse(x)), size=y.shape[-2:], mode="nearest")


FORMS: dict[str, Net] = {
    "plain": Net(lambda m, x: F.relu(m.u(x)) * m.g(x)),
    "swapped": Net(lambda m, x: m.g(x) * F.relu(m.u(x))),
    "no relu": Net(lambda m, x: m.u(x) * m.g(x), 1),
    "in place": Net(in_place),
    "clamp": Net(lambda m, x: m.u(x).clamp(min=0) * m.gate(x).clamp(min=0, max=1)),
    "hard tanh": Net(lambda m, x: m.u(x) * F.relu(F.hardtanh(m.gate(x)))),
    "hard sigmoid": Net(lambda m, x: m.u(x) * F.hardsigmoid(m.gate(x) - 2)),
    "mask": Net(lambda m, x: m.u(x) * (m.gate(x) > 0).to(x.dtype)),
    "where": Net(lambda m, x: m.u(x) * torch.where(m.gate(x) > 0.1, 1.0, 0.0)),
    "expand_as": Net(lambda m, x: (y := F.relu(m.u(x))) * m.g(x).expand_as(y)),
    "expand": Net(lambda m, x: F.relu(m.u(x)) * m.g(x).expand(-1, K, -1, -1)),
    "repeat": Net(lambda m, x: F.relu(m.u(x)) * m.g(x).repeat(1, K, 1, 1)),
    "unsqueeze": Net(lambda m, x: F.relu(m.u(x)) * m.g(x)[:, 0].unsqueeze(1)),
    "slice": Net(lambda m, x: F.relu(m.u(x)) * m.g(x)[:, :1]),
    "relu after": Net(lambda m, x: F.relu(m.u(x) * m.g(x))),
    "stride 2": Net(lambda m, x: F.relu(m.u(x)) * m.g(x), stride=2),
    "5 x 5, no bias": Net(lambda m, x: F.relu(m.u(x)) * m.g(x), 5, bias=False),
    "released": Net(lambda m, x: F.relu(m.next_norm(m.conv(x) * m.g(x))), 1),
    "residual": Net(lambda m, x: F.relu(m.side(x) + m.u(x) * m.g(x))),
    "leaky": Net(lambda m, x: F.leaky_relu(m.u(x), 0.1) * m.g(x)),
    "threshold": Net(lambda m, x: m.u(x) * torch.where((g := m.g(x)) > 0.2, g, 0)),
    "threshold, zeros_like": Net(lambda m, x: m.u(x) * torch.where((g := m.g(x)) > 0.2, g, torch.zeros_like(g))),
    "where on the branch": Net(lambda m, x: torch.where(m.gate(x) > 0, m.u(x), 0)),
    "masked_fill": Net(lambda m, x: F.relu(m.u(x)).masked_fill(m.gate(x) <= 0, 0)),
    "rounded": Net(lambda m, x: m.u(x) * m.gate(x).clamp(0, 1).round()),
    "times attention": Net(lambda m, x: m.u(x) * (m.g(x) * m.side(x)[:, :1].sigmoid())),
    "padded": Net(lambda m, x: F.conv2d(F.pad(x, (1, 1, 1, 1)), m.conv.weight, m.conv.bias) * m.g(x)),
    "grid": Net(grid),
    "grid, bilinear": Net(bilinear),
    "grid, repeated": Net(repeated),
    "grid, in the branch's size": Net(as_branch_size),
}


def legacy(model: nn.Module, x: Tensor, preserve: bool) -> onnx.ModelProto:
    """By the TorchScript exporter, with BatchNorms folded or as they are."""
    training = torch.onnx.TrainingMode.PRESERVE if preserve else torch.onnx.TrainingMode.EVAL
    stream = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (x,),
            stream,
            dynamo=False,
            opset_version=17,
            training=training,
            input_names=["x"],
            dynamic_axes={"x": {0: "N", 2: "H", 3: "W"}},
        )
    return onnx.load_from_string(stream.getvalue())


EXPORTERS: dict[str, Callable[[nn.Module, Tensor], onnx.ModelProto]] = {
    "dynamo": lambda m, x: to_onnx(m, (x,), dynamic_hw=True),
    "torchscript": lambda m, x: legacy(m, x, False),
    "torchscript, norms kept": lambda m, x: legacy(m, x, True),
    "dynamo, not optimized": lambda m, x: unoptimized(m, x),
}


def unoptimized(model: nn.Module, x: Tensor) -> onnx.ModelProto:
    """By the newer exporter as it leaves the graph before its own optimizer: constants computed, casts everywhere."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (x,), dynamo=True, optimize=False, opset_version=18, verbose=False, input_names=["x"]
        )
    assert program is not None
    return program.model_proto


class AllForms(nn.Module):
    """Every form on the same input, an output each: one export is much quicker than many."""

    def __init__(self) -> None:
        super().__init__()
        self.forms = nn.ModuleList(FORMS.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(form(x) for form in self.forms)


@pytest.fixture(scope="module", params=EXPORTERS)
def parts(request: pytest.FixtureRequest) -> dict[str, onnx.ModelProto]:
    """Form -> the part of the exported graph that leads to its output."""
    torch.manual_seed(0)
    for norm in (module for form in FORMS.values() for module in form.modules()):
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    whole = EXPORTERS[request.param](AllForms().eval(), torch.randn(2, C, 16, 32))
    extractor = onnx.utils.Extractor(whole)
    names = [output.name for output in whole.graph.output]
    assert len(names) == len(FORMS)
    return {form: extractor.extract_model(["x"], [name]) for form, name in zip(FORMS, names, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_form(form: str, parts: dict[str, onnx.ModelProto]) -> None:
    found = recognise(parts[form])
    assert [n.op_type for n in found.model.graph.node if is_lccl_node(n)] == ["LCCLConv"], found.near_misses
    check_model(found.model)
    x = torch.randn(2, C, 16, 32)
    with torch.no_grad():
        np.testing.assert_allclose(run(found.model, {"x": x.numpy()}), FORMS[form](x).numpy(), atol=1e-5)
