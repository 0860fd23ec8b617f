"""Measures the costs of a model's layers: each shape once, dense and gated, interleaved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.console.progress import Progress
from lccl.errors import UserError
from lccl.forms.costs import DENSITIES, CostTable, LayerCost, Machine
from lccl.forms.layer_models import GateKind, LayerShape, dense_model, empty_model, gated_model, layers_of
from lccl.forms.timing import interleaved
from lccl.graph.layouts.gateless import LARGEST_KERNEL
from lccl.numerics import Array

KINDS = ("1x1", "kxk")
ROUNDS = 40


LayerTimer = Callable[[LayerShape, GateKind], Array]
"""Times a layer: microseconds [3 + 2 * densities, rounds], of a call that does nothing, the dense
layer alone and between dense ones, then the same two of the gated layer at each density."""


def measure_costs(
    model: onnx.ModelProto,
    timer: LayerTimer,
    *,
    machine: Machine,
    kinds: Sequence[str] = KINDS,
    threads: int = 1,
    batch: int = 1,
    versions: dict[str, str],
    command: str,
    progress: Progress,
) -> CostTable:
    """Measure every layer of a model that has a gate or could have one.

    Args:
        model: with the shapes of its tensors, but for the batch.
        timer: what times a layer.
        machine: where it does.
        kinds: of gates: "1x1", "kxk", "grid:G".
        threads: of one inference.
        batch: images of one inference.
        versions: of what runs, for the table.
        command: that the table records.
        progress: called with each layer.

    Raises:
        UserError: no layer of the model can have a gate, or a kind of gate is not known.
    """
    gates = [_kind(text) for text in kinds]
    shapes: dict[LayerShape, str] = {}
    for name, shape in layers_of(model):
        if shape.in_hw != (1, 1) and max(shape.kernel) <= LARGEST_KERNEL and any(gate.fits(shape) for gate in gates):
            shapes.setdefault(shape, name)
    if not shapes:
        kinds_text = " or ".join(kinds)
        raise UserError(f"the model has no 2-D convolution of known size that has a {kinds_text} gate or could have one")
    layers = []
    for done, (shape, name) in enumerate(shapes.items()):
        progress(f"timing {name}", done, len(shapes))
        layers.append(_cost(name, shape, gates, timer))
    return CostTable(machine, threads, batch, versions, (command,), tuple(layers))


def onnxruntime_timer(threads: int, batch: int, seconds: float, library: Path) -> LayerTimer:
    """Return what times layers in ONNX Runtime on the CPU, gated ones by the op's library.

    Args:
        threads: of one inference.
        batch: images of one inference.
        seconds: for each shape and kind of gate, about.
        library: the op's.
    """

    def time(shape: LayerShape, gate: GateKind) -> Array:
        models = [
            empty_model(),
            *(dense_model(shape, batch, in_chain) for in_chain in (False, True)),
            *(gated_model(shape, gate, d, batch, in_chain) for d in DENSITIES for in_chain in (False, True)),
        ]
        runners = [OnnxRuntimeRunner(model, threads, library=library) for model, _ in models]
        return 1e6 * np.array(interleaved(runners, [feed for _, feed in models], ROUNDS, seconds))

    return time


def _kind(text: str) -> GateKind:
    grid = text.removeprefix("grid:")
    if text not in ("1x1", "kxk") and not (text.startswith("grid:") and grid.isdecimal() and 2 <= int(grid) <= 64):
        raise UserError(f'a kind of gate is "1x1", "kxk" or "grid:G" with G from 2 to 64, not {text}')
    return GateKind(text)


def _cost(name: str, shape: LayerShape, gates: Sequence[GateKind], timer: LayerTimer) -> LayerCost:
    alone: dict[str, dict[str, float]] = {}
    chained: dict[str, dict[str, float]] = {}
    dense: list[float] = []
    for gate in gates:
        if not gate.fits(shape):
            continue
        times = timer(shape, gate)
        alone_us, chain_us = times[1::2] - np.median(times[0]), times[2::2]
        by_itself = np.maximum(np.median(alone_us, axis=1), 0.1)
        longer = np.median(chain_us[1:] - chain_us[0], axis=1)
        dense.append(float(by_itself[0]))
        alone[gate.text] = {str(d): round(float(by_itself[1 + i]), 2) for i, d in enumerate(DENSITIES)}
        chained[gate.text] = {str(d): round(max(float(by_itself[0] + longer[i]), 0.1), 2) for i, d in enumerate(DENSITIES)}
    return LayerCost(
        name=name,
        kernel=shape.kernel,
        in_channels=shape.in_channels,
        out_channels=shape.out_channels,
        strides=shape.strides,
        out_hw=shape.out_hw,
        macs=shape.macs,
        dense_us=round(min(dense), 2),
        dilations=shape.dilations,
        gated_us=alone,
        chained_us=chained,
    )
