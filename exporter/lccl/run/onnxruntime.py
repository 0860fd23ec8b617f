"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import onnx

from lccl.errors import UserError
from lccl.numerics import Array
from lccl.run.base import Batches, common_batches


class OnnxRuntimeRunner:
    """An ONNX model in ONNX Runtime; LCCLConv runs through its model-local function.

    Args:
        model: a file, or a model in memory.
        threads: of one inference; 1 keeps measurements side by side in one process apart.
        optimize: ONNX Runtime's graph optimisations.
    """

    name = "onnxruntime"
    device = "CPU"

    def __init__(self, model: str | Path | onnx.ModelProto, threads: int = 1, optimize: bool = True) -> None:
        self._model, self._threads, self._optimize = model, threads, optimize
        self._session: Any = None

    def __enter__(self) -> Self:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not self._optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = self._model.SerializeToString() if isinstance(self._model, onnx.ModelProto) else str(self._model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"ONNX Runtime cannot load {self._what}: {_one_line(error)}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(i.name for i in self._session.get_inputs())

    @property
    def batches(self) -> Batches:
        first = [i.shape[0] for i in self._session.get_inputs() if i.shape]
        return common_batches([Batches(size, size) for size in first if isinstance(size, int)])

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        names = [o.name for o in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, dict(feed)), strict=True))
        except Exception as error:
            raise UserError(f"ONNX Runtime cannot run {self._what} on these inputs: {_one_line(error)}") from error

    @property
    def _what(self) -> str:
        return "the model" if isinstance(self._model, onnx.ModelProto) else str(self._model)


def _one_line(error: BaseException) -> str:
    """ONNX Runtime's message, whose reason is often on its second line, without its code."""
    return " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")[:400]
