"""The density loss moves gates to the target density, from both sides."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lccl
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
    for wrong in ({"model": 3, "target": 0.5}, {"model": LCCLConv2d(4, 4, 3), "target": "half"}):
        with pytest.raises(lccl.UserError, match=r"(model|target) takes"):
            DensityLoss(**wrong)  # type: ignore[arg-type]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), LCCLConv2d(4, 4, 3, padding=1, norm=False))


def gradients(reentrant: bool | None, compiled: bool = False) -> tuple[float, list[torch.Tensor]]:
    """The loss and the gradients of a step, with the gated layer in a checkpoint or not."""
    model = network()
    loss = DensityLoss(model, 0.3)
    run: Any = model
    if reentrant is not None:
        run = lambda x: checkpoint(model[1], model[0](x), use_reentrant=reentrant)  # noqa: E731
    elif compiled:
        run = torch.compile(model, backend="eager")
    for _ in range(2):  # what the first backward pass computes again must not count in the second step
        model.zero_grad()
        y = run(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)))
        value = loss()
        (y.square().mean() + value).backward()
    return value.item(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"reentrant": False}, {"reentrant": None, "compiled": True}], ids=str)
def test_checkpoints_and_compilation_change_nothing(options: dict[str, Any]) -> None:
    plain, other = gradients(None), gradients(**options)
    assert other[0] == pytest.approx(plain[0])
    for a, b in zip(plain[1], other[1], strict=True):
        torch.testing.assert_close(a, b)
    torch.compiler.reset()


def test_what_has_no_gradient_is_refused() -> None:
    with pytest.raises(lccl.UserError, match="take use_reentrant=False"):
        gradients(reentrant=True)


@pytest.mark.slow
def test_a_model_that_was_compiled_before_is_named() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    compiled(torch.randn(2, 3, 6, 6))
    loss = DensityLoss(compiled, 0.3)
    compiled(torch.randn(2, 3, 6, 6))
    found = loss._collector.densities  # where PyTorch compiles the model again, it tells the loss
    if found:
        plain = DensityLoss(other := network(), 0.3)
        torch.manual_seed(5)
        x = torch.randn(2, 3, 6, 6)
        loss._collector.densities = []
        assert (compiled(x), other(x)) is not None
        assert loss().item() == pytest.approx(plain().item())
    else:
        with pytest.raises(lccl.UserError, match="make the loss before the model's first call"):
            loss()
    torch.compiler.reset()


@pytest.mark.slow
def test_copies_and_exports_with_an_open_loss(tmp_path: Path) -> None:
    model = network()
    loss = DensityLoss(model, 0.3)
    x = torch.randn(2, 3, 6, 6)
    model(x)
    copied = copy.deepcopy(model)
    copied(x)
    one = DensityLoss(network(), 0.3)
    assert len(loss._collector.densities) == 1
    lccl.export(model.eval(), x, tmp_path / "m.onnx")
    torch.save(model, tmp_path / "whole.pt")
    torch.load(tmp_path / "whole.pt", weights_only=False).train()(x)
    expected = DensityLoss(twin := network(), 0.3)
    twin(x)
    assert loss().item() == pytest.approx(expected().item())
    one.close()
