"""Inputs of a model: their types, and random values for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from lccl.errors import UserError
from lccl.numerics import Array

Feed = dict[str, Array]


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


def random_feed(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 0) -> dict[str, Array]:
    """Return random inputs.

    Floats are standard normal, half of the bool and unsigned values are set, and others are 0.

    Args:
        shapes: the inputs' shapes by name; without one, a dynamic first dimension is 2 and any
            other 32.
        seed: the seed of the random values.
    """
    generator = np.random.default_rng(seed)
    feed = {}
    for name, kind in input_types(model).items():
        default = [d.dim_value if d.HasField("dim_value") else 32 if axis else 2 for axis, d in enumerate(kind.shape.dim)]
        dims = (shapes or {}).get(name, default)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        is_float = kind.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        if kind.elem_type == onnx.TensorProto.BOOL:
            feed[name] = np.asarray(generator.random(dims) < 0.5)
        elif dtype.kind == "u":
            feed[name] = np.asarray(generator.integers(0, 2, dims)).astype(dtype)
        else:
            feed[name] = generator.standard_normal(dims).astype(dtype) if is_float else np.zeros(dims, dtype)
    return feed


def require_shape(name: str, shape: Sequence[int], kind: onnx.TypeProto.Tensor, any_batch: bool = False) -> None:
    """Check that the model takes an input of this shape.

    Raises:
        UserError: another rank or size; another batch too, unless ``any_batch``.
    """
    dims = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in kind.shape.dim]
    pairs = list(zip(dims, shape, strict=False))[int(any_batch) :]
    if len(shape) != len(dims) or any(isinstance(d, int) and d != s for d, s in pairs):
        raise UserError(f"input {name} is {list(shape)}, but the model takes {dims}")
