"""A model -> onnx-graphsurgeon's graph, which shares its weights, and back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from lccl.errors import UserError
from lccl.files.external import weight_file
from lccl.files.protos import SMALL, skeleton_of
from lccl.graph.constants import StoredWeight, stored_type
from lccl.numerics import Array
from lccl.op.onnx_op import IR_VERSION


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
        stored = gs.Constant(stand_in.name, StoredWeight(weights[stand_in.name]))
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
                tensor._values = StoredWeight(file.tensor(tensor.name, tensor._values))
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
