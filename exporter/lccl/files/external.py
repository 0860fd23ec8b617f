"""Tensors whose data may lie in an open file of weights: which file, their values, their bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from lccl.files.weights import WeightFile

PLAIN_TYPES: Mapping[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.BOOL: np.dtype(np.bool_),
}
"""Types whose elements take whole bytes, one after the other; a weight of another type stays in its
model."""
open_files: dict[str, WeightFile] = {}
"""Open files by name, to which the location of a tensor refers. The names are random, so that no
other model has one."""


def file_of(tensor: TensorProto) -> WeightFile | None:
    """Return the open file that holds the tensor's data; None if there is none."""
    return next((open_files.get(e.value) for e in tensor.external_data if e.key == "location"), None)


def weight_file(model: onnx.ModelProto) -> WeightFile | None:
    """Return the open file that holds weights of the model; None if there is none."""
    return next(filter(None, map(file_of, model.graph.initializer)), None)


def array(tensor: TensorProto) -> NDArray[Any]:
    """Return a tensor's values, read-only, from the model or from an open file."""
    file = file_of(tensor)
    if file is None:
        values: NDArray[Any] = numpy_helper.to_array(tensor)
        return values
    place = {e.key: e.value for e in tensor.external_data}
    return file.map(place, PLAIN_TYPES[tensor.data_type], tuple(tensor.dims))


def as_bytes(values: NDArray[Any]) -> NDArray[Any]:
    """View the values as bytes; copy them if they are not contiguous."""
    flat: NDArray[Any] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return flat


def outside_bytes(tensor: TensorProto) -> int:
    """Return how many bytes of the tensor are in a file."""
    return 0 if file_of(tensor) is None else bytes_of(tensor)


def bytes_of(tensor: TensorProto) -> int:
    return int(math.prod(tensor.dims) * PLAIN_TYPES[tensor.data_type].itemsize)
