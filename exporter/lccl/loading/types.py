"""The types of what callers pass: networks, factories, data.

Importing this module loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import onnx
    from torch import nn


class SupportsArray(Protocol):
    """What NumPy can read as an array: an ndarray, a torch tensor."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


Network: TypeAlias = "nn.Module | onnx.ModelProto | str | Path"
"""A module, an ONNX model, or the path of a file of either."""

Factory: TypeAlias = "str | Callable[..., nn.Module]"
"""What builds a checkpoint's network: "pkg.module:callable", or the callable."""

Inputs: TypeAlias = "SupportsArray | Mapping[str, SupportsArray]"
"""The inputs of a network: the only one, or each by its name."""

Batch: TypeAlias = "Inputs | tuple[Inputs, SupportsArray] | Sequence[SupportsArray]"
"""Inputs, or (inputs, labels)."""
