"""Hard gates without their jump, in a graph of standard ops: what a rewrite of them is held against besides its decisions."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper

from lccl.graph.feeds import input_types
from lccl.graph.recognise import Found
from lccl.graph.variants.relaxed import is_hard, with_relaxed_gates
from lccl.op.onnx_op import is_lccl_node
from lccl.weights import array

_MOVES = ("Identity", "Expand", "Reshape", "Resize", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Upsample")
_AFFINE = (*_MOVES, "Add", "BatchNormalization", "Div", "Mul", "Neg", "Sub")
"""Behind these alone the logit of the rewrite is the compared value less the number that it is compared with."""
_ABOVE, _BELOW = ("Greater", "GreaterOrEqual"), ("Less", "LessOrEqual")
_CONSTANT = ("Cast", "Constant", "ConstantOfShape", "Expand", "Identity")
"""What a constant of a Where is made of, where it is no stored tensor."""


@dataclass(frozen=True)
class Tensors:
    """What each tensor of a model is."""

    made: Mapping[str, NodeProto]
    """A computed tensor -> the node that gives it."""
    given: Container[str]
    """The network's inputs."""

    @staticmethod
    def of(model: onnx.ModelProto) -> Tensors:
        return Tensors({name: node for node in model.graph.node for name in node.output}, input_types(model))

    def is_constant(self, tensor: str) -> bool:
        """Whether the tensor depends on no input; a shape that does is not looked at."""
        node = self.made.get(tensor)
        if node is None:
            return tensor not in self.given
        return node.op_type in ("Constant", "ConstantOfShape") or (
            node.op_type in _CONSTANT and self.is_constant(node.input[0])
        )

    def kept_choice(self, where: NodeProto) -> int | None:
        """The place of what a Where chooses besides a constant: 1, where its condition is true, or 2. None for two or none."""
        computed = [place for place in (1, 2) if not self.is_constant(where.input[place])]
        return computed[0] if len(computed) == 1 else None

    def past(self, tensor: str, ops: Sequence[str]) -> NodeProto | None:
        """The node behind a chain of these ops, of which each computes with one computed tensor."""
        node = self.made.get(tensor)
        while node is not None and node.op_type in ops:
            read = node.input[:1] if node.op_type in _MOVES else node.input
            computed = [self.made[name] for name in read if name in self.made and self.made[name].op_type != "Constant"]
            node = computed[0] if len(computed) == 1 else None
        return node


def with_relaxed_products(traced: onnx.ModelProto, layers: Sequence[Found], whole: onnx.ModelProto) -> onnx.ModelProto | None:
    """The traced network with ReLU(x - c) for each hard gate x > c, as ``with_relaxed_gates`` makes of its node.

    Args:
        layers: that were recognised.
        whole: the network with their nodes.

    Returns:
        A copy; None where a hard gate is not that plain.
    """
    hard = {n.name for n in whole.graph.node if is_lccl_node(n) and is_hard(n)}
    out = with_relaxed_gates(traced, hard_only=True)
    tensors = Tensors.of(out)
    for layer in layers:
        if layer.name in hard and not _soften(out, tensors, layer):
            return None
    return out


def _is_zero(tensor: str, model: onnx.ModelProto, tensors: Tensors) -> bool:
    """Whether a constant is 0 everywhere, where it is stored as it is."""
    stored = next((t for t in model.graph.initializer if t.name == tensor), None)
    node = tensors.made.get(tensor)
    if node is not None and node.op_type == "Constant":
        stored = node.attribute[0].t
    return stored is not None and not array(stored).any()


def _soften(model: onnx.ModelProto, tensors: Tensors, layer: Found) -> bool:
    """Whether the layer's only gate could be softened in place."""
    product = tensors.made.get(layer.gates[0][0])
    if product is None or len(layer.gates) > 1:
        return False
    place = layer.gates[0][1]
    mask = product if product.op_type == "Where" else tensors.past(product.input[place], _MOVES)
    if mask is None or mask.op_type not in ("Cast", "Where"):
        return False
    kept = tensors.kept_choice(mask) if mask.op_type == "Where" else None
    zero_first = mask.op_type == "Where" and kept is None and _is_zero(mask.input[1], model, tensors)
    above = _above(mask.input[0], tensors, open_where=kept != 2 and not zero_first)
    if above is None:
        return False
    if mask is not product and kept is not None and mask.input[kept] in above:
        mask.op_type, mask.input[:] = "Relu", [mask.input[kept]]
        return True
    difference, logit = (f"soft.{mask.output[0]}.{part}" for part in ("above", "logit"))
    if kept is not None:
        mask.op_type, mask.input[:] = "Mul", [mask.input[kept], logit]
    elif mask.op_type == "Where":
        mask.op_type, mask.input[:] = "CastLike", [logit, mask.input[1 + zero_first]]
    else:
        mask.input[0] = logit
    index = next(i for i, node in enumerate(model.graph.node) if mask.output[0] in node.output)
    model.graph.node.insert(index, helper.make_node("Relu", [difference], [logit]))
    model.graph.node.insert(index, helper.make_node("Sub", above, [difference]))
    return True


def _above(condition: str, tensors: Tensors, *, open_where: bool) -> list[str] | None:
    """The two tensors of which the gate is open where the first is above the second; None where they are not that plain."""
    compared = tensors.made.get(condition)
    while compared is not None and compared.op_type in ("Identity", "Not"):
        open_where ^= compared.op_type == "Not"
        compared = tensors.made.get(compared.input[0])
    if compared is None or compared.op_type not in (*_ABOVE, *_BELOW):
        return None
    conv = tensors.past(next((name for name in compared.input if not tensors.is_constant(name)), ""), _AFFINE)
    if conv is None or conv.op_type != "Conv":
        return None
    pair = list(compared.input)
    return pair if open_where == (compared.op_type in _ABOVE) else pair[::-1]
