"""Ceilings of this GPU, so that a bad number explains itself.

Measured are memory, cuBLAS, cuDNN, launches, and our kernels one by one.

Each is a message of its own, and one that fails costs itself alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.gpu.common import Times, buffers_needed, capture, layer_inputs, mask, time_graphs
from bench.gpu.contest import Dense
from bench.gpu.forms import Bench
from bench.gpu.results import outcome
from bench.gpu.settings import Layer, Setting, layers_of
from lccl.backends.torch.cuda.calls import launch, new_workspace, prepare
from lccl.backends.torch.cuda.interface import CHANNEL_PAD, Family, Kernels
from lccl.errors import first_line

REPLAYS = 10
BUDGET_S = 0.7
KERNEL_GRIDS = (8, 1)
KERNEL_DENSITY = 0.35
CHAIN = 500
"""Empty kernels in a graph."""


class Meter:
    """Times on the device, or in a rehearsal on the CPU, where sizes are small."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.place = bench.place
        self.on_gpu = bench.place.type == "cuda"
        self.l2_bytes = 0
        if self.on_gpu:
            facts: Any = torch.cuda.get_device_properties(0)
            self.l2_bytes = int(facts.L2_cache_size)
            torch.backends.cudnn.benchmark = True

    def us(self, call: Callable[[int], Any], sets: int = 1) -> float:
        """Microseconds of one call, the median."""
        return self.times({"call": (call, sets)})["call"].median

    def times(self, calls: dict[str, tuple[Callable[[int], Any], int]]) -> dict[str, Times]:
        return time_graphs({name: capture(call, sets, self.place) for name, (call, sets) in calls.items()}, REPLAYS, BUDGET_S)


Ceiling = dict[str, Any]


def copy(meter: Meter) -> Ceiling:
    """Bytes read and written."""
    size = 2**31 if meter.on_gpu else 2**20
    source, target = (torch.ones(size, dtype=torch.uint8, device=meter.place) for _ in range(2))
    return {"value": 2 * size / meter.us(lambda _: target.copy_(source)) / 1e3, "unit": "GB/s"}


def fill(meter: Meter) -> Ceiling:
    """Bytes written."""
    size = 2**31 if meter.on_gpu else 2**20
    target = torch.ones(size, dtype=torch.uint8, device=meter.place)
    return {"value": size / meter.us(lambda _: target.zero_()) / 1e3, "unit": "GB/s"}


def matmul(dtype: torch.dtype) -> Callable[[Meter], Ceiling]:
    """cuBLAS on random numbers: zeros would need less power, and run at a higher clock."""

    def rate(meter: Meter) -> Ceiling:
        side = 8192 if meter.on_gpu else 64
        a, b = (torch.randn((side, side), dtype=dtype, device=meter.place) for _ in range(2))
        out = torch.empty_like(a)
        return {"value": 2.0 * side**3 / meter.us(lambda _: torch.mm(a, b, out=out)) / 1e6, "unit": "TFLOP/s"}

    return rate


def launch_gap(meter: Meter) -> Ceiling:
    """Of kernels that do next to nothing, one after the other in a graph."""
    x = torch.zeros(1, device=meter.place)

    def chain(_: int) -> Tensor:
        for _ in range(CHAIN):
            x.add_(1)
        return x

    return {"value": meter.us(chain) / CHAIN, "unit": "us"}


def cudnn(layer: Layer) -> Callable[[Meter], Ceiling]:
    """The dense layer: convolution, bias and ReLU in one call or two, whichever takes less."""

    def rate(meter: Meter) -> Ceiling:
        setting = Setting(layer, 1, "iid", True, 0.5)
        sets = _sets(meter, setting)
        dense = Dense(sets, setting.attributes()).calls()
        times = meter.times({name: (call, len(sets)) for name, call in dense.items() if name != "gated"})
        us = min(t.median for t in times.values())
        return {"value": layer.flops / us / 1e6, "unit": "TFLOP/s", "us": us, "layer": layer.name}

    return rate


def kernels(layer: Layer, grid: int) -> Callable[[Meter], Ceiling]:
    """Our kernels one by one, all of them, and all of them with every gate closed.

    With every gate closed the main kernel only fills.
    """

    def parts(meter: Meter) -> Ceiling:
        setting = Setting(layer, grid, "iid", False, KERNEL_DENSITY)
        bench = meter.bench
        sets = _sets(meter, setting)
        calls = [prepare(inputs, setting.attributes()) for inputs in sets]
        able = bench.configs(calls[0])
        configs = [c for c in able if c.family != Family.DENSE] or able
        if not configs:
            return {"value": None, "unit": "us", "words": "no configuration is left"}
        predicted = {c.id: bench.library.predict(calls[0].params, bench.device, c.id) or 0.0 for c in configs}
        config = min(configs, key=lambda c: predicted[c.id])
        size = bench.library.workspace(calls[0].params, bench.device, config.id)
        space = new_workspace(size, sets[0]["X"])

        def call(kernel: int) -> Callable[[int], Any]:
            def one(i: int) -> Any:
                calls[i].params.kernels = kernel
                try:
                    return launch(bench.library, bench.device, calls[i], config.id, space)
                finally:
                    calls[i].params.kernels = 0

            return one

        call(0)(0)  # leaves in the workspace what each kernel reads
        graphs = {"all": (call(0), len(sets))}
        ours = [kernel for kernel in Kernels if kernel != Kernels.PACK or layer.channels % CHANNEL_PAD]
        graphs |= {str(kernel.name).lower(): (call(int(kernel)), len(sets)) for kernel in ours}
        times = meter.times(graphs)
        for inputs in sets:
            inputs["gate_B"].fill_(-1e4)
        times |= meter.times({"closed": (call(0), len(sets))})
        us = {name: round(t.median, 3) for name, t in times.items()}
        return {
            "value": us["all"],
            "unit": "us",
            "us": us,
            "config": config.name,
            "predicted_us": predicted[config.id],
            "setting": setting.words,
            "call": setting.as_dict(),
        }

    return parts


def _sets(meter: Meter, setting: Setting) -> list[dict[str, Tensor]]:
    """Inputs as often as it takes to be larger than the L2 cache."""
    layer = setting.layer
    generator = torch.Generator(meter.place).manual_seed(0)
    cells = -(-layer.out_size // setting.grid)
    active = mask(layer.batch, (cells, cells), setting.density, setting.mask, generator)
    inputs = layer_inputs(layer, setting.grid, active, external=setting.external, dtype=torch.float16, generator=generator)
    count = buffers_needed(int(layer.bytes), meter.l2_bytes)
    return [inputs] + [{name: tensor.clone() for name, tensor in inputs.items()} for _ in range(count - 1)]


def all_ceilings(layers: Sequence[Layer]) -> dict[str, Callable[[Meter], Ceiling]]:
    """Name -> how it is measured, in this order."""
    packed = replace(layers[0], channels=layers[0].channels - 4)  # no multiple of 8: the weights are packed in each call
    return {
        "copy": copy,
        "fill": fill,
        "launch gap": launch_gap,
        "cuBLAS float16": matmul(torch.float16),
        "cuBLAS bfloat16": matmul(torch.bfloat16),
        **{f"cuDNN {layer.name}": cudnn(layer) for layer in layers},
        **{f"kernels {layer.name} G={grid}": kernels(layer, grid) for grid in KERNEL_GRIDS for layer in layers},
        f"kernels {packed.name} G=1": kernels(packed, 1),
    }


def ceilings(bench: Bench, until: float, *, first: int = 0, layers: Sequence[str] | None = None) -> dict[str, Any]:
    """All of them, until time.monotonic() is ``until``.

    Args:
        first: number of the one to begin with.
        layers: as the command line has them; None: the benchmark's quick ones.
    """
    meter = Meter(bench)
    todo = all_ceilings(layers_of(layers, True))
    faults: list[str] = []
    missing: list[str] = []
    for number, (name, measure) in enumerate(todo.items()):
        if number < first:
            continue
        if time.monotonic() > until:
            return outcome("partial", f"{number} of {len(todo)} before the time was up", faults)
        bench.tell(event="begin", config="", dtype="", form=name, resume=number + 1)
        try:
            found = measure(meter)
        except torch.cuda.OutOfMemoryError:
            found = {"value": None, "unit": "", "words": "out of device memory"}
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {first_line(error)}")
            bench.tell(event="fault", words=faults[-1])
            bench.wait()  # raises where the context is broken; a new process goes on with the next
            continue
        finally:
            if meter.on_gpu:
                torch.cuda.empty_cache()
        bench.tell(event="end")
        bench.tell(event="record", kind="ceiling", name=name, **found)
        missing += [name] if found["value"] is None else []
    words = f"{len(todo) - len(missing)} of {len(todo)} ceilings{': not ' if missing else ''}{', '.join(missing)}"
    return outcome("failed" if faults else "partial" if missing else "passed", words, faults)
