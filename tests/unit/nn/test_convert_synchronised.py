"""Networks with SyncBatchNorm: gates have it too, and all that follows works as with BatchNorm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lccl
import support.networks.dense as nets
from lccl.nn import LCCLConv2d, fold
from lccl.nn.plain import plain_maths

NETWORKS = {"resnet18": lambda: nets.resnet18(4), "resnet50": lambda: nets.resnet50(4)}
X = (2, 3, 16, 16)


def synchronised(model: nn.Module) -> Any:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def layers_of(model: nn.Module) -> list[LCCLConv2d]:
    return [module for module in model.modules() if isinstance(module, LCCLConv2d)]


def dense(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    model(torch.randn(*X))
    return model.eval()


@pytest.mark.parametrize("gate", ["kxk", "1x1", "grid"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gates_are_synchronised_where_the_network_is(name: str, gate: Any) -> None:
    model, x = synchronised(dense(name)), torch.randn(*X)
    gated = lccl.nn.convert(model, gate, args=x, gate_size=4 if gate == "grid" else 1)
    layers = layers_of(gated)
    assert layers
    for layer in layers:
        assert isinstance(layer.norm, nn.SyncBatchNorm)
        assert isinstance(layer.gate.norm, nn.SyncBatchNorm)
        assert not layer.gate.norm.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in gated.modules())
    torch.testing.assert_close(gated(x), model(x), rtol=1e-4, atol=1e-5)


def test_gates_share_the_process_group_of_their_norm() -> None:
    """Groups may differ within a network; a norm that stays outside counts where none moves in."""
    model = synchronised(dense("resnet18"))
    groups: dict[str, object] = {"layer1": object(), "layer2": object()}
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.process_group = groups.get(name.partition(".")[0], groups["layer1"])
    lccl.nn.convert(model, where="paper", inplace=True)
    seen = {layer.gate.norm.process_group for layer in layers_of(model.layer2)}
    assert seen == {groups["layer2"]}
    assert {layer.gate.norm.process_group for layer in layers_of(model.layer1)} == {groups["layer1"]}


def test_a_network_with_one_synchronised_norm_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    gated = lccl.nn.convert(model.eval(), where=["3"])
    assert isinstance(gated[3].gate.norm, nn.SyncBatchNorm)
    plain = lccl.nn.convert(model, where=["3"], gate_norm=False)
    assert isinstance(plain[3].gate.norm, nn.Identity)


@pytest.mark.parametrize("first", ["convert", "synchronise"])
def test_the_order_of_the_two_conversions_does_not_matter(first: str, tmp_path: Path) -> None:
    model, x = dense("resnet18"), torch.randn(*X)
    torch.manual_seed(1)
    if first == "convert":
        gated = synchronised(lccl.nn.convert(model, where="paper", args=x).train())
    else:
        gated = lccl.nn.convert(synchronised(model), where="paper", args=x).train()
    kinds = {type(module) for module in gated.modules()}
    assert nn.SyncBatchNorm in kinds
    assert nn.BatchNorm2d not in kinds
    for layer in layers_of(gated):
        with torch.no_grad():  # as if trained: gates that open and close
            layer.gate.norm.weight.fill_(1)
            layer.gate.norm.bias.zero_()
    gated.eval()
    y = gated(x).detach()
    with plain_maths(gated, "as built"), torch.no_grad():
        torch.testing.assert_close(y, gated(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fold(gated)(x), y, rtol=1e-4, atol=1e-5)
    again = dense("resnet18")
    lccl.nn.apply_recipe(again, lccl.nn.recipe(gated))
    again.load_state_dict(gated.state_dict())
    torch.testing.assert_close(again.eval()(x), y, rtol=1e-4, atol=1e-5)
    other = synchronised(dense("resnet18"))
    lccl.nn.apply_recipe(other, lccl.nn.recipe(gated))
    assert all(isinstance(layer.gate.norm, nn.SyncBatchNorm) for layer in layers_of(other))
    other.load_state_dict(gated.state_dict())
    torch.testing.assert_close(other.eval()(x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_export_of_a_synchronised_network(tmp_path: Path) -> None:
    model, x = synchronised(dense("resnet50")), torch.randn(*X)
    gated = lccl.nn.convert(model, where="all-3x3", args=x)
    result = lccl.export(gated, x, tmp_path / "model.onnx")
    assert sum(layer.gated for layer in result.layers) == len(layers_of(gated)) > 0
