"""The traced network with relaxed gates in its own standard ops.

A rewrite of hard gates is checked with it at every pixel.

As built, such a check compares little more than which pixels are open.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper

from lccl.files.external import array
from lccl.graph.inputs import input_types
from lccl.graph.op_sets import CONSTANT_COPIES, CONSTANT_SOURCES, GREATER, LESS, WHOLE_MAP_MOVES
from lccl.graph.recognise import RecognisedLayer
from lccl.graph.variants.relaxed import is_hard, with_relaxed_gates
from lccl.op.onnx_op import is_lccl_node

_AFFINE = WHOLE_MAP_MOVES | {"Add", "BatchNormalization", "Div", "Mul", "Neg", "Sub"}
"""If only these follow the convolution, the logit of the rewrite is the compared value less the
threshold."""


@dataclass(frozen=True)
class Tensors:
    """Where each tensor of a model comes from."""

    made: Mapping[str, NodeProto]
    """Computed tensor -> the node that gives it."""
    given: Container[str]
    """The network's inputs."""

    @staticmethod
    def of(model: onnx.ModelProto) -> Tensors:
        return Tensors({name: node for node in model.graph.node for name in node.output}, input_types(model))

    def is_constant(self, tensor: str) -> bool:
        """Return whether the tensor's values depend on no input; its shape may."""
        node = self.made.get(tensor)
        if node is None:
            return tensor not in self.given
        return node.op_type in CONSTANT_SOURCES or (node.op_type in CONSTANT_COPIES and self.is_constant(node.input[0]))

    def kept_choice(self, where: NodeProto) -> int | None:
        """Return the place, 1 or 2, of the only operand of a Where that is no constant, or None."""
        computed = [place for place in (1, 2) if not self.is_constant(where.input[place])]
        return computed[0] if len(computed) == 1 else None

    def past(self, tensor: str, ops: Container[str]) -> NodeProto | None:
        """Return the node before a chain of these ops, or None.

        Each of them has one computed operand.
        """
        node = self.made.get(tensor)
        while node is not None and node.op_type in ops:
            read = node.input[:1] if node.op_type in WHOLE_MAP_MOVES else node.input
            computed = [self.made[name] for name in read if name in self.made and self.made[name].op_type != "Constant"]
            node = computed[0] if len(computed) == 1 else None
        return node


def with_relaxed_products(
    traced: onnx.ModelProto, layers: Sequence[RecognisedLayer], whole: onnx.ModelProto
) -> onnx.ModelProto | None:
    """Return the traced network with x - c, cut to 0 and 2, for each hard gate x > c.

    That is what ``with_relaxed_gates`` makes of the gate's node.

    Args:
        traced: the network as it was given.
        layers: the layers that were recognised in it.
        whole: the network with their nodes.

    Returns:
        A copy; None if a hard gate is written in another form.
    """
    hard = {n.name for n in whole.graph.node if is_lccl_node(n) and is_hard(n)}
    out = with_relaxed_gates(traced, hard_only=True)
    tensors = Tensors.of(out)
    for layer in layers:
        if layer.name in hard and not _relax(out, tensors, layer):
            return None
    return out


def _is_zero(tensor: str, model: onnx.ModelProto, tensors: Tensors) -> bool:
    """Return whether the tensor is a stored constant of zeros."""
    stored = next((t for t in model.graph.initializer if t.name == tensor), None)
    node = tensors.made.get(tensor)
    if node is not None and node.op_type == "Constant":
        stored = node.attribute[0].t
    return stored is not None and not array(stored).any()


def _relax(model: onnx.ModelProto, tensors: Tensors, layer: RecognisedLayer) -> bool:
    """Relax the layer's only gate in place, and return whether that could be done."""
    product = tensors.made.get(layer.gates[0][0])
    if product is None or len(layer.gates) > 1:
        return False
    place = layer.gates[0][1]
    mask = product if product.op_type == "Where" else tensors.past(product.input[place], WHOLE_MAP_MOVES)
    if mask is None or mask.op_type not in ("Cast", "Where"):
        return False
    kept = tensors.kept_choice(mask) if mask.op_type == "Where" else None
    zero_first = mask.op_type == "Where" and kept is None and _is_zero(mask.input[1], model, tensors)
    above = _above(mask.input[0], tensors, open_where=kept != 2 and not zero_first)
    if above is None:
        return False
    difference, half, logit = (f"relaxed.{mask.output[0]}.{part}" for part in ("above", "half", "logit"))
    index = next(i for i, node in enumerate(model.graph.node) if mask.output[0] in node.output)
    if mask is not product and kept is not None and mask.input[kept] in above:
        difference = mask.input[kept]
        mask.op_type, mask.input[:] = "Identity", [logit]
    elif kept is not None:
        mask.op_type, mask.input[:] = "Mul", [mask.input[kept], logit]
    elif mask.op_type == "Where":
        mask.op_type, mask.input[:] = "CastLike", [logit, mask.input[1 + zero_first]]
    else:
        mask.input[0] = logit
    model.graph.node.insert(index, helper.make_node("Add", [half, half], [logit]))
    model.graph.node.insert(index, helper.make_node("HardSigmoid", [difference], [half], alpha=0.5, beta=0.0))
    if difference not in above:
        model.graph.node.insert(index, helper.make_node("Sub", above, [difference]))
    return True


def _above(condition: str, tensors: Tensors, *, open_where: bool) -> list[str] | None:
    """Return two tensors such that the gate is open where the first is above the second.

    The result is None if the condition is no such comparison.

    Args:
        condition: the gate's condition.
        open_where: whether the gate is open where the condition is true.
    """
    compared = tensors.made.get(condition)
    while compared is not None and compared.op_type in ("Identity", "Not"):
        open_where ^= compared.op_type == "Not"
        compared = tensors.made.get(compared.input[0])
    if compared is None or compared.op_type not in GREATER | LESS:
        return None
    conv = tensors.past(next((name for name in compared.input if not tensors.is_constant(name)), ""), _AFFINE)
    if conv is None or conv.op_type != "Conv":
        return None
    pair = list(compared.input)
    return pair if open_where == (compared.op_type in GREATER) else pair[::-1]
