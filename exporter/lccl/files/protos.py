"""Parts of ONNX messages: copies without weights, and fields as protobuf writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

SMALL = 1024
"""The most elements of a constant that shape inference or folding may have to read; larger ones are
weights."""
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "external_data", "data_location")


def skeleton_of(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, TensorProto]]:
    """Return a copy of the model whose large weights are graph inputs, for cheap passes over it.

    Returns:
        The copy, and the given model's large weights by name.
    """
    kept = {v.name for v in (*model.graph.input, *model.graph.output)}
    large = {t.name: t for t in model.graph.initializer if math.prod(t.dims) > SMALL and t.name not in kept}
    out = without_initializers(model)
    out.graph.initializer.extend(t for t in model.graph.initializer if t.name not in large)
    out.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large.values())
    return out, large


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the model without its initializers."""
    out = onnx.ModelProto()
    _copy_fields(out, model, ("graph",))
    _copy_fields(out.graph, model.graph, ("initializer",))
    return out


def without_data(tensor: TensorProto) -> TensorProto:
    """Return a copy of a tensor without its data."""
    out = TensorProto()
    _copy_fields(out, tensor, _DATA_FIELDS)
    return out


def _copy_fields(target: Any, source: Any, left_out: Sequence[str]) -> None:
    """Copy every field that is set, except those of the names that are left out."""
    for field, value in source.ListFields():
        own = getattr(target, field.name)
        if field.name in left_out:
            continue
        if hasattr(own, "extend"):
            own.extend(value)
        elif hasattr(own, "CopyFrom"):
            own.CopyFrom(value)
        else:
            setattr(target, field.name, value)


def field_key(message: Any, field: str, length: int) -> bytes:
    """Encode the key and the length of a field in protobuf's wire format (type 2)."""
    out = bytearray()
    for value in (message.DESCRIPTOR.fields_by_name[field].number << 3 | 2, length):
        rest = value
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)
