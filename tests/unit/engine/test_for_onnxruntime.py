"""The build for ONNX Runtime: the file, its side-car, the report, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lccl
import lccl.ort
from conftest import Outcome
from lccl.backends.onnxruntime.library import ENVIRONMENT
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.engine import build_engine, read_sidecar
from lccl.errors import Fix, leave_out
from lccl.files import sha256
from lccl.forms import choosing
from lccl.graph.variants.dense import dense_twin
from support.graphs.gated_net import residual_net

BUILD = "lccl.cli.build_engine"
Invoke = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def library(ort_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT, str(ort_library))
    monkeypatch.setattr(choosing, "FINAL_ROUNDS", 8)
    return ort_library


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gated model, its dense twin, and data."""
    path = tmp_path_factory.mktemp("forms")
    model = residual_net(1).canonical()
    onnx.save(model, path / "net.onnx")
    onnx.save(dense_twin(model), path / "dense.onnx")
    np.savez(path / "data.npz", x=np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def built(folder: Path, ort_library: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(ort_library))
        return build_engine(folder / "net.onnx", backend="onnxruntime", data=folder / "data.npz", command=["the", "words"])


def test_the_file_computes_the_same_with_and_without_the_library(built: Any, folder: Path, library: Path) -> None:
    assert built.path == folder / "net.fast.onnx"
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    with OnnxRuntimeRunner(folder / "net.onnx") as runner:
        (wanted,) = runner.infer(x).values()
    for one in (library, None):
        with OnnxRuntimeRunner(built.path, library=one) as runner:
            (got,) = runner.infer(x).values()
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lccl.ort.session(built.path).run(None, x)[0], wanted, rtol=1e-4, atol=1e-5)


def test_the_sidecar_tells_all(built: Any, folder: Path) -> None:
    sidecar: Any = read_sidecar(built.path)
    assert sidecar["backend"] == "onnxruntime"
    assert sidecar["source"] == {"file": "net.onnx", "sha256": sha256(folder / "net.onnx")}
    assert sidecar["command"] == "the words"
    choice = sidecar["choice"]
    assert choice["samples"] == 6
    assert (choice["threads"], choice["batch"]) == (1, 1)
    assert [t["what"] for t in choice["times"]] == [
        "chosen", "all gated", "all in standard ops", "the file as it was", "dense twin",
    ]  # fmt: skip
    assert all(t["p10"] <= t["median"] <= t["p90"] for t in choice["times"])
    layers = {layer["name"]: layer for layer in choice["layers"]}
    gated = [layer for layer in layers.values() if layer["density"] is not None]
    assert len(gated) == 2
    assert all(layer["reason"] and layer["dense_us"] > 0 and layer["chosen_us"] > 0 for layer in layers.values())
    assert {layer["form"] for layer in layers.values()} <= {"gated", "standard ops", "joined", "dense"}
    assert built.as_dict()["choice"]["gain"] == built.choice.gain > 0
    assert json.dumps(built.as_dict())


def test_the_report(built: Any) -> None:
    text = str(built)
    assert text.startswith(built.choice.verdict)
    assert "Densities of 6 samples." in text
    assert f"Written: {built.choice.written}." in text
    assert all(layer.name in text for layer in built.choice.layers)


def test_given_forms_are_kept_and_said(folder: Path, tmp_path: Path) -> None:
    names = [n.name for n in onnx.load(folder / "net.onnx").graph.node if n.op_type == "LCCLConv"]
    options: dict[str, Any] = {"backend": "onnxruntime", "data": folder / "data.npz"}
    result = build_engine(folder / "net.onnx", tmp_path / "n.onnx", gate={names[0]: False}, **options)
    assert result.choice is not None
    layer = next(layer for layer in result.choice.layers if layer.name == names[0])
    assert result.choice.written == "chosen"
    assert (layer.form, layer.reason) == ("standard ops", "as you chose")
    none = build_engine(folder / "net.onnx", tmp_path / "none.onnx", gate="none", **options)
    assert not any(n.op_type == "LCCLConv" for n in onnx.load(none.path).graph.node)


@pytest.mark.parametrize("gate", ["all", "none"])
def test_a_built_file_is_taken_by_everything(folder: Path, tmp_path: Path, gate: str) -> None:
    """Compared as it runs; exported, measured and built again as the model that it means."""
    options: dict[str, Any] = {"backend": "onnxruntime", "data": folder / "data.npz"}
    fast = build_engine(folder / "net.onnx", tmp_path / "fast.onnx", gate=gate, **options).path
    result = lccl.compare(fast, folder / "data.npz", baseline=folder / "dense.onnx", latency=None)
    runners = {row.runner: row for row in result.rows if row.role == "lccl"}
    assert set(runners) == ({"onnxruntime", "onnxruntime-lccl"} if gate == "all" else {"onnxruntime"})
    with np.load(folder / "data.npz") as content:
        x = content["x"]
    with OnnxRuntimeRunner(folder / "net.onnx") as runner:
        (wanted,) = runner.infer({"x": x}).values()
    if gate == "all":
        again = build_engine(fast, tmp_path / "again.onnx", **options)
        exported = lccl.export(fast, None, tmp_path / "model.onnx").path
        for path in (again.path, exported):
            with OnnxRuntimeRunner(path) as runner:
                np.testing.assert_allclose(next(iter(runner.infer({"x": x}).values())), wanted, rtol=1e-4, atol=1e-5)
        profile = lccl.profile(exported, [x])
        assert [layer.density for layer in profile.gated] == [layer.density for layer in lccl.profile(fast, [x]).gated]


def test_a_built_file_without_its_functions(built: Any, tmp_path: Path) -> None:
    model = onnx.load(built.path)
    for node in model.graph.node:
        node.domain = "lccl.ort" if node.op_type == "LCCLConv" else node.domain
    del model.functions[:]
    onnx.save(model, tmp_path / "stripped.onnx")
    with pytest.raises(lccl.UserError, match="a tool has removed its functions: build it again"):
        lccl.profile(tmp_path / "stripped.onnx", [np.zeros((1, 3, 8, 8), np.float32)])


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    words = [folder / "net.onnx", "--backend", "onnxruntime", "--data", folder / "data.npz", "-o", tmp_path / "f.onnx"]
    done = invoke(BUILD, *words, "--baseline", folder / "dense.onnx", "--json", "--batch", "2")
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said["choice"]["batch"] == 2
    assert said["choice"]["times"][-1]["what"] == "baseline"
    assert read_sidecar(tmp_path / "f.onnx")["command"].startswith("lccl-build-engine ")  # type: ignore[attr-defined]


def test_a_gain_that_is_required(folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    words = [folder / "net.onnx", "--backend", "onnxruntime", "-o", tmp_path / "f.onnx"]
    done = invoke(BUILD, *words, "--require-gain", "1000")
    assert done.code == 2
    assert "below 1000" in done.err
    assert "random inputs" in done.out
    assert (tmp_path / "f.onnx").exists()
    assert invoke(BUILD, *words, "--require-gain", "0.0001").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gate", "some"], "--gate takes all, none, or LAYER=on or LAYER=off, not some"),
        (["--gate", "nothing=on"], "the model has no gated layer nothing; it has"),
        (["--batch", "7"], "the data has 6 samples, fewer than a batch of 7: pass --batch 6"),
        (["--batch", "0"], "batch takes a whole number from 1"),
        (["--threads", "0"], "threads takes a whole number from 1 to 1024"),
        (["--fp16"], "precision: the build for ONNX Runtime has no such option"),
        (["--workspace", "8"], "workspace: the build for ONNX Runtime has no such option: leave out --workspace"),
        (["--baseline", "nowhere.onnx"], "no such file: nowhere.onnx"),
    ],
)
def test_wrong_options(folder: Path, tmp_path: Path, invoke: Invoke, words: list[str], said: str) -> None:
    data = ["--backend", "onnxruntime", "--data", folder / "data.npz", "-o", tmp_path / "f.onnx"]
    done = invoke(BUILD, folder / "net.onnx", *data, *words)
    assert done.code == 1
    assert said in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_options_of_this_build_are_refused_by_others(folder: Path, invoke: Invoke) -> None:
    done = invoke(BUILD, folder / "net.onnx", "--backend", "tensorrt-rtx", "--gate", "all")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "only the build for ONNX Runtime" in done.err
    assert "--require-gain goes with" in invoke(BUILD, folder / "net.onnx", "--require-gain", "1").err


def test_a_batch_that_contradicts_the_model(folder: Path, tmp_path: Path) -> None:
    fixed = onnx.load(folder / "net.onnx")
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    del fixed.graph.value_info[:]
    onnx.save(fixed, tmp_path / "two.onnx")
    built = build_engine(tmp_path / "two.onnx", backend="onnxruntime", gate="all")
    assert built.choice is not None
    assert built.choice.batch == 2
    with pytest.raises(lccl.UserError, match="have a batch of 2, not of 3"):
        build_engine(tmp_path / "two.onnx", backend="onnxruntime", batch=3)
    shapes = {"x": (3, 3, 8, 8)}
    three = build_engine(folder / "net.onnx", tmp_path / "three.onnx", backend="onnxruntime", gate="all", opt_shapes=shapes)
    assert three.choice is not None
    assert three.choice.batch == 3
    with pytest.raises(lccl.UserError, match="the data has shapes of its own"):
        build_engine(folder / "net.onnx", backend="onnxruntime", data=folder / "data.npz", opt_shapes=shapes)


def test_nothing_that_is_read_is_replaced(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in (".onnx", ".npz")}
    for name in ("net.onnx", "dense.onnx", "data.npz"):
        with pytest.raises(lccl.UserError, match=f"would replace its .*{name}"):
            build_engine(
                folder / "net.onnx",
                folder / name,
                backend="onnxruntime",
                data=folder / "data.npz",
                baseline=folder / "dense.onnx",
            )
    assert before == {path.name: path.read_bytes() for path in folder.glob("*") if path.name in before}


def test_models_that_cannot_be_built(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lccl.UserError, match="has no LCCLConv node"):
        build_engine(folder / "dense.onnx", backend="onnxruntime")
    other = onnx.load(folder / "dense.onnx")
    other.graph.input[0].name = "image"
    for node in other.graph.node:
        node.input[:] = ["image" if name == "x" else name for name in node.input]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(lccl.UserError, match="the baseline has the inputs image, but the model x"):
        build_engine(folder / "net.onnx", backend="onnxruntime", baseline=tmp_path / "other.onnx")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nothing.so"))
    with pytest.raises(lccl.UserError, match=r"nothing\.so"):
        build_engine(folder / "net.onnx", backend="onnxruntime")


def test_fixes_are_of_options(folder: Path) -> None:
    with pytest.raises(lccl.UserError) as caught:
        build_engine(folder / "net.onnx", backend="onnxruntime", tf32=True)
    assert caught.value.fixes == (leave_out("tf32"),)
    with pytest.raises(lccl.UserError) as caught:
        build_engine(folder / "net.onnx", backend="onnxruntime", data=folder / "data.npz", batch=9)
    assert caught.value.fixes == (Fix("batch", 6),)
