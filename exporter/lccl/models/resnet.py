"""The CIFAR ResNet of the LCCL paper's experiments, dense or with gated convolutions.

The layout follows He et al. 2016 (arXiv 1512.03385, section 4.2): three stages of basic blocks at
1, 1/2 and 1/4 of the input's size, post-activation, with projection shortcuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack

from lccl.errors import UserError, shown
from lccl.errors.requires import needing

with needing("lccl.models"):
    from torch import Tensor, nn

    from lccl.nn import LCCLConv2d
    from lccl.nn.conv import GateKind, Order
    from lccl.nn.gate import GateActivation

__all__ = ["CifarResNet", "cifar_resnet"]

Gated = Literal["none", "first", "both"]


class LayerOptions(TypedDict, total=False):
    """Options of :class:`lccl.nn.LCCLConv2d` that a network's gated layers share.

    Their activations are the block's own.
    """

    gate: GateKind
    gate_size: int
    gate_kernel_size: int | Sequence[int] | None
    gate_activation: GateActivation
    gate_norm: bool | None
    gate_threshold: float
    order: Order
    norm: bool
    bias: bool | None


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; ``gated`` says which of the two have a gate."""

    def __init__(self, channels: int, out_channels: int, stride: int, gated: Gated, options: LayerOptions) -> None:
        super().__init__()
        self.conv1: nn.Module
        self.conv2: nn.Module
        if gated == "none":
            self.conv1 = ConvNorm(channels, out_channels, 3, stride, activation=True)
        else:
            self.conv1 = LCCLConv2d(channels, out_channels, 3, stride, 1, **options)
        if gated == "both":
            self.conv2 = LCCLConv2d(out_channels, out_channels, 3, 1, 1, activation=None, post_activation="relu", **options)
        else:
            self.conv2 = ConvNorm(out_channels, out_channels, 3, 1, activation=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = ConvNorm(channels, out_channels, 1, stride, activation=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, channels, H, W] to [N, out_channels, H / stride, W / stride]."""
        residual = self.shortcut(x)
        y = self.conv1(x)
        if isinstance(self.conv2, ConvNorm):
            out: Tensor = self.relu(self.conv2(y) + residual)
            return out
        out = self.conv2(y, residual=residual)
        return out


class ConvNorm(nn.Sequential):
    """A convolution, a BatchNorm and optionally a ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, *, activation: bool) -> None:
        conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels), *([nn.ReLU()] if activation else []))


class CifarResNet(nn.Module):
    """A CIFAR ResNet, which :func:`cifar_resnet` builds."""

    def __init__(self, depth: int, width: int, in_channels: int, num_classes: int, gated: Gated, options: LayerOptions) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"depth is 6 * n + 2 (8, 14, 20, 32, ...), not {depth}")
        if gated not in ("none", "first", "both"):
            raise UserError(f'gated is "none", "first" or "both", not {shown(gated)}')
        self.stem = ConvNorm(in_channels, width, 3, 1, activation=True)
        channels, stages = width, []
        for stage in range(3):
            blocks = []
            for i in range((depth - 2) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(BasicBlock(channels, width << stage, stride, gated, options))
                channels = width << stage
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(self.stem(x)))))
        return logits


def cifar_resnet(
    depth: int = 20,
    width: int = 16,
    in_channels: int = 3,
    num_classes: int = 10,
    gated: Gated = "first",
    **options: Unpack[LayerOptions],
) -> CifarResNet:
    """Build a CIFAR ResNet.

    Args:
        depth: the number of layers, 6 * n + 2.
        width: the channels of the first stage, doubled in each of the next two.
        in_channels: the channels of the images.
        num_classes: the number of logits.
        gated: which 3 x 3 convolutions of every block have a gate: "none" (the dense network),
            "first" or "both".
        **options: of :class:`lccl.nn.LCCLConv2d`, for the gated ones, such as ``gate="1x1"``.

    Raises:
        UserError: a depth or ``gated`` of another form, or gate options that do not go together.
    """
    return CifarResNet(depth, width, in_channels, num_classes, gated, options)
