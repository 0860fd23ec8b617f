"""A product that was recognised -> one LCCLConv node in its place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from lccl.errors import ContractError
from lccl.graph.constants import constant, stored_shape
from lccl.graph.nodes import optional_input, weights_of
from lccl.graph.recognise.gates import FusedGate, GivenMap
from lccl.graph.recognise.geometry import Geometry, conv_input
from lccl.graph.recognise.normalize import Normalized
from lccl.graph.recognise.product import Product
from lccl.numerics import Array
from lccl.op.contract import DOMAIN, INPUT_NAMES, INPUTS, OP_TYPE, Attributes, gate_pads


def rewrite(product: Product, normalized: Normalized, taken: set[str]) -> gs.Node:
    """Put an LCCLConv node in the product's place.

    What only the product read is left without readers.

    Args:
        product: a product of the normalized copy. The node goes into the graph that the copy was
            made of.
        taken: names of tensors and nodes, to which the new ones are added.

    Returns:
        The new node.
    """
    origin = normalized.origin
    conv, mul = product.branch.conv, origin.node(product.mul)
    output = mul.outputs[0]
    name = _free(conv.name or mul.name or output.name, taken)
    stored = weights_of(conv.inputs[1])
    element = stored.dtype
    values = _main(product, stored) | _gate(product, element, stored.shape)
    inputs: dict[str, gs.Tensor] = {n: constant(f"{name}.{n}", v) for n, v in values.items()}
    inputs["X"] = origin.tensor(conv_input(conv))
    if product.gates.external:
        inputs["gate"] = _GateMaps(normalized, name, element).product_of(product.gates.external)
    for spec in INPUTS:
        if spec.name not in inputs:
            shape = (1,) * (4 if spec.is_tensor_type else 1)
            kind = element if spec.is_tensor_type else np.float32
            inputs[spec.name] = constant(f"{name}.{spec.name}", np.full(shape, spec.neutral), kind)
    written = {k: list(v) if isinstance(v, tuple) else v for k, v in _attributes(product, stored.shape).as_dict().items()}
    _redirect_shape_readers(product, normalized, name)
    mul.outputs.clear()
    node = gs.Node(OP_TYPE, name, written, [inputs[n] for n in INPUT_NAMES], [output], domain=DOMAIN)
    origin.graph.nodes.append(node)
    return node


def _free(wanted: str, taken: set[str]) -> str:
    """Return the name, with a number behind it if it is taken, and take it."""
    numbered = (f"{wanted}_{i}" if i else wanted for i in itertools.count())
    name = next(n for n in numbered if n not in taken)
    taken.add(name)
    return name


def _main(product: Product, stored: Array) -> dict[str, Array]:
    """Return W [K, R, S, C] and B [K], with the affines behind the convolution folded in."""
    branch, affine = product.branch, product.branch.affine
    weight = stored
    if (affine.scale != 1).any():
        weight = (stored.astype(np.float64) * affine.scale.reshape(-1, 1, 1, 1)).astype(stored.dtype)
    bias = optional_input(branch.conv, 2)
    shift = np.broadcast_to(affine.shift, stored.shape[:1])
    if bias is not None:
        shift = weights_of(bias).astype(np.float64) * affine.scale + shift
    return {"W": np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), "B": shift.astype(np.float32)}


def _gate(product: Product, element: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Array]:
    """Return gate_W and gate_B: those of the fused gate, or neutral ones."""
    fused = product.gates.fused
    if fused is None:
        kernel = _neutral_geometry(product, shape)[0]
        return {"gate_W": np.zeros((1, *kernel, shape[1]), element), "gate_B": np.ones(1, np.float32)}
    weight = weights_of(fused.conv.inputs[1]).astype(np.float64) * fused.scale
    bias = optional_input(fused.conv, 2)
    logit = fused.shift + (0.0 if bias is None else float(weights_of(bias).astype(np.float64).item()) * fused.scale)
    return {"gate_W": weight.transpose(0, 2, 3, 1).astype(element), "gate_B": np.array([logit], np.float32)}


class _GateMaps:
    """The nodes that multiply the maps of a product into one, before the op."""

    def __init__(self, normalized: Normalized, name: str, element: np.dtype[Any]) -> None:
        self._origin, self._types = normalized.origin, normalized.context.sizes.types
        self._name, self._element = name, element
        self._count = 0

    def product_of(self, maps: Sequence[GivenMap]) -> gs.Tensor:
        """Return the maps, multiplied, in the type of X."""
        result = self._one(maps[0])
        for given in maps[1:]:
            result = self._add("Mul", {}, [result, self._one(given)])
        return result

    def _one(self, given: GivenMap) -> gs.Tensor:
        tensor, wanted = self._origin.tensor(given.tensor), helper.np_dtype_to_tensor_dtype(self._element)
        kind = self._types.get(tensor.name, wanted)
        for node, replaced in given.then:
            inputs = [tensor if t is replaced else self._origin.tensor(t) for t in node.inputs]
            tensor, kind = self._add(node.op, node.attrs, inputs), self._types.get(node.outputs[0].name, kind)
        return tensor if kind == wanted else self._add("Cast", {"to": wanted}, [tensor])

    def _add(self, op: str, attributes: Mapping[str, Any], inputs: list[gs.Tensor]) -> gs.Tensor:
        name = f"{self._name}.gate_{self._count}"
        self._count += 1
        output = gs.Variable(name)
        self._origin.graph.nodes.append(gs.Node(op, name, dict(attributes), inputs, [output]))
        return output


def _attributes(product: Product, shape: tuple[int, ...]) -> Attributes:
    own, fused, grid = product.geometry, product.gates.fused, product.gates.grid
    geometry = _fused_geometry(fused) if fused is not None else _neutral_geometry(product, shape)[1]
    return Attributes(
        strides=own.strides,
        pads=own.pads,
        dilations=own.dilations,
        gate_strides=(own.strides[0] * grid, own.strides[1] * grid),
        activation_alpha=product.branch.alpha,
        gate_upsample=(1.0, 1.0, float(grid), float(grid)),
        gate_source="external" if fused is None else "fused",
        gate_threshold=product.gates.external[0].threshold if fused is None else fused.threshold,
        **geometry,
    )


def _fused_geometry(fused: FusedGate) -> dict[str, Any]:
    return {
        "gate_pads": fused.geometry.pads,
        "gate_dilations": fused.geometry.dilations,
        "gate_slope": fused.slope,
        "gate_max": fused.maximum,
    }


def _neutral_geometry(product: Product, shape: tuple[int, ...]) -> tuple[tuple[int, int], dict[str, Any]]:
    """Return kernel and geometry of a gate of zeros whose map has the right size.

    The kernel is 1 x 1, or the convolution's own if that cannot give the size.
    """
    own = product.geometry
    try:
        pads = gate_pads(shape[2:], own.pads, own.dilations, own.strides, (1, 1), product.gates.grid)
    except ContractError:
        return (shape[2], shape[3]), {"gate_pads": own.pads, "gate_dilations": own.dilations}
    return (1, 1), {"gate_pads": pads}


def _redirect_shape_readers(product: Product, normalized: Normalized, name: str) -> None:
    """Redirect what asks for the shape of a tensor that goes to the convolution's input."""
    origin, conv = normalized.origin, product.branch.conv
    graph, x, kernel = origin.graph, origin.tensor(conv_input(conv)), stored_shape(conv.inputs[1]) or ()
    readers = [origin.node(node) for node in product.branch.shape_readers]
    fixed = [size for size in normalized.context.sizes.fixed(conv.outputs[0])[2:] if size is not None]
    for i, reader in enumerate(readers):
        prefix = f"{name}.shape_{i}"
        nodes = _Sizes(graph, prefix)
        batch = nodes.add("Shape", [x], start=0, end=1)
        channels = constant(f"{prefix}_channels", [kernel[0]], np.int64)
        if len(fixed) == 2:
            hw: gs.Tensor = constant(f"{prefix}_hw", fixed, np.int64)
        else:
            hw = nodes.convolved(nodes.add("Shape", [x], start=2), product.geometry, kernel[2:])
        whole = nodes.add("Concat", [batch, channels, hw], axis=0)
        if reader.op == "Size":
            reader.op, reader.attrs, reader.inputs = "ReduceProd", {"keepdims": 0}, [whole]
            continue
        ends = [reader.attrs.get("start", 0), reader.attrs.get("end", 4)]
        cut = [constant(f"{prefix}_{part}", [end], np.int64) for part, end in zip(("start", "end"), ends, strict=True)]
        reader.op, reader.attrs, reader.inputs = "Slice", {}, [whole, *cut]


class _Sizes:
    """Nodes that compute a shape, each of which has one output."""

    def __init__(self, graph: gs.Graph, prefix: str) -> None:
        self._graph, self._prefix, self._count = graph, prefix, 0

    def add(self, op: str, inputs: list[gs.Tensor], **attributes: int) -> gs.Tensor:
        output = gs.Variable(f"{self._prefix}_{op.lower()}_{self._count}", np.int64)
        self._count += 1
        self._graph.nodes.append(gs.Node(op, output.name, dict(attributes), inputs, [output]))
        return output

    def convolved(self, hw: gs.Tensor, geometry: Geometry, kernel: Sequence[int]) -> gs.Tensor:
        """Return the height and width of the convolution's output from those of its input."""
        if geometry.keeps_size(kernel):
            return hw
        slack = [geometry.slack(axis, kernel) - 1 for axis in (0, 1)]
        steps = self.add("Add", [hw, constant(f"{self._prefix}_slack", slack, np.int64)])
        steps = self.add("Div", [steps, constant(f"{self._prefix}_strides", geometry.strides, np.int64)])
        return self.add("Add", [steps, constant(f"{self._prefix}_one", [1], np.int64)])
