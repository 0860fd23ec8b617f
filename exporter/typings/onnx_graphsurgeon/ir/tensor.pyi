"""Tensors of onnx-graphsurgeon: the part that this project uses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx_graphsurgeon import Node

Array = npt.NDArray[Any]
ElementType = np.dtype[Any] | type[np.generic] | int
"""A NumPy type, or ONNX's own number if NumPy has none."""
Shape = Sequence[int | str]

class Tensor:
    name: str
    @property
    def inputs(self) -> list[Node]: ...
    @property
    def outputs(self) -> list[Node]: ...
    @property
    def shape(self) -> Shape | None: ...
    @property
    def dtype(self) -> ElementType | None: ...
    def is_empty(self) -> bool: ...

class Variable(Tensor):
    dtype: ElementType | None
    shape: Shape | None
    def __init__(self, name: str, dtype: ElementType | None = None, shape: Shape | None = None) -> None: ...

class LazyValues:
    tensor: onnx.TensorProto
    shape: list[int]
    dtype: ElementType
    def __init__(self, tensor: onnx.TensorProto) -> None: ...
    def load(self) -> Array: ...

class SparseValues(LazyValues): ...

class Constant(Tensor):
    values: Array
    _values: Array | LazyValues
    _export_dtype: ElementType | None
    def __init__(self, name: str, values: Array | LazyValues) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> ElementType: ...
