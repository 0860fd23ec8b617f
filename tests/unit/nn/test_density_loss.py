"""The density loss moves gates to the target density, from both sides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lccl.nn import LCCLConv2d
from lccl.train import DensityLoss


@pytest.mark.slow
@pytest.mark.parametrize(("start", "target"), [(3.0, 0.3), (1.0, 0.3), (-1.0, 0.5), (-3.0, 0.5)])
def test_it_reaches_its_target(start: float, target: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LCCLConv2d(4, 4, 3, padding=1), LCCLConv2d(4, 4, 3, padding=1, gate="1x1"))
    for layer in model:
        nn.init.constant_(layer.gate.norm.bias, start)
    loss = DensityLoss(model, target)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x = torch.randn(8, 4, 16, 16)
    for _ in range(150):
        model(x)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    model(x)
    assert loss().item() < 0.02
    loss.close()
    model.eval()
    model.train()
    model(x)
    with pytest.raises(ValueError, match="no forward pass"):
        loss()


def test_eval_passes_do_not_count() -> None:
    model = LCCLConv2d(4, 4, 3, padding=1)
    loss = DensityLoss(model, 0.5)
    model.eval()(torch.randn(1, 4, 5, 5))
    with pytest.raises(ValueError, match="no forward pass in training mode"):
        loss()


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="no gate"):
        DensityLoss(nn.Conv2d(1, 1, 1), 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        DensityLoss(LCCLConv2d(4, 4, 3, padding=1), 1.5)
