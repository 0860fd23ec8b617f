"""Model -> onnx-graphsurgeon's graph and back; constants, and rewrites of one node."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from lccl.console.quiet import quiet
from lccl.errors import UserError
from lccl.files.protos import SMALL, skeleton_of
from lccl.files.weights import array, weight_file
from lccl.numerics import Array
from lccl.op.contract import DOMAIN, OP_TYPE, Attributes
from lccl.op.onnx_op import IR_VERSION

Rule = Callable[[gs.Node], gs.Tensor | None]
"""A rewrite of one node: gives the tensor that replaces its only output, or None if the rule does
not apply."""


def to_graph(model: onnx.ModelProto) -> gs.Graph:
    """Return the model as a graph, with the shapes and types that can be inferred.

    The graph shares the model's weights.

    Raises:
        UserError: onnx-graphsurgeon cannot write a constant of the model again.
    """
    require_numbers(model)
    skeleton, weights = skeleton_of(model)
    plain_constants(skeleton)
    with contextlib.suppress(Exception):
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    graph = import_graph(skeleton)
    attach_weights(graph, weights)
    return graph


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Return the model as a graph, without onnx-graphsurgeon's messages."""
    from onnx_graphsurgeon.logger import G_LOGGER

    G_LOGGER.severity = G_LOGGER.ERROR
    return gs.import_onnx(model)


def plain_constants(model: onnx.ModelProto) -> None:
    """Turn Constant(value_float...) into Constant(value), in place.

    TensorRT's parser knows only that, and onnx-graphsurgeon makes a float64 of the other.
    """
    for node in model.graph.node:
        if node.op_type != "Constant" or not node.attribute[0].name.startswith(("value_int", "value_float")):
            continue
        value = helper.get_attribute_value(node.attribute[0])
        is_int = node.attribute[0].name.startswith("value_int")
        tensor = numpy_helper.from_array(np.asarray(value, np.int64 if is_int else np.float32))
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", tensor))


def attach_weights(graph: gs.Graph, weights: Mapping[str, onnx.TensorProto]) -> None:
    """Put the weights in place of the graph inputs that stand for them."""
    for stand_in in [t for t in graph.inputs if t.name in weights]:
        stored = gs.Constant(stand_in.name, _Stored(weights[stand_in.name]))
        for reader in list(stand_in.outputs):
            reader.inputs = [stored if t is stand_in else t for t in reader.inputs]
    graph.inputs = [t for t in graph.inputs if t.name not in weights]


def require_numbers(model: onnx.ModelProto) -> None:
    """Check that onnx-graphsurgeon can write every constant of the model again.

    Raises:
        UserError: a constant holds strings or is sparse.
    """
    strings = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.STRING]
    strings += [t.values.name for t in model.graph.sparse_initializer]
    for node in model.graph.node:
        for a in node.attribute if node.op_type == "Constant" else ():
            odd = a.name in ("value_string", "value_strings", "sparse_value")
            if odd or (a.name == "value" and a.t.data_type == onnx.TensorProto.STRING):
                strings.append(node.name or node.output[0])
    if strings:
        raise UserError(
            f"the model's constant {strings[0]} holds text or a sparse tensor, which cannot be carried over: remove it"
        )


class _Stored(LazyValues):
    """A weight that is read from its model's file each time its values are needed."""

    def load(self) -> Array:
        return array(self.tensor)


def to_model(graph: gs.Graph, like: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph as a model, with ``like``'s producer, metadata and documentation.

    If ``like`` has its weights in a file, new weights go into that file.
    """
    # Nodes only: beside an If or a Loop, graphsurgeon's sort of functions never ends.
    graph.cleanup(remove_unused_graph_inputs=False).toposort(mode="nodes")
    file = weight_file(like)
    returned = {t.name for t in graph.outputs}
    weights = {t.name: t for t in graph.tensors().values() if _is_weight(t) and t.name not in returned}
    if file is not None:
        for tensor in weights.values():
            if not isinstance(tensor._values, LazyValues):
                # The array is no longer referred to.
                tensor._values = _Stored(file.tensor(tensor.name, tensor._values))
    with _left_out(weights.values()) as values:
        model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(_as_tensor(tensor.name, values[tensor.name]))
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = like.producer_name, like.producer_version
    model.doc_string = like.doc_string
    del model.metadata_props[:]
    model.metadata_props.extend(like.metadata_props)
    return model


def _is_weight(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    """Return whether the tensor is a large constant that can be written as it is."""
    if not isinstance(tensor, gs.Constant) or math.prod(tensor.shape) <= SMALL:
        return False
    return not isinstance(tensor._values, SparseValues) and tensor._export_dtype is None


def _as_tensor(name: str, values: Array | LazyValues) -> onnx.TensorProto:
    if not isinstance(values, LazyValues):
        return numpy_helper.from_array(values, name)
    out = onnx.TensorProto()
    out.CopyFrom(values.tensor)
    out.name = name
    return out


@contextlib.contextmanager
def _left_out(weights: Iterable[gs.Constant]) -> Iterator[dict[str, Array | LazyValues]]:
    """Replace the weights by empty tensors within the block, and yield their values.

    An export copies each tensor several times.
    """
    kept = list(weights)
    values = {t.name: t._values for t in kept}
    for tensor in kept:
        tensor._values = LazyValues(onnx.TensorProto(name=tensor.name, data_type=stored_type(tensor), dims=tensor.shape))
    try:
        yield values
    finally:
        for tensor in kept:
            tensor._values = values[tensor.name]


def fold_constants(graph: gs.Graph) -> gs.Graph:
    """Make a constant of everything that depends on constants only."""
    _load_foldable(graph)
    with quiet():
        graph.fold_constants(fold_shapes=False)
    return graph.cleanup(remove_unused_graph_inputs=False)


def _load_foldable(graph: gs.Graph) -> None:
    """Load the weights that foldable nodes read: ONNX Runtime folds them without a file."""
    folded: set[int] = set()
    for node in graph.nodes:
        if all(isinstance(t, gs.Constant) or id(t) in folded for t in node.inputs):
            folded.update(map(id, node.outputs))
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    tensor.values = np.array(tensor.values)


def is_lccl(node: gs.Node) -> bool:
    """Return whether the node is an LCCLConv of the contract's domain."""
    return bool(node.op == OP_TYPE and node.domain == DOMAIN)


def attributes_of(node: gs.Node) -> Attributes:
    """Return the attributes of an LCCLConv node.

    Raises:
        ContractError: version 1 does not know an attribute, or does not allow its value.
    """
    return Attributes.from_mapping(node.attrs)


def value_of(tensor: gs.Tensor) -> Array | None:
    """Return a constant's values, or None for a tensor that is computed.

    Values of a weight in a file are not kept in the graph.
    """
    if isinstance(tensor, gs.Constant):
        values: Array = tensor._values.load() if isinstance(tensor._values, _Stored) else tensor.values
        return values
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant" and "value" in tensor.inputs[0].attrs:
        values = tensor.inputs[0].attrs["value"].values
        return values
    return None


def stored_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Return a constant's shape without loading its values, or None for another tensor."""
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    values = value_of(tensor)
    return None if values is None else tuple(values.shape)


def stored_type(tensor: gs.Tensor) -> int:
    """Return ONNX's number of a constant's element type, or 0 for a tensor that is computed."""
    if isinstance(tensor, gs.Constant):
        return tensor.dtype if isinstance(tensor.dtype, int) else int(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))
    values = value_of(tensor)
    return 0 if values is None else int(helper.np_dtype_to_tensor_dtype(values.dtype))


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that computes the tensor, or None for inputs and constants."""
    return tensor.inputs[0] if len(tensor.inputs) == 1 else None


def replace_output(graph: gs.Graph, node: gs.Node, tensor: gs.Tensor) -> None:
    """Let every reader of the node's output read ``tensor`` instead.

    Names of the graph's outputs stay.
    """
    old = node.outputs[0]
    for reader in list(old.outputs):
        reader.inputs = [tensor if t is old else t for t in reader.inputs]
    if any(t is old for t in graph.outputs):
        source = producer(tensor)
        node.outputs.clear()
        if source is not None and not any(t is tensor for t in graph.outputs):
            for reader in list(tensor.outputs):
                reader.inputs = [old if t is tensor else t for t in reader.inputs]
            source.outputs = [old if t is tensor else t for t in source.outputs]
        else:
            graph.nodes.append(gs.Node("Identity", f"{node.name}_identity", inputs=[tensor], outputs=[old]))
    else:
        node.outputs.clear()


def apply_rules(graph: gs.Graph, rules: tuple[Rule, ...], names: Container[str]) -> int:
    """Apply each rule once to each node of these names, and return the number of rewrites."""
    made = 0
    for node in [n for n in graph.nodes if n.name in names]:
        for rule in rules:
            if len(node.outputs) != 1:
                break
            tensor = rule(node)
            if tensor is not None:
                replace_output(graph, node, tensor)
                made += 1
    graph.cleanup(remove_unused_graph_inputs=False)
    return made


def constant(name: str, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> gs.Constant:
    """Return a new constant tensor."""
    return gs.Constant(name, np.ascontiguousarray(np.asarray(values, dtype=dtype)))
