"""The op's library in ONNX Runtime: the op or its function, types, shapes, neighbours, threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import lccl
import lccl.ort
from lccl.backends.onnxruntime import library as op_library
from lccl.backends.onnxruntime import session as op_session
from lccl.op.contract import DOMAIN, INPUT_NAMES, OP_TYPE, VERSION
from lccl.op.onnx_function import attach_function
from lccl.op.onnx_op import IR_VERSION, OPSET, make_node
from lccl.op.reference import lccl_conv
from support.cases.op_cases import CASES, Case
from support.graphs.models import case_model, op_types
from support.hosts.onnxruntime import DTYPES, assert_close, infer, open_session

LEVELS = ("DISABLE_ALL", "BASIC", "EXTENDED", "ALL")
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=[d.name for d in DTYPES])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_named_cases(ort_library: Path, case: Case, dtype: Any, threads: int) -> None:
    model, feed = case_model(case, dtype)
    expected = lccl_conv(case.inputs(dtype), case.attributes)
    assert_close(infer(open_session(model, ort_library, threads), feed), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=[d.name for d in DTYPES])
@pytest.mark.parametrize("name", ["everything", "both", "grid-external", "one-channel-post"])
def test_computed_weights(ort_library: Path, name: str, dtype: Any) -> None:
    """All nine inputs come from outside, and change from call to call."""
    case = BY_NAME[name]
    model, _ = case_model(case, dtype)
    inputs = case.inputs(dtype)
    known = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in known:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del model.graph.initializer[:]
    session = open_session(model, ort_library, 2)
    for factor in (1.0, -0.5):
        feed = inputs | {n: (inputs[n] * factor).astype(inputs[n].dtype) for n in ("W", "B", "gate_W")}
        assert_close(infer(session, feed), lccl_conv(feed, case.attributes), dtype)


# ---- the op or its function ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=[d.name for d in DTYPES[:2]])
@pytest.mark.parametrize("level", LEVELS)
def test_the_library_is_taken_before_the_function(ort_library: Path, tmp_path: Path, level: str, dtype: Any) -> None:
    case = BY_NAME["everything"]
    model, feed = case_model(case, dtype)
    with_library = infer(open_session(model, ort_library, level=level, saved=tmp_path / "with.onnx"), feed)
    without = infer(open_session(model, None, level=level, saved=tmp_path / "without.onnx"), feed)
    assert op_types(onnx.load(tmp_path / "with.onnx")) == [OP_TYPE]
    assert OP_TYPE not in op_types(onnx.load(tmp_path / "without.onnx"))
    expected = lccl_conv(case.inputs(dtype), case.attributes)
    assert_close(with_library, expected, dtype)
    np.testing.assert_allclose(without.astype(np.float64), expected, rtol=0.02, atol=0.02)


def test_nodes_without_their_function(ort_library: Path) -> None:
    case = BY_NAME["paper"]
    model, feed = case_model(case, function=False)
    assert_close(infer(open_session(model, ort_library), feed), lccl_conv(case.inputs(), case.attributes), np.float32)


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_that_was_optimised_and_saved(ort_library: Path, tmp_path: Path, level: str) -> None:
    case = BY_NAME["residual"]
    model, feed = case_model(case)
    open_session(model, ort_library, level=level, saved=tmp_path / "saved.onnx")
    again = open_session(tmp_path / "saved.onnx", ort_library, level=level)
    assert_close(infer(again, feed), lccl_conv(case.inputs(), case.attributes), np.float32)


# ---- shapes ----------------------------------------------------------------------------------------------------------


def without_output_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_static_shapes_are_inferred(ort_library: Path, case: Case) -> None:
    model, _ = case_model(case, dynamic=False)
    shape = lccl_conv(case.inputs(), case.attributes).shape
    assert open_session(without_output_shape(model), ort_library).get_outputs()[0].shape == list(shape)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("plain", ["N", 6, "H", "W_"]),
        ("unpadded", ["N", 6, "(H-2)", "(W_-2)"]),
        ("kernel-even", ["N", 6, "H", "W_"]),
        ("stride-uneven", ["N", 6, "(H-1)//2+1", "(W_-1)//3+1"]),
        ("dilated-uneven", ["N", 6, "H", "W_"]),
    ],
)
def test_names_of_dimensions_are_kept_or_told_apart(ort_library: Path, name: str, shape: list[Any]) -> None:
    model, _ = case_model(BY_NAME[name])
    assert open_session(without_output_shape(model), ort_library).get_outputs()[0].shape == shape


def test_sizes_without_a_name_get_names_of_their_own(ort_library: Path) -> None:
    """ONNX Runtime takes two dimensions of one name for equal, and shares memory by that."""
    model, _ = case_model(BY_NAME["plain"])
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.ClearField("dim_param")
    n, k, h, w = open_session(without_output_shape(model), ort_library).get_outputs()[0].shape
    assert k == 6
    assert all(isinstance(name, str) for name in (n, h, w))
    assert len({n, h, w}) == 3


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=[d.name for d in DTYPES])
def test_one_session_takes_images_of_all_sizes(ort_library: Path, dtype: Any, threads: int) -> None:
    case = BY_NAME["paper"]
    model, _ = case_model(case, dtype)
    session = open_session(model, ort_library, threads)
    rng = np.random.default_rng(0)
    for n, h, w in ((1, 9, 11), (5, 40, 33), (2, 3, 3), (1, 1, 1), (0, 9, 11), (3, 64, 17), (1, 9, 11)):
        feed = {"X": rng.standard_normal((n, case.c, h, w)).astype(dtype)}
        inputs = case.inputs(dtype) | feed
        assert_close(infer(session, feed), lccl_conv(inputs, case.attributes), dtype)


# ---- neighbours ------------------------------------------------------------------------------------------------------


def two_blocks(case: Case) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Conv, LCCLConv, LCCLConv with the first's input as its residual, Conv."""
    inputs = case.inputs()
    c = case.c
    stem = np.random.default_rng(1).standard_normal((c, c, 3, 3)).astype(np.float32) / 8
    shared = [numpy_helper.from_array(inputs[n], n) for n in INPUT_NAMES if n not in ("X", "residual")]
    neutral = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "none")
    rest = INPUT_NAMES[1:-1]
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], name="stem", pads=[1, 1, 1, 1]),
        make_node(["a", *rest, "none"], ["b"], case.attributes, "first"),
        make_node(["b", *rest, "a"], ["c"], case.attributes, "second"),
        helper.make_node("Conv", ["c", "stem"], ["y"], name="head", pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", c, 20, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", c, 20, 20])],
        [*shared, neutral, numpy_helper.from_array(stem, "stem")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    attach_function(model)
    return model, {"x": np.random.default_rng(2).standard_normal((3, c, 20, 20)).astype(np.float32)}


def test_neighbours_and_the_residual_stay_two_nodes(ort_library: Path, tmp_path: Path) -> None:
    """The second reads what the first writes, with no node between, and the residual is added inside."""
    model, feed = two_blocks(Case("block", "", c=16, k=16, hw=(20, 20), gate="kxk", post_alpha=0.0))
    saved = tmp_path / "saved.onnx"
    got = infer(open_session(model, ort_library, saved=saved), feed)
    optimised = onnx.load(saved).graph.node
    made_by = {output: node for node in optimised for output in node.output}
    first, second = (node for node in optimised if node.op_type == OP_TYPE)
    assert made_by[second.input[0]].name == first.name
    assert [node.op_type for node in optimised].count(OP_TYPE) == 2
    assert "Add" not in {node.op_type for node in optimised}
    np.testing.assert_allclose(got, infer(open_session(model, None), feed), rtol=1e-4, atol=1e-4)


def test_the_exported_residual_is_added_inside(ort_library: Path, tmp_path: Path, exported: Path) -> None:
    """A network as lccl-export writes it: what follows a second convolution of a block is the next block."""
    saved = tmp_path / "saved.onnx"
    open_session(exported, ort_library, saved=saved)
    optimised = onnx.load(saved).graph.node
    ours = [node for node in optimised if node.op_type == OP_TYPE]
    outputs = {node.output[0] for node in ours}
    readers = {node.op_type for node in optimised if outputs & set(node.input)}
    assert len(ours) == sum(node.op_type == OP_TYPE for node in onnx.load(exported).graph.node) > 0
    assert not readers & {"Add", "Relu", "Mul"}


# ---- threads ---------------------------------------------------------------------------------------------------------


LARGE = Case("large", "work for several threads", n=2, c=32, k=48, hw=(40, 40), gate="kxk", residual=True, post=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=[d.name for d in DTYPES])
def test_threads_change_no_bit(ort_library: Path, dtype: Any) -> None:
    model, feed = case_model(LARGE, dtype)
    results = []
    for threads in (1, 2, 3, 4):
        session = open_session(model, ort_library, threads)
        results += [infer(session, feed) for _ in range(5)]
    assert_close(results[0], lccl_conv(LARGE.inputs(dtype), LARGE.attributes), dtype)
    assert all(np.array_equal(results[0].view(np.uint8), other.view(np.uint8)) for other in results[1:])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=[d.name for d in DTYPES[:2]])
def test_calls_at_once_are_right(ort_library: Path, dtype: Any, threads: int) -> None:
    """From six threads on one session, with images of several sizes and densities."""
    model, _ = case_model(BY_NAME["paper"], dtype)
    rng = np.random.default_rng(5)
    feeds = [
        {"X": (rng.standard_normal((n, 8, h, w)) + shift).astype(dtype)}
        for n, h, w, shift in ((1, 9, 11, 0), (3, 30, 31, 1), (1, 64, 64, -2), (7, 12, 5, 0), (2, 33, 40, 3))
    ]
    serial = [infer(open_session(model, ort_library, 1), feed) for feed in feeds]
    session = open_session(model, ort_library, threads)
    order = [int(i) for i in rng.integers(0, len(feeds), 300)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: session.run(None, feeds[i])[0], order))
    assert all(np.array_equal(got, serial[i]) for i, got in zip(order, results, strict=True))


def test_sessions_come_and_go(ort_library: Path) -> None:
    """The memory that calls share goes with the last node and comes back with the next."""
    small, feed = case_model(BY_NAME["plain"])
    large, large_feed = case_model(LARGE)
    expected = lccl_conv(BY_NAME["plain"].inputs(), BY_NAME["plain"].attributes)
    for _ in range(3):
        one = open_session(small, ort_library)
        other = open_session(large, ort_library, 2)
        infer(other, large_feed)
        assert_close(infer(one, feed), expected, np.float32)
        del other
        assert_close(infer(one, feed), expected, np.float32)
        del one


def test_a_process_may_end_with_a_session(ort_library: Path, tmp_path: Path) -> None:
    model, _ = case_model(BY_NAME["plain"])
    onnx.save(model, tmp_path / "model.onnx")
    script = f"""
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.register_custom_ops_library({str(ort_library)!r})
session = ort.InferenceSession({str(tmp_path / "model.onnx")!r}, options, providers=["CPUExecutionProvider"])
del options
session.run(None, {{"X": np.ones((1, 8, 9, 11), np.float32)}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- 16-bit floats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=[d.name for d in DTYPES[1:]])
def test_every_16_bit_number_goes_in_and_out(ort_library: Path, dtype: Any) -> None:
    """A 1x1 convolution with weight 1 under an open external gate gives back what it got."""
    numbers = np.arange(65536, dtype=np.uint16).view(dtype)
    case = Case("copy", "", c=1, k=1, kernel=(1, 1), pads=(0, 0, 0, 0), hw=(256, 256), gate="external")
    inputs = case.inputs(dtype) | {
        "X": numbers.reshape(1, 1, 256, 256),
        "W": np.ones((1, 1, 1, 1), dtype),
        "B": np.zeros(1, np.float32),
        "gate": np.ones((1, 1, 256, 256), dtype),
    }
    got = infer(open_session(model_of(case, inputs, dtype), ort_library), {n: inputs[n] for n in ("X", "gate")}).ravel()
    with np.errstate(invalid="ignore"):
        same = (got == numbers) | (np.isnan(got.astype(np.float32)) & np.isnan(numbers.astype(np.float32)))
    assert same.all(), numbers[~same][:10]


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=[d.name for d in DTYPES[1:]])
def test_results_are_rounded_to_the_nearest_even(ort_library: Path, dtype: Any) -> None:
    """Every number times one that is no power of two: halfway cases, subnormals and overflow among them."""
    numbers = np.arange(65536, dtype=np.uint16).view(dtype)
    case = Case("scaled", "", c=1, k=1, kernel=(1, 1), pads=(0, 0, 0, 0), hw=(256, 256), gate="external")
    for scale in (np.float32(1 + 2**-8), np.float32(1.5), np.float32(0.3), np.float32(2**-9)):
        inputs = case.inputs(dtype) | {
            "X": numbers.reshape(1, 1, 256, 256),
            "W": np.ones((1, 1, 1, 1), dtype),
            "B": np.zeros(1, np.float32),
            "post_scale": np.full(1, scale),
            "gate": np.ones((1, 1, 256, 256), dtype),
        }
        got = infer(open_session(model_of(case, inputs, dtype), ort_library), {n: inputs[n] for n in ("X", "gate")}).ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            expected = (numbers.astype(np.float32) * scale).astype(dtype)
        same = (got == expected) | (np.isnan(got.astype(np.float32)) & np.isnan(expected.astype(np.float32)))
        assert same.all(), (scale, numbers[~same][:10], got[~same][:10], expected[~same][:10])


def model_of(case: Case, inputs: dict[str, Any], dtype: Any) -> onnx.ModelProto:
    """The case's node over these inputs: X and gate from outside."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    live = ("X", "gate")
    graph = helper.make_graph(
        [make_node(INPUT_NAMES, ["Y"], case.attributes, "layer")],
        case.name,
        [helper.make_tensor_value_info(n, element, inputs[n].shape) for n in live],
        [helper.make_tensor_value_info("Y", element, None)],
        [numpy_helper.from_array(inputs[n], n) for n in INPUT_NAMES if n not in live],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def test_the_gate_is_decided_in_float32(ort_library: Path) -> None:
    """A logit of 2^-30, which float16 does not have, opens a pixel."""
    case = Case("tiny", "", c=1, k=1, kernel=(1, 1), pads=(0, 0, 0, 0), hw=(4, 4), gate_slope=1e30, gate_max=1.0)
    inputs = case.inputs(np.float16) | {
        "X": np.full((1, 1, 4, 4), 2**-15, np.float16),
        "gate_W": np.full((1, 1, 1, 1), 2**-15, np.float16),
        "gate_B": np.zeros(1, np.float32),
        "W": np.ones((1, 1, 1, 1), np.float16),
        "B": np.full(1, 3, np.float32),
        "gate": np.ones((1, 1, 4, 4), np.float16),
    }
    got = infer(open_session(model_of(case, inputs, np.float16), ort_library), {n: inputs[n] for n in ("X", "gate")})
    assert (got.astype(np.float32) == 3).all()
    assert ml_dtypes.bfloat16(2**-30) > 0  # bfloat16 has it


# ---- layers that the kernels do not take -----------------------------------------------------------------------------

TOO_LARGE = Case("large", "a kernel above 7 x 7", kernel=(9, 9), pads=(4, 4, 4, 4))


@pytest.fixture
def large(ort_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with such a layer, for lccl.ort.session and for lccl-compare."""
    monkeypatch.setenv(op_library.ENVIRONMENT, str(ort_library))
    monkeypatch.setattr(op_session, "_warned", set())
    onnx.save(case_model(TOO_LARGE)[0], tmp_path / "large.onnx")
    return tmp_path / "large.onnx"


def test_a_layer_that_the_kernels_do_not_take_runs_through_its_function(large: Path) -> None:
    reason = r"every pixel, through the op's function: .*LCCLConv layer: kernels are 1x1 to 7x7, not 9x9"
    with pytest.warns(RuntimeWarning, match=reason):
        session = lccl.ort.session(large, threads=1)
    assert session.get_session_options().intra_op_num_threads == 1
    (y,) = session.run(None, case_model(TOO_LARGE)[1])
    assert_close(y, lccl_conv(TOO_LARGE.inputs(), TOO_LARGE.attributes), np.float32)


def test_where_there_is_no_way_back_it_is_an_error(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the caller have the library already, nodes alone have no function, and a wrong instruction set is the user's to mend."""
    with pytest.raises(lccl.UserError, match="kernels are 1x1 to 7x7"):
        lccl.ort.session(large, options=onnxruntime.SessionOptions())
    with pytest.raises(lccl.UserError, match="kernels are 1x1 to 7x7"):
        lccl.ort.session(case_model(TOO_LARGE, function=False)[0])
    monkeypatch.setenv(op_library.ISA_ENVIRONMENT, "sse9")
    with pytest.raises(lccl.UserError, match="LCCL_CPU_ISA is sse9"):
        lccl.ort.session(case_model(BY_NAME["plain"])[0])


def test_options_are_for_one_session(ort_library: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    model = case_model(BY_NAME["plain"])[0]
    lccl.ort.session(model, options=options, library=ort_library)
    with pytest.raises(lccl.UserError, match="take new SessionOptions for each session"):
        lccl.ort.session(model, options=options, library=ort_library)


def test_it_is_compared_without_the_library(large: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **{name: np.repeat(a, 4, 0) for name, a in case_model(TOO_LARGE)[1].items()})
    result = lccl.compare(large, tmp_path / "data.npz", latency=None)
    assert [(row.runner, row.skipped is None) for row in result.rows] == [
        ("onnxruntime", True),
        ("onnxruntime-lccl", False),
        ("onnxruntime", True),
    ]
    assert "Not run: large.onnx (onnxruntime-lccl): " in str(result)
    assert "kernels are 1x1 to 7x7, not 9x9" in str(result)
