"""The table of a model's convolutions: gated, or dense with the reason."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from lccl.graph.op_sets import COPIES, QUANTIZERS, REPORTED_CONVOLUTIONS
from lccl.op.onnx_op import is_lccl_node, node_attributes

NO_GATE = "the model has no gate here"
"""The reason where nothing looks like a gate."""


@dataclass(frozen=True)
class LayerReport:
    """One convolution of the exported model."""

    name: str
    kernel: tuple[int, ...]
    """Rows and columns; empty where the graph does not say. A 1-D or 3-D convolution has as many
    sizes as it has axes."""
    in_channels: int
    """0 where the graph does not say."""
    out_channels: int
    """0 where the graph does not say."""
    strides: tuple[int, ...]
    gated: bool
    gate: str
    """Kernel of the fused gate ("3x3", "4x4 per 4x4 block") or "external"; empty without a gate."""
    reason: str
    """Why it has no gate; empty for a gated layer."""


def describe_layers(model: onnx.ModelProto) -> tuple[LayerReport, ...]:
    """Return a row for every Conv, ConvTranspose and LCCLConv of the canonical model, in order."""
    weights = weight_shapes(model)
    reports = []
    for node in model.graph.node:
        if is_lccl_node(node):
            reports.append(_gated(node, weights))
        elif node.op_type in REPORTED_CONVOLUTIONS and node.domain == "":
            reports.append(_dense(node, weights))
    return tuple(reports)


def weight_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every constant, and of what is computed from constants alone.

    The weights of a quantised network are such: a DequantizeLinear of stored integers.
    """
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            shapes.update((node.output[0], tuple(a.t.dims)) for a in node.attribute if a.name == "value")
        elif node.op_type in _SAME_SHAPE and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return shapes


_SAME_SHAPE = QUANTIZERS | COPIES | {"Cast"}
"""Ops whose output has the shape of their first input."""


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
    shape = weights.get(node.input[1], ())
    group = attributes.get("group", 1)
    kernel = tuple(shape[2:]) or tuple(attributes.get("kernel_shape", ()))
    strides = tuple(attributes.get("strides", (1,) * len(kernel)))
    first, second = shape[:2] or (0, 0)
    if node.op_type == "ConvTranspose":
        k, c = second * group, first
        reason = "transposed convolutions are not part of the op"
    else:
        k, c = first, second * group
        reason = "grouped convolutions are not part of version 1 of the op" if group != 1 else NO_GATE
    if kernel and len(kernel) != 2:
        reason = "only 2-D convolutions can be gated"
    return LayerReport(node.name or node.output[0], kernel, c, k, strides, False, "", reason)
