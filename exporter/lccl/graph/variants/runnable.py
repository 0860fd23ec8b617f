"""The model with the op's function in it, which ONNX Runtime runs without the op's library."""

from __future__ import annotations

import onnx

from lccl.op.contract import DOMAIN, OP_TYPE
from lccl.op.onnx_function import attach_function
from lccl.op.onnx_op import is_lccl_node


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the op's function.

    It is the model itself, not a copy, if that has the function or needs none.
    """
    needs = any(is_lccl_node(n) for n in model.graph.node)
    if not needs or any(f.name == OP_TYPE and f.domain == DOMAIN for f in model.functions):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    attach_function(out)
    return out
