"""Calls to run under compute-sanitizer.

Small calls on every configuration, and calls with a fault that a tool has to see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from bench.gpu.common import reference64
from bench.gpu.forms import Bench, Form, fault
from lccl.backends.torch.cuda.calls import Prepared, image_view, launch, prepare
from lccl.backends.torch.cuda.interface import Layout
from lccl.errors import UserError

SANITIZED_FORMS = (
    Form(n=1, c=24, k=40, hw=(9, 11), gate="1x1", residual="in place", post="each", post_alpha=0.0),
    Form(n=1, c=13, k=9, hw=(7, 10), gate="kxk", strides=(2, 1)),
    Form(n=2, c=64, k=72, hw=(9, 9), gate="external", dtype=torch.bfloat16),
    Form(n=1, c=40, k=24, hw=(12, 10), gate="grid", grid=4, residual="own"),
    Form(n=1, c=16, k=16, hw=(12, 10), gate="external", grid=3, fill="one cell"),
    Form(n=1, c=5, k=7, hw=(8, 9), gate="kxk", dtype=torch.float32, layout=Layout.NCHW),
    Form(n=1, c=8, k=8, hw=(6, 6), gate="1x1", fill="all off"),
    Form(n=1, c=256, k=64, hw=(4, 4), gate="1x1", fill="all on"),
)
"""Small; the last one's reduction is split over blocks."""


def sanitized(bench: Bench, poison: bool, tell: Callable[[str], None] = print) -> int:
    """Each form once on each configuration, those that are bad last.

    Exit code 3 if a result is wrong, or nothing ran.

    Args:
        poison: fill outputs and workspaces first; not under initcheck, which looks for reads of
            memory nobody wrote.
    """
    wrong = calls = 0
    for form, of_bad in ((form, of_bad) for of_bad in (False, True) for form in SANITIZED_FORMS):
        inputs = form.inputs(torch.device("cpu"))
        reference = reference64(inputs, form.attributes())
        placed = {name: tensor.to(bench.place) for name, tensor in inputs.items()}
        dtype = str(form.dtype).removeprefix("torch.")
        for config in bench.configs(prepare(placed, form.attributes(), layout=form.layout)):
            if ((config.name, dtype) in bench.last) != of_bad:
                continue
            calls += 1
            call = bench.prepare(form, placed, poison=poison)
            space = bench.workspace(call, config) if poison else bench.own_workspace(call, config)
            launch(bench.library, bench.device, call, config.id, space)
            bench.wait()
            what = fault(form, reference, on_cpu(call))
            if what:
                wrong += 1
                tell(f"{config.name}: {what}: {form}")
    if not calls:
        tell("no configuration is left to look at")
    return 3 if wrong or not calls else 0


def on_cpu(call: Prepared) -> Prepared:
    """The call with its output on the CPU, where it is compared."""
    memory = call.memory.cpu()
    return replace(call, memory=memory, output=image_view(memory, tuple(call.output.shape), Layout(call.params.layout)))


def planted_fault(bench: Bench, tool: str) -> None:
    """Run one call with the fault that the tool is for.

    An output of half the bytes for memcheck, an X that nobody wrote for initcheck.

    Ends the process, with 0: the tool may have stopped the kernel and broken the context, in which
    nothing can be tidied up.
    """
    form = SANITIZED_FORMS[0]
    inputs = {name: tensor.to(bench.place) for name, tensor in form.inputs(torch.device("cpu")).items()}
    if tool == "initcheck":
        inputs["X"] = torch.empty(
            (form.n, 64, *form.hw), dtype=form.dtype, device=bench.place, memory_format=torch.channels_last
        )
        form = replace(form, c=64)
        others = form.inputs(torch.device("cpu"))
        inputs |= {name: others[name].to(bench.place) for name in ("W", "gate_W")}
    call = prepare(inputs, form.attributes())
    config = bench.configs(call)[0]
    short = torch.empty(call.memory.numel() // 2, dtype=call.memory.dtype, device=bench.place)
    if tool == "memcheck":
        call.params.y = short.data_ptr()
    try:
        launch(bench.library, bench.device, call, config.id, bench.own_workspace(call, config))
        bench.wait()
    except (RuntimeError, UserError) as error:
        print(f"the call ended with: {error}")
    sys.stdout.flush()
    os._exit(0)
