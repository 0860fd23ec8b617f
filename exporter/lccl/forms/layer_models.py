"""Models of one layer, dense or gated at a density, alone or between two dense convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lccl.errors import ContractError
from lccl.forms.timing import Feed
from lccl.graph.layers import weight_shapes
from lccl.numerics import Array
from lccl.op.contract import DOMAIN, INPUT_NAMES, VERSION, Attributes, conv_hw, gate_pads, grid_hw
from lccl.op.onnx_function import attach_function
from lccl.op.onnx_op import IR_VERSION, OPSET, is_lccl_node, make_node, node_attributes


@dataclass(frozen=True)
class LayerShape:
    """A convolution's geometry, with the map that it reads."""

    kernel: tuple[int, int]
    in_channels: int
    out_channels: int
    in_hw: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def out_hw(self) -> tuple[int, int]:
        """Height and width of the output."""
        return conv_hw(self.in_hw, self.kernel, self.strides, self.pads, self.dilations)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        ho, wo = self.out_hw
        return self.kernel[0] * self.kernel[1] * self.in_channels * self.out_channels * ho * wo


@dataclass(frozen=True)
class GateKind:
    """A kind of gate: "1x1", "kxk" (the convolution's kernel) or "grid:G"."""

    text: str

    @property
    def grid(self) -> int:
        """The side of the block of pixels that shares a value."""
        return int(self.text.removeprefix("grid:")) if self.text.startswith("grid:") else 1

    def fits(self, shape: LayerShape) -> bool:
        """Return whether a gate of this kind can cover the convolution's output."""
        try:
            self.pads(shape)
        except ContractError:
            return False
        return True

    def pads(self, shape: LayerShape) -> tuple[int, int, int, int]:
        """Return the pads of the gate's convolution.

        Raises:
            ContractError: none give a map of the output's size.
        """
        geometry = shape.kernel, shape.pads, shape.dilations, shape.strides
        return gate_pads(*geometry, self.kernel(shape), self.grid, gate_dilations=self.dilations(shape))

    def dilations(self, shape: LayerShape) -> tuple[int, int]:
        """Return the dilations of the gate's convolution."""
        return shape.dilations if self.text == "kxk" else (1, 1)

    def kernel(self, shape: LayerShape) -> tuple[int, int]:
        """Return the gate's kernel: a grid's covers its block."""
        if self.text == "kxk":
            return shape.kernel
        return (shape.strides[0] * self.grid, shape.strides[1] * self.grid) if self.grid > 1 else (1, 1)


def layers_of(model: onnx.ModelProto) -> Iterator[tuple[str, LayerShape]]:
    """Yield the convolutions of a model that have a gate or could have one.

    The shapes of the model's tensors have to be known, but for the batch.
    """
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*model.graph.input, *model.graph.value_info)
    }
    weights = weight_shapes(model)
    for node in model.graph.node:
        weight, x = weights.get(node.input[1]) if len(node.input) > 1 else None, shapes.get(node.input[0] if node.input else "")
        if weight is None or len(weight) != 4 or x is None or len(x) != 4 or min(x[1:]) < 1:
            continue
        if is_lccl_node(node):
            a = node_attributes(node)
            k, r, s, c = weight
            yield node.name, LayerShape((r, s), c, k, (x[2], x[3]), a.strides, a.pads, a.dilations)
        elif node.op_type == "Conv" and node.domain in ("", "ai.onnx"):
            values: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if values.get("group", 1) != 1 or values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
                continue
            k, c, r, s = weight
            strides, dilations = (tuple(values.get(name, (1, 1))) for name in ("strides", "dilations"))
            yield (
                node.name or node.output[0],
                LayerShape((r, s), c, k, (x[2], x[3]), strides, tuple(values.get("pads", (0, 0, 0, 0))), dilations),
            )


def dense_model(shape: LayerShape, batch: int, in_chain: bool) -> tuple[onnx.ModelProto, Feed]:
    """Return the layer as a convolution and a ReLU, and its inputs."""
    parts = _Parts(shape, batch, in_chain)
    weight = parts.weight("W", (shape.out_channels, shape.in_channels, *shape.kernel))
    geometry = {"strides": shape.strides, "pads": shape.pads, "dilations": shape.dilations, "kernel_shape": shape.kernel}
    conv = helper.make_node("Conv", [parts.before, weight], ["u"], "layer")
    conv.attribute.extend(helper.make_attribute(name, values) for name, values in geometry.items())
    parts.nodes.append(conv)
    parts.nodes.append(helper.make_node("Relu", ["u"], [parts.after], "layer_relu"))
    return parts.model()


def empty_model() -> tuple[onnx.ModelProto, Feed]:
    """Return a model that does nothing, whose time is that of a call."""
    shape = (1, 1, 1, 1)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "empty", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model, {"x": np.zeros(shape, np.float32)}


def gated_model(shape: LayerShape, kind: GateKind, density: float, batch: int, in_chain: bool) -> tuple[onnx.ModelProto, Feed]:
    """Return the layer with a gate of its own that is open, times a mask of that density.

    The mask has a few areas, as masks of images do. The gate's own work is done.
    """
    parts = _Parts(shape, batch, in_chain)
    kernel = kind.kernel(shape)
    attributes = gate_attributes(shape, kind, density)
    hg, wg = grid_hw(shape.out_hw, kind.grid)
    parts.feed["mask"] = np.stack([areas((hg, wg), density, seed)[None] for seed in range(batch)])
    parts.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, 1, hg, wg]))
    stored = {
        "W": parts.weight("W", (shape.out_channels, *shape.kernel, shape.in_channels)),
        "B": parts.constant("B", np.zeros(shape.out_channels)),
        "gate_W": parts.constant("gate_W", np.full((1, *kernel, shape.in_channels), 1e-3)),
        "gate_B": parts.constant("gate_B", np.full(1, 10.0)),
        "post_scale": parts.constant("post_scale", np.ones(1)),
        "post_bias": parts.constant("post_bias", np.zeros(1)),
        "residual": parts.constant("residual", np.zeros((1, 1, 1, 1))),
    }
    inputs = stored | {"X": parts.before, "gate": "mask"}
    parts.nodes.append(make_node([inputs[name] for name in INPUT_NAMES], [parts.after], attributes, "layer"))
    return parts.model()


def gate_attributes(shape: LayerShape, kind: GateKind, density: float) -> Attributes:
    """Return the op's attributes of a layer whose own gate is multiplied with a mask."""
    return Attributes(
        strides=shape.strides,
        pads=shape.pads,
        dilations=shape.dilations,
        gate_strides=(shape.strides[0] * kind.grid, shape.strides[1] * kind.grid),
        gate_pads=kind.pads(shape),
        gate_dilations=kind.dilations(shape),
        activation_alpha=0.0,
        gate_max=1.0,
        gate_upsample=(1, 1, kind.grid, kind.grid),
        density=density,
    )


def areas(hw: tuple[int, int], density: float, seed: int) -> Array:
    """Return a map of 0 and 1, [H, W], of which that share is 1, in a few areas."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    height = rng.random(hw) * 1e-3
    for _ in range(5):
        y, x = rng.random(2) * hw
        height += np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (0.12 * max(hw)) ** 2))
    count = round(density * height.size)
    mask = np.zeros(height.size, np.float32)
    mask[np.argsort(-height, axis=None, kind="stable")[:count]] = 1
    return mask.reshape(hw)


class _Parts:
    """A model as it grows: the layer reads ``before`` and writes ``after``.

    In a chain these are between a pointwise convolution in front and one behind.
    """

    def __init__(self, shape: LayerShape, batch: int, in_chain: bool) -> None:
        self._rng = np.random.default_rng(0)
        self._stored: list[onnx.TensorProto] = []
        self._shape, self._batch, self._in_chain = shape, batch, in_chain
        x = (batch, shape.in_channels, *shape.in_hw)
        self.feed: Feed = {"x": self._rng.standard_normal(x, np.float32)}
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
        self.before, self.after = ("front", "back") if in_chain else ("x", "y")
        self.nodes: list[onnx.NodeProto] = []
        if in_chain:
            self._pointwise("x", "front", shape.in_channels)

    def constant(self, name: str, values: Array) -> str:
        """Store values and return their name."""
        self._stored.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        """Store random weights and return their name."""
        return self.constant(name, self._rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))

    def model(self) -> tuple[onnx.ModelProto, Feed]:
        """Return the model and its inputs."""
        if self._in_chain:
            self._pointwise("back", "y", self._shape.out_channels)
        y = (self._batch, self._shape.out_channels, *self._shape.out_hw)
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, y)
        graph = helper.make_graph(self.nodes, "layer", self.inputs, [output], self._stored)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        attach_function(model)
        return model, self.feed

    def _pointwise(self, x: str, y: str, channels: int) -> None:
        weight = self.weight(f"{y}_weight", (channels, channels, 1, 1))
        self.nodes.append(helper.make_node("Conv", [x, weight], [f"{y}_sums"], f"{y}_conv"))
        self.nodes.append(helper.make_node("Relu", [f"{y}_sums"], [y], f"{y}_relu"))
