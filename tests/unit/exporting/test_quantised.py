"""Files that ONNX Runtime's own tool has quantised: they are compared at one level of optimization, and told with real sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lccl
from lccl.backends.agreement import check_view
from lccl.graph.layers import describe_layers
from lccl.graph.tolerance import default_tolerance, is_quantised
from lccl.graph.variants.inlined import inlined


class Calibration:
    """A few random images, as onnxruntime.quantization reads them."""

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(0)
        self._feeds = iter([{name: rng.standard_normal((2, 1, 16, 16)).astype(np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def quantised(source: Path, target: Path, **options: Any) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(Calibration, CalibrationDataReader):
        pass

    quantize_static(source, target, Reader(onnx.load(source).graph.input[0].name), **options)
    return onnx.load(target)


def forms() -> dict[str, dict[str, Any]]:
    from onnxruntime.quantization import QuantType

    return {
        "8 bits": {},
        "8 bits per channel, unsigned": {"per_channel": True, "activation_type": QuantType.QUInt8},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", forms())
def test_a_quantised_file_is_exported(exported: Path, tmp_path: Path, name: str) -> None:
    model = quantised(exported, tmp_path / "q.onnx", **forms()[name])
    assert is_quantised(model)
    result = lccl.export(tmp_path / "q.onnx", None, tmp_path / "m.onnx", decomposed=True, dense_twin=True)
    before = describe_layers(onnx.load(exported))
    told = [(layer.kernel, layer.in_channels, layer.out_channels, layer.gated) for layer in result.layers]
    assert told == [(layer.kernel, layer.in_channels, layer.out_channels, layer.gated) for layer in before]
    assert "0x0" not in str(result)
    x = np.random.default_rng(1).standard_normal((4, 1, 16, 16)).astype(np.float32)
    assert lccl.profile(tmp_path / "m.onnx", x).dense_macs == lccl.profile(exported, x).dense_macs


@pytest.mark.slow
def test_gates_are_found_beside_quantised_layers(exported: Path, tmp_path: Path) -> None:
    """Gates in standard ops stay floats, the classifier is quantised."""
    given = exported.with_suffix(".decomposed.onnx")
    model = quantised(given, tmp_path / "q.onnx", op_types_to_quantize=["Gemm", "MatMul"])
    assert is_quantised(model)
    result = lccl.export(tmp_path / "q.onnx", None, tmp_path / "m.onnx")
    assert result.gated == sum(layer.gated for layer in describe_layers(onnx.load(exported)))


@pytest.mark.slow
def test_an_engine_of_it_is_checked_alike(exported: Path, tmp_path: Path) -> None:
    model = quantised(exported, tmp_path / "q.onnx", extra_options={"ActivationSymmetric": True, "WeightSymmetric": True})
    check_view(model, inlined(model), [{"x": np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)}])


@pytest.mark.slow
def test_a_wrong_weight_is_still_found(exported: Path, tmp_path: Path) -> None:
    model = quantised(exported, tmp_path / "q.onnx")
    broken = inlined(model)
    kernel = next(t for t in broken.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4)
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))
    x = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)
    with pytest.raises(lccl.UserError, match="differs"):
        check_view(model, broken, [{"x": x}])


def rounding(kind: int, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """A graph with one rounding to the type."""
    element = helper.tensor_dtype_to_np_dtype(kind)
    stored = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.zeros((), element), "z")]
    nodes = nodes or [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], stored))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (rounding(TensorProto.INT8), 2 / 127),
        (rounding(TensorProto.UINT16), 1e-4),
        (rounding(TensorProto.INT8, [helper.make_node("QuantizeLinear", ["x", "s"], ["q"])]), 2 / 127),
        (rounding(TensorProto.INT8, [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "t", "u"])]), 2 / 127),
        (rounding(TensorProto.INT8, [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["q"])]), 1e-4),
        (rounding(TensorProto.INT8, [helper.make_node("QuantizeLinear", ["s", "s", "z"], ["q"])]), 1e-4),
        (rounding(TensorProto.INT4), 5e-2),
        (
            rounding(TensorProto.INT8, [helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.INT16)]),
            1e-4,
        ),
        (
            rounding(
                TensorProto.INT8,
                [
                    helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros((), np.int16))),
                    helper.make_node("QuantizeLinear", ["x", "s", "c"], ["q"]),
                ],
            ),
            1e-4,
        ),
    ],
    ids=[
        "8 bits",
        "16 bits",
        "no zero point",
        "dynamic",
        "stored weights",
        "rounded weights",
        "4 bits",
        "16 bits by name",
        "16 bits in a Constant",
    ],
)
def test_two_steps_are_allowed(model: onnx.ModelProto, expected: float) -> None:
    assert default_tolerance(model) == pytest.approx(expected)


def test_a_last_bit_is_one_step() -> None:
    """Two orders of one sum fall on two sides of the edge between two levels."""
    node, value = helper.make_node, helper.make_tensor_value_info
    behind = [node("QuantizeLinear", ["sum", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    orders = (
        [node("Add", ["x", "a"], ["half"]), node("Add", ["half", "b"], ["sum"])],
        [node("Add", ["a", "b"], ["half"]), node("Add", ["half", "x"], ["sum"])],
    )
    constants = {"a": np.float32(0.1), "b": np.float32(0.7), "s": np.float32(1), "z": np.zeros((), np.int8)}
    models = []
    for front in orders:
        inputs, outputs = ([value(name, TensorProto.FLOAT, ["N", 2])] for name in "xy")
        stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
        graph = helper.make_graph([*front, *behind], "g", inputs, outputs, stored)
        models.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    candidates = (np.arange(1, 120)[:, None] - 0.3 + np.linspace(-1e-5, 1e-5, 101)).ravel().astype(np.float32)
    first = (candidates + constants["a"]) + constants["b"]
    second = (constants["a"] + constants["b"]) + candidates
    edge = candidates[np.rint(first) != np.rint(second)]
    assert edge.size
    feed = {"x": np.stack([edge[:1], np.full(1, 126, np.float32)], axis=1)}
    check_view(models[0], models[1], [feed])
    with pytest.raises(lccl.UserError, match=r"max error 1\.0e"):
        check_view(models[0], models[1], [feed], 1e-4)


def test_sizes_that_no_stored_weight_tells() -> None:
    """Computed weights say nothing; a quantised, transposed or 1-D one does."""
    constants = {
        "w8": (np.zeros((6, 4, 3, 5), np.int8), [helper.make_node("DequantizeLinear", ["w8", "s"], ["w"])]),
        "line": (np.zeros((8, 4, 3), np.float32), []),
        "up8": (np.zeros((8, 4, 2, 2), np.int8), [helper.make_node("DequantizeLinear", ["up8", "s"], ["up"])]),
    }
    nodes = [n for _, made in constants.values() for n in made]
    nodes += [
        helper.make_node("Conv", ["x", "w"], ["y1"], "quantised"),
        helper.make_node("Conv", ["x", "line"], ["y2"], "line", strides=[2]),
        helper.make_node("ConvTranspose", ["x", "up"], ["y3"], "up"),
        helper.make_node("Conv", ["x", "given"], ["y4"], "computed", kernel_shape=[7, 7]),
        helper.make_node("Conv", ["x", "given"], ["y5"]),
    ]
    stored = [numpy_helper.from_array(values, name) for name, (values, _) in constants.items()]
    layers = describe_layers(helper.make_model(helper.make_graph(nodes, "g", [], [], stored)))
    assert [(x.name, x.kernel, x.in_channels, x.out_channels, x.strides) for x in layers] == [
        ("quantised", (3, 5), 4, 6, (1, 1)),
        ("line", (3,), 4, 8, (2,)),
        ("up", (2, 2), 8, 4, (1, 1)),
        ("computed", (7, 7), 0, 0, (1, 1)),
        ("y5", (), 0, 0, ()),
    ]
