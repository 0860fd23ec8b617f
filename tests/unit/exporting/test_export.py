"""Exports as the library does them: files, names, dynamic axes, checks, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import lccl
from lccl.exporting.torch_reference import CHECK_BATCH
from lccl.graph.variants.dense import dense_twin
from lccl.graph.variants.open_gates import with_open_gates
from lccl.graph.variants.relaxed import has_hard_gates, with_relaxed_gates
from lccl.nn import LCCLConv2d
from lccl.nn.translate import to_onnx
from lccl.op.contract import ATTRIBUTES, INPUT_NAMES
from lccl.op.onnx_op import is_lccl_node, node_attributes
from support.cases.op_cases import CASES
from support.graphs.models import case_model, op_types, run


def trained(model: nn.Module, *args: torch.Tensor) -> nn.Module:
    """The model with running statistics that are not the initial ones, in eval mode."""
    torch.manual_seed(1)
    model.train()
    for _ in range(3):
        model(*args)
    return model.eval()


class TwoInputs(nn.Module):
    """An external mask, a grid gate, a grouped convolution, a residual, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LCCLConv2d(3, 8, 3, padding=1, gate="external")
        self.second = LCCLConv2d(8, 8, 3, padding=1, gate="grid", gate_size=4, activation=None, post_activation="relu")
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.released = LCCLConv2d(8, 6, 3, padding=1, gate="1x1", order="released")

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.first(image, gate=mask)
        y = self.second(x, residual=x)
        return {"features": self.released(self.grouped(y)), "y": y}


@pytest.fixture(scope="module")
def two_inputs() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    args = (torch.randn(2, 3, 13, 18), torch.rand(2, 1, 13, 18).sub(0.5).relu())
    return trained(TwoInputs(), *args), args


def test_the_checkpoint_of_a_file(exported: Path, small_model: nn.Module) -> None:
    """What the issue of a user's CI would look at."""
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    gated = [n for n in model.graph.node if is_lccl_node(n)]
    assert [n.name for n in gated] == [f"stages.{i}.0.conv{j}" for i in range(3) for j in (1, 2)]
    assert all({a.name for a in n.attribute} == {s.name for s in ATTRIBUTES} for n in gated)
    assert "BatchNormalization" not in op_types(model)
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "lccl": 1}
    assert model.ir_version == 10
    assert [(f.domain, f.name) for f in model.functions] == [("lccl", "LCCLConv")]
    assert (model.producer_name, model.producer_version) == ("lccl", lccl.__version__)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 1, 16, 16]
    weight = next(t for t in model.graph.initializer if t.name == "stages.1.0.conv1.W")
    assert list(weight.dims) == [8, 3, 3, 4], "KRSC"
    x = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(run(model, {"x": x.numpy()}), small_model(x).numpy(), atol=1e-5)


def test_no_trace_of_this_machine_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    for word in (str(Path.home()), str(Path(lccl.__file__).parents[2]), "stack_trace", "site-packages"):
        assert word.encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_every_output_has_the_batch(tmp_path: Path, batch: int) -> None:
    """Where halves of a map are taken apart and joined, torch takes a batch of 1 for a fixed one."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.layer, self.last = nn.Conv2d(3, 8, 3), lccl.nn.LCCLConv2d(4, 4, 3, padding=1), nn.Conv2d(12, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = list(self.conv(x).relu().chunk(2, 1))
            parts.append(self.layer(parts[-1]))
            return self.last(nn.functional.interpolate(torch.cat(parts, 1), scale_factor=2))

    lccl.export(Halves().eval(), torch.randn(batch, 3, 16, 16), tmp_path / "m.onnx")
    (output,) = onnx.load(str(tmp_path / "m.onnx")).graph.output
    assert output.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["whole network", "beside halves"])
def test_a_branch_on_the_batch_is_refused(tmp_path: Path, branch: str) -> None:
    """Whatever batch it was traced with: of the other it would give something else."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.layer = nn.Conv2d(3, 8, 3), lccl.nn.LCCLConv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = list(self.conv(x).relu().chunk(2, 1))
            parts.append(self.layer(parts[-1]))
            y = (
                torch.cat(parts, 1)
                if branch == "whole network"
                else nn.functional.interpolate(torch.cat(parts, 1), scale_factor=2)
            )
            return y if x.shape[0] == 1 else y * 2

    with pytest.raises(lccl.UserError, match=r"differs from its source|cannot export"):
        lccl.export(Branch().eval(), torch.randn(1, 3, 16, 16), tmp_path / "m.onnx")


def test_a_shape_is_no_example(small_model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(
        lccl.UserError, match=r"an example input is a tensor, not its shape: pass args=torch.zeros\(1, 1, 16, 16\)"
    ):
        lccl.export(small_model, (1, 1, 16, 16), tmp_path / "m.onnx")


def test_twins_are_standard_onnx(exported: Path, small_model: nn.Module) -> None:
    x = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)
    for suffix in (".dense.onnx", ".decomposed.onnx"):
        twin = onnx.load(exported.with_suffix(suffix))
        onnx.checker.check_model(twin, full_check=True)
        assert not twin.functions
        assert {n.domain for n in twin.graph.node} == {""}
        assert {o.domain for o in twin.opset_import} == {""}
        assert {p.key: p.value for p in twin.metadata_props}["lccl.twin"] == suffix.split(".")[1]
    decomposed = onnx.load(exported.with_suffix(".decomposed.onnx"))
    np.testing.assert_allclose(run(decomposed, {"x": x}), run(onnx.load(exported), {"x": x}), atol=1e-6)


@pytest.mark.slow
def test_several_inputs_outputs_and_forms(two_inputs: Any, tmp_path: Path) -> None:
    model, args = two_inputs
    names = {"input_names": ["image", "mask"], "output_names": ["features", "second"]}
    result = lccl.export(model, args, tmp_path / "m.onnx", dense_twin=tmp_path / "baseline.onnx", decomposed=True, **names)
    assert result.checked.max_error < 1e-5
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "baseline.onnx", "m.decomposed.onnx"}
    layers = {layer.name: layer for layer in result.layers}
    assert {n: layer.gate for n, layer in layers.items()} == {
        "first": "external",
        "second": "4x4 per 4x4 block",
        "grouped": "",
        "released": "1x1",
    }
    assert "grouped" in layers["grouped"].reason
    proto = onnx.load(result.path)
    assert [i.name for i in proto.graph.input] == ["image", "mask"]
    assert [o.name for o in proto.graph.output] == ["features", "second"]
    assert "3 of 4 convolutions are gated" in str(result)


@pytest.mark.slow
def test_dynamic_height_and_width(two_inputs: Any, tmp_path: Path) -> None:
    model, args = two_inputs
    result = lccl.export(model, args, tmp_path / "m.onnx", dynamic_hw=True)
    proto = onnx.load(result.path)
    dims = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    image, mask = torch.randn(3, 3, 21, 9), torch.rand(3, 1, 21, 9)
    with torch.no_grad():
        expected = model(image, mask)["features"].numpy()
    np.testing.assert_allclose(run(proto, {"image": image.numpy(), "mask": mask.numpy()}), expected, atol=1e-5)


class MaskOfAQuarter(nn.Module):
    """An image and a mask of a quarter of its size: only sizes in that ratio fit."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LCCLConv2d(3, 4, 3, padding=1, gate="external", gate_size=4)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layer(image, gate=mask)


@pytest.mark.slow
def test_dynamic_sizes_of_inputs_keep_their_ratio(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = (torch.randn(2, 3, 16, 12), torch.rand(2, 1, 4, 3))
    result = lccl.export(MaskOfAQuarter().eval(), args, tmp_path / "m.onnx", dynamic_hw=True)
    dims = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load(result.path).graph.input]
    assert dims == [["batch", 3, "height", "width"], ["batch", 1, "height_1", "width_1"]]
    assert result.checked.samples == 2 * CHECK_BATCH
    with pytest.raises(lccl.UserError, match="cannot run"):
        lccl.export(onnx.load(result.path), None, tmp_path / "again.onnx")
    again = lccl.export(onnx.load(result.path), args, tmp_path / "again.onnx", dense_twin=True)
    assert again.checked.samples == 2
    for wrong, message in ((args[:1], "2 inputs"), ((args[1], args[0]), r"input image is \[2, 1, 4, 3\]")):
        with pytest.raises(lccl.UserError, match=message):
            lccl.export(onnx.load(result.path), wrong, tmp_path / "wrong.onnx")


@pytest.mark.slow
def test_the_checks_batch_is_never_the_examples(small_model: nn.Module, tmp_path: Path) -> None:
    for batch in (1, CHECK_BATCH):
        result = lccl.export(small_model, torch.zeros(batch, 1, 16, 16), tmp_path / "m.onnx")
        assert result.checked.samples != batch


@pytest.mark.slow
def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """Both sides overflow alike, which is no agreement."""
    layer = LCCLConv2d(3, 4, 3, padding=1, norm=False)
    nn.init.constant_(layer.conv.weight, 3e38)
    with pytest.raises(lccl.UserError, match="holds NaN or infinity"):
        lccl.export(nn.Sequential(layer).eval(), torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_real_inputs_calibrate_the_density(small_model: nn.Module, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((16, 1, 16, 16)).astype(np.float32)
    example = torch.zeros(1, 1, 16, 16)
    plain = lccl.export(small_model, example, tmp_path / "plain.onnx")
    calibrated = lccl.export(small_model, example, tmp_path / "calibrated.onnx", data={"x": x})
    measured = {layer.name: layer.density for layer in lccl.profile(small_model, [x]).gated}

    def densities(path: Path) -> dict[str, float]:
        return {n.name: node_attributes(n).density for n in onnx.load(path).graph.node if is_lccl_node(n)}

    assert set(densities(plain.path).values()) == {-1.0}
    assert densities(calibrated.path) == pytest.approx(measured, abs=1e-3)
    assert calibrated.checked.samples == 3 + 16


@pytest.mark.slow
def test_the_models_training_mode_is_kept(small_model: nn.Module, tmp_path: Path) -> None:
    small_model.train()
    try:
        lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx")
        assert small_model.training
    finally:
        small_model.eval()


@pytest.mark.slow
def test_half_precision(two_inputs: Any, tmp_path: Path) -> None:
    import copy

    model, _ = two_inputs
    half = nn.Sequential(copy.deepcopy(model.released).half()).eval()
    result = lccl.export(half, torch.randn(2, 8, 9, 9).half(), tmp_path / "m.onnx")
    assert result.checked.tolerance == 2e-2
    types = {t.name: t.data_type for t in onnx.load(result.path).graph.initializer}
    assert types["0.W"] == onnx.TensorProto.FLOAT16
    assert types["0.B"] == types["0.gate_B"] == types["0.post_scale"] == onnx.TensorProto.FLOAT


def test_an_onnx_model_as_the_source(exported: Path, tmp_path: Path) -> None:
    result = lccl.export(onnx.load(exported), None, tmp_path / "again.onnx", dense_twin=True)
    assert result.checked.max_error < 1e-6
    again, first = onnx.load(result.path), onnx.load(exported)
    assert again.graph.SerializeToString() == first.graph.SerializeToString()


@pytest.mark.slow
def test_weights_under_closed_gates_of_an_onnx_source_are_checked(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lccl.exporting import exporter as module

    model = onnx.load(exported)
    closed = [t for t in model.graph.initializer if t.name.endswith("gate_B")]
    for tensor in closed:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(1, -1000, np.float32), tensor.name))
    assert closed
    assert lccl.export(model, None, tmp_path / "m.onnx").checked.max_error < 1e-6
    right = module.canonical

    def wrong(given: onnx.ModelProto) -> onnx.ModelProto:
        out = right(given)
        tensor = next(t for t in out.graph.initializer if t.name == "stages.0.0.conv1.W")
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
        return out

    monkeypatch.setattr(module, "canonical", wrong)
    with pytest.raises(lccl.UserError, match="with its gates open"):
        lccl.export(model, None, tmp_path / "wrong.onnx")


@pytest.mark.parametrize("case", ["everything", "grid-2", "external", "both", "binary", "threshold"])
def test_open_gates_are_what_the_dense_twin_computes(case: str) -> None:
    model, feed = case_model(next(c for c in CASES if c.name == case))
    expected = run(dense_twin(model), feed)
    np.testing.assert_allclose(run(with_open_gates(model), feed), expected, atol=1e-5)
    assert np.abs(expected - run(model, feed)).max() > 1e-2


@pytest.mark.slow
def test_hard_gates_are_known(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 9, 9)
    for options, hard in (({}, False), ({"gate_activation": "binary"}, True), ({"gate_threshold": 0.2}, True)):
        model = trained(nn.Sequential(LCCLConv2d(3, 4, 3, padding=1, **options)), x)
        result = lccl.export(model, x, tmp_path / "m.onnx")
        assert result.checked.hard_gates is hard
        assert has_hard_gates(onnx.load(result.path)) is hard


@pytest.mark.slow
def test_a_deep_network_with_hard_gates_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates without a bound would multiply what the next gates read, and twelve layers overflow; a lower bound would leave nothing."""
    from lccl.exporting import checking

    torch.manual_seed(0)
    layers = [LCCLConv2d(4, 4, 3, padding=1, gate_norm=False, norm=False, gate_activation="binary") for _ in range(12)]
    with torch.no_grad():
        for layer in layers:
            assert layer.gate is not None
            layer.gate.conv.weight.mul_(4)
            layer.conv.weight.mul_(3)
    model = nn.Sequential(*layers).eval()
    x = torch.randn(2, 4, 9, 9)
    assert lccl.export(model, x, tmp_path / "m.onnx").checked.hard_gates

    def wrong(exported: onnx.ModelProto) -> onnx.ModelProto:
        relaxed = with_relaxed_gates(exported)
        last = [node for node in relaxed.graph.node if is_lccl_node(node)][-1]
        tensor = next(t for t in relaxed.graph.initializer if t.name == last.input[INPUT_NAMES.index("gate_W")])
        tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
        return relaxed

    monkeypatch.setattr(checking, "with_relaxed_gates", wrong)
    with pytest.raises(lccl.UserError, match=r"differs from its source with its gates relaxed"):
        lccl.export(model, x, tmp_path / "n.onnx")


@pytest.mark.slow
def test_a_wrong_export_is_never_written(small_model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check has teeth: weights changed after tracing are found."""
    from lccl.exporting import torch_source

    def wrong(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        model = to_onnx(*args, **kwargs)
        tensor = next(t for t in model.graph.initializer if t.name == "stages.0.0.conv1.gate_B")
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(0.5), tensor.name))
        return model

    monkeypatch.setattr(torch_source, "to_onnx", wrong)
    with pytest.raises(lccl.UserError, match=r"differs from its source .* nothing was written"):
        lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def tampered(monkeypatch: pytest.MonkeyPatch, name: str, change: Any) -> None:
    """Every trace comes back with one stored tensor changed."""
    from lccl.exporting import torch_source

    def wrong(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        model = to_onnx(*args, **kwargs)
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), tensor.name))
        return model

    monkeypatch.setattr(torch_source, "to_onnx", wrong)


@pytest.mark.slow
def test_weights_under_closed_gates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every gate is closed no input shows the weights: with the gates open they do."""
    torch.manual_seed(0)
    layer = LCCLConv2d(3, 4, 3, padding=1, gate_norm=False)
    nn.init.constant_(layer.gate.conv.bias, -1000.0)
    x = torch.randn(2, 3, 9, 9)
    model = trained(nn.Sequential(layer), x)
    result = lccl.export(model, x, tmp_path / "m.onnx")
    assert result.checked.max_error == 0
    assert result.checked_open is not None
    assert 0 < result.checked_open.max_error < 1e-5
    assert f"with all gates open: max error {result.checked_open.max_error:.1e}" in str(result)
    tampered(monkeypatch, "0.W", lambda w: w + np.float32(1))
    with pytest.raises(lccl.UserError, match="with its gates open"):
        lccl.export(model, x, tmp_path / "wrong.onnx")
    assert not (tmp_path / "wrong.onnx").exists()


@pytest.mark.slow
def test_hard_gates_are_checked_without_their_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minority of samples may differ at an edge; a gate that is off a little is found with soft gates."""
    torch.manual_seed(0)
    x = torch.randn(8, 3, 9, 9)
    model = trained(nn.Sequential(LCCLConv2d(3, 4, 3, padding=1, gate_threshold=1e-6)), x)
    lccl.export(model, x, tmp_path / "m.onnx")
    tampered(monkeypatch, "0.gate_B", lambda b: b + np.float32(1e-2))
    with pytest.raises(lccl.UserError, match="differs from its source"):
        lccl.export(model, x, tmp_path / "wrong.onnx")


@pytest.mark.slow
def test_a_wrong_fold_is_found(small_model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is the unfolded network: a mistake in folding is not on both sides."""
    from lccl.nn import folding

    right = folding.fold_norm
    monkeypatch.setattr(folding, "fold_norm", lambda norm, k, like: (right(norm, k, like)[0] * 1.01, right(norm, k, like)[1]))
    with pytest.raises(lccl.UserError, match="differs from its source"):
        lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx")


def test_twins_may_not_take_the_models_name(small_model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(lccl.UserError, match="different names"):
        lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx", dense_twin=tmp_path / "m.onnx")


@pytest.mark.slow
def test_the_same_tensor_as_two_inputs(two_inputs: Any, tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LCCLConv2d(1, 1, 3, padding=1, gate="external")

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.layer(a, gate=b.relu())

    x = torch.randn(2, 1, 6, 6)
    lccl.export(Both().eval(), (x, x), tmp_path / "m.onnx")
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == ["a", "b"]


class NotAModule:
    def eval(self) -> NotAModule:
        return self


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LCCLConv2d(1, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (lambda: nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4), "no LCCL layer"),
        (lambda: LCCLConv2d(1, 4, 3, padding=1), None, "needs an example input"),
        (lambda: NotAModule(), torch.zeros(1, 1, 4, 4), "not a NotAModule"),
        (lambda: LCCLConv2d(1, 4, 3, padding=1), torch.zeros(1, 2, 4, 4), "X has 2 channels"),
        (
            lambda: LCCLConv2d(1, 4, 3, padding=1).bfloat16(),
            torch.zeros(1, 1, 4, 4).bfloat16(),
            r"float32, and choose bf16 as the precision when you build the engine, with lccl build-engine or lccl\.build_engine$",
        ),
        (Untraceable, torch.ones(1, 1, 4, 4), "torch.onnx cannot export .*; remove the branch on data, or export"),
    ],
)
def test_refusals(make: Any, args: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(lccl.UserError, match=message):
        lccl.export(make().eval(), args, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


class FixedSize(nn.Module):
    """Fixes height and width by its last layer, or by an addition, which torch.onnx itself finds."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.layer, self.last = LCCLConv2d(1, 2, 3, padding=1), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(x))


class Position(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 2, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.position


@pytest.mark.slow
@pytest.mark.parametrize("last", [nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), Position()], ids=["linear", "position"])
def test_a_network_that_fixes_height_and_width(last: nn.Module, tmp_path: Path) -> None:
    model, x = FixedSize(last).eval(), torch.ones(1, 1, 8, 8)
    with pytest.raises(lccl.UserError, match="; the network fixes its input's height and width: leave out dynamic_hw"):
        lccl.export(model, x, tmp_path / "m.onnx", dynamic_hw=True)
    assert lccl.export(model, x, tmp_path / "m.onnx")


def half_closed() -> nn.Module:
    """The gate of its second layer is open only on inputs that random ones never are."""
    torch.manual_seed(0)
    layers = [LCCLConv2d(1, 1, 3, padding=1, gate="1x1", gate_norm=False, norm=False, activation=None) for _ in range(2)]
    for layer, weight, bias in zip(layers, (1.0, 2.0), (1000.0, -1e6), strict=True):
        nn.init.constant_(layer.conv.weight, weight)
        nn.init.constant_(layer.gate.conv.weight, weight)
        nn.init.constant_(layer.gate.conv.bias, bias)
    return nn.Sequential(*layers).eval()


@pytest.mark.slow
def test_a_layer_that_no_input_opens_is_told(tmp_path: Path) -> None:
    """Its output is 0 whatever its weights, so that the error of 0 proves nothing."""
    model, x = half_closed(), torch.zeros(1, 1, 8, 8)
    result = lccl.export(model, x, tmp_path / "m.onnx")
    assert result.closed_layers == ("1",)
    assert "\nWarning: no gate of layer 1 opened on these random inputs; check it on real data.\n" in str(result)
    assert result.as_dict()["warning"] == result.warning
    still = lccl.export(model, x, tmp_path / "m.onnx", data={"input": np.zeros((1, 1, 8, 8), np.float32)})
    assert still.warning == "no gate of layer 1 opened on these inputs, which include the given ones"
    opened = lccl.export(model, x, tmp_path / "m.onnx", data={"input": np.full((2, 1, 8, 8), 1e4, np.float32)})
    assert opened.warning is opened.as_dict()["warning"] is None
    assert "over 2 given and 3 random inputs" in str(opened)
