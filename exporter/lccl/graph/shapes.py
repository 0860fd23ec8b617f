"""Shapes of every tensor at two sizes of the model's inputs, so that dynamic shapes can be compared as plain numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from lccl.graph.surgery import stored_shape

Shape = tuple[int, ...]
PROBES = ({0: 2, 2: 64, 3: 96}, {0: 3, 2: 160, 3: 128})
"""Size of a dynamic axis, by its place. Heights and widths are multiples of 32, which networks with skips ask for."""
_OTHER = 8
"""Of a dynamic axis at another place."""


FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
"""Of the op's feature maps."""


@dataclass(frozen=True)
class Sizes:
    """What shape inference says at each probe."""

    tables: tuple[Mapping[str, Shape], ...]
    types: Mapping[str, int]
    """Tensor -> ONNX's number of its element type, as far as known."""

    def of(self, tensor: gs.Tensor) -> tuple[Shape, ...] | None:
        """The tensor's shape at each probe; None where one is not known in full."""
        stored = stored_shape(tensor)
        if stored is not None:
            return (stored,) * len(self.tables)
        found = tuple(table.get(tensor.name) for table in self.tables)
        return None if None in found else found  # type: ignore[return-value]


def sizes_of(skeleton: onnx.ModelProto) -> Sizes:
    """Infers the shapes of a model, best given without its large weights."""
    types = {v.name: v.type.tensor_type.elem_type for v in skeleton.graph.value_info if v.type.tensor_type.elem_type}
    tables: list[dict[str, Shape]] = []
    for probe in PROBES:
        model, fixed = _at(skeleton, probe)
        if tables and fixed:
            tables.append(tables[0])
            break
        with contextlib.suppress(onnx.shape_inference.InferenceError, RuntimeError):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        tables.append(_table(model, types))
    return Sizes(tuple(tables), types)


def _at(model: onnx.ModelProto, probe: Mapping[int, int]) -> tuple[onnx.ModelProto, bool]:
    """The model with its inputs' dynamic sizes filled in, and whether it has none."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    named: dict[str, int] = {}
    fixed = True
    for value in out.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            fixed = False
            size = probe.get(axis, _OTHER)
            dim.dim_value = named.setdefault(dim.dim_param, size) if dim.dim_param else size
    if not fixed:
        _forget(out)
    return out, fixed


def _forget(model: onnx.ModelProto) -> None:
    """Shapes that are written in the model as symbols, which would stand against the numbers."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _table(model: onnx.ModelProto, types: dict[str, int]) -> dict[str, Shape]:
    shapes = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type:
            types[value.name] = kind.elem_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes
