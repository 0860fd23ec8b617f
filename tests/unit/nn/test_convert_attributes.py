"""Networks whose code reads attributes of a convolution or norm, or registers hooks on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import lccl
import support.networks.dense as nets
from lccl.nn import LCCLConv2d


class Small(nn.Module):
    """A stem and a convolution with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(self.stem(x))).mean((2, 3)))


class ReadsGeometry(Small):
    """Reads attributes that plain and gated convolutions both have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        same = conv.in_channels == conv.out_channels and conv.kernel_size == (3, 3) and conv.padding == (1, 1)
        same = same and conv.stride == conv.dilation == (1, 1)
        return super().forward(x) + (1 if same else 0)


class ReadsNorm(Small):
    """Reads the weights of a norm, which therefore stays in its place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.bn.weight.sum()


class ReadsKind(Small):
    """Reads the type and device of a convolution, as code for mixed precision does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.conv.weight
        return super().forward(x.to(weight.dtype).to(weight.device))


class ReadsKindOfNorm(Small):
    """Reads the type of a norm's weight, which an identity lacks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.bn.weight.dtype))


class CallsItems(nn.Module):
    """Calls the items of a plain sequence one by one, in code that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers[:2](x)
        if bool(y.abs().max() > 1e6):
            raise ValueError("bad input")
        return self.fc((self.layers[2:](y) + y).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*cannot be traced:UserWarning")
def test_items_of_a_plain_sequence_that_code_calls_itself() -> None:
    dense = nets.settle(CallsItems(), 3, 8, 8)
    converted = lccl.nn.convert(dense, where=["layers.1"])
    assert [entry["norm"] for entry in lccl.nn.recipe(converted)] == [None]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(x), dense(x))


@pytest.mark.parametrize(
    ("build", "norm"), [(ReadsGeometry, "bn"), (ReadsNorm, None), (ReadsKind, "bn"), (ReadsKindOfNorm, None)]
)
def test_code_that_reads_attributes(build: Callable[[], nn.Module], norm: str | None) -> None:
    dense = nets.settle(build(), 3, 8, 8)
    converted = lccl.nn.convert(dense, where=["conv"])
    assert [entry["norm"] for entry in lccl.nn.recipe(converted)] == [norm]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(x), dense(x))


def test_a_layer_shows_its_convolution() -> None:
    layer = LCCLConv2d(3, 5, (3, 2), padding=(0, 1, 2, 1), norm=False)
    keys = list(layer.state_dict())
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (3, 5, (3, 2))
    assert layer.padding == (0, 1, 2, 1)
    assert layer.weight is layer.conv.weight
    assert layer.bias is layer.conv.bias
    assert LCCLConv2d(3, 5, 3, padding=1).bias is None
    assert "weight" not in keys
    assert "bias" not in keys


@pytest.mark.parametrize("method", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_are_not_dropped(method: str) -> None:
    dense = nets.settle(Small(), 3, 8, 8)
    hook = getattr(dense.bn, method)(lambda *_: None)
    assert lccl.nn.recipe(lccl.nn.convert(dense, where=["conv"]))[0]["norm"] is None
    hook.remove()
    getattr(dense.conv, method)(lambda *_: None)
    plan = lccl.nn.convert(dense, where="all-3x3", dry_run=True)
    assert {layer.name: layer.choice.why for layer in plan.layers}["conv"] == "hooks or a parametrization on it"
