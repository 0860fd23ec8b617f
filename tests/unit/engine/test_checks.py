"""What is held before an engine is built, and a build with TensorRT's module faked where it needs a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnx.inliner
import pytest
import torch

import lccl
import lccl.engine.build
from lccl.backends.interface import Built, OptimizationProfile
from lccl.backends.tensorrt.builder import TensorRT, import_tensorrt
from lccl.backends.tensorrt.library import ENVIRONMENT
from lccl.backends.tensorrt_rtx.builder import import_rtx
from lccl.engine import build_engine, choose_backend
from lccl.files import sha256
from lccl.graph.plugin_fields import ALIAS, TIME_BY_DENSITY, residuals_in_place
from lccl.op.onnx_op import is_lccl_node
from support.cases.op_cases import CASES
from support.graphs.models import case_model


def gated(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if is_lccl_node(n)]


class Recording:
    """A builder that keeps what it was asked for."""

    name = "tensorrt"

    def __init__(self, plugin: Path | None = None) -> None:
        self.plugin = plugin
        self.requests: list[Any] = []

    def unavailable(self) -> None:
        return None

    def build(self, request: Any, progress: Any) -> Built:
        self.requests.append(request)
        return Built(b"engine", "10.16", (), (), (), self.plugin)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Recording:
    recording = Recording()
    monkeypatch.setattr(lccl.engine.build, "choose_backend", lambda name: recording)
    return recording


def changed(model: onnx.ModelProto, name: str, value: float) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array((values + value).astype(values.dtype), name))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_given_file_is_what_the_engine_is_held_against(
    exported: Path, tmp_path: Path, builder: Recording, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    """A mistake in making it canonical is not on both sides."""
    assert build_engine(exported, tmp_path / "m.engine", precision=precision).precision == precision
    right = lccl.engine.build.canonical
    monkeypatch.setattr(lccl.engine.build, "canonical", lambda m: changed(right(m), "classifier.bias", 1.0))
    with pytest.raises(lccl.UserError, match="in standard ops differs"):
        build_engine(exported, tmp_path / "wrong.engine", precision=precision)
    assert len(builder.requests) == 1


def test_a_wrong_conversion_is_found(
    exported: Path, tmp_path: Path, builder: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = lccl.engine.build.to_precision
    monkeypatch.setattr(lccl.engine.build, "to_precision", lambda m, p: changed(right(m, p), "classifier.bias", 1.0))
    for path in (exported, exported.with_suffix(".dense.onnx")):
        with pytest.raises(lccl.UserError, match="in standard ops differs"):
            build_engine(path, tmp_path / "m.engine", precision="fp16")
    assert builder.requests == []


def test_a_bfloat16_output_of_another_type_is_found(
    exported: Path, tmp_path: Path, builder: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = lccl.engine.build.to_precision

    def wrong(model: onnx.ModelProto, precision: Any) -> onnx.ModelProto:
        out = right(model, precision)
        next(n for n in out.graph.node if out.graph.output[0].name in n.output).attribute[0].i = onnx.TensorProto.BFLOAT16
        return out

    monkeypatch.setattr(lccl.engine.build, "to_precision", wrong)
    with pytest.raises(lccl.UserError, match="is BFLOAT16 instead of FLOAT"):
        build_engine(exported, tmp_path / "m.engine", precision="bf16")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["binary", "threshold"])
def test_gates_that_jump_are_no_reason_to_refuse(tmp_path: Path, builder: Recording, name: str, precision: Any) -> None:
    """float16 rounds x, and some logit falls on the other side of the edge."""
    model, _ = case_model(next(c for c in CASES if c.name == name))
    onnx.save(model, tmp_path / "m.onnx")
    shapes = {"X": (2, 8, 64, 64)}
    build_engine(tmp_path / "m.onnx", precision=precision, min_shapes=shapes, max_shapes=shapes)
    assert len(builder.requests) == 1


@pytest.mark.slow
def test_the_check_runs_at_the_profiles_shape(
    small_model: torch.nn.Module, tmp_path: Path, builder: Recording, monkeypatch: Any
) -> None:
    """Its best sizes, but of few samples."""
    lccl.export(small_model, torch.zeros(1, 1, 16, 16), tmp_path / "m.onnx", dynamic_hw=True)
    fed: list[tuple[int, ...]] = []
    monkeypatch.setattr(lccl.engine.build, "check_view", lambda a, b, feeds: fed.extend(f["x"].shape for f in feeds))
    for least, best, most, expected in ((1, 8, 16, 2), (4, 8, 16, 4), (1, 1, 16, 1)):
        shapes = {f"{k}_shapes": {"x": (n, 1, 24, 40)} for k, n in (("min", least), ("opt", best), ("max", most))}
        build_engine(tmp_path / "m.onnx", **shapes)
        assert fed.pop() == (expected, 1, 24, 40)
    profile = OptimizationProfile("x", (1, 2), (9, 3), (9, 4))
    assert [lccl.engine.build._example(profile, axis) for axis in (0, 1, None)] == [(2, 3), (9, 2), (9, 3)]


def test_the_sidecar_names_the_plugin_and_no_folder(
    exported: Path, tmp_path: Path, builder: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.plugin = tmp_path / "libplugin.so"
    builder.plugin.write_bytes(b"a library")
    monkeypatch.setattr(sys, "argv", ["/home/someone/program", "--secret"])
    result = build_engine(exported, tmp_path / "m.engine")
    text = result.sidecar.read_text()
    content = json.loads(text)
    assert content["plugin"] == {"file": "libplugin.so", "sha256": sha256(builder.plugin)} == result.as_dict()["plugin"]
    assert content["command"] == "", "a library call knows of no command"
    assert str(tmp_path) not in text


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_a_builder_whose_libraries_do_not_load_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fails(name: str) -> None:
        raise error("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", fails)
    for load in (import_tensorrt, import_rtx):
        with pytest.raises(lccl.UserError, match="is not installed: pip install"):
            load()
    with pytest.raises(lccl.UserError, match="no engine builder is installed"):
        choose_backend(None)


# ---- TensorRT's own build, with the plugin, on a fake of its module -------------------------------------------------


class FakeTensorRT:
    """What a build with the plugin asks of the module: every call is noted, and the parser takes what it is told to."""

    __name__, __version__ = "tensorrt", "10.16.1"

    def __init__(self, taken: bool = True) -> None:
        self.taken = taken
        self.libraries: list[str] = []
        self.parsed: list[onnx.ModelProto] = []
        self.ranges: list[tuple[Any, ...]] = []
        self.ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0})
        self.IProgressMonitor = type("IProgressMonitor", (), {})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.LayerType = SimpleNamespace(PLUGIN_V3=1)
        self.BuilderFlag = SimpleNamespace(TF32=1)
        self.PreviewFeature = SimpleNamespace(ALIASED_PLUGIN_IO_10_03=7)
        self.features: list[tuple[int, bool]] = []
        self.aliases = True
        self.built: bytes | None = b"an engine"

    def get_plugin_registry(self) -> Any:
        return SimpleNamespace(
            load_library=lambda path: self.libraries.append(path) or "handle",
            get_creator=lambda name, version, namespace: self.libraries or None,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        def parse(content: bytes) -> bool:
            model = onnx.load_from_string(content)
            self.parsed.append(model)
            kinds = [int(is_lccl_node(n) and self.taken) for n in model.graph.node]
            network.num_layers = len(kinds)
            network.get_layer = lambda i: SimpleNamespace(type=kinds[i])
            return True

        return SimpleNamespace(parse=parse)

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        profile = SimpleNamespace(set_shape=lambda *shapes: self.ranges.append(shapes))
        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(),
            create_builder_config=lambda: SimpleNamespace(
                clear_flag=lambda flag: None,
                add_optimization_profile=lambda profile: 0,
                set_preview_feature=lambda feature, on: self.features.append((feature, on)),  # returns nothing, as TensorRT's
                get_preview_feature=lambda feature: self.aliases and (feature, True) in self.features,
            ),
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: self.built,
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    module = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", module)  # type: ignore[arg-type]
    monkeypatch.setattr("lccl.backends.tensorrt.api._loggers", {})
    monkeypatch.setattr("lccl.backends.tensorrt.library._loaded", {})
    return module


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libplugin.so"
    path.write_bytes(b"a library")
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_build_with_the_plugin(fake: FakeTensorRT, exported: Path, tmp_path: Path, library: Path, precision: Any) -> None:
    options = {"backend": "tensorrt", "plugin_library": library, "precision": precision}
    result = build_engine(exported, tmp_path / "m.engine", **options)
    assert fake.libraries == [str(library)]
    (model,) = fake.parsed
    assert not model.functions, "the parser takes a function before a plugin"
    assert sum(is_lccl_node(n) for n in model.graph.node) == 6
    assert fake.ranges == [("x", (1, 1, 16, 16), (1, 1, 16, 16), (8, 1, 16, 16))]
    assert {layer.path for layer in result.layers if layer.op == "LCCLConv"} == {"plugin"}
    assert result.path.read_bytes() == b"an engine"
    assert result.plugin is not None
    assert result.plugin.file == library.name


@pytest.mark.slow
def test_a_residual_is_written_over_only_where_that_is_asked_for(
    fake: FakeTensorRT, exported: Path, tmp_path: Path, library: Path
) -> None:
    """The small model has six gated layers; three of them add a residual, and the shortcut of the first is read twice."""
    for asked in (False, True):
        options = {"backend": "tensorrt", "plugin_library": library, "alias_residual": asked}
        result = build_engine(exported, tmp_path / "m.engine", **options)
        assert all(any(a.name == TIME_BY_DENSITY and a.i for a in n.attribute) for n in gated(fake.parsed[-1]))
        fields = {n.output[0]: a.i for n in fake.parsed[-1].graph.node for a in n.attribute if a.name == ALIAS}
        wanted = residuals_in_place(onnx.load(exported)) if asked else ()
        assert len(fields) == 6
        assert {name for name, value in fields.items() if value} == set(wanted)
        in_place = [layer for layer in result.layers if layer.path == "plugin, residual in place"]
        assert len(in_place) == len(wanted)
        assert fake.features == ([(7, True)] if asked else [])
    assert wanted
    for change in (lambda: setattr(fake, "aliases", False), lambda: delattr(fake, "PreviewFeature")):
        change()
        with pytest.raises(lccl.UserError, match=r"leave out alias_residual$"):
            build_engine(exported, tmp_path / "m.engine", **options)
    with pytest.raises(lccl.UserError, match="only layers that the plugin runs"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt", plugin=False, alias_residual=True)
    with pytest.raises(lccl.UserError, match="leave out alias_residual, or pass backend='tensorrt'"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt-rtx", alias_residual=True)


def test_the_plugins_own_words_come_before_tensorrts(
    fake: FakeTensorRT, exported: Path, tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["LCCLConv conv1: kernels are 1x1 to 7x7, not 8x8", "Error Code 4: could not find any implementation"]
    monkeypatch.setattr(lccl.backends.tensorrt.builder, "logger_of", lambda trt, verbose: SimpleNamespace(errors=said))
    monkeypatch.setattr(fake, "built", None)
    with pytest.raises(lccl.UserError, match="cannot build this engine: LCCLConv conv1: kernels are 1x1 to 7x7"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt", plugin_library=library)


def test_a_build_of_which_the_plugin_was_not_taken(fake: FakeTensorRT, exported: Path, tmp_path: Path, library: Path) -> None:
    fake.taken = False
    with pytest.raises(lccl.UserError, match="took the plugin for 0 of 6"):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt", plugin_library=library)
    assert list(tmp_path.iterdir()) == [library]


def test_a_model_whose_nodes_a_tool_replaced_is_no_dense_one(
    fake: FakeTensorRT, exported: Path, tmp_path: Path, library: Path
) -> None:
    """Nothing would skip, although the plugin is there. The decomposed file is meant to be so."""
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(exported)), tmp_path / "flat.onnx")
    options = {"backend": "tensorrt", "plugin_library": library}
    with pytest.raises(lccl.UserError, match=r"standard ops in their place, .*: pass plugin=False to build from them"):
        build_engine(tmp_path / "flat.onnx", tmp_path / "m.engine", **options)
    build_engine(tmp_path / "flat.onnx", tmp_path / "m.engine", backend="tensorrt", plugin=False)
    build_engine(exported.with_suffix(".decomposed.onnx"), tmp_path / "m.engine", **options)
    assert fake.libraries == []


def test_a_dense_model_needs_no_plugin(
    fake: FakeTensorRT, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a gated engine is held against builds on a machine without the plugin."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr("lccl.backends.tensorrt.library.PACKAGED", Path("not_installed.so"))
    result = build_engine(exported.with_suffix(".dense.onnx"), tmp_path / "m.engine", backend="tensorrt")
    assert (result.plugin, fake.libraries) == (None, [])
    with pytest.raises(
        lccl.UserError,
        match=r"is not installed \(build it with lccl-build-plugin, .*: pass plugin_library='PATH', or plugin=False to build",
    ):
        build_engine(exported, tmp_path / "m.engine", backend="tensorrt")
    assert TensorRT().unavailable() is None
