"""Small ONNX models for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lccl.op.contract import DOMAIN, INPUT_NAMES, VERSION, output_shape
from lccl.op.layout_op import DENSE_OP, FROM_NCHW, LAYOUT_DOMAIN, attach_layout_functions, permutations
from lccl.op.onnx_function import attach_function
from lccl.op.onnx_op import IR_VERSION, OPSET, make_node
from support.cases.op_cases import Case

RUNTIME_INPUTS = ("X", "gate", "residual")
"""Computed in real networks, so graph inputs here where they are not neutral; all others are
initializers."""


def case_model(
    case: Case, dtype: Any = np.float32, *, dynamic: bool = True, function: bool = True
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """One node of the case, and its feed."""
    inputs = case.inputs(dtype)
    live = [name for name in RUNTIME_INPUTS if name == "X" or inputs[name].size > 1]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    symbols = {"X": ["N", case.c, "H", "W_"], "gate": ["N", 1, "Hg", "Wg"], "residual": ["N", case.k, "Ho", "Wo"]}
    y = output_shape({name: a.shape for name, a in inputs.items()}, case.attributes)
    graph = helper.make_graph(
        [make_node(INPUT_NAMES, ["Y"], case.attributes, "layer")],
        case.name,
        [helper.make_tensor_value_info(n, element, symbols[n] if dynamic else inputs[n].shape) for n in live],
        [helper.make_tensor_value_info("Y", element, ["N", case.k, "Ho_", "Wo_"] if dynamic else y)],
        [numpy_helper.from_array(a, name) for name, a in inputs.items() if name not in live],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    if function:
        attach_function(model)
    return model, {name: inputs[name] for name in live}


def op_types(model: onnx.ModelProto) -> list[str]:
    """Of the graph's nodes, in order."""
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, feed: Mapping[str, Any]) -> Any:
    """The first output in ONNX Runtime."""
    from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner

    with OnnxRuntimeRunner(model) as runner:
        return next(iter(runner.infer(feed).values()))


def layout_model(
    case: Case, dtype: Any = np.float32, *, x_last: bool, y_last: bool, dense: bool = False, dynamic: bool = True
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """One node of the private domain: the case with X, and with Y and the residual, in a layout; and its feed.

    Args:
        case: of the contract's op.
        dtype: T.
        x_last, y_last: whether the channels are innermost.
        dense: the convolution without a gate; the case's gate is left out.
        dynamic: whether sizes of the inputs are open.
    """
    model, feed = case_model(case, dtype, dynamic=dynamic)
    (node,) = model.graph.node
    node.domain, node.op_type = LAYOUT_DOMAIN, DENSE_OP if dense else node.op_type
    node.attribute.extend(helper.make_attribute(name, value) for name, value in permutations(x_last, y_last).items())
    last = {"X": x_last, "residual": y_last, "Y": y_last}
    for value in (*model.graph.input, *model.graph.output):
        if last.get(value.name):
            dims = [value.type.tensor_type.shape.dim[axis] for axis in FROM_NCHW]
            moved = [d.dim_param or d.dim_value for d in dims]
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, moved))
    attach_layout_functions(model)
    changed = {name: np.ascontiguousarray(a.transpose(FROM_NCHW)) if last.get(name) else a for name, a in feed.items()}
    return model, changed
