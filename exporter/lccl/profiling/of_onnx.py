"""The profile of an ONNX model, run in ONNX Runtime with its gates as extra outputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.graph.gate_probe import with_gate_outputs
from lccl.graph.inputs import batch_axes, input_types
from lccl.graph.intake import HOW_TO_RESTORE, LOST_NODES, has_lost_nodes, intake
from lccl.graph.layers import weight_shapes
from lccl.graph.variants.canonical import canonical
from lccl.numerics import Array, Axes, count_samples, float32
from lccl.op.contract import dense_macs, gate_macs, grid_hw
from lccl.op.onnx_op import is_lccl_node, node_attributes
from lccl.profiling.profiles import LayerProfile, NetworkProfile

if TYPE_CHECKING:
    from lccl.loading.types import Network


def profile_onnx(model: onnx.ModelProto | str | Path, batches: Iterable[object]) -> NetworkProfile:
    """Profile an ONNX model or file, as :func:`lccl.profiling.profile` does."""
    if not isinstance(model, onnx.ModelProto):
        from lccl.loading.onnx import load_onnx

        model = load_onnx(model)
    model = intake(model)
    if has_lost_nodes(model):
        warnings.warn(f"{LOST_NODES}, which have no density: {HOW_TO_RESTORE}", RuntimeWarning, stacklevel=5)
    if any(is_lccl_node(n) for n in model.graph.node):
        model = canonical(model)
    return profile_canonical(model, batches)


def axes_of_data(networks: Iterable[Network]) -> Axes | None:
    """Return where the samples stand in data for networks; None if no ONNX model among them says.

    Raises:
        UserError: an ONNX file that cannot be read.
    """
    from lccl.loading.onnx import onnx_structure

    for network in networks:
        if isinstance(network, onnx.ModelProto):
            return batch_axes(network).inputs
        if isinstance(network, (str, Path)) and Path(network).suffix == ".onnx":
            return batch_axes(onnx_structure(network)).inputs
    return None


def profile_canonical(
    model: onnx.ModelProto, batches: Iterable[object], took: Callable[[dict[str, Array]], None] | None = None
) -> NetworkProfile:
    """Profile a canonical model, or one without LCCLConv nodes.

    :func:`lccl.profiling.profile` says what it takes and gives.

    Args:
        model: the model.
        batches: as for :func:`lccl.profiling.profile`.
        took: called with the model's own outputs for each batch.
    """
    kept = [o.name for o in model.graph.output]
    probing, probes = with_gate_outputs(model)
    inputs = input_types(model)
    present = {*inputs, *(o.name for o in probing.graph.output)}
    names = dict.fromkeys(name for node in model.graph.node for name in _measured(node))
    probing.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in present)
    active = dict.fromkeys((p.node for p in probes), 0.0)
    pixels = dict.fromkeys(active, 0)
    sums: dict[str, LayerProfile] = {}
    images = 0
    with OnnxRuntimeRunner(probing) as runner:
        for batch in batches:
            feed = _feed(batch, runner.input_names)
            outputs = infer_all(runner, feed)
            if took is not None:
                took({name: outputs[name] for name in kept})
            count = count_samples(feed, runner.axes.inputs)
            images += count
            for key, layer in _layers(model, {name: value.shape for name, value in (feed | outputs).items()}):
                before = sums.get(key, replace(layer, dense_macs=0, gate_macs=0))
                dense, own = before.dense_macs + count * layer.dense_macs, before.gate_macs + count * layer.gate_macs
                sums[key] = replace(before, dense_macs=dense, gate_macs=own)
            for probe in probes:
                active[probe.node] += float((outputs[probe.gate] > 0).sum())
                pixels[probe.node] += outputs[probe.gate].size
    if not images:
        raise UserError("the data holds no batch, so there is nothing to profile")
    densities = {node: active[node] / pixels[node] for node in active}
    layers = (
        replace(
            layer,
            dense_macs=round(layer.dense_macs / images),
            gate_macs=round(layer.gate_macs / images),
            density=densities.get(layer.name) if layer.kind == "gated" else None,
        )
        for layer in sums.values()
    )
    return NetworkProfile(tuple(layers), images)


def _measured(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the tensors whose shapes give a node's MACs, or none if it has no MACs."""
    if node.op_type == "ConvTranspose":
        return node.input[0], node.output[0]
    return (node.output[0],) if node.op_type in ("Conv", "Gemm", "MatMul") else ()


def _layers(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, LayerProfile]]:
    """Yield the layers of one batch by output name, which is unique.

    MACs per image, without densities.
    """
    weights = weight_shapes(model)
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if is_lccl_node(node) and weight is not None:
            a = node_attributes(node)
            hw = shapes[node.output[0]][2:]
            own = gate_macs(weights[node.input[3]], grid_hw(hw, a.grid)) if a.gate_source == "fused" else 0
            yield node.output[0], LayerProfile(node.name, "gated", dense_macs(weight, hw), own)
        elif _measured(node) and weight is not None:
            yield node.output[0], _dense_layer(node, weight, shapes)


def _dense_layer(node: onnx.NodeProto, weight: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> LayerProfile:
    name, elements = node.name or node.output[0], math.prod(weight)
    if node.op_type in ("Conv", "ConvTranspose"):
        return LayerProfile(name, "conv", elements * math.prod(shapes[_measured(node)[0]][2:]))
    return LayerProfile(name, "linear", elements * math.prod(shapes[node.output[0]][1:-1]))


def _feed(batch: object, names: tuple[str, ...]) -> dict[str, Array]:
    if isinstance(batch, Mapping):
        return {name: float32(value) for name, value in batch.items()}
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    return {names[0]: float32(first)}
