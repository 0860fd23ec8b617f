"""Engines of TensorRT and TensorRT for RTX, through Polygraphy. They need an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from lccl.errors import UserError, first_line
from lccl.files import require_file
from lccl.run.base import Array


def gpu_missing() -> str | None:
    """Why no engine can run here, as the driver tells; None where one can."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        found = False
    return None if found else "no NVIDIA GPU here"


class TensorRTRunner:
    """A serialized engine.

    Args:
        engine: its file.
        backend: "tensorrt" or "tensorrt-rtx", whichever built it.
        prepare: called before the engine is loaded: registers the plugin that it needs.
    """

    def __init__(self, engine: str | Path, backend: str, prepare: Callable[[], None] | None = None) -> None:
        self._engine, self.name, self._prepare = require_file(engine), backend, prepare
        self.device = "GPU"
        self._runner: Any = None

    def __enter__(self) -> Self:
        reason = gpu_missing()
        if reason:
            raise UserError(f"{self._engine} cannot run: {reason}")
        if self.name == "tensorrt-rtx":
            os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
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

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._runner.infer(dict(feed), check_inputs=False, copy_outputs_to_host=True)
        return {name: value.copy() for name, value in outputs.items()}
