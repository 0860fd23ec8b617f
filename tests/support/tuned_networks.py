"""A small network with gates, trained for a second, and its calibration set; by name, for commands."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lccl
from lccl.nn import LCCLConv2d
from lccl.train import DensitySchedule


def dense() -> nn.Module:
    """Return the network without gates, untrained."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    for _ in range(3):
        parts += [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def built() -> nn.Module:
    """Return a network that is built with its gates."""
    return nn.Sequential(LCCLConv2d(3, 4, 3, padding=1), LCCLConv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def batch(i: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Return images whose class is the brightest channel."""
    x = torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(i)).relu()
    return x, x.mean((2, 3)).argmax(1)


def calibration() -> tuple[np.ndarray, np.ndarray]:
    """Return 128 images with labels."""
    x, y = batch(10_000, 128)
    return x.numpy(), y.numpy()


def trained(activation: str) -> nn.Module:
    """Return the network with gates at a density of about one half, in eval mode."""
    torch.manual_seed(1)
    model = lccl.nn.convert(dense(), where=["3", "6", "9"], gate_activation=activation).train()  # type: ignore[arg-type]
    schedule = DensitySchedule(model, 0.5, 20, freeze_after=60)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for i in range(80):
        x, y = batch(i)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    schedule.close()
    return model.eval()
