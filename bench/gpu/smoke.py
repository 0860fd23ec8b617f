"""The first calls on a GPU: each configuration, type and form of the op, a few small calls each.

What to think of them.

A call is right, wrong, a crash (a signal, an exit, a CUDA error), a hang, or refused by the kernels
with a reason.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.gpu.results import Record, of_kind, outcome

if TYPE_CHECKING:
    from bench.gpu.forms import Bench, Form

RIGHT, WRONG, CRASH, HANG, REFUSED, NOT_RUN = "right", "wrong", "crash", "hang", "refused", "not run"
WORST_FIRST = (CRASH, HANG, WRONG, RIGHT, REFUSED)
BAD = (CRASH, HANG, WRONG)
BROKEN_CONTEXT = 7
"""Exit code of a process that can use the GPU no more."""


# ---- what was found; no PyTorch ------------------------------------------------------------------


def verdicts(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """(configuration, type) -> the worst of its calls' verdicts."""
    found: dict[tuple[str, str], str] = {}
    for record in of_kind(records, "item"):
        if record.get("step") != "smoke":
            continue
        key = (record["config"], record["dtype"])
        found[key] = min((record["verdict"], found.get(key, REFUSED)), key=WORST_FIRST.index)
    return found


def counts(found: dict[tuple[str, str], str]) -> str:
    """Such as "12 right, 1 hang"."""
    number = Counter(found.values())
    return (
        ", ".join(f"{number[verdict]} {verdict}" for verdict in (RIGHT, *reversed(BAD), REFUSED) if number[verdict])
        or "none ran"
    )


def bad(found: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
    """What later steps leave out."""
    return {key for key, verdict in found.items() if verdict in BAD}


# ---- the calls -----------------------------------------------------------------------------------


def smoke_forms(small: bool) -> tuple[Form, ...]:
    """The forms of the first calls.

    Args:
        small: for the emulated machine, on which many tiles take minutes.
    """
    from bench.gpu.forms import Form

    many = {"n": 2, "hw": (20, 20), "k": 64} if small else {"n": 12, "hw": (80, 80), "k": 128}
    return (
        Form(n=2, c=16, k=16, hw=(9, 11), gate="1x1"),
        Form(n=1, c=13, k=9, hw=(9, 10), gate="kxk", strides=(2, 1)),
        Form(n=1, c=24, k=40, hw=(9, 11), gate="external", residual="in place", post="each", post_alpha=0.0),
        Form(n=1, c=40, k=24, hw=(13, 10), gate="grid", grid=4, residual="in place", post="each", post_alpha=0.5),
        Form(n=2, c=16, k=72, hw=(17, 12), gate="external", grid=8, residual="own"),
        Form(n=1, c=256, k=64, hw=(4, 4), gate="1x1", fill="all on"),
        Form(n=1, c=8, k=8, hw=(9, 9), gate="1x1", fill="all off", post="each"),
        Form(c=32, gate="external", integers=True, gate_max=2.0, **many),
        Form(c=32, gate="external", grid=8, integers=True, gate_max=2.0, **many),
    )


def smoke(bench: Bench, deadline: float, *, first: int = 0, small: bool = False) -> dict[str, Any]:
    """Calls, type by type, configuration by configuration.

    Args:
        first: number of the (type, configuration) to begin with.
    """
    import torch

    from bench.gpu.forms import DTYPES
    from lccl.backends.torch.cuda.interface import Layout

    forms = smoke_forms(small)
    groups = [(dtype, config) for dtype in DTYPES for config in bench.library.configs_for(bench.device)]
    ready = _Ready()
    wrong = 0
    for number, (dtype, config) in enumerate(groups):
        if number < first or (config.name, str(dtype).removeprefix("torch.")) in bench.without:
            continue
        for i, form in enumerate(forms):
            if time.monotonic() > deadline:
                return outcome("partial", f"{number} of {len(groups)} configurations and types before the time was up")
            layout = Layout.NCHW if dtype == torch.float32 and i % 2 else Layout.NHWC
            verdict = _one(bench, replace(form, dtype=dtype, layout=layout), config, number + 1, ready)
            wrong += verdict == WRONG
            if verdict == CRASH:
                break
    return outcome(
        "failed" if wrong else "passed", f"{len(groups)} configurations and types, {len(forms)} forms", complete=True
    )


class _Ready:
    """Inputs, references and plans of one type, on the CPU, where no kernel writes."""

    def __init__(self) -> None:
        self._dtype: Any = None
        self._made: dict[Form, Any] = {}

    def of(self, form: Form) -> Any:
        import torch

        from bench.gpu.common import reference64
        from lccl.backends.torch.cuda.calls import prepare

        if form.dtype != self._dtype:
            self._dtype, self._made = form.dtype, {}
        if form not in self._made:
            inputs = form.inputs(torch.device("cpu"))
            plan = prepare(inputs, form.attributes(), layout=form.layout).params
            self._made[form] = (inputs, reference64(inputs, form.attributes()), plan)
        return self._made[form]


def _one(bench: Bench, form: Form, config: Any, resume: int, ready: _Ready) -> str:
    from bench.gpu.forms import fault
    from bench.gpu.sanitized import on_cpu

    inputs, reference, plan = ready.of(form)
    support = bench.library.supported(plan, bench.device, config.id)
    name = str(form.dtype).removeprefix("torch.")
    if not support:
        message = {"config": config.name, "dtype": name, "verdict": REFUSED, "form": str(form), "words": support.reason}
        bench.tell(event="record", kind="item", **message)
        return REFUSED
    bench.tell(event="begin", config=config.name, dtype=name, form=str(form), resume=resume)
    began = time.monotonic()
    try:
        placed = {key: tensor.to(bench.place) for key, tensor in inputs.items()}
        call, differs = bench.calls_twice(form, placed, config)
        what = differs or fault(form, reference, on_cpu(call))
    except Exception as error:  # of CUDA, whatever PyTorch calls it
        words = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        leaving = _is_broken(bench)
        bench.tell(event="end", verdict=CRASH, words=words[:500], leaving=leaving)
        bench.tell(event="fault", words=f"{config.name} {name}: crash: {words[:300]}: {form}")
        if leaving:
            os._exit(BROKEN_CONTEXT)  # nothing can be tidied up in such a context
        return CRASH
    verdict = WRONG if what else RIGHT
    bench.tell(event="end", verdict=verdict, words=what, seconds=round(time.monotonic() - began, 3))
    if what:
        bench.tell(event="fault", words=f"{config.name} {name}: {what}: {form}")
    return verdict


def _is_broken(bench: Bench) -> bool:
    """Whether the process can use the device no more."""
    import torch

    try:
        torch.ones(1, device=bench.place).add_(1)
        bench.wait()
    except Exception:
        return True
    return False
