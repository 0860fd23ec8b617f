"""`lccl inspect`: a network as the exporter sees it, of a checkpoint, a file, an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lccl
from lccl.engine.sidecar import write_sidecar
from lccl.files import sha256
from lccl.forms.costs import CostTable, LayerCost, Machine

Invoke = Callable[..., Any]
pytestmark = pytest.mark.slow


class Mixed(nn.Module):
    """Own code: a gate that is recognised, one that closes nothing, and layers that could or could not have one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.main, self.gate = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.soft_main, self.soft = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Conv2d(8, 4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, 4, 1, 1]."""
        x = self.stem(x).relu()
        x = self.main(x).relu() * self.gate(x).relu()
        x = self.soft_main(x) * self.soft(x).sigmoid()
        return self.head(self.grouped(x))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    torch.onnx.export(Mixed().eval(), (torch.zeros(1, 3, 6, 6),), path, opset_version=18, dynamo=True, verbose=False)
    return path


def test_what_is_gated_and_what_could_be(mixed: Path) -> None:
    found = lccl.inspect(mixed)
    layers = {(layer.out_channels, layer.kernel, layer.out_hw): layer for layer in found.layers}
    by_form = {
        "stem": next(layer for layer in found.layers if layer.in_channels == 3),
        "gated": found.gated[0],
        "grouped": next(layer for layer in found.layers if "grouped" in layer.note),
        "head": layers[4, (6, 6), (1, 1)],
        "soft": next(
            layer
            for layer in found.layers
            if not layer.gated and layer.in_channels == layer.out_channels == 8 and layer.gateable
        ),
    }
    assert len(found.gated) == 1
    assert by_form["gated"].gate == "1x1"
    assert by_form["gated"].macs == 9 * 8 * 8 * 36
    assert (by_form["stem"].gateable, by_form["stem"].note) == (True, "could have a gate")
    assert not by_form["grouped"].gateable
    assert (by_form["head"].gateable, by_form["head"].note) == (False, "its output is one pixel: there is nothing to skip")
    assert by_form["soft"].note.startswith("could have a gate; ")
    assert "1 of " in str(found)
    assert "Densities are not known." in str(found)


def test_densities_of_data_are_those_of_a_profile(checkpoint: Path, small_model: nn.Module, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((5, 1, 16, 16), np.float32)
    found = lccl.inspect(checkpoint, images)
    profile = lccl.profile(small_model, [torch.from_numpy(images)])
    assert {layer.name: layer.density for layer in found.gated} == pytest.approx({p.name: p.density for p in profile.gated})
    assert {layer.name: layer.macs for layer in found.gated} == {p.name: p.dense_macs for p in profile.gated}
    assert found.images == 5
    path = lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx", data=images).path
    said = lccl.inspect(path, args=(1, 1, 16, 16))
    assert said.images == 0
    assert {layer.name: layer.density for layer in said.gated} == pytest.approx(
        {layer.name: layer.density for layer in found.gated}, abs=1e-6
    )
    assert "Densities as the file says." in str(said)


def test_what_each_runtime_does(checkpoint: Path) -> None:
    found = lccl.inspect(checkpoint)
    count = len(found.gated)
    assert found.backends["onnxruntime-lccl"] == f"closed pixels of {count} layers are skipped, by the CPU op"
    assert "every pixel" in found.backends["tensorrt-rtx"]
    assert "by the plugin" in found.backends["tensorrt"]


def test_a_kernel_that_the_cpu_op_does_not_have(tmp_path: Path) -> None:
    large = nn.Sequential(lccl.nn.LCCLConv2d(3, 4, 9, padding=4), lccl.nn.LCCLConv2d(4, 4, 3, padding=1))
    path = lccl.export(large.eval(), torch.zeros(1, 3, 12, 12), tmp_path / "m.onnx").path
    found = lccl.inspect(path)
    assert "the kernel of 0 is larger than 7x7" in found.backends["onnxruntime-lccl"]


def test_costs(checkpoint: Path, tmp_path: Path) -> None:
    times = {"kxk": {"0.0": 10.0, "1.0": 110.0}, "1x1": {"0.0": 10.0, "1.0": 110.0}}
    images = np.random.default_rng(0).standard_normal((2, 1, 16, 16), np.float32)
    first = lccl.inspect(checkpoint, images)
    layers = {
        (layer.kernel, layer.in_channels, layer.out_channels, layer.strides, layer.out_hw): LayerCost(
            layer.name, layer.kernel, layer.in_channels, layer.out_channels, layer.strides, layer.out_hw, layer.macs,
            50.0, times, (1, 1), times,
        )
        for layer in first.layers
        if layer.gated
    }  # fmt: skip
    table = CostTable(Machine.here(), 1, 1, {}, (), tuple(layers.values()))
    table.save(tmp_path / "costs.json")
    found = lccl.inspect(checkpoint, images, costs=tmp_path / "costs.json")
    for layer in found.gated:
        assert layer.dense_us == 50.0
        assert layer.gated_us == pytest.approx(10 + 100 * layer.density)
    assert "dense us" in str(found)
    assert "1 thread, batch 1" in str(found)
    with pytest.raises(lccl.UserError, match="costs of 1 thread, not of 2"):
        lccl.inspect(checkpoint, costs=tmp_path / "costs.json", threads=2)


def test_a_layer_that_no_table_has(tmp_path: Path) -> None:
    """Its gate comes from outside: the time of the dense layer is known, that of the gated one is not."""
    layer = lccl.nn.LCCLConv2d(3, 4, 3, padding=1, gate="external").eval()
    path = lccl.export(layer, (torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8)), tmp_path / "m.onnx").path
    times = {"kxk": {"0.0": 1.0, "1.0": 2.0}}
    cost = LayerCost("l", (3, 3), 3, 4, (1, 1), (8, 8), 9 * 12 * 64, 50.0, times, (1, 1), times)
    CostTable(Machine.here(), 1, 1, {}, (), (cost,)).save(tmp_path / "costs.json")
    data = {"x": np.zeros((2, 3, 8, 8), np.float32), "gate": np.ones((2, 1, 8, 8), np.float32)}
    (found,) = lccl.inspect(path, data, costs=tmp_path / "costs.json").gated
    assert (found.dense_us, found.gated_us) == (50.0, None)
    with pytest.raises(
        lccl.UserError, match="has a gate from outside, and tables have the costs of 1x1, kxk and grid gates alone"
    ):
        lccl.tune(path, data, target_latency=0.5, costs=tmp_path / "costs.json")


# ---- engines --------------------------------------------------------------------------------------------------------


def engine_of(model: Path, folder: Path) -> Path:
    """An engine's side-car, as a build writes it, with bytes that no runtime reads here."""
    from lccl.backends.interface import LayerPath
    from lccl.engine.results import EngineResult

    path = folder / "m.engine"
    path.write_bytes(b"an engine")
    names = [layer.name for layer in lccl.inspect(model).gated]
    layers = (*(LayerPath(name, "LCCLConv", "inlined") for name in names), LayerPath("a relu", "Relu", "native"))
    sidecar = path.with_name("m.engine.json")
    result = EngineResult(path, sidecar, "tensorrt-rtx", "1.7", "float32", (), (), layers, 9, 1.0, sha256(path))
    write_sidecar(sidecar, result, model, sha256(model), "words", lccl.__version__)
    return path


def test_an_engine_beside_its_model(small_model: nn.Module, tmp_path: Path, invoke: Invoke) -> None:
    model = lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx").path
    engine = engine_of(model, tmp_path)
    done = invoke("lccl.cli.inspect", engine, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert {row["in_engine"] for row in said["layers"] if row["gated"]} == {"inlined"}
    assert said["layers"][0]["macs"] > 0
    assert said["backends"] == {"tensorrt-rtx": "every pixel is computed, by standard ops"}
    done = invoke("lccl.cli.inspect", engine)
    assert "in the engine" in done.out
    assert done.out.count("  inlined") == sum(row["gated"] for row in said["layers"])
    model.write_bytes(model.read_bytes() + b"\0")
    done = invoke("lccl.cli.inspect", engine, "--json")
    assert {row["macs"] for row in json.loads(done.out)["layers"]} == {None}, "another model lies there now"
    assert "a relu" not in done.out
    done = invoke("lccl.cli.inspect", engine, "--data", "x.npz")
    assert (done.code, "leave out --data, or put the model there" in done.err) == (1, True)
    engine.write_bytes(b"another engine")
    done = invoke("lccl.cli.inspect", engine)
    assert (done.code, "belongs to another engine" in done.err) == (1, True)
    (tmp_path / "m.engine.json").unlink()
    done = invoke("lccl.cli.inspect", engine)
    assert (done.code, "is missing: keep it beside the engine" in done.err) == (1, True)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command(checkpoint: Path, tmp_path: Path, invoke: Invoke) -> None:
    done = invoke("lccl.cli.inspect", checkpoint, "--picture", tmp_path / "p.svg")
    assert done.code == 0, done.err
    assert "gated, " in done.out
    drawn = (tmp_path / "p.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "gated: closed pixels" in drawn
    done = invoke("lccl.cli.inspect", checkpoint, "--json")
    assert json.loads(done.out) == json.loads(json.dumps(lccl.inspect(checkpoint).as_dict()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.onnx"], "no such file: missing.onnx"),
        (["{text}"], "is no network to inspect: give a checkpoint or an .onnx file"),
        (["{model}", "--threads", "0"], "--threads is at least 1, not 0"),
        (["{model}", "--costs", "none.json"], "no such file: none.json"),
        (["{model}", "--picture", "/nowhere/p.png"], "/nowhere does not exist"),
        (["{model}", "--picture", "p.xyz"], "p.xyz is no name of a picture: give one that ends in .png, .svg or .pdf"),
        (["{model}", "--input-shape", "1x0"], "a shape is written like"),
        (["{model}", "--data", "nowhere:loader"], "cannot import nowhere"),
    ],
    ids=str,
)
def test_wrong_use(words: list[str], said: str, mixed: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "a.txt").write_text("text")
    done = invoke("lccl.cli.inspect", *(word.format(model=mixed, text=tmp_path / "a.txt") for word in words))
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err
