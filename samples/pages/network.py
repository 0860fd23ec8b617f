"""A fully convolutional network that finds and reads the digits of a page: plain PyTorch, no gates.

A residual network at 1/2, 1/4 and 1/8 of the page's size; its last two scales are joined at 1/4, as
in feature pyramid networks (arXiv 1612.03144). The output is a map of logits for each digit with a
peak at each centre, as in CenterNet (arXiv 1904.07850).
"""

from __future__ import annotations

from torch import Tensor, nn

STRIDE = 4
"""Pixels of the page for each pixel of the output, in either direction."""
WIDTH = 24
BLOCKS = (1, 3, 2)
"""Residual blocks at each scale."""


class ConvNorm(nn.Sequential):
    """A convolution and a BatchNorm."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, out_channels, 3, stride)
        self.conv2 = ConvNorm(out_channels, out_channels, 3)
        same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if same else ConvNorm(channels, out_channels, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, channels, H, W] to [N, out_channels, H / stride, W / stride]."""
        y: Tensor = self.relu(self.conv2(self.relu(self.conv1(x))) + self.shortcut(x))
        return y


class PageReader(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.stem = ConvNorm(1, WIDTH, 5, 2)
        stages, channels = [], WIDTH
        for stage, count in enumerate(BLOCKS):
            width = WIDTH << stage
            first = Block(channels, width, 2 if stage else 1)
            stages.append(nn.Sequential(first, *(Block(width, width, 1) for _ in range(count - 1))))
            channels = width
        self.fine, self.middle, self.coarse = stages
        width = WIDTH << 1
        self.from_middle = nn.Conv2d(width, width, 1)
        self.from_coarse = nn.Conv2d(channels, width, 1)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = ConvNorm(width, width, 3)
        self.heads = nn.Conv2d(width, 10, 1)
        assert self.heads.bias is not None
        nn.init.constant_(self.heads.bias, -4.6)  # a probability of 0.01: most pixels are no centre

    def forward(self, page: Tensor) -> Tensor:
        """Map pages [N, 1, H, W] to logits [N, 10, H / 4, W / 4]; H and W are multiples of 8."""
        middle = self.middle(self.fine(self.relu(self.stem(page))))
        coarse = self.enlarge(self.from_coarse(self.coarse(middle)))
        logits: Tensor = self.heads(self.relu(self.join(self.from_middle(middle) + coarse)))
        return logits


def page_reader() -> PageReader:
    """Build the network, with random weights."""
    return PageReader()
