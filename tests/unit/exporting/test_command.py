"""``lccl-export`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

import lccl
from conftest import Outcome
from lccl.loading.torch_file import load_model
from lccl.op.onnx_op import is_lccl_node

EXPORT = "lccl.cli.export"
Invoke = Callable[..., Outcome]


@pytest.mark.slow
def test_a_checkpoint_that_names_its_network(invoke: Invoke, checkpoint: Path, samples: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    outcome = invoke(EXPORT, checkpoint, "-o", target, "--dense-twin", "--decomposed", "--data", samples)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    assert "stages.0.0.conv1" in outcome.out
    assert "the model has no gate here" in outcome.out
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.dense.onnx", "model.decomposed.onnx"}
    notes = {p.key: p.value for p in onnx.load(target).metadata_props}
    assert notes["lccl.source"] == checkpoint.name
    assert notes["lccl.command"].startswith("lccl-export ")
    assert len(notes["lccl.source_sha256"]) == 64


@pytest.mark.slow
def test_the_file_for_tensorrt_has_the_nodes_and_no_function(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    """TensorRT's parser takes a function before a plugin."""
    outcome = invoke(EXPORT, checkpoint, "-o", tmp_path / "model.onnx", "--tensorrt")
    assert "model.tensorrt.onnx (for TensorRT with the plugin)" in outcome.out
    whole, view = (onnx.load(tmp_path / name) for name in ("model.onnx", "model.tensorrt.onnx"))
    assert (len(whole.functions), len(view.functions)) == (1, 0)
    assert [n for n in view.graph.node if is_lccl_node(n)] == [n for n in whole.graph.node if is_lccl_node(n)]


@pytest.mark.slow
def test_json(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    outcome = invoke(EXPORT, checkpoint, "-o", tmp_path / "model.onnx", "--json")
    result = json.loads(outcome.out)
    assert result["path"] == str(tmp_path / "model.onnx")
    assert sum(layer["gated"] for layer in result["layers"]) == 6
    assert result["checked"]["max_error"] < 1e-5
    assert result["checked_open"]["max_error"] < 1e-5
    assert (result["given_inputs"], result["random_inputs"], result["warning"]) == (0, 3, None)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bare", "nested", "parallel", "compiled_parallel"])
def test_a_users_factory_and_state_dict(
    invoke: Invoke, small_model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    state = small_model.state_dict()
    content = {
        "bare": state,
        "nested": {"epoch": 7, "optimizer": {"lr": 0.1}, "model": state},
        "parallel": {f"module.{k}": v for k, v in state.items()},
        "compiled_parallel": {f"_orig_mod.module.{k}": v for k, v in state.items()},
    }[form]
    torch.save(content, tmp_path / "weights.pth")
    (tmp_path / f"net_{form}.py").write_text(
        "from lccl.models.resnet import cifar_resnet\ndef build():\n    return cifar_resnet(8, 4, in_channels=1, gated='both')\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = invoke(EXPORT, "weights.pth", "--factory", f"net_{form}:build", "--input-shape", "1x1x16x16", "-o", "m.onnx")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "m.onnx").exists()


def test_an_onnx_file(invoke: Invoke, exported: Path, tmp_path: Path) -> None:
    outcome = invoke(EXPORT, exported, "-o", tmp_path / "again.onnx", "--decomposed")
    assert outcome.code == 0, outcome.err
    assert "6 of 9 convolutions are gated" in outcome.out


@pytest.mark.slow
def test_the_shape_of_an_onnx_files_check(invoke: Invoke, small_model: torch.nn.Module, tmp_path: Path) -> None:
    """Where height and width are dynamic, the caller knows which the network takes."""
    lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx", dynamic_hw=True)
    target = tmp_path / "again.onnx"
    outcome = invoke(EXPORT, tmp_path / "m.onnx", "-o", target, "--input-shape", "5x1x24x40", "--json")
    assert json.loads(outcome.out)["checked"]["samples"] == 5
    outcome = invoke(EXPORT, tmp_path / "m.onnx", "-o", target, "--input-shape", "5x3x24x40")
    assert "input x is [5, 3, 24, 40], but the model takes ['batch', 1, 'height', 'width']" in outcome.err


@pytest.mark.slow
def test_an_older_file_is_replaced_whole(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("older")
    assert invoke(EXPORT, checkpoint, "-o", target).code == 0
    assert onnx.load(target).producer_name == "lccl"
    assert list(tmp_path.iterdir()) == [target]


def test_an_infinite_buffer_is_no_fault(tmp_path: Path) -> None:
    """Attention masks hold -inf; infinity tells of a training gone wrong in weights only."""

    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((2, 2), float("-inf")))

    torch.save(Masked().state_dict(), tmp_path / "masked.pt")
    assert torch.isinf(load_model(tmp_path / "masked.pt", Masked).module.get_buffer("mask")).all()
