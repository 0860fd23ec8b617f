"""All gated convolutions of a graph: every product is read, and layers are rewritten."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from lccl.graph.conversion import to_model
from lccl.graph.fuse import fuse_following
from lccl.graph.nodes import is_op
from lccl.graph.recognise.normalize import Normalized, normalize
from lccl.graph.recognise.product import Product, read_product
from lccl.graph.recognise.refusal import Refusal
from lccl.graph.recognise.rewrite import rewrite
from lccl.graph.shapes import sizes_of
from lccl.graph.simplify import simplified
from lccl.op.contract import INPUT_NAMES
from lccl.op.onnx_function import attach_function


@dataclass(frozen=True)
class RecognisedLayer:
    """A layer that was recognised."""

    name: str
    """The name of the LCCLConv node, which is that of the convolution if it had one."""
    product: str
    """The tensor that the product gave; the node gives it too, unless something behind it was
    fused."""
    output: str
    """The tensor that the node gives."""
    gates: tuple[tuple[str, int], ...]
    """Where the gates came in: a Mul or Where by the tensor that it gave, and the place of the gate
    among its operands."""
    masks: tuple[str, ...]
    """Inputs of the network that the rewrite assumes to be at least 0: gates from outside."""
    fused: tuple[str, ...] = ()
    """Ops behind the product that were fused into the node."""


@dataclass(frozen=True)
class NearMiss:
    """A product that looks like a gated convolution and stays as it is."""

    node: str
    """The product, by its name or by the tensor that it gives."""
    reason: str
    conv: str = ""
    """The convolution that would have been gated, by its name or by the tensor that it gives; empty
    if it is not known."""


@dataclass(frozen=True)
class Recognition:
    """What was found in a graph."""

    model: onnx.ModelProto
    """The model with LCCLConv nodes and their function; the given model if none was found."""
    layers: tuple[RecognisedLayer, ...]
    near_misses: tuple[NearMiss, ...]


def recognise(model: onnx.ModelProto, *, fuse: bool = True, skip: Container[str] = ()) -> Recognition:
    """Find the gated convolutions of a model in standard ops.

    LCCLConv nodes that the model has already stay as they are.

    Args:
        model: a model of any opset that onnx can convert; it is not changed.
        fuse: take BatchNorm, activation and added branch behind a product into its node.
        skip: products to leave as they are, by the tensor that they give.

    Raises:
        UserError: onnx cannot convert the model's opset.
    """
    plain = simplified(model)
    graph = plain.graph
    graph.cleanup(remove_unused_graph_inputs=False)
    normalized = normalize(graph, sizes_of(plain.skeleton))
    products, refusals = _read_all(normalized, skip)
    taken = _taken_names(normalized.graph, products)
    nodes = [rewrite(product, normalized, taken) for product in products]
    given = [node.outputs[0].name for node in nodes]
    graph.cleanup(remove_unused_graph_inputs=False)
    # A layer that only gave another one's gate its shape has gone.
    read = {id(node) for node in graph.nodes}
    layers = [layer for layer in zip(products, nodes, given, strict=True) if id(layer[1]) in read]
    fused = fuse_following(graph, [node for _, node, _ in layers], normalized.context.sizes) if fuse else {}
    graph.cleanup(remove_unused_graph_inputs=False)
    left = {id(node) for node in graph.nodes}
    misses = tuple(
        NearMiss(_name(mul), refusal.reason, _name(refusal.conv))
        for mul, refusal in refusals
        if id(normalized.origin.node(mul)) in left
    )
    if not layers:
        return Recognition(model, (), misses)
    found = tuple(
        RecognisedLayer(
            node.name,
            product=output,
            output=node.outputs[0].name,
            gates=product.gate_places(normalized.context),
            masks=tuple(sorted(product.gates.masks)),
            fused=fused.get(id(node), ()),
        )
        for product, node, output in layers
    )
    out = to_model(graph, model)
    attach_function(out)
    return Recognition(out, found, misses)


def _name(node: gs.Node | None) -> str:
    return "" if node is None else node.name or node.outputs[0].name


def _taken_names(graph: gs.Graph, products: Sequence[Product]) -> set[str]:
    """Return the names that no new node may have.

    Nodes that stay have them, or tensors that are called ``<name>.<part>``.
    """
    going = {id(product.branch.conv) for product in products}
    names = {node.name for node in graph.nodes if id(node) not in going}
    tensors = {*graph.tensors(), *(name for inner in graph.subgraphs(recursive=True) for name in inner.tensors())}
    return names | {name.rpartition(".")[0] for name in tensors if name.rpartition(".")[2] in (*INPUT_NAMES, "gate_0")}


def _read_all(normalized: Normalized, skip: Container[str]) -> tuple[list[Product], list[tuple[gs.Node, Refusal]]]:
    """Read every product of the copy, the last first.

    A product of products is then one layer with several gates.

    Returns:
        The layers and the refused products, in the graph's order.
    """
    products: list[Product] = []
    refusals: list[tuple[gs.Node, Refusal]] = []
    inside: set[int] = set()
    for mul in reversed([n for n in normalized.graph.nodes if is_op(n, "Mul")]):
        if id(mul) in inside or mul.outputs[0].name in skip:
            continue
        result = read_product(mul, normalized.context)
        if isinstance(result, Product):
            products.append(result)
            inside.update(map(id, result.branch.nodes))
        elif result is not None:
            refusals.append((mul, result))
    return products[::-1], refusals[::-1]
