"""Round trips: convert, save, load and export, without the user repeating what was gated."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import lccl
import support.networks.dense as nets
from conftest import Outcome
from lccl.errors import UserError
from lccl.models.resnet import cifar_resnet
from lccl.op.onnx_op import is_lccl_node

FACTORY = "support.networks.dense:resnet18"
KWARGS = {"width": 4}


@pytest.fixture(scope="module")
def converted() -> nn.Module:
    """Return a network with two forms: norms in layers, grid gates, a changed threshold."""
    model = lccl.nn.convert(nets.settle(nets.resnet18(4), 3, 32, 32), "grid", gate_size=2, gate_kernel_size=3)
    for layer in lccl_layers(model).values():
        nn.init.ones_(layer.gate.norm.weight)
    nets.settle(model, 3, 32, 32)
    model.layer2[0].conv1.gate_threshold = 0.25
    return model


def lccl_layers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, lccl.nn.LCCLConv2d)}


@pytest.fixture
def saved(converted: nn.Module, tmp_path: Path) -> Path:
    lccl.save_checkpoint(tmp_path / "gated.pt", converted, FACTORY, KWARGS, (3, 32, 32))
    return tmp_path / "gated.pt"


def test_the_checkpoint_carries_the_recipe(converted: nn.Module, saved: Path) -> None:
    loaded = lccl.load_checkpoint(saved, FACTORY)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), converted(x), rtol=0, atol=0)
    assert lccl.nn.recipe(loaded) == lccl.nn.recipe(converted)
    assert loaded.layer2[0].conv1.gate_threshold == 0.25
    assert torch.load(saved, weights_only=True)["version"] == 2


def test_sizes_of_numpy_are_plain_in_the_checkpoint(tmp_path: Path) -> None:
    size = {"gate_size": np.int64(2), "gate_kernel_size": (np.int32(3), 3)}
    model = lccl.nn.convert(nets.resnet18(4), "grid", **size)
    lccl.save_checkpoint(tmp_path / "gated.pt", model, FACTORY, KWARGS, (3, 32, 32))
    assert lccl.nn.recipe(lccl.load_checkpoint(tmp_path / "gated.pt", FACTORY)) == lccl.nn.recipe(model)
    assert json.loads(json.dumps(lccl.nn.recipe(model)))[0]["gate_kernel_size"] == [3, 3]


@pytest.mark.slow
def test_export_knows_what_was_gated(invoke: Callable[..., Outcome], converted: nn.Module, saved: Path, tmp_path: Path) -> None:
    outcome = invoke("lccl.cli.export", saved, "--factory", FACTORY, "-o", tmp_path / "model.onnx")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    nodes = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if is_lccl_node(node)]
    assert {node.name for node in nodes} == set(lccl_layers(converted))


@pytest.mark.slow
def test_a_network_of_our_own_needs_no_factory(invoke: Callable[..., Outcome], samples: Path, tmp_path: Path) -> None:
    """Dense and gated checkpoints name the same factory; only the recipe differs."""
    factory, kwargs = "lccl.models.resnet:cifar_resnet", {"depth": 8, "width": 4, "in_channels": 1, "gated": "none"}
    dense = nets.settle(cifar_resnet(**kwargs), 1, 16, 16)
    lccl.save_checkpoint(tmp_path / "dense.pt", dense, factory, kwargs, (1, 16, 16))
    lccl.save_checkpoint(tmp_path / "gated.pt", lccl.nn.convert(dense), factory, kwargs, (1, 16, 16))
    outcome = invoke("lccl.cli.export", tmp_path / "gated.pt", "-o", tmp_path / "gated.onnx")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    files = (tmp_path / "gated.pt", tmp_path / "gated.onnx", "--baseline", tmp_path / "dense.pt")
    outcome = invoke("lccl.cli.compare", *files, "--data", samples, "--runs", "0", "--json")
    assert outcome.code == 0, outcome
    gated = [layer for layer in json.loads(outcome.out)["profile"]["layers"] if layer["kind"] == "gated"]
    assert [(layer["name"], layer["density"]) for layer in gated] == [(f"stages.{i}.0.conv1.0", 1.0) for i in (0, 1, 2)]


def test_the_files_factory_is_not_run_unasked(invoke: Callable[..., Outcome], saved: Path, tmp_path: Path) -> None:
    outcome = invoke("lccl.cli.export", saved, "-o", tmp_path / "model.onnx")
    assert outcome.code == 1
    assert f"asks to run {FACTORY}; if you trust it, name it: pass --factory {FACTORY}" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_a_training_scripts_own_checkpoint(converted: nn.Module, tmp_path: Path, wrap: Callable[..., Any]) -> None:
    wrapped = wrap(converted)
    content = {"epoch": 3, "model": wrapped.state_dict(), "lccl_recipe": lccl.nn.recipe(wrapped)}
    torch.save(content, tmp_path / "own.pt")
    loaded = lccl.load_checkpoint(tmp_path / "own.pt", lambda: nets.resnet18(4))
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(x), converted(x), rtol=0, atol=0)


@pytest.mark.slow
def test_parts_converted_each_by_itself(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nets.resnet18(4), nets.VGG(width=4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.backbone(x) + self.head(x)

    model = nets.settle(Pair(), 3, 32, 32)
    model.backbone = lccl.nn.convert(model.backbone, "1x1")
    model.head = lccl.nn.convert(model.head, "kxk")
    lccl.save_checkpoint(tmp_path / "pair.pt", model, "mine:Pair")
    loaded = lccl.load_checkpoint(tmp_path / "pair.pt", Pair)
    assert {n: m.gate_kind for n, m in lccl_layers(loaded).items()} == {n: m.gate_kind for n, m in lccl_layers(model).items()}
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


def test_a_factory_that_converts_itself(saved: Path, converted: nn.Module) -> None:
    """Layers that match the recipe are kept; layers gated in another way are refused."""

    def build(**options: Any) -> nn.Module:
        return lccl.nn.convert(nets.resnet18(4), "grid", gate_size=2, **options)

    with pytest.raises(UserError, match="which the network does not have"):
        lccl.load_checkpoint(saved, build)
    converted = copy.deepcopy(converted)
    converted.layer2[0].conv1.gate_threshold = 0.0
    lccl.save_checkpoint(saved, converted, FACTORY, KWARGS)
    assert lccl.load_checkpoint(saved, lambda: build(gate_kernel_size=3)) is not None


def test_a_network_without_converted_layers_has_no_recipe(small_model: nn.Module, checkpoint: Path) -> None:
    assert lccl.nn.recipe(small_model) == []
    assert torch.load(checkpoint, weights_only=True)["version"] == 1


def test_another_factory(saved: Path) -> None:
    with pytest.raises(UserError, match=r"gates convolution layer1.0.conv1, which the network does not have; is it the right"):
        lccl.load_checkpoint(saved, lambda: nets.VGG(width=4))


def test_a_state_dict_whose_recipe_was_left_behind(converted: nn.Module, tmp_path: Path) -> None:
    torch.save(converted.state_dict(), tmp_path / "bare.pt")
    with pytest.raises(UserError, match=r"save lccl.nn.recipe\(model\) as lccl_recipe beside them"):
        lccl.load_checkpoint(tmp_path / "bare.pt", lambda: nets.resnet18(4))


def spoilt(entry: dict[str, Any], **changes: Any) -> Any:
    return [entry | changes]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: "first-of-block",
        lambda entry: ["layer1.0.conv1"],
        lambda entry: [{k: v for k, v in entry.items() if k != "norm"}],
        lambda entry: spoilt(entry, more=1),
        lambda entry: spoilt(entry, conv=""),
        lambda entry: spoilt(entry, norm=3),
        lambda entry: spoilt(entry, gate="external"),
        lambda entry: spoilt(entry, gate=["1x1"]),
        lambda entry: spoilt(entry, gate_size=2.5),
        lambda entry: spoilt(entry, gate_activation=["relu"]),
        lambda entry: spoilt(entry, gate_activation="tanh"),
        lambda entry: spoilt(entry, gate_kernel_size="3"),
        lambda entry: spoilt(entry, gate_threshold="high"),
        lambda entry: spoilt(entry, norm="layer1.0.conv2"),
        lambda entry: spoilt(entry, conv="fc", norm=None),
        lambda entry: spoilt(entry, gate_size=10**6, gate_kernel_size=None),
        lambda entry: spoilt(entry, gate_size=10**4, gate_kernel_size=None),
        lambda entry: spoilt(entry, gate_kernel_size=[10**6, 10**6]),
        lambda entry: spoilt(entry, gate_kernel_size=[3, torch.tensor(3)]),
        lambda entry: spoilt(entry, norm="layer2.0.bn1"),
        lambda entry: spoilt(entry, norm="layer1.0.bn2"),
        lambda entry: [entry, entry],
    ],
)
def test_a_damaged_recipe(converted: nn.Module, spoil: Callable[[dict[str, Any]], Any]) -> None:
    """A damaged recipe gives one sentence and leaves the network unchanged."""
    model = nets.resnet18(4)
    with pytest.raises(UserError) as caught:
        lccl.nn.apply_recipe(model, spoil(lccl.nn.recipe(converted)[0]))
    assert "\n" not in str(caught.value)
    assert lccl_layers(model) == {}


def test_a_layer_that_was_moved(converted: nn.Module) -> None:
    moved = copy.deepcopy(converted)
    moved.layer1[0].first = moved.layer1[0].conv1
    del moved.layer1[0].conv1
    with pytest.raises(UserError, match=r"layer layer1.0.first was layer1.0.conv1 when it was converted"):
        lccl.nn.recipe(moved)
