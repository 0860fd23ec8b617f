"""The model in standard ops: for TensorRT for RTX, and for TensorRT without the plugin.

Their parser drops ``strides`` and ``dilations`` that a function body takes from the call. So the
function body is inlined, constants get the one form that the parser reads, and ops that a node does
not need are dropped.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from onnx import helper

from lccl.graph.constants import constant, fold_constants, value_of
from lccl.graph.conversion import plain_constants, to_graph, to_model
from lccl.graph.nodes import producer
from lccl.graph.rewriting import apply_rules
from lccl.op.contract import DOMAIN, FLT_MAX, OUTPUT_NAME, VERSION
from lccl.op.onnx_function import attach_function
from lccl.op.onnx_op import is_lccl_node

_HIDDEN = "lccl.hidden"
"""A domain without functions, for nodes that are not to be inlined."""


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in standard ops only, without those that are neutral for a node."""
    flat = onnx.inliner.inline_local_functions(model)
    names = _name_inlined_nodes(flat, model)
    plain_constants(flat)
    graph = to_graph(flat)
    apply_rules(graph, (_cast_like,), names)
    fold_constants(graph)
    apply_rules(graph, (_constant_logit,), names)
    fold_constants(graph)
    while apply_rules(graph, _NEUTRAL, names):
        fold_constants(graph)
    graph.functions.clear()
    graph.import_domains = [o for o in graph.import_domains or [] if o.domain != DOMAIN]
    return to_model(graph, model)


def inlined_nodes(model: onnx.ModelProto, names: Container[str]) -> onnx.ModelProto:
    """Return the model with the LCCLConv nodes of these names in standard ops.

    The model states the shapes of its tensors, since those behind the other nodes are not inferred.
    """
    hidden = onnx.ModelProto()
    hidden.CopyFrom(model)
    for node in filter(is_lccl_node, hidden.graph.node):
        if node.name not in names:
            node.domain = _HIDDEN
    hidden.opset_import.append(helper.make_opsetid(_HIDDEN, VERSION))
    out = inlined(hidden)
    for node in out.graph.node:
        if node.domain == _HIDDEN:
            node.domain = DOMAIN
    kept = [o for o in out.opset_import if o.domain != _HIDDEN]
    del out.opset_import[:]
    out.opset_import.extend(kept)
    attach_function(out)
    return out


def _name_inlined_nodes(flat: onnx.ModelProto, model: onnx.ModelProto) -> set[str]:
    """Name the nodes that LCCLConv calls became "<layer>/<value>", and return the names.

    The inliner leaves them unnamed, in the call's place, with the call's own output last. Only
    these nodes may be rewritten: an op that is neutral in the function body may do something
    elsewhere in the network.
    """
    layers = {n.output[0]: n.name for n in model.graph.node if is_lccl_node(n)}
    present = {value for n in model.graph.node for value in n.output}
    names: set[str] = set()
    pending: list[onnx.NodeProto] = []
    for node in flat.graph.node:
        if node.output[0] not in present:
            pending.append(node)
            continue
        layer = layers.get(node.output[0])
        for part in [*pending, node] if layer is not None else ():
            value = OUTPUT_NAME if part is node else part.output[0].rpartition("__")[0] or part.output[0]
            part.name = f"{layer}/{value}"
            names.add(part.name)
        pending.clear()
    return names


# ---- rules: each returns the tensor that replaces the node's output, or None ---------------------


def _cast_like(node: gs.Node) -> gs.Tensor | None:
    """Turn CastLike(a, b) into Cast(a) if b's type is known, so that a can be folded."""
    if node.op != "CastLike" or node.inputs[1].dtype is None:
        return None
    node.op, node.attrs = "Cast", {"to": _onnx_type(node.inputs[1].dtype)}
    node.inputs = [node.inputs[0]]
    return None


def _constant_logit(node: gs.Node) -> gs.Tensor | None:
    """Replace the convolution of a neutral gate by its bias.

    It has zero weights and is multiplied onto a computed map.
    """
    if node.op != "Conv" or len(node.inputs) != 3:
        return None
    weight, bias = value_of(node.inputs[1]), value_of(node.inputs[2])
    if weight is None or bias is None or weight.shape[0] != 1 or weight.any():
        return None
    end = node.outputs[0]
    passed: list[gs.Tensor] = []
    while len(end.outputs) == 1 and end.outputs[0].op in ("Mul", "Relu", "Min"):
        reader = end.outputs[0]
        others = [t for t in reader.inputs if t is not end]
        if reader.op == "Mul" and others and value_of(others[0]) is None:
            if others[0].shape is None or tuple(others[0].shape) == (1, 1, 1, 1):
                return None
            for tensor in passed:
                assert isinstance(tensor, gs.Variable), "a node gives it"
                tensor.shape = None  # it was the map's; the constant has one element
            return constant(f"{node.name}.logit", bias.reshape(1, 1, 1, 1))
        end = reader.outputs[0]
        passed.append(end)
    return None


def _drop_binary(node: gs.Node) -> gs.Tensor | None:
    """Drop x * 1, x + 0 and min(x, FLT_MAX) with a constant of one element."""
    neutral = {"Mul": 1.0, "Add": 0.0, "Min": FLT_MAX}.get(node.op)
    if neutral is None or len(node.inputs) != 2:
        return None
    for tensor, other in (node.inputs, node.inputs[::-1]):
        values = value_of(other)
        if values is not None and values.size == 1 and np.float32(values.astype(np.float32).item()) == np.float32(neutral):
            same_rank = tensor.shape is None or values.ndim <= len(tensor.shape)
            return tensor if same_rank else None
    return None


def _drop_leaky(node: gs.Node) -> gs.Tensor | None:
    """Drop a LeakyRelu with alpha 1, and make one with alpha 0 a Relu."""
    if node.op != "LeakyRelu":
        return None
    alpha = node.attrs.get("alpha", 0.01)
    if alpha == 1:
        return node.inputs[0]
    if alpha == 0:
        node.op, node.attrs = "Relu", {}
    return None


def _drop_threshold(node: gs.Node) -> gs.Tensor | None:
    """Drop a ThresholdedRelu with alpha 0 of a gate, which is at least 0 anyway.

    The Where behind it closes a NaN gate.
    """
    return node.inputs[0] if node.op == "ThresholdedRelu" and node.attrs.get("alpha", 1.0) == 0 else None


def _drop_upsampling(node: gs.Node) -> gs.Tensor | None:
    """Drop a Resize by 1 with its Slice: the map of a gate per pixel has the output's size."""
    if node.op != "Slice":
        return None
    resize = producer(node.inputs[0])
    if resize is None or resize.op != "Resize" or len(resize.inputs) < 3:
        return None
    scales = value_of(resize.inputs[2])
    return resize.inputs[0] if scales is not None and scales.size and (scales == 1).all() else None


def _drop_cast(node: gs.Node) -> gs.Tensor | None:
    """Drop a Cast to the type that the tensor has."""
    if node.op != "Cast" or node.inputs[0].dtype is None:
        return None
    return node.inputs[0] if _onnx_type(node.inputs[0].dtype) == node.attrs["to"] else None


_NEUTRAL = (_drop_cast, _drop_binary, _drop_leaky, _drop_threshold, _drop_upsampling)


def _onnx_type(dtype: object) -> int:
    """Return ONNX's number of a type.

    graphsurgeon gives a NumPy type, or ONNX's number if NumPy has none (bfloat16).
    """
    return dtype if isinstance(dtype, int) else int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))  # type: ignore[call-overload]
