"""The model with relaxed gates: none jumps at its edge, so that rounding flips none."""

from __future__ import annotations

import onnx

from lccl.op.onnx_op import is_lccl_node, node_attributes


def has_hard_gates(model: onnx.ModelProto) -> bool:
    """Return whether the model has a hard gate, which jumps at its edge.

    A binary gate is one, and a gate with a threshold.
    """
    return any(map(is_hard, filter(is_lccl_node, model.graph.node)))


def is_hard(node: onnx.NodeProto) -> bool:
    """Return whether the gate of an LCCLConv node is hard."""
    attributes = node_attributes(node)
    return attributes.gate_slope > 1e3 or attributes.gate_threshold > 0


def with_relaxed_gates(model: onnx.ModelProto, *, hard_only: bool = False) -> onnx.ModelProto:
    """Return the model with every gate its logit, cut to 0 and 2, without a threshold.

    Without a bound, gates multiply what the next gates read, and a deep network overflows. With 2,
    gates that are full on one half of the pixels and closed on the other leave features as large
    as open gates do.

    Args:
        hard_only: change hard gates only.
    """
    relaxed = onnx.ModelProto()
    relaxed.CopyFrom(model)
    values = {"gate_slope": 1.0, "gate_max": 2.0, "gate_threshold": 0.0}
    for node in filter(is_lccl_node, relaxed.graph.node):
        if hard_only and not is_hard(node):
            continue
        kept = [a for a in node.attribute if a.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in values.items())])
    return relaxed
