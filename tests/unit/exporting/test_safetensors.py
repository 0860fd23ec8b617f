"""Checkpoints in the safetensors format, of this package and of others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

import lccl
from conftest import Outcome
from lccl.models.resnet import cifar_resnet

EXPORT, COMPARE = "lccl.cli.export", "lccl.cli.compare"
Invoke = Callable[..., Outcome]
FACTORY = "lccl.models.resnet:cifar_resnet"
KWARGS: dict[str, Any] = {"depth": 8, "width": 4, "in_channels": 1}


def notes_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


class Tied(nn.Module):
    """Two layers with one weight, and a third with a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight
        self.register_buffer("part", self.first.weight.detach()[1:3])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


@pytest.mark.slow
def test_a_file_is_enough_to_export_and_compare(invoke: Invoke, small_model: nn.Module, samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "gated.safetensors"
    lccl.save_checkpoint(path, small_model, FACTORY, {**KWARGS, "gated": "both"}, (1, 16, 16))
    lccl.save_checkpoint(
        tmp_path / "dense.safetensors", cifar_resnet(**KWARGS, gated="none"), FACTORY, {**KWARGS, "gated": "none"}
    )
    outcome = invoke(EXPORT, path, "-o", tmp_path / "m.onnx")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    words = [path, "--baseline", tmp_path / "dense.safetensors", "--data", samples, "--runs", "0", "--json"]
    outcome = invoke(COMPARE, *words)
    assert outcome.code == 0, outcome.err
    assert {row["network"] for row in json.loads(outcome.out)["rows"]} >= {"gated.safetensors", "dense.safetensors"}
    assert lccl.profile(path, torch.zeros(1, 1, 16, 16)).gated


def test_a_recipe_in_the_metadata(tmp_path: Path) -> None:
    dense = cifar_resnet(**KWARGS, gated="none").eval()
    gated = lccl.nn.convert(dense, gate="grid", gate_kernel_size=(1, 3)).eval()
    kwargs = {**KWARGS, "gated": "none"}
    lccl.save_checkpoint(tmp_path / "gated.safetensors", gated, FACTORY, kwargs, (1, 16, 16))
    notes = notes_of(tmp_path / "gated.safetensors")
    assert (notes["format"], notes["lccl.factory"], notes["lccl.version"]) == ("pt", FACTORY, "2")
    assert (json.loads(notes["lccl.kwargs"]), json.loads(notes["lccl.input_shape"])) == (kwargs, [1, 16, 16])
    loaded = lccl.load_checkpoint(tmp_path / "gated.safetensors")
    assert lccl.nn.recipe(loaded) == lccl.nn.recipe(gated)
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(loaded(x), gated(x))


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_files_of_others(tmp_path: Path, prefix: str) -> None:
    """Without lccl's metadata, and with a recipe that the user's own code put there."""
    dense = cifar_resnet(**KWARGS, gated="none").eval()
    x = torch.randn(2, 1, 16, 16)

    def build() -> nn.Module:
        return cifar_resnet(**KWARGS, gated="none")

    save_file({prefix + k: v for k, v in dense.state_dict().items()}, tmp_path / "hub.safetensors")
    assert torch.equal(lccl.load_checkpoint(tmp_path / "hub.safetensors", build)(x), dense(x))
    gated = lccl.nn.convert(dense).eval()
    state = {prefix + k: v for k, v in gated.state_dict().items()}
    save_file(state, tmp_path / "own.safetensors", {"lccl_recipe": json.dumps(lccl.nn.recipe(gated)), "epoch": "3"})
    assert torch.equal(lccl.load_checkpoint(tmp_path / "own.safetensors", build)(x), gated(x))


def test_the_format_is_known_without_its_name(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3)
    save_file(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(lccl.load_checkpoint(tmp_path / "pytorch_model.bin", lambda: nn.Conv2d(3, 4, 3)).weight, model.weight)
    torch.save(model.state_dict(), tmp_path / "torch.safetensors")
    assert torch.equal(lccl.load_checkpoint(tmp_path / "torch.safetensors", lambda: nn.Conv2d(3, 4, 3)).weight, model.weight)


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    model = Tied()
    lccl.save_checkpoint(tmp_path / "tied.safetensors", model, "nets:Tied")
    with safe_open(tmp_path / "tied.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"first.weight", "first.bias", "second.bias", "part"}
    del model.part
    save_model(nn.ModuleDict({"module": model}), str(tmp_path / "hub.safetensors"))

    def without_part() -> nn.Module:
        built = Tied()
        del built.part
        return built

    for name, build in (("tied", Tied), ("hub", without_part)):
        loaded = lccl.load_checkpoint(tmp_path / f"{name}.safetensors", build)
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


def test_other_memory_formats_and_types(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)).half().to(memory_format=torch.channels_last)
    lccl.save_checkpoint(tmp_path / "w.safetensors", model, "nets:build")
    loaded = lccl.load_checkpoint(
        tmp_path / "w.safetensors", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)).half()
    )
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_versions_of_modules_are_kept(tmp_path: Path) -> None:
    model = nn.BatchNorm2d(3)
    lccl.save_checkpoint(tmp_path / "norm.safetensors", model, "nets:norm")
    assert json.loads(notes_of(tmp_path / "norm.safetensors")["lccl.module_versions"]) == {"": {"version": 2}}
    assert lccl.load_checkpoint(tmp_path / "norm.safetensors", lambda: nn.BatchNorm2d(3)) is not None


@pytest.mark.parametrize("kwargs", [{"of": {1: "a"}}, {"of": torch.zeros(1)}, {"of": b"x"}, {"of": {"a"}}], ids=str)
def test_values_that_json_does_not_have(tmp_path: Path, kwargs: dict[str, object]) -> None:
    with pytest.raises(lccl.UserError, match=r"holds kwargs as JSON, .*: choose a name that ends with \.pt$"):
        lccl.save_checkpoint(tmp_path / "w.safetensors", nn.Conv2d(3, 4, 3), "nets:build", kwargs)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_plain_tensor(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_buffer("mask", torch.eye(3).to_sparse())
    with pytest.raises(lccl.UserError, match="and mask is none"):
        lccl.save_checkpoint(tmp_path / "w.safetensors", model, "nets:build")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [0.0, 0.001, 0.2, 0.6, 0.99])
def test_a_file_that_is_cut_off(invoke: Invoke, small_model: nn.Module, tmp_path: Path, part: float) -> None:
    lccl.save_checkpoint(tmp_path / "w.safetensors", small_model, FACTORY)
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[: int(part * len(content))])
    outcome = invoke(EXPORT, tmp_path / "w.safetensors", "-o", tmp_path / "m.onnx")
    assert (outcome.code, outcome.out) == (1, "")
    assert "w.safetensors is not a safetensors file, or it is cut off: save or copy it again" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("lccl.kwargs", "{", "holds text under lccl.kwargs that is no JSON"),
        ("lccl.kwargs", "[1]", "is not a well-formed lccl checkpoint"),
        ("lccl.input_shape", '"3x8x8"', "is not a well-formed lccl checkpoint"),
        ("lccl.version", "9", "has checkpoint version 9; this lccl reads 1 to 3"),
        ("lccl_recipe", '[{"conv": 1}]', "the recipe is not what"),
        ("lccl_recipe", "nonsense", "holds text under lccl_recipe that is no JSON"),
        ("lccl.module_versions", "7", None),
        ("lccl.module_versions", '{"": 5}', "holds module versions under lccl.module_versions that are none"),
        ("lccl.module_versions", '{"": {"version": "a"}}', "holds module versions under lccl.module_versions that are none"),
        ("lccl_recipe", "[" * 100_000, "holds text under lccl_recipe that is no JSON"),
    ],
)
def test_metadata_that_is_damaged(tmp_path: Path, name: str, text: str, said: str | None) -> None:
    notes = {"lccl.version": "1", "lccl.factory": "nets:build", "lccl.kwargs": "{}", name: text}
    save_file(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / "w.safetensors", notes)
    if said is None:
        assert lccl.load_checkpoint(tmp_path / "w.safetensors", lambda: nn.Conv2d(3, 4, 3)) is not None
        return
    with pytest.raises(lccl.UserError) as caught:
        lccl.load_checkpoint(tmp_path / "w.safetensors", lambda: nn.Conv2d(3, 4, 3))
    assert said in caught.value.message


def test_the_package_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    said = r"^a \.safetensors file needs safetensors, which is not installed: pip install safetensors$"
    with pytest.raises(lccl.UserError, match=said):
        lccl.load_checkpoint(tmp_path / "w.safetensors", nn.Identity)
    with pytest.raises(lccl.UserError, match=said):
        lccl.save_checkpoint(tmp_path / "n.safetensors", nn.Conv2d(3, 4, 3), "nets:build")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_key_goes_with_a_nested_checkpoint(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(lccl.UserError, match="has no state dict under 'ema'; it holds the keys weight"):
        lccl.load_checkpoint(tmp_path / "w.safetensors", nn.Identity, state_dict_key="ema")
