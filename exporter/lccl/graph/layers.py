"""The table of a model's convolutions: gated, or dense with the reason."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from lccl.graph.op_sets import REPORTED_CONVOLUTIONS
from lccl.op.onnx_op import is_lccl_node, node_attributes


@dataclass(frozen=True)
class LayerReport:
    """One convolution of the exported model."""

    name: str
    kernel: tuple[int, int]
    in_channels: int
    out_channels: int
    strides: tuple[int, int]
    gated: bool
    gate: str
    """Kernel of the fused gate ("3x3", "4x4 per 4x4 block") or "external"; empty without a gate."""
    reason: str
    """Why it has no gate; empty for a gated layer."""


def describe_layers(model: onnx.ModelProto) -> tuple[LayerReport, ...]:
    """Return a row for every Conv, ConvTranspose and LCCLConv of the canonical model, in order."""
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    reports = []
    for node in model.graph.node:
        if is_lccl_node(node):
            reports.append(_gated(node, weights))
        elif node.op_type in REPORTED_CONVOLUTIONS and node.domain == "":
            reports.append(_dense(node, weights))
    return tuple(reports)


def _gated(node: onnx.NodeProto, weights: dict[str, tuple[int, ...]]) -> LayerReport:
    a = node_attributes(node)
    k, r, s, c = weights.get(node.input[1], (0, 0, 0, 0))
    _, rg, sg, _ = weights.get(node.input[3], (0, 0, 0, 0))
    gate = "external" if a.gate_source == "external" else f"{rg}x{sg}"
    if a.grid > 1:
        gate += f" per {a.grid}x{a.grid} block"
    return LayerReport(node.name, (r, s), c, k, a.strides, True, gate, "")


def _dense(node: onnx.NodeProto, weights: dict[str, tuple[int, ...]]) -> LayerReport:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    shape = weights.get(node.input[1], (0, 0, 0, 0))
    group = attributes.get("group", 1)
    strides = tuple(attributes.get("strides", (1,) * len(shape[2:])))
    if node.op_type == "ConvTranspose":
        k, c = shape[1] * group, shape[0]
        reason = "transposed convolutions are not part of the op"
    else:
        k, c = shape[0], shape[1] * group
        reason = "grouped convolutions are not part of version 1 of the op" if group != 1 else "the model has no gate here"
    if len(shape) != 4:
        return LayerReport(node.name, (0, 0), c, k, (1, 1), False, "", "only 2-D convolutions can be gated")
    return LayerReport(node.name, (shape[2], shape[3]), c, k, (strides[0], strides[1]), False, "", reason)
