"""Runners that take few samples at a time, or none of another number; engines without a GPU to run them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import lccl
from lccl.backends.batch_ranges import common_batches
from lccl.backends.batches import infer_all
from lccl.backends.interface import Batches
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.backends.tensorrt.runner import _VARIABLE, TensorRTRunner, _polygraphy_for
from lccl.comparing import LatencyPlan
from lccl.comparing.measure import all_outputs, latencies
from lccl.data import as_data
from lccl.graph.batch_axes import BatchAxes


class Doubling:
    """A runner that takes so many samples and tells how many it was given."""

    name, device, input_names, axes = "doubling", "none", ("x",), BatchAxes()

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.sizes: list[int] = []

    def infer(self, feed: Any) -> dict[str, Any]:
        assert len(feed["x"]) in self.batches
        self.sizes.append(len(feed["x"]))
        return {"y": 2 * feed["x"]}


@pytest.mark.parametrize(
    ("batches", "count", "sizes"),
    [
        (Batches(), 70, [64, 6]),
        (Batches(1, 8), 19, [8, 8, 3]),
        (Batches(4, 8), 17, [8, 8, 4]),
        (Batches(1, 1), 3, [1, 1, 1]),
        (Batches(5, 5), 12, [5, 5, 5]),
        (Batches(4, None), 2, [4]),
    ],
)
def test_all_samples_in_batches_that_fit(batches: Batches, count: int, sizes: list[int]) -> None:
    runner: Any = Doubling(batches)
    x = np.arange(count, dtype=np.float32)[:, None]
    (y,) = all_outputs(runner, as_data(x))
    np.testing.assert_array_equal(y, 2 * x)
    assert runner.sizes == sizes


def test_padding_needs_an_axis_of_samples() -> None:
    runner: Any = Doubling(Batches(4, 4))
    runner.infer = lambda feed: {"y": feed["x"].sum(axis=0)}
    with pytest.raises(lccl.UserError, match=r"takes 4 samples at a time, and output y of 4 has shape \[1\]"):
        infer_all(runner, {"x": np.ones((3, 1), np.float32)})


def test_one_number_for_all_samples_is_refused() -> None:
    runner: Any = Doubling(Batches())
    runner.infer = lambda feed: {"y": feed["x"].sum()}
    with pytest.raises(lccl.UserError, match="one number for all samples"):
        all_outputs(runner, as_data(np.ones((3, 1), np.float32)))


def test_latency_of_a_batch_that_does_not_fit() -> None:
    runners: Any = [Doubling(Batches(1, 8))]
    with pytest.raises(
        lccl.UserError,
        match=r"takes 1 to 8 samples at a time, not 16, .*: pass latency=lccl.LatencyPlan\(batch=1\), or latency=None to measure none$",
    ):
        latencies(runners, as_data(np.ones((20, 1), np.float32)), LatencyPlan(batch=16), lambda *a: None)


def test_inputs_that_take_different_numbers() -> None:
    assert common_batches([Batches(), Batches(2, 8), Batches(1, 4)]) == Batches(2, 4)
    with pytest.raises(lccl.UserError, match="different numbers of samples: 2, 3"):
        common_batches([Batches(2, 2), Batches(3, 3)])


@pytest.fixture(scope="module")
def fixed(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as an exporter with a fixed batch of 8 would have left it."""
    model = onnx.load(exported)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    path = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_a_fixed_batch_is_compared_and_profiled(exported: Path, fixed: Path, samples: Path) -> None:
    """20 samples: two whole batches and one that is filled up."""
    result = lccl.compare([exported, fixed], samples, latency=None, dense_twin=False)
    second = next(r for r in result.rows if r.network == fixed.name and r.runner == "onnxruntime")
    assert second.agreement == 1
    assert second.max_error < 1e-5
    alone = lccl.compare(fixed, samples, latency=None)
    assert alone.profile == result.profile
    assert alone.profile is not None
    assert alone.profile.images == 20


def test_a_fixed_batch_is_exported_with_any_number_of_inputs(fixed: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 1, 16, 16)).astype(np.float32)
    result = lccl.export(onnx.load(fixed), None, tmp_path / "m.onnx", data={"x": x}, decomposed=True)
    assert result.checked.samples == 8 + 20
    with OnnxRuntimeRunner(tmp_path / "m.onnx") as runner:
        assert runner.batches == Batches(8, 8)


# ---- engines, with fakes in the place of a GPU's libraries ----------------------------------------------------------


class FakeEngine:
    """What a runner asks of an engine.

    ``x`` has a dynamic batch, ``state`` the same at its second axis, the others fixed sizes.
    """

    num_io_tensors = 1

    def get_tensor_name(self, index: int) -> str:
        return ("y",)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shapes = {"x": (-1, 3, 8, 8), "state": (2, -1, 4), "table": (4, 1), "scalar": (), "x4": (4, 3, 8, 8), "y": (-1, 3)}
        return shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [{"x": (n, 3, 8, 8), "state": (2, n, 4)}[name] for n in (2, 4, 8)]


def engine_runner(tmp_path: Path, names: tuple[str, ...], infer: Any = None) -> TensorRTRunner:
    (tmp_path / "m.engine").write_bytes(b"engine")
    runner = TensorRTRunner(tmp_path / "m.engine", "tensorrt")
    runner._runner = SimpleNamespace(engine=FakeEngine(), get_input_metadata=lambda: dict.fromkeys(names), infer=infer)
    return runner


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("x",), Batches(2, 8)),
        (("x", "state", "scalar"), Batches(2, 8)),
        (("x", "table"), Batches(2, 8)),
        (("x4", "table", "scalar"), Batches(4, 4)),
    ],
)
def test_an_engine_tells_its_batches(tmp_path: Path, names: tuple[str, ...], expected: Batches) -> None:
    assert engine_runner(tmp_path, names).batches == expected


def test_an_engine_tells_where_its_samples_stand(tmp_path: Path) -> None:
    axes = engine_runner(tmp_path, ("x", "state", "table", "scalar")).axes
    assert axes == BatchAxes({"x": 0, "state": 1, "table": None, "scalar": None}, {"y": 0})


def test_an_engine_is_fed_what_its_profile_takes(tmp_path: Path) -> None:
    sizes: list[int] = []

    def infer(feed: dict[str, Any], check_inputs: bool, copy_outputs_to_host: bool) -> dict[str, Any]:
        sizes.append(len(feed["x"]))
        return {"y": feed["x"].mean(axis=(2, 3))}

    x = np.random.default_rng(0).standard_normal((17, 3, 8, 8)).astype(np.float32)
    (y,) = all_outputs(engine_runner(tmp_path, ("x",), infer), as_data(x))
    np.testing.assert_array_equal(y, x.mean(axis=(2, 3)))
    assert sizes == [8, 8, 2], "one sample was left, and the engine takes two"


def test_an_engine_that_fails_says_on_what(tmp_path: Path) -> None:
    def infer(*_: Any, **__: Any) -> None:
        raise RuntimeError("failed to set shape to (9, 3, 8, 8)\nand more")

    runner = engine_runner(tmp_path, ("x",), infer)
    with pytest.raises(lccl.UserError, match=r"m\.engine cannot run on inputs of shape x \[9, 3, 8, 8\]: failed to set shape"):
        runner.infer({"x": np.zeros((9, 3, 8, 8), np.float32)})


def test_without_the_meta_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy.config", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(lccl.UserError, match=r"takes the module tensorrt_rtx.*pip install"), _polygraphy_for("tensorrt-rtx"):
        pass


@pytest.mark.parametrize("before", [None, "1"])
def test_polygraphys_variable_is_put_back(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    import os

    monkeypatch.setitem(sys.modules, "polygraphy.config", None)
    monkeypatch.setitem(os.environ, _VARIABLE, before) if before else monkeypatch.delenv(_VARIABLE, raising=False)
    with _polygraphy_for("tensorrt"):
        assert os.environ[_VARIABLE] == "0"
    assert os.environ.get(_VARIABLE) == before


def test_one_process_has_one_kind_of_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polygraphy imports one of the two modules and keeps it."""
    monkeypatch.setitem(sys.modules, "polygraphy.config", SimpleNamespace(USE_TENSORRT_RTX=True))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "polygraphy.backend.trt", SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(lccl.UserError, match="cannot run in one process"), _polygraphy_for("tensorrt"):
        pass


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((2, 5, 8, 8), r"input x is \[2, 5, 8, 8\], but the model takes \[batch, 3, 8, 8\]"),
        ((2, 8), r"input x is \[2, 8\], but the model takes \[batch, 3, 8, 8\]"),
    ],
)
def test_inputs_of_another_shape_are_named(shape: tuple[int, ...], sentence: str) -> None:
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"])]
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", kind, ["batch", 3, 8, 8])], [value("y", kind, ["batch", 4, 6, 6])], [weight]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with OnnxRuntimeRunner(model) as runner, pytest.raises(lccl.UserError, match=sentence):
        runner.infer({"x": np.zeros(shape, np.float32)})
