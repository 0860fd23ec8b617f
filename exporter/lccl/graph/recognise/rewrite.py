"""A product that was recognised -> one LCCLConv node in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from lccl.errors import ContractError
from lccl.graph.nodes import SHAPE_OPS, is_op, optional_input, weights_of
from lccl.graph.recognise.gates import FusedGate
from lccl.graph.recognise.product import Product
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import constant
from lccl.numerics import Array
from lccl.op.contract import DOMAIN, INPUT_NAMES, INPUTS, OP_TYPE, Attributes, gate_pads


def rewrite(graph: gs.Graph, product: Product, sizes: Sizes) -> gs.Node:
    """Puts the node in the product's place; what only the product read is left without readers.

    Returns:
        The new node.
    """
    conv, output = product.branch.conv, product.mul.outputs[0]
    name = conv.name or product.mul.name or output.name
    stored = weights_of(conv.inputs[1])
    element = stored.dtype
    values = _main(product, stored) | _gate(product, element, stored.shape)
    inputs: dict[str, gs.Tensor] = {n: constant(f"{name}.{n}", v) for n, v in values.items()}
    inputs["X"] = conv.inputs[0]
    external = _external(graph, product, name, element, sizes)
    if external is not None:
        inputs["gate"] = external
    for spec in INPUTS:
        if spec.name not in inputs:
            shape = (1,) * (4 if spec.is_tensor_type else 1)
            inputs[spec.name] = constant(
                f"{name}.{spec.name}", np.full(shape, spec.neutral), element if spec.is_tensor_type else np.float32
            )
    written = {k: list(v) if isinstance(v, tuple) else v for k, v in _attributes(product, stored.shape).as_dict().items()}
    _move_shapes(product, output)
    product.mul.outputs.clear()
    node = gs.Node(OP_TYPE, name, written, [inputs[n] for n in INPUT_NAMES], [output], domain=DOMAIN)
    graph.nodes.append(node)
    return node


def _main(product: Product, stored: Array) -> dict[str, Array]:
    """W [K, R, S, C] and B [K], with the affines that followed the convolution folded in."""
    branch = product.branch
    weight = stored
    if (branch.scale != 1).any():
        weight = (stored.astype(np.float64) * branch.scale.reshape(-1, 1, 1, 1)).astype(stored.dtype)
    bias = optional_input(branch.conv, 2)
    shift = np.broadcast_to(branch.shift, stored.shape[:1])
    if bias is not None:
        shift = weights_of(bias).astype(np.float64) * branch.scale + shift
    return {"W": np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), "B": shift.astype(np.float32)}


def _gate(product: Product, element: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Array]:
    fused = product.gates.fused
    if fused is None:
        kernel = _neutral_geometry(product, shape)[0]
        return {"gate_W": np.zeros((1, *kernel, shape[1]), element), "gate_B": np.ones(1, np.float32)}
    weight = weights_of(fused.conv.inputs[1]).astype(np.float64) * fused.scale
    bias = optional_input(fused.conv, 2)
    logit = fused.shift + (0.0 if bias is None else float(weights_of(bias).astype(np.float64).item()) * fused.scale)
    return {"gate_W": weight.transpose(0, 2, 3, 1).astype(element), "gate_B": np.array([logit], np.float32)}


def _external(graph: gs.Graph, product: Product, name: str, element: np.dtype[Any], sizes: Sizes) -> gs.Tensor | None:
    """The map that the op is given: in the type of X, several of them multiplied."""
    wanted = helper.np_dtype_to_tensor_dtype(element)
    result: gs.Tensor | None = None
    for i, tensor in enumerate(product.gates.external):
        given = tensor
        if sizes.types.get(tensor.name, wanted) != wanted:
            given = gs.Variable(f"{name}.gate_{i}.cast", dtype=element)
            graph.nodes.append(gs.Node("Cast", given.name, {"to": wanted}, [tensor], [given]))
        if result is not None:
            both = gs.Variable(f"{name}.gate_{i}.product", dtype=element)
            graph.nodes.append(gs.Node("Mul", both.name, {}, [result, given], [both]))
            given = both
        result = given
    return result


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
    """Kernel and geometry of zeros that give a map of the right size: the convolution's own where 1 x 1 cannot."""
    own = product.geometry
    try:
        pads = gate_pads(shape[2:], own.pads, own.dilations, own.strides, (1, 1), product.gates.grid)
    except ContractError:
        return (shape[2], shape[3]), {"gate_pads": own.pads, "gate_dilations": own.dilations}
    return (1, 1), {"gate_pads": pads}


def _move_shapes(product: Product, output: gs.Tensor) -> None:
    """Who asks for the shape of what is computed no more asks for the product's, which is the same."""
    for tensor, _ in product.branch.path:
        for reader in [n for n in tensor.outputs if is_op(n, *SHAPE_OPS)]:
            reader.inputs = [output]
