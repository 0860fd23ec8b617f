"""What TensorRT's parser refuses, in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper
from onnx import TensorProto as T

from conftest import Outcome
from lccl.backends.tensorrt.api import logger_of, parse
from lccl.backends.tensorrt.parser_errors import listed, refusals
from lccl.errors import UserError

LAST = "; export the network without what is refused, or run it in ONNX Runtime"


def model_of(
    *nodes: NodeProto, kind: int = T.FLOAT, domains: tuple[str, ...] = (), size: Any = (1, 3, 8, 8)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "refused",
        [helper.make_tensor_value_info("x", kind, size), helper.make_tensor_value_info("c", T.BOOL, [])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def det(source: str, target: str, name: str = "") -> NodeProto:
    return helper.make_node("Det", [source], [target], name)


def an_if() -> NodeProto:
    return helper.make_node(
        "If",
        ["c"],
        ["y"],
        "choice",
        **{
            f"{side}_branch": helper.make_graph(
                [det("x", side, f"det.{side}")], side, [], [helper.make_tensor_value_info(side, T.FLOAT, None)]
            )
            for side in ("then", "else")
        },
    )


MODELS = {
    "node head.det (Det): the op is not supported": model_of(
        helper.make_node("Relu", ["x"], ["r"], "first"), det("r", "y", "head.det")
    ),
    "node that gives y (Det): the op is not supported": model_of(helper.make_node("Relu", ["x"], ["r"]), det("r", "y")),
    "node a (Det): the op is not supported; node b (Unique): the op is not supported": model_of(
        det("x", "r", "a"), helper.make_node("Unique", ["r"], ["y"], "b")
    ),
    "node det.then (Det) in then (then_branch) in choice (If): the op is not supported": model_of(an_if()),
    "node own (Secret): the op is not supported, and there is no plugin of its name": model_of(
        helper.make_node("Secret", ["x"], ["y"], "own", domain="vendor"), domains=("vendor",)
    ),
    "node crop (Resize): TensorRT only supports half_pixel, .* align_corners transformation modes": model_of(
        helper.make_node("Resize", ["x", "", "scales"], ["y"], "crop", coordinate_transformation_mode="tf_crop_and_resize")
    ),
    "node text (Cast): Unsupported data type for the Cast operator": model_of(
        helper.make_node("Cast", ["x"], ["t"], "text", to=T.STRING), helper.make_node("Cast", ["t"], ["y"], "back", to=T.FLOAT)
    ),
    "node wide (Conv): Kernel weight dimension failed to broadcast to input": model_of(
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones((4, 5, 3, 3), np.float32))),
        helper.make_node("Conv", ["x", "w"], ["y"], "wide"),
    ),
    "input x: Failed to convert ONNX .* type to TensorRT data type": model_of(
        helper.make_node("Identity", ["x"], ["y"]), kind=T.UINT16
    ),
    "node 0 (Det): the op is not supported; node 1 (Det): .*; node 2 (Det): .*; and 37 more": model_of(
        *(det("x", f"d{i}" if i else "y", str(i)) for i in range(40))
    ),
}


@pytest.mark.parametrize("said", MODELS)
def test_the_parser_of_tensorrt_for_rtx(said: str) -> None:
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: pip install 'lccl[rtx]'")
    logger = logger_of(rtx, False)
    pattern = said.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=f"^TensorRT for RTX cannot read the model: {pattern}{LAST}$") as caught:
        parse(rtx, rtx.Builder(logger), MODELS[said], logger)
    refused: Any = caught.value.details["refused"]
    assert {key for item in refused for key in item} == {"where", "reason"}


def parser_of(*errors: object) -> SimpleNamespace:
    return SimpleNamespace(num_errors=len(errors), get_error=lambda i: errors[i])


def test_a_version_that_tells_less() -> None:
    """No name, no op, no stack: those come from the model."""
    model = model_of(helper.make_node("Relu", ["x"], ["r"]), det("r", "y"))
    error = SimpleNamespace(desc=lambda: "Assertion failed: false", node=lambda: 1)
    other = SimpleNamespace(desc=lambda: None, node=lambda: -1)
    beyond = SimpleNamespace(desc=lambda: "a\nb.", node=lambda: 9)
    assert listed(refusals(parser_of(error, other, beyond), model)) == (
        "node that gives y (Det): the op is not supported; the graph: the op is not supported; "
        "node 9 (an op without a name): a b"
    )


@pytest.mark.slow
def test_the_command(tmp_path: Path, invoke: Callable[..., Outcome]) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    onnx.save(model_of(det("x", "y", "head.det"), size=["n", 3, 8, 8]), tmp_path / "m.onnx")
    options = ("--backend", "tensorrt-rtx", "--compute-capability", "8.9", "--json")
    outcome = invoke("lccl.cli.build_engine", tmp_path / "m.onnx", *options)
    assert outcome.code == 1
    said = json.loads(outcome.out)
    assert said["refused"] == [{"where": "node head.det (Det)", "reason": "the op is not supported"}]
    assert said["error"] in outcome.err
