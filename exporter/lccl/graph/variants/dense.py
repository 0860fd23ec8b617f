"""The dense twin: the same network with every gate 1, in standard ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lccl.errors import UserError
from lccl.graph.constants import constant, value_of
from lccl.graph.conversion import to_graph, to_model
from lccl.graph.nodes import attributes_of, is_lccl
from lccl.numerics import Array
from lccl.op.contract import DOMAIN, INPUT_NAMES, OP_TYPE


def dense_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in standard ops, with every gate 1.

    Every LCCLConv becomes Conv, activation, affine, residual and activation.

    Raises:
        UserError: weights are computed in the graph instead of stored.
    """
    graph = to_graph(model)
    for node in [n for n in graph.nodes if is_lccl(n)]:
        replace_by_dense(graph, node)
    graph.functions = [f for f in graph.functions if (f.domain, f.name) != (DOMAIN, OP_TYPE)]
    twin = to_model(graph, model)
    kept = [o for o in twin.opset_import if o.domain != DOMAIN]
    del twin.opset_import[:]
    twin.opset_import.extend(kept)
    return twin


def replace_by_dense(graph: gs.Graph, node: gs.Node) -> None:
    """Replace a node of the op by what it computes with every gate 1, in standard ops.

    Raises:
        UserError: its weights are computed in the graph.
    """
    a = attributes_of(node)
    inputs = dict(zip(INPUT_NAMES, node.inputs, strict=True))
    values = {name: value_of(inputs[name]) for name in ("W", "B", "post_scale", "post_bias")}
    stored = [v for v in values.values() if v is not None]
    if len(stored) != len(values):
        raise UserError(f"{node.name}: W, B, post_scale and post_bias must be constants for a dense twin; fold the model first")
    element = stored[0].dtype
    w, b, scale, shift = (v.astype(np.float64) for v in stored)
    fold_post = a.activation_alpha == 1
    if fold_post:
        w, b = w * np.reshape(scale, (-1, 1, 1, 1)), b * scale + shift
    output = node.outputs[0]
    node.outputs.clear()
    chain = _Chain(graph, node.name, inputs["X"], element)
    chain.add(
        "Conv",
        [chain.constant("weight", w.transpose(0, 3, 1, 2)), chain.constant("bias", b)],
        strides=list(a.strides),
        pads=list(a.pads),
        dilations=list(a.dilations),
        kernel_shape=list(w.shape[1:3]),
    )
    chain.leaky(a.activation_alpha)
    if not fold_post:
        _post_affine(chain, scale, shift)
    residual = inputs["residual"]
    neutral = value_of(residual)
    if neutral is None or neutral.any():
        chain.add("Add", [residual])
    chain.leaky(a.post_alpha)
    chain.finish(output)


def _post_affine(chain: _Chain, scale: Array, shift: Array) -> None:
    if (scale != 1).any():
        chain.add("Mul", [chain.constant("post_scale", np.reshape(scale, (1, -1, 1, 1)))])
    if shift.any():
        chain.add("Add", [chain.constant("post_bias", np.reshape(shift, (1, -1, 1, 1)))])


class _Chain:
    """Standard nodes, each of which reads the one before."""

    def __init__(self, graph: gs.Graph, name: str, start: gs.Tensor, element: np.dtype[Any]) -> None:
        self.graph, self.name, self.tensor, self.element = graph, name, start, element
        self.ops: list[str] = []

    def constant(self, suffix: str, values: Array) -> gs.Constant:
        return constant(f"{self.name}.{suffix}", values, self.element)

    def add(self, op: str, more: list[gs.Tensor], **attributes: object) -> None:
        self.ops.append(op)
        repeated = self.ops.count(op)
        name = self.name if op == "Conv" else f"{self.name}.{op}" + (f"_{repeated}" if repeated > 1 else "")
        out = gs.Variable(f"{self.name}.{op}_{repeated}.out", dtype=self.element)
        self.graph.nodes.append(gs.Node(op, name, attributes, [self.tensor, *more], [out]))
        self.tensor = out

    def leaky(self, alpha: float) -> None:
        if alpha == 0:
            self.add("Relu", [])
        elif alpha != 1:
            self.add("LeakyRelu", [], alpha=alpha)

    def finish(self, output: gs.Tensor) -> None:
        last = self.graph.nodes[-1]
        last.outputs = [output]
