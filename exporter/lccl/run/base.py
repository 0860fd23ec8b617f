"""What every runner offers."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FLOAT32 = np.dtype(np.float32)


class Runner(Protocol):
    """A network in one runtime. Resources live within the with-block.

    ``infer`` takes arrays by input name and returns arrays by output name; it returns when the work is done.
    """

    name: str
    """Of the runtime: "torch", "onnxruntime", "tensorrt", "tensorrt-rtx"."""
    device: str

    @property
    def input_names(self) -> tuple[str, ...]: ...

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
