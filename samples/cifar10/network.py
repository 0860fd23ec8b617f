"""The ResNet of CIFAR-10 as it is mostly trained: shortcuts without weights, no gates.

He et al. (arXiv 1512.03385, section 4.2) with shortcuts of kind A: where a block halves the map, its
shortcut takes every other pixel and adds channels of zeros. Weights of other people's trainings
under the usual names (``conv1``, ``layer1.0.bn2``, ``linear``) fit it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lccl.errors import UserError
from lccl.files import require_file


class Shorten(nn.Module):
    """Take every other pixel, and put channels of zeros on both sides."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more
        """Channels on each side."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, C, H, W] to [N, C + 2 * more, H / 2, W / 2]."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        wider = channels != out_channels
        self.conv1 = nn.Conv2d(channels, out_channels, 3, 2 if wider else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = Shorten((out_channels - channels) // 2) if wider else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, channels, H, W] to [N, out_channels, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet of 6 * n + 2 layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages, channels = [], 16
        for width in (16, 32, 64):
            blocks = []
            for _ in range((depth - 2) // 6):
                blocks.append(Block(channels, width))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 3, 32, 32] to logits [N, 10]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: Tensor = self.linear(self.pool(y).flatten(1))
        return logits


def resnet(depth: int = 20, weights: str | Path | None = None) -> ResNet:
    """Build a ResNet.

    Args:
        depth: the number of layers: 20, 32, 44, 56 or 110.
        weights: a file of pretrained ones, as torch.save wrote them: a state dict, or a dict that
            has one as ``state_dict``; names may begin with ``module.``.

    Raises:
        UserError: the depth is another one, or the file does not fit.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UserError(f"depth is 6 * n + 2 (20, 32, 44, 56, 110), not {depth}")
    network = ResNet(depth)
    if weights is not None:
        file = require_file(weights)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
            network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
        except Exception as error:
            raise UserError(f"{file} has no weights of a ResNet-{depth} ({str(error).splitlines()[0]})") from error
    return network
