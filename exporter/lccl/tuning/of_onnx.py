"""An exported model whose gates are set: cut by threshold or bias, all open, or all closed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lccl.backends.batches import CHUNK, infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.files.external import array
from lccl.forms.costs import ConvShape
from lccl.forms.network_costs import conv_shapes
from lccl.graph.gate_probe import set_densities, with_gate_outputs
from lccl.graph.inputs import input_types
from lccl.graph.intake import intake
from lccl.graph.variants.canonical import canonical
from lccl.loading.data import Data
from lccl.numerics import Array
from lccl.op.contract import FLT_MAX, INPUT_NAMES, Attributes
from lccl.op.onnx_op import attribute_protos, is_lccl_node, node_attributes
from lccl.profiling import NetworkProfile
from lccl.profiling.of_onnx import profile_canonical
from lccl.tuning.cuts import AS_BUILT, Cut, GatedLayer, Setting, Settings, thinned

_BINARY = 1e6
"""A slope from here on makes a hard mask."""


class TunableOnnx:
    """A canonical model, and the data that it runs on.

    Raises:
        UserError: the model has no LCCLConv node.
    """

    def __init__(self, model: onnx.ModelProto, data: Data) -> None:
        self._base = intake(model)
        if not any(map(is_lccl_node, self._base.graph.node)):
            raise UserError("the model has no LCCLConv node, so there is no gate to tune: export it first")
        self._base = canonical(self._base)
        stored = {t.name for t in self._base.graph.initializer}
        nodes = [node for node in self._base.graph.node if is_lccl_node(node)]
        self.layers = tuple(
            GatedLayer(
                n.name,
                _cut_of(n),
                not set(_gate_of(n)) <= stored or node_attributes(n).gate_source == "external",
                node_attributes(n).gate_threshold,
            )
            for n in nodes
        )
        self._data, self._inputs = data, tuple(input_types(self._base))

    def gate_values(self) -> dict[str, Array]:
        """Return values of each gate over the data: of a binary gate its logits, else its map."""
        probing, probes = with_gate_outputs(self._base)
        binary = {layer.name for layer in self.layers if layer.cut == "bias"}
        nodes = {node.name: node for node in probing.graph.node}
        for probe in probes:
            node = nodes[probe.gate]
            if probe.node in binary:
                _change(node, {"gate_threshold": 0.0, "gate_slope": 1.0, "gate_max": FLT_MAX})
                _add_negative(probing, node)
            else:
                _change(node, {"gate_threshold": 0.0})
        seen: dict[str, list[Array]] = {probe.node: [] for probe in probes}
        with OnnxRuntimeRunner(probing) as runner:
            for feed in self._data.chunks(runner.input_names, CHUNK):
                outputs = infer_all(runner, feed)
                for probe in probes:
                    values = outputs[probe.gate].astype(np.float32)
                    if probe.node in binary:
                        values -= outputs[_negative(probe.gate)].astype(np.float32)
                    seen[probe.node].append(values)
        return {name: thinned(parts) for name, parts in seen.items()}

    def run(self, settings: Settings) -> tuple[list[Array], NetworkProfile]:
        """Return the outputs over the data, and the profile, with gates set this way."""
        parts: list[dict[str, Array]] = []
        profile = profile_canonical(self._set(settings), self._data.chunks(self._inputs, CHUNK), parts.append)
        return [np.concatenate([part[name] for part in parts]) for name in parts[0]], profile

    def conv_shapes(self) -> dict[str, ConvShape]:
        """Return the shapes of the convolutions, as a table of costs has them."""
        return conv_shapes(self._base)

    def finished(self, settings: Settings, densities: dict[str, float]) -> onnx.ModelProto:
        """Return the model with gates set for good, and their densities in its nodes."""
        model = self._set(settings)
        set_densities(model, densities)
        return model

    def _set(self, settings: Settings) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._base)
        for node in filter(is_lccl_node, model.graph.node):
            _apply(model, node, settings.get(node.name, AS_BUILT))
        return model


def _negative(probe: str) -> str:
    return f"{probe}.negative"


def _add_negative(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Add a probe of the logits below 0 beside one of those above: a ReLU of them turned around.

    Their difference is exact in any type, unlike logits with a large number added.
    """
    other = model.graph.node.add()
    other.CopyFrom(node)
    other.name = other.output[0] = _negative(node.output[0])
    for name, values in zip(("gate_W", "gate_B"), (array(_tensor(model, n)) for n in _gate_of(node)), strict=True):
        _replace(model, other, name, -values)
    model.graph.output.append(helper.make_empty_tensor_value_info(other.output[0]))


def _cut_of(node: onnx.NodeProto) -> Cut:
    attributes = node_attributes(node)
    return "bias" if attributes.gate_slope >= _BINARY and attributes.gate_source == "fused" else "threshold"


def _gate_of(node: onnx.NodeProto) -> tuple[str, str]:
    """Return the names of the gate's weight and bias."""
    inputs = dict(zip(INPUT_NAMES, node.input, strict=True))
    return inputs["gate_W"], inputs["gate_B"]


def _apply(model: onnx.ModelProto, node: onnx.NodeProto, setting: Setting) -> None:
    if setting == AS_BUILT:
        return
    if setting.state == "cut":
        if _cut_of(node) == "bias":
            _shift(model, node, setting.value)
        else:
            _change(node, {"gate_threshold": setting.value})
        return
    weight, bias = (array(t) for t in (_tensor(model, name) for name in _gate_of(node)))
    _replace(model, node, "gate_W", np.zeros_like(weight))
    _replace(model, node, "gate_B", np.full_like(bias, 1.0 if setting.state == "open" else -1.0))
    _change(node, {"gate_threshold": 0.0})


def _shift(model: onnx.ModelProto, node: onnx.NodeProto, by: float) -> None:
    bias = array(_tensor(model, _gate_of(node)[1]))
    _replace(model, node, "gate_B", (bias + np.float32(by)).astype(bias.dtype))


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, name: str, values: Array) -> None:
    """Give a node a weight of its own, since others may share the one that it had."""
    index, own = INPUT_NAMES.index(name), f"{node.name}.tuned.{name}"
    if node.input[index] == own:
        own += "_"
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), own))
    node.input[index] = own


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(t for t in model.graph.initializer if t.name == name)
    return found


def _change(node: onnx.NodeProto, changes: Mapping[str, object]) -> None:
    attributes = Attributes.from_mapping({**node_attributes(node).as_dict(), **changes})
    del node.attribute[:]
    node.attribute.extend(attribute_protos(attributes))
