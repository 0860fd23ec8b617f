"""Networks with inputs that are no batch: a state whose batch is its second axis, a rate, a table for all samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lccl
from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.data import as_data, read_data
from lccl.engine.build import build_engine

BUILD, COMPARE, EXPORT = "lccl.cli.build_engine", "lccl.cli.compare", "lccl.cli.export"
SAMPLES = 70
"""More than one part of the data."""


def with_states(model: onnx.ModelProto, batch: int | str) -> onnx.ModelProto:
    """The network times a rate, plus the mean of each sample's state and of a table; it gives the state times 2."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph, value, node = out.graph, helper.make_tensor_value_info, helper.make_node
    (logits,) = (o.name for o in graph.output)
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph.node.extend(
        [
            node("Mul", [logits, "rate"], ["scaled"]),
            node("ReduceMean", ["state", "state_axes"], ["state_mean"], keepdims=0),
            node("Unsqueeze", ["state_mean", "second_axis"], ["state_column"]),
            node("ReduceMean", ["table"], ["table_mean"], keepdims=0),
            node("Sum", ["scaled", "state_column", "table_mean"], ["y"]),
            node("Add", ["state", "state"], ["new_state"]),
        ]
    )
    for name, axes in (("state_axes", [0, 2]), ("second_axis", [1])):
        graph.initializer.append(numpy_helper.from_array(np.array(axes), name))
    float_type = TensorProto.FLOAT
    del graph.input[:], graph.output[:]
    graph.input.extend([value("state", float_type, [2, batch, 4]), value("x", float_type, [batch, 1, 16, 16])])
    graph.input.extend([value("rate", float_type, []), value("table", float_type, [5, 3])])
    graph.output.extend([value("y", float_type, [batch, classes]), value("new_state", float_type, [2, batch, 4])])
    return out


@pytest.fixture(scope="module")
def model(exported: Path) -> onnx.ModelProto:
    return with_states(onnx.load(exported), "batch")


@pytest.fixture(scope="module")
def file(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states") / "states.onnx"
    onnx.save(model, path)
    return path


def feed_of(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {
        "rate": (),
        "table": (5, 3),
        "state": (2, count, 4),
        "x": (count, 1, 16, 16),
    }  # the same rate and table for any count
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states") / "data.npz"
    np.savez(path, labels=np.zeros(SAMPLES, int), **feed_of(SAMPLES))
    return path


def test_a_fixed_batch_is_run_in_parts(exported: Path, model: onnx.ModelProto) -> None:
    """Where only sizes are known, a state [2, 1, 4] is the same for all samples."""
    feed = feed_of(3)
    feed["state"] = feed["state"][:, :1]
    with OnnxRuntimeRunner(model) as free, OnnxRuntimeRunner(with_states(onnx.load(exported), 1)) as fixed:
        parts = [free.infer({**feed, "x": feed["x"][i : i + 1]}) for i in range(3)]
        got = infer_all(fixed, feed)
    np.testing.assert_allclose(got["y"], np.concatenate([part["y"] for part in parts]), rtol=1e-5, atol=1e-5)


def test_it_is_exported_with_real_states(invoke: Callable[..., Any], file: Path, data: Path, tmp_path: Path) -> None:
    outcome = invoke(EXPORT, file, "-o", tmp_path / "m.onnx", "--data", data, "--decomposed")
    assert outcome.code == 0, outcome.err
    assert f"over {SAMPLES} given and 1 random input" in outcome.out


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("state", (2, 69, 4), "need the same number of samples, at least one, not [69, 70]"),
        ("table", (70, 3), "input table is [70, 3], but the model takes [5, 3]"),
        ("rate", (70,), "input rate is [70], but the model takes []"),
    ],
)
def test_inputs_that_do_not_go_together(
    model: onnx.ModelProto, tmp_path: Path, name: str, shape: tuple[int, ...], said: str
) -> None:
    feed = {**feed_of(SAMPLES), name: np.ones(shape, np.float32)}
    with pytest.raises(lccl.UserError) as error:
        lccl.export(model, None, tmp_path / "m.onnx", data=feed)
    assert said in error.value.message


@pytest.mark.slow
def test_it_is_compared_and_profiled(invoke: Callable[..., Any], file: Path, data: Path) -> None:
    result = lccl.compare([file, file], data, latency=lccl.LatencyPlan(batch=3, warmup=1, runs=2))
    assert result.profile is not None
    assert result.profile.images == SAMPLES
    assert [row.max_error for row in result.rows if row.max_error is not None] == pytest.approx([0, 0, 0], abs=1e-4)
    assert lccl.profile(file, data).images == SAMPLES
    assert invoke(COMPARE, file, "--data", data, "--runs", "0").code == 0


def test_data_knows_its_axes(data: Path) -> None:
    axes = {"x": 0, "state": 1, "rate": None, "table": None}
    found = read_data(data, axes)
    assert len(found) == SAMPLES
    part = found.feed(("state", "x", "rate"), 3, 5)
    assert {name: values.shape for name, values in part.items()} == {"state": (2, 2, 4), "x": (2, 1, 16, 16), "rate": ()}
    batches = as_data([feed_of(2), feed_of(3)], axes)
    assert (len(batches), batches.inputs["state"].shape, batches.inputs["table"].shape) == (5, (2, 5, 4), (5, 3))
    with pytest.raises(lccl.UserError, match="differ in length"):
        as_data({**feed_of(4), "state": np.ones((2, 3, 4))}, axes)
    with pytest.raises(lccl.UserError, match="the data holds no sample"):
        as_data({"rate": np.ones(())}, {"rate": None})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shapes", "largest"),
    [({}, 8), ({"max_shapes": {"x": (16, 1, 16, 16)}}, 16), ({"max_shapes": {"state": (2, 4, 4)}}, 4)],
)
def test_engines_of_it_build(file: Path, tmp_path: Path, shapes: dict[str, Any], largest: int) -> None:
    """One input's batch is that of the others."""
    result = build_engine(file, tmp_path / "m.engine", backend="tensorrt-rtx", compute_capabilities=["8.9"], **shapes)
    assert {p.input: (p.min, p.max) for p in result.profiles} == {
        "state": ((2, 1, 4), (2, largest, 4)),
        "x": ((1, 1, 16, 16), (largest, 1, 16, 16)),
    }


def test_the_command_builds_an_engine_of_it(invoke: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    shapes = ("--min-shapes", "state:2x1x4", "--opt-shapes", "state:2x2x4", "--max-shapes", "state:2x3x4")
    options = ("--backend", "tensorrt-rtx", "--compute-capability", "8.9")
    outcome = invoke(BUILD, file, "-o", tmp_path / "m.engine", *options, *shapes)
    assert outcome.code == 0, outcome.err
    outcome = invoke(BUILD, file, "-o", tmp_path / "m.engine", *options, "--min-shapes", "rate:1")
    assert (outcome.code, "shape 1 does not fit input rate, which is a single number" in outcome.err) == (1, True)


def test_labels_have_any_shape(tmp_path: Path) -> None:
    """Such as boxes; two batches of inputs are none."""
    images, boxes = np.ones((3, 1, 8, 8), np.float32), np.zeros((3, 5, 4), int)
    for value in ((images, boxes), ({"x": images}, np.zeros((3, 1, 8, 8)))):
        found = as_data(value)
        assert found.labels is not None
        assert (len(found), found.labels.shape) == (3, np.shape(value[1]))
    batches = as_data([images, images[:2]])
    assert (len(batches), batches.labels) == (5, None)
