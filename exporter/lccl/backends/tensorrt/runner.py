"""Engines of TensorRT and TensorRT for RTX, through Polygraphy. They need an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from lccl.backends.batch_ranges import common_batches
from lccl.backends.gpus import gpus
from lccl.backends.interface import Batches
from lccl.errors import UserError, first_line
from lccl.errors.requires import how_to_install, needing
from lccl.files import require_file
from lccl.graph.batch_axes import BatchAxes, Dims, find_batch_axes
from lccl.numerics import Array

_VARIABLE = "POLYGRAPHY_USE_TENSORRT_RTX"
NO_META_PACKAGE = (
    f"running its engines takes the module tensorrt_rtx, of which only the bindings are here: {how_to_install('tensorrt_rtx')}"
)


def gpu_missing() -> str | None:
    """Say why no engine can run here, by asking the driver; None where one can."""
    return None if gpu_name() is not None else "no NVIDIA GPU here"


def gpu_name() -> str | None:
    """The first GPU's name, by asking the driver; None where there is no GPU."""
    return next((gpu.name for gpu in gpus()), None)


@contextlib.contextmanager
def _polygraphy_for(backend: str) -> Iterator[None]:
    """Let Polygraphy, imported within the block, take that backend's module.

    It keeps it for the whole process.

    Raises:
        UserError: it took the other one's before, or the module is not there.
    """
    config: Any = sys.modules.get("polygraphy.config")
    wanted = backend == "tensorrt-rtx"
    if config is not None and wanted != config.USE_TENSORRT_RTX:
        if "polygraphy.backend.trt" in sys.modules:
            raise UserError("engines of tensorrt and of tensorrt-rtx cannot run in one process: compare them one at a time")
        config.USE_TENSORRT_RTX = wanted
    if wanted and importlib.util.find_spec("tensorrt_rtx") is None:
        raise UserError(NO_META_PACKAGE)
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(int(wanted))
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


class TensorRTRunner:
    """A serialized engine.

    Args:
        engine: its file.
        backend: "tensorrt" or "tensorrt-rtx", whichever built it.
        prepare: called before the engine is loaded: registers the plugin that it needs.
    """

    def __init__(self, engine: str | Path, backend: str, prepare: Callable[[], None] | None = None) -> None:
        self._engine, self.name, self._prepare = require_file(engine), backend, prepare
        self.device = gpu_name() or "GPU"
        self._runner: Any = None

    def __enter__(self) -> Self:
        reason = gpu_missing()
        if reason:
            raise UserError(f"{self._engine} cannot run: {reason}")
        with _polygraphy_for(self.name), needing("running an engine"):
            from polygraphy.backend.common import BytesFromPath
            from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        if self._prepare is not None:
            self._prepare()
        self._runner = TrtRunner(EngineFromBytes(BytesFromPath(str(self._engine))))
        try:
            self._runner.activate()
        except Exception as error:
            raise UserError(f"{self._engine} cannot be loaded: {first_line(error)}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.deactivate()
            self._runner = None

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self._runner.get_input_metadata())

    @property
    def axes(self) -> BatchAxes:
        """Where the batch stands in the engine's inputs and outputs."""
        outputs = {name: self._shape(name) for name in self._output_names()}
        return find_batch_axes(self._dims(), outputs)

    @property
    def batches(self) -> Batches:
        """The batches of the inputs' shapes, or of the first profile where these are dynamic."""
        axes = self.axes.inputs
        return common_batches([self._batches_of(name, axis) for name, axis in axes.items() if axis is not None])

    def _batches_of(self, name: str, axis: int) -> Batches:
        fixed = self._shape(name)[axis]
        if fixed >= 0:
            return Batches(fixed, fixed)
        least, _, most = self._runner.engine.get_tensor_profile_shape(name, 0)
        return Batches(least[axis], most[axis])

    def _dims(self) -> dict[str, Dims]:
        """The inputs' sizes. An engine has no names of sizes: those of one range count as one."""
        return {name: self._dims_of(name) for name in self.input_names}

    def _dims_of(self, name: str) -> Dims:
        shape = self._shape(name)
        if min(shape, default=0) >= 0:
            return shape
        ranges = zip(*self._runner.engine.get_tensor_profile_shape(name, 0), strict=True)
        return [size if size >= 0 else "..".join(map(str, limits)) for size, limits in zip(shape, ranges, strict=True)]

    def _output_names(self) -> tuple[str, ...]:
        engine = self._runner.engine
        names = (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
        return tuple(name for name in names if name not in self.input_names)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._runner.engine.get_tensor_shape(name))

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            outputs = self._runner.infer(dict(feed), check_inputs=False, copy_outputs_to_host=True)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
            raise UserError(f"{self._engine} cannot run on inputs of shape {shapes}: {first_line(error)}") from error
        return {name: value.copy() for name, value in outputs.items()}
