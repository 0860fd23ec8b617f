"""The part of the GPU check with tensors of more than 2^31 elements.

An offset of 32 bits would lead elsewhere.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.gpu.common import reference64
from bench.gpu.forms import Bench, Faults, Form, fault
from bench.gpu.results import outcome
from lccl.backends.torch.cuda.calls import launch, prepare
from lccl.backends.torch.cuda.library import Config

_POINTWISE: dict[str, Any] = {"kernel": (1, 1), "pads": (0, 0, 0, 0), "integers": True, "gate_max": 2.0}
FORMS = (
    Form(n=2, hw=(4096, 4200), gate="1x1", **_POINTWISE),
    Form(n=2, hw=(4096, 4200), gate="grid", grid=8, residual="in place", **_POINTWISE),
)
"""x and y of 64 channels have 2^31 elements before the last 202 rows. The height is a multiple of
the grid."""
ROWS = 16
"""First and last ones that are compared: a multiple of the grid."""
NEEDED = 16 * 2**30
"""Bytes of free device memory: three tensors of 4.4 GB, and what the kernels and the float64
reference take."""


def offsets(bench: Bench, deadline: float, forms: tuple[Form, ...] = FORMS) -> dict[str, Any]:
    """The first and the last rows of the largest tensors, exactly, on every configuration."""
    if bench.place.type == "cuda":
        free = torch.cuda.mem_get_info(bench.place)[0]
        if free < NEEDED:
            return outcome("skipped", f"the GPU has {free / 2**30:.1f} GiB free, and this takes {NEEDED / 2**30:.0f}")
    faults = Faults(bench)
    done, complete = 0, True
    for form in forms:
        inputs = large_inputs(form, bench.place)
        wanted = [(band, reference64(_rows(inputs, band), form.attributes())) for band in bands(form)]
        for config in bench.configs(prepare(inputs, form.attributes())):
            if time.monotonic() > deadline:
                complete = False
                break
            done += 1
            faults += _check(bench, form, inputs, config, wanted)
    words = f"{done} calls with tensors of {max(f.n * f.c * f.hw[0] * f.hw[1] for f in forms)} elements"
    return outcome("failed" if faults else "passed" if complete else "partial", words, faults, calls=done)


def large_inputs(form: Form, device: torch.device) -> dict[str, Tensor]:
    """The form's inputs, with X and the residual drawn in place.

    There is no room for another copy.
    """
    inputs = replace(form, n=1, hw=(form.grid, form.grid)).inputs(device)
    generator = torch.Generator(device).manual_seed(form.seed)
    inputs["X"] = _drawn((form.n, form.c, *form.hw), 2, form.dtype, generator)
    if form.residual != "none":
        inputs["residual"] = _drawn((form.n, form.k, *form.hw), 5, form.dtype, generator)
    return inputs


def _drawn(shape: tuple[int, ...], most: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    memory = torch.empty(shape, dtype=dtype, device=generator.device, memory_format=torch.channels_last)
    for image in memory:
        image.random_(-most, most + 1, generator=generator)
    return memory


Band = tuple[slice, slice]
"""Images and rows."""


def bands(form: Form) -> tuple[Band, Band]:
    """The first and the last rows of x, which with a kernel of 1x1 are those of y."""
    return (slice(0, 1), slice(0, ROWS)), (slice(form.n - 1, form.n), slice(form.hw[0] - ROWS, form.hw[0]))


def _rows(inputs: dict[str, Tensor], band: Band) -> dict[str, Tensor]:
    images, rows = band
    large = {name: t for name, t in inputs.items() if name == "X" or (name == "residual" and t.shape[1] > 1)}
    return inputs | {name: t[images, :, rows] for name, t in large.items()}


def _check(bench: Bench, form: Form, inputs: dict[str, Tensor], config: Config, wanted: list[tuple[Band, Any]]) -> list[str]:
    call = bench.prepare(form, inputs)
    with bench.item(config.name, form):
        launch(bench.library, bench.device, call, config.id, bench.own_workspace(call, config))
        bench.wait()
    faults = []
    for (images, rows), reference in wanted:
        part = replace(call, memory=call.memory[images, rows], output=call.output[images, :, rows])
        what = fault(form, reference, part)
        if what:
            faults.append(f"{config.name}: rows {rows.start} to {rows.stop} of image {images.start}: {what}: {form}")
    return faults
