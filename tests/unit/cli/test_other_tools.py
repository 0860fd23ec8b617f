"""Exported files that other tools have rewritten, through the commands and functions that read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.version_converter
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import lccl
from conftest import Outcome
from support.graphs.models import run

Invoke = Callable[..., Outcome]
Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]
GATED = 6


def prefixed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A part of a pipeline, as merge_models leaves it."""
    scale = helper.make_graph(
        [helper.make_node("Mul", ["raw", "factor"], ["scaled"])],
        "scale",
        [helper.make_tensor_value_info("raw", T.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("scaled", T.FLOAT, ["batch", 1, 16, 16])],
        [numpy_helper.from_array(np.array([2], np.float32), "factor")],
    )
    before = helper.make_model(scale, opset_imports=[helper.make_opsetid("", 18)], ir_version=model.ir_version)
    io_map = [("scaled", model.graph.input[0].name)]
    return onnx.compose.merge_models(before, model, io_map=io_map, prefix1="pre_", prefix2="net_")


def moved(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in (*model.graph.node, *model.functions):
        node.domain = "vendor" if node.domain == "lccl" else node.domain
    model.opset_import.append(helper.make_opsetid("vendor", 1))
    return model


def with_sizes(size: int) -> Rewrite:
    def change(model: onnx.ModelProto) -> onnx.ModelProto:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = size
        return model

    return change


def in_opset(opset: int) -> Rewrite:
    return lambda model: onnx.version_converter.convert_version(model, opset)


REWRITES: Mapping[str, Rewrite] = {
    "merged under a prefix": prefixed,
    "function in another domain": moved,
    "batch of -1": with_sizes(-1),
    "batch of 0": with_sizes(0),
    "opset 19": in_opset(19),
    "opset 22": in_opset(22),
}


@pytest.fixture(params=REWRITES)
def rewritten(request: pytest.FixtureRequest, exported: Path, tmp_path: Path) -> Path:
    onnx.save(REWRITES[request.param](onnx.load(exported)), tmp_path / "rewritten.onnx")
    return tmp_path / "rewritten.onnx"


@pytest.mark.slow
def test_export(rewritten: Path, exported: Path, invoke: Invoke) -> None:
    out = rewritten.with_name("again.onnx")
    outcome = invoke("lccl.cli.export", rewritten, "-o", out, "--json")
    assert outcome.code == 0, outcome
    layers = json.loads(outcome.out)["layers"]
    assert [layer["gate"] for layer in layers if layer["gated"]] == ["3x3"] * GATED
    again = onnx.load(out)
    onnx.checker.check_model(again, full_check=True)
    assert {o.domain: o.version for o in again.opset_import} == {"": 18, "lccl": 1}
    assert not again.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    x = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)
    scaled = x * 2 if again.graph.input[0].name == "pre_raw" else x
    np.testing.assert_allclose(
        run(again, {again.graph.input[0].name: x}), run(onnx.load(exported), {"x": scaled}), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", [(), ("--fp16",)])
def test_build_engine(rewritten: Path, invoke: Invoke, precision: Any) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    options = ("--backend", "tensorrt-rtx", "--compute-capability", "8.9", *precision, "--json")
    outcome = invoke("lccl.cli.build_engine", rewritten, *options)
    assert outcome.code == 0, outcome
    built = json.loads(outcome.out)
    assert [layer["path"] for layer in built["layers"]].count("inlined") == GATED
    assert [profile["max"] for profile in built["profiles"]] == [[8, 1, 16, 16]]


@pytest.mark.slow
def test_profile_and_compare(rewritten: Path, exported: Path, samples: Path, invoke: Invoke, ort_library: Path) -> None:
    with np.load(samples) as content:
        given, scaled = content["x"], content["x"] * 2
    expected = lccl.profile(exported, scaled if "pre_" in str(onnx.load(rewritten).graph.input[0].name) else given)
    found = lccl.profile(rewritten, given)
    assert [layer.density for layer in found.gated] == [layer.density for layer in expected.gated]
    options = ("--data", samples, "--runs", "0", "--json")
    outcome = invoke("lccl.cli.compare", rewritten, *options)
    assert outcome.code == 0, outcome
    ran = [(row["runner"], row["skipped"]) for row in json.loads(outcome.out)["rows"]]
    assert ran == [("onnxruntime", None), ("onnxruntime-lccl", None), ("onnxruntime", None)]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [16, 21])
def test_a_standard_file_of_such_sizes(opset: int, tmp_path: Path, invoke: Invoke) -> None:
    """Height and width of -1 have to be given, as other dynamic ones."""
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["y"], "conv", pads=[1, 1, 1, 1])],
        "dense",
        [helper.make_tensor_value_info("image", T.FLOAT, [-1, 3, -1, -1])],
        [helper.make_tensor_value_info("y", T.FLOAT, [-1, 4, -1, -1])],
        [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), tmp_path / "m.onnx")
    options = ("--backend", "tensorrt-rtx", "--compute-capability", "8.9", "--json")
    refused = invoke("lccl.cli.build_engine", tmp_path / "m.onnx", *options)
    assert refused.code == 1
    said = json.loads(refused.out)
    assert said["error"].startswith("input image is ?x3x?x?, and an engine needs to know its sizes")
    assert said["fix"]["value"] == {"image": [1, 3, 224, 224]}
    built = invoke("lccl.cli.build_engine", tmp_path / "m.onnx", *options, "--opt-shapes", "image:1x3x32x48")
    assert built.code == 0, built
    outcome = invoke("lccl.cli.export", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--json")
    assert outcome.code == 1
    assert "no gated convolution was found" in json.loads(outcome.out)["error"]
