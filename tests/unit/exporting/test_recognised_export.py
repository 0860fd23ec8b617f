"""Networks in code of their own through ``lccl.export`` and ``lccl-export``: gates are found, held against the source, explained."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Never

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import lccl
from conftest import Outcome
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.console.progress import silent
from lccl.errors import Fix, UserError
from lccl.exporting import export, gate_search, torch_source
from lccl.exporting.gate_search import NothingToGainError, NotSoundError, find_layers
from lccl.nn import LCCLConv2d
from lccl.op.onnx_op import is_lccl_node
from support.graphs.models import op_types, run
from support.graphs.net import Net
from support.graphs.recognised import GRAPHS

EXPORT = "lccl.cli.export"
Invoke = Callable[..., Outcome]


def named(form: str) -> onnx.ModelProto:
    return next(g for g in GRAPHS if g.form == form).model()


class Block(nn.Module):
    """A user's own residual block: two gates, written in two ways, and a branch that no gate is on."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.gate1 = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.ReLU(inplace=True))
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate2 = nn.Conv2d(channels, 1, 3, padding=1)
        self.shortcut = nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.norm1(self.conv1(x))) * self.gate1(x)
        gate = self.gate2(y).clamp(min=0)
        return torch.relu(self.conv2(y) * gate.expand_as(y) + self.shortcut(x))


class Attention(nn.Module):
    """A sigmoid that never closes a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.gate(x).sigmoid()


class Masked(nn.Module):
    """A mask from outside, and a layer of lccl's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.own = nn.Conv2d(3, 4, 3, padding=1), LCCLConv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.own(torch.relu(self.conv(x)) * mask)


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    model = Block()
    for _ in range(3):
        model(torch.randn(8, 3, 12, 12))
    return model.eval()


def nodes(path: Path) -> list[onnx.NodeProto]:
    return [n for n in onnx.load(path).graph.node if is_lccl_node(n)]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic_hw", [False, True])
def test_a_module_in_code_of_its_own(block: nn.Module, tmp_path: Path, dynamic_hw: bool) -> None:
    path = tmp_path / "m.onnx"
    result = lccl.export(block, torch.randn(1, 3, 12, 12), path, dynamic_hw=dynamic_hw, dense_twin=True, decomposed=True)
    assert [layer.name for layer in result.layers if layer.gated] == ["conv1", "conv2"]
    assert result.recognised[1].fused == ("Add", "Relu")
    assert result.checked.max_error < 1e-5
    assert result.checked_open is None
    assert result.recognised_open is not None
    assert result.recognised_open.max_error < 1e-5
    assert "2 layers recognised in standard ops, 2 following ops fused." in str(result)
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        np.testing.assert_allclose(run(onnx.load(path), {"x": x.numpy()}), block(x).numpy(), atol=1e-5)


@pytest.mark.slow
def test_without_fusion(block: nn.Module, tmp_path: Path) -> None:
    result = lccl.export(block, torch.randn(1, 3, 12, 12), tmp_path / "m.onnx", fuse=False)
    assert [layer.fused for layer in result.recognised] == [(), ()]
    assert op_types(onnx.load(tmp_path / "m.onnx"))[-2:] == ["Add", "Relu"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchscript", "traced", "pt2", "factory"])
def test_files_of_pytorch(invoke: Invoke, block: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    x, path = torch.randn(1, 3, 12, 12), tmp_path / "net.pt"
    options: list[object] = ["--unsafe-pickle", "--input-shape", "1x3x12x12"]
    if kind == "torchscript":
        torch.jit.script(block).save(str(path))
    elif kind == "traced":
        torch.jit.trace(block, x).save(str(path))
    elif kind == "pt2":
        torch.export.save(torch.export.export(block, (x,)), path := tmp_path / "net.pt2")
        options = ["--unsafe-pickle"]
    else:
        torch.save(block.state_dict(), path)
        monkeypatch.syspath_prepend(str(Path(__file__).parent))
        options = ["--factory", "test_recognised_export:Block", "--input-shape", "1x3x12x12"]
    outcome = invoke(EXPORT, path, "-o", tmp_path / "m.onnx", *options, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert len(result["recognised"]) == 2
    assert result["checked"]["max_error"] < 1e-5
    assert len(nodes(tmp_path / "m.onnx")) == 2


def test_a_file_that_can_run_code_is_not_opened(invoke: Invoke, block: nn.Module, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(block, (torch.randn(1, 3, 12, 12),)), tmp_path / "net.pt2")
    outcome = invoke(EXPORT, tmp_path / "net.pt2", "-o", tmp_path / "m.onnx")
    assert outcome.code == 1
    assert "a torch.export archive, which can run code from the file" in outcome.err
    assert "--unsafe-pickle" in outcome.err


def test_options_that_an_archive_has_in_it(invoke: Invoke, block: nn.Module, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(block, (torch.randn(1, 3, 12, 12),)), tmp_path / "net.pt2")
    outcome = invoke(EXPORT, tmp_path / "net.pt2", "-o", tmp_path / "m.onnx", "--unsafe-pickle", "--dynamic-hw")
    assert outcome.code == 1
    assert "--dynamic-hw goes with a checkpoint" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, (1, 3), None], ids=str)
def test_more_inputs_than_an_archive_takes_at_a_time(
    invoke: Invoke, block: nn.Module, tmp_path: Path, batch: int | tuple[int, int] | None
) -> None:
    """A batch that is fixed or bounded in the program is no limit of what it is checked on."""
    size = batch if isinstance(batch, int) else 2
    limits = dict(zip(("min", "max"), batch, strict=True)) if isinstance(batch, tuple) else {}
    shapes = None if isinstance(batch, int) else ({0: torch.export.Dim("batch", **limits)},)
    program = torch.export.export(block, (torch.randn(size, 3, 12, 12),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    inputs = np.random.default_rng(0).standard_normal((7, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", inputs=inputs)
    options = ["--unsafe-pickle", "--data", tmp_path / "inputs.npz", "--json"]
    outcome = invoke(EXPORT, tmp_path / "net.pt2", "-o", tmp_path / "m.onnx", *options)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["given_inputs"], len(result["recognised"])) == (7, 2)
    assert result["checked"]["samples"] == 7 + size


def test_near_misses_are_explained(invoke: Invoke, tmp_path: Path) -> None:
    onnx.save(named("branch read elsewhere"), tmp_path / "near.onnx")
    onnx.save(named("basic block, post-activation"), tmp_path / "net.onnx")
    outcome = invoke(EXPORT, tmp_path / "near.onnx", "-o", tmp_path / "m.onnx", "--explain")
    assert outcome.code == 1
    assert "is read elsewhere too (by Concat" in outcome.err
    assert "1 product that looks like one: the near misses say why not" in outcome.err
    assert not (tmp_path / "m.onnx").exists()
    outcome = invoke(EXPORT, tmp_path / "net.onnx", "-o", tmp_path / "m.onnx", "--explain")
    assert (outcome.code, outcome.err) == (0, "")
    assert "No product looks like a gated convolution without being one." in outcome.out


@pytest.mark.slow
def test_near_misses_beside_layers(tmp_path: Path) -> None:
    """A refusal is no error: the node stays, and the report has it."""
    torch.manual_seed(0)
    model = nn.Sequential(Attention(), LCCLConv2d(4, 4, 3, padding=1)).eval()
    result = lccl.export(model, torch.randn(1, 3, 8, 8), tmp_path / "m.onnx")
    assert [miss.reason for miss in result.near_misses] == [
        "its gate, Sigmoid node_sigmoid, is never 0, so no pixel can be skipped"
    ]
    assert "is never 0" in result.explain()
    assert result.as_dict()["near_misses"][0]["node"] == result.near_misses[0].node
    assert "Sigmoid" in op_types(onnx.load(tmp_path / "m.onnx"))


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_lower_precision(tmp_path: Path, form: str) -> None:
    """ONNX Runtime has no bfloat16 convolution on CPUs: such a file is checked in float32, with its own weights."""
    model = named(form)
    result = lccl.export(model, None, tmp_path / "m.onnx")
    assert len(result.recognised) == 1
    assert result.checked.relative_error < 5e-3
    written = onnx.load(tmp_path / "m.onnx")
    types = {t.name: t.data_type for t in written.graph.initializer}
    (node,) = nodes(tmp_path / "m.onnx")
    assert types[node.input[1]] == model.graph.initializer[0].data_type
    assert types[node.input[2]] == onnx.TensorProto.FLOAT


@pytest.mark.slow
def test_a_mask_from_outside(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = (torch.randn(1, 3, 8, 8), torch.rand(1, 1, 8, 8))
    result = lccl.export(Masked().eval(), args, tmp_path / "m.onnx")
    assert [layer.masks for layer in result.recognised] == [("mask",)]
    assert result.warning == "Values of mask below 0 are not allowed: it is a gate"
    assert f"Warning: {result.warning}." in str(result)
    negative = {"x": np.ones((2, 3, 8, 8), np.float32), "mask": -np.ones((2, 1, 8, 8), np.float32)}
    result = lccl.export(Masked().eval(), args, tmp_path / "m.onnx", data=negative)
    assert result.recognised == ()
    assert [miss.reason for miss in result.near_misses] == ["its gate, input mask, has values below 0 in the given inputs"]


@pytest.mark.slow
def test_own_layers_are_checked_beside_recognised_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong weight under a closed gate of lccl's own shows with that gate open only, whatever else was recognised."""
    torch.manual_seed(0)
    model, args = Masked().eval(), (torch.randn(1, 3, 8, 8), torch.rand(1, 1, 8, 8))
    nn.init.constant_(model.own.gate.norm.bias, -1e3)
    result = lccl.export(model, args, tmp_path / "m.onnx")
    assert len(result.recognised) == 1
    assert result.checked.max_error == 0
    assert result.checked_open is not None
    assert result.recognised_open is not None
    assert 0 < result.checked_open.max_error < 1e-5
    assert f"; with the gates of its own LCCL layers open: max error {result.checked_open.max_error:.1e}" in str(result)
    assert f", with all gates open: max error {result.recognised_open.max_error:.1e}" in str(result)
    real = torch_source.to_onnx

    def wrong(*given: Any, **options: Any) -> onnx.ModelProto:
        traced = real(*given, **options)
        weight = next(t for t in traced.graph.initializer if t.name == "own.W")
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 3, weight.name))
        return traced

    monkeypatch.setattr(torch_source, "to_onnx", wrong)
    with pytest.raises(UserError, match="differs from its source with its gates open"):
        lccl.export(model, args, tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("opened", [False, True], ids=["as built", "under a closed gate"])
def test_a_layer_that_changes_the_output_is_put_back(monkeypatch: pytest.MonkeyPatch, opened: bool) -> None:
    """The check, with a rewrite that breaks the second of two layers: its weights, or its weights where no input shows them."""
    model = named("basic block, post-activation")
    real = gate_search.recognise

    def broken(given: onnx.ModelProto, **options: Any) -> gate_search.Recognition:
        found = real(given, **options)
        for tensor in found.model.graph.initializer:
            if tensor.name == "node_conv9.W":
                values = onnx.numpy_helper.to_array(tensor).copy()
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * 1.01, tensor.name))
        return found

    if opened:
        close_gate(model, "node_conv11")
    monkeypatch.setattr(gate_search, "recognise", broken)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 16, 16)).astype(np.float32)}
    result = find_layers(model, [feed], None, True, silent)
    assert [layer.name for layer in result.layers] == ["node_conv2"]
    (miss,) = result.near_misses
    assert miss.node == "node_conv9"
    assert "put back: as a node it changes the network's output" in miss.reason
    assert result.checked


HARD: dict[str, Callable[[Net, str], str]] = {
    "greater": lambda net, z: net.op("Cast", net.op("Greater", z, net.const(0.3)), to=onnx.TensorProto.FLOAT),
    "less": lambda net, z: net.op("Where", net.op("Less", z, net.const(0.3)), net.const(1), net.const(0)),
    "affine": lambda net, z: net.op(
        "Cast", net.op("Less", net.const(0.3), net.op("Mul", z, net.const(-2))), to=onnx.TensorProto.FLOAT
    ),
    "sigmoid": lambda net, z: net.op(
        "Cast", net.op("Greater", net.op("Sigmoid", z), net.const(0.6)), to=onnx.TensorProto.FLOAT
    ),
    "zero first": lambda net, z: net.op("Where", net.op("LessOrEqual", z, net.const(0.3)), net.const(0), net.const(1)),
    "not": lambda net, z: net.op("Cast", net.op("Not", net.op("LessOrEqual", z, net.const(0.3))), to=onnx.TensorProto.FLOAT),
    "threshold": lambda net, z: net.op("Where", net.op("Greater", z, net.const(0.3)), z, net.const(0)),
}
"""A map to multiply onto the branch, from the gate's logit."""
CHOICES: dict[str, Callable[[Net, str, str], str]] = {
    "choice": lambda net, u, z: net.op("Where", net.op("Greater", z, net.const(0.3)), u, net.const(0)),
    "masked_fill": lambda net, u, z: net.op(
        "Where", net.op("Not", net.op("Greater", z, net.const(0.3))), net.op("Expand", net.const(0), net.op("Shape", u)), u
    ),
}
"""The branch or 0."""


def hard_gate(form: str, batch: int | str = "N") -> onnx.ModelProto:
    net = Net()
    x = net.input("x", [batch, 5, 16, 16])
    u, z = net.conv(x, 5, 4), net.conv(x, 5, 1)
    net.output(CHOICES[form](net, u, z) if form in CHOICES else net.op("Mul", u, HARD[form](net, z)))
    return net.model()


@pytest.mark.slow
@pytest.mark.parametrize("form", [*HARD, *CHOICES])
@pytest.mark.parametrize("factor", [1.0, 1.006])
def test_hard_gates_are_compared_at_their_edge(monkeypatch: pytest.MonkeyPatch, form: str, factor: float) -> None:
    """A logit that is a little off flips few pixels or none: it shows without the jump; or none may flip."""
    real = gate_search.recognise

    def scaled(given: onnx.ModelProto, **options: Any) -> gate_search.Recognition:
        found = real(given, **options)
        for node in filter(is_lccl_node, found.model.graph.node):
            tensor = next(t for t in found.model.graph.initializer if t.name == node.input[3])
            values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return found

    monkeypatch.setattr(gate_search, "recognise", scaled)
    feed = {"x": np.random.default_rng(0).standard_normal((5, 5, 16, 16)).astype(np.float32)}
    if factor == 1:
        result = find_layers(hard_gate(form), [feed], None, True, silent)
        assert len(result.layers) == 1
        assert result.checked
        assert result.checked_open
        return
    with pytest.raises(NothingToGainError) as raised:
        find_layers(hard_gate(form), [feed], None, True, silent)
    assert "put back: as a node it changes" in raised.value.near_misses[0].reason


@pytest.mark.parametrize("let", ["mask", "sigmoid"])
def test_a_hard_gate_lets_another_map_through(tmp_path: Path, let: str) -> None:
    """An input is no constant of a Where, and what is let through need not be what decides."""
    net = Net()
    x = net.input("x", ["N", 5, 16, 16])
    z = net.conv(x, 5, 1)
    kept = net.input("mask", ["N", 1, 16, 16]) if let == "mask" else net.op("Sigmoid", z)
    net.output(net.op("Mul", net.conv(x, 5, 4), net.op("Where", net.op("Greater", z, net.const(0.3)), kept, net.const(0))))
    assert len(export(net.model(), None, tmp_path / "m.onnx").recognised) == 1


def test_a_network_that_is_not_finite_is_the_callers_to_mend() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 16, 16])
    y = net.op("Mul", net.conv(x, 5, 4), net.op("Relu", net.conv(x, 5, 1, shift=0.3)))
    net.output(net.op("Div", y, net.op("Mul", y, net.const(0.0))))
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 16, 16)).astype(np.float32)}
    with pytest.raises(NotSoundError, match="holds NaN or infinity"):
        find_layers(net.model(), [feed], None, True, silent)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([16, 16], "it cannot run: pass threads=1"),
        (
            ["h", 16],
            "it cannot run; if the network takes other input sizes, give an example of them: "
            "pass args=torch.zeros(N, 5, H, 16), or threads=1",
        ),
    ],
)
def test_a_network_that_does_not_run_keeps_the_fix_of_the_error(
    monkeypatch: pytest.MonkeyPatch, sizes: list[str | int], said: str
) -> None:
    """Sizes of the inputs are a fix where they are dynamic, and not those that just failed."""

    def refuse(*_: object, **__: object) -> Never:
        raise UserError("it cannot run", Fix("threads", 1))

    monkeypatch.setattr(gate_search, "_outputs", refuse)
    net = Net()
    x = net.input("x", ["N", 5, *sizes])
    net.output(net.op("Mul", net.conv(x, 5, 4), net.op("Relu", net.conv(x, 5, 1, shift=0.3))))
    with pytest.raises(NotSoundError) as caught:
        find_layers(net.model(), [{"x": np.zeros((2, 5, 16, 16), np.float32)}], None, True, silent)
    assert str(caught.value) == said


def test_a_network_of_random_numbers_is_the_callers_to_mend() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 16, 16])
    dense = net.conv(x, 5, 5)
    dense = net.op("Add", dense, net.op("RandomNormalLike", dense))
    noise = net.op("RandomNormalLike", net.conv(dense, 5, 1))
    net.output(net.op("Mul", net.conv(dense, 5, 4), net.op("Relu", net.op("Add", net.conv(dense, 5, 1), noise))))
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 16, 16)).astype(np.float32)}
    with pytest.raises(NotSoundError, match="different outputs each time"):
        find_layers(net.model(), [feed], None, True, silent)


def test_the_model_to_export_is_not_overwritten(invoke: Invoke, tmp_path: Path) -> None:
    onnx.save(named("basic block, post-activation"), tmp_path / "m.dense.onnx")
    before = (tmp_path / "m.dense.onnx").read_bytes()
    for options in (("-o", tmp_path / "m.dense.onnx"), ("-o", tmp_path / "m.onnx", "--dense-twin")):
        outcome = invoke(EXPORT, tmp_path / "m.dense.onnx", *options)
        assert outcome.code == 1
        assert "m.dense.onnx is the model to export, which would be overwritten: choose another name" in outcome.err
    assert [f.name for f in tmp_path.iterdir()] == ["m.dense.onnx"]
    assert (tmp_path / "m.dense.onnx").read_bytes() == before


def test_the_weights_of_the_model_to_export_are_not_overwritten(tmp_path: Path) -> None:
    onnx.save(
        named("basic block, post-activation"), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    for options in ({"path": tmp_path / "w"}, {"path": tmp_path / "o.onnx", "dense": tmp_path / "w"}):
        with pytest.raises(UserError, match="w is the model to export, which would be overwritten"):
            export(tmp_path / "m.onnx", None, **options)


def test_inputs_for_a_file_of_a_fixed_batch(invoke: Invoke, tmp_path: Path) -> None:
    onnx.save(hard_gate("greater", batch=2), tmp_path / "two.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((4, 5, 16, 16)).astype(np.float32))
    outcome = invoke(EXPORT, tmp_path / "two.onnx", "-o", tmp_path / "m.onnx", "--data", tmp_path / "x.npz", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["given_inputs"] == 4


@pytest.mark.slow
def test_given_masks_have_their_own_type(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint says nothing of its inputs' types; given ones do."""
    (tmp_path / "masked_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)\n"
        "    def forward(self, x, mask):\n        return self.conv(x).relu() * mask.float()\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save({f"conv.{k}": v for k, v in nn.Conv2d(3, 8, 3).state_dict().items()}, "w.pt")
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((4, 3, 16, 16)).astype(np.float32), rng.integers(0, 2, (4, 1, 16, 16)).astype(np.uint8)
    np.savez("in.npz", x=x, mask=mask)
    outcome = invoke(EXPORT, "w.pt", "--factory", "masked_net:Net", "--data", "in.npz", "-o", "m.onnx", "--json")
    assert outcome.code == 0, outcome.err
    (layer,) = json.loads(outcome.out)["recognised"]
    assert layer["masks"] == []
    assert onnx.load("m.onnx").graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.slow
def test_exports_in_threads_leave_the_process_as_it_was(tmp_path: Path) -> None:
    """Where libraries are held quiet, one thread at a time does it."""
    net = Net()
    x = net.input("x", ["N", 5, 16, 16])
    gate = net.op("Expand", net.op("Relu", net.conv(x, 5, 1)), net.op("Shape", net.conv(x, 5, 4)))
    net.output(net.op("Mul", net.conv(x, 5, 4), gate))
    model, out, disabled = net.model(), sys.stdout, logging.root.manager.disable
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: export(model, None, tmp_path / f"{i}.onnx"), range(6)))
    assert all(len(r.recognised) == 1 for r in results)
    assert sys.stdout is out
    assert logging.root.manager.disable == disabled


def test_a_constant_of_lower_precision_does_not_loosen_the_check() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 8, 8])
    net.output(net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 1))))
    half = onnx.TensorProto.FLOAT16
    net.output(net.op("Mul", net.op("Cast", x, to=half), net.const([2.0], np.float16)), half)
    model = net.model()
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    result = find_layers(model, [feed], None, False, silent)
    assert result.checked is not None
    assert result.checked.tolerance == gate_search.TOLERANCE


def test_a_mask_of_an_unsigned_type_is_half_open_in_the_check(tmp_path: Path) -> None:
    net = Net()
    x, mask = net.input("x", ["N", 3, 8, 8]), net.input("mask", ["N", 1, 8, 8], onnx.TensorProto.UINT8)
    net.op("Mul", net.conv(x, 3, 4), net.op("Cast", mask, to=onnx.TensorProto.FLOAT))
    result = lccl.export(net.model(), None, tmp_path / "m.onnx")
    assert len(result.recognised) == 1
    assert result.closed_layers == ()


def test_layers_that_cannot_be_run_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of recognition's costs the layers, not the export."""
    model = named("beside an LCCLConv node")
    real = gate_search.recognise

    def broken(given: onnx.ModelProto, **options: Any) -> gate_search.Recognition:
        found = real(given, **options)
        for layer in found.layers:
            next(n for n in found.model.graph.node if n.name == layer.name).input[0] = "nothing"
        return found

    monkeypatch.setattr(gate_search, "recognise", broken)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 16, 16)).astype(np.float32)}
    result = find_layers(model, [feed], None, True, silent)
    assert (result.model, result.layers) == (model, ())
    assert "put back: the graph with it cannot be run" in result.near_misses[0].reason


@pytest.mark.slow
def test_only_the_layer_that_cannot_be_run_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = named("basic block, post-activation")
    real = gate_search.recognise

    def broken(given: onnx.ModelProto, **options: Any) -> gate_search.Recognition:
        found = real(given, **options)
        for node in found.model.graph.node:
            if node.name == "node_conv9" and node.op_type == "LCCLConv":
                node.input[0] = "nothing"
        return found

    monkeypatch.setattr(gate_search, "recognise", broken)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 16, 16)).astype(np.float32)}
    result = find_layers(model, [feed], None, True, silent)
    assert [layer.name for layer in result.layers] == ["node_conv2"]
    assert [miss.node for miss in result.near_misses] == ["node_conv9"]


def test_a_network_that_does_not_run_is_the_callers_to_mend() -> None:
    model = named("dynamic batch, height and width")
    with pytest.raises(UserError, match=r"an example of them: pass args=torch\.zeros\(N, 5, H, W\)$"):
        find_layers(model, [{"x": np.zeros((1, 5, 1), np.float32)}], None, True, silent)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["opset 11", "opset 13", "opset 21", "weights listed as inputs", "bool input"])
def test_other_files(tmp_path: Path, form: str) -> None:
    result = lccl.export(named(form), None, tmp_path / "m.onnx", dense_twin=True, decomposed=True)
    assert result.checked.max_error < 1e-5
    assert result.recognised_open is not None
    assert {o.domain: o.version for o in onnx.load(tmp_path / "m.onnx").opset_import} == {"": 18, "lccl": 1}


def branches(net: Net, given: str) -> str:
    """An If whose branches read a tensor of the outer graph."""
    condition = net.input("condition", [], onnx.TensorProto.BOOL)

    def branch(kind: str) -> onnx.GraphProto:
        out = onnx.helper.make_tensor_value_info(kind, onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([onnx.helper.make_node(kind, [given], [kind])], kind, [], [out])

    return net.op("If", condition, then_branch=branch("Relu"), else_branch=branch("Neg"))


def repeats(net: Net, given: str) -> str:
    """A Loop that adds a tensor of the outer graph to what it carries."""
    trips, go = net.input("trips", [], onnx.TensorProto.INT64), net.const(True, np.bool_)
    kinds = {"i": onnx.TensorProto.INT64, "go_in": onnx.TensorProto.BOOL, "sum": onnx.TensorProto.FLOAT}
    shapes = {"sum": ["N", 4, "H", "W"]}
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["go_in"], ["go_out"]), onnx.helper.make_node("Add", ["sum", given], ["next"])],
        "body",
        [onnx.helper.make_tensor_value_info(name, kind, shapes.get(name, [])) for name, kind in kinds.items()],
        [
            onnx.helper.make_tensor_value_info("go_out", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, shapes["sum"]),
        ],
    )
    return net.op("Loop", trips, go, given, body=body)


@pytest.mark.slow
@pytest.mark.parametrize("flow", [branches, repeats], ids=["If", "Loop"])
def test_a_layer_beside_control_flow(tmp_path: Path, flow: Callable[[Net, str], str]) -> None:
    net = Net()
    x = net.input("x", ["N", 3, 8, 8])
    given = net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 1, 1)))
    net.output(given)
    out = flow(net, given)
    net.outputs.append(onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, ["N", 4, 8, 8]))
    model = net.model()
    result = lccl.export(model, None, tmp_path / "m.onnx", dense_twin=True, decomposed=True, tensorrt=True)
    assert len(result.recognised) == 1
    feeds: list[dict[str, Any]] = [{"condition": np.array(True)}, {"condition": np.array(False)}]
    for feed in feeds if flow is branches else [{"trips": np.array(3)}]:
        feed["x"] = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
        expected = outputs(model, feed)
        assert np.abs(expected[1]).max() > 0
        for name in ("m", "m.decomposed"):
            for got, wanted in zip(outputs(onnx.load(tmp_path / f"{name}.onnx"), feed), expected, strict=True):
                np.testing.assert_allclose(got, wanted, atol=1e-5)


def outputs(model: onnx.ModelProto, feed: dict[str, Any]) -> list[Any]:
    with OnnxRuntimeRunner(model) as runner:
        return list(runner.infer(feed).values())


def close_gate(model: onnx.ModelProto, name: str) -> None:
    """A bias with which the gate of that name is 0 everywhere."""
    node = next(n for n in model.graph.node if n.name == name)
    bias = next(t for t in model.graph.initializer if t.name == node.input[2])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(1, -1e3, np.float32), bias.name))


def test_nothing_to_gain_says_what_was_near() -> None:
    with pytest.raises(NothingToGainError, match="nothing to gain") as raised:
        find_layers(named("sigmoid gate"), [], None, True, silent)
    assert len(raised.value.near_misses) == 1
