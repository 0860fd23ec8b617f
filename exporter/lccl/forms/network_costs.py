"""The time of a network's convolutions at densities, by a table of costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from lccl.errors import UserError
from lccl.forms.costs import ConvShape, CostTable, LayerCost
from lccl.graph.layers import weight_shapes
from lccl.op.onnx_op import is_lccl_node, node_attributes


@dataclass(frozen=True)
class NetworkCosts:
    """What a network's convolutions cost. Those that the table does not have count nowhere."""

    table: CostTable
    path: str | Path
    """Of the table, for messages."""
    shapes: Mapping[str, ConvShape]
    """By layer."""

    def cost(self, name: str, macs: int) -> LayerCost | None:
        """Return the costs of a layer; None if the table does not have it.

        Args:
            name: of the layer.
            macs: its own, per image.
        """
        shape = self.shapes.get(name)
        return None if shape is None else self.table.find(shape, macs)

    def known_us(self, name: str, macs: int, density: float) -> float | None:
        """Return the time of a gated layer between dense neighbours, in microseconds for a batch.

        None where the table does not have it.
        """
        cost, shape = self.cost(name, macs), self.shapes.get(name)
        if cost is None or shape is None:
            return None
        kinds = (shape.gate, "kxk") if (shape.kernel, shape.gate) == ((1, 1), "1x1") else (shape.gate,)
        return next((us for kind in kinds if (us := cost.at(kind, density)) is not None), None)

    def gated_us(self, name: str, macs: int, density: float) -> float:
        """Return the same.

        Raises:
            UserError: the table does not have it.
        """
        found = self.known_us(name, macs, density)
        if found is not None:
            return found
        gate = self.shapes[name].gate if name in self.shapes else ""
        if gate and gate not in ("1x1", "kxk") and not gate.startswith("grid:"):
            what = "from outside" if gate == "external" else f"of {gate}"
            raise UserError(f"{name} has a gate {what}, and tables have the costs of 1x1, kxk and grid gates alone")
        what = f"{name} with a {gate} gate" if gate else name
        raise UserError(f"{self.path} has no cost of {what}: measure this network with lccl measure")

    def fraction(self, layers: Iterable[tuple[str, int, float | None]]) -> float:
        """Return the time of all convolutions over that of the dense network's.

        Args:
            layers: of each, name, MACs per image, and density; None where it has no gate.

        Raises:
            UserError: the table lacks a gated layer.
        """
        time, dense = 0.0, 0.0
        for name, macs, density in layers:
            cost = self.cost(name, macs)
            if density is not None:
                time += self.gated_us(name, macs, density)
            elif cost is not None:
                time += cost.dense_us
            dense += 0.0 if cost is None else cost.dense_us
        return time / dense if dense else 1.0


def conv_shapes(model: onnx.ModelProto) -> dict[str, ConvShape]:
    """Return the shapes of a canonical model's convolutions by the names of their layers.

    Grouped ones and those of other than two dimensions are left out, as in a table.
    """
    weights, found = weight_shapes(model), {}
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or len(weight) != 4:
            continue
        if is_lccl_node(node):
            k, r, s, c = weight
            a = node_attributes(node)
            gate = gate_kind(weights[node.input[3]][1:3], (r, s), a.grid) if a.gate_source == "fused" else "external"
            found[node.name] = ConvShape((r, s), c, k, a.strides, a.dilations, gate)
        elif node.op_type == "Conv" and node.domain in ("", "ai.onnx"):
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if values.get("group", 1) == 1:
                k, c, r, s = weight
                strides, dilations = (tuple(values.get(name, (1, 1))) for name in ("strides", "dilations"))
                found[node.name or node.output[0]] = ConvShape((r, s), c, k, strides, dilations)
    return found


def gate_kind(gate: tuple[int, ...], kernel: tuple[int, int], grid: int) -> str:
    """Return the kind of a gate as a table has it, by the kernels of gate and convolution."""
    if grid > 1:
        return f"grid:{grid}"
    if tuple(gate) == (1, 1):
        return "1x1"
    return "kxk" if tuple(gate) == kernel else "x".join(map(str, gate))
