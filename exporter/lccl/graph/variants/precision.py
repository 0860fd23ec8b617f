"""The model in float16 or bfloat16, for builders that take the precision from the ONNX file.

onnxconverter-common decides what can be converted. An LCCLConv keeps its float32 inputs, and the op
computes the gate in float32 whatever its type, so that no gate flips because it was rounded itself.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Literal, get_args

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from lccl.errors import Fix, UserError, first_line, shown
from lccl.errors.requires import needing
from lccl.graph.intake import all_nodes, graphs_of
from lccl.op.contract import INPUTS
from lccl.op.onnx_op import is_lccl_node

Precision = Literal["fp32", "fp16", "bf16"]
FP16_MAX = 65504.0
MASK_VALUE = 1e30
"""A constant of this size or more stands for infinity, as in attention masks, and may saturate."""
_BF16 = np.dtype(ml_dtypes.bfloat16)


def to_precision(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Return the canonical model with feature maps and weights in ``precision``.

    Its inputs and outputs stay float32.

    Raises:
        UserError: the model's weights are not float32, or float16 cannot hold one of them.
    """
    if precision not in get_args(Precision):
        raise UserError(f"precision is one of {', '.join(get_args(Precision))}, not {shown(precision)}")
    if precision == "fp32":
        return model
    if any(t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for t in _weights(model.graph).values()):
        raise UserError(
            f"the model's weights are not float32, so it cannot be converted to {precision}",
            Fix("precision", precision, leave_out=True),
        )
    with needing(f"precision {precision}"):
        from onnxconverter_common import float16

    source = onnx.ModelProto()
    source.CopyFrom(model)
    _prepare(source.graph)
    originals = _weights(source.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            converted: onnx.ModelProto = float16.convert_float_to_float16(
                source, min_positive_val=0.0, max_finite_val=FP16_MAX, keep_io_types=True
            )
        except ValueError as error:  # a part of the model is of float16 already
            raise UserError(
                f"the model cannot be converted to {precision}: {first_line(error)}",
                Fix("precision", precision, leave_out=True),
            ) from None
    _convert_casts(converted.graph, {n.name for n in all_nodes(source)})
    if precision == "bf16":
        _half_to_bf16(converted.graph, originals)
    _restore_float_inputs(converted.graph, originals)
    _require_range(converted.graph, originals)
    _restore_io_types(converted.graph, model.graph)
    _sort(converted.graph)
    return converted


def _prepare(graph: onnx.GraphProto) -> None:
    """Bring a graph into the form that the converter takes.

    It infers the types of values again, and what a file says of its outputs there contradicts it.
    It takes a name for each node, an output for what one node gives and none reads, and weights for
    no inputs.
    """
    _name_nodes(graph, itertools.count())
    stored = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)
    _forget_types(graph)
    given = {v.name for v in inputs}
    outputs = list({v.name: v for v in graph.output if v.name not in given}.values())
    del graph.output[:]
    graph.output.extend(outputs)
    read = {name for node in graph.node for name in _read_by(node)}
    for value in outputs:
        if value.name in read | stored:
            inner = f"{value.name}.inner"
            _rename(graph, value.name, inner)
            graph.node.append(onnx.helper.make_node("Identity", [inner], [value.name], name=f"{inner}.identity"))


def _weights(graph: onnx.GraphProto, path: str = "") -> dict[str, TensorProto]:
    """Return the stored tensors, those of branches and bodies too.

    Those of the graph itself have their name as key. Others have the names of the nodes that they
    are in before it, since two branches may have tensors of one name.
    """
    found = {f"{path}{t.name}": t for t in graph.initializer}
    for node in graph.node:
        for i, inner in enumerate(graphs_of(node)):
            found |= _weights(inner, f"{path}{node.name}[{i}]/")
    return found


def _name_nodes(graph: onnx.GraphProto, numbers: Iterator[int]) -> None:
    for node in graph.node:
        node.name = node.name or f"unnamed.{next(numbers)}"
        for inner in graphs_of(node):
            _name_nodes(inner, numbers)


def _forget_types(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        for inner in graphs_of(node):
            _forget_types(inner)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, in its branches and bodies too."""
    yield from node.input
    for inner in graphs_of(node):
        yield from (value.name for value in inner.output)
        for part in inner.node:
            yield from _read_by(part)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value that the graph stores, gives or reads, in branches and bodies too."""
    for tensor in graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for inner in graphs_of(node):
            for value in inner.output:
                value.name = new if value.name == old else value.name
            _rename(inner, old, new)


def _sort(graph: onnx.GraphProto) -> None:
    """Put each node behind those whose values it reads.

    The converter sorts them too, and does not look into branches.
    """
    waiting = list(graph.node)
    unmade = {name for node in waiting for name in node.output}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = next(node for node in waiting if unmade.isdisjoint(_read_by(node)))
        waiting.remove(ready)
        unmade.difference_update(ready.output)
        ordered.append(ready)
    del graph.node[:]
    graph.node.extend(ordered)


def _convert_casts(graph: onnx.GraphProto, own_names: set[str]) -> None:
    """Turn the network's own casts to float32 into casts to float16, as types have to match.

    The converter leaves them.
    """
    for node in graph.node:
        if node.op_type == "Cast" and node.name in own_names:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        for inner in graphs_of(node):
            _convert_casts(inner, own_names)
    _forget_types(graph)


def _require_range(graph: onnx.GraphProto, originals: dict[str, TensorProto]) -> None:
    """Check that float16 can hold every weight: with clamped weights it would be another network.

    Raises:
        UserError: a weight is out of range.
    """
    for name, tensor in _weights(graph).items():
        if tensor.data_type == TensorProto.FLOAT16 and name in originals:
            values = np.abs(numpy_helper.to_array(originals[name]))
            if ((values > FP16_MAX) & (values < MASK_VALUE)).any():
                raise UserError(
                    f"{tensor.name} holds values above {FP16_MAX:.0f}, which float16 cannot hold", Fix("precision", "bf16")
                )


def _restore_io_types(graph: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Add a Cast at each output that the converter left in lower precision."""
    made = {value.name: value for value in graph.output}
    del graph.output[:]
    for wanted in original.output:
        value = graph.output.add()
        value.CopyFrom(made.get(wanted.name, wanted))
        element = wanted.type.tensor_type.elem_type
        if value.type.tensor_type.elem_type == element:
            continue
        name, narrow = value.name, f"{value.name}.narrow"
        for node in graph.node:
            node.input[:] = [narrow if i == name else i for i in node.input]
            node.output[:] = [narrow if o == name else o for o in node.output]
        graph.node.append(onnx.helper.make_node("Cast", [narrow], [name], name=narrow, to=element))
        value.type.tensor_type.elem_type = element


def _restore_float_inputs(graph: onnx.GraphProto, originals: dict[str, TensorProto]) -> None:
    """Restore B, gate_B, post_scale and post_bias to float32, as the contract requires."""
    slots = [i for i, spec in enumerate(INPUTS) if not spec.is_tensor_type]
    initializers = {t.name: t for t in graph.initializer}
    casts: list[onnx.NodeProto] = []
    for node in filter(is_lccl_node, graph.node):
        for i in slots:
            name = node.input[i]
            wide = f"{name}.float32"
            if name in originals:
                if wide not in initializers:
                    initializers[wide] = graph.initializer.add()
                    initializers[wide].CopyFrom(originals[name])
                    initializers[wide].name = wide
            elif wide not in {c.output[0] for c in casts}:
                casts.append(onnx.helper.make_node("Cast", [name], [wide], name=wide, to=TensorProto.FLOAT))
            node.input[i] = wide
    _insert_before_readers(graph, casts)
    used = {name for node in graph.node for name in _read_by(node)}
    unused = [t for t in graph.initializer if t.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _insert_before_readers(graph: onnx.GraphProto, casts: list[onnx.NodeProto]) -> None:
    nodes = list(graph.node)
    for cast in casts:
        first = next(i for i, node in enumerate(nodes) if cast.output[0] in node.input)
        nodes.insert(first, cast)
    del graph.node[:]
    graph.node.extend(nodes)


def _half_to_bf16(graph: onnx.GraphProto, originals: dict[str, TensorProto]) -> None:
    """Turn every float16 of the converted graph into bfloat16.

    The values come from the float32 originals, whose range bfloat16 keeps.
    """
    for name, tensor in _weights(graph).items():
        if tensor.data_type == TensorProto.FLOAT16:
            _set_bf16(tensor, originals.get(name, tensor))
    _types_to_bf16(graph)


def _types_to_bf16(graph: onnx.GraphProto) -> None:
    """Turn float16 into bfloat16 where nodes and values have types, in branches and bodies too."""
    for node in graph.node:
        for inner in graphs_of(node):
            _types_to_bf16(inner)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
                _set_bf16(attribute.t, attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16


def _set_bf16(tensor: TensorProto, source: TensorProto) -> None:
    values = numpy_helper.to_array(source).astype(np.float32).astype(_BF16)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
