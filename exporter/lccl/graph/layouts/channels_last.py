"""The layout of each tensor: channels innermost within runs of the op, where that saves time.

Every node of the op reads and writes either layout. A standard op reads and writes the contract's,
unless it is free of layouts: elementwise, or a Concat, Slice or Pad whose axes can be moved. All
tensors that free ops tie together have one layout, and so have the residual and the output of a
node. Such a group has its channels innermost where more nodes of the op touch it than other ops,
each of which then needs a Transpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lccl.graph.constants import constant, stored_shape, value_of
from lccl.graph.conversion import to_graph, to_model
from lccl.graph.nodes import is_lccl
from lccl.graph.op_sets import ACTIVATIONS, BINARY_AFFINE, COPIES
from lccl.op.contract import INPUT_NAMES
from lccl.op.layout_op import DENSE_OP, FROM_NCHW, LAYOUT_DOMAIN, TO_NCHW, attach_layout_functions, permutations
from lccl.op.onnx_function import attach_function

X, RESIDUAL = INPUT_NAMES.index("X"), INPUT_NAMES.index("residual")
FREE = ACTIVATIONS | BINARY_AFFINE | COPIES | {"Sum", "Abs", "Neg", "Exp", "Sqrt", "Erf", "Cast"}
"""Elementwise ops: of four axes in any order."""
OWN_CHANGE = 0.25
"""What a change of layout within a node of the op costs, of a Transpose of that tensor."""
MOVED_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}
"""An axis of [N, C, H, W] -> where it is in [N, H, W, C]."""


def with_layouts(model: onnx.ModelProto, channels_last: bool = True) -> tuple[onnx.ModelProto, int]:
    """Return a canonical model with its tensors in the layouts that save the most.

    Nodes without a gate (:mod:`lccl.graph.layouts.gateless`) become convolutions of the private
    domain; so do all nodes that read or write a tensor with its channels innermost.

    Args:
        model: the model.
        channels_last: whether any tensor may have its channels innermost.

    Returns:
        The model, and how many of its tensors have their channels innermost.
    """
    graph = to_graph(model)
    flexible = _Flexible(graph)
    changed = _chosen(graph, flexible) if channels_last else {}
    free = [node for node in graph.nodes if flexible.is_free(node) and id(node.outputs[0]) in changed]
    for node in filter(is_lccl, graph.nodes):
        _set_layouts(node, changed)
    for node in free:
        _move(node)
    for tensor in changed.values():
        _connect(graph, tensor, flexible)
    out = to_model(graph, model)
    attach_function(out)
    attach_layout_functions(out)
    return out, len(changed)


def is_gateless(node: gs.Node) -> bool:
    """Return whether a node of the op has no gate at all."""
    gate, bias = node.inputs[INPUT_NAMES.index("gate")], node.inputs[INPUT_NAMES.index("gate_B")]
    values = value_of(bias)
    slope, most = node.attrs["gate_slope"], node.attrs["gate_max"]
    is_one = values is not None and bool((np.minimum(slope * values, most) == 1).all()) and node.attrs["gate_threshold"] < 1
    return node.attrs["gate_source"] == "external" and stored_shape(gate) == (1, 1, 1, 1) and is_one and _is_ones(gate)


def _is_ones(tensor: gs.Tensor) -> bool:
    values = value_of(tensor)
    return values is not None and bool((values == 1).all())


# ---- which tensors -------------------------------------------------------------------------------


@dataclass
class _Groups:
    """Tensors that must have one layout, joined (union-find)."""

    parents: dict[int, int] = field(default_factory=dict)

    def root(self, key: int) -> int:
        while self.parents.setdefault(key, key) != key:
            key = self.parents[key]
        return key

    def join(self, keys: Iterable[int]) -> None:
        first, *others = map(self.root, keys)
        for other in others:
            self.parents[self.root(other)] = self.root(first)


class _Flexible:
    """Which nodes of a graph take a tensor in either layout. Nodes of subgraphs do not."""

    def __init__(self, graph: gs.Graph) -> None:
        self._free = {id(node) for node in graph.nodes if _is_free(node)}
        self._own = {id(node) for node in graph.nodes if is_lccl(node)}

    def is_free(self, node: gs.Node) -> bool:
        """Return whether a standard op works on tensors of any layout."""
        return id(node) in self._free

    def makes(self, node: gs.Node) -> bool:
        """Return whether the node can write its output in either layout."""
        return id(node) in self._free or id(node) in self._own

    def reads(self, node: gs.Node, place: int) -> bool:
        """Return whether the node can read an input in either layout."""
        return id(node) in self._free or (id(node) in self._own and place in (X, RESIDUAL))

    def is_own(self, node: gs.Node) -> bool:
        """Return whether the node is one of the op."""
        return id(node) in self._own


def _chosen(graph: gs.Graph, flexible: _Flexible) -> dict[int, gs.Tensor]:
    """Return the tensors that shall have their channels innermost, by id."""
    groups = _Groups()
    tensors: dict[int, gs.Tensor] = {}
    for node in graph.nodes:
        tied = _tied(node, flexible)
        tensors.update((id(t), t) for t in tied)
        if tied:
            groups.join([id(t) for t in tied])
    gains: dict[int, float] = {}
    outside = {id(t) for t in (*graph.outputs, *graph.inputs)}
    for key, tensor in tensors.items():
        root = groups.root(key)
        gains[root] = gains.get(root, 0) + _elements(tensor) * _gain(tensor, flexible, key in outside)
    fixed = {groups.root(key) for key, tensor in tensors.items() if not _is_map(tensor)}
    return {key: t for key, t in tensors.items() if gains[groups.root(key)] > 0 and groups.root(key) not in fixed}


def _tied(node: gs.Node, flexible: _Flexible) -> list[gs.Tensor]:
    """Return the computed tensors of a node that have one layout; X of the op has its own."""
    if flexible.is_own(node):
        return [node.outputs[0], *([node.inputs[RESIDUAL]] if stored_shape(node.inputs[RESIDUAL]) is None else [])]
    return [t for t in (*node.inputs, *node.outputs) if _is_map(t)] if flexible.is_free(node) else []


def _gain(tensor: gs.Tensor, flexible: _Flexible, is_outside: bool) -> float:
    """Return how many changes of layout a tensor with its channels innermost saves.

    A node of the op changes the layout as it reads and writes, which costs a fraction of a
    Transpose.
    """
    uses = [(node, flexible.makes(node)) for node in tensor.inputs]
    uses += [(node, flexible.reads(node, place)) for node, place in _readers(tensor)]
    own = sum(can and flexible.is_own(node) for node, can in uses)
    needs_transpose = is_outside or not all(can for _, can in uses)
    return OWN_CHANGE * own - int(needs_transpose)


def _readers(tensor: gs.Tensor) -> list[tuple[gs.Node, int]]:
    """Return each node that reads the tensor, with the place of the input."""
    nodes = {id(node): node for node in tensor.outputs}
    return [(node, place) for node in nodes.values() for place, t in enumerate(node.inputs) if t is tensor]


def _is_map(tensor: gs.Tensor) -> bool:
    return stored_shape(tensor) is None and tensor.shape is not None and len(tensor.shape) == 4


def _elements(tensor: gs.Tensor) -> int:
    """Return the size of a tensor, with 1 for each axis that is not known."""
    return math.prod(size if isinstance(size, int) else 1 for size in tensor.shape or ())


def _is_free(node: gs.Node) -> bool:
    if node.domain not in (None, "", "ai.onnx") or len(node.outputs) != 1 or not _is_map(node.outputs[0]):
        return False
    given = [t for t in node.inputs if not (isinstance(t, gs.Variable) and t.is_empty())]
    computed = [t for t in given if stored_shape(t) is None]
    stored = [shape for t in given if (shape := stored_shape(t)) is not None]
    if not computed or not all(map(_is_map, computed)):
        return False
    if node.op in FREE:
        return all(len(shape) <= 4 for shape in stored)
    if node.op == "Concat":
        return not stored
    if node.op == "Pad":
        return len(computed) == 1 and 2 <= len(node.inputs) <= 3 and stored_shape(node.inputs[1]) == (8,)
    return node.op == "Slice" and len(computed) == 1 and len(node.inputs) >= 4 and stored_shape(node.inputs[3]) is not None


# ---- the nodes -----------------------------------------------------------------------------------


def _set_layouts(node: gs.Node, changed: dict[int, gs.Tensor]) -> None:
    """Make a node of the op read and write the layouts of its tensors."""
    last = id(node.inputs[X]) in changed, id(node.outputs[0]) in changed
    if is_gateless(node):
        node.op, node.domain = DENSE_OP, LAYOUT_DOMAIN
    elif any(last):
        node.domain = LAYOUT_DOMAIN
    if node.domain == LAYOUT_DOMAIN:
        node.attrs |= permutations(*last)
    residual = node.inputs[RESIDUAL]
    stored = value_of(residual)
    if last[1] and stored is not None and stored.size > 1:
        node.inputs[RESIDUAL] = constant(f"{residual.name}.nhwc", stored.transpose(FROM_NCHW))


def _move(node: gs.Node) -> None:
    """Give a free op the axes and constants of tensors with their channels innermost."""
    if node.op == "Concat":
        node.attrs["axis"] = MOVED_AXIS[node.attrs["axis"] % 4]
    elif node.op == "Pad":
        pads = value_of(node.inputs[1])
        assert pads is not None
        order = [*FROM_NCHW, *(4 + axis for axis in FROM_NCHW)]
        node.inputs[1] = constant(f"{node.name or node.outputs[0].name}.pads_nhwc", pads[order])
    elif node.op == "Slice":
        axes = value_of(node.inputs[3])
        assert axes is not None
        moved = np.array([MOVED_AXIS[int(axis) % 4] for axis in axes], axes.dtype)
        node.inputs[3] = constant(f"{node.name or node.outputs[0].name}.axes_nhwc", moved)
    else:
        for place, tensor in enumerate(node.inputs):
            values = value_of(tensor)
            if values is not None and values.ndim > 1:
                full = values.reshape((1,) * (4 - values.ndim) + values.shape)
                node.inputs[place] = constant(f"{tensor.name}.nhwc", full.transpose(FROM_NCHW))
            elif values is not None and values.size > 1:  # along the width
                node.inputs[place] = constant(f"{tensor.name}.nhwc", values.reshape(1, 1, -1, 1))


def _connect(graph: gs.Graph, tensor: gs.Tensor, flexible: _Flexible) -> None:
    """Put a Transpose between a tensor with its channels innermost and ops of another layout."""
    shape = tensor.shape
    assert shape is not None
    last = gs.Variable(f"{tensor.name}.nhwc", tensor.dtype, [shape[axis] for axis in FROM_NCHW])
    readers = _readers(tensor)
    if tensor.inputs and flexible.makes(tensor.inputs[0]):
        tensor.inputs[0].outputs = [last]
        if any(t is tensor for t in graph.outputs) or not all(flexible.reads(*reader) for reader in readers):
            graph.nodes.append(_transpose(last, tensor, TO_NCHW))
    else:
        graph.nodes.append(_transpose(tensor, last, FROM_NCHW))
    for node, place in readers:
        if flexible.reads(node, place):
            node.inputs[place] = last


def _transpose(source: gs.Tensor, target: gs.Tensor, permutation: tuple[int, ...]) -> gs.Node:
    return gs.Node("Transpose", f"{source.name}.transpose", {"perm": list(permutation)}, [source], [target])
