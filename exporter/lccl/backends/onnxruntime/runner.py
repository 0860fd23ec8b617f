"""The runner of ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import onnx

from lccl.backends.batch_ranges import common_batches_of
from lccl.backends.interface import Batches
from lccl.backends.onnxruntime.opening import label_of, one_line, open_session, register_library
from lccl.errors import UserError
from lccl.files.external import weight_file
from lccl.files.weights import trim_memory
from lccl.graph.batch_axes import BatchAxes, find_batch_axes
from lccl.numerics import Array

PLAIN, WITH_LIBRARY = "onnxruntime", "onnxruntime-lccl"
"""The runner's name without and with a library of custom ops."""


class OnnxRuntimeRunner:
    """Runs an ONNX model in ONNX Runtime.

    Args:
        model: a file, or a model in memory.
        threads: threads of one inference; with 1, several runners in one process do not disturb
            each other's times.
        optimize: whether ONNX Runtime optimizes the graph.
        library: a library of custom ops; None: their nodes run through their function bodies.
        profile: the beginning of the name of a file, into which ONNX Runtime writes the time of
            each node; :meth:`end_profile` ends it.
    """

    device = "CPU"

    def __init__(
        self,
        model: str | Path | onnx.ModelProto,
        threads: int = 1,
        optimize: bool = True,
        library: str | Path | None = None,
        profile: Path | None = None,
    ) -> None:
        self._profile = profile
        self._model, self._threads, self._optimize, self._library = model, threads, optimize, library
        self.name = PLAIN if library is None else WITH_LIBRARY
        self._session: Any = None
        self._outputs: list[str] = []
        self.input_names: tuple[str, ...] = ()
        self.batches = Batches()
        self.axes = BatchAxes()

    def __enter__(self) -> Self:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not self._optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._library is not None:
            register_library(options, self._library)
        if self._profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._profile)
        self._session = open_session(self._model, options)
        inputs = {value.name: value.shape for value in self._session.get_inputs()}
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        self._outputs, self.input_names = list(outputs), tuple(inputs)
        self.axes = find_batch_axes(inputs, outputs)
        self.batches = common_batches_of(inputs, self.axes.inputs)
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        if isinstance(self._model, onnx.ModelProto) and weight_file(self._model) is not None:
            trim_memory()

    def end_profile(self) -> Path:
        """End the profile and return its file, in JSON."""
        return Path(self._session.end_profiling())

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on inputs by name and return its outputs by name.

        Raises:
            UserError: the inputs do not fit the model.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(feed)), strict=True))
        except Exception as error:
            raise UserError(
                self._misfit(feed) or f"ONNX Runtime cannot run {label_of(self._model)} on these inputs: {one_line(error)}"
            ) from error

    def _misfit(self, feed: Mapping[str, Array]) -> str:
        """Say which input is missing, or of a shape that the model does not take; empty if none."""
        for value in self._session.get_inputs():
            given = feed.get(value.name)
            if given is None:
                return f"{label_of(self._model)} needs an input {value.name}, which was not given"
            sizes = zip(value.shape, given.shape, strict=False)
            if len(value.shape) != given.ndim or any(isinstance(d, int) and d > 0 and d != s for d, s in sizes):
                takes = ", ".join(str(d or "?") for d in value.shape)
                return f"input {value.name} is {list(given.shape)}, but {label_of(self._model)} takes [{takes}]"
        return ""
