"""Weights in a file next to their models: only their place changes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.exporting import export
from lccl.files import discard_unfinished
from lccl.files.external import array, weight_file
from lccl.files.protos import SMALL, skeleton_of
from lccl.files.weights import WeightFile
from lccl.files.whole_file import whole_size, write_whole
from lccl.graph.recognise import recognise
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.dense import dense_twin
from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.upcast import upcast
from lccl.loading.onnx import load_onnx
from lccl.op.onnx_op import register_schema

PLAIN = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_)


def model_of(*stored: TensorProto) -> onnx.ModelProto:
    """Return a model that ignores its weights and has every other field of a file."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y], list(stored), "words")
    one = [helper.make_opsetid("", 18)]
    function = helper.make_function("d", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], one)
    model = helper.make_model(graph, functions=[function], opset_imports=one, ir_version=10)
    model.producer_name, model.doc_string, model.model_version = "someone", "more words", 7
    helper.set_model_props(model, {"key": "value"})
    return model


def gated() -> onnx.ModelProto:
    """Return relu(bn(conv)) * relu(gate) with weights large enough for a file."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)

    statistics = [numpy_helper.from_array(rng.uniform(0.5, 1.5, 24).astype(np.float32), name) for name in ("s", "b", "m", "v")]
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"], "conv", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["x", "G"], ["l"], "gate", pads=[3] * 4, kernel_shape=[7, 7]),
        helper.make_node("Relu", ["l"], ["g"]),
        helper.make_node("Mul", ["r", "g"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 24, 8, 8]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [weight("W", 24, 24, 3, 3), weight("G", 1, 24, 7, 7), *statistics])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def contents(model: onnx.ModelProto) -> dict[str, tuple[Any, bytes]]:
    return {t.name: (array(t).dtype, array(t).tobytes()) for t in model.graph.initializer}


@pytest.mark.parametrize("dtype", PLAIN, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_values_are_the_same_in_a_file(tmp_path: Path, dtype: Any, raw: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 if dtype is np.bool_ else 100, (7, SMALL)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    stored = numpy_helper.from_array(values, "w") if raw else helper.make_tensor("w", kind, values.shape, values.ravel())
    assert stored.HasField("raw_data") == raw
    with WeightFile(tmp_path / "m.onnx") as weights:
        external = weights.externalize(model_of(stored))
        assert external.ByteSize() < 1000
        write_whole(external, tmp_path / "m.onnx")
        np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(str(tmp_path / "m.onnx")).graph.initializer[0]), values)
        again = weights.tensor("again", values.T)
        assert again.external_data
        np.testing.assert_array_equal(array(again), values.T)
        assert array(external.graph.initializer[0]).dtype == dtype
        np.testing.assert_array_equal(array(external.graph.initializer[0]), values)


def test_a_written_model_is_the_one_that_was_taken_apart(tmp_path: Path) -> None:
    """Weights that stay in the model (small, text, 4 bits, wrong length) keep their places."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((i, SMALL), np.float32), f"w{i}") for i in range(2, 5)]
    weights[1].doc_string = "kept"
    packed = helper.make_tensor("int4", TensorProto.INT4, [2, SMALL], rng.integers(0, 7, 2 * SMALL))
    text = helper.make_tensor("text", TensorProto.STRING, [2 * SMALL], [b"a"] * 2 * SMALL)
    short = TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[2 * SMALL], raw_data=b"1234")
    small = numpy_helper.from_array(np.arange(SMALL), "small")
    model = model_of(weights[0], packed, small, weights[1], text, short, weights[2])
    with WeightFile(tmp_path / "m.onnx") as file:
        external = file.externalize(model)
        assert [t.name for t in external.graph.initializer if t.external_data] == ["w2", "w3", "w4"]
        write_whole(external, tmp_path / "m.onnx")
        assert abs(whole_size(external) - (tmp_path / "m.onnx").stat().st_size) < 300
    read = onnx.load(str(tmp_path / "m.onnx"))
    assert read == model
    assert whole_size(model) == model.ByteSize()


def test_lengths_of_every_width(tmp_path: Path) -> None:
    """Lengths of one to four bytes in the field that is written by hand."""
    for rows in (1, 2, 17, 600):
        model = model_of(numpy_helper.from_array(np.zeros((rows, SMALL + 1), np.int8), "w"))
        with WeightFile(tmp_path / "m.onnx") as file:
            write_whole(file.externalize(model), tmp_path / "m.onnx")
        assert onnx.load(str(tmp_path / "m.onnx")) == model


@pytest.mark.parametrize("make", [canonical, dense_twin, inlined])
def test_passes_give_the_same_models_from_a_file(tmp_path: Path, make: Any) -> None:
    register_schema()
    found = recognise(gated()).model
    expected = make(found)
    with WeightFile(tmp_path / "m.onnx") as file:
        got = make(file.externalize(found))
        assert contents(got) == contents(expected)
        assert all(t.external_data for t in got.graph.initializer if np.prod(t.dims) > SMALL)
        assert got.ByteSize() < 20_000
        del expected.graph.initializer[:], got.graph.initializer[:]
        assert got == expected


def test_recognition_in_a_file(tmp_path: Path) -> None:
    expected = recognise(gated())
    with WeightFile(tmp_path / "m.onnx") as file:
        got = recognise(file.externalize(gated()))
        assert contents(got.model) == contents(expected.model)
        assert got.layers == expected.layers


def test_upcasting_in_a_file(tmp_path: Path) -> None:
    values = np.arange(2 * SMALL).astype(ml_dtypes.bfloat16)
    with WeightFile(tmp_path / "m.onnx") as file:
        (wide,) = upcast(file.externalize(model_of(numpy_helper.from_array(values, "w")))).graph.initializer
        assert wide.external_data
        np.testing.assert_array_equal(array(wide), values.astype(np.float32))


def test_sessions_open_a_model_beside_its_weights(tmp_path: Path) -> None:
    model = gated()
    feed = {"x": np.random.default_rng(1).standard_normal((2, 24, 8, 8), np.float32)}
    with OnnxRuntimeRunner(model) as runner:
        expected = runner.infer(feed)["y"]
    with WeightFile(tmp_path / "m.onnx") as file:
        (folder,) = tmp_path.iterdir()
        with OnnxRuntimeRunner(file.externalize(model)) as runner:
            np.testing.assert_array_equal(runner.infer(feed)["y"], expected)
            assert [f.name for f in folder.iterdir()] == [file.name]


def test_no_session_of_an_export_is_given_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lccl.backends.onnxruntime.runner

    sizes: list[int] = []
    opened = lccl.backends.onnxruntime.opening.open_session

    def noting(model: onnx.ModelProto, *rest: Any) -> Any:
        sizes.append(model.ByteSize())
        return opened(model, *rest)

    monkeypatch.setattr(lccl.backends.onnxruntime.runner, "open_session", noting)
    model = gated()
    result = export(model, None, tmp_path / "m.onnx", dense_twin=True, decomposed=True, tensorrt=True)
    assert len(result.recognised) == 1
    assert len(sizes) > 6
    assert max(sizes) < model.ByteSize() / 2
    assert {f.name for f in tmp_path.iterdir()} == {"m.onnx", "m.dense.onnx", "m.decomposed.onnx", "m.tensorrt.onnx"}


def test_an_export_from_a_path_is_that_of_the_model(tmp_path: Path) -> None:
    onnx.save(gated(), tmp_path / "given.onnx", save_as_external_data=True, location="given.data", size_threshold=0)
    export(gated(), None, tmp_path / "a.onnx")
    export(tmp_path / "given.onnx", None, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_stored_tensors_are_no_inputs(tmp_path: Path) -> None:
    """IR 3 lists initializers among the inputs, where external data must not be looked for."""
    model = gated()
    model.ir_version = 3
    listed = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    model.graph.input.extend(listed)
    result = export(model, None, tmp_path / "m.onnx")
    assert len(result.recognised) == 1
    assert [v.name for v in onnx.load(str(tmp_path / "m.onnx")).graph.input] == ["x"]


def test_what_the_network_returns_stays_in_the_model(tmp_path: Path) -> None:
    """A weight that is an output, and a folded copy of one."""
    model = gated()
    anchors = np.random.default_rng(2).standard_normal((2, SMALL), np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(anchors, "anchors"), numpy_helper.from_array(-anchors, "others")])
    model.graph.node.append(helper.make_node("Identity", ["others"], ["copy"]))
    for name in ("anchors", "copy"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, SMALL]))
    result = export(model, None, tmp_path / "m.onnx", dense_twin=True, decomposed=True)
    assert len(result.recognised) == 1
    feed = {"x": np.zeros((1, 24, 8, 8), np.float32)}
    for name in ("m.onnx", "m.dense.onnx", "m.decomposed.onnx"):
        with OnnxRuntimeRunner(tmp_path / name) as runner:
            outputs = runner.infer(feed)
        np.testing.assert_array_equal(outputs["anchors"], anchors)
        np.testing.assert_array_equal(outputs["copy"], -anchors)


def test_what_a_subgraph_reads_stays_in_the_model(tmp_path: Path) -> None:
    """graphsurgeon writes it into the subgraph, where no file is looked for."""
    model = gated()
    values = np.random.default_rng(3).standard_normal((24, 64), np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(values, "V"), numpy_helper.from_array(np.array(True), "yes")])
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [24, 64]) for name in ("then", "else")]
    ends = [helper.make_node(kind, ["V"], [out.name]) for kind, out in zip(("Identity", "Neg"), outs, strict=True)]
    branches = [helper.make_graph([end], out.name, [], [out]) for end, out in zip(ends, outs, strict=True)]
    model.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=branches[0], else_branch=branches[1]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [24, 64]))
    with WeightFile(tmp_path / "o.onnx") as file:
        assert {t.name for t in file.externalize(model).graph.initializer if t.external_data} == {"W", "G"}
    result = export(model, None, tmp_path / "m.onnx", dense_twin=True)
    assert len(result.recognised) == 1
    with OnnxRuntimeRunner(tmp_path / "m.onnx") as runner:
        np.testing.assert_array_equal(runner.infer({"x": np.zeros((1, 24, 8, 8), np.float32)})["z"], values)


def test_equal_weights_lie_in_the_file_once(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "m.onnx") as file:
        (folder,) = tmp_path.iterdir()
        first = file.externalize(gated())
        size = (folder / file.name).stat().st_size
        assert contents(file.externalize(gated())) == contents(first)
        assert (folder / file.name).stat().st_size == size


@pytest.mark.parametrize("change", ["Identity", "Transpose", "Mul", "Cast"])
def test_a_weight_that_is_computed_of_stored_ones(tmp_path: Path, change: str) -> None:
    """Exporters compute weights for shared ones, other layouts, weight norm and half precision."""
    model = gated()
    stored = model.graph.initializer[0]
    values = array(stored)
    more: dict[str, Any] = {"Transpose": {"perm": [1, 0, 2, 3]}, "Cast": {"to": TensorProto.FLOAT}}.get(change, {})
    names = ["W0", "scale"] if change == "Mul" else ["W0"]
    given = {"Transpose": values.transpose(1, 0, 2, 3), "Cast": values.astype(np.float16)}.get(change, values)
    stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(given), "W0"))
    model.graph.initializer.append(numpy_helper.from_array(np.full((24, 1, 1, 1), 2, np.float32), "scale"))
    model.graph.node.insert(0, helper.make_node(change, names, ["W"], **more))
    assert len(export(model, None, tmp_path / "m.onnx").recognised) == 1


# ---- the file ------------------------------------------------------------------------------------


def test_the_file_goes_with_its_block(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), WeightFile(tmp_path / "m.onnx") as file:
        external = file.externalize(gated())
        assert weight_file(external) is file
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert weight_file(external) is None


def test_the_file_goes_where_a_process_is_stopped(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "m.onnx") as file:
        file.externalize(gated())
        discard_unfinished()
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with WeightFile(tmp_path / "m.onnx") as file:
        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(UserError, match=r"No space left on device; nothing was written: make room there"):
            file.externalize(gated())


def test_a_model_cannot_name_a_file_of_its_own(tmp_path: Path) -> None:
    """Only names drawn in this process refer to a file, for reading and for writing."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 24 * 24 * 9))
    with WeightFile(tmp_path / "m.onnx") as file:
        for location in (str(secret), "secret", "../secret"):
            model = gated()
            weight = model.graph.initializer[0]
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location)
            assert weight_file(model) is None
            with pytest.raises(UserError, match=r"without its external data .of W.: pass the path of its file"):
                file.externalize(model)
    assert secret.read_bytes() == bytes(4 * 24 * 24 * 9)


def test_external_data_that_is_missing_or_cut_off(tmp_path: Path) -> None:
    onnx.save(gated(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    data = (tmp_path / "m.data").read_bytes()
    with WeightFile(tmp_path / "o.onnx") as file:
        (tmp_path / "m.data").write_bytes(data[: len(data) // 2])
        with pytest.raises(UserError, match=r"cut off|not beside it"):
            load_onnx(tmp_path / "m.onnx", file)
        (tmp_path / "m.data").unlink()
        with pytest.raises(UserError, match="copy its data file along"):
            load_onnx(tmp_path / "m.onnx", file)


def test_external_data_of_a_node_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((2, SMALL), np.float32)
    model = model_of()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(values)))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", convert_attribute=True)
    assert onnx.load(str(tmp_path / "m.onnx"), load_external_data=False).graph.node[1].attribute[0].t.external_data
    with WeightFile(tmp_path / "o.onnx") as file:
        loaded = load_onnx(tmp_path / "m.onnx", file).graph.node[1].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(loaded), values)


def test_bad_weights_in_a_file_are_found(tmp_path: Path) -> None:
    model = gated()
    broken = array(model.graph.initializer[0]).copy()
    broken[3, 2, 1, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "W"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    with WeightFile(tmp_path / "o.onnx") as file, pytest.raises(UserError, match="W holds NaN"):
        load_onnx(tmp_path / "m.onnx", file)


def test_a_skeleton_has_large_weights_as_inputs(tmp_path: Path) -> None:
    model = gated()
    with WeightFile(tmp_path / "m.onnx") as file:
        for given in (model, file.externalize(model)):
            skeleton, weights = skeleton_of(given)
            assert set(weights) == {"W", "G"}
            assert [v.name for v in skeleton.graph.input] == ["x", "W", "G"]
            assert [t.name for t in skeleton.graph.initializer] == ["s", "b", "m", "v"]
            onnx.checker.check_model(skeleton, full_check=True)
