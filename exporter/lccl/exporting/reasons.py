"""The reason why each dense convolution of an export has no gate, from near misses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import onnx

from lccl.graph.layers import LayerReport, describe_layers, weight_shapes
from lccl.graph.op_sets import REPORTED_CONVOLUTIONS
from lccl.graph.recognise import NearMiss
from lccl.op.contract import INPUT_NAMES
from lccl.op.onnx_op import is_lccl_node


def layers_with_reasons(model: onnx.ModelProto, near_misses: Sequence[NearMiss]) -> tuple[LayerReport, ...]:
    """Return every convolution of the canonical model in order.

    A dense convolution carries its near miss's reason, or the name of the layer whose gate it
    computes.
    """
    nodes = [node for node in model.graph.node if is_lccl_node(node) or _is_convolution(node)]
    refused = {miss.conv or miss.node: miss.reason for miss in reversed(near_misses)}
    gates = _gate_convolutions(model, near_misses)
    return tuple(
        layer if layer.gated else replace(layer, reason=refused.get(_name(node)) or gates.get(_name(node)) or layer.reason)
        for node, layer in zip(nodes, describe_layers(model), strict=True)
    )


def _gate_convolutions(model: onnx.ModelProto, near_misses: Sequence[NearMiss]) -> dict[str, str]:
    """Map each convolution that a gate is computed from to a sentence that says so."""
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = weight_shapes(model)
    refused = {miss.node: miss.conv for miss in near_misses if miss.conv}
    told: dict[str, str] = {}
    for node in model.graph.node:
        gated = _name(node) if is_lccl_node(node) else refused.get(_name(node))
        if gated is None:
            continue
        read = [node.input[INPUT_NAMES.index("gate")]] if is_lccl_node(node) else node.input
        for conv in _nearest_convolutions(makers, read):
            if weights.get(conv.input[1], (0,))[0] == 1:
                told.setdefault(_name(conv), f"it computes the gate of {gated}")
    return told


def _nearest_convolutions(makers: dict[str, onnx.NodeProto], tensors: Iterable[str]) -> Iterator[onnx.NodeProto]:
    """Yield the first convolution on each way back from the tensors."""
    ahead, seen = [*tensors], set()
    while ahead:
        node = makers.get(ahead.pop())
        if node is None or id(node) in seen or is_lccl_node(node):
            continue
        seen.add(id(node))
        if _is_convolution(node):
            yield node
        else:
            ahead.extend(node.input)


def _is_convolution(node: onnx.NodeProto) -> bool:
    return node.op_type in REPORTED_CONVOLUTIONS and not node.domain


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
