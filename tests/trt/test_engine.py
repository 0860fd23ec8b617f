"""Networks with the plugin in TensorRT's own builder, 10.13 or newer. They need a GPU, full TensorRT and the plugin's library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lccl
from lccl.backends.interface import OptimizationProfile
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.backends.tensorrt.api import logger_of, make_config, parse, set_profiles
from lccl.backends.tensorrt.builder import import_tensorrt
from lccl.backends.tensorrt.runner import TensorRTRunner, gpu_missing
from lccl.graph.variants.stripped import stripped
from lccl.op.onnx_op import is_lccl_node

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Relative to the largest output."""


@pytest.fixture(scope="module")
def trt() -> Any:
    """TensorRT's module; skips where no engine can be built."""
    try:
        module = import_tensorrt()
    except lccl.UserError as error:
        pytest.skip(str(error))
    if why := gpu_missing():
        pytest.skip(why)
    return module


@pytest.fixture(scope="module")
def library(trt: Any, trt_plugin: Path) -> Path:
    return lccl.load_plugin(trt_plugin)


def outputs(runner: Any, feeds: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    with runner as active:
        return [next(iter(active.infer(feed).values())) for feed in feeds]


def feeds(*batches: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((n, 1, 16, 16)).astype(np.float32)} for n in batches]


def assert_agrees(engine: Path, model: Path, precision: str, *batches: int) -> None:
    given = feeds(*batches)
    for got, want in zip(
        outputs(TensorRTRunner(engine, "tensorrt"), given), outputs(OnnxRuntimeRunner(onnx.load(model)), given), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[precision] * float(np.abs(want).max()))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_agrees_with_onnx_runtime(exported: Path, library: Path, tmp_path: Path, precision: Any) -> None:
    """At the smallest, the best and the largest batch of its profile, and each layer by the plugin."""
    shapes = {f"{k}_shapes": {"x": (n, 1, 16, 16)} for k, n in (("min", 1), ("opt", 4), ("max", 9))}
    result = lccl.build_engine(
        exported, tmp_path / "m.engine", backend="tensorrt", plugin_library=library, precision=precision, **shapes
    )
    assert {layer.path for layer in result.layers if layer.op == "LCCLConv"} == {"plugin"}
    assert_agrees(result.path, exported, precision, 1, 4, 9)


def test_residuals_in_place(exported: Path, library: Path, tmp_path: Path) -> None:
    options = {"backend": "tensorrt", "plugin_library": library, "precision": "fp16", "alias_residual": True}
    result = lccl.build_engine(exported, tmp_path / "m.engine", **options)
    assert "plugin, residual in place" in {layer.path for layer in result.layers}
    assert_agrees(result.path, exported, "fp16", 1, 8)


def test_an_engine_runs_in_another_process(exported: Path, library: Path, samples: Path, tmp_path: Path) -> None:
    engine = lccl.build_engine(exported, tmp_path / "m.engine", backend="tensorrt", plugin_library=library).path
    command = [sys.executable, "-m", "lccl.cli.compare", str(exported), str(engine), "--data", str(samples), "--json"]
    done = subprocess.run(
        [*command, "--plugin-library", str(library), "--min-agreement", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (row,) = [r for r in json.loads(done.stdout)["rows"] if r["runner"] == "tensorrt"]
    assert row["max_error"] < 1e-3


def test_gates_are_real_after_a_build_by_density(exported: Path, library: Path, trt: Any, tmp_path: Path) -> None:
    """Tactics were timed with half of the cells open; closed gates must still be closed, in a file and in memory."""
    model = onnx.load(exported)
    for node in filter(is_lccl_node, model.graph.node):
        kept = [a for a in node.attribute if a.name not in ("density", "gate_threshold")]
        del node.attribute[:]
        node.attribute.extend(
            [*kept, onnx.helper.make_attribute("density", 0.5), onnx.helper.make_attribute("gate_threshold", 1e6)]
        )
    closed = tmp_path / "closed.onnx"
    onnx.save(model, closed)
    result = lccl.build_engine(closed, tmp_path / "m.engine", backend="tensorrt", plugin_library=library)
    assert_agrees(result.path, closed, "fp32", 1, 8)

    from polygraphy.backend.trt import TrtRunner

    logger = logger_of(trt, verbose=False)
    builder = trt.Builder(logger)
    config = make_config(trt, builder, None, tf32=False)
    network = parse(trt, builder, stripped(model), logger)
    set_profiles(builder, config, (OptimizationProfile("x", (1, 1, 16, 16), (1, 1, 16, 16), (8, 1, 16, 16)),))
    engine = builder.build_engine_with_config(network, config)  # never serialised
    given = feeds(2)
    with TrtRunner(engine) as runner:
        (got,) = runner.infer(given[0]).values()
    (want,) = outputs(OnnxRuntimeRunner(model), given)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * float(np.abs(want).max()))


def test_tactics_are_timed_by_density(exported: Path, library: Path, tmp_path: Path) -> None:
    """The same network with other densities is other work: it needs timings of its own, and finds its own again."""
    cache = tmp_path / "timing.cache"
    sizes = []
    for density in (0.05, 0.05, 0.95):
        model = onnx.load(exported)
        for node in filter(is_lccl_node, model.graph.node):
            kept = [a for a in node.attribute if a.name != "density"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("density", density)])
        onnx.save(model, tmp_path / "m.onnx")
        options = {"backend": "tensorrt", "plugin_library": library, "precision": "fp16", "timing_cache": cache}
        lccl.build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", **options)
        sizes.append(cache.stat().st_size)
    assert 0 < sizes[0] == sizes[1] < sizes[2]


POLYGRAPHY = "import lccl; lccl.load_plugin(); from polygraphy.tools import main; main()"
"""Polygraphy's --plugins opens a library and waits for it to register itself, which ours does not."""


def test_polygraphy_runs_it(exported: Path, library: Path, tmp_path: Path) -> None:
    """The lines of trt_plugin/README.md."""
    onnx.save(stripped(onnx.load(exported)), tmp_path / "plugin.onnx")
    saved = ["--save-inputs", "in.json", "--save-outputs", "out.json"]
    first = [str(Path(sys.executable).parent / "polygraphy"), "run", str(exported), "--onnxrt", *saved]
    second = [sys.executable, "-c", POLYGRAPHY, "run", "plugin.onnx", "--trt", "--strongly-typed"]
    second += ["--load-inputs", "in.json", "--load-outputs", "out.json", "--atol", "1e-3"]
    environment = {**os.environ, "LCCL_TRT_PLUGIN": str(library)}
    for command in (first, second):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
