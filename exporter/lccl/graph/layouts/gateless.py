"""Dense convolutions as nodes of the op whose gate is 1, which fuse and take layouts as it does."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_graphsurgeon as gs

from lccl.graph.constants import constant, stored_shape, stored_type
from lccl.graph.nodes import is_op, optional_input, weights_of
from lccl.numerics import Array
from lccl.op.contract import DOMAIN, INPUT_NAMES, INPUTS, OP_TYPE, Attributes

LARGEST_KERNEL = 7
"""Of the CPU kernels, along each axis."""
_FLOAT32 = 1


def can_be_gateless(node: gs.Node) -> bool:
    """Return whether a node is a dense 2-D convolution in float32 that the CPU kernels compute."""
    if not is_op(node, "Conv") or len(node.outputs) != 1 or node.attrs.get("group", 1) != 1:
        return False
    shape, bias = stored_shape(node.inputs[1]), optional_input(node, 2)
    if shape is None or len(shape) != 4 or max(shape[2:]) > LARGEST_KERNEL or stored_type(node.inputs[1]) != _FLOAT32:
        return False
    return node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and (bias is None or stored_shape(bias) is not None)


def make_gateless(graph: gs.Graph, names: Container[str]) -> list[gs.Node]:
    """Replace dense convolutions of these names by nodes of the op without a gate.

    Those of which :func:`can_be_gateless` is false stay.

    Returns:
        The new nodes, under the convolutions' names.
    """
    made = [_gateless(node) for node in graph.nodes if node.name in names and can_be_gateless(node)]
    graph.nodes.extend(made)
    return made


def _gateless(node: gs.Node) -> gs.Node:
    weight, bias = weights_of(node.inputs[1]), optional_input(node, 2)
    k, c, r, s = weight.shape
    strides, dilations = (tuple(node.attrs.get(name, (1, 1))) for name in ("strides", "dilations"))
    pads = tuple(node.attrs.get("pads", (0, 0, 0, 0)))
    attributes = Attributes(
        strides=strides,
        dilations=dilations,
        pads=pads,
        gate_strides=strides,
        gate_dilations=dilations,
        gate_pads=pads,
        gate_source="external",
        density=1.0,
    )
    values: dict[str, Array] = {
        "W": np.ascontiguousarray(weight.transpose(0, 2, 3, 1)),
        "B": np.zeros(k, np.float32) if bias is None else weights_of(bias),
        "gate_W": np.zeros((1, r, s, c), np.float32),
        "gate_B": np.ones(1, np.float32),
    }
    inputs: list[gs.Tensor] = []
    for spec in INPUTS:
        neutral = np.full((1,) * (4 if spec.is_tensor_type else 1), spec.neutral, np.float32)
        inputs.append(constant(f"{node.name}.{spec.name}", values.get(spec.name, neutral)))
    inputs[INPUT_NAMES.index("X")] = node.inputs[0]
    written = {name: list(v) if isinstance(v, tuple) else v for name, v in attributes.as_dict().items()}
    outputs = list(node.outputs)
    node.outputs.clear()
    return gs.Node(OP_TYPE, node.name, written, inputs, outputs, domain=DOMAIN)
