"""Which layers may write their output over their residual, and the field that tells the plugin so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx
from onnx import helper

from lccl.op.contract import INPUT_NAMES
from lccl.op.onnx_op import is_lccl_node

FIELD = "alias_residual"
"""A field of the TensorRT plugin, not of the contract: it says where memory lies, nothing of the op's meaning."""
_RESIDUAL = INPUT_NAMES.index("residual")


def residuals_in_place(model: onnx.ModelProto) -> tuple[str, ...]:
    """Outputs of the LCCLConv nodes whose residual nobody else reads: no other node, no caller of the network.

    A neutral residual is a stored constant, so it is none of these.
    """
    readers = Counter(name for node in model.graph.node for name in node.input)
    readers.update(value.name for value in model.graph.output)
    kept = {t.name for t in model.graph.initializer} | {v.name for v in model.graph.input}
    kept |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    return tuple(
        node.output[0]
        for node in model.graph.node
        if is_lccl_node(node) and readers[node.input[_RESIDUAL]] == 1 and node.input[_RESIDUAL] not in kept
    )


def with_alias_field(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """The model with the plugin's field on every LCCLConv node: 1 where its output is one of these, else 0."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in filter(is_lccl_node, out.graph.node):
        node.attribute.append(helper.make_attribute(FIELD, int(node.output[0] in outputs)))
    return out
