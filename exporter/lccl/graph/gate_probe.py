"""Gates of a model as extra outputs, to measure densities; and densities in its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lccl.errors import UserError
from lccl.op.contract import INPUT_NAMES, Attributes
from lccl.op.onnx_op import is_lccl_node, make_node, node_attributes


def set_densities(model: onnx.ModelProto, densities: Mapping[str, float]) -> None:
    """Write the calibrated density of each named layer into its node."""
    for node in filter(is_lccl_node, model.graph.node):
        if node.name in densities:
            next(a for a in node.attribute if a.name == "density").f = densities[node.name]


@dataclass(frozen=True)
class Probe:
    """One gated layer, and the outputs of the model with probes that belong to it."""

    node: str
    output: str
    """The layer's output, whose shape the MACs are counted from."""
    gate: str
    """The gate map g [N, 1, Ho, Wo]."""


def with_gate_outputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Probe, ...]]:
    """Return the model with a probe beside each LCCLConv.

    A probe is an LCCLConv of one channel with zero weights and a bias of 1, so that Y = g.

    Raises:
        UserError: a layer's weights are computed in the model.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    weights = {t.name: t for t in out.graph.initializer}
    probes = []
    for node in list(filter(is_lccl_node, out.graph.node)):
        inputs = dict(zip(INPUT_NAMES, node.input, strict=True))
        attributes = Attributes.from_mapping({**node_attributes(node).as_dict(), "activation_alpha": 1.0, "post_alpha": 1.0})
        weight = weights.get(inputs["W"])
        if weight is None:
            raise UserError(f"{node.name}: W must be stored in the model, not computed in it")
        element = helper.tensor_dtype_to_np_dtype(weight.data_type)
        constants = {
            "W": np.zeros((1, *weight.dims[1:]), element),
            "B": np.ones(1, np.float32),
            "post_scale": np.ones(1, np.float32),
            "post_bias": np.zeros(1, np.float32),
            "residual": np.zeros((1, 1, 1, 1), element),
        }
        for name, values in constants.items():
            inputs[name] = f"{node.name}.probe.{name}"
            out.graph.initializer.append(numpy_helper.from_array(values, inputs[name]))
        gate = f"{node.name}.probe"
        out.graph.node.append(make_node([inputs[name] for name in INPUT_NAMES], [gate], attributes, gate))
        probes.append(Probe(node.name, node.output[0], gate))
    present = {o.name for o in out.graph.output}
    wanted = [name for probe in probes for name in (probe.output, probe.gate)]
    out.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(wanted) if name not in present)
    return out, tuple(probes)
