"""Hard gates without their jump, in a graph of standard ops: what a rewrite of them is held against besides its decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto, helper

from lccl.graph.recognise import Found
from lccl.op.onnx_op import is_lccl_node
from lccl.verify import is_hard, with_soft_gates

_MOVES = ("Identity", "Expand", "Reshape", "Resize", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Upsample")
_AFFINE = (*_MOVES, "Add", "BatchNormalization", "Div", "Mul", "Neg", "Sub")
"""Behind these alone the logit of the rewrite is the compared value less the number that it is compared with."""


def with_soft_products(traced: onnx.ModelProto, layers: Sequence[Found], whole: onnx.ModelProto) -> onnx.ModelProto | None:
    """The traced network with ReLU(x - c) for each hard gate x > c, as ``with_soft_gates`` makes of its node.

    Args:
        layers: that were recognised.
        whole: the network with their nodes.

    Returns:
        A copy; None where a hard gate is not that plain.
    """
    hard = {n.name for n in whole.graph.node if is_lccl_node(n) and is_hard(n)}
    out = with_soft_gates(traced, hard_only=True)
    made = {name: node for node in out.graph.node for name in node.output}
    for layer in layers:
        if layer.name in hard and not _soften(out, made, layer):
            return None
    return out


def _soften(model: onnx.ModelProto, made: Mapping[str, NodeProto], layer: Found) -> bool:
    """Whether the layer's only gate could be softened in place."""
    product = made.get(layer.gates[0][0])
    if product is None or len(layer.gates) > 1:
        return False
    mask = _past(product.input[layer.gates[0][1]], made, _MOVES)
    if mask is None or mask.op_type not in ("Cast", "Where"):
        return False
    compared = made.get(mask.input[0])
    if compared is None or compared.op_type not in ("Greater", "Less"):
        return False
    conv = _past(next((name for name in compared.input if name in made), ""), made, _AFFINE)
    if conv is None or conv.op_type != "Conv":
        return False
    less, more = compared.input if compared.op_type == "Less" else reversed(compared.input)
    above, logit = (f"soft.{compared.output[0]}.{part}" for part in ("above", "logit"))
    place = next(i for i, node in enumerate(model.graph.node) if mask.output[0] in node.output)
    if mask.op_type == "Where":
        mask.op_type, mask.input[:] = "CastLike", [logit, mask.input[1]]
    else:
        mask.input[0] = logit
    model.graph.node.insert(place, helper.make_node("Relu", [above], [logit]))
    model.graph.node.insert(place, helper.make_node("Sub", [more, less], [above]))
    return True


def _past(tensor: str, made: Mapping[str, NodeProto], ops: Sequence[str]) -> NodeProto | None:
    """The node behind a chain of these ops, of which each computes with one computed tensor."""
    node = made.get(tensor)
    while node is not None and node.op_type in ops:
        computed = [made[name] for name in node.input if name in made and made[name].op_type != "Constant"]
        if node.op_type in _MOVES:
            computed = [made[node.input[0]]] if node.input[0] in made else []
        node = computed[0] if len(computed) == 1 else None
    return node
