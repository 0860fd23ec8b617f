"""An ONNX model as the source of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.console.text import count
from lccl.errors import UserError
from lccl.exporting.source import Reference
from lccl.graph.feeds import random_feed, require_shape
from lccl.graph.inputs import input_types
from lccl.graph.intake import intake
from lccl.graph.variants.open_gates import with_open_gates
from lccl.graph.variants.relaxed import with_relaxed_gates
from lccl.graph.variants.runnable import runnable
from lccl.graph.variants.upcast import upcast
from lccl.numerics import Array

if TYPE_CHECKING:
    from lccl.nn.gate import GateMode


class OnnxSource:
    """An ONNX model as it was given, in float32 where it is of bfloat16.

    It runs without ONNX Runtime's optimization, which is no part of what it means: an error of that
    would otherwise be on both sides of a comparison.

    Args:
        model: the model.
        shapes: of random inputs, in the inputs' order; needed only where sizes besides the batch
            are dynamic.

    Raises:
        UserError: shapes that do not fit the inputs.
    """

    checks: tuple[GateMode, ...] = ("open", "relaxed")
    example_hw: tuple[tuple[int, ...], ...] | None = None

    def __init__(self, model: onnx.ModelProto, shapes: Sequence[Sequence[int]] = ()) -> None:
        self.metadata: dict[str, str] = {}
        self._given = model = intake(model)
        self.constants: dict[str, object] = {}
        self.trained_densities: dict[str, float] = {}
        self._runnable = upcast(runnable(model))
        wanted = input_types(model)
        if shapes and len(shapes) != len(wanted):
            raise UserError(
                f"the model has {count(len(wanted), 'input')} ({', '.join(wanted)}), but shapes for {len(shapes)} were given"
            )
        self._shapes = {name: tuple(shape) for name, shape in zip(wanted, shapes, strict=False)}
        for name, shape in self._shapes.items():
            require_shape(name, shape, wanted[name])

    @property
    def reference(self) -> Reference:
        """The model itself."""
        return self

    def to_onnx(self) -> onnx.ModelProto:
        return self._given

    def feeds(self, model: onnx.ModelProto) -> list[dict[str, Array]]:
        return [random_feed(upcast(model), self._shapes)]

    def infer(self, feed: Mapping[str, Array], gates: GateMode) -> list[Array]:
        changed = {"relaxed": with_relaxed_gates, "open": with_open_gates}.get(gates)
        model = changed(self._runnable) if changed is not None else self._runnable
        with OnnxRuntimeRunner(model, optimize=False) as runner:
            return list(infer_all(runner, feed).values())
