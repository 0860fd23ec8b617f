"""What every runtime offers: a runner, and a builder of engines where it has engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from lccl.console.progress import Progress

if TYPE_CHECKING:
    import onnx

    from lccl.graph.batch_axes import BatchAxes
    from lccl.numerics import Array

# ---- running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batches:
    """How many samples one inference takes.

    ``least`` and ``most`` are the same where the batch is fixed.
    """

    least: int = 1
    most: int | None = None
    """None: no limit."""

    def __contains__(self, size: int) -> bool:
        return self.least <= size and (self.most is None or size <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"{self.least} or more"
        return str(self.most) if self.least == self.most else f"{self.least} to {self.most}"


class Runner(Protocol):
    """A network in one runtime. Resources live within the with-block.

    ``infer`` takes arrays by input name and returns arrays by output name; it returns when the work
    is done. ``axes`` tells where their samples stand.
    """

    name: str
    """The runtime's name: "torch", "onnxruntime", "onnxruntime-lccl", "tensorrt",
    "tensorrt-rtx"."""
    device: str

    @property
    def input_names(self) -> tuple[str, ...]: ...

    @property
    def batches(self) -> Batches: ...

    @property
    def axes(self) -> BatchAxes: ...

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


# ---- building ------------------------------------------------------------------------------------

BACKEND_NAMES = ("tensorrt", "tensorrt-rtx")
"""The builders of engines, in the order in which one is chosen where none is named."""

FORMS_BACKEND = "onnxruntime"
"""What is built is the model itself, with its layers in the forms that are the fastest."""

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class BuildRequest:
    """A canonical model in its final precision, and the builder's options."""

    model: onnx.ModelProto
    min_shapes: Shapes
    opt_shapes: Shapes
    max_shapes: Shapes
    workspace: int | None
    """MiB."""
    timing_cache: Path | None
    compute_capabilities: tuple[str, ...]
    plugin: bool
    plugin_library: Path | None
    alias_residual: bool
    tf32: bool
    verbose: bool


@dataclass(frozen=True)
class OptimizationProfile:
    """The range of shapes of one input that the engine takes."""

    input: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class LayerPath:
    """How one layer of the ONNX model went into the engine."""

    name: str
    op: str
    path: str
    """"plugin", "plugin, residual in place", "inlined" (LCCLConv in standard ops, every pixel
    computed) or "native"."""


@dataclass(frozen=True)
class Built:
    """A serialized engine and what its side-car tells."""

    engine: bytes
    version: str
    profiles: tuple[OptimizationProfile, ...]
    targets: tuple[str, ...]
    """Compute capabilities; empty: the builder's default, or the GPU present."""
    layers: tuple[LayerPath, ...]
    plugin: Path | None = None
    """The plugin library that the engine needs, if it needs one."""


class Backend(Protocol):
    """A builder of engines."""

    name: str

    def unavailable(self) -> str | None:
        """Say why the backend cannot be used here and what to install; None if it can be used."""

    def build(self, request: BuildRequest, progress: Progress) -> Built:
        """Build the engine.

        Raises:
            UserError: an option that this backend does not have, or a failed build with the
                builder's reason.
        """
