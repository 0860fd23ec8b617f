"""A model that was built for ONNX Runtime -> the same layers by the contract's op and layout."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from lccl.graph.constants import constant, stored_shape, value_of
from lccl.graph.conversion import to_graph, to_model
from lccl.graph.layouts.channels_last import RESIDUAL, X
from lccl.graph.nodes import is_op, producer
from lccl.graph.variants.dense import replace_by_dense
from lccl.op.contract import DOMAIN, OP_TYPE
from lccl.op.layout_op import DENSE_OP, FROM_NCHW, LAYOUT_DOMAIN, TO_NCHW, layouts_of, permutations
from lccl.op.onnx_function import attach_function

_PERMUTATIONS = tuple(permutations(False, False))


def in_contract(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a built model with its layers under their names, as LCCLConv and as standard ops.

    A Transpose is left only where another op works on a tensor with its channels innermost.
    """
    graph = to_graph(model)
    private = [node for node in graph.nodes if node.domain == LAYOUT_DOMAIN]
    dense = [node for node in private if node.op == DENSE_OP]
    plain: dict[int, gs.Tensor] = {}
    for node in private:
        _, y_last = layouts_of(node.attrs)
        if y_last:
            _write_plain(graph, node, plain)
    for node in private:
        x_last, y_last = layouts_of(node.attrs)
        for place, last in ((X, x_last), (RESIDUAL, y_last)):
            if last:
                _read_plain(graph, node, place, plain)
    for node in private:
        node.domain, node.op = DOMAIN, OP_TYPE
        for name in _PERMUTATIONS:
            del node.attrs[name]
    for node in dense:
        replace_by_dense(graph, node)
    graph.functions = [f for f in graph.functions if f.domain != LAYOUT_DOMAIN]
    graph.import_domains = [o for o in graph.import_domains or [] if o.domain != LAYOUT_DOMAIN]
    out = to_model(graph, model)
    attach_function(out)
    return out


def _write_plain(graph: gs.Graph, node: gs.Node, plain: dict[int, gs.Tensor]) -> None:
    """Let a node write its output in the contract's layout, and give it to Transposes behind it."""
    last = node.outputs[0]
    shape = None if last.shape is None else [last.shape[axis] for axis in TO_NCHW]
    own = gs.Variable(f"{last.name}.nchw", last.dtype, shape)
    plain[id(last)] = own
    node.outputs = [own]
    returned = {id(t) for t in graph.outputs}
    for reader in list(last.outputs):
        back = is_op(reader, "Transpose") and tuple(reader.attrs.get("perm", ())) == TO_NCHW
        if not back:
            continue
        old = reader.outputs[0]
        if id(old) in returned:  # its name is the network's
            own.name, old.name = old.name, own.name
            graph.outputs = [own if t is old else t for t in graph.outputs]
        for node_behind in list(old.outputs):
            node_behind.inputs = [own if t is old else t for t in node_behind.inputs]
        reader.outputs.clear()
        reader.inputs.clear()
    if last.outputs or id(last) in returned:
        graph.nodes.append(gs.Node("Transpose", f"{last.name}.transpose", {"perm": list(FROM_NCHW)}, [own], [last]))


def _read_plain(graph: gs.Graph, node: gs.Node, place: int, plain: dict[int, gs.Tensor]) -> None:
    """Let a node read an input in the contract's layout."""
    tensor = node.inputs[place]
    stored = value_of(tensor)
    if stored_shape(tensor) is not None and stored is not None:
        if stored.size > 1:
            node.inputs[place] = constant(f"{tensor.name}.nchw", stored.transpose(TO_NCHW))
        return
    maker = producer(tensor)
    if id(tensor) in plain:
        node.inputs[place] = plain[id(tensor)]
    elif maker is not None and is_op(maker, "Transpose") and tuple(maker.attrs.get("perm", ())) == FROM_NCHW:
        node.inputs[place] = maker.inputs[0]
    else:
        shape = None if tensor.shape is None else [tensor.shape[axis] for axis in TO_NCHW]
        own = gs.Variable(f"{tensor.name}.nchw", tensor.dtype, shape)
        plain[id(tensor)] = own
        graph.nodes.append(gs.Node("Transpose", f"{tensor.name}.plain", {"perm": list(TO_NCHW)}, [tensor], [own]))
        node.inputs[place] = own
