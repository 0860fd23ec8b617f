"""Values for inputs of a model: random ones, and the shapes that they may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from lccl.errors import UserError
from lccl.graph.batch_axes import dims_of, is_dynamic
from lccl.graph.index_ranges import index_limits
from lccl.graph.inputs import batch_axes, input_types
from lccl.numerics import Array

Feed = dict[str, Array]


def random_feed(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 0) -> dict[str, Array]:
    """Return random inputs.

    Floats are standard normal, and half of the bool values are set. Images of small integers
    (int8, unsigned) have values of the whole range of their type, unless they have one channel:
    half of what may be a mask is 0, a quarter 1, and a quarter any value. Integers that are indices
    choose from what is there. Other integers are 0.

    Args:
        shapes: the inputs' shapes by name; without one, a dynamic batch is 2 and any other dynamic
            size 32.
        seed: the seed of the random values.
    """
    generator = np.random.default_rng(seed)
    axes, limits = batch_axes(model).inputs, index_limits(model)
    feed = {}
    for name, kind in input_types(model).items():
        sizes = enumerate(dims_of(kind))
        default = tuple((2 if axis == axes[name] else 32) if is_dynamic(d) else int(d or 0) for axis, d in sizes)
        feed[name] = _random(generator, kind.elem_type, (shapes or {}).get(name, default), limits.get(name))
    return feed


def _random(generator: np.random.Generator, element: int, dims: tuple[int, ...], limit: int | None) -> Array:
    """Return random values of one input.

    Args:
        limit: how many entries the input chooses from, if it is an index.
    """
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    if dtype.kind == "f" or element == onnx.TensorProto.BFLOAT16:
        return np.asarray(generator.standard_normal(dims)).astype(dtype)
    if element == onnx.TensorProto.BOOL:
        return np.asarray(generator.random(dims) < 0.5)
    if dtype.kind not in "iu" or (limit is None and dtype.kind == "i" and not (dtype == np.int8 and len(dims) == 4)):
        return np.zeros(dims, dtype)
    if limit is not None:
        return np.asarray(generator.integers(0, min(limit, np.iinfo(dtype).max + 1), dims)).astype(dtype)
    whole = np.asarray(generator.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, dims, dtype, endpoint=True))
    if len(dims) == 4 and 1 not in (dims[1], dims[3]):
        return whole
    part = generator.random(dims)
    return np.asarray(np.select([part < 0.5, part < 0.75], [np.zeros_like(whole), np.ones_like(whole)], whole))


def few_samples(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs with as few samples as the model takes: 1, or its batch."""
    axes, shapes = batch_axes(model).inputs, {}
    for name, kind in input_types(model).items():
        given, dims, axis = inputs[name].shape, dims_of(kind), axes[name]
        fixed = [1 if is_dynamic(size) else int(size or 0) for size in dims]
        shapes[name] = tuple(fixed[i] if i == axis and i < len(fixed) else size for i, size in enumerate(given))
    return shapes


def require_shape(name: str, shape: Sequence[int], kind: onnx.TypeProto.Tensor, any_size: int | None = None) -> None:
    """Check that the model takes an input of this shape.

    Args:
        any_size: an axis that may have another size: that of the batch, which can be taken in
            parts.

    Raises:
        UserError: another rank or size.
    """
    dims = dims_of(kind)
    others = [(d, s) for axis, (d, s) in enumerate(zip(dims, shape, strict=False)) if axis != any_size]
    if len(shape) != len(dims) or any(not is_dynamic(d) and d != s for d, s in others):
        wanted = ["?" if d is None or d == "" else d for d in dims]
        raise UserError(f"input {name} is {list(shape)}, but the model takes {wanted}")
