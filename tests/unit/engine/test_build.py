"""Engines built for real by TensorRT for RTX, and the parts of the other backend that need no GPU."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import lccl
from conftest import Outcome
from lccl.backends.interface import BuildRequest
from lccl.backends.profiles import make_profiles
from lccl.backends.tensorrt.api import make_config, parse, require_plugin_layers
from lccl.backends.tensorrt.builder import TensorRT
from lccl.engine import build_engine, read_sidecar
from lccl.files import sha256
from lccl.graph.variants.inlined import inlined
from lccl.nn import LCCLConv2d
from support.graphs.models import case_model

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: pip install 'lccl[rtx]'")
BUILD = "lccl.cli.build_engine"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_and_its_sidecar(exported: Path, tmp_path: Path, precision: Any) -> None:
    result = build_engine(
        exported, tmp_path / "m.engine", backend="tensorrt-rtx", precision=precision, compute_capabilities=["8.9"]
    )
    assert result.path.stat().st_size == result.bytes > 10_000
    sidecar = read_sidecar(result.path)
    assert sidecar["source"] == {"file": exported.name, "sha256": sha256(exported)}
    assert sidecar["backend"] == "tensorrt-rtx"
    assert sidecar["versions"] == {"lccl": lccl.__version__, "tensorrt-rtx": rtx.__version__}
    assert sidecar["precision"] == precision
    assert sidecar["compute_capabilities"] == ["8.9"]
    assert sidecar["profiles"] == [{"input": "x", "min": [1, 1, 16, 16], "opt": [1, 1, 16, 16], "max": [8, 1, 16, 16]}]
    paths = {layer["name"]: layer["path"] for layer in sidecar["layers"]}
    assert paths["stages.0.0.conv1"] == "inlined"
    assert paths["stem.0"] == "native"
    assert {p.name for p in tmp_path.iterdir()} == {"m.engine", "m.engine.json"}


@pytest.mark.slow
def test_precision_changes_the_engine(exported: Path, tmp_path: Path) -> None:
    sizes = {
        p: build_engine(exported, tmp_path / f"{p}.engine", backend="tensorrt-rtx", precision=p).bytes for p in ("fp32", "fp16")
    }
    assert sizes["fp32"] != sizes["fp16"]


@pytest.mark.slow
def test_strides_reach_the_network(tmp_path: Path) -> None:
    """The parser drops strides of a function's body in silence; the inlined view must not lose them."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(LCCLConv2d(3, 4, 3, stride=2, padding=1, dilation=1)).eval()
    lccl.export(model, torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx")
    logger = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(logger)
    network = parse(rtx, builder, inlined(onnx.load(tmp_path / "m.onnx")), logger)
    convolutions = [
        network.get_layer(i) for i in range(network.num_layers) if network.get_layer(i).type == rtx.LayerType.CONVOLUTION
    ]
    assert len(convolutions) == 2
    for layer in convolutions:
        layer.__class__ = rtx.IConvolutionLayer
        assert tuple(layer.stride_nd) == (2, 2)


@pytest.mark.slow
def test_every_form_of_the_op_builds(tmp_path: Path) -> None:
    from support.cases.op_cases import CASES

    wanted = (
        "everything",
        "grid-3-stride-2",
        "external",
        "grid-external",
        "both",
        "threshold",
        "binary",
        "dilated",
        "pads-uneven",
        "leaky",
    )
    for case in CASES:
        if case.name in wanted:
            model, _ = case_model(case, dynamic=False)
            onnx.save(model, tmp_path / "m.onnx")
            result = build_engine(tmp_path / "m.onnx", tmp_path / f"{case.name}.engine", backend="tensorrt-rtx")
            assert result.bytes > 1000
            assert result.profiles == ()
    assert len(list(tmp_path.glob("*.engine"))) == len(wanted)


@pytest.mark.slow
def test_command(invoke: Callable[..., Outcome], exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.engine"
    shapes = ("--min-shapes", "x:1x1x16x16", "--opt-shapes", "x:4x1x16x16", "--max-shapes", "x:16x1x16x16")
    outcome = invoke(
        BUILD, exported, "-o", target, "--backend", "tensorrt-rtx", "--fp16", "--workspace", "256", *shapes, "--json"
    )
    assert (outcome.code, outcome.err) == (0, ""), outcome
    result = json.loads(outcome.out)
    assert result["precision"] == "fp16"
    assert result["profiles"][0]["max"] == [16, 1, 16, 16]
    assert read_sidecar(target)["command"].startswith("lccl-build-engine ")


def test_a_dense_model_is_built_as_it_is(exported: Path, tmp_path: Path) -> None:
    """A dense engine is what a gated one is held against."""
    result = build_engine(exported.with_suffix(".dense.onnx"), tmp_path / "m.engine", backend="tensorrt-rtx")
    assert {layer.path for layer in result.layers} == {"native"}
    assert "LCCLConv layers: none" in str(result)


def test_a_wrong_view_is_never_built(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lccl.engine.build

    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        view = inlined(model)
        tensor = next(t for t in view.graph.initializer if t.name == "classifier.bias")
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
        return view

    monkeypatch.setattr(lccl.engine.build, "inlined", wrong)
    with pytest.raises(lccl.UserError, match="in standard ops differs"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt-rtx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_off_unless_asked_for(tf32: bool) -> None:
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    config = make_config(rtx, builder, None, tf32)
    assert config.get_flag(rtx.BuilderFlag.TF32) is tf32


@pytest.mark.slow
def test_turing_without_fp16_says_what_to_do(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(lccl.UserError, match=r"pass precision='fp16'$"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt-rtx", compute_capabilities=["7.5"])


@pytest.mark.slow
def test_verbose_shows_the_builders_messages(invoke: Callable[..., Outcome], exported: Path, tmp_path: Path) -> None:
    outcome = invoke(BUILD, exported, "-o", tmp_path / "m.engine", "--backend", "tensorrt-rtx", "-v")
    assert outcome.code == 0
    assert "[TensorRT for RTX]" in outcome.err


@pytest.mark.slow
def test_progress_comes_from_the_builder(exported: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int | None, int | None]] = []
    build_engine(
        exported, tmp_path / "m.engine", backend="tensorrt-rtx", progress=lambda s, d=None, t=None: seen.append((s, d, t))
    )
    steps = [(done, total) for _, done, total in seen if done is not None]
    assert len(steps) > 10
    assert all(total is None or 0 < done <= total for done, total in steps)


def test_ctrl_c_ends_a_build(exported: Path, tmp_path: Path) -> None:
    def progress(step: str, done: int | None = None, total: int | None = None) -> None:
        if done is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt-rtx", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_a_real_ctrl_c_cancels_the_builder(exported: Path, tmp_path: Path) -> None:
    """The signal comes while the builder's own code runs, where an exception must not be thrown."""
    sent = []

    def progress(step: str, done: int | None = None, total: int | None = None) -> None:
        if done is not None and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt-rtx", progress=progress)
    assert sent
    assert signal.getsignal(signal.SIGINT) is before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_dynamic_sizes_need_shapes(small_model: torch.nn.Module, tmp_path: Path) -> None:
    lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx", dynamic_hw=True)
    with pytest.raises(lccl.UserError, match=r"\?x1x\?x\?, .*: pass opt_shapes=\{'x': \(1, 1, 224, 224\)\}"):
        build_engine(tmp_path / "m.onnx", backend="tensorrt-rtx")
    shapes = {"min_shapes": {"x": (1, 1, 16, 16)}, "opt_shapes": {"x": (1, 1, 32, 32)}, "max_shapes": {"x": (2, 1, 64, 64)}}
    assert build_engine(tmp_path / "m.onnx", backend="tensorrt-rtx", **shapes).bytes > 10_000


def request_of(model: onnx.ModelProto, **shapes: Any) -> BuildRequest:
    given = {f"{k}_shapes": shapes.get(k, {}) for k in ("min", "opt", "max")}
    return BuildRequest(
        model,
        **given,
        workspace=None,
        timing_cache=None,
        compute_capabilities=(),
        plugin=True,
        plugin_library=None,
        alias_residual=False,
        tf32=False,
        verbose=False,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, 1, 8)),
        ({"opt": 4}, (1, 4, 8)),
        ({"min": 2, "max": 6}, (2, 6, 6)),
        ({"min": 16}, (16, 16, 16)),
        ({"max": 6}, (1, 6, 6)),
        ({"min": 1, "opt": 3, "max": 6}, (1, 3, 6)),
    ],
)
def test_profiles_complete_themselves(exported: Path, given: dict[str, int], expected: tuple[int, ...]) -> None:
    shapes = {k: {"x": (n, 1, 16, 16)} for k, n in given.items()}
    (profile,) = make_profiles(request_of(onnx.load(exported), **shapes))
    assert (profile.min[0], profile.opt[0], profile.max[0]) == expected


# ---- the tensorrt backend, with TensorRT for RTX in its place: same Python API, no plugins -------------------------


@pytest.fixture
def as_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setattr(rtx, "__version__", "10.16.1.11")


@pytest.mark.usefixtures("as_tensorrt")
def test_tensorrt_without_the_plugin_says_so(invoke: Callable[..., Outcome], exported: Path, tmp_path: Path) -> None:
    outcome = invoke(BUILD, exported, "-o", tmp_path / "m.engine", "--backend", "tensorrt")
    assert outcome.code == 1
    assert "plugin liblccl_trt_plugin.so is not installed" in outcome.err
    assert "--no-plugin" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("as_tensorrt")
def test_tensorrt_with_no_plugin_inlines(exported: Path, tmp_path: Path) -> None:
    result = build_engine(exported, tmp_path / "m.engine", backend="tensorrt", plugin=False)
    assert result.backend == "tensorrt"
    assert {layer.path for layer in result.layers if layer.op == "LCCLConv"} == {"inlined"}
    assert "inlined" in str(result)


@pytest.mark.slow
@pytest.mark.usefixtures("as_tensorrt")
def test_tensorrt_is_preferred_where_both_are(exported: Path, tmp_path: Path) -> None:
    assert build_engine(exported, tmp_path / "m.engine", plugin=False).backend == "tensorrt"


@pytest.mark.slow
@pytest.mark.usefixtures("as_tensorrt")
def test_tensorrt_has_no_targets(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(lccl.UserError, match="for the GPU present"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt", plugin=False, compute_capabilities=["8.9"])


def test_an_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch, exported: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setattr(rtx, "__version__", "10.3.0")
    with pytest.raises(lccl.UserError, match=r"needs 10\.13"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt", plugin=False)


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"backend": 1, "layers": [], "engine": {"sha256": "0"}}'])
def test_a_sidecar_that_is_not_the_engines(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.engine").write_bytes(b"engine")
    (tmp_path / "m.engine.json").write_text(content)
    with pytest.raises(lccl.UserError, match=r"build.* again"):
        read_sidecar(tmp_path / "m.engine")


class FakeConfig:
    """What the timing cache needs of a builder's configuration."""

    def __init__(self, accepts: bool = True) -> None:
        self.accepts, self.given = accepts, b""

    def create_timing_cache(self, content: bytes) -> FakeConfig:
        self.given = content
        return self

    def set_timing_cache(self, cache: FakeConfig, ignore_mismatch: bool) -> bool:
        return self.accepts

    def get_timing_cache(self) -> FakeConfig:
        return self

    def serialize(self) -> bytes:
        return self.given + b"+"


def test_the_timing_cache_is_read_and_updated(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    for expected in (b"+", b"++"):
        config = FakeConfig()
        cache = TensorRT._read_cache(config, path)
        TensorRT._write_cache(config, cache, path)
        assert path.read_bytes() == expected
    with pytest.raises(lccl.UserError, match="is not a timing cache"):
        TensorRT._read_cache(FakeConfig(accepts=False), path)


def test_the_plugin_has_to_be_taken_for_every_layer(exported: Path) -> None:
    kinds = rtx.LayerType

    def network(plugins: int) -> Any:
        layers = [SimpleNamespace(type=kinds.PLUGIN_V3)] * plugins + [SimpleNamespace(type=kinds.CONVOLUTION)] * 3
        return SimpleNamespace(num_layers=len(layers), get_layer=lambda i: layers[i])

    model = onnx.load(exported)
    require_plugin_layers(rtx, network(6), model)
    with pytest.raises(lccl.UserError, match="for 5 of 6"):
        require_plugin_layers(rtx, network(5), model)


def test_a_missing_sidecar_is_named(tmp_path: Path) -> None:
    with pytest.raises(lccl.UserError, match=r"m\.engine\.json is missing"):
        read_sidecar(tmp_path / "m.engine")
