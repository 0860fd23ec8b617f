"""All gated convolutions of a graph: every product is read, the last first, and those that are layers are rewritten."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from lccl.graph.fuse import fuse_following
from lccl.graph.nodes import is_op
from lccl.graph.recognise.product import Product, read_product
from lccl.graph.recognise.reading import Reading
from lccl.graph.recognise.refusal import RefusalError
from lccl.graph.recognise.rewrite import rewrite
from lccl.graph.shapes import Sizes, sizes_of
from lccl.graph.simplify import simplified
from lccl.graph.surgery import to_model
from lccl.op.contract import INPUT_NAMES
from lccl.op.onnx_op import attach_function


@dataclass(frozen=True)
class Found:
    """A layer that was recognised."""

    name: str
    """Of the LCCLConv node, which is that of the convolution where it had one."""
    product: str
    """The tensor that the product gave; the node gives it, unless something behind it was fused."""
    output: str
    """The tensor that the node gives."""
    gates: tuple[tuple[str, int], ...]
    """Where the gates came in: a Mul or Where by the tensor that it gave, and the place of its operand."""
    masks: tuple[str, ...]
    """Inputs of the network that the rewrite takes to be at least 0: its gates from outside."""
    fused: tuple[str, ...] = ()
    """Ops behind the product that went into the node."""


@dataclass(frozen=True)
class NearMiss:
    """A product that looks like a gated convolution and stays as it is."""

    node: str
    """The product, by its name or by what it computes."""
    reason: str
    conv: str = ""
    """The convolution that it would have gated, by its name or by what it computes; empty where that cannot be told."""


@dataclass(frozen=True)
class Recognition:
    """What was found in a graph."""

    model: onnx.ModelProto
    """With LCCLConv nodes and their function; the given model where none was found."""
    found: tuple[Found, ...]
    near_misses: tuple[NearMiss, ...]


def recognise(model: onnx.ModelProto, *, fuse: bool = True, skip: Container[str] = ()) -> Recognition:
    """Finds the gated convolutions of a model in standard ops; LCCLConv nodes that are there already stay as they are.

    Args:
        model: of any opset that onnx can convert; left as it is.
        fuse: take BatchNorm, activation and added branch behind a product into its node.
        skip: products, by the tensor that they give, which are left as they are.

    Raises:
        UserError: an opset that cannot be converted.
    """
    plain = simplified(model)
    graph, sizes = plain.graph, sizes_of(plain.skeleton)
    graph.cleanup(remove_unused_graph_inputs=False)
    reading = Reading(graph, sizes)
    sizes = reading.begin()
    products, refusals = _read_all(graph, sizes, skip)
    places = [product.operands for product in products]
    taken = _taken_names(graph, products)
    nodes = [rewrite(graph, product, sizes, taken) for product in products]
    given = [node.outputs[0].name for node in nodes]
    reading.end()
    graph.cleanup(remove_unused_graph_inputs=False)
    read = {id(node) for node in graph.nodes}  # but for layers that only gave another one's gate its shape
    layers = [layer for layer in zip(products, nodes, given, places, strict=True) if id(layer[1]) in read]
    fused = fuse_following(graph, [node for _, node, _, _ in layers], sizes) if fuse else {}
    graph.cleanup(remove_unused_graph_inputs=False)
    left = {id(node) for node in graph.nodes}
    misses = tuple(NearMiss(_name(mul), r.reason, _name(r.conv)) for mul, r in refusals if id(mul) in left)
    if not layers:
        return Recognition(model, (), misses)
    found = tuple(
        Found(
            node.name,
            product=output,
            output=node.outputs[0].name,
            gates=place,
            masks=tuple(sorted(product.gates.masks)),
            fused=fused.get(id(node), ()),
        )
        for product, node, output, place in layers
    )
    out = to_model(graph, model)
    attach_function(out)
    return Recognition(out, found, misses)


def _name(node: gs.Node | None) -> str:
    return "" if node is None else node.name or node.outputs[0].name


def _taken_names(graph: gs.Graph, products: Sequence[Product]) -> set[str]:
    """Names that no new node may have: of nodes that stay, and of whatever tensors are called ``<name>.<part>``."""
    going = {id(product.branch.conv) for product in products}
    names = {node.name for node in graph.nodes if id(node) not in going}
    tensors = {*graph.tensors(), *(name for inner in graph.subgraphs(recursive=True) for name in inner.tensors())}
    return names | {name.rpartition(".")[0] for name in tensors if name.rpartition(".")[2] in (*INPUT_NAMES, "gate_0")}


def _read_all(graph: gs.Graph, sizes: Sizes, skip: Container[str]) -> tuple[list[Product], list[tuple[gs.Node, RefusalError]]]:
    """Every product, the last first: a product of products is one layer with several gates."""
    outputs = {id(t) for t in graph.outputs}
    products: list[Product] = []
    refusals: list[tuple[gs.Node, RefusalError]] = []
    inside: set[int] = set()
    for mul in reversed([n for n in graph.nodes if is_op(n, "Mul")]):
        if id(mul) in inside or mul.outputs[0].name in skip:
            continue
        result = read_product(mul, sizes, outputs)
        if isinstance(result, Product):
            products.append(result)
            inside.update(map(id, result.branch.nodes))
        elif result is not None:
            refusals.append((mul, result))
    return products[::-1], refusals[::-1]
