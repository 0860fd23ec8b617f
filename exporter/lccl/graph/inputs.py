"""Inputs of a model: their types, and where the batch stands in them."""

from __future__ import annotations

import onnx

from lccl.graph.batch_axes import BatchAxes, dims_of, find_batch_axes


def input_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Return the types of the model's inputs by name.

    Initializers that older exporters list among the inputs are left out, and a size below 1, which
    some exporters write for a dynamic one, has no number.
    """
    stored = {t.name for t in model.graph.initializer}
    types = {v.name: v.type.tensor_type for v in model.graph.input if v.name not in stored}
    for name, kind in types.items():
        if any(d.HasField("dim_value") and d.dim_value < 1 for d in kind.shape.dim):
            types[name] = type(kind)()
            types[name].CopyFrom(kind)
            for dim in types[name].shape.dim:
                if dim.dim_value < 1:
                    dim.ClearField("dim_value")
    return types


def batch_axes(model: onnx.ModelProto) -> BatchAxes:
    """Return where the batch stands in the model's inputs and outputs."""
    inputs = {name: dims_of(kind) for name, kind in input_types(model).items()}
    outputs = {v.name: dims_of(v.type.tensor_type) for v in model.graph.output}
    return find_batch_axes(inputs, outputs)
