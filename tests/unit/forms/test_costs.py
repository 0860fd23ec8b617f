"""Tables of costs: what they hold, what they say between two densities, when they are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import Outcome
from lccl.backends.onnxruntime.library import ENVIRONMENT
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.forms.costs import DENSITIES, ConvShape, CostTable, LayerCost, Machine, load_costs
from lccl.forms.layer_models import GateKind, LayerShape, areas, dense_model, gated_model, layers_of
from lccl.op.reference import lccl_conv
from support.graphs.gated_net import GatedNet, residual_net

MEASURE = "lccl.cli.measure"
Invoke = Callable[..., Outcome]
HERE = Machine("cpu", "a processor", "avx2")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda *_: HERE))


def cost(name: str = "conv", **changes: Any) -> LayerCost:
    times = {"0.0": 10.0, "0.5": 60.0, "1.0": 130.0}
    values: dict[str, Any] = {
        "name": name, "kernel": (3, 3), "in_channels": 8, "out_channels": 8, "strides": (1, 1), "dilations": (1, 1), "out_hw": (8, 8),
        "macs": 36864, "dense_us": 100.0, "gated_us": {"kxk": times}, "chained_us": {"kxk": {d: us + 10 for d, us in times.items()}},
    }  # fmt: skip
    return LayerCost(**values | changes)


def costs(*layers: LayerCost, **changes: Any) -> CostTable:
    values: dict[str, Any] = {"machine": HERE, "threads": 1, "batch": 1, "versions": {"lccl": "1"}, "commands": ("words",)}
    return CostTable(**values | changes, layers=layers or (cost(),))


def test_between_densities() -> None:
    layer = cost()
    assert [layer.at("kxk", d, in_chain=False) for d in (0.0, 0.25, 0.5, 0.75)] == [10, 35, 60, 95]
    assert layer.at("kxk", 0.25) == 45
    assert layer.at("1x1", 0.5) is None
    assert layer.break_even("kxk") == pytest.approx(0.7, abs=0.04)
    assert layer.break_even("1x1") is None
    assert cost(dense_us=5.0).break_even("kxk") == 0


def test_a_table_is_read_as_it_was_written(tmp_path: Path, here: None) -> None:
    table = costs(cost(), cost("other", kernel=(1, 1), macs=4096))
    table.save(tmp_path / "c.json")
    assert load_costs(tmp_path / "c.json") == table
    assert table.find(ConvShape((1, 1), 8, 8, (1, 1), (1, 1)), 4096) == table.layers[1]
    assert table.find(ConvShape((1, 1), 8, 8, (2, 2), (1, 1)), 4096) is None
    assert "never" in str(costs(cost(dense_us=5.0)))


def test_tables_are_merged() -> None:
    """A layer in both keeps its kinds of gates; those of the other are brought to its dense time."""
    other = cost(dense_us=200.0, gated_us={"1x1": {"0.0": 40.0, "1.0": 200.0}}, chained_us={"1x1": {"0.0": 60.0, "1.0": 240.0}})
    first, second = costs(cost(), cost("b", out_hw=(4, 4))), costs(other, cost("c", dilations=(2, 2)), commands=("more",))
    merged = first.merged(second)
    assert [(layer.name, layer.dense_us) for layer in merged.layers] == [("conv", 100.0), ("b", 100.0), ("c", 100.0)]
    both = merged.layers[0]
    assert both.gated_us == cost().gated_us | {"1x1": {"0.0": 20.0, "1.0": 100.0}}
    assert both.at("1x1", 0.0) == 30.0
    assert merged.commands == ("words", "more")
    for changes in ({"threads": 2}, {"batch": 8}, {"versions": {"lccl": "2"}}, {"machine": Machine("cpu", "x", "avx2")}):
        with pytest.raises(UserError, match=f"tables of other {next(iter(changes))} cannot be merged"):
            first.merged(costs(**changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine": Machine("cpu", "another", "avx512")}, "another.*: measure here: pass foreign"),
        ({"threads": 2}, "2 threads, not of 1: measure here: pass threads=2, or foreign"),
    ],
)
def test_a_table_of_elsewhere(tmp_path: Path, here: None, change: dict[str, Any], said: str) -> None:
    costs(**change).save(tmp_path / "c.json")
    with pytest.raises(UserError, match=f"{said}_costs=True to take them all the same"):
        load_costs(tmp_path / "c.json", threads=1)
    with pytest.warns(UserWarning, match=said.partition(":")[0]):
        assert load_costs(tmp_path / "c.json", threads=1, foreign=True).layers == (cost(),)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "machine": 3, "layers": []}', "\x00\xff"])
def test_what_is_no_table(tmp_path: Path, here: None, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match="is no table of costs of format 1: write one with lccl measure"):
        load_costs(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("macs", None),
        ("dense_us", "x"),
        ("dense_us", -1),
        ("chained_us", {"kxk": {}}),
        ("gated_us", {"kxk": {"2": 1.0}}),
        ("strides", [1]),
    ],
)
def test_a_table_with_a_broken_layer(tmp_path: Path, here: None, field: str, value: Any) -> None:
    costs().save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    del content["layers"][0][field]
    if value is not None:
        content["layers"][0][field] = value
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no table"):
        load_costs(tmp_path / "c.json")


# ---- models of one layer ---------------------------------------------------------------------------------------------

SHAPES = (
    LayerShape((3, 3), 4, 6, (9, 7), pads=(1, 1, 1, 1)),
    LayerShape((3, 3), 4, 6, (9, 8), strides=(2, 2), pads=(1, 1, 1, 1)),
    LayerShape((3, 3), 4, 4, (9, 9), pads=(2, 2, 2, 2), dilations=(2, 2)),
    LayerShape((1, 1), 4, 5, (6, 6)),
)


@pytest.mark.parametrize("in_chain", [False, True])
@pytest.mark.parametrize("kind", ["1x1", "kxk", "grid:2", "grid:4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gated_layer_is_open_where_its_mask_is(shape: LayerShape, kind: str, in_chain: bool) -> None:
    """So the density is the one that was asked, whatever the gate's own work."""
    model, feed = gated_model(shape, GateKind(kind), 0.5, 2, in_chain)
    with OnnxRuntimeRunner(model) as runner:
        (y,) = runner.infer(feed).values()
    assert y.shape == (2, shape.out_channels, *shape.out_hw)
    if not in_chain:
        grid = GateKind(kind).grid
        mask = feed["mask"].repeat(grid, 2).repeat(grid, 3)[:, :, : shape.out_hw[0], : shape.out_hw[1]]
        assert (y[np.broadcast_to(mask == 0, y.shape)] == 0).all()
        node = next(n for n in model.graph.node if n.op_type == "LCCLConv")
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        inputs = {"X": feed["x"], "gate": feed["mask"]} | stored
        from lccl.op.onnx_op import node_attributes

        np.testing.assert_allclose(y, lccl_conv(inputs, node_attributes(node)), rtol=1e-4, atol=1e-5)
    with OnnxRuntimeRunner(dense_model(shape, 2, in_chain)[0]) as runner:
        assert next(iter(runner.infer({"x": feed["x"]}).values())).shape == y.shape


def test_an_unpadded_convolution_has_the_gates_that_fit() -> None:
    shape = LayerShape((3, 3), 4, 4, (9, 9))
    assert [GateKind(kind).fits(shape) for kind in ("1x1", "kxk", "grid:2")] == [False, True, False]
    assert all(GateKind(kind).fits(SHAPES[0]) for kind in ("1x1", "kxk", "grid:2"))


def test_masks_have_their_density_in_a_few_areas() -> None:
    mask = areas((40, 40), 0.2, 0)
    assert mask.mean() == pytest.approx(0.2, abs=0.001)
    follows = (mask[:, :-1] * mask[:, 1:]).sum() / mask[:, :-1].sum()
    assert follows > 0.7
    assert areas((8, 8), 0.0, 0).sum() == 0
    assert areas((8, 8), 1.0, 0).all()


def test_the_layers_of_a_model() -> None:
    net = GatedNet()
    x = net.conv(net.input("x", ["batch", 3, 12, 12]), 3, 8, stride=2)
    x = net.gated(x, 8, 8, stride=2)
    net.conv(x, 8, 8, group=8)
    found = dict(layers_of(net.canonical()))
    assert [(s.kernel, s.in_channels, s.in_hw, s.strides, s.out_hw) for s in found.values()] == [
        ((3, 3), 3, (12, 12), (2, 2), (6, 6)),
        ((3, 3), 8, (6, 6), (2, 2), (3, 3)),
    ]
    assert [s.macs for s in found.values()] == [9 * 3 * 8 * 36, 9 * 8 * 8 * 9]
    assert all(dataclasses.asdict(s) for s in found.values())


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path, ort_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT, str(ort_library))
    onnx.save(residual_net(1).canonical(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_command(network: Path, tmp_path: Path, invoke: Invoke) -> None:
    words = [network, "-o", tmp_path / "c.json", "--max-seconds", "0"]
    done = invoke(MEASURE, *words, "--gate", "1x1", "--json")
    assert (done.code, done.err) == (0, "")
    table = load_costs(tmp_path / "c.json")
    assert json.loads(done.out) == json.loads(json.dumps(table.as_dict()))
    assert len(table.layers) == 3, "the stem, the two gated layers of one shape, the head"
    for layer in table.layers:
        assert layer.dense_us > 0
        assert list(layer.gated_us["1x1"]) == list(layer.chained_us["1x1"]) == [str(d) for d in DENSITIES]
    assert table.commands[0].startswith("lccl-measure ")
    again = invoke(MEASURE, *words, "--gate", "grid:2")
    assert again.code == 0
    assert "grid:2 pays below" in again.out
    merged = load_costs(tmp_path / "c.json")
    assert len(merged.commands) == 2
    assert all(list(layer.gated_us) == ["1x1", "grid:2"] for layer in merged.layers)
    other = invoke(MEASURE, *words, "--threads", "2")
    assert (other.code, "tables of other threads cannot be merged: 1 and 2" in other.err) == (1, True)
    listed = invoke(MEASURE, "--list", tmp_path / "c.json")
    assert (listed.code, listed.out) == (0, f"{merged}\n")


@pytest.mark.slow
def test_a_checkpoint(ort_library: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv(ENVIRONMENT, str(ort_library))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    torch.save(network, tmp_path / "net.pt")
    words = [tmp_path / "net.pt", "-o", tmp_path / "c.json", "--unsafe-pickle", "--max-seconds", "0", "--gate", "kxk"]
    assert "does not say its input's shape: pass --input-shape" in invoke(MEASURE, *words).err
    done = invoke(MEASURE, *words, "--input-shape", "1x3x10x12")
    assert (done.code, done.err) == (0, "")
    (layer,) = load_costs(tmp_path / "c.json").layers
    assert (layer.in_channels, layer.out_hw) == (3, (10, 12))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a network and --output, or --list with a table"),
        (["net.onnx"], "give a network and --output"),
        (["net.onnx", "--list", "c.json"], "leave out the network and --output"),
        (["--list", "nothing.json"], "no such file: nothing.json"),
        (["nothing.onnx", "-o", "c.json"], "no such file: nothing.onnx"),
        (["net.onnx", "-o", "c.json", "--gate", "2x2"], 'a kind of gate is "1x1", "kxk" or "grid:G"'),
        (["net.onnx", "-o", "c.json", "--gate", "grid:1"], "with G from 2 to 64, not grid:1"),
        (["net.onnx", "-o", "c.json", "--threads", "0"], "--threads is a number from 1 to 1024, not 0"),
        (["net.onnx", "-o", "nowhere/c.json"], "nowhere does not exist"),
    ],
)
def test_wrong_use(
    network: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(MEASURE, *words)
    assert done.code == 1
    assert said in done.err
    assert done.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_an_open_size_has_to_be_given(tmp_path: Path, invoke: Invoke, ort_library: Path) -> None:
    model = residual_net(1).canonical()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    onnx.save(model, tmp_path / "net.onnx")
    words = [tmp_path / "net.onnx", "-o", tmp_path / "c.json"]
    done = invoke(MEASURE, *words)
    assert (done.code, "pass --input-shape" in done.err) == (1, True)


# ---- in PyTorch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["1x1", "kxk", "grid:2"])
def test_pytorchs_forms_compute_the_layer(shape: LayerShape, kind: str) -> None:
    """Gated at density 1 it is the dense layer; at another, its open pixels, as many as were asked for."""
    import torch

    from lccl.nn.measuring import _Layer

    gate = GateKind(kind)
    layer = _Layer(shape, gate, 2, "cpu", torch.float32)
    layer._constants["W"] = layer._weight.permute(0, 2, 3, 1).contiguous()
    with torch.inference_mode():
        dense = layer.dense()
        assert tuple(dense.shape) == (2, shape.out_channels, *shape.out_hw)
        torch.testing.assert_close(layer.gated_of(1.0)(layer.x), dense, rtol=1e-4, atol=1e-5)
        half = layer.gated_of(0.5)(layer.x)
        opened = half.abs().sum(1) > 0
        torch.testing.assert_close(half, dense * opened[:, None], rtol=1e-4, atol=1e-5)
        assert 0.3 < float(opened.float().mean()) < 0.7
        assert layer.chained(layer.dense_of)().shape == dense.shape  # type: ignore[attr-defined]


def test_a_table_in_pytorch(here: None) -> None:
    """On the CPU, where nobody would use it: the numbers are of the right form."""
    import torch

    from lccl.nn.measuring import torch_timer

    shape = SHAPES[0]
    times = torch_timer("cpu", torch.float32, 1, 0.0)(shape, GateKind("1x1"))
    assert times.shape[0] == 3 + 2 * len(DENSITIES)
    assert (times > 0).all()


def test_a_table_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lccl.backends.gpus import Gpu

    table = costs(machine=Machine("cuda", "NVIDIA H200", "sm_90"))
    table.save(tmp_path / "c.json")
    monkeypatch.setattr("lccl.forms.costs.gpus", lambda: (Gpu("NVIDIA H200", "9.0"),))
    assert load_costs(tmp_path / "c.json") == table
    monkeypatch.setattr("lccl.forms.costs.gpus", lambda: (Gpu("NVIDIA L4", "8.9"),))
    with pytest.raises(UserError, match=r"costs of NVIDIA H200 \(sm_90\), and this is NVIDIA L4 \(sm_89\)"):
        load_costs(tmp_path / "c.json")
    monkeypatch.setattr("lccl.forms.costs.gpus", lambda: ())
    with pytest.raises(UserError, match=r"costs of NVIDIA H200 \(sm_90\), and there is no GPU here: measure here"):
        load_costs(tmp_path / "c.json")


def test_no_gpu_to_measure_on(network: Path, tmp_path: Path, invoke: Invoke) -> None:
    done = invoke("lccl.cli.measure", network, "-o", tmp_path / "c.json", "--device", "cuda")
    assert done.code == 1
    assert "has no GPU here to measure on: leave out --device cuda" in done.err
    assert not (tmp_path / "c.json").exists()
