"""Densities and MACs in PyTorch and in ONNX, compared with counts by hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from torch import nn

import lccl
from lccl.loading.data import read_data
from lccl.nn import LCCLConv2d, fold


@pytest.fixture
def half_open() -> nn.Module:
    """One gated layer whose gate is open exactly where the first channel is positive."""
    layer = LCCLConv2d(2, 5, 3, stride=2, padding=1, gate="1x1", gate_norm=False, norm=False)
    with torch.no_grad():
        layer.gate.conv.weight.zero_()
        layer.gate.conv.weight[0, 0] = 1
        layer.gate.conv.bias.zero_()
    return nn.Sequential(layer, nn.Conv2d(5, 6, 3, groups=1, padding=1), nn.Flatten(), nn.Linear(6 * 4 * 4, 3)).eval()


@pytest.mark.slow
def test_counts_by_hand(half_open: nn.Module) -> None:
    x = torch.full((2, 2, 8, 8), -1.0)
    x[0, 0, :4] = 1  # 2 of 4 rows of outputs of the first image, none of the second
    profile = lccl.profile(half_open, [x])
    gated, conv, linear = profile.layers
    assert (gated.density, gated.dense_macs, gated.gate_macs) == (8 / 32, 5 * 2 * 9 * 16, 2 * 16)
    assert gated.macs == 0.25 * 5 * 2 * 9 * 16 + 2 * 16
    assert (conv.kind, conv.dense_macs, conv.density) == ("conv", 6 * 5 * 9 * 16, None)
    assert (linear.kind, linear.dense_macs) == ("linear", 6 * 16 * 3)
    assert profile.images == 2
    assert profile.saved_gated == pytest.approx(1 - gated.macs / gated.dense_macs)
    total = gated.dense_macs + conv.dense_macs + linear.dense_macs
    assert profile.saved_network == pytest.approx((gated.dense_macs - gated.macs) / total)


def test_batches_weigh_by_their_size(half_open: nn.Module) -> None:
    on, off = torch.ones(3, 2, 8, 8), -torch.ones(1, 2, 8, 8)
    assert lccl.profile(half_open, [on, (off, torch.zeros(1))]).density == 0.75


def test_torch_and_onnx_agree(exported: Path, small_model: nn.Module) -> None:
    x = np.random.default_rng(0).standard_normal((16, 1, 16, 16)).astype(np.float32)
    of_module = lccl.profile(small_model, [x[:10], x[10:]])
    of_onnx = lccl.profile(exported, [x])
    assert of_onnx.density == pytest.approx(of_module.density, abs=1e-3)
    assert of_onnx.dense_macs == of_module.dense_macs
    by_name = {layer.name: layer for layer in of_onnx.layers}
    for layer in of_module.layers:
        other = by_name[layer.name]
        assert (other.kind, other.dense_macs, other.gate_macs) == (layer.kind, layer.dense_macs, layer.gate_macs)


@pytest.mark.slow
def test_a_grid_gate_counts_pixels_not_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 4, 3, padding=1, gate="grid", gate_size=4, activation=None)
    x = torch.randn(8, 3, 10, 10)
    layer.train()(x)
    layer.eval()
    model = nn.Sequential(layer)
    profile = lccl.profile(model, [x])
    active = float((layer(x).abs().sum(1) > 0).float().mean())
    assert profile.density == pytest.approx(active, abs=0.02)
    assert profile.layers[0].gate_macs == 3 * 4 * 4 * 3 * 3, "a 4 x 4 window at each of 3 x 3 blocks"
    lccl.export(model, x, tmp_path / "m.onnx")
    assert lccl.profile(tmp_path / "m.onnx", [x]).layers[0].density == pytest.approx(profile.layers[0].density)


def test_the_mode_is_restored_and_no_hook_stays(half_open: nn.Module) -> None:
    half_open.train()
    lccl.profile(half_open, [torch.zeros(1, 2, 8, 8)])
    assert half_open.training
    assert all(not m._forward_hooks for m in half_open.modules())


def test_no_batch(half_open: nn.Module, exported: Path) -> None:
    for model in (half_open, exported):
        with pytest.raises(lccl.UserError, match="no batch"):
            lccl.profile(model, [])


@pytest.mark.slow
def test_a_layer_that_is_called_twice_counts_twice(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LCCLConv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(2, 4, 8, 8)
    profile = lccl.profile(model, x)
    assert profile.dense_macs == 2 * 4 * 4 * 9 * 64
    lccl.export(model, x, tmp_path / "m.onnx")
    assert lccl.profile(tmp_path / "m.onnx", x).dense_macs == profile.dense_macs


def test_images_of_several_sizes_are_averaged(half_open: nn.Module) -> None:
    model = nn.Sequential(half_open[0])
    small, large = torch.ones(1, 2, 8, 8), torch.ones(3, 2, 16, 16)
    expected = (90 * 16 + 3 * 90 * 64) / 4
    assert lccl.profile(model, [small, large]).dense_macs == lccl.profile(model, [large, small]).dense_macs == expected


def test_a_folded_network_counts_as_the_original(small_model: nn.Module) -> None:
    x = torch.randn(4, 1, 16, 16)
    assert lccl.profile(fold(small_model), x) == lccl.profile(small_model, x)


class Convolutions(nn.Module):
    """A gated layer before plain and transposed convolutions of one, two and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.gated = LCCLConv2d(2, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=3, padding=2, output_padding=1)
        self.line = nn.Conv1d(4, 5, 3)
        self.volume = nn.Conv3d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.down(self.gated(x)))
        return self.line(x.flatten(2)).mean((1, 2)) + self.volume(x[:, None]).mean((1, 2, 3, 4))


@pytest.mark.slow
def test_every_convolution_counts_alike_in_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Convolutions().eval(), torch.randn(2, 2, 9, 9)
    lccl.export(model, x, tmp_path / "m.onnx")
    of_module, of_onnx = lccl.profile(model, x), lccl.profile(tmp_path / "m.onnx", x)
    macs = {layer.name: layer.dense_macs for layer in of_module.layers}
    assert macs["up"] == 6 * 4 * 9 * 25, "of the input's 5 x 5 positions"
    assert macs["volume"] == 2 * 27 * 2 * 10 * 10
    assert {layer.name: layer.dense_macs for layer in of_onnx.layers} == macs


@pytest.mark.slow
def test_layers_of_the_same_name_stay_apart(exported: Path) -> None:
    """Other exporters leave nodes unnamed."""
    model = onnx.load(exported)
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = ""
    x = np.ones((1, 1, 16, 16), np.float32)
    assert lccl.profile(model, x).dense_macs == lccl.profile(exported, x).dense_macs
    assert len({layer.name for layer in lccl.profile(model, x).layers}) == len(lccl.profile(exported, x).layers)


def test_a_batch_that_does_not_fit(half_open: nn.Module, exported: Path) -> None:
    with pytest.raises(lccl.UserError, match=r"a batch of shape \[1, 3, 8, 8\] does not fit the model"):
        lccl.profile(half_open[1:2], np.ones((1, 3, 8, 8), np.float32))
    with pytest.raises(lccl.UserError, match=r"input x is \[1, 3, 16, 16\], but the model takes"):
        lccl.profile(exported, np.ones((1, 3, 16, 16), np.float32))


def test_float64_is_taken_as_the_models_type(small_model: nn.Module, exported: Path) -> None:
    wide = np.random.default_rng(0).standard_normal((2, 1, 16, 16))
    for model in (small_model, exported):
        assert lccl.profile(model, wide) == lccl.profile(model, wide.astype(np.float32))


def test_files_of_either_kind(checkpoint: Path, exported: Path) -> None:
    x = np.ones((2, 1, 16, 16), np.float32)
    assert lccl.profile(checkpoint, x).density == pytest.approx(lccl.profile(exported, x).density, abs=1e-3)


def test_words_of_the_table() -> None:
    text = str(lccl.profile(LCCLConv2d(2, 3, 3), torch.ones(1, 2, 8, 8)))
    assert "\n(model) " in text, "a layer that is the whole model has no name of its own"
    assert "\nwhole network  mean of gated " in text
    assert "mean of 1 image." in text
    assert "mean of gated" not in str(lccl.profile(nn.Sequential(nn.Conv2d(2, 3, 3)), torch.ones(1, 2, 8, 8)))


def test_data_may_be_a_file_or_a_loader_and_its_old_keyword_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LCCLConv2d(2, 3, 3)
    x = np.random.default_rng(0).standard_normal((70, 2, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, labels=np.zeros(70))
    (tmp_path / "profiled_data.py").write_text("import numpy\ndata = numpy.load('x.npz')['x']\n")
    monkeypatch.chdir(tmp_path)
    expected = lccl.profile(model, x)
    assert expected.images == 70
    for data in (tmp_path / "x.npz", "x.npz", "profiled_data:data"):
        assert lccl.profile(model, data) == expected
    with pytest.warns(FutureWarning, match="^loader= is now data=; the old spelling goes away in"):
        assert lccl.profile(model, loader=[x]) == expected
    for one in ((x, np.zeros(70)), [x, np.zeros(70)], (x, torch.zeros(70)), {"x": x}):
        assert lccl.profile(model, one) == expected
        assert len(read_data(one)) == 70  # what the data means is the same everywhere
    for batches in ([x[:30], x[30:]], (x[:30], x[30:])):
        assert lccl.profile(model, batches).images == len(read_data(batches)) == 70


def test_a_file_that_needs_more_than_its_path_is_to_be_loaded_first(tmp_path: Path) -> None:
    torch.save(LCCLConv2d(2, 3, 3).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(lccl.UserError, match=r"but not the network: load it with lccl\.load_checkpoint, and give the module$"):
        lccl.profile(tmp_path / "weights.pt", torch.zeros(1, 2, 8, 8))


def test_a_model_whose_nodes_a_tool_replaced_is_told(exported: Path) -> None:
    x = np.zeros((2, 1, 16, 16), np.float32)
    flat = onnx.inliner.inline_local_functions(onnx.load(exported))
    with pytest.warns(RuntimeWarning, match="standard ops in their place, which have no density: open the file") as caught:
        assert not lccl.profile(flat, x).gated
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (exported, exported.with_suffix(".dense.onnx"), exported.with_suffix(".decomposed.onnx")):
            lccl.profile(name, x)
