"""A bfloat16 model in float32, for runtimes without bfloat16 convolutions.

ONNX Runtime on CPUs is one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from lccl.files.external import array, weight_file
from lccl.files.weights import WeightFile

_BF16, _F32 = TensorProto.BFLOAT16, TensorProto.FLOAT


def upcast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with float32 in place of bfloat16 everywhere.

    It is the model itself, not a copy, if that has no bfloat16.
    """
    if not _has_bf16(model):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    _upcast(out.graph.initializer, weight_file(model))
    for value in (*out.graph.input, *out.graph.output):
        if value.type.tensor_type.elem_type == _BF16:
            value.type.tensor_type.elem_type = _F32
    del out.graph.value_info[:]
    for node in (*out.graph.node, *(n for f in out.functions for n in f.node)):
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == _BF16:
                attribute.i = _F32
            if attribute.type == onnx.AttributeProto.TENSOR:
                _upcast([attribute.t], None)
    return out


def _has_bf16(model: onnx.ModelProto) -> bool:
    types = {t.data_type for t in model.graph.initializer}
    types |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    return _BF16 in types or any(a.name == "to" and a.i == _BF16 for n in model.graph.node for a in n.attribute)


def _upcast(tensors: Iterable[TensorProto], file: WeightFile | None) -> None:
    write = numpy_helper.from_array if file is None else lambda values, name: file.tensor(name, values)
    for tensor in tensors:
        if tensor.data_type == _BF16:
            tensor.CopyFrom(write(array(tensor).astype(np.float32), tensor.name))
