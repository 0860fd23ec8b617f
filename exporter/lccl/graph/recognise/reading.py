"""Forms that are read as another op: a Where that lets a branch through as a product, one that cuts small values as ThresholdedRelu.

They are rewritten in the graph while products are read, and put back afterwards, so that the walk knows one form of each and what
is not recognised stays as it was. They agree but for infinity and NaN where a gate is closed, at which the op gives 0 as Where does,
and for a gate that is NaN, which is closed in the op.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from lccl.graph.nodes import as_written, is_computed, is_op, title
from lccl.graph.recognise.clamp import Threshold, step_of
from lccl.graph.shapes import Sizes
from lccl.graph.surgery import producer, value_of


@dataclass(frozen=True)
class _Written:
    """A node as the graph has it."""

    node: gs.Node
    op: str
    attrs: dict[str, Any]
    inputs: Sequence[gs.Tensor]


@dataclass
class Reading:
    """A graph whose products are being read."""

    graph: gs.Graph
    sizes: Sizes
    _changed: list[_Written] = field(default_factory=list)

    def begin(self) -> Sizes:
        """Rewrites what is to be read as another op.

        Returns:
            The sizes, with those of new tensors.
        """
        for node in [n for n in self.graph.nodes if is_op(n, "Where", "Mul")]:
            cut = _cut_of(node, self.sizes)
            if cut is not None:
                self._as_threshold(node, *cut)
            elif node.op == "Where":
                self._as_product(node)
        return self.sizes

    def end(self) -> None:
        """Puts everything back that is still there."""
        for written in reversed(self._changed):
            written.node.op, written.node.attrs = written.op, written.attrs
            written.node.inputs = list(written.inputs)
            if not as_written(written.node):
                del written.node.shown

    def _change(self, node: gs.Node, op: str, attrs: dict[str, Any], inputs: Sequence[gs.Tensor]) -> None:
        self._changed.append(_Written(node, node.op, node.attrs, list(node.inputs)))
        node.shown = title(node)
        node.op, node.attrs, node.inputs = op, attrs, list(inputs)

    def _as_threshold(self, node: gs.Node, x: gs.Tensor, at: float, between: Sequence[gs.Node]) -> None:
        """Nodes between, which only this one reads, are no readers of ``x`` meanwhile."""
        outputs = {id(t) for t in self.graph.outputs}
        alone = all(len(n.outputs[0].outputs) == 1 and id(n.outputs[0]) not in outputs for n in between)
        self._change(node, "ThresholdedRelu", {"alpha": at}, [x])
        if alone:
            self._changed.append(_Written(between[-1], between[-1].op, between[-1].attrs, list(between[-1].inputs)))
            between[-1].inputs.clear()

    def _as_product(self, node: gs.Node) -> None:
        """Where(condition, branch, 0), or the other way round."""
        condition, *choices = node.inputs
        zeros = [_is_zero(t) for t in choices]
        branch = choices[0] if zeros[1] else choices[1]
        shapes, kind = self.sizes.of(branch) or ((),), self.sizes.types.get(branch.name)
        if zeros.count(True) != 1 or not is_computed(condition) or kind is None:
            return
        if len(shapes[0]) != 4 or not _gives_size(branch, node, self.sizes):
            return
        open_where = condition if zeros[1] else self._add("Not", {}, condition, node, TensorProto.BOOL)
        self._change(node, "Mul", {}, [branch, self._add("Cast", {"to": kind}, open_where, node, kind)])

    def _add(self, op: str, attrs: dict[str, Any], x: gs.Tensor, reader: gs.Node, kind: int) -> gs.Tensor:
        name = f"{reader.outputs[0].name}.{op.lower()}"
        while name in self.sizes.types:
            name += "_"
        self.sizes = self.sizes.with_tensor(name, x, kind)
        output = gs.Variable(name)
        node = gs.Node(op, name, attrs, [x], [output])
        source = producer(x)
        node.shown = title(source) if source is not None else f"input {x.name}"
        self.graph.nodes.append(node)
        return output


def _cut_of(node: gs.Node, sizes: Sizes) -> tuple[gs.Tensor, float, list[gs.Node]] | None:
    """x and t where the node gives x where it is above t, else 0; and the nodes from the node to the comparison."""
    if len(node.inputs) != (3 if node.op == "Where" else 2):
        return None
    for x, condition, where_true in _kept(node, sizes):
        between, negations = _to_comparison(condition)
        passed = step_of(between[-1].outputs[0]) if between else None
        step = passed.steps[0] if passed is not None and passed.inner is x and passed.steps else None
        holds = where_true != (negations % 2 == 1)
        if isinstance(step, Threshold) and (step.sign == 1) == holds:
            return x, _strictly(step, holds), between
    return None


def _to_comparison(condition: gs.Tensor) -> tuple[list[gs.Node], int]:
    """The nodes from the condition inwards, up to the first that neither negates nor casts it, and how many negate."""
    nodes: list[gs.Node] = []
    node = producer(condition)
    while node is not None:
        nodes.append(node)
        node = producer(node.inputs[0]) if is_op(node, "Not", "Cast") else None
    return nodes, sum(is_op(n, "Not") for n in nodes)


def _kept(node: gs.Node, sizes: Sizes) -> list[tuple[gs.Tensor, gs.Tensor, bool]]:
    """What the node may let through, what decides it, and whether it does where that is true."""
    if node.op == "Where":
        condition, one, other = node.inputs
        given = [(x, condition, where) for x, zero, where in ((one, other, True), (other, one, False)) if _is_zero(zero)]
    else:
        given = [(x, by, True) for x, by in (node.inputs, node.inputs[::-1]) if is_op(producer(by), "Cast")]
    return [kept for kept in given if _gives_size(kept[0], node, sizes)]


def _gives_size(x: gs.Tensor, node: gs.Node, sizes: Sizes) -> bool:
    """Whether the node computes as many elements as x has."""
    return is_computed(x) and sizes.of(x) is not None and sizes.of(x) == sizes.of(node.outputs[0])


def _strictly(step: Threshold, holds: bool) -> float:
    """The number that x has to be above: with an equal sign the next one below; 0 itself gives 0 either way."""
    if step.equal != holds or step.at <= 0:
        return step.at
    return float(np.nextafter(np.float32(step.at), np.float32(-math.inf)))


def _is_zero(tensor: gs.Tensor) -> bool:
    """Whether all elements are 0."""
    values = value_of(tensor)
    if values is not None:
        return not values.any()
    node = producer(tensor)
    if node is None:
        return False
    if is_op(node, "ConstantOfShape"):
        return "value" not in node.attrs or not node.attrs["value"].values.any()
    return is_op(node, "Expand", "Cast", "Identity") and _is_zero(node.inputs[0])
