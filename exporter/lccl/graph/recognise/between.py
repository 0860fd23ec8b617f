"""What stands between a convolution and the product that the op does not have there: the reason, and what to do."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from lccl.graph.nodes import is_computed, is_op, title
from lccl.graph.recognise.refusal import RefusalError
from lccl.graph.surgery import producer, stored_shape

CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv")
_ACTIVATIONS = (
    *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Gelu", "Mish", "Softplus", "Celu", "ThresholdedRelu"),
    *("Clip", "Min", "Max", "Relu", "LeakyRelu", "PRelu"),
)
_NORMS = ("InstanceNormalization", "GroupNormalization", "LayerNormalization")
_SUMS = ("Add", "Sub", "Sum")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")
_PASSED = (
    *(*_ACTIVATIONS, *_NORMS, *_SUMS, *_QUANTISED, "Transpose", "Mul", "Div", "BatchNormalization", "Identity", "Dropout"),
    *("Reshape", "Cast", "ReduceMean", "Sqrt"),
)
_REACH = 32
"""Nodes that are looked at for a convolution."""


def refuse_between(node: gs.Node) -> None:
    """Raises:
    RefusalError: a convolution of several channels is behind the node, and what the node does to it the op does not do.
    """
    passed = _before(node)
    conv = next((n for n in passed if is_op(n, *CONVOLUTIONS)), None)
    if is_op(node, "Reshape"):  # of groups, whose means are taken
        node = next((n for n in passed if is_op(n, "ReduceMean", *_NORMS)), node)
    if is_op(node, *_SUMS) and sum(map(is_computed, node.inputs)) < 2:  # a bias, of channels that are elsewhere
        node = next((n for n in passed if is_op(n, "Transpose")), node)
    reason = _reason(node, conv) if conv is not None else None
    if reason is not None:
        refusal = RefusalError(reason, 2)
        refusal.conv = conv
        raise refusal


_ELEMENTWISE = (
    *(
        "Abs",
        "Clip",
        "Elu",
        "Erf",
        "Exp",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Neg",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
    ),
    *("Tanh", "ThresholdedRelu", "Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Cast", "Not", "Where"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Identity"),
)


def is_activation(mul: gs.Node) -> bool:
    """x * f(x) with an elementwise f, such as SiLU or GELU: an activation of one branch, not a product of two."""
    return any(_is_function_of(mul.inputs[1 - place], mul.inputs[place]) for place in (0, 1))


def _is_function_of(tensor: gs.Tensor, x: gs.Tensor) -> bool:
    """Whether the tensor is computed from x alone, element by element."""
    waiting, seen = [tensor], {id(x)}
    while waiting:
        here = waiting.pop()
        if id(here) in seen or not is_computed(here):
            continue
        seen.add(id(here))
        node = producer(here)
        if node is None or not is_op(node, *_ELEMENTWISE):
            return False
        waiting.extend(node.inputs)
    return True


def _reason(node: gs.Node, conv: gs.Node) -> str | None:
    if is_op(node, *_ACTIVATIONS):
        return unknown_activation(node)
    if is_op(node, "ReduceMean", *_NORMS):
        return (
            f"{title(node)} takes means over all pixels of what {title(conv)} computes, so none can be skipped: use a BatchNorm"
        )
    if is_op(node, *_SUMS):
        return (
            f"{title(node)} adds to what {title(conv)} computes before the product, the op only after it: multiply the gate "
            "onto the convolution, then add"
        )
    if is_op(node, *_QUANTISED):
        return quantised(conv, node)
    if is_op(node, "Transpose"):
        return f"{title(node)} moves the channels between {title(conv)} and the product: export with channels first (NCHW)"
    return None


def unknown_activation(node: gs.Node) -> str:
    return f"{title(node)} is an activation that the op does not have (it has ReLU and LeakyReLU)"


def quantised(conv: gs.Node, by: gs.Node | None = None) -> str:
    """Of a convolution in integers."""
    return f"{title(conv)} is quantised{f' ({title(by)})' if by is not None else ''}, which the op is not: export in float"


def _before(node: gs.Node) -> list[gs.Node]:
    """The nodes that the node computes with, itself first, up to convolutions of several channels, over what is told of here."""
    found: list[gs.Node] = []
    waiting = [node]
    while waiting and len(found) < _REACH:
        here = waiting.pop(0)
        if any(here is n for n in found) or not is_op(here, *_PASSED, *CONVOLUTIONS) or _gives_one_channel(here):
            continue
        found.append(here)
        if not is_op(here, *CONVOLUTIONS):
            before = [producer(t) for t in here.inputs if is_computed(t)]
            waiting.extend(n for n in before if n is not None)
    return found


def _gives_one_channel(node: gs.Node) -> bool:
    """Whether it is a gate's convolution."""
    if not is_op(node, *CONVOLUTIONS):
        return False
    return (stored_shape(node.inputs[3 if node.op == "QLinearConv" else 1]) or (2,))[0] == 1
