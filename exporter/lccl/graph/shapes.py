"""Shapes of all tensors at two sizes of the inputs: dynamic shapes as plain numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from lccl.graph.constants import stored_shape, value_of
from lccl.graph.shape_values import Propagated, propagated
from lccl.numerics import Array

Shape = tuple[int, ...]
PROBES = ({0: 2, 1: 128, 2: 64, 3: 96}, {0: 3, 1: 96, 2: 160, 3: 128})
"""Size of a dynamic axis by its place. Heights and widths are multiples of 32, which networks with
skips ask for."""
_OTHER = 192
"""Size of a dynamic axis at another place."""
_STEPS = {0: 1}
"""By which the size of a second symbol at a place is larger, so that no two are equal by chance; 32
for a place not listed."""
FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
"""Element types of the op's feature maps."""


@dataclass(frozen=True)
class Sizes:
    """The results of shape inference at each probe."""

    tables: tuple[dict[str, Shape], ...]
    types: dict[str, int]
    """Tensor -> ONNX's number of its element type, if it is known."""
    constant: dict[str, tuple[int | None, ...]]
    """Tensor -> its shape at every size of the network's inputs; None for an axis that depends on
    these, or may."""
    values: tuple[dict[str, Array], ...] = ()
    """Small tensors that are computed from shapes -> their values, at each probe."""

    def fixed(self, tensor: gs.Tensor) -> tuple[int | None, ...]:
        """Return the shape that holds at every size of the network's inputs.

        It has None for an axis that may change, and is empty if the rank is not known.
        """
        return stored_shape(tensor) or self.constant.get(tensor.name, ())

    def of(self, tensor: gs.Tensor) -> tuple[Shape, ...] | None:
        """Return the tensor's shape at each probe, or None if one is not known in full."""
        stored = stored_shape(tensor)
        if stored is not None:
            return (stored,) * len(self.tables)
        found = tuple(table.get(tensor.name) for table in self.tables)
        return None if None in found else found  # type: ignore[return-value]

    def value(self, tensor: gs.Tensor, probe: int) -> Array | None:
        """Return the values of a tensor that is stored, or computed from shapes; else None."""
        stored = value_of(tensor)
        if stored is not None or probe >= len(self.values):
            return stored
        return self.values[probe].get(tensor.name)

    def with_tensor(self, name: str, like: gs.Tensor, kind: int) -> Sizes:
        """Return the sizes with a new tensor, which has another one's shape.

        Args:
            kind: ONNX's number of its element type.
        """
        shapes = self.of(like)
        tables = tuple(t | {name: s} for t, s in zip(self.tables, shapes, strict=True)) if shapes is not None else self.tables
        return Sizes(tables, self.types | {name: kind}, self.constant | {name: self.fixed(like)}, self.values)


def sizes_of(skeleton: onnx.ModelProto) -> Sizes:
    """Infer the shapes of a model, which is best given without its large weights."""
    types = {v.name: v.type.tensor_type.elem_type for v in skeleton.graph.value_info if v.type.tensor_type.elem_type}
    tables: list[dict[str, Shape]] = []
    values: list[dict[str, Array]] = []
    for probe in PROBES:
        model, fixed = _at(skeleton, probe)
        if tables and fixed:
            tables, values = tables * 2, values * 2
            break
        inferred = _inferred(model)
        types |= {v.name: v.type.tensor_type.elem_type for v in _values(inferred) if v.type.tensor_type.elem_type}
        found = propagated(inferred)
        tables.append({name: dims for name, dims in found.shapes.items() if None not in dims})  # type: ignore[misc]
        values.append({name: known.values for name, known in found.values.items() if known.whole})
    return Sizes(tuple(tables), types, of_every_size(skeleton).shapes, tuple(values))


def of_every_size(skeleton: onnx.ModelProto) -> Propagated:
    """Return what holds at every size of the model's inputs, of its shapes and of sizes in it.

    Shapes that the model states of what it computes are not read: they may be of one example.
    """
    plain = _copy(skeleton)
    _forget(plain)
    return propagated(_inferred(plain))


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    with contextlib.suppress(onnx.shape_inference.InferenceError, RuntimeError):
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    return model


def _at(model: onnx.ModelProto, probe: Mapping[int, int]) -> tuple[onnx.ModelProto, bool]:
    """Return the model with a number for each dynamic size, and whether it has no such size."""
    out = _copy(model)
    named: dict[str, int] = {}
    fixed = True
    for value in out.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            fixed = False
            name = dim.dim_param or f"{value.name}[{axis}]"
            if name not in named:
                named[name] = _unused(axis, probe, named.values())
            dim.dim_value = named[name]
    if not fixed:
        _forget(out)
    return out, fixed


def _unused(axis: int, probe: Mapping[int, int], taken: Collection[int]) -> int:
    """Return a size that no other symbol has: symbols of other names need not be equal."""
    size = probe.get(axis, _OTHER)
    while size in taken:
        size += _STEPS.get(axis, 32)
    return size


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    return out


def _forget(model: onnx.ModelProto) -> None:
    """Remove the shapes that the model states.

    They are symbols, which would contradict the numbers, or the shapes of one example.
    """
    del model.graph.value_info[:]
    given = {v.name for v in model.graph.input} | {t.name for t in model.graph.initializer}
    # An input that is returned as it is has its shape from the input.
    made = [v for v in model.graph.output if v.name not in given]
    del model.graph.output[:]
    model.graph.output.extend(made)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.value_info, *model.graph.output]
