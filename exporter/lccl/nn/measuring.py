"""What layers cost in PyTorch on a device: the dense convolution, and the op at densities."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

import lccl.nn.conv  # noqa: F401 - it puts the kernels behind the op
from lccl.forms.costs import DENSITIES
from lccl.forms.layer_models import GateKind, LayerShape, areas, gate_attributes
from lccl.forms.measuring import ROUNDS, LayerTimer
from lccl.op.contract import grid_hw
from lccl.op.torch_op import call_op

Array = npt.NDArray[Any]
REPEATS = 10
"""Calls between two marks on a GPU: one alone is shorter than what a mark costs."""
WARM_UP = 3
Call = Callable[[], object]


def torch_timer(device: str, dtype: torch.dtype, batch: int, seconds: float) -> LayerTimer:
    """Return what times layers in PyTorch, channels last, gated ones by the op.

    Args:
        device: "cuda" or "cpu".
        dtype: of images and weights.
        batch: images of one inference.
        seconds: for each shape and kind of gate, about.
    """

    def timed(shape: LayerShape, gate: GateKind) -> Array:
        layer = _Layer(shape, gate, batch, device, dtype)
        calls: list[Call] = [layer.empty, layer.dense, layer.chained(layer.dense_of)]
        for density in DENSITIES:
            gated = layer.gated_of(density)
            calls += [lambda gated=gated: gated(layer.x), layer.chained(gated)]  # type: ignore[misc]
        flags = torch.backends.cudnn.flags(allow_tf32=False)  # type: ignore[no-untyped-call]
        with torch.inference_mode(), flags:  # the op's float32 is no TF32 either
            return 1e6 * _interleaved(calls, device, seconds)

    return timed


class _Layer:
    """One layer's tensors, and calls of its forms."""

    def __init__(self, shape: LayerShape, gate: GateKind, batch: int, device: str, dtype: torch.dtype) -> None:
        self._shape, self._gate, self._batch = shape, gate, batch
        generator = torch.Generator().manual_seed(0)

        def tensor(*sizes: int) -> Tensor:
            values = torch.randn(sizes, generator=generator) / math.sqrt(math.prod(sizes[1:]))
            return values.to(device, dtype)

        def channels_last(values: Tensor) -> Tensor:
            return values.contiguous(memory_format=torch.channels_last)

        k, c = shape.out_channels, shape.in_channels
        self.x = channels_last(tensor(batch, c, *shape.in_hw))
        self._weight = channels_last(tensor(k, c, *shape.kernel))
        self._front, self._back = (channels_last(tensor(n, n, 1, 1)) for n in (c, k))
        self._one = torch.zeros(1, 1, 1, 1, device=device, dtype=dtype)
        wide: Any = {"device": device, "dtype": torch.float32}
        self._constants = {
            "W": tensor(k, *shape.kernel, c),
            "B": torch.zeros(k, **wide),
            "gate_W": torch.full((1, *gate.kernel(shape), c), 1e-3, device=device, dtype=dtype),
            "gate_B": torch.full((1,), 10.0, **wide),
            "post_scale": torch.ones(1, **wide),
            "post_bias": torch.zeros(1, **wide),
        }

    def empty(self) -> Tensor:
        """Call something that does nothing."""
        return self._one.relu()

    def dense(self) -> Tensor:
        """Call the dense layer."""
        return self.dense_of(self.x)

    def dense_of(self, x: Tensor) -> Tensor:
        """Compute the dense layer of a tensor."""
        top, left, bottom, right = self._shape.pads
        even = (top, left) == (bottom, right)
        padded = x if even else F.pad(x, (left, right, top, bottom))
        padding = (top, left) if even else 0
        return F.conv2d(padded, self._weight, None, self._shape.strides, padding, self._shape.dilations).relu()

    def gated_of(self, density: float) -> Callable[[Tensor], Tensor]:
        """Return the gated layer, of a tensor, at a density."""
        hw = grid_hw(self._shape.out_hw, self._gate.grid)
        maps = np.stack([areas(hw, density, seed)[None] for seed in range(self._batch)])
        mask = torch.from_numpy(maps).to(self.x)
        attributes = gate_attributes(self._shape, self._gate, density)
        return lambda x: call_op(x, self._constants, attributes, mask, self._one)

    def chained(self, layer: Callable[[Tensor], Tensor]) -> Call:
        """Return a call of a layer between two pointwise convolutions."""
        return lambda: F.conv2d(layer(F.conv2d(self.x, self._front).relu()), self._back).relu()


def _interleaved(calls: Sequence[Call], device: str, seconds: float) -> Array:
    """Return seconds [calls, rounds], each round of all calls in turn."""
    took = _on_gpu if device != "cpu" else _on_cpu
    for call in calls:
        for _ in range(WARM_UP):
            took(call)
    rows: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    for done in range(ROUNDS):
        for place in range(len(calls)):
            i = (place + done) % len(calls)
            rows[i].append(took(calls[i]))
        if done >= WARM_UP and time.perf_counter() > end:
            break
    return np.array(rows)


def _on_cpu(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _on_gpu(call: Call) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(REPEATS):
        call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3 / REPEATS
