"""A copy of the graph in which each form has one spelling, and the way back to the graph itself.

A Where that lets a branch through becomes a Mul; a Where or Mul that cuts small values becomes a
ThresholdedRelu. A Where that lets a product through where its own gate is open, as the op's
function has it, becomes that product. The map of a Conv of zeros, which the function multiplies
onto an external gate, becomes a number.

Products are read in the copy, so that a product that is no layer stays as the model has it.

The spellings agree except for infinity and NaN under a closed gate, where the op gives 0 as Where
does, and for a gate that is NaN, which the op takes as closed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from lccl.graph.constants import constant, stored_shape, value_of
from lccl.graph.nodes import is_computed, is_op, label, optional_input, producer, scalar_of, weights_of
from lccl.graph.op_sets import CONSTANT_COPIES
from lccl.graph.recognise.context import Context
from lccl.graph.recognise.elementwise import GateFunction, Threshold, step_of
from lccl.graph.shapes import FLOAT_TYPES, Sizes


class Origin:
    """The way from the copy back to the graph that it was made of.

    Each id is kept with the object that has it: the copy loses nodes and tensors while it is
    respelled, and a freed object's id may go to a new one.
    """

    def __init__(self, graph: gs.Graph, copy: gs.Graph) -> None:
        self.graph = graph
        pairs = list(_pairs(graph, copy))
        self._nodes = {id(copied): (copied, node) for node, copied in pairs}
        self._tensors: dict[int, tuple[gs.Tensor, gs.Tensor]] = {}
        for node, copied in pairs:
            self._keep((*copied.inputs, *copied.outputs), (*node.inputs, *node.outputs))
        self._keep(copy.inputs, graph.inputs)

    def _keep(self, copies: Sequence[gs.Tensor], tensors: Sequence[gs.Tensor]) -> None:
        for copied, tensor in zip(copies, tensors, strict=True):
            self._tensors[id(copied)] = (copied, tensor)

    def node(self, copied: gs.Node) -> gs.Node:
        """Return the graph's node for one of the copy that both have."""
        return self._nodes[id(copied)][1]

    def tensor(self, copied: gs.Tensor) -> gs.Tensor:
        """Return the graph's tensor for one of the copy.

        The nodes of a tensor that only the copy has, such as the Cast of a condition, are added to
        the graph.
        """
        if id(copied) not in self._tensors:
            made = copied.inputs[0]
            added = gs.Variable(copied.name)
            inputs = [self.tensor(t) for t in made.inputs]
            self.graph.nodes.append(gs.Node(made.op, made.name, dict(made.attrs), inputs, [added]))
            self._keep((copied,), (added,))
        return self._tensors[id(copied)][1]


def _pairs(graph: gs.Graph, copy: gs.Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
    """Yield each node with its copy, those of branches and loop bodies too."""
    for node, copied in zip(graph.nodes, copy.nodes, strict=True):
        yield node, copied
        for inner, inner_copy in zip(node.attrs.values(), copied.attrs.values(), strict=True):
            if isinstance(inner, gs.Graph) and isinstance(inner_copy, gs.Graph):
                yield from _pairs(inner, inner_copy)


@dataclass(frozen=True)
class Normalized:
    """A graph in the spelling that products are read in."""

    graph: gs.Graph
    """The copy."""
    context: Context
    origin: Origin


def normalize(graph: gs.Graph, sizes: Sizes) -> Normalized:
    """Return the graph's normalized copy; the graph stays as it is.

    Args:
        sizes: the shapes of the graph's tensors.
    """
    copy = graph.copy()
    origin = Origin(graph, copy)
    rewriting = _Rewriting(copy, sizes)
    for node in [n for n in copy.nodes if is_op(n, "Where", "Mul")]:
        rewriting.visit(node)
    outputs = frozenset(id(t) for t in copy.outputs)
    return Normalized(copy, Context(rewriting.sizes, outputs, rewriting.labels, rewriting.guarded), origin)


class _Rewriting:
    """The copy while its nodes get their one spelling."""

    def __init__(self, graph: gs.Graph, sizes: Sizes) -> None:
        self.graph, self.sizes = graph, sizes
        self.labels: dict[int, str] = {}
        self.guarded: dict[int, tuple[str, int]] = {}
        self._outputs = {id(t) for t in graph.outputs}

    def visit(self, node: gs.Node) -> None:
        """Respell a Where or Mul if it is one of the forms."""
        cut = _cut_of(node, self.sizes)
        if cut is not None:
            self._as_threshold(node, cut)
        elif node.op == "Where" and not self._as_guarded_product(node):
            self._as_product(node)
        elif node.op == "Mul":
            self._without_constant_map(node)

    def _as_threshold(self, node: gs.Node, cut: _Cut) -> None:
        """Make the node a ThresholdedRelu.

        Nodes of the condition that only this node needs no longer read its operand.
        """
        alone = all(map(self._has_one_reader, cut.condition))
        self._change(node, "ThresholdedRelu", {"alpha": cut.threshold}, [cut.operand])
        if alone:
            cut.condition[-1].inputs.clear()

    def _has_one_reader(self, node: gs.Node) -> bool:
        return len(node.outputs[0].outputs) == 1 and id(node.outputs[0]) not in self._outputs

    def _as_guarded_product(self, node: gs.Node) -> bool:
        """Make a Where of ``u * g`` and 0, which is decided by g, the Mul of u and of g above that.

        Returns:
            Whether it is such a Where.
        """
        found = _guarded(node)
        if found is None or not all(map(self._has_one_reader, (found.product, *found.condition))):
            return False
        product, place, factor = found.product, found.place, found.product.inputs[found.place]
        kind = self.sizes.types.get(found.operand.name)
        if kind is None or self.sizes.of(product.outputs[0]) != self.sizes.of(node.outputs[0]):
            return False
        gate = self._add("ThresholdedRelu", {"alpha": found.threshold}, found.operand, node, kind)
        self.guarded[id(node)] = (product.outputs[0].name, place)
        self._change(node, "Mul", {}, [product.inputs[1 - place], gate])
        product.inputs.clear()
        found.condition[-1].inputs.clear()
        while factor is not found.operand and not factor.outputs and id(factor) not in self._outputs:
            cast = factor.inputs[0]
            factor = cast.inputs[0]
            cast.inputs.clear()
        return True

    def _without_constant_map(self, node: gs.Node) -> None:
        """Make a Mul with a map of one number everywhere a Mul with the number, or a copy for 1."""
        for x, other in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
            number = _constant_map(other)
            if number is None or not _has_size_of(node, x, self.sizes):
                continue
            if number == 1:
                self._change(node, "Identity", {}, [x])
            else:
                dtype = helper.tensor_dtype_to_np_dtype(self.sizes.types.get(x.name, TensorProto.FLOAT))
                self._change(node, "Mul", {}, [x, constant(f"{other.name}.number", number, dtype)])
            return

    def _as_product(self, node: gs.Node) -> None:
        """Make a Where of the branch and 0 a Mul of the branch and a mask."""
        condition, *choices = node.inputs
        zeros = [_is_zero(t) for t in choices]
        branch = choices[0] if zeros[1] else choices[1]
        shapes, kind = self.sizes.of(branch) or ((),), self.sizes.types.get(branch.name)
        if zeros.count(True) != 1 or not is_computed(condition) or kind is None:
            return
        if len(shapes[0]) != 4 or not _has_size_of(node, branch, self.sizes):
            return
        open_where = condition if zeros[1] else self._add("Not", {}, condition, node, TensorProto.BOOL)
        self._change(node, "Mul", {}, [branch, self._add("Cast", {"to": kind}, open_where, node, kind)])

    def _change(self, node: gs.Node, op: str, attrs: Mapping[str, object], inputs: Sequence[gs.Tensor]) -> None:
        self.labels[id(node)] = self._label(node)
        node.op, node.attrs, node.inputs = op, dict(attrs), list(inputs)

    def _add(self, op: str, attrs: Mapping[str, object], x: gs.Tensor, reader: gs.Node, kind: int) -> gs.Tensor:
        """Add a node of one input, labelled as what gives that input.

        Args:
            reader: the node that will read it, which names it.
            kind: ONNX's number of its element type.
        """
        name = f"{reader.outputs[0].name}.{op.lower()}"
        while name in self.sizes.types:
            name += "_"
        self.sizes = self.sizes.with_tensor(name, x, kind)
        output = gs.Variable(name)
        node = gs.Node(op, name, dict(attrs), [x], [output])
        source = producer(x)
        self.labels[id(node)] = self._label(source) if source is not None else f"input {x.name}"
        self.graph.nodes.append(node)
        return output

    def _label(self, node: gs.Node) -> str:
        return self.labels.get(id(node)) or label(node)


@dataclass(frozen=True)
class _Cut:
    """A node that gives its operand where that is above a threshold, else 0."""

    operand: gs.Tensor
    threshold: float
    condition: tuple[gs.Node, ...]
    """The nodes from the condition inwards to the comparison."""


def _cut_of(node: gs.Node, sizes: Sizes) -> _Cut | None:
    if len(node.inputs) != (3 if node.op == "Where" else 2):
        return None
    for x, condition, where_true in _choices(node, sizes):
        nodes, negations = _to_comparison(condition)
        step = step_of(nodes[-1].outputs[0]) if nodes else None
        first = step.functions[0] if step is not None and step.inner is x and step.functions else None
        holds = where_true != (negations % 2 == 1)
        if isinstance(first, Threshold) and (first.sign == 1) == holds:
            return _Cut(x, _strict_threshold(first, holds), tuple(nodes))
    return None


@dataclass(frozen=True)
class _Guarded:
    """A Where that gives a product where the product's own factor is above a threshold, else 0."""

    product: gs.Node
    place: int
    """Of the factor, among the product's operands."""
    operand: gs.Tensor
    """The factor as it is compared, before it may be cast."""
    threshold: float
    condition: tuple[gs.Node, ...]
    """The nodes from the condition inwards to the comparison."""


def _guarded(node: gs.Node) -> _Guarded | None:
    condition, one, other = node.inputs
    nodes, negations = _to_comparison(condition)
    step = step_of(nodes[-1].outputs[0]) if nodes else None
    first = step.functions[0] if step is not None and step.functions else None
    if step is None or not isinstance(first, Threshold):
        return None
    for where_true, given, zero in ((True, one, other), (False, other, one)):
        product, holds = producer(given), where_true != (negations % 2 == 1)
        if product is None or not is_op(product, "Mul") or len(product.inputs) != 2:
            continue
        if not _is_zero(zero) or (first.sign == 1) != holds or not all(map(is_computed, product.inputs)):
            continue
        for place in (0, 1):
            if _is_cast_of(product.inputs[place], step.inner):
                return _Guarded(product, place, step.inner, _strict_threshold(first, holds), tuple(nodes))
    return None


def _is_cast_of(tensor: gs.Tensor, x: gs.Tensor) -> bool:
    """Return whether the tensor is x, or x in another type of float."""
    while tensor is not x:
        node = producer(tensor)
        if node is None or not is_op(node, "Cast") or node.attrs["to"] not in FLOAT_TYPES:
            return False
        tensor = node.inputs[0]
    return True


def _constant_map(tensor: gs.Tensor) -> float | None:
    """Return the number that a map of a Conv with weights of zero has everywhere, or None."""
    function: GateFunction | None = GateFunction()
    while (step := step_of(tensor)) is not None:
        for inner in step.functions:
            function = function.compose(inner) if function is not None else None
        tensor = step.inner
    conv = producer(tensor)
    if function is None or conv is None or not is_op(conv, "Conv") or (stored_shape(conv.inputs[1]) or (0,))[0] != 1:
        return None
    bias = optional_input(conv, 2)
    number = 0.0 if bias is None else scalar_of(bias)
    return None if number is None or weights_of(conv.inputs[1]).any() else function.at(number)


def _to_comparison(condition: gs.Tensor) -> tuple[list[gs.Node], int]:
    """Return the nodes from the condition to the comparison, and how many negate.

    The comparison is the first that neither negates nor casts.
    """
    nodes: list[gs.Node] = []
    node = producer(condition)
    while node is not None:
        nodes.append(node)
        node = producer(node.inputs[0]) if is_op(node, "Not", "Cast") else None
    return nodes, sum(is_op(n, "Not") for n in nodes)


def _choices(node: gs.Node, sizes: Sizes) -> list[tuple[gs.Tensor, gs.Tensor, bool]]:
    """List each operand that the node may give besides 0, with its condition.

    The third value is whether the operand is given where the condition is true.
    """
    if node.op == "Where":
        condition, one, other = node.inputs
        given = [(x, condition, where) for x, zero, where in ((one, other, True), (other, one, False)) if _is_zero(zero)]
    else:
        given = [(x, by, True) for x, by in (node.inputs, node.inputs[::-1]) if is_op(producer(by), "Cast")]
    return [choice for choice in given if _has_size_of(node, choice[0], sizes)]


def _has_size_of(node: gs.Node, x: gs.Tensor, sizes: Sizes) -> bool:
    """Return whether the node's output has the shape of x, which is computed."""
    return is_computed(x) and sizes.of(x) is not None and sizes.of(x) == sizes.of(node.outputs[0])


def _strict_threshold(step: Threshold, holds: bool) -> float:
    """Return the number that x has to be above.

    With an equal sign it is the next number below, except at 0, where x gives 0 either way.
    """
    if step.equal != holds or step.at <= 0:
        return step.at
    return float(np.nextafter(np.float32(step.at), np.float32(-math.inf)))


def _is_zero(tensor: gs.Tensor) -> bool:
    """Return whether the tensor is a constant of zeros, stored or made from one."""
    values = value_of(tensor)
    if values is not None:
        return not values.any()
    node = producer(tensor)
    if node is None:
        return False
    if is_op(node, "ConstantOfShape"):
        return "value" not in node.attrs or not node.attrs["value"].values.any()
    return is_op(node, *CONSTANT_COPIES) and _is_zero(node.inputs[0])
