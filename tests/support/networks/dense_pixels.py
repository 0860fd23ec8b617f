"""Dense networks with an output per pixel or place: a U-Net, a RetinaNet, a YOLO neck.

As those of :mod:`support.networks.dense`: the usual layouts and names, random weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.networks.dense import BasicBlock, ResNet, conv3x3


class DoubleConv(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            conv3x3(channels, out),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            conv3x3(out, out),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels // 2, 2, 2)
        self.conv = DoubleConv(channels, out)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        x1 = self.up(x1)
        dy, dx = x2.size()[2] - x1.size()[2], x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class OutConv(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    """The common Pytorch-UNet's layout.

    ``out_kernel`` 3 for an output layer that policies by size could take.
    """

    def __init__(self, width: int = 8, classes: int = 2, out_kernel: int = 1) -> None:
        super().__init__()
        self.inc = DoubleConv(3, width)
        self.down1 = Down(width, 2 * width)
        self.down2 = Down(2 * width, 4 * width)
        self.up1 = Up(4 * width, 2 * width)
        self.up2 = Up(2 * width, width)
        self.outc = OutConv(width, classes, out_kernel)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        return self.outc(self.up2(self.up1(x3, x2), x1))


class FeaturePyramid(nn.Module):
    """torchvision's FeaturePyramidNetwork, over a dict of maps."""

    def __init__(self, widths: Sequence[int], out: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(width, out, 1)) for width in widths)
        self.layer_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(out, out, 3, padding=1)) for _ in widths)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        names, maps = list(x.keys()), list(x.values())
        last = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](last)]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[i](maps[i])
            last = lateral + F.interpolate(last, size=lateral.shape[-2:], mode="nearest")
            results.insert(0, self.layer_blocks[i](last))
        return OrderedDict(zip(names, results, strict=True))


class Head(nn.Module):
    """RetinaNet's classification head: convolutions shared by all levels, a 3 x 3 output layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(2))
        )
        self.cls_logits = nn.Conv2d(channels, 3 * classes, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        logits = []
        for features in maps:
            y = self.cls_logits(self.conv(features))
            n, _, h, w = y.shape
            logits.append(y.view(n, -1, h * w))
        return torch.cat(logits, dim=2)


class RetinaNet(nn.Module):
    """Backbone, pyramid, head.

    With ``checks``, ``forward`` branches on its input, which no trace can follow.
    """

    def __init__(self, width: int = 8, channels: int = 12, checks: bool = False) -> None:
        super().__init__()
        body = ResNet(BasicBlock, (1, 1, 1, 1), width)
        self.body = nn.ModuleDict({k: getattr(body, k) for k in ("conv1", "bn1", "relu", "layer1", "layer2", "layer3")})
        self.fpn = FeaturePyramid((width, 2 * width, 4 * width), channels)
        self.head = Head(channels, 5)
        self.checks = checks

    def forward(self, x: Tensor) -> Tensor:
        if self.checks and bool((x.shape[0] < 1) or x.abs().max() > 1e6):
            raise ValueError("bad input")
        features = OrderedDict()
        for name, module in self.body.items():
            x = module(x)
            if name.startswith("layer"):
                features[name] = x
        return self.head(list(self.fpn(features).values()))


class YoloConv(nn.Module):
    """Convolution, norm, SiLU, as in the YOLO family."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class YoloBottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = YoloConv(channels, channels, 3)
        self.cv2 = YoloConv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, channels: int, out: int, number: int) -> None:
        super().__init__()
        self.c = out // 2
        self.cv1 = YoloConv(channels, 2 * self.c)
        self.cv2 = YoloConv((2 + number) * self.c, out)
        self.m = nn.ModuleList(YoloBottleneck(self.c) for _ in range(number))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Concat(nn.Module):
    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, 1)


class Yolo(nn.Module):
    """A backbone and a neck as one routed sequence, and an output layer per level."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        layers = [
            (-1, YoloConv(3, w, 3, 2)),
            (-1, YoloConv(w, 2 * w, 3, 2)),
            (-1, C2f(2 * w, 2 * w, 1)),
            (-1, YoloConv(2 * w, 4 * w, 3, 2)),
            (-1, C2f(4 * w, 4 * w, 2)),
            (-1, nn.Upsample(scale_factor=2)),
            ([-1, 2], Concat()),
            (-1, C2f(6 * w, 2 * w, 1)),
            (-1, nn.Conv2d(2 * w, 9, 3, padding=1)),
        ]
        self.routes = [route for route, _ in layers]
        self.model = nn.Sequential(*(layer for _, layer in layers))

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for route, layer in zip(self.routes, self.model, strict=True):
            x = layer([outputs[i] for i in route] if isinstance(route, list) else x)
            outputs.append(x)
        return x
