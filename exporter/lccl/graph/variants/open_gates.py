"""The model with every gate 1, in nodes of the op: computes what the dense twin does."""

from __future__ import annotations

import numpy as np
import onnx

from lccl.graph.variants.relaxed import with_relaxed_gates
from lccl.op.contract import INPUT_NAMES
from lccl.op.onnx_op import is_lccl_node


def with_open_gates(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every gate 1, by a zero gate_W, a gate_B of 1 and no external map."""
    opened = with_relaxed_gates(model)
    one = [onnx.numpy_helper.from_array(np.ones(s, np.float32), f"open.{n}") for n, s in (("map", (1, 1, 1, 1)), ("gate_B", 1))]
    opened.graph.initializer.extend(one)
    nodes = list(opened.graph.node)
    del opened.graph.node[:]
    for i, node in enumerate(nodes):
        if is_lccl_node(node):
            places = {name: INPUT_NAMES.index(name) for name in ("gate_W", "gate_B", "gate")}
            weight = node.input[places["gate_W"]]
            opened.graph.node.append(onnx.helper.make_node("Sub", [weight, weight], [f"open.gate_W.{i}"]))
            opened.graph.node.append(onnx.helper.make_node("CastLike", ["open.map", weight], [f"open.gate.{i}"]))
            node.input[places["gate_W"]], node.input[places["gate"]] = f"open.gate_W.{i}", f"open.gate.{i}"
            node.input[places["gate_B"]] = "open.gate_B"
        opened.graph.node.append(node)
    return opened
